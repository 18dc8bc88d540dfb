//! Builtin gateways: their listeners, hosts and routes, with the policies on every destination.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};
use sunbear_model::{
    Kind, Resource,
    matching::{self, TagPolicy},
    tags::{self, Tags},
};
use sunbear_proto::kuma::mesh::v1alpha1::{
    MeshGatewayRoute,
    mesh_gateway::{Listener, listener::Protocol},
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
        let (gateway, message) = (chosen.as_mesh_gateway()?, dataplane.as_dataplane()?);
        let mut places: BTreeMap<u32, Place> = BTreeMap::new();
        for listener in gateway.conf.iter().flat_map(|c| &c.listeners) {
            let tags = matching::listener_tags(message, gateway, listener);
            let place = places.entry(listener.port).or_insert_with(|| Place {
                port: listener.port,
                protocol: listener.protocol().as_str_name(),
                hosts: BTreeMap::new(),
            });
            self.fill(place, listener, &tags);
        }
        Some((chosen, places.into_values().collect()))
    }

    /// Adds the hosts of one listener. Routes that name hosts get hosts of their own where the
    /// listener takes every name.
    fn fill(&self, place: &mut Place, listener: &Listener, tags: &Tags) {
        let own = if listener.hostname.is_empty() { "*" } else { &listener.hostname };
        place.hosts.entry(own.to_owned()).or_default();
        let attached: Vec<(&str, &MeshGatewayRoute)> = self
            .routes
            .iter()
            .filter_map(|r| Some((&*r.key.name, r.as_mesh_gateway_route()?)))
            .filter(|(_, r)| r.selectors.iter().any(|s| tags::matches(&s.r#match, tags)))
            .filter(|(_, r)| serves(r, listener.protocol()))
            .collect();
        let mut hosts: BTreeSet<&str> = BTreeSet::from([own]);
        if own == "*" {
            hosts.extend(attached.iter().flat_map(|(_, r)| hostnames(r)).map(String::as_str));
        }
        for host in hosts {
            let routes = place.hosts.entry(host.to_owned()).or_default();
            for (name, route) in &attached {
                let names = hostnames(route);
                let serves_host = if host == "*" {
                    names.is_empty()
                } else {
                    // On a host that a route has made, those without names do not count.
                    names.is_empty() && own != "*"
                        || names.iter().any(|n| matching::hostnames_match(n, host))
                };
                if !serves_host {
                    continue;
                }
                let destinations: Vec<Destination> = destinations(route)
                    .into_iter()
                    .map(|to| Destination { policies: self.policies(tags, to), tags: to.clone() })
                    .collect();
                if !destinations.is_empty() {
                    routes.insert((*name).to_owned(), destinations);
                }
            }
        }
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

fn serves(route: &MeshGatewayRoute, protocol: Protocol) -> bool {
    let http = matches!(protocol, Protocol::Http | Protocol::Https);
    match route.conf.as_ref().and_then(|c| c.route.as_ref()) {
        Some(conf::Route::Http(_)) => http,
        Some(conf::Route::Tcp(_)) => !http,
        None => false,
    }
}

fn hostnames(route: &MeshGatewayRoute) -> &[String] {
    match route.conf.as_ref().and_then(|c| c.route.as_ref()) {
        Some(conf::Route::Http(http)) => &http.hostnames,
        Some(conf::Route::Tcp(_)) | None => &[],
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
