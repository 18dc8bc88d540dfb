//! The last changes, for subscribers that are a little behind.

use std::{collections::VecDeque, sync::Arc};

use sunbear_model::ResourceKey;

use crate::change::Revision;

/// Sets of changed keys, oldest first, bounded in sets and in keys.
#[derive(Debug)]
pub(super) struct Ring {
    sets: VecDeque<Set>,
    keys: usize,
    max_sets: usize,
    max_keys: usize,
    /// Every change after this revision is in the ring.
    floor: Revision,
}

#[derive(Debug)]
struct Set {
    /// The revision after the changes.
    to: Revision,
    keys: Arc<[ResourceKey]>,
}

impl Ring {
    pub(super) fn new(floor: Revision, max_sets: usize, max_keys: usize) -> Self {
        Self { sets: VecDeque::new(), keys: 0, max_sets, max_keys, floor }
    }

    pub(super) fn push(&mut self, to: Revision, keys: Arc<[ResourceKey]>) {
        self.keys += keys.len();
        self.sets.push_back(Set { to, keys });
        while self.sets.len() > self.max_sets || self.keys > self.max_keys {
            let Some(set) = self.sets.pop_front() else { break };
            self.keys -= set.keys.len();
            self.floor = set.to;
        }
    }

    /// Forgets everything: whoever is not at `floor` must start anew.
    pub(super) fn clear(&mut self, floor: Revision) {
        self.sets.clear();
        self.keys = 0;
        self.floor = floor;
    }

    /// The keys that changed after `revision`, sorted; None if that is too long ago.
    pub(super) fn since(&self, revision: Revision) -> Option<Arc<[ResourceKey]>> {
        if revision < self.floor {
            return None;
        }
        let first = self.sets.partition_point(|set| set.to <= revision);
        let mut sets = self.sets.range(first..);
        match (sets.next(), sets.next()) {
            (None, _) => Some(Arc::from([])),
            (Some(only), None) => Some(Arc::clone(&only.keys)),
            (Some(_), Some(_)) => {
                let mut keys: Vec<ResourceKey> =
                    self.sets.range(first..).flat_map(|set| set.keys.iter().cloned()).collect();
                keys.sort_unstable();
                keys.dedup();
                Some(keys.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sunbear_model::Kind;

    use super::*;

    fn keys(names: &[&str]) -> Arc<[ResourceKey]> {
        names.iter().map(|n| ResourceKey::new(Kind::MESH, "", n)).collect()
    }

    #[test]
    fn merges_what_was_missed_and_forgets_the_oldest() {
        let mut ring = Ring::new(10, 3, 5);
        ring.push(12, keys(&["a", "b"]));
        ring.push(13, keys(&["b"]));
        assert_eq!(ring.since(9), None);
        assert_eq!(ring.since(10), Some(keys(&["a", "b"])));
        assert_eq!(ring.since(12), Some(keys(&["b"])));
        assert_eq!(ring.since(13), Some(keys(&[])));
        ring.push(14, keys(&["c"]));
        ring.push(15, keys(&["d"]));
        assert_eq!(ring.since(10), None);
        assert_eq!(ring.since(12), Some(keys(&["b", "c", "d"])));
        ring.push(20, keys(&["1", "2", "3", "4"]));
        assert_eq!(ring.since(13), None);
        assert_eq!(ring.since(14), Some(keys(&["1", "2", "3", "4", "d"])));
        ring.push(30, keys(&["1", "2", "3", "4", "5", "6"]));
        assert_eq!(ring.since(20), None);
        assert_eq!(ring.since(30), Some(keys(&[])));
        ring.clear(40);
        assert_eq!(ring.since(30), None);
    }
}
