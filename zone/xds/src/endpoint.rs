//! Where the services of a mesh can be reached (Kuma: pkg/xds/topology/outbound.go).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use prost_types::{Struct, Value, value};
use sunbear_model::{Kind, Resource, Typed, label, tags::Tags};
use sunbear_proto::{
    envoy::config::{
        core::v3::{Locality, Metadata},
        endpoint::v3::{
            ClusterLoadAssignment, Endpoint as EnvoyEndpoint, LbEndpoint, LocalityLbEndpoints,
            lb_endpoint::HostIdentifier,
        },
    },
    kuma::mesh::v1alpha1::{
        ZoneEgress, ZoneIngress,
        dataplane::networking::{Inbound, inbound::State},
        zone_ingress::AvailableService,
    },
};

use crate::{
    context::Context, envoy::socket_address, issue::Issues, protocol::Protocol, proxy::is_ip,
};

/// Envoy sums weights up in 32 bits; no service has more instances behind one address.
const MAX_WEIGHT: u32 = 1 << 16;

/// One address of a service. Tags and names stay in the resource that they come from.
#[derive(Debug, Clone)]
struct Endpoint {
    origin: Origin,
    weight: u32,
    priority: u32,
}

#[derive(Debug, Clone)]
enum Origin {
    /// An inbound of a Dataplane of this zone, by position.
    Inbound(Arc<Resource>, usize),
    /// What an ingress of another zone offers, by position.
    Offered(Arc<Resource>, usize),
    /// The same through an egress of this zone.
    OfferedThrough(Arc<Resource>, usize, Arc<Resource>),
    /// An external service through an egress of this zone.
    External(Arc<Resource>, Arc<Resource>),
}

impl Origin {
    fn inbound(&self) -> Option<&Inbound> {
        match self {
            Origin::Inbound(resource, index) => {
                resource.as_dataplane()?.networking.as_ref()?.inbound.get(*index)
            }
            Origin::Offered(..) | Origin::OfferedThrough(..) | Origin::External(..) => None,
        }
    }

    fn offered(&self) -> Option<&AvailableService> {
        match self {
            Origin::Offered(ingress, index) | Origin::OfferedThrough(ingress, index, _) => {
                ingress_of(ingress)?.available_services.get(*index)
            }
            Origin::Inbound(..) | Origin::External(..) => None,
        }
    }

    fn tags(&self) -> &Tags {
        static NONE: Tags = Tags::new();
        let tags = match self {
            Origin::Inbound(..) => self.inbound().map(|i| &i.tags),
            Origin::Offered(..) | Origin::OfferedThrough(..) => self.offered().map(|s| &s.tags),
            Origin::External(service, _) => match service.spec.typed() {
                Typed::ExternalService(service) => Some(&service.tags),
                _ => None,
            },
        };
        tags.unwrap_or(&NONE)
    }

    fn address(&self) -> (&str, u32) {
        let address = match self {
            Origin::Inbound(resource, _) => {
                let networking = resource.as_dataplane().and_then(|d| d.networking.as_ref());
                networking.zip(self.inbound()).map(|(networking, inbound)| {
                    let candidates =
                        [&networking.advertised_address, &inbound.address, &networking.address];
                    let address = candidates.into_iter().find(|a| !a.is_empty());
                    (address.map_or("", String::as_str), inbound.port)
                })
            }
            Origin::Offered(ingress, _) => {
                ingress_of(ingress).and_then(|i| i.networking.as_ref()).map(|networking| {
                    (networking.advertised_address.as_str(), networking.advertised_port)
                })
            }
            Origin::OfferedThrough(_, _, egress) | Origin::External(_, egress) => egress_of(egress)
                .and_then(|e| e.networking.as_ref())
                .map(|networking| (networking.address.as_str(), networking.port)),
        };
        address.unwrap_or(("", 0))
    }
}

impl Endpoint {
    /// Labels of the Dataplane, for local ones.
    fn labels(&self) -> Option<&BTreeMap<String, String>> {
        match &self.origin {
            Origin::Inbound(resource, _) => Some(&resource.labels),
            Origin::Offered(..) | Origin::OfferedThrough(..) | Origin::External(..) => None,
        }
    }

    fn zone(&self) -> Option<&str> {
        let tag = self.origin.tags().get(label::ZONE).map(String::as_str);
        tag.or_else(|| self.labels()?.get(label::ZONE).map(String::as_str))
    }

    fn protocol(&self) -> Option<Protocol> {
        let tag = self.origin.tags().get(label::PROTOCOL_TAG);
        tag.and_then(|p| Protocol::parse(p))
            .or_else(|| Protocol::parse(&self.origin.inbound()?.protocol))
    }

    /// Traffic leaves the mesh behind it.
    fn is_external(&self) -> bool {
        match &self.origin {
            Origin::Inbound(..) | Origin::Offered(..) => false,
            Origin::OfferedThrough(..) => {
                self.origin.offered().is_some_and(|service| service.external_service)
            }
            Origin::External(..) => true,
        }
    }

    fn to_envoy(&self) -> LbEndpoint {
        let (address, port) = self.origin.address();
        lb_endpoint(address, port, self.weight, self.origin.tags(), self.labels())
    }
}

/// An endpoint as Envoy has it.
pub(crate) fn lb_endpoint(
    address: &str,
    port: u32,
    weight: u32,
    tags: &Tags,
    labels: Option<&BTreeMap<String, String>>,
) -> LbEndpoint {
    let mut metadata = Metadata::default();
    if let Some(tags) = tag_struct(tags) {
        metadata.filter_metadata.insert("envoy.lb".to_owned(), tags.clone());
        metadata.filter_metadata.insert("envoy.transport_socket_match".to_owned(), tags);
    }
    if let Some(labels) = labels.filter(|l| !l.is_empty()) {
        metadata.filter_metadata.insert("io.kuma.labels".to_owned(), texts(labels));
    }
    LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(EnvoyEndpoint {
            address: Some(socket_address(address, port)),
            ..EnvoyEndpoint::default()
        })),
        load_balancing_weight: (weight > 0).then_some(weight),
        metadata: (!metadata.filter_metadata.is_empty()).then_some(metadata),
        ..LbEndpoint::default()
    }
}

/// Tags without the service, by which Envoy tells endpoints apart; none if there are none.
pub(crate) fn tag_struct(tags: &Tags) -> Option<Struct> {
    let tags: Vec<_> = tags.iter().filter(|(k, _)| *k != label::SERVICE_TAG).collect();
    (!tags.is_empty()).then(|| texts(tags))
}

fn texts<'t>(pairs: impl IntoIterator<Item = (&'t String, &'t String)>) -> Struct {
    let text = |v: &String| Value { kind: Some(value::Kind::StringValue(v.clone())) };
    Struct { fields: pairs.into_iter().map(|(k, v)| (k.clone(), text(v))).collect() }
}

/// A load assignment of endpoints with their zone and priority, grouped by these.
pub(crate) fn assignment(
    cluster: &str,
    mut endpoints: Vec<(Option<&str>, u32, LbEndpoint)>,
) -> ClusterLoadAssignment {
    endpoints.sort_by(|a, b| (a.0.unwrap_or(""), a.1).cmp(&(b.0.unwrap_or(""), b.1)));
    let mut groups: Vec<LocalityLbEndpoints> = Vec::new();
    let mut last: Option<(Option<&str>, u32)> = None;
    for (zone, priority, endpoint) in endpoints {
        if last != Some((zone, priority)) {
            last = Some((zone, priority));
            groups.push(LocalityLbEndpoints {
                locality: zone
                    .map(|zone| Locality { zone: zone.to_owned(), ..Locality::default() }),
                priority,
                ..LocalityLbEndpoints::default()
            });
        }
        if let Some(group) = groups.last_mut() {
            group.lb_endpoints.push(endpoint);
        }
    }
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: groups,
        ..ClusterLoadAssignment::default()
    }
}

/// The addresses of one service, in the order that decides what kind of service it is.
#[derive(Debug, Clone, Default)]
struct Service {
    remote: Vec<Endpoint>,
    /// By name of the Dataplane and position of the inbound.
    local: BTreeMap<(Arc<str>, usize), Endpoint>,
    external: Vec<Endpoint>,
}

impl Service {
    fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.remote.iter().chain(self.local.values()).chain(&self.external)
    }

    fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

/// Addresses by service.
#[derive(Debug, Clone, Default)]
pub(crate) struct Endpoints {
    by_service: BTreeMap<String, Service>,
    locality: Localities,
    /// Weight of local endpoints: as many as there are ingresses to spread load over.
    local_weight: u32,
    /// Issues by Dataplane.
    issues: BTreeMap<Arc<str>, Issues>,
    /// Issues with ingresses and egresses.
    far_issues: Issues,
}

/// How localities become priorities.
#[derive(Debug, Clone, Default)]
pub(crate) struct Localities {
    zone: String,
    aware: bool,
}

impl Localities {
    pub(crate) fn of(ctx: &Context<'_>) -> Self {
        let routing = ctx.mesh().and_then(|m| m.routing.as_ref());
        Self {
            zone: ctx.settings.zone.clone(),
            aware: routing.is_some_and(|r| r.locality_aware_load_balancing),
        }
    }

    pub(crate) fn priority(&self, zone: Option<&str>) -> u32 {
        u32::from(self.aware && zone.is_some_and(|z| z != self.zone))
    }
}

impl Endpoints {
    /// First other zones through their ingresses, then the Dataplanes of this zone, then external
    /// services through egresses.
    pub(crate) fn of(ctx: &Context<'_>) -> Self {
        let mut map = Self { locality: Localities::of(ctx), local_weight: 1, ..Self::default() };
        let egresses = map.egresses(ctx);
        map.add_remote(ctx, &egresses);
        for dataplane in ctx.list(Kind::DATAPLANE) {
            map.add_dataplane(dataplane);
        }
        if ctx.through_egress() {
            for service in ctx.list(Kind::EXTERNAL_SERVICE) {
                for egress in &egresses {
                    map.add_external(service, egress);
                }
            }
        }
        map
    }

    /// The services that a Dataplane is part of.
    pub(crate) fn services_of(dataplane: Option<&Arc<Resource>>) -> impl Iterator<Item = &str> {
        dataplane.into_iter().flat_map(|d| services(d)).map(|(_, service)| service)
    }

    /// Exchanges a Dataplane.
    pub(crate) fn exchange(&mut self, old: Option<&Arc<Resource>>, new: Option<&Arc<Resource>>) {
        if let Some(old) = old {
            self.issues.remove(&old.key.name);
            for (index, service) in services(old) {
                if let Some(entry) = self.by_service.get_mut(service) {
                    entry.local.remove(&(Arc::clone(&old.key.name), index));
                    if entry.is_empty() {
                        self.by_service.remove(service);
                    }
                }
            }
        }
        if let Some(new) = new {
            self.add_dataplane(new);
        }
    }

    /// What of this could not be used.
    pub(crate) fn issues(&self) -> Issues {
        let mut all = self.far_issues.clone();
        for issues in self.issues.values() {
            all.extend(issues);
        }
        all
    }

    /// Is there any address of the service?
    pub(crate) fn is_known(&self, service: &str) -> bool {
        self.by_service.contains_key(service)
    }

    /// Does the service lie outside of the mesh, behind an egress? The first address says so.
    pub(crate) fn is_external(&self, service: &str) -> bool {
        let first = self.by_service.get(service).and_then(|s| s.iter().next());
        first.is_some_and(Endpoint::is_external)
    }

    /// What all addresses of a service speak.
    pub(crate) fn protocol(&self, service: &str) -> Option<Protocol> {
        Protocol::common_of(self.by_service.get(service)?.iter().map(Endpoint::protocol))
    }

    /// The load assignment of a cluster: the addresses of the destination's service whose tags hold
    /// all of the destination's.
    pub(crate) fn assignment(&self, cluster: &str, destination: &Tags) -> ClusterLoadAssignment {
        let service = destination.get(label::SERVICE_TAG).map_or("", String::as_str);
        let holds = |endpoint: &&Endpoint| {
            let tags = endpoint.origin.tags();
            destination.iter().all(|(key, value)| tags.get(key) == Some(value))
        };
        let mut selected: Vec<&Endpoint> = self
            .by_service
            .get(service)
            .into_iter()
            .flat_map(Service::iter)
            .filter(holds)
            .collect();
        selected.sort_by(|a, b| a.origin.address().cmp(&b.origin.address()));
        let endpoints = selected.into_iter().map(|e| (e.zone(), e.priority, e.to_envoy()));
        assignment(cluster, endpoints.collect())
    }

    fn push(&mut self, service: &str, add: impl FnOnce(&mut Service)) {
        // Looked up first, as most services are there already.
        if let Some(entry) = self.by_service.get_mut(service) {
            add(entry);
        } else {
            add(self.by_service.entry(service.to_owned()).or_default());
        }
    }

    /// Egresses of this zone that endpoints can point to.
    fn egresses<'c>(&mut self, ctx: &Context<'c>) -> Vec<&'c Arc<Resource>> {
        let mut usable = Vec::new();
        for resource in ctx.list(Kind::ZONE_EGRESS) {
            let Some(egress) = egress_of(resource) else { continue };
            // One without a zone is of this zone, as in Kuma.
            if !egress.zone.is_empty() && egress.zone != self.locality.zone {
                continue;
            }
            let networking = egress.networking.as_ref();
            if networking.is_some_and(|n| is_endpoint(&n.address, n.port)) {
                usable.push(resource);
            } else {
                self.far_issues.left_out(&resource.key, "networking", NOT_AN_ENDPOINT);
            }
        }
        usable
    }

    /// Adds services of other zones.
    fn add_remote(&mut self, ctx: &Context<'_>, egresses: &[&Arc<Resource>]) {
        let through_egress = ctx.through_egress();
        let mut seen = BTreeSet::new();
        for resource in ctx.list(Kind::ZONE_INGRESS) {
            let Some(ingress) = ingress_of(resource) else { continue };
            let Some(place) = self.reachable(ingress) else { continue };
            // Instances behind one balancer are one; a fresh one that offers nothing yet does not
            // stand for the others.
            if seen.contains(&place) {
                continue;
            }
            if !ingress.available_services.is_empty() {
                seen.insert(place);
            }
            for (index, service) in ingress.available_services.iter().enumerate() {
                let Some(name) = service.tags.get(label::SERVICE_TAG) else { continue };
                if service.mesh != ctx.mesh_name() {
                    continue;
                }
                let zone = service.tags.get(label::ZONE).map(String::as_str);
                let priority = self.locality.priority(zone);
                let ingress = Arc::clone(resource);
                if through_egress {
                    for egress in egresses {
                        let origin =
                            Origin::OfferedThrough(Arc::clone(&ingress), index, Arc::clone(egress));
                        self.push(name, |s| {
                            s.remote.push(Endpoint { origin, weight: 1, priority })
                        });
                    }
                } else {
                    let origin = Origin::Offered(ingress, index);
                    let weight = service.instances.min(MAX_WEIGHT);
                    self.push(name, |s| s.remote.push(Endpoint { origin, weight, priority }));
                }
            }
        }
        self.local_weight = u32::try_from(seen.len()).unwrap_or(1).max(1);
    }

    /// The public address of another zone's ingress, if it has one.
    fn reachable<'a>(&self, ingress: &'a ZoneIngress) -> Option<(&'a str, u32)> {
        if ingress.zone.is_empty() || ingress.zone == self.locality.zone {
            return None;
        }
        let networking = ingress.networking.as_ref()?;
        let place = (networking.advertised_address.as_str(), networking.advertised_port);
        is_endpoint(place.0, place.1).then_some(place)
    }

    /// Adds the healthy inbounds of a Dataplane of this zone.
    fn add_dataplane(&mut self, resource: &Arc<Resource>) {
        let networking = resource.as_dataplane().and_then(|d| d.networking.as_ref());
        for (index, inbound) in networking.iter().flat_map(|n| n.inbound.iter().enumerate()) {
            let Some(service) = inbound.tags.get(label::SERVICE_TAG) else { continue };
            if !is_healthy(inbound) {
                continue;
            }
            let origin = Origin::Inbound(Arc::clone(resource), index);
            let (address, port) = origin.address();
            if !is_endpoint(address, port) {
                let issues = self.issues.entry(Arc::clone(&resource.key.name)).or_default();
                let field = format!("networking.inbound[{index}]");
                issues.left_out(&resource.key, field, NOT_AN_ENDPOINT);
                continue;
            }
            let mut endpoint = Endpoint { origin, weight: self.local_weight, priority: 0 };
            endpoint.priority = self.locality.priority(endpoint.zone());
            let key = (Arc::clone(&resource.key.name), index);
            self.push(service, |s| {
                s.local.insert(key, endpoint);
            });
        }
    }

    fn add_external(&mut self, service: &Arc<Resource>, egress: &Arc<Resource>) {
        let origin = Origin::External(Arc::clone(service), Arc::clone(egress));
        let tags = origin.tags();
        let Some(name) = tags.get(label::SERVICE_TAG).cloned() else { return };
        let priority = self.locality.priority(tags.get(label::ZONE).map(String::as_str));
        self.push(&name, |s| s.external.push(Endpoint { origin, weight: 1, priority }));
    }
}

const NOT_AN_ENDPOINT: &str = "an endpoint has to have an IP address and a port from 1 to 65535";

/// Envoy resolves no names of endpoints that come over xDS.
fn is_endpoint(address: &str, port: u32) -> bool {
    is_ip(address) && (1..=u32::from(u16::MAX)).contains(&port)
}

fn is_healthy(inbound: &Inbound) -> bool {
    inbound.state() == State::Ready && inbound.health.as_ref().is_none_or(|h| h.ready)
}

fn services(dataplane: &Resource) -> impl Iterator<Item = (usize, &str)> {
    let networking = dataplane.as_dataplane().and_then(|d| d.networking.as_ref());
    networking.into_iter().flat_map(|n| n.inbound.iter().enumerate()).filter_map(
        |(index, inbound)| Some((index, inbound.tags.get(label::SERVICE_TAG)?.as_str())),
    )
}

fn ingress_of(resource: &Resource) -> Option<&ZoneIngress> {
    match resource.spec.typed() {
        Typed::ZoneIngress(ingress) => Some(ingress),
        _ => None,
    }
}

fn egress_of(resource: &Resource) -> Option<&ZoneEgress> {
    match resource.spec.typed() {
        Typed::ZoneEgress(egress) => Some(egress),
        _ => None,
    }
}
