//! ExternalService, ZoneIngress and ZoneEgress (`spec/resources.md` 8, 9.3, 9.4).

use sunbear_proto::kuma::{
    mesh::v1alpha1::{
        EnvoyAdmin, ExternalService, ZoneEgress, ZoneIngress, external_service::Networking,
    },
    system::v1alpha1::{DataSource, data_source},
};

use super::{
    Path, Violations, dataplane,
    tags::{self, TagRules, Values},
    values,
};
use crate::label;

/// Tags of something that is a service.
const SERVICE_TAGS: TagRules = TagRules { require_service: true, ..TagRules::of(Values::Tags) };

pub(super) fn validate_external_service(service: &ExternalService, violations: &mut Violations) {
    let path = Path::at("networking");
    match &service.networking {
        None => violations.push(path, "should have networking"),
        Some(networking) => validate_networking(&path, networking, violations),
    }
    let path = Path::at("tags");
    let rules = TagRules { map_rule: Some(dataplane::known_protocol), ..SERVICE_TAGS };
    tags::check(&path, &service.tags, rules, violations);
    let address = service.networking.as_ref().map_or("", |n| &n.address);
    let host = values::split_host_port(address).map_or("", |(host, _)| host);
    if !host.is_empty() && service.tags.get(label::SERVICE_TAG).is_some_and(|s| s == host) {
        violations.push(path.key(label::SERVICE_TAG), "cannot be the same as networking.address");
    }
}

fn validate_networking(path: &Path, networking: &Networking, violations: &mut Violations) {
    let address = path.field("address");
    if networking.address.is_empty() {
        violations.push(address, "address can't be empty");
    } else {
        // Without a colon every further rule fails as well, and says so.
        let (host, port) = values::split_host_port(&networking.address).unwrap_or_else(|| {
            violations.push(&address, "unable to parse address");
            ("", "")
        });
        if !values::is_ip(host) && !values::is_dns_name(host) {
            violations.push(&address, "address has to be a valid IP address or a domain name");
        }
        let port = port.parse::<u32>().unwrap_or_else(|_| {
            violations.push(&address, "unable to parse port in address");
            0
        });
        values::port(address, port, violations);
    }
    let Some(tls) = &networking.tls else {
        return;
    };
    let path = path.field("tls");
    if tls.server_name.as_deref() == Some("") {
        violations.push(path.field("serverName"), "cannot be empty");
    }
    for (field, source) in
        [("caCert", &tls.ca_cert), ("clientCert", &tls.client_cert), ("clientKey", &tls.client_key)]
    {
        if source.as_ref().is_some_and(is_empty) {
            violations.push(path.field(field), "data source cannot be empty");
        }
    }
}

fn is_empty(source: &DataSource) -> bool {
    match &source.r#type {
        None => true,
        Some(
            data_source::Type::Secret(text)
            | data_source::Type::File(text)
            | data_source::Type::InlineString(text),
        ) => text.is_empty(),
        Some(data_source::Type::Inline(bytes)) => bytes.is_empty(),
    }
}

pub(super) fn validate_zone_ingress(ingress: &ZoneIngress, violations: &mut Violations) {
    let path = Path::at("networking");
    let networking = ingress.networking.clone().unwrap_or_default();
    let addresses = [
        (networking.address.as_str(), networking.port),
        (networking.advertised_address.as_str(), networking.advertised_port),
    ];
    validate_admin(&path, networking.admin.as_ref(), &addresses, violations);
    if networking.advertised_address.is_empty() && networking.advertised_port != 0 {
        violations.push(path.field("advertisedAddress"), "has to be defined with advertisedPort");
    }
    if networking.advertised_port == 0 && !networking.advertised_address.is_empty() {
        violations.push(path.field("advertisedPort"), "has to be defined with advertisedAddress");
    }
    validate_address(&path.field("address"), &networking.address, violations);
    validate_address(&path.field("advertisedAddress"), &networking.advertised_address, violations);
    values::port(path.field("port"), networking.port, violations);
    if networking.advertised_port != 0 {
        values::port(path.field("advertisedPort"), networking.advertised_port, violations);
    }
    for (i, service) in ingress.available_services.iter().enumerate() {
        // In the singular in Kuma.
        let path = Path::at("availableService").index(i).field("tags");
        tags::check(&path, &service.tags, SERVICE_TAGS, violations);
    }
}

pub(super) fn validate_zone_egress(egress: &ZoneEgress, violations: &mut Violations) {
    let path = Path::at("networking");
    let networking = egress.networking.clone().unwrap_or_default();
    let addresses = [(networking.address.as_str(), networking.port)];
    validate_admin(&path, networking.admin.as_ref(), &addresses, violations);
    validate_address(&path.field("address"), &networking.address, violations);
    values::port(path.field("port"), networking.port, violations);
}

fn validate_admin(
    path: &Path,
    admin: Option<&EnvoyAdmin>,
    addresses: &[(&str, u32)],
    violations: &mut Violations,
) {
    let clash = |port: u32| {
        addresses.iter().any(|(address, p)| *p == port && values::covers_loopback(address))
    };
    if admin.is_some_and(|admin| clash(admin.port)) {
        violations.push(path.field("admin").field("port"), "must differ from port");
    }
}

/// The rule appends `address` to a path that has it already, as in Kuma.
fn validate_address(path: &Path, address: &str, violations: &mut Violations) {
    if !address.is_empty() {
        values::address(path, address, violations);
    }
}
