//! Counters that can be taken back.

use std::collections::BTreeMap;

use sunbear_proto::kuma::mesh::v1alpha1::mesh_insight::DataplaneStat;

use crate::proxy::Status;

/// Whether something is to be counted, or no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Add,
    Remove,
}

impl Step {
    pub(crate) fn on(self, count: &mut u32) {
        *count = match self {
            Self::Add => count.saturating_add(1),
            Self::Remove => count.saturating_sub(1),
        };
    }
}

/// Proxies by status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Stat {
    online: u32,
    offline: u32,
    partially_degraded: u32,
}

impl Stat {
    pub(crate) fn count(&mut self, status: Status, step: Step) {
        step.on(match status {
            Status::Online => &mut self.online,
            Status::Offline => &mut self.offline,
            Status::PartiallyDegraded => &mut self.partially_degraded,
        });
    }

    pub(crate) fn is_zero(self) -> bool {
        self == Self::default()
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            online: self.online + other.online,
            offline: self.offline + other.offline,
            partially_degraded: self.partially_degraded + other.partially_degraded,
        }
    }

    pub(crate) fn message(self) -> DataplaneStat {
        DataplaneStat {
            total: self.online + self.offline + self.partially_degraded,
            online: self.online,
            offline: self.offline,
            partially_degraded: self.partially_degraded,
        }
    }

    /// As versions are counted: partially degraded proxies are not part of the total.
    /// Kuma: pkg/insights/resyncer.go
    pub(crate) fn version_message(self) -> DataplaneStat {
        DataplaneStat { total: self.online + self.offline, ..self.message() }
    }
}

/// Proxies by status, per version or backend. Holds no zeros.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stats(BTreeMap<String, Stat>);

impl Stats {
    pub(crate) fn count(&mut self, name: &str, status: Status, step: Step) {
        match self.0.get_mut(name) {
            Some(stat) => {
                stat.count(status, step);
                if stat.is_zero() {
                    self.0.remove(name);
                }
            }
            None => {
                let mut stat = Stat::default();
                stat.count(status, step);
                if !stat.is_zero() {
                    self.0.insert(name.to_owned(), stat);
                }
            }
        }
    }

    pub(crate) fn messages(
        &self,
        message: fn(Stat) -> DataplaneStat,
    ) -> BTreeMap<String, DataplaneStat> {
        self.0.iter().map(|(name, stat)| (name.clone(), message(*stat))).collect()
    }
}

/// How often each name occurs. Holds no zeros.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Bag(BTreeMap<String, u32>);

impl Bag {
    pub(crate) fn count(&mut self, name: &str, step: Step) {
        match (self.0.get_mut(name), step) {
            (Some(count), _) => {
                step.on(count);
                if *count == 0 {
                    self.0.remove(name);
                }
            }
            (None, Step::Add) => {
                self.0.insert(name.to_owned(), 1);
            }
            (None, Step::Remove) => {}
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    pub(crate) fn counts(&self) -> &BTreeMap<String, u32> {
        &self.0
    }
}
