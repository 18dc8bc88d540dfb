//! Dataplane (`spec/resources.md` 4.1).

use std::collections::{BTreeMap, BTreeSet};

use sunbear_proto::kuma::mesh::v1alpha1::{
    Dataplane,
    dataplane::{
        Networking, Probes,
        networking::{
            Gateway, Inbound, Outbound, TransparentProxying, gateway::GatewayType,
            inbound::ServiceProbe,
        },
    },
};

use super::{
    Path, Violations, envelope, mesh, quoted,
    tags::{self, TagRules, Values},
    values,
};
use crate::{label, tags::Tags};

pub(super) fn validate(dataplane: &Dataplane, violations: &mut Violations) {
    let path = Path::at("networking");
    let Some(networking) = &dataplane.networking else {
        violations.push(path, "must be defined");
        return;
    };
    validate_admin(&path, networking, violations);
    match networking.gateway.as_ref().map(|g| (g, g.r#type())) {
        Some((gateway, GatewayType::Delegated)) => {
            forbid(&path, "inbound", "delegated", !networking.inbound.is_empty(), violations);
            forbid(&path, "listeners", "delegated", !networking.listeners.is_empty(), violations);
            validate_gateway(&path, gateway, violations);
            validate_networking(&path, networking, violations);
            validate_probes(dataplane.probes.as_ref(), violations);
        }
        Some((gateway, GatewayType::Builtin)) => {
            forbid(&path, "inbound", "builtin", !networking.inbound.is_empty(), violations);
            forbid(&path, "outbound", "builtin", !networking.outbound.is_empty(), violations);
            forbid(&path, "listeners", "builtin", !networking.listeners.is_empty(), violations);
            // The field is not below `networking`; Kuma says so all the same.
            forbid(&path, "probes", "builtin", dataplane.probes.is_some(), violations);
            validate_gateway(&path, gateway, violations);
            validate_networking(&path, networking, violations);
        }
        None => {
            validate_networking(&path, networking, violations);
            validate_probes(dataplane.probes.as_ref(), violations);
            if let Some(metrics) = &dataplane.metrics {
                mesh::validate_metrics_backend(&Path::at("metrics"), metrics, violations);
            }
            validate_listeners(&path, networking, violations);
        }
    }
}

fn forbid(path: &Path, field: &str, proxy: &str, present: bool, violations: &mut Violations) {
    if present {
        violations
            .push(path.field(field), format!("{field} cannot be defined for {proxy} gateways"));
    }
}

/// The admin port is bound on 127.0.0.1.
fn validate_admin(path: &Path, networking: &Networking, violations: &mut Violations) {
    let Some(admin) = &networking.admin else {
        return;
    };
    let path = path.field("admin").field("port");
    let inbound = networking.inbound.iter().any(|inbound| {
        let listen = non_empty(&inbound.address).unwrap_or(&networking.address);
        let workload = non_empty(&inbound.service_address).unwrap_or(listen);
        let workload_port =
            if inbound.service_port == 0 { inbound.port } else { inbound.service_port };
        inbound.port == admin.port && values::covers_loopback(listen)
            || workload_port == admin.port && values::covers_loopback(workload)
    });
    if inbound {
        violations.push(&path, "must differ from inbound");
    }
    let outbound = networking.outbound.iter().any(|outbound| {
        outbound.port == admin.port
            && non_empty(&outbound.address).is_none_or(values::covers_loopback)
    });
    if outbound {
        violations.push(path, "must differ from outbound");
    }
}

fn non_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn validate_gateway(path: &Path, gateway: &Gateway, violations: &mut Violations) {
    fn tcp_only(path: &Path, tags: &Tags, violations: &mut Violations) {
        if let Some(protocol) = tags.get(label::PROTOCOL_TAG)
            && !protocol.eq_ignore_ascii_case("tcp")
        {
            violations.push(
                path.key(label::PROTOCOL_TAG),
                format!(
                    "other values than tcp are not allowed, provided value {}",
                    quoted(protocol)
                ),
            );
        }
    }
    let rules = TagRules {
        require_service: !gateway.tags.is_empty(),
        map_rule: Some(tcp_only),
        ..TagRules::of(Values::Tags)
    };
    tags::check(&path.field("gateway").field("tags"), &gateway.tags, rules, violations);
}

fn validate_networking(path: &Path, networking: &Networking, violations: &mut Violations) {
    values::address(path, &networking.address, violations);
    for (i, inbound) in networking.inbound.iter().enumerate() {
        let path = path.field("inbound").index(i);
        validate_inbound(&path, inbound, &networking.address, violations);
        if !inbound.tags.is_empty() && !inbound.tags.contains_key(label::SERVICE_TAG) {
            violations.push(path.field("tags").key(label::SERVICE_TAG), "tag has to exist");
        }
    }
    for (i, outbound) in networking.outbound.iter().enumerate() {
        validate_outbound(&path.field("outbound").index(i), outbound, violations);
    }
    if let Some(proxying) = &networking.transparent_proxying {
        // Spelled like this in Kuma.
        validate_proxying(&path.field("transparentProxing"), proxying, violations);
    }
}

fn validate_inbound(
    path: &Path,
    inbound: &Inbound,
    proxy_address: &str,
    violations: &mut Violations,
) {
    values::port(path.field("port"), inbound.port, violations);
    if inbound.service_port != 0 {
        values::port(path.field("servicePort"), inbound.service_port, violations);
    }
    // The application must not be where the proxy listens, or the proxy would call itself.
    let same_port = inbound.service_port == 0 || inbound.service_port == inbound.port;
    let calls_itself = |listen: &str| inbound.service_address == listen && same_port;
    let clash = "serviceAddress and servicePort has to differ from address and port";
    if let Some(address) = non_empty(&inbound.service_address) {
        if !values::is_ip(address) {
            violations
                .push(path.field("serviceAddress"), "serviceAddress has to be valid IP address");
        }
        if calls_itself(proxy_address) {
            violations.push(path.field("serviceAddress"), clash);
        }
    }
    if let Some(address) = non_empty(&inbound.address) {
        if !values::is_ip(address) {
            violations.push(path.field("address"), "address has to be valid IP address");
        }
        if calls_itself(address) {
            violations.push(path.field("serviceAddress"), clash);
        }
    }
    let rules = TagRules { map_rule: Some(known_protocol), ..TagRules::of(Values::Tags) };
    tags::check(&path.field("tags"), &inbound.tags, rules, violations);
    if !inbound.protocol.is_empty() && !values::known_protocol(&inbound.protocol) {
        violations.push(
            path.field("protocol"),
            format!(
                "has an invalid value {}. {}",
                quoted(&inbound.protocol),
                values::PROTOCOL_HINT
            ),
        );
    }
    if let Some(probe) = &inbound.service_probe {
        validate_service_probe(&path.field("serviceProbe"), probe, violations);
    }
}

/// The protocol tag, if there is one, names a protocol that we know.
pub(super) fn known_protocol(path: &Path, tags: &Tags, violations: &mut Violations) {
    if let Some(protocol) = tags.get(label::PROTOCOL_TAG)
        && !values::known_protocol(protocol)
    {
        violations.push(
            path.key(label::PROTOCOL_TAG),
            format!(
                "tag \"kuma.io/protocol\" has an invalid value {}. {}",
                quoted(protocol),
                values::PROTOCOL_HINT
            ),
        );
    }
}

fn validate_service_probe(path: &Path, probe: &ServiceProbe, violations: &mut Violations) {
    for (field, duration) in [("interval", &probe.interval), ("timeout", &probe.timeout)] {
        if let Some(d) = duration {
            values::positive_duration(path.field(field), d.seconds, d.nanos, violations);
        }
    }
    for (field, threshold) in [
        ("unhealthyThreshold", probe.unhealthy_threshold),
        ("healthyThreshold", probe.healthy_threshold),
    ] {
        if let Some(threshold) = threshold {
            values::threshold(path.field(field), threshold, violations);
        }
    }
}

const BACKEND_KINDS: &[&str] = &["MeshExternalService", "MeshMultiZoneService", "MeshService"];

fn validate_backend_kind(path: Path, kind: &str, violations: &mut Violations) {
    if !BACKEND_KINDS.contains(&kind) {
        violations.push(
            path,
            format!("invalid value. Available values are: {}", BACKEND_KINDS.join(",")),
        );
    }
}

fn validate_outbound(path: &Path, outbound: &Outbound, violations: &mut Violations) {
    values::port(path.field("port"), outbound.port, violations);
    if !outbound.address.is_empty() && !values::is_ip(&outbound.address) {
        violations.push(path.field("address"), "address has to be valid IP address");
    }
    if let Some(backend) = &outbound.backend_ref {
        let path = path.field("backendRef");
        validate_backend_kind(path.field("kind"), &backend.kind, violations);
        if backend.name.is_empty() && backend.labels.is_empty() {
            violations.push(&path, "either 'name' or 'labels' should be specified");
        }
        if backend.kind != "MeshExternalService" {
            values::port(path.field("port"), backend.port, violations);
        }
        if !outbound.tags.is_empty() {
            violations.push(path, "both backendRef and tags/service cannot be defined");
        }
    } else {
        let rules = TagRules { require_service: true, ..TagRules::of(Values::Tags) };
        tags::check(&path.field("tags"), &outbound.tags, rules, violations);
    }
}

fn validate_proxying(path: &Path, proxying: &TransparentProxying, violations: &mut Violations) {
    let refs = proxying.reachable_backends.as_ref().map_or(&[][..], |b| &b.refs);
    for (i, backend) in refs.iter().enumerate() {
        let path = path.field("reachableBackends").field("refs").index(i);
        validate_backend_kind(path.field("kind"), &backend.kind, violations);
        let named = !backend.name.is_empty();
        let in_namespace = !backend.namespace.is_empty();
        let labelled = !backend.labels.is_empty();
        if named {
            envelope::validate_name(path.field("name"), &backend.name, violations);
        }
        if !named && !in_namespace && !labelled {
            violations.push(path.field("name"), "name or labels are required");
        }
        if !named && in_namespace {
            violations.push(path.field("name"), "name is required, when namespace is defined");
        }
        if labelled && (named || in_namespace) {
            violations
                .push(path.field("labels"), "labels cannot be defined when name is specified");
        }
    }
}

fn validate_probes(probes: Option<&Probes>, violations: &mut Violations) {
    let Some(probes) = probes else {
        return;
    };
    let path = Path::at("probes");
    values::port(path.field("port"), probes.port, violations);
    for (i, endpoint) in probes.endpoints.iter().enumerate() {
        let path = path.field("endpoints").index(i);
        values::port(path.field("inboundPort"), endpoint.inbound_port, violations);
        for (field, text) in [("inboundPath", &endpoint.inbound_path), ("path", &endpoint.path)] {
            if values::RequestUri::parse(text).is_none() {
                violations.push(path.field(field), "should be a valid URL Path");
            }
        }
    }
}

fn validate_listeners(path: &Path, networking: &Networking, violations: &mut Violations) {
    let mut names: BTreeSet<String> = networking
        .inbound
        .iter()
        .map(|i| if i.name.is_empty() { i.port.to_string() } else { i.name.clone() })
        .collect();
    let mut used: BTreeMap<(&str, u32), i32> = BTreeMap::new();
    for (i, listener) in networking.listeners.iter().enumerate() {
        let path = path.field("listeners").index(i);
        if listener.r#type == 0 {
            violations.push(path.field("type"), "type must be ZoneIngress or ZoneEgress");
        }
        values::address(&path, &listener.address, violations);
        values::port(path.field("port"), listener.port, violations);
        if !listener.name.is_empty() && !names.insert(listener.name.clone()) {
            violations.push(
                path.field("name"),
                format!(
                    "name {} must be unique across inbounds and listeners",
                    quoted(&listener.name)
                ),
            );
        }
        let (address, port) = (listener.address.as_str(), listener.port);
        match used.get(&(address, port)) {
            Some(kind) if *kind == listener.r#type => violations.push(
                &path,
                format!("address:port {address}:{port} is already used by another listener"),
            ),
            Some(_) => violations.push(
                &path,
                format!("address:port {address}:{port} is used by listeners of different types"),
            ),
            None => {
                used.insert((address, port), listener.r#type);
            }
        }
        let collides = networking.inbound.iter().any(|inbound| {
            inbound.port == port
                && non_empty(&inbound.address).unwrap_or(&networking.address) == address
        });
        if collides {
            violations.push(
                &path,
                format!("address:port {address}:{port} collides with an inbound listener"),
            );
        }
    }
}
