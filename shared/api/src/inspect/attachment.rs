//! Where policies are attached: to inbounds, outbounds, services or the whole of a sidecar, or to
//! routes of a gateway (`spec/rest-api.md` 12.2).

use std::{collections::BTreeMap, sync::Arc};

use axum::response::Response;
use http::StatusCode;
use serde_json::{Map, Value, json};
use sunbear_model::{
    Kind, Resource, label,
    matching::{self, Proxy, TagPolicy},
    rest,
    tags::Tags,
};
use sunbear_proto::kuma::mesh::v1alpha1::{Dataplane, dataplane::Networking};
use sunbear_store::Snapshot;

use super::{
    TARGET_REF_KINDS, find,
    gateway::{Destination, Gateways, Place},
    key_of, named, require_mesh, tag_policies,
};
use crate::{problem::Problem, reply, service::Call, target::Inspect};

/// Service that traffic to unknown destinations counts as.
const PASS_THROUGH: &str = "pass_through";

/// A part of a sidecar. The order is that of answers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Attachment {
    part: Part,
    name: String,
    service: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Dataplane,
    Inbound,
    Outbound,
    Service,
}

impl Attachment {
    fn to_json(&self) -> Map<String, Value> {
        let kind = match self.part {
            Part::Dataplane => "dataplane",
            Part::Inbound => "inbound",
            Part::Outbound => "outbound",
            Part::Service => "service",
        };
        let mut map = Map::from_iter([("type".to_owned(), kind.into())]);
        for (key, text) in [("name", &self.name), ("service", &self.service)] {
            if !text.is_empty() {
                map.insert(key.to_owned(), text.as_str().into());
            }
        }
        map
    }
}

/// Policies of a mesh, ready to be matched.
struct Policies {
    tags: BTreeMap<&'static str, Vec<TagPolicy>>,
    target_refs: Vec<Vec<Arc<Resource>>>,
    http_routes: Vec<Arc<Resource>>,
    gateways: Gateways,
}

const TAG_KINDS: [&str; 11] = [
    "CircuitBreaker",
    "FaultInjection",
    "HealthCheck",
    "ProxyTemplate",
    "RateLimit",
    "Retry",
    "Timeout",
    "TrafficLog",
    "TrafficPermission",
    "TrafficRoute",
    "TrafficTrace",
];

impl Policies {
    fn load(snapshot: &Snapshot, mesh: &str) -> Self {
        let tags = TAG_KINDS.iter().map(|kind| (*kind, tag_policies(snapshot, kind, mesh)));
        Self {
            tags: tags.collect(),
            target_refs: TARGET_REF_KINDS
                .iter()
                .map(|kind| {
                    let mut policies = named(snapshot, kind, mesh);
                    policies.retain(|p| !matching::is_shadow(p));
                    matching::sort_for_merge(&mut policies);
                    policies
                })
                .collect(),
            http_routes: named(snapshot, "MeshHTTPRoute", mesh),
            gateways: Gateways::load(snapshot, mesh),
        }
    }

    fn of_kind(&self, kind: &str) -> &[TagPolicy] {
        self.tags.get(kind).map_or(&[], Vec::as_slice)
    }

    /// All that acts on a sidecar, by where it does.
    fn of_sidecar(
        &self,
        resource: &Resource,
        dataplane: &Dataplane,
    ) -> BTreeMap<Attachment, Vec<Arc<Resource>>> {
        let mut found: BTreeMap<Attachment, Vec<Arc<Resource>>> = BTreeMap::new();
        let mut add = |part, name: String, service: &str, policy: &Arc<Resource>| {
            let service = service.to_owned();
            found.entry(Attachment { part, name, service }).or_default().push(Arc::clone(policy));
        };
        let Some(networking) = &dataplane.networking else { return found };
        for inbound in &networking.inbound {
            let one = matching::inbound_policy(self.of_kind("TrafficPermission"), &inbound.tags);
            let many = ["FaultInjection", "RateLimit"]
                .iter()
                .flat_map(|kind| matching::inbound_policies(self.of_kind(kind), &inbound.tags));
            let service = inbound.tags.get(label::SERVICE_TAG).map_or("", String::as_str);
            for policy in one.into_iter().chain(many) {
                add(Part::Inbound, inbound_name(networking, inbound), service, &policy.resource);
            }
        }
        for outbound in networking.outbound.iter().filter(|o| o.backend_ref.is_none()) {
            let service = service_of(&outbound.tags);
            for kind in ["Timeout", "RateLimit", "TrafficRoute"] {
                let policies = self.of_kind(kind);
                if let Some(policy) = matching::outbound_policy(policies, dataplane, service) {
                    let name = format!("{}:{}", outbound_address(&outbound.address), outbound.port);
                    add(Part::Outbound, name, service, &policy.resource);
                }
            }
        }
        for service in self.destinations(dataplane, networking) {
            for kind in ["HealthCheck", "CircuitBreaker", "Retry"] {
                let policies = self.of_kind(kind);
                if let Some(policy) = matching::outbound_policy(policies, dataplane, &service) {
                    add(Part::Service, service.clone(), &service, &policy.resource);
                }
            }
        }
        let mut logged: Vec<&str> = networking
            .outbound
            .iter()
            .filter(|o| o.backend_ref.is_none())
            .map(|o| service_of(&o.tags))
            .chain([PASS_THROUGH])
            .collect();
        logged.sort_unstable();
        logged.dedup();
        for service in logged {
            let logs = self.of_kind("TrafficLog");
            if let Some(policy) = matching::outbound_policy(logs, dataplane, service) {
                add(Part::Service, service.to_owned(), service, &policy.resource);
            }
        }
        for kind in ["TrafficTrace", "ProxyTemplate"] {
            if let Some(policy) = matching::dataplane_policy(self.of_kind(kind), dataplane) {
                add(Part::Dataplane, String::new(), "", policy);
            }
        }
        if let Some(proxy) = Proxy::of(resource, &self.gateways.gateways) {
            for policy in self.target_refs.iter().flatten() {
                let selected = matching::select(policy, &proxy, &self.http_routes);
                if selected.is_ok_and(|s| !s.is_empty()) {
                    add(Part::Dataplane, String::new(), "", policy);
                }
            }
        }
        found
    }

    /// The services that routes of the outbounds lead to; without a route, the outbound's own.
    fn destinations(&self, dataplane: &Dataplane, networking: &Networking) -> Vec<String> {
        let mut services = Vec::new();
        for outbound in networking.outbound.iter().filter(|o| o.backend_ref.is_none()) {
            let service = service_of(&outbound.tags);
            let routes = self.of_kind("TrafficRoute");
            match matching::outbound_policy(routes, dataplane, service) {
                None => services.push(service.to_owned()),
                Some(route) => {
                    let mut leads = Vec::new();
                    collect_services(&rest::write(&route.resource)["conf"], &mut leads);
                    // `*` keeps the service that was asked for.
                    services.extend(
                        leads.into_iter().map(|s| if s == "*" { service.to_owned() } else { s }),
                    );
                }
            }
        }
        services.sort();
        services.dedup();
        services
    }
}

/// Every service of a destination below.
fn collect_services(value: &Value, services: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(service) = map.get("destination").and_then(|d| d.get(label::SERVICE_TAG)) {
                services.extend(service.as_str().map(str::to_owned));
            }
            map.values().for_each(|v| collect_services(v, services));
        }
        Value::Array(items) => items.iter().for_each(|v| collect_services(v, services)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn service_of(tags: &Tags) -> &str {
    tags.get(label::SERVICE_TAG).map_or("", String::as_str)
}

/// Address, port and the workload's port.
fn inbound_name(
    networking: &Networking,
    inbound: &sunbear_proto::kuma::mesh::v1alpha1::dataplane::networking::Inbound,
) -> String {
    let address = if inbound.address.is_empty() { &networking.address } else { &inbound.address };
    let workload = if inbound.service_port == 0 { inbound.port } else { inbound.service_port };
    format!("{address}:{}:{workload}", inbound.port)
}

fn outbound_address(address: &str) -> &str {
    if address.is_empty() { "127.0.0.1" } else { address }
}

/// `…/dataplanes/{d}/policies`
pub(super) fn of_dataplane(call: &Call<'_>, target: &Inspect) -> Result<Response, Problem> {
    let snapshot = call.api.world.snapshot();
    require_mesh(&snapshot, &target.mesh, "Could not build MeshContext")?;
    let resource = find(&snapshot, target, "Could not get MatchedPolicies")?;
    let Some(dataplane) = resource.as_dataplane() else {
        return Err(Problem::internal("Could not get MatchedPolicies"));
    };
    let policies = Policies::load(&snapshot, &target.mesh);
    if matching::is_builtin_gateway(dataplane) {
        return Ok(reply::json(StatusCode::OK, &of_gateway(&policies, resource, dataplane)));
    }
    let items: Vec<Value> = policies
        .of_sidecar(resource, dataplane)
        .into_iter()
        .map(|(attachment, policies)| {
            let mut matched: Map<String, Value> = Map::new();
            for policy in policies {
                let list = matched.entry(policy.key.kind.name()).or_insert_with(|| json!([]));
                if let Value::Array(list) = list {
                    list.push(Value::Object(rest::envelope(&policy)));
                }
            }
            let mut item = attachment.to_json();
            item.insert("matchedPolicies".to_owned(), Value::Object(matched));
            Value::Object(item)
        })
        .collect();
    let body = json!({"kind": "SidecarDataplane", "total": items.len(), "items": items});
    Ok(reply::json(StatusCode::OK, &body))
}

fn of_gateway(policies: &Policies, resource: &Resource, dataplane: &Dataplane) -> Value {
    let mut body = json!({"kind": "MeshGatewayDataplane"});
    let (gateway, places) = match policies.gateways.places(resource) {
        Some((gateway, places)) => (key_of(gateway), places),
        None => (json!({"mesh": "", "name": ""}), Vec::new()),
    };
    body["gateway"] = gateway;
    if !places.is_empty() {
        body["listeners"] = places.iter().map(show_place).collect();
    }
    let whole = whole_gateway(policies, dataplane);
    if !whole.is_empty() {
        body["policies"] = metas(whole.iter().map(|p| (p.key.kind.name(), *p)));
    }
    body
}

/// Policies on a gateway as a whole.
fn whole_gateway<'p>(policies: &'p Policies, dataplane: &Dataplane) -> Vec<&'p Arc<Resource>> {
    let log = matching::outbound_policy(policies.of_kind("TrafficLog"), dataplane, PASS_THROUGH);
    let trace = matching::dataplane_policy(policies.of_kind("TrafficTrace"), dataplane);
    log.map(|p| &p.resource).into_iter().chain(trace).collect()
}

fn metas<'p>(policies: impl Iterator<Item = (&'static str, &'p Arc<Resource>)>) -> Value {
    let policies = policies.map(|(k, p)| (k.to_owned(), Value::Object(rest::envelope(p))));
    Value::Object(policies.collect())
}

fn show_place(place: &Place) -> Value {
    let destination = |d: &Destination| json!({"tags": d.tags, "policies": metas(d.policies.iter().map(|(k, p)| (*k, p)))});
    let hosts: Vec<Value> = place
        .hosts
        .iter()
        .map(|(host, routes)| {
            let routes: Vec<Value> = routes
                .iter()
                .map(|(name, to)| {
                    let to: Vec<Value> = to.iter().map(destination).collect();
                    json!({"route": name, "destinations": to})
                })
                .collect();
            json!({"hostName": host, "routes": routes})
        })
        .collect();
    json!({"port": place.port, "protocol": place.protocol, "hosts": hosts})
}

/// `…/{policy}/{n}/dataplanes`
pub(super) fn of_policy(call: &Call<'_>, target: &Inspect) -> Result<Response, Problem> {
    let snapshot = call.api.world.snapshot();
    require_mesh(&snapshot, &target.mesh, "Could not list Dataplanes")?;
    let policies = Policies::load(&snapshot, &target.mesh);
    let is_it = |p: &Resource| p.key.kind == target.kind && *p.key.name == *target.name;
    let mut items = Vec::new();
    for resource in snapshot.list_mesh(Kind::DATAPLANE, &target.mesh) {
        let Some(dataplane) = resource.as_dataplane() else { continue };
        if matching::is_builtin_gateway(dataplane) {
            items.extend(in_gateway(&policies, resource, dataplane, &is_it));
            continue;
        }
        let attachments: Vec<Value> = policies
            .of_sidecar(resource, dataplane)
            .into_iter()
            .filter(|(_, found)| found.iter().any(|p| is_it(p)))
            .map(|(attachment, _)| Value::Object(attachment.to_json()))
            .collect();
        if !attachments.is_empty() {
            items.push(json!({
                "kind": "SidecarDataplane",
                "dataplane": key_of(resource),
                "attachments": attachments,
            }));
        }
    }
    Ok(reply::json(StatusCode::OK, &json!({"total": items.len(), "items": items})))
}

/// The places of a policy in a gateway.
fn in_gateway(
    policies: &Policies,
    resource: &Resource,
    dataplane: &Dataplane,
    is_it: &impl Fn(&Resource) -> bool,
) -> Option<Value> {
    let (gateway, places) = policies.gateways.places(resource)?;
    let mut item = json!({
        "kind": "MeshGatewayDataplane",
        "dataplane": key_of(resource),
        "gateway": key_of(gateway),
    });
    if whole_gateway(policies, dataplane).iter().any(|p| is_it(p)) {
        return Some(item);
    }
    let mut listeners = Vec::new();
    for place in places {
        let mut hosts = Vec::new();
        for (host, routes) in &place.hosts {
            let routes: Vec<Value> = routes
                .iter()
                .filter_map(|(name, to)| {
                    let hit = |d: &&Destination| d.policies.values().any(|p| is_it(p));
                    let tags: Vec<&Tags> = to.iter().filter(hit).map(|d| &d.tags).collect();
                    (!tags.is_empty()).then(|| json!({"route": name, "destinations": tags}))
                })
                .collect();
            if !routes.is_empty() {
                hosts.push(json!({"hostName": host, "routes": routes}));
            }
        }
        if !hosts.is_empty() {
            listeners.push(json!({
                "port": place.port,
                "protocol": place.protocol,
                "hosts": hosts,
            }));
        }
    }
    if listeners.is_empty() {
        return None;
    }
    item["listeners"] = listeners.into();
    Some(item)
}
