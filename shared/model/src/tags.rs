//! Tags: selectors, ranks, the tag set of a Dataplane (`spec/gateway-xds.md` 3,
//! `spec/resources.md` 4.3).

use std::collections::{BTreeMap, BTreeSet};

use sunbear_proto::kuma::mesh::v1alpha1::Dataplane;

use crate::label;

/// Tags of one inbound, gateway, listener or destination.
pub type Tags = BTreeMap<String, String>;

/// Each selector key is there, with the same value or selected by `*`. An empty selector matches
/// everything; `*` does not match an absent tag.
pub fn matches(selector: &Tags, tags: &Tags) -> bool {
    selector.iter().all(|(key, want)| tags.get(key).is_some_and(|have| want == "*" || want == have))
}

/// How specific a selector is. Orders by count of conditions, then by count of exact ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rank {
    /// Conditions on an exact value.
    pub exact: usize,
    /// Conditions that only ask for presence.
    pub wildcard: usize,
}

impl Rank {
    /// Rank of a selector.
    pub fn of(selector: &Tags) -> Self {
        let wildcard = selector.values().filter(|v| *v == "*").count();
        Self { exact: selector.len() - wildcard, wildcard }
    }

    /// Rank of two selectors taken together.
    #[must_use]
    pub fn combined(self, other: Self) -> Self {
        Self { exact: self.exact + other.exact, wildcard: self.wildcard + other.wildcard }
    }
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.exact + self.wildcard, self.exact).cmp(&(other.exact + other.wildcard, other.exact))
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Every tag set of a Dataplane: one per inbound, and the gateway's.
pub fn tag_sets(dataplane: &Dataplane) -> impl Iterator<Item = &Tags> {
    let networking = dataplane.networking.as_ref();
    networking
        .into_iter()
        .flat_map(|n| n.inbound.iter().map(|i| &i.tags))
        .chain(networking.and_then(|n| n.gateway.as_ref()).map(|g| &g.tags))
}

/// The union of a Dataplane's tag sets: all values of each tag.
pub fn all_tags(dataplane: &Dataplane) -> BTreeMap<String, BTreeSet<String>> {
    let mut union: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for set in tag_sets(dataplane) {
        for (key, value) in set {
            union.entry(key.clone()).or_default().insert(value.clone());
        }
    }
    union
}

/// The first of all service values in order, or `unknown`.
pub fn identifying_service(dataplane: &Dataplane) -> String {
    tag_sets(dataplane)
        .filter_map(|t| t.get(label::SERVICE_TAG))
        .min()
        .cloned()
        .unwrap_or_else(|| "unknown".to_owned())
}

/// Does a selector match any tag set of the Dataplane?
pub fn matches_dataplane(selector: &Tags, dataplane: &Dataplane) -> bool {
    tag_sets(dataplane).any(|tags| matches(selector, tags))
}
