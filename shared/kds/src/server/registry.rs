//! Who holds which stream of which zone; two control planes that fight for one name.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::warn;

use super::{Caller, GlobalKds, lock};
use crate::FEATURE_PING_HEALTH;

/// Take-overs of a zone's name within a minute after which two control planes are told apart.
const TAKEOVERS: usize = 3;
const TAKEOVER_WINDOW: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct ZoneEntry {
    pub(super) last_heartbeat: Option<Instant>,
    pub(super) streams: HashMap<&'static str, LiveStream>,
    takeovers: VecDeque<Instant>,
    /// Who held the name before the take-overs began.
    first_holder: Option<String>,
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
        let mut registry = lock(&self.registry);
        let entry = registry.entry(caller.zone.clone()).or_default();
        entry.last_heartbeat.get_or_insert_with(Instant::now);
        entry.claim(caller)?;
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
    fn claim(&mut self, caller: &Caller) -> Result<(), Status> {
        let Some(instance) = &caller.instance else { return Ok(()) };
        let rival = self
            .streams
            .values()
            .find(|s| s.instance.as_ref().is_some_and(|i| i != instance) && !s.end.is_cancelled());
        let Some(rival) = rival else { return Ok(()) };
        let rival_instance = rival.instance.clone();
        while self.takeovers.front().is_some_and(|t| t.elapsed() > TAKEOVER_WINDOW) {
            self.takeovers.pop_front();
        }
        if self.takeovers.is_empty() {
            self.first_holder.clone_from(&rival_instance);
        }
        if self.takeovers.len() >= TAKEOVERS && self.first_holder.as_ref() != Some(instance) {
            let message = format!(
                "two control planes use zone name {:?}: {} holds it, {} is refused; \
                 give one of them another name",
                caller.zone,
                show(rival.address, rival_instance.as_deref()),
                show(caller.address, Some(instance)),
            );
            warn!(zone = caller.zone, "{message}");
            return Err(Status::failed_precondition(message));
        }
        self.takeovers.push_back(Instant::now());
        Ok(())
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
