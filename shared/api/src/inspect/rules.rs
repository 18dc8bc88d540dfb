//! What policies with a targetRef say together about one proxy (`spec/rest-api.md` 12.2, 12.3).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};
use sunbear_model::{
    Kind, Resource, ResourceKey, Spec, label,
    matching::{self, Item, Proxy, Socket, Subset},
    rest,
    tags::Tags,
};
use sunbear_proto::kuma::mesh::v1alpha1::{
    Dataplane, MeshGateway,
    dataplane::{
        Networking,
        networking::{Gateway, gateway::GatewayType},
    },
};
use sunbear_store::Snapshot;

use super::{TARGET_REF_KINDS, all, find, key_of, meta, named, require_mesh};
use crate::{catalogue, problem::Problem, read, reply, service::Call, target::Inspect};

use self::conf::{conf_of, hash_matches, merged_confs};

mod conf;

/// The policies of one type on one proxy, in the order in which they are merged.
struct Matched {
    kind: Kind,
    policies: Vec<Arc<Resource>>,
    by_socket: BTreeMap<Socket, Vec<Arc<Resource>>>,
    warnings: Vec<String>,
}

impl Matched {
    fn of(snapshot: &Snapshot, kind: Kind, proxy: &Proxy<'_>, routes: &[Arc<Resource>]) -> Self {
        let mut candidates = all(snapshot, kind, &proxy.resource.key.mesh);
        candidates.retain(|p| !matching::is_shadow(p));
        matching::sort_for_merge(&mut candidates);
        let mut matched =
            Self { kind, policies: Vec::new(), by_socket: BTreeMap::new(), warnings: Vec::new() };
        for policy in candidates {
            match matching::select(&policy, proxy, routes) {
                Err(error) => matched.warnings.push(format!(
                    "unable to resolve TargetRef on policy: mesh:{} name:{} error:{:?}",
                    policy.key.mesh,
                    policy.key.name,
                    error.to_string()
                )),
                Ok(selection) if selection.is_empty() => {}
                Ok(selection) => {
                    for socket in selection.sockets {
                        matched.by_socket.entry(socket).or_default().push(Arc::clone(&policy));
                    }
                    matched.policies.push(policy);
                }
            }
        }
        matched
    }

    /// Rules about clients, by socket.
    fn inbound_from(&self) -> BTreeMap<&Socket, Vec<Rule>> {
        let rules = self.by_socket.iter().map(|(socket, policies)| {
            let items: Vec<Item<'_>> = Item::all(policies, "from").collect();
            (socket, rules(self.kind, &items, true))
        });
        rules.filter(|(_, rules)| !rules.is_empty()).collect()
    }

    /// Rules about destinations by tags.
    fn to_rules(&self) -> Vec<Rule> {
        let items: Vec<Item<'_>> = Item::all(&self.policies, "to").collect();
        rules(self.kind, &items, false)
    }

    /// The configuration of the proxy as a whole, with where it comes from.
    fn proxy_rule(&self) -> Option<Value> {
        let holders: Vec<(&Arc<Resource>, &Value)> = self
            .policies
            .iter()
            .filter_map(|p| Some((p, p.as_json()?.get("default").filter(|d| !d.is_null())?)))
            .collect();
        let mut conf = Value::Null;
        holders.iter().for_each(|(_, default)| matching::merge(&mut conf, default));
        let origin: Vec<Value> = holders.iter().map(|(p, _)| meta(p)).collect();
        (!origin.is_empty()).then(|| json!({"conf": conf, "origin": origin}))
    }

    /// The newer form of rules about clients: one by one, each with its own condition.
    fn inbound_rules(&self) -> BTreeMap<&Socket, Vec<Value>> {
        let from_counts = catalogue::is_from_as_rules(self.kind);
        let mut found = BTreeMap::new();
        for (socket, policies) in &self.by_socket {
            let mut rules = Vec::new();
            for policy in policies {
                let one = std::slice::from_ref(policy);
                let mut items: Vec<Item<'_>> = Item::all(one, "rules").collect();
                if items.is_empty() && from_counts {
                    items = Item::all(one, "from").collect();
                }
                for item in items {
                    let origin =
                        json!([{"resourceMeta": meta(item.policy), "ruleIndex": item.index}]);
                    let conf = json!([item.conf()]);
                    let matches = item.value.get("matches").and_then(Value::as_array);
                    match matches.filter(|m| !m.is_empty()) {
                        None => rules.push(json!({"conf": conf, "origin": origin})),
                        Some(matches) => rules.extend(
                            matches
                                .iter()
                                .map(|m| json!({"conf": conf, "origin": origin, "match": m})),
                        ),
                    }
                }
            }
            if !rules.is_empty() {
                found.insert(socket, rules);
            }
        }
        found
    }

    /// Rules about destinations that are objects.
    fn resource_rules(&self, snapshot: &Snapshot) -> Vec<Value> {
        let items: Vec<Item<'_>> = Item::all(&self.policies, "to").collect();
        let mut resolved: Vec<(&Item<'_>, Arc<Resource>, &str)> = Vec::new();
        for item in &items {
            let section = item.target().section_name().unwrap_or_default();
            resolved.extend(resolve(snapshot, item).into_iter().map(|r| (item, r, section)));
        }
        let subjects: BTreeMap<(&ResourceKey, &str), &Arc<Resource>> =
            resolved.iter().map(|(_, r, section)| ((&r.key, *section), r)).collect();
        let mut rules: Vec<(String, Value)> = Vec::new();
        for ((key, section), subject) in subjects {
            let relevant: Vec<&Item<'_>> = resolved
                .iter()
                .filter(|(_, r, s)| {
                    r.key.kind == Kind::MESH || r.key == *key && (s.is_empty() || *s == section)
                })
                .map(|(item, ..)| *item)
                .collect();
            let origin: Vec<Value> = relevant
                .iter()
                .map(|i| json!({"resourceMeta": meta(i.policy), "ruleIndex": i.index}))
                .collect();
            let confs: Vec<Value> = relevant.iter().map(|i| conf_of(self.kind, i)).collect();
            let rule = json!({
                "conf": merged_confs(self.kind, confs),
                "origin": origin,
                "resourceMeta": meta(subject),
                "resourceSectionName": section,
            });
            rules.push((key.name.to_string(), rule));
        }
        rules.sort_by(|a, b| a.0.cmp(&b.0));
        rules.into_iter().map(|(_, rule)| rule).collect()
    }
}

/// The objects that an item is about. A name is one in the policy's own zone.
fn resolve(snapshot: &Snapshot, item: &Item<'_>) -> Vec<Arc<Resource>> {
    let (target, mesh) = (item.target(), &*item.policy.key.mesh);
    let kinds = ["MeshService", "MeshExternalService", "MeshMultiZoneService", "MeshHTTPRoute"];
    match target.kind() {
        "Mesh" => snapshot.mesh(mesh).map(Arc::clone).into_iter().collect(),
        kind if kinds.contains(&kind) => {
            let mut found = named(snapshot, kind, mesh);
            let by_labels = target.labels().is_some();
            let zone = item.policy.label(label::ZONE);
            found.retain(|r| target.names(r) && (by_labels || r.label(label::ZONE) == zone));
            found
        }
        _ => Vec::new(),
    }
}

/// A configuration for clients or destinations with certain tags.
struct Rule {
    subset: Subset,
    conf: Value,
    origins: Vec<Arc<Resource>>,
}

fn rules(kind: Kind, items: &[Item<'_>], negations: bool) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (subset, relevant) in matching::combinations(items, negations) {
        let confs = relevant.iter().map(|i| conf_of(kind, i)).collect();
        let mut seen = BTreeSet::new();
        let origins: Vec<Arc<Resource>> = relevant
            .iter()
            .filter(|i| seen.insert(&i.policy.key))
            .map(|i| Arc::new(i.policy.clone()))
            .collect();
        rules.extend(merged_confs(kind, confs).into_iter().map(|conf| Rule {
            subset: subset.clone(),
            conf,
            origins: origins.clone(),
        }));
    }
    rules
}

impl Rule {
    fn to_json(&self) -> Value {
        let matchers: Vec<Value> = self
            .subset
            .iter()
            .map(|((key, value), not)| json!({"key": key, "value": value, "not": not}))
            .collect();
        let origin: Vec<Value> = self.origins.iter().map(|p| meta(p)).collect();
        json!({"conf": self.conf, "matchers": matchers, "origin": origin})
    }
}

/// `…/{dataplanes|meshgateways}/{n}/_rules`
pub(super) fn merged(call: &Call<'_>, target: &Inspect) -> Result<Response, Problem> {
    let snapshot = call.api.world.snapshot();
    read::require_mesh(&snapshot, target.kind, &target.mesh)?;
    call.api.access.check_kind(&call.user, target.kind)?;
    let subject = find(&snapshot, target, &format!("Could not retrieve {}", target.kind))?;
    let resource = match subject.as_mesh_gateway() {
        None => Arc::clone(subject),
        Some(gateway) => Arc::new(stand_in(subject, gateway)?),
    };
    let gateways = all(&snapshot, Kind::MESH_GATEWAY, &target.mesh);
    let routes = named(&snapshot, "MeshHTTPRoute", &target.mesh);
    let Some(proxy) = Proxy::of(&resource, &gateways) else {
        return Err(Problem::internal("Failed building response"));
    };
    let mesh = snapshot.mesh(&target.mesh).map(|m| rest::write(m)).unwrap_or_default();
    let exclusive = mesh.pointer("/meshServices/mode").and_then(Value::as_str) == Some("Exclusive");

    let mut http_matches: BTreeMap<String, Value> = BTreeMap::new();
    let mut list = Vec::new();
    for kind in TARGET_REF_KINDS.iter().filter_map(|name| Kind::by_name(name)) {
        let matched = Matched::of(&snapshot, kind, &proxy, &routes);
        let to_rules = matched.to_rules();
        let resource_rules = matched.resource_rules(&snapshot);
        if kind.name() == "MeshHTTPRoute" {
            let confs = to_rules
                .iter()
                .map(|r| &r.conf)
                .chain(resource_rules.iter().filter_map(|r| r["conf"].as_array()).flatten());
            for rule in confs.filter_map(|c| c["rules"].as_array()).flatten() {
                http_matches.insert(hash_matches(&rule["matches"]), rule["matches"].clone());
            }
        }
        let to_rules = if exclusive { Vec::new() } else { to_rules };
        let from: Vec<Value> = matched
            .inbound_from()
            .iter()
            .map(|(socket, rules)| {
                let rules: Vec<Value> = rules.iter().map(Rule::to_json).collect();
                json!({"inbound": inbound(&proxy, socket), "rules": rules})
            })
            .collect();
        let inbounds: Vec<Value> = matched
            .inbound_rules()
            .iter()
            .map(|(socket, rules)| json!({"inbound": inbound(&proxy, socket), "rules": rules}))
            .collect();
        let proxy_rule = matched.proxy_rule();
        if proxy_rule.is_none()
            && to_rules.is_empty()
            && resource_rules.is_empty()
            && from.is_empty()
            && inbounds.is_empty()
        {
            continue;
        }
        let mut entry = json!({
            "type": kind.name(),
            "toRules": to_rules.iter().map(Rule::to_json).collect::<Vec<_>>(),
            "toResourceRules": resource_rules,
            "fromRules": from,
            "inboundRules": inbounds,
            "warnings": matched.warnings,
        });
        if let Some(rule) = proxy_rule {
            entry["proxyRule"] = rule;
        }
        list.push(entry);
    }
    let http_matches: Vec<Value> =
        http_matches.into_iter().map(|(hash, m)| json!({"hash": hash, "match": m})).collect();
    let body = json!({"resource": meta(subject), "httpMatches": http_matches, "rules": list});
    Ok(reply::json(StatusCode::OK, &body))
}

/// A Dataplane that belongs to a gateway: with the tags of its first selector.
fn stand_in(resource: &Resource, gateway: &MeshGateway) -> Result<Resource, Problem> {
    let Some(selector) = gateway.selectors.first() else {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "Invalid MeshGateway",
            "no selectors on MeshGateway this is not supported",
        ));
    };
    let own = Gateway { r#type: GatewayType::Builtin.into(), tags: selector.r#match.clone() };
    let networking = Networking { gateway: Some(own), ..Networking::default() };
    let dataplane = Dataplane { networking: Some(networking), ..Dataplane::default() };
    Ok(Resource {
        key: ResourceKey { kind: Kind::DATAPLANE, ..resource.key.clone() },
        spec: Spec::from_message(Kind::DATAPLANE, &dataplane),
        ..resource.clone()
    })
}

/// Tags of a socket, and its name if it has one.
fn tags_at<'p>(proxy: &Proxy<'p>, socket: &Socket) -> (Option<&'p Tags>, Option<&'p str>) {
    let Some(networking) = &proxy.dataplane.networking else { return (None, None) };
    let inbound = networking.inbound.iter().find(|i| i.port == socket.port);
    let tags = match &networking.gateway {
        Some(gateway) => Some(&gateway.tags),
        None => inbound.map(|i| &i.tags),
    };
    (tags, inbound.map(|i| i.name.as_str()).filter(|n| !n.is_empty()))
}

fn inbound(proxy: &Proxy<'_>, socket: &Socket) -> Value {
    let (tags, name) = tags_at(proxy, socket);
    let mut value = json!({"port": socket.port, "tags": tags.cloned().unwrap_or_default()});
    if let Some(name) = name {
        value["name"] = name.into();
    }
    value
}

/// `…/dataplanes/{d}/rules`
pub(super) fn attachments(call: &Call<'_>, target: &Inspect) -> Result<Response, Problem> {
    let snapshot = call.api.world.snapshot();
    require_mesh(&snapshot, &target.mesh, "Could not build MeshContext")?;
    let resource = find(&snapshot, target, "Could not get MatchedPolicies")?;
    let gateways = all(&snapshot, Kind::MESH_GATEWAY, &target.mesh);
    let routes = named(&snapshot, "MeshHTTPRoute", &target.mesh);
    let Some(proxy) = Proxy::of(resource, &gateways) else {
        return Err(Problem::internal("Could not get MatchedPolicies"));
    };
    let mut items: Vec<((String, &str), Value)> = Vec::new();
    for kind in TARGET_REF_KINDS.iter().filter_map(|name| Kind::by_name(name)) {
        let matched = Matched::of(&snapshot, kind, &proxy, &routes);
        for (socket, rules) in matched.inbound_from() {
            let (tags, _) = tags_at(&proxy, socket);
            let tags = tags.cloned().unwrap_or_default();
            let address = format!("{}:{}", socket.address, socket.port);
            items.extend(
                rules
                    .iter()
                    .map(|rule| entry("ClientSubset", kind, &tags, vec![address.clone()], rule)),
            );
        }
        items.extend(outbounds(&proxy, kind, &matched.to_rules()));
        if let Some(rule) = matched.proxy_rule() {
            let origins: Vec<Value> = rule["origin"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|o| json!({"mesh": o["mesh"], "name": o["name"]}))
                .collect();
            let value = json!({
                "type": "SingleItem",
                "policyType": kind.name(),
                "subset": {},
                "conf": rule["conf"],
                "origins": origins,
            });
            items.push(((String::new(), "SingleItem"), value));
        }
    }
    items.sort_by(|a, b| a.0.cmp(&b.0));
    let items: Vec<Value> = items.into_iter().map(|(_, item)| item).collect();
    Ok(reply::json(StatusCode::OK, &json!({"total": items.len(), "items": items})))
}

/// One entry for each set of tags that outbounds have.
fn outbounds<'k>(proxy: &Proxy<'_>, kind: Kind, rules: &[Rule]) -> Vec<((String, &'k str), Value)> {
    let mut by_tags: BTreeMap<&Tags, Vec<String>> = BTreeMap::new();
    let networking = proxy.dataplane.networking.as_ref();
    for outbound in networking.into_iter().flat_map(|n| &n.outbound) {
        if !outbound.tags.contains_key(label::SERVICE_TAG) {
            continue;
        }
        let address = match outbound.address.as_str() {
            "" => "127.0.0.1",
            given => given,
        };
        let address = format!("{address}:{}", outbound.port);
        let addresses = by_tags.entry(&outbound.tags).or_default();
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    by_tags
        .into_iter()
        .filter_map(|(tags, addresses)| {
            let counts = |rule: &&Rule| {
                rule.subset.iter().all(|((key, value), not)| (tags.get(key) == Some(value)) != *not)
            };
            let rule = rules.iter().find(counts)?;
            Some(entry("DestinationSubset", kind, tags, addresses, rule))
        })
        .collect()
}

fn entry<'k>(
    attachment: &'k str,
    kind: Kind,
    tags: &Tags,
    addresses: Vec<String>,
    rule: &Rule,
) -> ((String, &'k str), Value) {
    let name = conf::cluster_name(tags);
    let subset: BTreeMap<&String, String> = rule
        .subset
        .iter()
        .map(|((key, value), not)| (key, if *not { format!("!{value}") } else { value.clone() }))
        .collect();
    let origins: Vec<Value> = rule.origins.iter().map(|p| key_of(p)).collect();
    let mut value = json!({
        "type": attachment,
        "name": name,
        "addresses": addresses,
        "service": tags.get(label::SERVICE_TAG),
        "tags": tags,
        "policyType": kind.name(),
        "subset": subset,
        "conf": rule.conf,
        "origins": origins,
    });
    if let Some(map) = value.as_object_mut() {
        map.retain(|_, v| !v.is_null());
    }
    ((name, attachment), value)
}
