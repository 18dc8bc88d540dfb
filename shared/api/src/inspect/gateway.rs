//! Builtin gateways: their listeners, hosts and routes, with the policies on every destination. Which
//! route is on which host is the generator's answer: both ask `sunbear_model::gateway`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};
use sunbear_model::{
    Kind, Resource,
    gateway::{self, Port, Route, groups, http_of, tcp_of},
    matching::{self, TagPolicy},
    tags::Tags,
};
use sunbear_proto::kuma::mesh::v1alpha1::{
    MeshGatewayRoute,
    mesh_gateway::listener::Protocol,
    mesh_gateway_route::{conf, http_route::filter},
};
use sunbear_store::Snapshot;

use super::{all, find, key_of, require_mesh, tag_policies};
use crate::{problem::Problem, reply, service::Call, target::Inspect};

/// Types that act on what a gateway sends.
const DESTINATION_KINDS: [&str; 6] =
    ["CircuitBreaker", "FaultInjection", "HealthCheck", "RateLimit", "Retry", "Timeout"];

/// A listener as it works.
pub(super) struct Place {
    pub(super) port: u32,
    pub(super) protocol: &'static str,
    /// By host name; within, by name of the route.
    pub(super) hosts: BTreeMap<String, BTreeMap<String, Vec<Destination>>>,
}

/// Where a route leads.
pub(super) struct Destination {
    pub(super) tags: Tags,
    /// The policy of each type.
    pub(super) policies: BTreeMap<&'static str, Arc<Resource>>,
}

/// What gateways of a mesh are matched with.
pub(super) struct Gateways {
    pub(super) gateways: Vec<Arc<Resource>>,
    routes: Vec<Arc<Resource>>,
    policies: Vec<(&'static str, Vec<TagPolicy>)>,
}

impl Gateways {
    pub(super) fn load(snapshot: &Snapshot, mesh: &str) -> Self {
        Self {
            gateways: all(snapshot, Kind::MESH_GATEWAY, mesh),
            routes: all(snapshot, Kind::MESH_GATEWAY_ROUTE, mesh),
            policies: DESTINATION_KINDS
                .iter()
                .map(|kind| (*kind, tag_policies(snapshot, kind, mesh)))
                .collect(),
        }
    }

    /// The gateway of a Dataplane, and its ports in order.
    pub(super) fn places(&self, dataplane: &Resource) -> Option<(&Arc<Resource>, Vec<Place>)> {
        let chosen = matching::gateway_of(&self.gateways, dataplane)?;
        let gateway = dataplane.as_dataplane()?.networking.as_ref()?.gateway.as_ref()?;
        let routes: Vec<Route<'_>> = self.routes.iter().filter_map(Route::of).collect();
        // Listeners that no port can have are not configured either.
        let (ports, _) = gateway::ports(chosen.as_mesh_gateway()?, &gateway.tags);
        Some((chosen, ports.iter().map(|port| self.place(port, &routes)).collect()))
    }

    fn place(&self, port: &Port<'_>, routes: &[Route<'_>]) -> Place {
        let http = matches!(port.protocol, Protocol::Http | Protocol::Https);
        let of_kind = |route: &Route<'_>| {
            let conf = route.message.conf.as_ref();
            if http { http_of(conf).is_some() } else { tcp_of(conf).is_some() }
        };
        let mut hosts: BTreeMap<String, BTreeMap<String, Vec<Destination>>> = BTreeMap::new();
        for host in groups(port, routes, of_kind).into_iter().flat_map(|group| group.hosts) {
            let shown = hosts.entry(host.hostname.into_owned()).or_default();
            for route in host.routes.iter().filter_map(|index| routes.get(*index)) {
                let destinations: Vec<Destination> = destinations(route.message)
                    .into_iter()
                    .map(|to| Destination {
                        policies: self.policies(&host.tags, to),
                        tags: to.clone(),
                    })
                    .collect();
                if !destinations.is_empty() {
                    shown.insert(route.resource.key.name.to_string(), destinations);
                }
            }
        }
        Place { port: port.number.into(), protocol: port.protocol.as_str_name(), hosts }
    }

    fn policies(&self, listener: &Tags, to: &Tags) -> BTreeMap<&'static str, Arc<Resource>> {
        self.policies
            .iter()
            .filter_map(|(kind, policies)| {
                let policy = matching::gateway_policy(policies, listener, to)?;
                Some((*kind, Arc::clone(&policy.resource)))
            })
            .collect()
    }
}

/// All that a route leads to, mirrors included, each once and in order.
fn destinations(route: &MeshGatewayRoute) -> BTreeSet<&Tags> {
    match route.conf.as_ref().and_then(|c| c.route.as_ref()) {
        Some(conf::Route::Http(http)) => {
            let backends = http.rules.iter().flat_map(|r| &r.backends);
            let mirrors = http.rules.iter().flat_map(|r| &r.filters).filter_map(|f| {
                match f.filter.as_ref()? {
                    filter::Filter::Mirror(mirror) => mirror.backend.as_ref(),
                    _ => None,
                }
            });
            backends.chain(mirrors).map(|b| &b.destination).collect()
        }
        Some(conf::Route::Tcp(tcp)) => {
            tcp.rules.iter().flat_map(|r| &r.backends).map(|b| &b.destination).collect()
        }
        None => BTreeSet::new(),
    }
}

/// The builtin gateways that a MeshGateway selects.
pub(super) fn dataplanes(call: &Call<'_>, target: &Inspect) -> Result<Response, Problem> {
    let snapshot = call.api.world.snapshot();
    require_mesh(&snapshot, &target.mesh, "Could not build mesh context")?;
    let gateway = find(&snapshot, target, "Could not find MeshGateway")?;
    let selectors = gateway.as_mesh_gateway().map_or(&[][..], |g| g.selectors.as_slice());
    let items = snapshot.list_mesh(Kind::DATAPLANE, &target.mesh).filter(|dataplane| {
        dataplane.as_dataplane().is_some_and(|d| {
            matching::is_builtin_gateway(d) && matching::selects_dataplane(selectors, d)
        })
    });
    Ok(keys(items))
}

/// The builtin gateways that serve a MeshGatewayRoute.
pub(super) fn route_dataplanes(call: &Call<'_>, target: &Inspect) -> Result<Response, Problem> {
    let snapshot = call.api.world.snapshot();
    require_mesh(&snapshot, &target.mesh, "Could not build mesh context")?;
    let route = find(&snapshot, target, "Could not find MeshGatewayRoute")?;
    let gateways = Gateways::load(&snapshot, &target.mesh);
    let items = snapshot.list_mesh(Kind::DATAPLANE, &target.mesh).filter(|dataplane| {
        let builtin = dataplane.as_dataplane().is_some_and(matching::is_builtin_gateway);
        let places = builtin.then(|| gateways.places(dataplane)).flatten();
        places.is_some_and(|(_, places)| {
            let mut hosts = places.iter().flat_map(|p| p.hosts.values());
            hosts.any(|routes| routes.contains_key(&*route.key.name))
        })
    });
    Ok(keys(items))
}

fn keys<'a>(dataplanes: impl Iterator<Item = &'a Arc<Resource>>) -> Response {
    let items: Vec<Value> = dataplanes.map(|d| json!({"dataplane": key_of(d)})).collect();
    reply::json(StatusCode::OK, &json!({"total": items.len(), "items": items}))
}
