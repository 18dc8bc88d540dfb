//! Who holds which stream of which zone; two control planes that fight for one name.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sunbear_proto::kuma::system::v1alpha1::ZoneInsight;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::warn;

use super::{Caller, GlobalKds, lock};
use crate::{FEATURE_PING_HEALTH, zone_insight};

/// How often a control plane may take over a zone's name within this time while another one has it.
/// One that was refused stays so until it has not asked for as long.
const TAKEOVERS: usize = 2;
const TAKEOVER_WINDOW: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct ZoneEntry {
    pub(super) last_heartbeat: Option<Instant>,
    pub(super) streams: HashMap<&'static str, LiveStream>,
    /// Instances that were told that another one has the name, and when.
    refused: HashMap<String, Instant>,
}

pub(super) struct LiveStream {
    id: u64,
    instance: Option<String>,
    address: Option<SocketAddr>,
    end: CancellationToken,
    reason: Arc<Mutex<Option<Status>>>,
}

/// A stream's place in the registry; gives it up when dropped.
pub(super) struct Registration {
    kds: Arc<GlobalKds>,
    zone: String,
    direction: &'static str,
    id: u64,
    pub(super) end: CancellationToken,
    pub(super) reason: Arc<Mutex<Option<Status>>>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut registry = lock(&self.kds.registry);
        if let Some(entry) = registry.get_mut(&self.zone)
            && entry.streams.get(self.direction).is_some_and(|s| s.id == self.id)
        {
            entry.streams.remove(self.direction);
        }
    }
}

impl GlobalKds {
    /// Enters a stream in the registry; the newest of a zone and direction wins, unless two
    /// control planes fight for one name.
    pub(super) fn register(
        self: &Arc<Self>,
        caller: &Caller,
        direction: &'static str,
    ) -> Result<Registration, Status> {
        let id = next_id();
        let end = self.cancelled.child_token();
        let reason = Arc::new(Mutex::new(None));
        let insight = self.insights.current(&caller.zone);
        let mut registry = lock(&self.registry);
        let entry = registry.entry(caller.zone.clone()).or_default();
        entry.last_heartbeat.get_or_insert_with(Instant::now);
        entry.claim(caller, &insight, &self.config.instance_id)?;
        if let Some(old) = entry.streams.insert(
            direction,
            LiveStream {
                id,
                instance: caller.instance.clone(),
                address: caller.address,
                end: end.clone(),
                reason: Arc::clone(&reason),
            },
        ) {
            *lock(&old.reason) = Some(Status::unavailable(format!(
                "another connection of zone {:?}, from {}, took over",
                caller.zone,
                show(caller.address, caller.instance.as_deref()),
            )));
            old.end.cancel();
        }
        Ok(Registration {
            kds: Arc::clone(self),
            zone: caller.zone.clone(),
            direction,
            id,
            end,
            reason,
        })
    }

    /// Ends what a zone has here: it is connected elsewhere.
    pub(super) fn end_streams(&self, zone: &str, message: &str) {
        let registry = lock(&self.registry);
        for stream in registry.get(zone).into_iter().flat_map(|entry| entry.streams.values()) {
            lock(&stream.reason).get_or_insert_with(|| Status::unavailable(message));
            stream.end.cancel();
        }
    }

    /// A stream that announced heartbeats ends when they stop.
    pub(super) async fn heartbeat_lost(&self, zone: &str, features: &BTreeSet<String>) {
        if !features.contains(FEATURE_PING_HEALTH) || self.config.health_timeout.is_zero() {
            return std::future::pending().await;
        }
        let opened = Instant::now();
        loop {
            let last = lock(&self.registry)
                .get(zone)
                .and_then(|e| e.last_heartbeat)
                .map_or(opened, |h| h.max(opened));
            match self.config.health_timeout.checked_sub(last.elapsed()) {
                Some(rest) if !rest.is_zero() => tokio::time::sleep(rest).await,
                _ => return,
            }
        }
    }
}

impl ZoneEntry {
    /// Refuses a control plane that fights with another one for the zone's name, here or at another
    /// replica.
    fn claim(
        &mut self,
        caller: &Caller,
        insight: &ZoneInsight,
        replica: &str,
    ) -> Result<(), Status> {
        let Some(instance) = &caller.instance else { return Ok(()) };
        let Some((rival, shown)) = self.rival(instance, insight, replica) else { return Ok(()) };
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let was_refused =
            self.refused.get(instance).is_some_and(|last| last.elapsed() <= TAKEOVER_WINDOW);
        if was_refused
            || zone_insight::takeovers(insight, instance, rival, now, TAKEOVER_WINDOW) >= TAKEOVERS
        {
            let message = format!(
                "two control planes use zone name {:?}: {shown} holds it, {} is refused; \
                 give one of them another name",
                caller.zone,
                show(caller.address, Some(instance)),
            );
            warn!(zone = caller.zone, "{message}");
            self.refused.retain(|_, last| last.elapsed() <= TAKEOVER_WINDOW);
            self.refused.insert(instance.clone(), Instant::now());
            return Err(Status::failed_precondition(message));
        }
        Ok(())
    }

    /// Another control plane that is connected under this name, and how to call it.
    fn rival<'a>(
        &'a self,
        instance: &str,
        insight: &'a ZoneInsight,
        replica: &str,
    ) -> Option<(&'a str, String)> {
        let here =
            self.streams.values().filter(|stream| !stream.end.is_cancelled()).find_map(|s| {
                let other = s.instance.as_deref().filter(|other| *other != instance)?;
                Some((other, show(s.address, Some(other))))
            });
        here.or_else(|| {
            let last = insight.subscriptions.last()?;
            let other = last.zone_instance_id.as_str();
            let elsewhere = last.disconnect_time.is_none() && last.global_instance_id != replica;
            (elsewhere && other != instance)
                .then(|| (other, format!("{other} at replica {}", last.global_instance_id)))
        })
    }
}

pub(super) fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn show(address: Option<SocketAddr>, instance: Option<&str>) -> String {
    let address = address.map_or_else(|| "an unknown address".to_owned(), |a| a.to_string());
    match instance {
        Some(instance) => format!("{address} ({instance})"),
        None => address,
    }
}
