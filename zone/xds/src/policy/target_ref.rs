//! Which targetRef policies act on the listeners of a gateway, and their merged configuration
//! (`spec/policies.md` 12.4, 12.5).

use std::{cmp::Reverse, sync::Arc};

use serde_json::Value;
use sunbear_model::{
    Kind, Resource, label,
    tags::{self, Tags},
};

use super::at;
use crate::context::Context;

/// Label of policies that are only looked at, never applied.
const EFFECT: &str = "kuma.io/effect";

/// The policies of one type that may act in this zone, in the order in which they are merged:
/// later ones win.
pub(crate) struct Policies(Vec<Arc<Resource>>);

impl Policies {
    pub(crate) fn load(ctx: &Context<'_>, kind: Kind) -> Self {
        let mut policies = ctx.list(kind).to_vec();
        policies.retain(|p| p.as_json().is_some() && acts_in(p, &ctx.settings.zone));
        policies.sort_by_cached_key(|p| {
            let target = p.as_json().and_then(|spec| spec.get("targetRef"));
            let tags = target.and_then(|t| t.get("tags")).and_then(Value::as_object);
            (
                kind_rank(kind_of(target)),
                origin_rank(p.label(label::ORIGIN)),
                if kind_of(target) == "MeshGateway" { tags.map_or(0, |t| t.len()) } else { 0 },
                role_rank(p.label(label::POLICY_ROLE)),
                Reverse(p.display_name().to_owned()),
                Reverse(p.key.name.to_string()),
            )
        });
        Self(policies)
    }

    /// The policies that select one of these listeners of a gateway.
    pub(crate) fn selecting<'p>(&'p self, gateway: &Resource, listeners: &[&Tags]) -> Selected<'p> {
        Selected(
            self.0
                .iter()
                .filter(|p| {
                    let target = p.as_json().and_then(|spec| spec.get("targetRef"));
                    listeners.iter().any(|tags| selects(target, gateway, tags))
                })
                .collect(),
        )
    }
}

fn acts_in(policy: &Resource, zone: &str) -> bool {
    let foreign = policy.label(label::ORIGIN) == Some(label::ORIGIN_ZONE)
        && policy.label(label::ZONE).is_some_and(|z| z != zone)
        && policy.label(label::POLICY_ROLE) != Some("producer");
    !foreign && policy.label(EFFECT) != Some("shadow")
}

fn kind_of(target: Option<&Value>) -> &str {
    target.and_then(|t| t.get("kind")).and_then(Value::as_str).unwrap_or("Mesh")
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

fn selects(target: Option<&Value>, gateway: &Resource, listener: &Tags) -> bool {
    let text = |key: &str| target.and_then(|t| t.get(key)).and_then(Value::as_str);
    let tags_match = || {
        let selector = target.and_then(|t| t.get("tags")).and_then(Value::as_object);
        selector.is_none_or(|selector| {
            let selector: Tags = selector
                .iter()
                .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
                .collect();
            tags::matches(&selector, listener)
        })
    };
    let gateways_meant = || {
        let types = target.and_then(|t| t.get("proxyTypes")).and_then(Value::as_array);
        types.is_none_or(|t| t.is_empty() || t.iter().any(|t| t.as_str() == Some("Gateway")))
    };
    let service = || listener.get(label::SERVICE_TAG).map(String::as_str);
    match kind_of(target) {
        "Mesh" => gateways_meant(),
        "MeshSubset" => gateways_meant() && tags_match(),
        "MeshGateway" => text("name") == Some(gateway.display_name()) && tags_match(),
        "MeshService" => text("name").is_some() && text("name") == service(),
        "MeshServiceSubset" => text("name").is_some() && text("name") == service() && tags_match(),
        _ => false,
    }
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
            let from = list("from").iter().map(|i| (i, kind_of(i.get("targetRef")) == "Mesh"));
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
        rules.mesh = rules.merged(|target| kind_of(target) == "Mesh");
        Some(rules)
    }
}

/// What policies say about destinations.
pub(crate) struct ToRules<'p> {
    mesh: Option<Value>,
    items: Vec<&'p Value>,
}

impl ToRules<'_> {
    fn merged(&self, wanted: impl Fn(Option<&Value>) -> bool) -> Option<Value> {
        let mut merged = None;
        for item in self.items.iter().filter(|item| wanted(item.get("targetRef"))) {
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
        self.merged(|target| match kind_of(target) {
            "Mesh" => true,
            "MeshService" => {
                target.is_some_and(|t| at(t, &["name"]).and_then(Value::as_str) == Some(name))
            }
            _ => false,
        })
    }
}

/// Lays one configuration over another: objects are merged, lists replaced, but lists whose name
/// begins with `append` joined.
fn merge(base: &mut Value, over: &Value) {
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use sunbear_model::{Kind, tags::Tags};
    use sunbear_proto::kuma::mesh::v1alpha1::MeshGateway;

    use super::{merge, selects};
    use crate::testing;

    #[test]
    fn selection() {
        let gateway = testing::resource(Kind::MESH_GATEWAY, "edge", &MeshGateway::default());
        let listener = Tags::from([
            ("kuma.io/service".to_owned(), "gw".to_owned()),
            ("port".to_owned(), "http".to_owned()),
        ]);
        for (want, target) in [
            (true, json!(null)),
            (true, json!({"kind": "Mesh"})),
            (true, json!({"kind": "Mesh", "proxyTypes": ["Sidecar", "Gateway"]})),
            (false, json!({"kind": "Mesh", "proxyTypes": ["Sidecar"]})),
            (true, json!({"kind": "MeshSubset", "tags": {"port": "http"}})),
            (false, json!({"kind": "MeshSubset", "tags": {"port": "tcp"}})),
            (true, json!({"kind": "MeshGateway", "name": "edge"})),
            (true, json!({"kind": "MeshGateway", "name": "edge", "tags": {"port": "*"}})),
            (false, json!({"kind": "MeshGateway", "name": "edge", "tags": {"x": "*"}})),
            (false, json!({"kind": "MeshGateway", "name": "other"})),
            (true, json!({"kind": "MeshService", "name": "gw"})),
            (false, json!({"kind": "MeshService", "name": "edge"})),
            (false, json!({"kind": "Dataplane"})),
        ] {
            let target = (!target.is_null()).then_some(&target);
            assert_eq!(selects(target, &gateway, &listener), want, "{target:?}");
        }
    }

    #[test]
    fn merging() {
        let mut base = Value::Null;
        for over in [
            json!({"a": 1, "l": [1], "appendX": [1], "o": {"p": 1, "q": 2}}),
            json!({"l": [2], "appendX": [2], "o": {"q": 3}, "a": null}),
        ] {
            merge(&mut base, &over);
        }
        assert_eq!(base, json!({"a": 1, "l": [2], "appendX": [1, 2], "o": {"p": 1, "q": 3}}));
    }
}
