//! Validation with Kuma's field paths and messages (`spec/resources.md` 2-6,
//! `spec/rest-api.md` 8). All violations are collected; clients show and compare them, so paths and
//! texts are fixed, oddities included.

mod dataplane;
mod defaults;
mod deprecations;
mod envelope;
mod envoy;
mod gateway;
mod gateway_route;
mod kubernetes;
mod mesh;
mod policies;
mod proxies;
mod proxy_template;
mod schema;
mod tags;
mod target_policies;
mod target_ref;
mod template;
mod traffic_route;
mod values;
mod virtual_outbound;
mod warnings;

use std::fmt;

use crate::{
    kind::Kind,
    resource::{Spec, Typed},
};

pub use defaults::apply_defaults;
pub use envelope::{
    Envelope, Mode, compute_labels, validate_delete_labels, validate_envelope,
    validate_immutable_labels, validate_workload_label, zone_name_is_valid,
};
pub use mesh::{validate_ca_backends, validate_new_mesh_name};
pub use proxy_template::PROFILES;
pub(crate) use traffic_route::given_empty as traffic_route_given_empty;
pub use warnings::warnings;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field, as [`Path`] builds it.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

/// All that is wrong, in a fixed order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Violations(pub Vec<Violation>);

impl Violations {
    /// Nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a violation.
    pub fn push(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Violation { field: field.into(), message: message.into() });
    }

    /// Adds all of `other`.
    pub fn extend(&mut self, other: Violations) {
        self.0.extend(other.0);
    }

    /// The violations one by one.
    pub fn iter(&self) -> std::slice::Iter<'_, Violation> {
        self.0.iter()
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, violation) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            if !violation.field.is_empty() {
                write!(f, "{}: ", violation.field)?;
            }
            f.write_str(&violation.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Violations {}

/// Builds field paths: a bare first segment, then `.name`, `[index]` or `["key"]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// The path of the resource itself; its first field comes out bare.
    pub fn root() -> Self {
        Self::default()
    }

    /// A path that starts with this field.
    pub fn at(field: &str) -> Self {
        Self(field.to_owned())
    }

    /// A field below this path.
    #[must_use]
    pub fn field(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// An element of the list at this path.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// The path as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The value of a key of the map at this path.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{}]", self.0, quoted(key)))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Path> for String {
    fn from(path: Path) -> Self {
        path.0
    }
}

impl From<&Path> for String {
    fn from(path: &Path) -> Self {
        path.0.clone()
    }
}

/// A text in double quotes, escaped as Go's `%q` does.
fn quoted(text: &str) -> String {
    use fmt::Write as _;
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if c.is_ascii_graphic() || c == ' ' => out.push(c),
            c if !c.is_ascii() && c.escape_debug().len() == 1 => out.push(c),
            // Writing to a String cannot fail.
            c => {
                let code = u32::from(c);
                let _ = match code {
                    0..0x80 => write!(out, "\\x{code:02x}"),
                    0x80..0x1_0000 => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push('"');
    out
}

/// The rules for the spec of a type. Types without rules, and those that this release does not
/// interpret, have none. No rule depends on the key so far; some types' rules will.
pub fn validate_spec(kind: Kind, mesh: &str, name: &str, spec: &Spec) -> Violations {
    validate_spec_with(kind, mesh, name, spec, PROFILES)
}

/// As [`validate_spec`], with the profiles that a ProxyTemplate may import.
pub fn validate_spec_with(
    kind: Kind,
    _mesh: &str,
    _name: &str,
    spec: &Spec,
    profiles: &[&str],
) -> Violations {
    let mut violations = Violations::default();
    match spec.typed() {
        Typed::Dataplane(dataplane) => dataplane::validate(dataplane, &mut violations),
        Typed::Mesh(mesh) => mesh::validate(mesh, &mut violations),
        Typed::MeshGateway(gateway) => gateway::validate(gateway, &mut violations),
        Typed::MeshGatewayRoute(route) => gateway_route::validate(route, &mut violations),
        Typed::ExternalService(service) => {
            proxies::validate_external_service(service, &mut violations);
        }
        Typed::ZoneEgress(egress) => proxies::validate_zone_egress(egress, &mut violations),
        Typed::ZoneIngress(ingress) => proxies::validate_zone_ingress(ingress, &mut violations),
        Typed::Opaque => policies::validate(kind, spec, profiles, &mut violations),
        Typed::Json(value) => target_policies::validate(kind, value, &mut violations),
        Typed::Malformed(error) => {
            violations.push("", format!("the spec does not decode: {error}"));
        }
        Typed::Config(_)
        | Typed::DataplaneInsight(_)
        | Typed::Secret(_)
        | Typed::Zone(_)
        | Typed::ZoneInsight(_) => {}
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::{Path, Violations, quoted};

    #[test]
    fn paths() {
        let path =
            Path::root().field("conf").field("listeners").index(2).field("tags").key("a/\"b");
        assert_eq!(path.to_string(), r#"conf.listeners[2].tags["a/\"b"]"#);
        assert_eq!(Path::root().key("kuma.io/origin").to_string(), r#"["kuma.io/origin"]"#);
    }

    #[test]
    fn quotes_as_go() {
        assert_eq!(quoted("a\n\u{1}é\u{7f}\u{200b}"), "\"a\\n\\x01é\\x7f\\u200b\"");
    }

    #[test]
    fn text() {
        let mut violations = Violations::default();
        violations.push(Path::at("a").field("b"), "is bad");
        violations.push("c", "is worse");
        assert_eq!(violations.to_string(), "a.b: is bad; c: is worse");
    }
}
