//! What the global knows of its zones' connections, kept in memory and flushed to ZoneInsight
//! objects when something changed (`spec/kds.md` 5).

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use sunbear_model::{Kind, ResourceKey, Spec};
use sunbear_proto::kuma::system::v1alpha1::{
    EnvoyAdminStreams, HealthCheck, KdsServiceStats, KdsStream, KdsStreams, KdsSubscription,
    KdsSubscriptionStatus, ZoneInsight,
};
use sunbear_store::{Batch, BatchMode, Change, Expect, Operation, OwnerRef, StatusChange, World};
use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{AUTHOR, node::PeerNode};

/// Subscriptions kept per zone, newest last.
const SUBSCRIPTION_LIMIT: usize = 10;

/// Which stream of a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZoneStream {
    /// The zone receives resources.
    GlobalToZone,
    /// The zone sends resources.
    ZoneToGlobal,
    /// Configuration dumps.
    XdsConfigs,
    /// Statistics.
    Stats,
    /// Clusters.
    Clusters,
}

#[derive(Debug, Default)]
struct State {
    insight: ZoneInsight,
    dirty: bool,
}

/// The tracker; one per global instance.
pub struct ZoneInsights {
    world: World,
    instance_id: String,
    zones: Mutex<BTreeMap<String, State>>,
    flush_now: Notify,
    interval: Duration,
}

impl ZoneInsights {
    /// A tracker that writes through `world`, at most every `interval` when nothing connects or
    /// disconnects.
    pub fn new(world: World, instance_id: impl Into<String>, interval: Duration) -> Self {
        Self {
            world,
            instance_id: instance_id.into(),
            zones: Mutex::default(),
            flush_now: Notify::new(),
            interval,
        }
    }

    fn update(&self, zone: &str, change: impl FnOnce(&mut ZoneInsight)) {
        let mut zones = self.zones.lock().unwrap_or_else(PoisonError::into_inner);
        let state = zones.entry(zone.to_owned()).or_insert_with(|| State {
            insight: self
                .world
                .snapshot()
                .get(&ResourceKey::new(Kind::ZONE_INSIGHT, "", zone))
                .and_then(|r| r.as_zone_insight().cloned())
                .unwrap_or_default(),
            dirty: false,
        });
        change(&mut state.insight);
        state.dirty = true;
    }

    /// A stream opened.
    pub fn stream_opened(&self, zone: &str, which: ZoneStream) {
        let stream = KdsStream {
            global_instance_id: self.instance_id.clone(),
            connect_time: Some(timestamp(OffsetDateTime::now_utc())),
        };
        self.update(zone, |insight| {
            let streams = insight.kds_streams.get_or_insert_with(KdsStreams::default);
            // The older form of the same, which Kuma still writes and reads.
            let admin = insight.envoy_admin_streams.get_or_insert_with(EnvoyAdminStreams::default);
            match which {
                ZoneStream::GlobalToZone => streams.global_to_zone = Some(stream),
                ZoneStream::ZoneToGlobal => streams.zone_to_global = Some(stream),
                ZoneStream::XdsConfigs => {
                    admin.config_dump_global_instance_id.clone_from(&stream.global_instance_id);
                    streams.config_dump = Some(stream);
                }
                ZoneStream::Stats => {
                    admin.stats_global_instance_id.clone_from(&stream.global_instance_id);
                    streams.stats = Some(stream);
                }
                ZoneStream::Clusters => {
                    admin.clusters_global_instance_id.clone_from(&stream.global_instance_id);
                    streams.clusters = Some(stream);
                }
            }
        });
        self.flush_now.notify_one();
    }

    /// The first request of a `GlobalToZoneSync` stream came; earlier open subscriptions end.
    pub fn subscribed(
        &self,
        zone: &str,
        id: &str,
        peer: &PeerNode,
        our_version: &str,
        token: bool,
    ) {
        let now = timestamp(OffsetDateTime::now_utc());
        let mut version = peer.version.clone();
        if let Some(cp) = &mut version.kuma_cp {
            cp.kuma_cp_global_compatible = crate::node::compatible(&cp.version, our_version);
        }
        self.update(zone, |insight| {
            for open in &mut insight.subscriptions {
                open.disconnect_time.get_or_insert(now);
            }
            insight.subscriptions.push(KdsSubscription {
                id: id.to_owned(),
                global_instance_id: self.instance_id.clone(),
                zone_instance_id: peer.instance_id.clone(),
                connect_time: Some(now),
                status: Some(KdsSubscriptionStatus {
                    last_update_time: Some(now),
                    total: Some(KdsServiceStats::default()),
                    ..KdsSubscriptionStatus::default()
                }),
                version: Some(version),
                config: peer.config.clone(),
                auth_token_provided: token,
                ..KdsSubscription::default()
            });
            let excess = insight.subscriptions.len().saturating_sub(SUBSCRIPTION_LIMIT);
            insight.subscriptions.drain(..excess);
        });
        self.flush_now.notify_one();
    }

    /// Counts one response or answer of a subscription.
    pub fn count(&self, zone: &str, id: &str, type_url: &str, add: impl Fn(&mut KdsServiceStats)) {
        let now = timestamp(OffsetDateTime::now_utc());
        self.update(zone, |insight| {
            if let Some(s) = insight.subscriptions.iter_mut().rev().find(|s| s.id == id) {
                let status = s.status.get_or_insert_with(KdsSubscriptionStatus::default);
                status.last_update_time = Some(now);
                add(status.total.get_or_insert_with(KdsServiceStats::default));
                add(status.stat.entry(type_url.to_owned()).or_default());
            }
        });
    }

    /// A subscription ended.
    pub fn disconnected(&self, zone: &str, id: &str) {
        let now = timestamp(OffsetDateTime::now_utc());
        self.update(zone, |insight| {
            if let Some(s) = insight.subscriptions.iter_mut().rev().find(|s| s.id == id) {
                s.disconnect_time.get_or_insert(now);
            }
        });
        self.flush_now.notify_one();
    }

    /// A heartbeat came. Not worth a write of its own: an idle system writes nothing.
    pub fn health_checked(&self, zone: &str) {
        let now = timestamp(OffsetDateTime::now_utc());
        let mut zones = self.zones.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = zones.get_mut(zone) {
            state.insight.health_check = Some(HealthCheck { time: Some(now) });
        }
    }

    /// Flushes until cancelled, and once more then.
    pub async fn run(&self, cancelled: CancellationToken) {
        loop {
            tokio::select! {
                () = cancelled.cancelled() => break,
                () = self.flush_now.notified() => {}
                () = tokio::time::sleep(self.interval) => {}
            }
            self.flush().await;
            // A burst of connections costs one write each, not several.
            tokio::select! {
                () = cancelled.cancelled() => break,
                () = tokio::time::sleep(self.interval.min(Duration::from_secs(1))) => {}
            }
        }
        self.flush().await;
    }

    async fn flush(&self) {
        let dirty: Vec<(String, ZoneInsight)> = {
            let mut zones = self.zones.lock().unwrap_or_else(PoisonError::into_inner);
            zones
                .iter_mut()
                .filter(|(_, s)| s.dirty)
                .map(|(zone, s)| {
                    s.dirty = false;
                    (zone.clone(), s.insight.clone())
                })
                .collect()
        };
        if dirty.is_empty() {
            return;
        }
        let changes = dirty
            .iter()
            .map(|(zone, insight)| Change {
                key: ResourceKey::new(Kind::ZONE_INSIGHT, "", zone),
                op: Operation::Put {
                    spec: Spec::from_message(Kind::ZONE_INSIGHT, insight),
                    labels: BTreeMap::new(),
                    status: StatusChange::Keep,
                    owner: OwnerRef::Key(ResourceKey::new(Kind::ZONE, "", zone)),
                    expect: Expect::Any,
                },
            })
            .collect();
        let batch = Batch {
            changes,
            author: AUTHOR.to_owned(),
            reason: "zone insight".to_owned(),
            mode: BatchMode::Independent,
            at: OffsetDateTime::now_utc(),
        };
        match self.world.commit(batch).await {
            Ok(committed) => {
                for ((zone, _), result) in dirty.iter().zip(committed.results) {
                    if let Err(error) = result {
                        debug!(zone, %error, "zone insight not stored");
                        // Without its Zone there is nothing to keep it for.
                        self.zones.lock().unwrap_or_else(PoisonError::into_inner).remove(zone);
                    }
                }
            }
            Err(error) => {
                warn!(%error, "zone insights not stored, will be tried again");
                let mut zones = self.zones.lock().unwrap_or_else(PoisonError::into_inner);
                for (zone, _) in dirty {
                    if let Some(state) = zones.get_mut(&zone) {
                        state.dirty = true;
                    }
                }
            }
        }
    }
}

/// A time as messages carry it.
pub fn timestamp(at: OffsetDateTime) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.unix_timestamp(),
        nanos: i32::try_from(at.nanosecond()).unwrap_or(0),
    }
}
