//! What a client has and what it asked for by name: with hundreds of proxies that have thousands of
//! resources each, names and versions are those of the shared resources and no copies.

use std::{collections::BTreeSet, sync::Arc};

use sunbear_xds::XdsResource;

/// Resources that a client has, and names that it subscribed to.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// In name order.
    held: Vec<Held>,
    /// Names subscribed to of which the client has nothing.
    awaited: BTreeSet<Box<str>>,
}

/// What the client has under a name, and whether it asked for it by name.
#[derive(Debug)]
enum Held {
    /// Was sent.
    Sent { resource: Arc<XdsResource>, subscribed: bool },
    /// The client said so when it came: name and version.
    Claimed { claim: Box<(String, String)>, subscribed: bool },
}

impl Held {
    fn name(&self) -> &str {
        match self {
            Held::Sent { resource, .. } => &resource.name,
            Held::Claimed { claim, .. } => &claim.0,
        }
    }

    fn version(&self) -> &str {
        match self {
            Held::Sent { resource, .. } => &resource.version,
            Held::Claimed { claim, .. } => &claim.1,
        }
    }

    fn subscribed(&self) -> bool {
        match self {
            Held::Sent { subscribed, .. } | Held::Claimed { subscribed, .. } => *subscribed,
        }
    }

    fn subscribe(&mut self, yes: bool) {
        match self {
            Held::Sent { subscribed, .. } | Held::Claimed { subscribed, .. } => *subscribed = yes,
        }
    }
}

impl Known {
    fn find(&self, name: &str) -> Result<usize, usize> {
        self.held.binary_search_by(|held| held.name().cmp(name))
    }

    fn get(&self, name: &str) -> Option<&Held> {
        self.find(name).ok().map(|index| &self.held[index])
    }

    /// The version that the client has.
    pub(super) fn version(&self, name: &str) -> Option<&str> {
        self.get(name).map(Held::version)
    }

    /// Has it exactly this?
    pub(super) fn has(&self, resource: &XdsResource) -> bool {
        self.version(&resource.name) == Some(resource.version.as_str())
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.find(name).is_ok()
    }

    /// Names of what the client has, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.held.iter().map(Held::name)
    }

    /// Did the client ask for this name?
    pub(super) fn subscribed(&self, name: &str) -> bool {
        match self.get(name) {
            Some(held) => held.subscribed(),
            None => self.awaited.contains(name),
        }
    }

    pub(super) fn subscribe(&mut self, name: &str) {
        match self.find(name) {
            Ok(index) => self.held[index].subscribe(true),
            Err(_) => {
                self.awaited.insert(name.into());
            }
        }
    }

    /// The client does not ask for this name any more; it may have it still.
    pub(super) fn unsubscribe(&mut self, name: &str) {
        match self.find(name) {
            Ok(index) => self.held[index].subscribe(false),
            Err(_) => {
                self.awaited.remove(name);
            }
        }
    }

    pub(super) fn sent(&mut self, resource: Arc<XdsResource>) {
        self.put(Held::Sent { resource, subscribed: false });
    }

    pub(super) fn claimed(&mut self, name: String, version: String) {
        self.put(Held::Claimed { claim: Box::new((name, version)), subscribed: false });
    }

    /// Whether the client asked for it stays.
    fn put(&mut self, mut held: Held) {
        match self.find(held.name()) {
            Ok(index) => {
                held.subscribe(self.held[index].subscribed());
                self.held[index] = held;
            }
            Err(index) => {
                held.subscribe(self.awaited.remove(held.name()));
                self.held.insert(index, held);
            }
        }
    }

    /// The client has this no more. Whether it asked for it stays.
    pub(super) fn remove(&mut self, name: &str) {
        if let Ok(index) = self.find(name)
            && self.held.remove(index).subscribed()
        {
            self.awaited.insert(name.into());
        }
    }

    /// The client forgets what it did not ask for by name.
    pub(super) fn retain_subscribed(&mut self) {
        self.held.retain(Held::subscribed);
    }

    /// Gives back memory after many were put.
    pub(super) fn shrink(&mut self) {
        self.held.shrink_to_fit();
    }
}
