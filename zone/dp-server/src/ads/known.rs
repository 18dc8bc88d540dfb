//! What a client has, by name: with hundreds of proxies that have thousands of resources each, names
//! and versions are those of the shared resources and no copies.

use std::{borrow::Borrow, cmp::Ordering, collections::BTreeSet, sync::Arc};

use sunbear_xds::XdsResource;

/// Resources that a client has.
#[derive(Debug, Default)]
pub(super) struct Known(BTreeSet<Held>);

#[derive(Debug)]
enum Held {
    /// Was sent.
    Sent(Arc<XdsResource>),
    /// The client said so when it came.
    Claimed(Box<(String, String)>),
}

impl Held {
    fn name(&self) -> &str {
        match self {
            Held::Sent(resource) => &resource.name,
            Held::Claimed(claim) => &claim.0,
        }
    }

    fn version(&self) -> &str {
        match self {
            Held::Sent(resource) => &resource.version,
            Held::Claimed(claim) => &claim.1,
        }
    }
}

impl Borrow<str> for Held {
    fn borrow(&self) -> &str {
        self.name()
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name().cmp(other.name())
    }
}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Held {}

impl Known {
    /// The version that the client has.
    pub(super) fn version(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(Held::version)
    }

    /// Has it exactly this?
    pub(super) fn has(&self, resource: &XdsResource) -> bool {
        self.version(&resource.name) == Some(resource.version.as_str())
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    /// Names, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(Held::name)
    }

    pub(super) fn sent(&mut self, resource: Arc<XdsResource>) {
        self.0.replace(Held::Sent(resource));
    }

    pub(super) fn claimed(&mut self, name: String, version: String) {
        self.0.replace(Held::Claimed(Box::new((name, version))));
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    pub(super) fn retain(&mut self, f: impl Fn(&str) -> bool) {
        self.0.retain(|held| f(held.name()));
    }
}
