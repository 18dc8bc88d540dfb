//! Which type may send now: make before break (`spec/mesh-dataplane.md` 9.3).
//!
//! Envoy withholds its ACK of clusters until they are warm, which needs their endpoints and
//! secrets; so those never wait, while listeners and routes wait for the ACK, and clusters are
//! taken away only after what referred to them was.

use sunbear_xds::ResourceType;

/// State of one type, as far as the order depends on it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lane {
    /// New or changed resources wait to be sent.
    pub(super) changes: bool,
    /// Removals wait to be sent.
    pub(super) removals: bool,
    /// A response awaits its answer, and the patience with it has not run out.
    pub(super) busy: bool,
    /// No further response may be on its way.
    pub(super) full: bool,
    /// Pausing after a rejection.
    pub(super) resting: bool,
}

impl Lane {
    fn quiet(self) -> bool {
        !(self.busy || self.full || self.resting)
    }

    fn unsettled(self) -> bool {
        self.busy || (self.changes && !self.resting)
    }
}

/// The lanes of all types.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lanes([Lane; ResourceType::ALL.len()]);

impl Lanes {
    pub(super) fn from_fn(mut f: impl FnMut(ResourceType) -> Lane) -> Self {
        Self(ResourceType::ALL.map(&mut f))
    }

    fn get(&self, resource_type: ResourceType) -> Lane {
        self.0[resource_type as usize]
    }

    /// May new and changed resources of this type go out?
    pub(super) fn changes_allowed(&self, resource_type: ResourceType) -> bool {
        let own = self.get(resource_type);
        if !own.quiet() {
            return false;
        }
        let cluster = self.get(ResourceType::Cluster);
        let listener = self.get(ResourceType::Listener);
        match resource_type {
            ResourceType::Cluster
            | ResourceType::Endpoint
            | ResourceType::Secret
            | ResourceType::Runtime => true,
            ResourceType::Listener => !cluster.unsettled(),
            ResourceType::Route => !cluster.unsettled() && (!listener.changes || listener.resting),
        }
    }

    /// May removals of this type go out? `overdue` says that clusters have been held long enough.
    pub(super) fn removals_allowed(&self, resource_type: ResourceType, overdue: bool) -> bool {
        let own = self.get(resource_type);
        if !own.quiet() {
            return false;
        }
        let cluster = self.get(ResourceType::Cluster);
        let listener = self.get(ResourceType::Listener);
        let route = self.get(ResourceType::Route);
        match resource_type {
            ResourceType::Cluster => overdue || !(listener.unsettled() || route.unsettled()),
            ResourceType::Endpoint => !cluster.unsettled() && !cluster.removals,
            // With additions in one response, because an address may pass from one listener to
            // another; Envoy takes removals first.
            ResourceType::Listener => !own.changes || self.changes_allowed(resource_type),
            ResourceType::Route => !listener.unsettled() && !listener.removals,
            ResourceType::Secret => {
                !cluster.unsettled()
                    && !cluster.removals
                    && !listener.unsettled()
                    && !listener.removals
            }
            ResourceType::Runtime => true,
        }
    }
}
