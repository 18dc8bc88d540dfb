//! References of targetRef policies (`spec/policies.md` 12.3), and the matches of their rules.

use std::{collections::BTreeMap, sync::LazyLock};

use regex::Regex;
use serde_json::Value;

use super::{
    Path, Violations, kubernetes,
    tags::{self, TagRules, Values},
    values,
};

static NAME: LazyLock<Regex> = LazyLock::new(|| values::pattern(r"^[0-9a-z.\-_]*$"));

/// What a reference may be.
#[derive(Clone, Copy)]
pub(super) struct Allowed {
    /// Kinds.
    pub(super) kinds: &'static [&'static str],
    /// A MeshGateway may be narrowed by tags of its listeners.
    pub(super) listener_tags: bool,
    /// The policy acts on inbounds, so that a Dataplane may be narrowed by `sectionName`.
    pub(super) inbound: bool,
}

impl Allowed {
    /// Kinds, and nothing special.
    pub(super) const fn of(kinds: &'static [&'static str]) -> Self {
        Self { kinds, listener_tags: false, inbound: false }
    }
}

/// A field of a reference, as far as it is set.
#[derive(Clone, Copy)]
struct Reference<'a> {
    path: &'a Path,
    kind: &'a str,
    value: &'a Value,
}

/// Checks a reference whose shape is right.
pub(super) fn validate(path: &Path, value: &Value, allowed: Allowed, violations: &mut Violations) {
    let kind = value["kind"].as_str().unwrap_or_default();
    if kind.is_empty() {
        violations.push(path.field("kind"), "must be defined");
        return;
    }
    if !allowed.kinds.contains(&kind) {
        violations.push(path.field("kind"), format!("value '{kind}' is not supported"));
        return;
    }
    let reference = Reference { path, kind, value };
    match kind {
        "Mesh" => {
            if reference.is_set("name") {
                violations
                    .push(path.field("name"), "using name with kind Mesh is not yet supported");
            }
            reference.without(&["mesh", "tags", "labels", "namespace", "sectionName"], violations);
            reference.proxy_types(violations);
        }
        "MeshSubset" => {
            reference.without(&["name", "mesh"], violations);
            reference.tags(Values::Tags, violations);
            reference.without(&["labels", "namespace", "sectionName"], violations);
            reference.proxy_types(violations);
        }
        "Dataplane" => {
            reference.without(&["tags", "mesh", "proxyTypes"], violations);
            reference.labels_or_name(
                "either labels or name and namespace must be specified",
                violations,
            );
            if !allowed.inbound && reference.is_set("sectionName") {
                violations
                    .push(path.field("sectionName"), "can only be used with inbound policies");
            }
        }
        "MeshService" | "MeshHTTPRoute" | "MeshExternalService" => {
            reference.name(violations);
            reference.without(&["mesh", "tags", "proxyTypes"], violations);
            if kind == "MeshHTTPRoute" {
                reference.without(&["sectionName"], violations);
            }
            if !reference.is_set("labels") && !reference.is_set("name") {
                violations.push(path, format!("name or labels must be set when kind is {kind}"));
            }
            let message = if kind == "MeshExternalService" {
                "either labels or name must be specified"
            } else {
                "either labels or name and namespace must be specified"
            };
            reference.labels_or_name(message, violations);
            if kind == "MeshExternalService" {
                reference.without(&["sectionName"], violations);
            }
        }
        "MeshServiceSubset" | "MeshGateway" => {
            if !reference.is_set("name") {
                violations.push(path.field("name"), format!("must be set when kind is {kind}"));
            }
            reference.name(violations);
            reference.without(&["mesh", "proxyTypes"], violations);
            reference.tags(Values::Selectors, violations);
            if kind == "MeshGateway" && !allowed.listener_tags {
                reference.without(&["tags"], violations);
            }
            reference.without(&["labels", "namespace", "sectionName"], violations);
        }
        // MeshMultiZoneService; Kuma has no rules for it.
        _ => {}
    }
}

impl Reference<'_> {
    /// Neither absent nor empty.
    fn is_set(&self, field: &str) -> bool {
        match &self.value[field] {
            Value::String(text) => !text.is_empty(),
            Value::Array(items) => !items.is_empty(),
            Value::Object(entries) => !entries.is_empty(),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }

    fn without(&self, fields: &[&str], violations: &mut Violations) {
        for field in fields.iter().filter(|field| self.is_set(field)) {
            let message = format!("must not be set with kind {}", self.kind);
            violations.push(self.path.field(field), message);
        }
    }

    fn name(&self, violations: &mut Violations) {
        if !NAME.is_match(self.value["name"].as_str().unwrap_or_default()) {
            violations.push(
                self.path.field("name"),
                "invalid characters: must consist of lower case alphanumeric characters, '-', \
                 '.' and '_'.",
            );
        }
    }

    fn tags(&self, kind: Values, violations: &mut Violations) {
        let tags: BTreeMap<String, String> = self.value["tags"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect();
        tags::check(&self.path.field("tags"), &tags, TagRules::of(kind), violations);
    }

    fn labels_or_name(&self, message: &str, violations: &mut Violations) {
        if self.is_set("labels") && (self.is_set("name") || self.is_set("namespace")) {
            violations.push(self.path.field("labels"), message);
        }
    }

    fn proxy_types(&self, violations: &mut Violations) {
        if self.value["proxyTypes"].as_array().is_some_and(Vec::is_empty) {
            violations.push(
                self.path.field("proxyTypes"),
                "must be undefined or have at least one element",
            );
        }
    }
}

/// Checks one match of a rule. Says whether it looks at the identity of the client.
pub(super) fn validate_match(path: &Path, value: &Value, violations: &mut Violations) -> bool {
    let (identity, sni) = (value.get("spiffeID"), value.get("sni"));
    if let Some(identity) = identity
        && let Err(error) = spiffe_id(identity["value"].as_str().unwrap_or_default())
    {
        violations.push(path.field("spiffeID"), format!("must be a valid Spiffe ID: {error}"));
    }
    if let Some(sni) = sni {
        let path = path.field("sni").field("value");
        match sni["value"].as_str().unwrap_or_default() {
            "" => violations.push(path, "must be set"),
            name => {
                for error in kubernetes::subdomain_1123_errors(name) {
                    violations.push(&path, error);
                }
            }
        }
    }
    if identity.is_none() && sni.is_none() {
        violations.push(path, "must specify at least one of 'spiffeID' or 'sni'");
    }
    identity.is_some()
}

/// Checks a SPIFFE id, with the messages of the library that Kuma uses.
fn spiffe_id(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("cannot be empty");
    }
    let rest = text.strip_prefix("spiffe://").ok_or("scheme is missing or invalid")?;
    let (domain, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    if domain.is_empty() {
        return Err("trust domain is missing");
    }
    let in_domain = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_');
    if !domain.bytes().all(in_domain) {
        return Err("trust domain characters are limited to lowercase letters, numbers, dots, \
                    dashes, and underscores");
    }
    if path.is_empty() {
        return Ok(());
    }
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "" if segments.peek().is_none() => return Err("path cannot have a trailing slash"),
            "" => return Err("path cannot contain empty segments"),
            "." | ".." => return Err("path cannot contain dot segments"),
            _ => {}
        }
        if !segment.bytes().all(|b| in_domain(b) || b.is_ascii_uppercase()) {
            return Err("path segment characters are limited to letters, numbers, dots, dashes, \
                        and underscores");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(value: &Value, allowed: Allowed, want: &[&str]) {
        let mut violations = Violations::default();
        validate(&Path::at("ref"), value, allowed, &mut violations);
        let got: Vec<_> =
            violations.iter().map(|v| format!("{}: {}", v.field, v.message)).collect();
        assert_eq!(got, want, "{value}");
    }

    const ALL: Allowed = Allowed::of(&[
        "Mesh",
        "MeshSubset",
        "Dataplane",
        "MeshService",
        "MeshHTTPRoute",
        "MeshServiceSubset",
        "MeshGateway",
        "MeshExternalService",
        "MeshMultiZoneService",
    ]);

    #[test]
    fn kinds() {
        check(&json!({}), ALL, &["ref.kind: must be defined"]);
        check(
            &json!({"kind": "Mesh"}),
            Allowed::of(&[]),
            &["ref.kind: value 'Mesh' is not supported"],
        );
        check(&json!({"kind": "Mesh", "proxyTypes": ["Sidecar"]}), ALL, &[]);
        check(
            &json!({"kind": "Mesh", "name": "a", "mesh": "b", "tags": {"a": "b"}, "labels": {},
                "sectionName": "x", "proxyTypes": []}),
            ALL,
            &[
                "ref.name: using name with kind Mesh is not yet supported",
                "ref.mesh: must not be set with kind Mesh",
                "ref.tags: must not be set with kind Mesh",
                "ref.sectionName: must not be set with kind Mesh",
                "ref.proxyTypes: must be undefined or have at least one element",
            ],
        );
        check(
            &json!({"kind": "MeshSubset", "name": "a", "tags": {"a": "*"}}),
            ALL,
            &[
                "ref.name: must not be set with kind MeshSubset",
                "ref.tags[\"a\"]: tag value must consist of alphanumeric characters, dots, dashes \
                 and underscores",
            ],
        );
        check(&json!({"kind": "Dataplane"}), ALL, &[]);
        check(
            &json!({"kind": "Dataplane", "labels": {"a": "b"}, "namespace": "n", "sectionName": "s"}),
            ALL,
            &[
                "ref.labels: either labels or name and namespace must be specified",
                "ref.sectionName: can only be used with inbound policies",
            ],
        );
        check(
            &json!({"kind": "Dataplane", "sectionName": "s"}),
            Allowed { inbound: true, ..ALL },
            &[],
        );
        check(
            &json!({"kind": "MeshService"}),
            ALL,
            &["ref: name or labels must be set when kind is MeshService"],
        );
        check(&json!({"kind": "MeshService", "name": "a", "sectionName": "http"}), ALL, &[]);
        check(
            &json!({"kind": "MeshExternalService", "name": "A", "labels": {"a": "b"}, "sectionName": "s"}),
            ALL,
            &[
                "ref.name: invalid characters: must consist of lower case alphanumeric \
                 characters, '-', '.' and '_'.",
                "ref.labels: either labels or name must be specified",
                "ref.sectionName: must not be set with kind MeshExternalService",
            ],
        );
        check(
            &json!({"kind": "MeshGateway", "tags": {"a": "*"}}),
            ALL,
            &[
                "ref.name: must be set when kind is MeshGateway",
                "ref.tags: must not be set with kind MeshGateway",
            ],
        );
        check(
            &json!({"kind": "MeshGateway", "name": "g", "tags": {"a": "*"}}),
            Allowed { listener_tags: true, ..ALL },
            &[],
        );
        check(&json!({"kind": "MeshMultiZoneService", "tags": {"": ""}}), ALL, &[]);
    }

    #[test]
    fn spiffe_ids() {
        for (text, want) in [
            ("spiffe://a", ""),
            ("spiffe://a.b_c-1/ns/A/x", ""),
            ("", "cannot be empty"),
            ("http://a", "scheme is missing or invalid"),
            ("spiffe:///a", "trust domain is missing"),
            ("spiffe://A", "trust domain characters are limited"),
            ("spiffe://a/", "path cannot have a trailing slash"),
            ("spiffe://a//b", "path cannot contain empty segments"),
            ("spiffe://a/../b", "path cannot contain dot segments"),
            ("spiffe://a/b c", "path segment characters are limited"),
        ] {
            let got = spiffe_id(text).err().unwrap_or_default();
            assert!(got.starts_with(want) && got.is_empty() == want.is_empty(), "{text}: {got}");
        }
    }
}
