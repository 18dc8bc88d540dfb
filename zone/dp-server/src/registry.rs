//! Which proxy has which stream, and which Dataplanes outlive theirs for a while
//! (`spec/dp-server.md` 9.3, 9.4).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use sunbear_xds::ResourceSet;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{proxy::ProxyKey, status::ProxyStatus};

/// All proxies that are here or have just left.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    proxies: Mutex<Proxies>,
    /// Woken when a proxy leaves.
    departures: Notify,
}

#[derive(Debug, Default)]
struct Proxies {
    next_stream: u64,
    entries: BTreeMap<ProxyKey, Entry>,
}

#[derive(Debug, Default)]
struct Entry {
    active: Option<Active>,
    /// When to take the resource away, if the proxy is not back by then.
    expires_at: Option<Instant>,
    /// Held while the resource is written, so that a removal and a return do not cross.
    writing: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug)]
struct Active {
    stream: u64,
    replaced: CancellationToken,
    status: Arc<Mutex<ProxyStatus>>,
    offered: Offered,
}

/// What a proxy is offered now; nothing before its first configuration.
pub(crate) type Offered = Arc<Mutex<Option<Arc<ResourceSet>>>>;

/// A stream's claim to be the one of its proxy.
#[derive(Debug)]
pub(crate) struct Seat {
    key: ProxyKey,
    stream: u64,
    /// Cancelled when a newer stream of the proxy has come.
    pub(crate) replaced: CancellationToken,
    offered: Offered,
}

impl Seat {
    /// The proxy is offered this from now on.
    pub(crate) fn offer(&self, resources: Arc<ResourceSet>) {
        *self.offered.lock().unwrap_or_else(PoisonError::into_inner) = Some(resources);
    }
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Proxies> {
        // Nothing panics while holding the lock.
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock under which the proxy's resource is written and its seat is taken. Give it back
    /// with [`Registry::done_writing`].
    pub(crate) fn writing(&self, key: &ProxyKey) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(&self.lock().entries.entry(key.clone()).or_default().writing)
    }

    /// Forgets a proxy that is neither here nor awaited.
    pub(crate) fn done_writing(&self, key: &ProxyKey, writing: Arc<tokio::sync::Mutex<()>>) {
        drop(writing);
        let mut proxies = self.lock();
        let idle = proxies.entries.get(key).is_some_and(|entry| {
            entry.active.is_none()
                && entry.expires_at.is_none()
                && Arc::strong_count(&entry.writing) == 1
        });
        if idle {
            proxies.entries.remove(key);
        }
    }

    /// Takes the seat of a proxy. A stream that had it is told that it was replaced; a pending
    /// removal is cancelled.
    pub(crate) fn take_seat(&self, key: &ProxyKey, status: Arc<Mutex<ProxyStatus>>) -> Seat {
        let mut proxies = self.lock();
        proxies.next_stream += 1;
        let stream = proxies.next_stream;
        let entry = proxies.entries.entry(key.clone()).or_default();
        let replaced = CancellationToken::new();
        let offered = Offered::default();
        let active =
            Active { stream, replaced: replaced.clone(), status, offered: Arc::clone(&offered) };
        if let Some(old) = entry.active.replace(active) {
            old.replaced.cancel();
        }
        entry.expires_at = None;
        Seat { key: key.clone(), stream, replaced, offered }
    }

    /// Gives up a seat, unless another stream has taken it. With a time, the proxy's resource
    /// goes away then.
    pub(crate) fn leave(&self, seat: &Seat, expires_at: Option<Instant>) {
        let mut proxies = self.lock();
        let Some(entry) = proxies.entries.get_mut(&seat.key) else { return };
        if entry.active.as_ref().is_none_or(|active| active.stream != seat.stream) {
            return;
        }
        entry.active = None;
        entry.expires_at = expires_at;
        if expires_at.is_some() {
            self.departures.notify_one();
        } else if Arc::strong_count(&entry.writing) == 1 {
            proxies.entries.remove(&seat.key);
        }
    }

    /// Waits for a proxy to leave.
    pub(crate) async fn departure(&self) {
        self.departures.notified().await;
    }

    /// The proxies whose time is over, and the time of the next one.
    pub(crate) fn expired(&self, now: Instant) -> (Vec<ProxyKey>, Option<Instant>) {
        let proxies = self.lock();
        let mut expired = Vec::new();
        let mut next = None;
        for (key, entry) in &proxies.entries {
            match entry.expires_at {
                Some(at) if at <= now => expired.push(key.clone()),
                Some(at) => next = Some(next.map_or(at, |next: Instant| next.min(at))),
                None => {}
            }
        }
        (expired, next)
    }

    /// Is the proxy's time still over? Asked again under the lock of [`Registry::writing`].
    pub(crate) fn is_expired(&self, key: &ProxyKey, now: Instant) -> bool {
        self.lock().entries.get(key).and_then(|entry| entry.expires_at).is_some_and(|at| at <= now)
    }

    /// The removal is done, or is to be tried again later.
    pub(crate) fn set_expiry(&self, key: &ProxyKey, expires_at: Option<Instant>) {
        if let Some(entry) = self.lock().entries.get_mut(key) {
            entry.expires_at = expires_at;
        }
    }

    /// What a connected proxy is offered.
    pub(crate) fn offered(&self, key: &ProxyKey) -> Option<Arc<ResourceSet>> {
        let offered = Arc::clone(&self.lock().entries.get(key)?.active.as_ref()?.offered);
        let resources = offered.lock().unwrap_or_else(PoisonError::into_inner);
        resources.clone()
    }

    /// How all connected proxies do.
    pub(crate) fn statuses(&self) -> Vec<ProxyStatus> {
        let proxies = self.lock();
        proxies
            .entries
            .values()
            .filter_map(|entry| entry.active.as_ref())
            .map(|active| active.status.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .collect()
    }
}
