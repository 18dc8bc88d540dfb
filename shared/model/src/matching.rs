//! Which gateway a Dataplane belongs to, which policies act on it, and what they say together
//! (`spec/policies.md` 2, 12.4, 12.5). Lists of candidates come in name order.

use std::{cmp::Reverse, sync::Arc};

use serde_json::Value;
use sunbear_proto::kuma::mesh::v1alpha1::{
    Dataplane, MeshGateway, dataplane::networking::gateway::GatewayType, mesh_gateway,
};

use crate::{
    label,
    resource::Resource,
    rest,
    tags::{self, Rank, Tags},
};

mod dataplane;
mod target_ref;

pub use dataplane::{best, gateway_of, matches_of, selects_dataplane};
pub use target_ref::{
    Item, Proxy, ReferenceError, Selection, Socket, Subset, TargetRef, combinations, is_shadow,
    merge, select, sort_for_merge,
};

// Dataplanes and gateways.

/// The kind of gateway that a Dataplane is, if it is one.
pub fn gateway_type(dataplane: &Dataplane) -> Option<GatewayType> {
    Some(dataplane.networking.as_ref()?.gateway.as_ref()?.r#type())
}

/// Is the Dataplane a builtin gateway?
pub fn is_builtin_gateway(dataplane: &Dataplane) -> bool {
    gateway_type(dataplane) == Some(GatewayType::Builtin)
}

/// Tags of a listener of a gateway: those of the Dataplane, overlaid by the gateway's and its own.
pub fn listener_tags(
    dataplane: &Dataplane,
    gateway: &MeshGateway,
    listener: &mesh_gateway::Listener,
) -> Tags {
    let own = dataplane.networking.as_ref().and_then(|n| n.gateway.as_ref()).map(|g| &g.tags);
    overlaid(own.unwrap_or(&Tags::new()), gateway, listener)
}

/// [`listener_tags`] from the tags of the Dataplane's gateway.
pub(crate) fn overlaid(
    own: &Tags,
    gateway: &MeshGateway,
    listener: &mesh_gateway::Listener,
) -> Tags {
    let layers = [own, &gateway.tags, &listener.tags];
    layers.into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect()
}

// Connection policies.

/// The selectors of a policy by tags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selectors {
    /// Who calls.
    pub sources: Vec<Tags>,
    /// Who is called.
    pub destinations: Vec<Tags>,
    /// Which Dataplanes, for policies without two sides.
    pub dataplanes: Vec<Tags>,
}

impl Selectors {
    /// Reads the selectors of a policy of any type that has some.
    pub fn of(policy: &Resource) -> Self {
        let body = rest::write(policy);
        let read = |key: &str| {
            let list = body.get(key).and_then(Value::as_array);
            list.into_iter().flatten().map(|s| tags_of(s.get("match"))).collect()
        };
        Self {
            sources: read("sources"),
            destinations: read("destinations"),
            dataplanes: read("selectors"),
        }
    }

    /// Does any of them match the Dataplane?
    pub fn touches(&self, dataplane: &Dataplane) -> bool {
        let all = self.sources.iter().chain(&self.destinations).chain(&self.dataplanes);
        all.into_iter().any(|s| tags::matches_dataplane(s, dataplane))
    }
}

fn tags_of(value: Option<&Value>) -> Tags {
    let map = value.and_then(Value::as_object);
    map.into_iter()
        .flatten()
        .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
        .collect()
}

/// A policy with its selectors.
#[derive(Debug, Clone)]
pub struct TagPolicy {
    /// The policy.
    pub resource: Arc<Resource>,
    /// Its selectors.
    pub selectors: Selectors,
}

impl TagPolicy {
    /// Reads a policy.
    pub fn of(resource: &Arc<Resource>) -> Self {
        Self { resource: Arc::clone(resource), selectors: Selectors::of(resource) }
    }
}

/// Best rank of the selectors that match.
fn highest(selectors: &[Tags], tags: &Tags) -> Option<Rank> {
    selectors.iter().filter(|s| tags::matches(s, tags)).map(Rank::of).max()
}

/// Rank of the first selector that matches.
fn first(selectors: &[Tags], tags: &Tags) -> Option<Rank> {
    selectors.iter().find(|s| tags::matches(s, tags)).map(Rank::of)
}

/// The highest rank, then the youngest, then the first.
fn choose<'p>(ranked: impl Iterator<Item = (&'p TagPolicy, Rank)>) -> Option<&'p TagPolicy> {
    let mut chosen: Option<(&TagPolicy, Rank)> = None;
    for (policy, rank) in ranked {
        if chosen.is_none_or(|(other, best)| {
            (rank, policy.resource.created_at) > (best, other.resource.created_at)
        }) {
            chosen = Some((policy, rank));
        }
    }
    chosen.map(|(policy, _)| policy)
}

/// The policy on the connections of a Dataplane to a service.
pub fn outbound_policy<'p>(
    policies: &'p [TagPolicy],
    dataplane: &Dataplane,
    service: &str,
) -> Option<&'p TagPolicy> {
    let destination = Tags::from([(label::SERVICE_TAG.to_owned(), service.to_owned())]);
    choose(policies.iter().filter_map(|p| {
        let sources = p.selectors.sources.iter();
        let source =
            sources.filter(|s| tags::matches_dataplane(s, dataplane)).map(Rank::of).max()?;
        Some((p, source.combined(highest(&p.selectors.destinations, &destination)?)))
    }))
}

/// The one policy on the connections to an inbound.
pub fn inbound_policy<'p>(policies: &'p [TagPolicy], inbound: &Tags) -> Option<&'p TagPolicy> {
    choose(policies.iter().filter_map(|p| Some((p, highest(&p.selectors.destinations, inbound)?))))
}

/// All policies on the connections to an inbound, the most specific about sources first.
pub fn inbound_policies<'p>(policies: &'p [TagPolicy], inbound: &Tags) -> Vec<&'p TagPolicy> {
    let mut found: Vec<&TagPolicy> =
        policies.iter().filter(|p| highest(&p.selectors.destinations, inbound).is_some()).collect();
    found.sort_by_key(|p| {
        let rank = p.selectors.sources.first().map_or_else(Rank::default, Rank::of);
        Reverse((rank, p.resource.created_at))
    });
    found
}

/// The one policy on a Dataplane as a whole.
pub fn dataplane_policy<'p>(
    policies: &'p [TagPolicy],
    dataplane: &Dataplane,
) -> Option<&'p Arc<Resource>> {
    let candidates =
        policies.iter().map(|p| (&*p.resource, p.selectors.dataplanes.iter(), &p.resource));
    best(candidates, dataplane)
}

/// The policy on what a listener of a gateway sends to a destination. The first selector that
/// matches counts on either side, not the best.
pub fn gateway_policy<'p>(
    policies: &'p [TagPolicy],
    listener: &Tags,
    destination: &Tags,
) -> Option<&'p TagPolicy> {
    choose(policies.iter().filter_map(|p| {
        let source = first(&p.selectors.sources, listener)?;
        Some((p, source.combined(first(&p.selectors.destinations, destination)?)))
    }))
}

#[cfg(test)]
mod tests;
