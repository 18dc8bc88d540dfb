//! Policies with a targetRef: which proxies they select, in which order they are merged, and how.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;
use sunbear_proto::kuma::mesh::v1alpha1::{
    Dataplane,
    dataplane::{Networking, networking::gateway::GatewayType},
};

use super::{gateway_of, gateway_type, is_builtin_gateway, listener_tags, tags_of};
use crate::{
    label,
    resource::Resource,
    tags::{self, Tags},
};

/// Label of policies that are only looked at, never applied.
const EFFECT: &str = "kuma.io/effect";
/// MeshHTTPRoutes that lead to other MeshHTTPRoutes are followed this far.
const MAX_REFERENCES: usize = 4;

/// A reference to what a policy, or an item of it, is about. An absent one is the mesh.
#[derive(Debug, Clone, Copy)]
pub struct TargetRef<'v>(Option<&'v Value>);

impl<'v> TargetRef<'v> {
    /// Reads the reference of a policy's spec or item.
    pub fn of(holder: Option<&'v Value>) -> Self {
        Self(holder.and_then(|h| h.get("targetRef")))
    }

    fn text(self, key: &str) -> Option<&'v str> {
        self.0?.get(key)?.as_str().filter(|t| !t.is_empty())
    }

    /// Its kind.
    pub fn kind(self) -> &'v str {
        self.text("kind").unwrap_or("Mesh")
    }

    /// The name that it gives.
    pub fn name(self) -> Option<&'v str> {
        self.text("name")
    }

    /// The section that it gives.
    pub fn section_name(self) -> Option<&'v str> {
        self.text("sectionName")
    }

    /// The tags that it gives.
    pub fn tags(self) -> Tags {
        tags_of(self.0.and_then(|t| t.get("tags")))
    }

    /// The labels that it gives.
    pub fn labels(self) -> Option<Tags> {
        self.0.and_then(|t| t.get("labels")).filter(|l| l.is_object()).map(|l| tags_of(Some(l)))
    }

    fn means(self, proxy_type: &str) -> bool {
        let types = self.0.and_then(|t| t.get("proxyTypes")).and_then(Value::as_array);
        types.is_none_or(|t| t.is_empty() || t.iter().any(|t| t.as_str() == Some(proxy_type)))
    }

    /// The conditions on tags that it stands for; none if it is about a real object.
    pub fn subset(self) -> Option<Tags> {
        let service =
            || (label::SERVICE_TAG.to_owned(), self.name().unwrap_or_default().to_owned());
        match self.kind() {
            "Mesh" => Some(Tags::new()),
            "MeshSubset" => Some(self.tags()),
            "MeshService" => Some(Tags::from([service()])),
            "MeshServiceSubset" => Some(self.tags().into_iter().chain([service()]).collect()),
            _ => None,
        }
    }

    /// The tags that a listener of a builtin gateway needs to be meant; none if none is.
    pub fn on_listeners_of(self, gateway: &Resource) -> Option<Tags> {
        match self.kind() {
            "Mesh" | "MeshSubset" if !self.means("Gateway") => None,
            "Mesh" => Some(Tags::new()),
            "MeshGateway" => self.names(gateway).then(|| self.tags()),
            // Without a name there is no service that could be meant.
            "MeshService" | "MeshServiceSubset" => self.name().and_then(|_| self.subset()),
            "MeshSubset" => self.subset(),
            _ => None,
        }
    }

    /// Does it name this object? Names are those that users know.
    pub fn names(self, resource: &Resource) -> bool {
        if let Some(labels) = self.labels() {
            return labels.iter().all(|(k, v)| resource.label(k) == Some(v));
        }
        let namespace = self.text("namespace");
        self.name() == Some(resource.display_name())
            && namespace.is_none_or(|n| resource.label(label::NAMESPACE) == Some(n))
    }
}

/// A socket of a proxy that takes connections.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Socket {
    /// Port.
    pub port: u32,
    /// Address.
    pub address: String,
}

/// The part of a proxy that a policy acts on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Inbounds of sidecars, listeners of gateways.
    pub sockets: BTreeSet<Socket>,
    /// It is a delegated gateway, which has no inbounds, and selected.
    pub delegated: bool,
}

impl Selection {
    /// The policy does not act on the proxy.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty() && !self.delegated
    }
}

/// A proxy as policies see it.
#[derive(Debug, Clone, Copy)]
pub struct Proxy<'a> {
    /// Identity and labels.
    pub resource: &'a Resource,
    /// What it is.
    pub dataplane: &'a Dataplane,
    /// Its gateway, if it is a builtin one and there is one for it.
    pub gateway: Option<&'a Resource>,
}

impl<'a> Proxy<'a> {
    /// The proxy of a Dataplane.
    pub fn of(
        resource: &'a Resource,
        gateways: impl IntoIterator<Item = &'a Arc<Resource>>,
    ) -> Option<Self> {
        let dataplane = resource.as_dataplane()?;
        let gateway = if is_builtin_gateway(dataplane) {
            gateway_of(gateways, resource).map(|g| &**g)
        } else {
            None
        };
        Some(Self { resource, dataplane, gateway })
    }

    fn networking(&self) -> Option<&'a Networking> {
        self.dataplane.networking.as_ref()
    }

    fn socket(&self, address: &str, port: u32) -> Socket {
        let own = self.networking().map_or("", |n| &n.address);
        let address = if address.is_empty() { own } else { address };
        Socket { port, address: address.to_owned() }
    }

    /// All sockets whose tags match.
    fn by_tags(&self, selector: &Tags) -> Selection {
        let mut selection = Selection::default();
        let Some(networking) = self.networking() else { return selection };
        for inbound in networking.inbound.iter().filter(|i| tags::matches(selector, &i.tags)) {
            selection.sockets.insert(self.socket(&inbound.address, inbound.port));
        }
        if let Some(gateway) = self.gateway.and_then(Resource::as_mesh_gateway) {
            for listener in gateway.conf.iter().flat_map(|c| &c.listeners) {
                if tags::matches(selector, &listener_tags(self.dataplane, gateway, listener)) {
                    selection.sockets.insert(self.socket("", listener.port));
                }
            }
        }
        let own = networking.gateway.as_ref().map(|g| &g.tags);
        selection.delegated = gateway_type(self.dataplane) == Some(GatewayType::Delegated)
            && own.is_some_and(|own| tags::matches(selector, own));
        selection
    }

    /// All sockets, or those of a section: an inbound's name or port.
    fn by_section(&self, section: Option<&str>) -> Selection {
        let mut selection = Selection::default();
        let Some(networking) = self.networking() else { return selection };
        let wanted =
            |name: &str, port: u32| section.is_none_or(|s| s == name || s == port.to_string());
        for inbound in networking.inbound.iter().filter(|i| wanted(&i.name, i.port)) {
            selection.sockets.insert(self.socket(&inbound.address, inbound.port));
        }
        for listener in networking.listeners.iter().filter(|l| wanted(&l.name, l.port)) {
            selection.sockets.insert(self.socket(&listener.address, listener.port));
        }
        selection.delegated = gateway_type(self.dataplane) == Some(GatewayType::Delegated);
        selection
    }
}

/// A policy that names something that is not there, or is of a kind that nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// No such route.
    #[error("couldn't resolve MeshHTTPRoute targetRef with name '{0}'")]
    Route(String),
    /// No such kind.
    #[error("unsupported targetRef kind '{0}'")]
    Kind(String),
}

/// Which part of a proxy a policy acts on. `routes` are the MeshHTTPRoutes of the mesh.
pub fn select(
    policy: &Resource,
    proxy: &Proxy<'_>,
    routes: &[Arc<Resource>],
) -> Result<Selection, ReferenceError> {
    select_by(policy, proxy, routes, MAX_REFERENCES)
}

fn select_by(
    policy: &Resource,
    proxy: &Proxy<'_>,
    routes: &[Arc<Resource>],
    depth: usize,
) -> Result<Selection, ReferenceError> {
    if !acts_in_zone(policy, proxy) || !acts_in_namespace(policy, proxy.resource) {
        return Ok(Selection::default());
    }
    let target = TargetRef::of(policy.as_json());
    let gateway = gateway_type(proxy.dataplane).is_some();
    let proxy_type = if gateway { "Gateway" } else { "Sidecar" };
    match target.kind() {
        "Mesh" if target.means(proxy_type) => {
            let mut selection = proxy.by_tags(&Tags::new());
            if !gateway {
                selection.sockets.extend(proxy.by_section(None).sockets);
            }
            Ok(selection)
        }
        "MeshSubset" if target.means(proxy_type) => Ok(proxy.by_tags(&target.tags())),
        "Mesh" | "MeshSubset" => Ok(Selection::default()),
        "Dataplane" => {
            let all = target.name().is_none() && target.labels().is_none();
            let wanted = proxy.gateway.is_none() && (all || target.names(proxy.resource));
            Ok(if wanted { proxy.by_section(target.section_name()) } else { Selection::default() })
        }
        "MeshService" | "MeshServiceSubset" => {
            Ok(proxy.by_tags(&target.subset().unwrap_or_default()))
        }
        "MeshGateway" => {
            let wanted = proxy.gateway.and_then(|g| target.on_listeners_of(g));
            Ok(wanted.map(|tags| proxy.by_tags(&tags)).unwrap_or_default())
        }
        "MeshHTTPRoute" => {
            let missing = || ReferenceError::Route(target.name().unwrap_or_default().to_owned());
            let route = routes.iter().find(|r| target.names(r)).filter(|_| depth > 0);
            select_by(route.ok_or_else(missing)?, proxy, routes, depth - 1)
        }
        other => Err(ReferenceError::Kind(other.to_owned())),
    }
}

/// Policies of a zone act in it, except for those of producers.
fn acts_in_zone(policy: &Resource, proxy: &Proxy<'_>) -> bool {
    let holder = proxy.gateway.unwrap_or(proxy.resource);
    policy.label(label::POLICY_ROLE) == Some("producer")
        || policy.label(label::ORIGIN) != Some(label::ORIGIN_ZONE)
        || holder.label(label::ORIGIN).is_none_or(|o| o == label::ORIGIN_GLOBAL)
        || policy.label(label::ZONE).is_none_or(|z| holder.label(label::ZONE) == Some(z))
}

/// Policies of consumers and of owners of workloads act in their namespace.
fn acts_in_namespace(policy: &Resource, dataplane: &Resource) -> bool {
    match policy.label(label::POLICY_ROLE) {
        Some("consumer" | "workload-owner") => {
            let namespace = policy.label(label::NAMESPACE);
            namespace.is_some() && namespace == dataplane.label(label::NAMESPACE)
        }
        _ => true,
    }
}

/// Is the policy only looked at, never applied?
pub fn is_shadow(policy: &Resource) -> bool {
    policy.label(EFFECT) == Some("shadow")
}

/// Puts policies into the order in which they are merged: later ones win.
pub fn sort_for_merge(policies: &mut [Arc<Resource>]) {
    policies.sort_by_cached_key(|p| {
        let target = TargetRef::of(p.as_json());
        let dataplane = (target.name().is_some(), target.section_name().is_some());
        let tags = if target.kind() == "MeshGateway" { target.tags().len() } else { 0 };
        (
            kind_rank(target.kind()),
            if target.kind() == "Dataplane" { dataplane } else { (false, false) },
            origin_rank(p.label(label::ORIGIN)),
            tags,
            role_rank(p.label(label::POLICY_ROLE)),
            Reverse((p.display_name().to_owned(), p.key.name.to_string())),
        )
    });
}

fn kind_rank(kind: &str) -> usize {
    const ORDER: [&str; 9] = [
        "Mesh",
        "Dataplane",
        "MeshSubset",
        "MeshGateway",
        "MeshService",
        "MeshExternalService",
        "MeshMultiZoneService",
        "MeshServiceSubset",
        "MeshHTTPRoute",
    ];
    ORDER.iter().position(|k| *k == kind).unwrap_or(ORDER.len())
}

fn origin_rank(origin: Option<&str>) -> u8 {
    match origin {
        Some(label::ORIGIN_GLOBAL) => 0,
        Some(label::ORIGIN_ZONE) => 2,
        _ => 1,
    }
}

fn role_rank(role: Option<&str>) -> u8 {
    match role {
        Some("producer") => 1,
        Some("consumer") => 2,
        Some("workload-owner") => 3,
        _ => 0,
    }
}

/// Lays one configuration over another: objects are merged, lists replaced, but lists whose name
/// begins with `append` joined.
pub fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (_, Value::Null) => {}
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                match (base.get_mut(key), value) {
                    (Some(Value::Array(list)), Value::Array(more)) if key.starts_with("append") => {
                        list.extend(more.iter().cloned());
                    }
                    (Some(old), value) => merge(old, value),
                    (None, value) => {
                        base.insert(key.clone(), value.clone());
                    }
                }
            }
        }
        (base, over) => *base = over.clone(),
    }
}

/// An item of a policy: of `to`, `from` or `rules`, or all of it.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    /// The policy.
    pub policy: &'a Resource,
    /// Position in its list.
    pub index: usize,
    /// The item.
    pub value: &'a Value,
}

impl<'a> Item<'a> {
    /// The items of a list of policies that are in order.
    pub fn all(policies: &'a [Arc<Resource>], list: &'a str) -> impl Iterator<Item = Self> {
        policies.iter().flat_map(move |policy| {
            let items = policy.as_json().and_then(|s| s.get(list)).and_then(Value::as_array);
            let items = items.into_iter().flatten().enumerate();
            items.map(move |(index, value)| Item { policy, index, value })
        })
    }

    /// What the item is about.
    pub fn target(&self) -> TargetRef<'a> {
        TargetRef::of(Some(self.value))
    }

    /// What it says.
    pub fn conf(&self) -> &'a Value {
        self.value.get("default").unwrap_or(&Value::Null)
    }
}

/// Conditions on tags: each with its value, and whether it must not be this one.
pub type Subset = BTreeMap<(String, String), bool>;

/// All combinations of the conditions in which some item counts, the most specific first, each with
/// the items that count in it. With `negations`, combinations exclude each other. More than a
/// thousand combinations are not looked at.
pub fn combinations<'i, 'a>(
    items: &'i [Item<'a>],
    negations: bool,
) -> Vec<(Subset, Vec<&'i Item<'a>>)> {
    let subsets: Vec<(Tags, &Item<'a>)> =
        items.iter().filter_map(|i| Some((i.target().subset()?, i))).collect();
    let keys: BTreeSet<&String> = subsets.iter().flat_map(|(s, _)| s.keys()).collect();
    let mut found: Vec<Subset> = if !negations && keys.len() <= 1 {
        let mut seen = Vec::new();
        for (tags, _) in &subsets {
            let plain = tags.iter().map(|(k, v)| ((k.clone(), v.clone()), false)).collect();
            if !seen.contains(&plain) {
                seen.push(plain);
            }
        }
        seen
    } else {
        all_combinations(&subsets)
    };
    let positive = |s: &Subset| s.values().filter(|negated| !**negated).count();
    found.sort_by_key(|s| Reverse(positive(s)));
    let counts = |tags: &Tags, subset: &Subset| {
        tags.iter().all(|(k, v)| subset.get(&(k.clone(), v.clone())) == Some(&false))
    };
    found
        .into_iter()
        .filter_map(|subset| {
            let relevant: Vec<&Item<'a>> =
                subsets.iter().filter(|(t, _)| counts(t, &subset)).map(|(_, i)| *i).collect();
            (!relevant.is_empty()).then_some((subset, relevant))
        })
        .collect()
}

/// For every tag one of its values, or none of them.
fn all_combinations(subsets: &[(Tags, &Item<'_>)]) -> Vec<Subset> {
    let mut values: BTreeMap<&String, BTreeSet<&String>> = BTreeMap::new();
    for (key, value) in subsets.iter().flat_map(|(s, _)| s) {
        values.entry(key).or_default().insert(value);
    }
    let mut combinations = vec![Subset::new()];
    for (key, values) in values {
        if combinations.len().saturating_mul(values.len() + 1) > 1_000 {
            return Vec::new();
        }
        let with = |base: &Subset, chosen: Option<&String>| {
            let mut subset = base.clone();
            for value in values.iter().filter(|v| chosen.is_none_or(|c| c == **v)) {
                subset.insert((key.clone(), (*value).clone()), chosen.is_none());
            }
            subset
        };
        // The first tag changes fastest.
        let choices = values.iter().map(|v| Some(*v)).chain([None]);
        combinations = choices
            .flat_map(|choice| combinations.iter().map(move |base| (base, choice)))
            .map(|(base, choice)| with(base, choice))
            .collect();
    }
    combinations
}
