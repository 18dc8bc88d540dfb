//! When a mesh may be written again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

/// Meshes that wait to be looked at, and those that were written too recently.
#[derive(Debug)]
pub(crate) struct Pace {
    interval: Duration,
    dirty: BTreeSet<Arc<str>>,
    /// Not before. Holds only times to come.
    blocked: BTreeMap<Arc<str>, Instant>,
}

impl Pace {
    pub(crate) fn new(interval: Duration) -> Self {
        Self { interval, dirty: BTreeSet::new(), blocked: BTreeMap::new() }
    }

    pub(crate) fn mark(&mut self, mesh: Arc<str>) {
        self.dirty.insert(mesh);
    }

    /// Takes the meshes whose time has come.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<Arc<str>> {
        self.blocked.retain(|_, until| *until > now);
        let (waiting, due): (BTreeSet<_>, BTreeSet<_>) =
            std::mem::take(&mut self.dirty).into_iter().partition(|m| self.blocked.contains_key(m));
        self.dirty = waiting;
        due.into_iter().collect()
    }

    /// The mesh was written.
    pub(crate) fn wrote(&mut self, mesh: &Arc<str>, now: Instant) {
        self.blocked.insert(Arc::clone(mesh), now + self.interval);
    }

    /// The mesh could not be written and waits for its next try.
    pub(crate) fn failed(&mut self, mesh: Arc<str>, now: Instant, pause: Duration) {
        self.blocked.insert(Arc::clone(&mesh), now + pause.max(self.interval));
        self.dirty.insert(mesh);
    }

    /// When [`Pace::take_due`] gives something next; none if nothing waits.
    pub(crate) fn next(&self, now: Instant) -> Option<Instant> {
        self.dirty.iter().map(|mesh| self.blocked.get(mesh).copied().unwrap_or(now)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mesh_is_due_once_per_interval() {
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut pace = Pace::new(second);
        assert_eq!(pace.next(start), None);
        pace.mark(Arc::clone(&a));
        pace.mark(Arc::clone(&a));
        assert_eq!(pace.next(start), Some(start));
        assert_eq!(pace.take_due(start), [Arc::clone(&a)]);
        assert_eq!(pace.take_due(start), []);
        // What was only looked at may be looked at again at once.
        pace.mark(Arc::clone(&a));
        assert_eq!(pace.take_due(start), [Arc::clone(&a)]);
        pace.wrote(&a, start);
        pace.mark(Arc::clone(&a));
        assert_eq!(pace.take_due(start), []);
        assert_eq!(pace.next(start), Some(start + second));
        pace.mark(Arc::clone(&b));
        assert_eq!(pace.next(start), Some(start));
        assert_eq!(pace.take_due(start + second / 2), [Arc::clone(&b)]);
        assert_eq!(pace.take_due(start + second), [Arc::clone(&a)]);
        pace.failed(Arc::clone(&b), start, 5 * second);
        assert_eq!(pace.next(start), Some(start + 5 * second));
        assert_eq!(pace.take_due(start + 5 * second), [b]);
        assert_eq!(pace.next(start), None);
    }
}
