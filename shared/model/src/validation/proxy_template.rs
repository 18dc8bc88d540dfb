//! ProxyTemplate (`spec/resources.md` 11.10).

use sunbear_proto::kuma::mesh::v1alpha1::{
    ProxyTemplate, ProxyTemplateRawResource,
    proxy_template::{Modifications, modifications::Type},
};

use super::{
    Path, Violations, envoy,
    tags::{self, SERVICE_SELECTOR},
};

/// Profiles that a ProxyTemplate can import.
pub const PROFILES: &[&str] = &["default-proxy", "egress-proxy", "gateway-proxy", "ingress-proxy"];

const EMPTY: &str = "cannot be empty";

pub(super) fn validate(template: &ProxyTemplate, profiles: &[&str], violations: &mut Violations) {
    if !template.selectors.is_empty() {
        let path = Path::at("selectors");
        tags::check_selectors(&path, &template.selectors, SERVICE_SELECTOR, violations);
    }
    let path = Path::at("conf");
    let Some(conf) = &template.conf else {
        return;
    };
    for (i, import) in conf.imports.iter().enumerate() {
        let path = path.field("imports").index(i);
        if import.is_empty() {
            violations.push(path, EMPTY);
        } else if !profiles.contains(&import.as_str()) {
            let mut known = profiles.to_vec();
            known.sort_unstable();
            violations
                .push(path, format!("profile not found. Available profiles: {}", known.join(",")));
        }
    }
    for (i, resource) in conf.resources.iter().enumerate() {
        raw_resource(&path.field("resources").index(i), resource, violations);
    }
    for (i, modification) in conf.modifications.iter().enumerate() {
        change(&path.field("modifications").index(i), modification, violations);
    }
}

fn raw_resource(path: &Path, raw: &ProxyTemplateRawResource, violations: &mut Violations) {
    for (field, text) in [("name", &raw.name), ("version", &raw.version)] {
        if text.is_empty() {
            violations.push(path.field(field), EMPTY);
        }
    }
    let path = path.field("resource");
    if raw.resource.is_empty() {
        violations.push(path, EMPTY);
    } else {
        envoy_valid(path, envoy::check_typed(&raw.resource), violations);
    }
}

fn change(path: &Path, modification: &Modifications, violations: &mut Violations) {
    match &modification.r#type {
        None => {}
        Some(Type::Cluster(m)) => Resource {
            path: path.field("cluster"),
            message: "envoy.config.cluster.v3.Cluster",
            operation: &m.operation,
            value: &m.value,
        }
        .check("match", m.r#match.is_some(), violations),
        Some(Type::Listener(m)) => Resource {
            path: path.field("listener"),
            message: "envoy.config.listener.v3.Listener",
            operation: &m.operation,
            value: &m.value,
        }
        .check("match", m.r#match.is_some(), violations),
        Some(Type::VirtualHost(m)) => Resource {
            path: path.field("virtualHost"),
            message: "envoy.config.route.v3.VirtualHost",
            operation: &m.operation,
            value: &m.value,
        }
        .check(
            "match.name",
            m.r#match.as_ref().is_some_and(|m| !m.name.is_empty()),
            violations,
        ),
        Some(Type::NetworkFilter(m)) => Resource {
            path: path.field("networkFilter"),
            message: "envoy.config.listener.v3.Filter",
            operation: &m.operation,
            value: &m.value,
        }
        .check_filter(m.r#match.as_ref().is_some_and(|m| !m.name.is_empty()), violations),
        Some(Type::HttpFilter(m)) => Resource {
            path: path.field("httpFilter"),
            message: "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
            operation: &m.operation,
            value: &m.value,
        }
        .check_filter(m.r#match.as_ref().is_some_and(|m| !m.name.is_empty()), violations),
    }
}

/// A modification of Envoy resources of one type.
struct Resource<'a> {
    path: Path,
    message: &'static str,
    operation: &'a str,
    value: &'a str,
}

impl Resource<'_> {
    fn whole(&self, violations: &mut Violations) {
        let result = envoy::check(self.message, self.value);
        envoy_valid(self.path.field("value"), result, violations);
    }

    fn patch(&self, violations: &mut Violations) {
        let result = envoy::check_patch(self.message, self.value);
        envoy_valid(self.path.field("value"), result, violations);
    }

    /// Something that stands for itself: what is added cannot match what is there.
    fn check(&self, target: &str, targeted: bool, violations: &mut Violations) {
        match self.operation {
            "add" => {
                if targeted {
                    violations.push(self.path.field(target), "cannot be defined");
                }
                self.whole(violations);
            }
            "patch" => self.patch(violations),
            "remove" => {}
            _ => violations.push(
                self.path.field("operation"),
                "invalid operation. Available operations: \"add\", \"patch\", \"remove\"",
            ),
        }
    }

    /// One of a list, whose order counts.
    fn check_filter(&self, named: bool, violations: &mut Violations) {
        let mut needs_name = |message: &str| {
            if !named {
                violations.push(self.path.field("match").field("name"), message);
            }
        };
        match self.operation {
            "addFirst" | "addLast" => self.whole(violations),
            "addBefore" => {
                needs_name(
                    "cannot be empty. You need to pick a filter before which this one will be \
                     added",
                );
                self.whole(violations);
            }
            "addAfter" => {
                needs_name(
                    "cannot be empty. You need to pick a filter after which this one will be added",
                );
                self.whole(violations);
            }
            "patch" => {
                needs_name(EMPTY);
                self.patch(violations);
            }
            "remove" => {}
            _ => violations.push(
                self.path.field("operation"),
                "invalid operation. Available operations: \"addFirst\", \"addLast\", \
                 \"addBefore\", \"addAfter\", \"patch\", \"remove\"",
            ),
        }
    }
}

fn envoy_valid(path: Path, result: Result<(), String>, violations: &mut Violations) {
    if let Err(error) = result {
        violations.push(path, format!("native Envoy resource is not valid: {error}"));
    }
}
