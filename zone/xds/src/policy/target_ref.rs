//! Which targetRef policies act on the listeners of a gateway, and their merged configuration
//! (`spec/policies.md` 12.4, 12.5).

use std::sync::Arc;

use serde_json::Value;
use sunbear_model::{
    Kind, Resource, label,
    matching::{TargetRef, is_shadow, merge, sort_for_merge},
    tags::{self, Tags},
};

use crate::context::Context;

/// The policies of one type that may act in this zone, in the order in which they are merged:
/// later ones win.
pub(crate) struct Policies(Vec<Arc<Resource>>);

impl Policies {
    pub(crate) fn load(ctx: &Context<'_>, kind: Kind) -> Self {
        let mut policies = ctx.list(kind).to_vec();
        policies.retain(|p| p.as_json().is_some() && acts_in(p, &ctx.settings.zone));
        sort_for_merge(&mut policies);
        Self(policies)
    }

    /// The policies that select one of these listeners of a gateway.
    pub(crate) fn selecting<'p>(&'p self, gateway: &Resource, listeners: &[&Tags]) -> Selected<'p> {
        Selected(
            self.0
                .iter()
                .filter(|p| {
                    let wanted = TargetRef::of(p.as_json()).on_listeners_of(gateway);
                    wanted.is_some_and(|w| listeners.iter().any(|tags| tags::matches(&w, tags)))
                })
                .collect(),
        )
    }
}

fn acts_in(policy: &Resource, zone: &str) -> bool {
    let foreign = policy.label(label::ORIGIN) == Some(label::ORIGIN_ZONE)
        && policy.label(label::ZONE).is_some_and(|z| z != zone)
        && policy.label(label::POLICY_ROLE) != Some("producer");
    !foreign && !is_shadow(policy)
}

/// The policies of one type on one listener.
pub(crate) struct Selected<'p>(Vec<&'p Arc<Resource>>);

/// What policies say about connections that come in.
#[derive(Debug, PartialEq)]
pub(crate) enum Inbound {
    /// Nothing.
    Nothing,
    /// Only about some clients.
    OnlySome,
    /// This, about all clients.
    All(Value),
}

impl<'p> Selected<'p> {
    /// The policies themselves.
    pub(crate) fn resources(&self) -> impl Iterator<Item = &'p Arc<Resource>> {
        self.0.iter().copied()
    }

    fn items<'s>(&'s self, list: &'s str) -> impl Iterator<Item = &'p Value> + 's {
        self.0
            .iter()
            .filter_map(|p| p.as_json())
            .filter_map(move |spec| spec.get(list).and_then(Value::as_array))
            .flatten()
    }

    /// The part about incoming connections: `from`, and `rules` without conditions.
    pub(crate) fn inbound(&self) -> Inbound {
        let mut merged = Value::Null;
        let (mut some, mut all) = (false, false);
        for spec in self.0.iter().filter_map(|p| p.as_json()) {
            let list = |name: &str| {
                spec.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice)
            };
            let from = list("from").iter().map(|i| (i, TargetRef::of(Some(i)).kind() == "Mesh"));
            let rules = list("rules").iter().map(|i| {
                let conditions = i.get("matches").and_then(Value::as_array);
                (i, conditions.is_none_or(Vec::is_empty))
            });
            for (item, catch_all) in from.chain(rules) {
                some = true;
                if catch_all {
                    all = true;
                    merge(&mut merged, item.get("default").unwrap_or(&Value::Null));
                }
            }
        }
        match (some, all) {
            (false, _) => Inbound::Nothing,
            (true, false) => Inbound::OnlySome,
            (true, true) => Inbound::All(merged),
        }
    }

    /// The part about destinations; none if the policies have no `to`.
    pub(crate) fn to(&self) -> Option<ToRules<'p>> {
        let items: Vec<&Value> = self.items("to").collect();
        if items.is_empty() {
            return None;
        }
        let mut rules = ToRules { mesh: None, items };
        rules.mesh = rules.merged(|target| target.kind() == "Mesh");
        Some(rules)
    }
}

/// What policies say about destinations.
pub(crate) struct ToRules<'p> {
    mesh: Option<Value>,
    items: Vec<&'p Value>,
}

impl ToRules<'_> {
    fn merged(&self, wanted: impl Fn(TargetRef<'_>) -> bool) -> Option<Value> {
        let mut merged = None;
        for item in self.items.iter().filter(|item| wanted(TargetRef::of(Some(item)))) {
            let conf = merged.get_or_insert(Value::Null);
            merge(conf, item.get("default").unwrap_or(&Value::Null));
        }
        merged
    }

    /// For whatever destination.
    pub(crate) fn mesh(&self) -> Option<&Value> {
        self.mesh.as_ref()
    }

    /// For a service.
    pub(crate) fn service(&self, name: &str) -> Option<Value> {
        self.merged(|target| match target.kind() {
            "Mesh" => true,
            "MeshService" => target.name() == Some(name),
            _ => false,
        })
    }
}
