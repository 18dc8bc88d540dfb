//! Rules for what lies around a spec: name, mesh, labels (`spec/resources.md` 2.2 and 2.3,
//! `spec/rest-api.md` 8, `spec/kds.md` 7.1).

use std::{collections::BTreeMap, sync::LazyLock};

use regex::Regex;
use sunbear_proto::kuma::mesh::v1alpha1::dataplane::networking::{gateway::GatewayType, listener};

use super::{Path, Violations, kubernetes, quoted, values::pattern};
use crate::{
    kind::Kind,
    label,
    resource::{Resource, ResourceKey, Spec, Typed},
};

type Labels = BTreeMap<String, String>;

/// What kind of control plane judges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// A global control plane.
    Global {
        /// Accept objects and deletions whatever their origin label says.
        disable_origin_label_validation: bool,
    },
    /// A zone that has a global.
    FederatedZone {
        /// Name of the zone.
        zone: String,
        /// Accept objects and deletions whatever their origin label says.
        disable_origin_label_validation: bool,
    },
    /// A zone of its own.
    StandaloneZone {
        /// Name of the zone.
        zone: String,
    },
}

impl Mode {
    /// The zone's name, except on a global.
    pub fn zone(&self) -> Option<&str> {
        match self {
            Mode::Global { .. } => None,
            Mode::FederatedZone { zone, .. } | Mode::StandaloneZone { zone } => Some(zone),
        }
    }
}

/// The parts of a PUT request around the spec.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'a> {
    /// Type, from the URL.
    pub kind: Kind,
    /// Name, from the URL.
    pub url_name: &'a str,
    /// Mesh, from the URL; empty for types of global scope.
    pub url_mesh: &'a str,
    /// Name, from the body.
    pub body_name: &'a str,
    /// Type, from the body.
    pub body_type: &'a str,
    /// Mesh, from the body.
    pub body_mesh: &'a str,
    /// Labels, from the body.
    pub labels: &'a Labels,
}

/// Checks all that a PUT says around the spec.
pub fn validate_envelope(mode: &Mode, envelope: &Envelope<'_>) -> Violations {
    let mut violations = Violations::default();
    if envelope.url_name != envelope.body_name {
        violations.push("name", "name from the URL has to be the same as in body");
    }
    // The global of an older Kuma stores it as `<zone>.<name>`.
    if let Mode::FederatedZone { zone, .. } = mode
        && zone.len() + 1 + envelope.url_name.len() >= 253
    {
        violations.push("name", "the length of the name must be shorter");
    }
    if envelope.kind.name() != envelope.body_type {
        violations.push("type", "type from the URL has to be the same as in body");
    }
    if envelope.kind.is_mesh_scoped() && envelope.url_mesh != envelope.body_mesh {
        violations.push("mesh", "mesh from the URL has to be the same as in body");
    }
    validate_labels(mode, envelope, &mut violations);
    validate_name(Path::at("name"), envelope.body_name, &mut violations);
    if envelope.kind.is_mesh_scoped() {
        validate_mesh_reference(Path::at("mesh"), envelope.body_mesh, &mut violations);
    }
    violations
}

/// The syntax of names.
pub(super) fn validate_name(path: Path, name: &str, violations: &mut Violations) {
    if name.is_empty() {
        violations.push(path, "cannot be empty");
    } else if name.len() > 253 {
        violations.push(path, "value length must less or equal 253");
    } else if !kubernetes::is_subdomain_1123(name) {
        violations.push(
            path,
            "invalid characters. A lowercase RFC 1123 subdomain must consist of lower case \
             alphanumeric characters, '-' or '.', and must start and end with an alphanumeric \
             character",
        );
    }
}

/// Wider than the rule for names, because meshes of old installations have underscores.
fn validate_mesh_reference(path: Path, mesh: &str, violations: &mut Violations) {
    static PATTERN: LazyLock<Regex> = LazyLock::new(|| pattern("^[0-9a-z-_.]*$"));
    if mesh.is_empty() {
        violations.push(path, "cannot be empty");
    } else if mesh.len() > 253 {
        violations.push(path, "value length must less or equal 253");
    } else if !PATTERN.is_match(mesh) {
        violations.push(
            path,
            "invalid characters. Valid characters are numbers, lowercase latin letters and '-', \
             '_', '.' symbols.",
        );
    }
}

fn validate_labels(mode: &Mode, envelope: &Envelope<'_>, violations: &mut Violations) {
    let path = Path::at("labels");
    let origin = envelope.labels.get(label::ORIGIN).map(String::as_str);
    if let Some(origin) = origin
        && !matches!(origin, label::ORIGIN_GLOBAL | label::ORIGIN_ZONE)
    {
        violations
            .push(path.key(label::ORIGIN), format!("unknown resource origin {}", quoted(origin)));
    }
    validate_origin(mode, &path, envelope.kind.is_json(), origin, violations);
    if let Some(own) = mode.zone()
        && origin != Some(label::ORIGIN_GLOBAL)
    {
        if envelope.labels.get(label::ZONE).is_some_and(|zone| zone != own) {
            violations
                .push(path.key(label::ZONE), format!("kuma.io/zone label should have {own} value"));
        }
        if envelope.labels.get(label::MESH).is_some_and(|mesh| mesh != envelope.body_mesh) {
            violations.push(
                path.key(label::MESH),
                "kuma.io/mesh label must not differ from mesh set on resource",
            );
        }
    }
    for (key, value) in envelope.labels {
        for message in kubernetes::label_key_errors(key) {
            violations.push(path.key(key), message);
        }
        for message in kubernetes::label_value_errors(value) {
            violations.push(path.key(key), message);
        }
    }
}

/// Does an object of this origin belong to this control plane? `zone_origin_required`: a federated
/// zone wants to see its own origin on the object.
fn validate_origin(
    mode: &Mode,
    path: &Path,
    zone_origin_required: bool,
    origin: Option<&str>,
    violations: &mut Violations,
) {
    match mode {
        Mode::Global { disable_origin_label_validation: false } => {
            if origin.is_some_and(|o| o != label::ORIGIN_GLOBAL) {
                violations
                    .push(path.key(label::ORIGIN), "the origin label must be set to 'global'");
            }
        }
        Mode::FederatedZone { disable_origin_label_validation: false, .. } => {
            if zone_origin_required && origin != Some(label::ORIGIN_ZONE) {
                violations.push(path.key(label::ORIGIN), "the origin label must be set to 'zone'");
            }
        }
        Mode::Global { .. } | Mode::FederatedZone { .. } | Mode::StandaloneZone { .. } => {}
    }
}

/// May this stored object be deleted here, by its origin? On a federated zone objects of the global
/// are kept, whatever their type: nothing would bring them back before the next reconnect.
pub fn validate_delete_labels(mode: &Mode, stored: &Resource) -> Violations {
    let mut violations = Violations::default();
    let origin = stored.label(label::ORIGIN);
    let zone_origin_required = stored.key.kind.is_json() || origin == Some(label::ORIGIN_GLOBAL);
    validate_origin(mode, &Path::root(), zone_origin_required, origin, &mut violations);
    violations
}

/// The labels that an object is stored with. The user's stand, except for those that only say what
/// the spec says.
pub fn compute_labels(mode: &Mode, key: &ResourceKey, spec: &Spec, mut labels: Labels) -> Labels {
    let mut default = |name: &str, value: &str| {
        labels.entry(name.to_owned()).or_insert_with(|| value.to_owned());
    };
    if key.kind.is_mesh_scoped() {
        default(label::MESH, if key.mesh.is_empty() { "default" } else { &key.mesh });
    }
    if let Some(zone) = mode.zone()
        && key.kind.row().zone_to_global
    {
        default(label::ORIGIN, label::ORIGIN_ZONE);
        if labels.get(label::ORIGIN).map(String::as_str) != Some(label::ORIGIN_GLOBAL) {
            labels.entry(label::ZONE.to_owned()).or_insert_with(|| zone.to_owned());
            labels.entry(label::ENV.to_owned()).or_insert_with(|| "universal".to_owned());
        }
    }
    if let Some(proxy) = proxy_type(key.kind, spec) {
        labels.insert(label::PROXY_TYPE.to_owned(), proxy.to_owned());
    }
    if key.kind == Kind::DATAPLANE {
        for (name, kind) in [
            (label::LISTENER_ZONE_INGRESS, listener::Type::ZoneIngress),
            (label::LISTENER_ZONE_EGRESS, listener::Type::ZoneEgress),
        ] {
            if has_listener(spec, kind) {
                labels.insert(name.to_owned(), "enabled".to_owned());
            } else {
                labels.remove(name);
            }
        }
    }
    labels
}

fn proxy_type(kind: Kind, spec: &Spec) -> Option<&'static str> {
    match kind {
        Kind::ZONE_INGRESS => Some("zoneingress"),
        Kind::ZONE_EGRESS => Some("zoneegress"),
        Kind::DATAPLANE => {
            let builtin = matches!(spec.typed(), Typed::Dataplane(d)
                if d.networking.as_ref().and_then(|n| n.gateway.as_ref())
                    .is_some_and(|g| g.r#type() == GatewayType::Builtin));
            // A delegated gateway is a sidecar here.
            Some(if builtin { "gateway" } else { "sidecar" })
        }
        _ => None,
    }
}

fn has_listener(spec: &Spec, kind: listener::Type) -> bool {
    matches!(spec.typed(), Typed::Dataplane(d)
        if d.networking.iter().flat_map(|n| &n.listeners).any(|l| l.r#type() == kind))
}

/// Compares the computed labels of a stored object with those that an update would give it.
pub fn validate_immutable_labels(old: &Labels, new: &Labels) -> Violations {
    let mut violations = Violations::default();
    let path = Path::at("labels");
    for name in [label::ORIGIN, label::ZONE, label::DISPLAY_NAME] {
        match (old.get(name), new.get(name)) {
            (Some(was), None) => violations.push(
                path.key(name),
                format!("is immutable, cannot be removed (was {})", quoted(was)),
            ),
            (Some(was), Some(is)) if was != is => violations.push(
                path.key(name),
                format!("is immutable, cannot be changed from {} to {}", quoted(was), quoted(is)),
            ),
            (Some(_), Some(_)) | (None, _) => {}
        }
    }
    violations
}

/// What is wrong with the workload label of a Dataplane that is to be created over REST, as the
/// detail of a "bad request".
pub fn validate_workload_label(mode: &Mode, labels: &Labels) -> Option<String> {
    let workload = labels.get(label::WORKLOAD).filter(|w| !w.is_empty())?;
    let field = Path::at("labels").key(label::WORKLOAD);
    if matches!(mode, Mode::Global { .. }) {
        return Some(format!("{field}: not allowed on Global control plane"));
    }
    let errors = kubernetes::label_1035_errors(workload);
    (!errors.is_empty()).then(|| {
        format!(
            "{field}: must be a valid DNS-1035 label (at most 63 characters, matching regex \
             [a-z]([-a-z0-9]*[a-z0-9])?): {}",
            errors.join("; ")
        )
    })
}

/// Is this a name for a zone: an RFC 1123 label in lower case?
pub fn zone_name_is_valid(name: &str) -> bool {
    kubernetes::is_label_1123(name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rest;

    const GLOBAL: Mode = Mode::Global { disable_origin_label_validation: false };

    fn federated() -> Mode {
        Mode::FederatedZone { zone: "east".to_owned(), disable_origin_label_validation: false }
    }

    fn standalone() -> Mode {
        Mode::StandaloneZone { zone: "default".to_owned() }
    }

    fn labels(entries: &[(&str, &str)]) -> Labels {
        entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn check(mode: &Mode, kind: Kind, entries: &[(&str, &str)]) -> String {
        let envelope = Envelope {
            kind,
            url_name: "x",
            url_mesh: "default",
            body_name: "x",
            body_type: kind.name(),
            body_mesh: "default",
            labels: &labels(entries),
        };
        validate_envelope(mode, &envelope).to_string()
    }

    #[test]
    fn order() {
        let labels = labels(&[("kuma.io/origin", "moon"), ("bad key", "v")]);
        let name = "A".repeat(254);
        let envelope = Envelope {
            kind: Kind::DATAPLANE,
            url_name: &"a".repeat(250),
            url_mesh: "default",
            body_name: &name,
            body_type: "Mesh",
            body_mesh: "",
            labels: &labels,
        };
        let fields: Vec<_> = validate_envelope(&federated(), &envelope)
            .0
            .into_iter()
            .map(|v| (v.field, v.message.chars().take(24).collect::<String>()))
            .collect();
        let got: Vec<_> = fields.iter().map(|(f, m)| (f.as_str(), m.as_str())).collect();
        assert_eq!(
            got,
            [
                ("name", "name from the URL has to"),
                ("name", "the length of the name m"),
                ("type", "type from the URL has to"),
                ("mesh", "mesh from the URL has to"),
                ("labels[\"kuma.io/origin\"]", "unknown resource origin "),
                ("labels[\"bad key\"]", "name part must consist o"),
                ("name", "value length must less o"),
                ("mesh", "cannot be empty"),
            ]
        );
    }

    #[test]
    fn names() {
        let name = |name: &str| {
            let mut violations = Violations::default();
            validate_name(Path::at("name"), name, &mut violations);
            violations.is_empty()
        };
        assert!(name("a") && name("a-1.b") && name("1") && name(&"a".repeat(253)));
        assert!(
            !name("")
                && !name("A")
                && !name("a_b")
                && !name("a.")
                && !name("-a")
                && !name(&"a".repeat(254))
        );
        let mesh = |mesh: &str| {
            let mut violations = Violations::default();
            validate_mesh_reference(Path::at("mesh"), mesh, &mut violations);
            violations.is_empty()
        };
        assert!(mesh("a_b") && !mesh("A") && !mesh(""));
    }

    #[test]
    fn origins() {
        let to_global = "labels[\"kuma.io/origin\"]: the origin label must be set to 'global'";
        let to_zone = "labels[\"kuma.io/origin\"]: the origin label must be set to 'zone'";
        assert_eq!(check(&GLOBAL, Kind::MESH_GATEWAY, &[]), "");
        assert_eq!(check(&GLOBAL, Kind::MESH_GATEWAY, &[("kuma.io/origin", "global")]), "");
        assert_eq!(check(&GLOBAL, Kind::MESH_GATEWAY, &[("kuma.io/origin", "zone")]), to_global);
        assert_eq!(check(&federated(), Kind::MESH_GATEWAY, &[]), "");
        assert_eq!(check(&federated(), Kind::MESH_TIMEOUT, &[]), to_zone);
        assert_eq!(
            check(&federated(), Kind::MESH_TIMEOUT, &[("kuma.io/origin", "global")]),
            to_zone
        );
        assert_eq!(check(&federated(), Kind::MESH_TIMEOUT, &[("kuma.io/origin", "zone")]), "");
        assert_eq!(check(&standalone(), Kind::MESH_TIMEOUT, &[]), "");
        let off =
            Mode::FederatedZone { zone: "east".to_owned(), disable_origin_label_validation: true };
        assert_eq!(check(&off, Kind::MESH_TIMEOUT, &[]), "");
        let off = Mode::Global { disable_origin_label_validation: true };
        assert_eq!(check(&off, Kind::MESH_GATEWAY, &[("kuma.io/origin", "zone")]), "");
    }

    #[test]
    fn zone_and_mesh_labels() {
        let zone = [("kuma.io/zone", "west")];
        assert_eq!(check(&GLOBAL, Kind::MESH_GATEWAY, &zone), "");
        assert_eq!(
            check(&federated(), Kind::MESH_GATEWAY, &zone),
            "labels[\"kuma.io/zone\"]: kuma.io/zone label should have east value"
        );
        assert_eq!(
            check(&standalone(), Kind::DATAPLANE, &[("kuma.io/mesh", "other")]),
            "labels[\"kuma.io/mesh\"]: kuma.io/mesh label must not differ from mesh set on resource"
        );
        let both =
            [("kuma.io/origin", "global"), ("kuma.io/zone", "west"), ("kuma.io/mesh", "other")];
        assert_eq!(check(&federated(), Kind::MESH_GATEWAY, &both), "");
    }

    #[test]
    fn computed() {
        let compute = |mode: &Mode, kind: Kind, spec: serde_json::Value, given: &[(&str, &str)]| {
            let spec = rest::read_as(kind, &spec).unwrap().spec;
            let key = ResourceKey::new(kind, "demo", "x");
            compute_labels(mode, &key, &spec, labels(given))
        };
        assert_eq!(compute(&GLOBAL, Kind::MESH, json!({}), &[]), labels(&[]));
        assert_eq!(
            compute(&GLOBAL, Kind::MESH_GATEWAY, json!({}), &[]),
            labels(&[("kuma.io/mesh", "demo")])
        );
        let zone = [
            ("kuma.io/env", "universal"),
            ("kuma.io/mesh", "demo"),
            ("kuma.io/origin", "zone"),
            ("kuma.io/zone", "east"),
        ];
        assert_eq!(compute(&federated(), Kind::MESH_GATEWAY, json!({}), &[]), labels(&zone));
        assert_eq!(
            compute(&federated(), Kind::MESH_GATEWAY, json!({}), &[("kuma.io/origin", "global")]),
            labels(&[("kuma.io/mesh", "demo"), ("kuma.io/origin", "global")])
        );
        // A zone cannot provide these.
        assert_eq!(
            compute(&standalone(), Kind::MESH_GATEWAY_ROUTE, json!({}), &[]),
            labels(&[("kuma.io/mesh", "demo")])
        );
        assert_eq!(compute(&standalone(), Kind::MESH, json!({}), &[]), labels(&[]));

        let proxy = |spec: serde_json::Value, given: &[(&str, &str)]| {
            let mut labels = compute(&GLOBAL, Kind::DATAPLANE, spec, given);
            labels.remove("kuma.io/mesh");
            labels.into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
        };
        let wrong = [("kuma.io/proxy-type", "x"), ("kuma.io/listener-zoneegress", "enabled")];
        assert_eq!(
            proxy(json!({"networking": {"gateway": {"type": "BUILTIN"}}}), &wrong),
            "kuma.io/proxy-type=gateway"
        );
        assert_eq!(
            proxy(json!({"networking": {"gateway": {}}}), &[]),
            "kuma.io/proxy-type=sidecar"
        );
        assert_eq!(
            proxy(json!({"networking": {"listeners": [{"type": "ZoneIngress"}]}}), &[]),
            "kuma.io/listener-zoneingress=enabled kuma.io/proxy-type=sidecar"
        );
        assert_eq!(
            compute(&federated(), Kind::ZONE_INGRESS, json!({}), &[])["kuma.io/proxy-type"],
            "zoneingress"
        );
    }

    #[test]
    fn immutable() {
        let old = labels(&[("kuma.io/origin", "zone"), ("kuma.io/display-name", "a"), ("x", "y")]);
        let new = labels(&[("kuma.io/display-name", "b"), ("kuma.io/zone", "east")]);
        assert_eq!(
            validate_immutable_labels(&old, &new).to_string(),
            "labels[\"kuma.io/origin\"]: is immutable, cannot be removed (was \"zone\"); \
             labels[\"kuma.io/display-name\"]: is immutable, cannot be changed from \"a\" to \"b\""
        );
        assert!(validate_immutable_labels(&new, &new).is_empty());
    }

    #[test]
    fn deletes() {
        let stored = |kind: Kind, origin: Option<&str>| Resource {
            key: ResourceKey::new(kind, "default", "x"),
            uid: uuid::Uuid::nil(),
            version: 1,
            revision: 1,
            labels: origin
                .map(|o| ("kuma.io/origin".to_owned(), o.to_owned()))
                .into_iter()
                .collect(),
            spec: Spec::from_wire(kind, Vec::new()),
            status: None,
            owner: None,
            created_at: time::OffsetDateTime::UNIX_EPOCH,
            modified_at: time::OffsetDateTime::UNIX_EPOCH,
        };
        let check = |mode: &Mode, kind, origin| {
            validate_delete_labels(mode, &stored(kind, origin)).to_string()
        };
        let to_zone = "[\"kuma.io/origin\"]: the origin label must be set to 'zone'";
        assert_eq!(check(&GLOBAL, Kind::DATAPLANE, None), "");
        assert_eq!(
            check(&GLOBAL, Kind::DATAPLANE, Some("zone")),
            "[\"kuma.io/origin\"]: the origin label must be set to 'global'"
        );
        assert_eq!(check(&federated(), Kind::MESH_TIMEOUT, None), to_zone);
        assert_eq!(check(&federated(), Kind::SECRET, Some("global")), to_zone);
        assert_eq!(check(&federated(), Kind::SECRET, None), "");
        assert_eq!(check(&standalone(), Kind::MESH_TIMEOUT, None), "");
    }

    #[test]
    fn workloads() {
        let check = |mode: &Mode, workload| {
            validate_workload_label(mode, &labels(&[("kuma.io/workload", workload)]))
        };
        assert_eq!(
            check(&GLOBAL, "w").as_deref(),
            Some("labels[\"kuma.io/workload\"]: not allowed on Global control plane")
        );
        assert_eq!(check(&standalone(), "w"), None);
        assert!(
            check(&standalone(), "1w")
                .unwrap()
                .ends_with("validation is '[a-z]([-a-z0-9]*[a-z0-9])?')")
        );
        assert_eq!(validate_workload_label(&GLOBAL, &labels(&[])), None);
    }

    #[test]
    fn zone_names() {
        assert!(zone_name_is_valid("east-1"));
        assert!(
            !zone_name_is_valid("east.1") && !zone_name_is_valid("East") && !zone_name_is_valid("")
        );
    }
}
