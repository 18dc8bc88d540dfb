//! The result: Envoy messages by type and name.

use std::{
    borrow::Borrow,
    cmp::Ordering,
    collections::BTreeSet,
    fmt::{self, Write as _},
    sync::Arc,
};

use prost::Message;
use prost_types::Any;
use sha2::{Digest, Sha256};

/// A type of xDS resource. Orders as the types are pushed: what is referred to goes before what
/// refers to it (`spec/dp-server.md` 8.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// CDS.
    Cluster,
    /// EDS.
    Endpoint,
    /// LDS.
    Listener,
    /// RDS.
    Route,
    /// SDS.
    Secret,
    /// RTDS.
    Runtime,
}

impl ResourceType {
    /// All types, in push order.
    pub const ALL: [ResourceType; 6] = [
        ResourceType::Cluster,
        ResourceType::Endpoint,
        ResourceType::Listener,
        ResourceType::Route,
        ResourceType::Secret,
        ResourceType::Runtime,
    ];

    /// The type URL of discovery requests and of `Any`s.
    pub fn type_url(self) -> &'static str {
        match self {
            ResourceType::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            ResourceType::Endpoint => {
                "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
            }
            ResourceType::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            ResourceType::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            ResourceType::Secret => {
                "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
            }
            ResourceType::Runtime => "type.googleapis.com/envoy.service.runtime.v3.Runtime",
        }
    }

    /// The type of a type URL.
    pub fn from_type_url(url: &str) -> Option<ResourceType> {
        Self::ALL.into_iter().find(|t| t.type_url() == url)
    }
}

/// One message, ready to send.
#[derive(Clone, PartialEq)]
pub struct XdsResource {
    /// Name that Envoy subscribes to.
    pub name: String,
    /// Hash of the content: lower-case hex of the first 16 bytes of its SHA-256.
    pub version: String,
    /// The message.
    pub any: Any,
}

impl XdsResource {
    /// Packs a message.
    pub fn new<M: Message + prost::Name>(name: impl Into<String>, message: &M) -> Self {
        Self::from_any(name, sunbear_proto::pack(message))
    }

    /// A resource of a packed message.
    pub(crate) fn from_any(name: impl Into<String>, any: Any) -> Self {
        let version = content_version(&any.value);
        Self { name: name.into(), version, any }
    }
}

impl fmt::Debug for XdsResource {
    // Never the content: a resource may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "XdsResource({:?}, {})", self.name, self.version)
    }
}

fn content_version(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let mut version = String::with_capacity(32);
    for byte in &digest[..16] {
        // Writing to a String cannot fail.
        let _ = write!(version, "{byte:02x}");
    }
    version
}

/// A resource in a set, which is ordered by name. The name is not stored a second time.
#[derive(Clone)]
struct Named(Arc<XdsResource>);

impl Borrow<str> for Named {
    fn borrow(&self) -> &str {
        &self.0.name
    }
}

impl Ord for Named {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.name.cmp(&other.0.name)
    }
}

impl PartialOrd for Named {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for Named {}

type OfType = Arc<BTreeSet<Named>>;

/// Messages by type and name. Sets share what they have in common, so a clone costs little.
#[derive(Clone, Default)]
pub struct ResourceSet {
    by_type: [OfType; ResourceType::ALL.len()],
    /// What cannot be provided now.
    kept: BTreeSet<(ResourceType, String)>,
}

impl PartialEq for ResourceSet {
    fn eq(&self, other: &Self) -> bool {
        self.kept == other.kept
            && ResourceType::ALL.iter().all(|t| {
                self.shares(other, *t)
                    || (self.len(*t) == other.len(*t)
                        && self
                            .iter(*t)
                            .zip(other.iter(*t))
                            .all(|(a, b)| Arc::ptr_eq(a, b) || a == b))
            })
    }
}

impl fmt::Debug for ResourceSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let types = ResourceType::ALL.into_iter().filter(|t| self.len(*t) > 0);
        f.debug_map().entries(types.map(|t| (t, self.iter(t).collect::<Vec<_>>()))).finish()
    }
}

/// What changed from one set to another, of one type.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Diff {
    /// New, or with another content; in name order.
    pub changed: Vec<Arc<XdsResource>>,
    /// Names that are gone, in order.
    pub removed: Vec<String>,
}

impl Diff {
    /// Nothing changed.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

/// A reference without its target, or the other way round; it would leave Envoy waiting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConsistencyError {
    /// EDS clusters and load assignments differ.
    #[error("clusters and load assignments differ: {0:?}")]
    Endpoints(Vec<String>),
    /// Route configurations and the names that listeners refer to differ.
    #[error("listeners and route configurations differ: {0:?}")]
    Routes(Vec<String>),
}

impl ResourceSet {
    /// Adds a resource; one of the same type and name is replaced.
    pub fn insert(&mut self, resource_type: ResourceType, resource: XdsResource) {
        self.insert_shared(resource_type, Arc::new(resource));
    }

    /// As [`ResourceSet::insert`], of a resource that other sets may hold too.
    pub fn insert_shared(&mut self, resource_type: ResourceType, resource: Arc<XdsResource>) {
        Arc::make_mut(&mut self.by_type[resource_type as usize]).replace(Named(resource));
    }

    /// A client that has something of this name keeps it. What the set itself has of the name, if
    /// anything, is makeshift for those that have nothing.
    pub fn keep(&mut self, resource_type: ResourceType, name: impl Into<String>) {
        self.kept.insert((resource_type, name.into()));
    }

    /// Does a client keep what it has of this name?
    pub fn keeps(&self, resource_type: ResourceType, name: &str) -> bool {
        !self.kept.is_empty() && self.kept.contains(&(resource_type, name.to_owned()))
    }

    /// Takes a resource out.
    pub(crate) fn remove(&mut self, resource_type: ResourceType, name: &str) {
        if self.get(resource_type, name).is_some() {
            Arc::make_mut(&mut self.by_type[resource_type as usize]).remove(name);
        }
    }

    /// Takes over everything of a type from another set, in place of what is here.
    pub(crate) fn share(&mut self, other: &ResourceSet, resource_type: ResourceType) {
        let index = resource_type as usize;
        self.by_type[index] = Arc::clone(&other.by_type[index]);
    }

    /// Is everything of a type one and the same in both sets, what is to be kept too, without
    /// looking at the resources? If not, they may still be equal.
    pub fn shares(&self, other: &ResourceSet, resource_type: ResourceType) -> bool {
        let index = resource_type as usize;
        Arc::ptr_eq(&self.by_type[index], &other.by_type[index]) && self.kept == other.kept
    }

    /// The resource of a name.
    pub fn get(&self, resource_type: ResourceType, name: &str) -> Option<&Arc<XdsResource>> {
        self.by_type[resource_type as usize].get(name).map(|named| &named.0)
    }

    /// Resources of a type, in name order.
    pub fn iter(&self, resource_type: ResourceType) -> impl Iterator<Item = &Arc<XdsResource>> {
        self.by_type[resource_type as usize].iter().map(|named| &named.0)
    }

    /// Names of a type, in order.
    pub fn names(&self, resource_type: ResourceType) -> impl Iterator<Item = &str> {
        self.iter(resource_type).map(|resource| resource.name.as_str())
    }

    /// How many resources of a type there are.
    pub fn len(&self, resource_type: ResourceType) -> usize {
        self.by_type[resource_type as usize].len()
    }

    /// No resource at all.
    pub fn is_empty(&self) -> bool {
        self.by_type.iter().all(|resources| resources.is_empty())
    }

    /// A version for all resources of a type together: equal if and only if names and contents are.
    pub fn version(&self, resource_type: ResourceType) -> String {
        let mut hash = Sha256::new();
        for resource in self.iter(resource_type) {
            hash.update(resource.name.len().to_be_bytes());
            hash.update(resource.name.as_bytes());
            hash.update(resource.version.as_bytes());
        }
        content_version(&hash.finalize())
    }

    /// What of a type changes when this set replaces `old`.
    pub fn diff(&self, old: &ResourceSet, resource_type: ResourceType) -> Diff {
        if self.shares(old, resource_type) {
            return Diff::default();
        }
        let same = |new: &Arc<XdsResource>| {
            old.get(resource_type, &new.name)
                .is_some_and(|old| Arc::ptr_eq(old, new) || old.version == new.version)
        };
        let changed = self.iter(resource_type).filter(|new| !same(new)).cloned().collect();
        let removed = old
            .names(resource_type)
            .filter(|name| self.get(resource_type, name).is_none())
            .map(str::to_owned)
            .collect();
        Diff { changed, removed }
    }

    /// Checks that `eds`, the EDS clusters, have exactly one load assignment each, and that the
    /// route configurations are exactly `rds`, the names in the listeners.
    pub(crate) fn check(
        &self,
        eds: &BTreeSet<&str>,
        rds: &BTreeSet<&str>,
    ) -> Result<(), ConsistencyError> {
        let odd = |resource_type, wanted: &BTreeSet<&str>| -> Vec<String> {
            let missing = wanted.iter().copied().filter(|n| self.get(resource_type, n).is_none());
            let extra = self.names(resource_type).filter(|n| !wanted.contains(n));
            missing.chain(extra).map(str::to_owned).collect()
        };
        let endpoints = odd(ResourceType::Endpoint, eds);
        if !endpoints.is_empty() {
            return Err(ConsistencyError::Endpoints(endpoints));
        }
        let routes = odd(ResourceType::Route, rds);
        if !routes.is_empty() {
            return Err(ConsistencyError::Routes(routes));
        }
        Ok(())
    }
}
