//! What a control plane knows of zones' connections, kept in memory and flushed to ZoneInsight
//! objects when something changed (`spec/kds.md` 5). The global counts what it sends to its zones, a
//! zone what it sends to its global.
//!
//! Replicas of a global write the same objects. Each speaks for the connections to itself and leaves
//! the others' as they are stored; the order of the stored connections is that of their commits, so
//! no clocks are compared, and the last one is the one that counts.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sunbear_model::{Kind, ResourceKey, Spec};
use sunbear_proto::kuma::system::v1alpha1::{
    EnvoyAdminStreams, HealthCheck, KdsServiceStats, KdsStream, KdsStreams, KdsSubscription,
    KdsSubscriptionStatus, ZoneInsight,
};
use sunbear_store::{
    Batch, BatchMode, Change, ChangeError, Expect, Operation, OwnerRef, Snapshot, StatusChange,
    World,
};
use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{AUTHOR, node::PeerNode, sender::Seen};

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

/// What is known here and not stored yet, besides connections that last.
#[derive(Debug, Default)]
struct State {
    insight: ZoneInsight,
    dirty: bool,
}

/// The tracker; one per instance of a control plane.
pub struct ZoneInsights {
    world: World,
    instance_id: String,
    /// This control plane is the zone's end of the connections.
    on_zone: bool,
    zones: Mutex<BTreeMap<String, State>>,
    flush_now: Notify,
    /// The last write failed, and that was said.
    failing: AtomicBool,
    interval: Duration,
}

impl ZoneInsights {
    /// A tracker that writes through `world`, at most every `interval` when nothing connects or
    /// disconnects.
    pub fn new(world: World, instance_id: impl Into<String>, interval: Duration) -> Self {
        Self {
            world,
            instance_id: instance_id.into(),
            on_zone: false,
            zones: Mutex::default(),
            flush_now: Notify::new(),
            failing: AtomicBool::new(false),
            interval,
        }
    }

    /// The tracker of a zone, which knows of its own connection alone.
    pub fn of_zone(world: World, instance_id: impl Into<String>, interval: Duration) -> Self {
        Self { on_zone: true, ..Self::new(world, instance_id, interval) }
    }

    fn update(&self, zone: &str, change: impl FnOnce(&mut ZoneInsight)) {
        let mut zones = self.zones.lock().unwrap_or_else(PoisonError::into_inner);
        let state = zones.entry(zone.to_owned()).or_default();
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

    /// The first request came of a stream on which this end sends resources; earlier open
    /// subscriptions end.
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
        let (own, others) = (self.instance_id.clone(), peer.instance_id.clone());
        let (global, of_zone) = if self.on_zone { (others, own) } else { (own, others) };
        self.update(zone, |insight| {
            for open in &mut insight.subscriptions {
                open.disconnect_time.get_or_insert(now);
            }
            insight.subscriptions.push(KdsSubscription {
                id: id.to_owned(),
                global_instance_id: global,
                zone_instance_id: of_zone,
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
    fn count(&self, zone: &str, id: &str, type_url: &str, add: impl Fn(&mut KdsServiceStats)) {
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

    /// A response went out.
    pub fn sent(&self, zone: &str, id: &str, type_url: &str) {
        self.count(zone, id, type_url, |stats| stats.responses_sent += 1);
    }

    /// A request came; answers to responses are counted.
    pub fn answered(&self, zone: &str, id: &str, type_url: &str, seen: Seen) {
        match seen {
            Seen::Ack => self.count(zone, id, type_url, |stats| stats.responses_acknowledged += 1),
            Seen::Nack => self.count(zone, id, type_url, |stats| stats.responses_rejected += 1),
            Seen::Subscribed | Seen::Stale => {}
        }
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

    /// What all replicas know of a zone's connections, as far as this one has heard.
    pub(crate) fn current(&self, zone: &str) -> ZoneInsight {
        let snapshot = self.world.snapshot();
        let zones = self.zones.lock().unwrap_or_else(PoisonError::into_inner);
        let own = zones.get(zone).map(|state| &state.insight);
        merged(stored(&snapshot, zone), own.unwrap_or(&ZoneInsight::default()))
    }

    /// The instance of the global that a zone is connected to, as far as this one has heard.
    pub(crate) fn holder(&self, zone: &str) -> Option<String> {
        let last = self.current(zone).subscriptions.pop()?;
        last.disconnect_time.is_none().then_some(last.global_instance_id)
    }

    async fn flush(&self) {
        let own: Vec<(String, ZoneInsight)> = {
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
        if own.is_empty() {
            return;
        }
        let snapshot = self.world.snapshot();
        let changes = own.iter().map(|(zone, own)| change(&snapshot, zone, own)).collect();
        let batch = Batch {
            changes,
            author: AUTHOR.to_owned(),
            reason: "zone insight".to_owned(),
            mode: BatchMode::Independent,
            at: OffsetDateTime::now_utc(),
        };
        match self.world.commit(batch).await {
            Ok(committed) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    info!("zone insights are stored again");
                }
                for ((zone, own), result) in own.iter().zip(committed.results) {
                    match result {
                        Ok(_) => self.forget(zone, own),
                        // Another replica was faster.
                        Err(ChangeError::Conflict(_) | ChangeError::AlreadyExists(_)) => {
                            self.again(zone);
                        }
                        Err(error) => {
                            debug!(zone, %error, "zone insight not stored");
                            // Without its Zone there is nothing to keep it for.
                            self.zones.lock().unwrap_or_else(PoisonError::into_inner).remove(zone);
                        }
                    }
                }
            }
            Err(error) => {
                // Tried again every second, said once.
                if !self.failing.swap(true, Ordering::Relaxed) {
                    warn!(%error, "zone insights not stored, will be tried again");
                }
                own.iter().for_each(|(zone, _)| self.again(zone));
            }
        }
    }

    fn again(&self, zone: &str) {
        let mut zones = self.zones.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = zones.get_mut(zone) {
            state.dirty = true;
            self.flush_now.notify_one();
        }
    }

    /// Forgets what is stored now, so that it is not said again after others have said more.
    fn forget(&self, zone: &str, flushed: &ZoneInsight) {
        let mut zones = self.zones.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(State { insight, .. }) = zones.get_mut(zone) else { return };
        insight
            .subscriptions
            .retain(|own| own.disconnect_time.is_none() || !flushed.subscriptions.contains(own));
        if insight.kds_streams == flushed.kds_streams {
            insight.kds_streams = None;
            insight.envoy_admin_streams = None;
        }
    }
}

fn stored<'a>(snapshot: &'a Snapshot, zone: &str) -> Option<&'a ZoneInsight> {
    snapshot.get(&ResourceKey::new(Kind::ZONE_INSIGHT, "", zone))?.as_zone_insight()
}

fn change(snapshot: &Snapshot, zone: &str, own: &ZoneInsight) -> Change {
    let key = ResourceKey::new(Kind::ZONE_INSIGHT, "", zone);
    let expect = match snapshot.get(&key) {
        Some(resource) => Expect::Version(resource.version),
        None => Expect::Absent,
    };
    let insight = merged(stored(snapshot, zone), own);
    Change {
        op: Operation::Put {
            spec: Spec::from_message(Kind::ZONE_INSIGHT, &insight),
            labels: BTreeMap::new(),
            status: StatusChange::Keep,
            owner: OwnerRef::Key(ResourceKey::new(Kind::ZONE, "", zone)),
            expect,
        },
        key,
    }
}

/// What is stored with what is known here. The last connection ends those before it.
fn merged(stored: Option<&ZoneInsight>, own: &ZoneInsight) -> ZoneInsight {
    let mut all = stored.cloned().unwrap_or_default();
    for subscription in &own.subscriptions {
        match all.subscriptions.iter_mut().find(|known| known.id == subscription.id) {
            Some(known) => {
                // Another replica may have ended it, of which this one hears by that alone.
                let ended = known.disconnect_time;
                known.clone_from(subscription);
                known.disconnect_time = known.disconnect_time.or(ended);
            }
            None => all.subscriptions.push(subscription.clone()),
        }
    }
    if let Some((last, earlier)) = all.subscriptions.split_last_mut() {
        for open in earlier {
            if open.disconnect_time.is_none() {
                open.disconnect_time = last.connect_time;
            }
        }
    }
    let excess = all.subscriptions.len().saturating_sub(SUBSCRIPTION_LIMIT);
    all.subscriptions.drain(..excess);
    if let Some(own) = &own.kds_streams {
        let streams = all.kds_streams.get_or_insert_with(KdsStreams::default);
        let newer = |all: &mut Option<KdsStream>, own: &Option<KdsStream>| {
            if own.is_some() {
                all.clone_from(own);
            }
        };
        newer(&mut streams.global_to_zone, &own.global_to_zone);
        newer(&mut streams.zone_to_global, &own.zone_to_global);
        newer(&mut streams.config_dump, &own.config_dump);
        newer(&mut streams.stats, &own.stats);
        newer(&mut streams.clusters, &own.clusters);
    }
    if let Some(own) = &own.envoy_admin_streams {
        let admin = all.envoy_admin_streams.get_or_insert_with(EnvoyAdminStreams::default);
        let newer = |all: &mut String, own: &String| {
            if !own.is_empty() {
                all.clone_from(own);
            }
        };
        newer(&mut admin.config_dump_global_instance_id, &own.config_dump_global_instance_id);
        newer(&mut admin.stats_global_instance_id, &own.stats_global_instance_id);
        newer(&mut admin.clusters_global_instance_id, &own.clusters_global_instance_id);
    }
    let time = |check: &HealthCheck| check.time.map(|time| (time.seconds, time.nanos));
    all.health_check = [all.health_check, own.health_check].into_iter().flatten().max_by_key(time);
    all
}

/// The connection that came after this one, if there is one and this one is known.
pub(crate) fn taken_over<'a>(insight: &'a ZoneInsight, id: &str) -> Option<&'a KdsSubscription> {
    insight.subscriptions.iter().find(|subscription| subscription.id == id)?;
    insight.subscriptions.last().filter(|last| last.id != id && last.disconnect_time.is_none())
}

/// How often an instance of a zone's control plane took the zone's name over from its rival, counted
/// over connections that lasted until `window` before `now`, in seconds since 1970, or longer. One
/// that had the name before the rival only takes back what is its own.
pub(crate) fn takeovers(
    insight: &ZoneInsight,
    instance: &str,
    rival: &str,
    now: i64,
    window: Duration,
) -> usize {
    let window = i64::try_from(window.as_secs()).unwrap_or(i64::MAX);
    let all = &insight.subscriptions;
    let first = all.iter().find(|s| [instance, rival].contains(&s.zone_instance_id.as_str()));
    if first.is_none_or(|first| first.zone_instance_id == instance) {
        return 0;
    }
    let is_recent = |s: &KdsSubscription| {
        s.disconnect_time.is_none_or(|end| now.saturating_sub(end.seconds) <= window)
    };
    all.windows(2)
        .filter(|pair| pair[0].zone_instance_id == rival && pair[1].zone_instance_id == instance)
        .filter(|pair| is_recent(&pair[1]))
        .count()
}

/// A time as messages carry it.
pub fn timestamp(at: OffsetDateTime) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.unix_timestamp(),
        nanos: i32::try_from(at.nanosecond()).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds, nanos: 0 })
    }

    /// `id` is `INSTANCE-NUMBER@REPLICA`.
    fn subscription(id: &str, connected: i64, ended: Option<i64>) -> KdsSubscription {
        let (zone, replica) = id.split_once('@').unwrap();
        KdsSubscription {
            id: id.to_owned(),
            zone_instance_id: zone.split_once('-').unwrap().0.to_owned(),
            global_instance_id: replica.to_owned(),
            connect_time: at(connected),
            disconnect_time: ended.and_then(at),
            ..KdsSubscription::default()
        }
    }

    fn insight(subscriptions: &[(&str, i64, Option<i64>)]) -> ZoneInsight {
        ZoneInsight {
            subscriptions: subscriptions
                .iter()
                .map(|(id, c, e)| subscription(id, *c, *e))
                .collect(),
            ..ZoneInsight::default()
        }
    }

    fn shape(insight: &ZoneInsight) -> Vec<(&str, Option<i64>)> {
        let all = insight.subscriptions.iter();
        all.map(|s| (s.id.as_str(), s.disconnect_time.map(|t| t.seconds))).collect()
    }

    #[test]
    fn a_replica_speaks_for_its_own_connections_alone() {
        // The zone went from replica 1, whose clock is ahead, to 2; then 1 notices.
        let stored = insight(&[("a-1@1", 900, None), ("a-2@2", 20, None)]);
        let own = insight(&[("a-1@1", 900, Some(960))]);
        let all = merged(Some(&stored), &own);
        assert_eq!(shape(&all), [("a-1@1", Some(960)), ("a-2@2", None)]);
        // It comes back.
        let own = insight(&[("a-3@1", 970, None)]);
        let all = merged(Some(&all), &own);
        assert_eq!(shape(&all), [("a-1@1", Some(960)), ("a-2@2", Some(970)), ("a-3@1", None)]);
        assert_eq!(merged(None, &own), own);
    }

    #[test]
    fn the_last_streams_win_and_what_is_unknown_stays() {
        let stream = |replica: &str| {
            Some(KdsStream { global_instance_id: replica.to_owned(), connect_time: at(1) })
        };
        let with = |global_to_zone, zone_to_global| ZoneInsight {
            kds_streams: Some(KdsStreams {
                global_to_zone,
                zone_to_global,
                ..KdsStreams::default()
            }),
            ..ZoneInsight::default()
        };
        let all = merged(Some(&with(stream("1"), stream("1"))), &with(stream("2"), None));
        assert_eq!(all, with(stream("2"), stream("1")));
        assert_eq!(merged(Some(&all), &ZoneInsight::default()), all);
    }

    #[test]
    fn a_connection_is_taken_over_by_a_later_one_that_is_open() {
        let both = insight(&[("a-1@1", 0, Some(5)), ("b-1@2", 5, None)]);
        assert_eq!(taken_over(&both, "a-1@1").unwrap().id, "b-1@2");
        assert_eq!(taken_over(&both, "b-1@2"), None);
        assert_eq!(taken_over(&both, "not-1@stored"), None);
        let ended = insight(&[("a-1@1", 0, Some(5)), ("b-1@2", 5, Some(6))]);
        assert_eq!(taken_over(&ended, "a-1@1"), None);
    }

    #[test]
    fn fights_are_counted_and_restarts_are_not() {
        let window = Duration::from_secs(60);
        let count = |insight: &ZoneInsight, instance, rival, now| {
            takeovers(insight, instance, rival, now, window)
        };
        let fight = insight(&[
            ("a-1@1", 0, Some(990)),
            ("b-1@2", 990, Some(991)),
            ("a-2@1", 991, Some(992)),
            ("b-2@2", 992, Some(993)),
            ("a-3@2", 993, None),
        ]);
        assert_eq!(count(&fight, "b", "a", 1_000), 2);
        assert_eq!(count(&fight, "a", "b", 1_000), 0, "it was there first");
        assert_eq!(count(&fight, "c", "a", 1_000), 0, "one that was not there yet");
        // What ended long ago is forgotten, but not who was first.
        assert_eq!(count(&fight, "b", "a", 1_052), 1);
        assert_eq!(count(&fight, "a", "b", 1_052), 0);
        let restarts = insight(&[
            ("a-1@1", 0, Some(990)),
            ("b-1@1", 990, Some(991)),
            ("c-1@2", 991, Some(992)),
            ("c-2@1", 992, None),
        ]);
        assert_eq!(count(&restarts, "c", "b", 1_000), 1);
        assert_eq!(count(&restarts, "d", "c", 1_000), 0);
    }
}
