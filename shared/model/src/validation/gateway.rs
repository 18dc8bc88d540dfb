//! MeshGateway (`spec/resources.md` 5.1).

use std::collections::{BTreeMap, BTreeSet};

use sunbear_proto::kuma::mesh::v1alpha1::{
    MeshGateway,
    mesh_gateway::{Listener, listener::Protocol, tls::Mode},
};

use super::{
    Path, Violations, quoted,
    tags::{self, TagRules, Values},
    values,
};
use crate::label;

const TAGS: TagRules = TagRules { key_rule: Some(own_key), ..TagRules::of(Values::Selectors) };

/// These tags say what a proxy is; a gateway must not claim them.
fn own_key(path: &Path, key: &str, violations: &mut Violations) {
    if matches!(
        key,
        label::EXTERNAL_SERVICE_TAG | label::PROTOCOL_TAG | label::SERVICE_TAG | label::ZONE
    ) {
        violations.push(path.key(key), format!("tag name must not be {}", quoted(key)));
    }
}

pub(super) fn validate(gateway: &MeshGateway, violations: &mut Violations) {
    let listeners = gateway.conf.as_ref().map_or(&[][..], |c| &c.listeners);
    let cross_mesh = listeners.iter().any(|l| l.cross_mesh);
    let selectors = Path::at("selectors");
    for (i, selector) in gateway.selectors.iter().enumerate() {
        let path = selectors.index(i);
        tags::check(&path.field("match"), &selector.r#match, tags::SERVICE_SELECTOR, violations);
        // Other meshes find a gateway by one service.
        if cross_mesh && i > 0 {
            violations.push(path, "there can be at most one selector");
        }
    }
    if gateway.selectors.is_empty() {
        violations.push(selectors, "must have at least one element");
    }
    tags::check(&Path::at("tags"), &gateway.tags, TAGS, violations);
    if gateway.conf.is_none() {
        violations.push("conf", "cannot be empty");
        return;
    }
    let path = Path::at("conf").field("listeners");
    if listeners.is_empty() {
        violations.push(&path, "cannot be empty");
    }
    for (i, listener) in listeners.iter().enumerate() {
        validate_listener(&path.index(i), listener, violations);
    }
    validate_shared_ports(&path, listeners, violations);
}

fn validate_listener(path: &Path, listener: &Listener, violations: &mut Violations) {
    if !listener.hostname.is_empty() {
        values::hostname(path.field("hostname"), &listener.hostname, violations);
    }
    values::port(path.field("port"), listener.port, violations);
    let tls = path.field("tls");
    match listener.protocol() {
        Protocol::None if listener.protocol == 0 => {
            violations.push(path.field("protocol"), "cannot be empty");
        }
        Protocol::Https => match &listener.tls {
            _ if listener.cross_mesh => {
                violations.push(path.field("protocol"), "protocol is not supported with crossMesh")
            }
            None => violations.push(&tls, "cannot be empty"),
            Some(conf) if conf.mode() == Mode::Passthrough => {
                violations.push(tls.field("mode"), "mode is not supported on HTTPS listeners");
            }
            Some(_) => {}
        },
        // A number that we do not know reads as None; it passes, as in Kuma.
        Protocol::None | Protocol::Tcp | Protocol::Tls | Protocol::Http => {}
    }
    match &listener.tls {
        Some(conf) if listener.cross_mesh => {
            if conf.mode != 0 || !conf.certificates.is_empty() {
                violations.push(&tls, "must be empty with crossMesh");
            }
        }
        Some(conf) if conf.mode == 0 => violations.push(tls.field("mode"), "cannot be empty"),
        Some(conf) if conf.mode() == Mode::Terminate => match conf.certificates.len() {
            0 => violations
                .push(tls.field("certificates"), "cannot be empty in TLS termination mode"),
            // One per kind of key: RSA and ECDSA.
            1 | 2 => {}
            _ => violations.push(tls.field("certificates"), "cannot have more than 2 certificates"),
        },
        Some(_) | None => {}
    }
    tags::check(&path.field("tags"), &listener.tags, TAGS, violations);
}

/// Listeners of one port become one Envoy listener, so they must agree. Reported rule by rule,
/// each in the order of ports and then of listeners.
fn validate_shared_ports(path: &Path, listeners: &[Listener], violations: &mut Violations) {
    let mut ports: BTreeMap<u32, Vec<(usize, &Listener)>> = BTreeMap::new();
    for (i, listener) in listeners.iter().enumerate() {
        ports.entry(listener.port).or_default().push((i, listener));
    }
    for group in ports.values() {
        let protocols: BTreeSet<_> = group.iter().map(|(_, l)| l.protocol).collect();
        if protocols.len() > 1 {
            for (i, _) in group {
                violations
                    .push(path.index(*i), "protocol conflicts with other listeners on this port");
            }
        }
    }
    for group in ports.values() {
        let mut count: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, listener) in group {
            *count.entry(host(listener)).or_default() += 1;
        }
        for (i, listener) in group {
            if count.get(host(listener)).is_some_and(|n| *n > 1) {
                violations.push(path.index(*i), "multiple listeners for hostname on this port");
            }
        }
    }
    for group in ports.values() {
        let limited: Vec<_> = group
            .iter()
            .filter_map(|(i, l)| Some((i, l.resources.as_ref()?.connection_limit)))
            .filter(|(_, limit)| *limit != 0)
            .collect();
        let limits: BTreeSet<_> = limited.iter().map(|(_, limit)| limit).collect();
        if limits.len() > 1 {
            for (i, _) in limited {
                violations.push(
                    path.index(*i).field("resources").field("connectionLimit"),
                    "conflicting values for this port",
                );
            }
        }
    }
}

fn host(listener: &Listener) -> &str {
    if listener.hostname.is_empty() { "*" } else { &listener.hostname }
}
