//! The shape of JSON specs (`spec/rest-api.md` 6.4): types of values, with the messages of
//! Kubernetes' schema validation; defaults; and durations in Go's one form. Fields that a schema
//! does not name are left alone, for they may be of a newer release.

mod defaults;
mod tables;

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};
use sunbear_proto::duration;

use super::{Path, Violations, values};
use crate::kind::Kind;

/// The shape of a value.
#[derive(Debug)]
enum Schema {
    Text,
    /// A text out of these.
    Choice(&'static [&'static str]),
    /// The name of an HTTP header, in lower case.
    HeaderName,
    /// Go's duration text.
    Duration,
    Bool,
    /// A whole number within bounds.
    Whole(i64, i64),
    /// A whole number, or a text.
    WholeOrText,
    /// A map of texts.
    Texts,
    List(&'static Schema),
    Object(&'static [Field]),
}

/// A field of an object.
#[derive(Debug)]
struct Field {
    name: &'static str,
    schema: &'static Schema,
    required: bool,
    default: Option<Default>,
}

#[derive(Debug, Clone, Copy)]
enum Default {
    Text(&'static str),
    Whole(i64),
    Bool(bool),
}

impl Default {
    fn value(self) -> Value {
        match self {
            Default::Text(text) => text.into(),
            Default::Whole(n) => n.into(),
            Default::Bool(b) => b.into(),
        }
    }
}

const HEADER_NAME: &str = r"^[a-z0-9!#$%&'*+\-.^_\x60|~]+$";
static HEADER_NAME_PATTERN: LazyLock<Regex> = LazyLock::new(|| values::pattern(HEADER_NAME));

/// Checks the shape of a spec; types without a schema pass.
pub(super) fn check(kind: Kind, spec: &Value, violations: &mut Violations) {
    if let Some(schema) = tables::of(kind) {
        schema.check(&Path::at("spec"), spec, violations);
    }
}

/// The spec with its defaults and its durations in one form, or `None` if it is so already.
pub(super) fn completed(kind: Kind, spec: &Value) -> Option<Value> {
    let mut completed = spec.clone();
    match tables::of(kind) {
        Some(schema) => schema.complete(&mut completed),
        None => defaults::complete(kind, &mut completed),
    }
    (completed != *spec).then_some(completed)
}

impl Schema {
    fn check(&self, path: &Path, value: &Value, violations: &mut Violations) {
        let mut wrong_type = |wanted: &str| {
            let got = type_name(value);
            violations.push(path, format!("in body must be of type {wanted}: \"{got}\""));
        };
        match (self, value) {
            (Schema::Text, Value::String(_))
            | (Schema::Bool, Value::Bool(_))
            | (Schema::WholeOrText, Value::String(_)) => {}
            (Schema::Choice(allowed), Value::String(text)) => {
                if !allowed.contains(&text.as_str()) {
                    let allowed = allowed.join(" ");
                    violations.push(path, format!("in body should be one of [{allowed}]"));
                }
            }
            (Schema::HeaderName, Value::String(name)) => header_name(path, name, violations),
            (Schema::Duration, Value::String(text)) => {
                if duration::parse_nanos(text).is_none() {
                    violations.push(path, format!("invalid duration {text:?}"));
                }
            }
            (Schema::Whole(..) | Schema::WholeOrText, Value::Number(number)) => {
                let (least, most) = match self {
                    Schema::Whole(least, most) => (*least, *most),
                    _ => (i64::from(i32::MIN), i64::from(i32::MAX)),
                };
                match whole(number) {
                    Some(n) if (least..=most).contains(&n) => {}
                    Some(_) => violations
                        .push(path, format!("in body should be between {least} and {most}")),
                    None => wrong_type("integer"),
                }
            }
            (Schema::Texts, Value::Object(entries)) => {
                for (key, value) in entries {
                    Schema::Text.check(&path.field(key), value, violations);
                }
            }
            (Schema::List(schema), Value::Array(items)) => {
                for (i, item) in items.iter().enumerate() {
                    schema.check(&path.index(i), item, violations);
                }
            }
            (Schema::Object(fields), Value::Object(object)) => {
                for field in *fields {
                    let path = path.field(field.name);
                    match object.get(field.name) {
                        Some(value) => field.schema.check(&path, value, violations),
                        None if field.required => violations.push(path, "in body is required"),
                        None => {}
                    }
                }
            }
            (Schema::Text | Schema::Choice(_) | Schema::HeaderName | Schema::Duration, _) => {
                wrong_type("string");
            }
            (Schema::Bool, _) => wrong_type("boolean"),
            (Schema::Whole(..), _) => wrong_type("integer"),
            (Schema::WholeOrText, _) => wrong_type("integer,string"),
            (Schema::List(_), _) => wrong_type("array"),
            (Schema::Texts | Schema::Object(_), _) => wrong_type("object"),
        }
    }

    fn complete(&self, value: &mut Value) {
        match (self, value) {
            (Schema::Duration, Value::String(text)) => {
                if let Some(nanos) = duration::parse_nanos(text) {
                    *text = go_duration(nanos);
                }
            }
            (Schema::List(schema), Value::Array(items)) => {
                items.iter_mut().for_each(|item| schema.complete(item));
            }
            (Schema::Object(fields), Value::Object(object)) => {
                for field in *fields {
                    field.complete(object);
                }
            }
            (
                Schema::Text
                | Schema::Choice(_)
                | Schema::HeaderName
                | Schema::Duration
                | Schema::Bool
                | Schema::Whole(..)
                | Schema::WholeOrText
                | Schema::Texts
                | Schema::List(_)
                | Schema::Object(_),
                _,
            ) => {}
        }
    }
}

impl Field {
    fn complete(&self, object: &mut Map<String, Value>) {
        match (object.get_mut(self.name), self.default) {
            (Some(value), _) => self.schema.complete(value),
            (None, Some(default)) => {
                object.insert(self.name.to_owned(), default.value());
            }
            (None, None) => {}
        }
    }
}

fn header_name(path: &Path, name: &str, violations: &mut Violations) {
    if name.is_empty() {
        violations.push(path, "in body should be at least 1 chars long");
    }
    if name.len() > 256 {
        violations.push(path, "in body should be at most 256 chars long");
    }
    if !HEADER_NAME_PATTERN.is_match(name) {
        violations.push(path, format!("in body should match '{HEADER_NAME}'"));
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A number without a fraction; `5.0` is one.
pub(super) fn whole(number: &serde_json::Number) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "whole and within 2^53")]
    let from_float = |f: f64| (f.fract() == 0.0 && f.abs() < 9.0e15).then_some(f as i64);
    number.as_i64().or_else(|| number.as_f64().and_then(from_float))
}

/// A duration as Go prints it: `1h30m0s`, `1.5s`, `100ms`, `0s`.
fn go_duration(nanos: i128) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let decimal = |unit: u128, name: &str| {
        let (whole, fraction) = (nanos / unit, nanos % unit);
        let width = unit.ilog10() as usize;
        let digits = format!("{fraction:0width$}");
        let digits = digits.trim_end_matches('0');
        if fraction == 0 {
            format!("{sign}{whole}{name}")
        } else {
            format!("{sign}{whole}.{digits}{name}")
        }
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{nanos}ns"),
        1_000..1_000_000 => decimal(1_000, "µs"),
        1_000_000..1_000_000_000 => decimal(1_000_000, "ms"),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = nanos % 60_000_000_000;
            let (whole, fraction) = (seconds / 1_000_000_000, seconds % 1_000_000_000);
            let mut text = sign.to_owned();
            if minutes >= 60 {
                text += &format!("{}h", minutes / 60);
            }
            if minutes > 0 {
                text += &format!("{}m", minutes % 60);
            }
            text += &whole.to_string();
            if fraction > 0 {
                text += ".";
                text += format!("{fraction:09}").trim_end_matches('0');
            }
            text + "s"
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations() {
        for (text, want) in [
            ("0", "0s"),
            ("90s", "1m30s"),
            ("1h", "1h0m0s"),
            ("3601s", "1h0m1s"),
            ("1500ms", "1.5s"),
            ("-1.5s", "-1.5s"),
            ("100ms", "100ms"),
            ("1.5ms", "1.5ms"),
            ("0.001002s", "1.002ms"),
            ("1500ns", "1.5µs"),
            ("7ns", "7ns"),
            ("59.000000001s", "59.000000001s"),
            ("25h61m", "26h1m0s"),
        ] {
            assert_eq!(go_duration(duration::parse_nanos(text).unwrap()), want, "{text}");
        }
    }

    fn check_spec(kind: Kind, spec: &Value, want: &[&str]) {
        let mut violations = Violations::default();
        check(kind, spec, &mut violations);
        let got: Vec<_> = violations.iter().map(|v| format!("{} {}", v.field, v.message)).collect();
        assert_eq!(got, want, "{spec}");
    }

    #[test]
    fn shapes() {
        check_spec(
            Kind::MESH_TIMEOUT,
            &json!({
                "targetRef": {"kind": "Mesh", "name": 1, "tags": {"a": 2}, "proxyTypes": ["Car"]},
                "to": [{"default": {"idleTimeout": "5", "http": []}}, null],
                "from": {},
                "unknown": [1],
            }),
            &[
                "spec.targetRef.name in body must be of type string: \"number\"",
                "spec.targetRef.tags.a in body must be of type string: \"number\"",
                "spec.targetRef.proxyTypes[0] in body should be one of [Sidecar Gateway]",
                "spec.to[0].targetRef in body is required",
                "spec.to[0].default.idleTimeout invalid duration \"5\"",
                "spec.to[0].default.http in body must be of type object: \"array\"",
                "spec.to[1] in body must be of type object: \"null\"",
                "spec.from in body must be of type array: \"object\"",
            ],
        );
        check_spec(
            Kind::MESH_RETRY,
            &json!({"to": [{"targetRef": {"kind": "Nothing"}, "default": {"http": {
                "numRetries": -1,
                "retryOn": [5],
                "rateLimitedBackOff": {"resetHeaders": [{"name": "A"}]},
                "hostSelectionMaxAttempts": 1.5,
            }}}]}),
            &[
                "spec.to[0].targetRef.kind in body should be one of [Mesh MeshSubset MeshGateway \
                 MeshService MeshExternalService MeshMultiZoneService MeshServiceSubset \
                 MeshHTTPRoute Dataplane]",
                "spec.to[0].default.http.numRetries in body should be between 0 and 4294967295",
                "spec.to[0].default.http.rateLimitedBackOff.resetHeaders[0].name in body should \
                 match '^[a-z0-9!#$%&'*+\\-.^_\\x60|~]+$'",
                "spec.to[0].default.http.rateLimitedBackOff.resetHeaders[0].format in body is \
                 required",
                "spec.to[0].default.http.retryOn[0] in body must be of type string: \"number\"",
                "spec.to[0].default.http.hostSelectionMaxAttempts in body must be of type \
                 integer: \"number\"",
            ],
        );
        check_spec(
            Kind::MESH_CIRCUIT_BREAKER,
            &json!({"rules": [{"default": {"outlierDetection": {
                "disabled": "yes", "healthyPanicThreshold": true, "maxEjectionPercent": 5.0,
            }}}]}),
            &[
                "spec.rules[0].default.outlierDetection.disabled in body must be of type boolean: \
                 \"string\"",
                "spec.rules[0].default.outlierDetection.healthyPanicThreshold in body must be of \
                 type integer,string: \"boolean\"",
            ],
        );
        check_spec(Kind::by_name("MeshTLS").unwrap(), &json!({"targetRef": 1}), &[]);
    }

    #[test]
    fn completion() {
        let spec = json!({"later": 1, "to": [{"targetRef": {"kind": "Mesh"}, "default": {"http": {
            "perTryTimeout": "90s",
            "retriableRequestHeaders": [{"name": "a"}, {"name": "b", "type": "Prefix"}],
            "hostSelection": [{"predicate": "OmitPreviousHosts"}],
        }}}]});
        let want = json!({"later": 1, "to": [{"targetRef": {"kind": "Mesh"}, "default": {"http": {
            "perTryTimeout": "1m30s",
            "retriableRequestHeaders": [
                {"name": "a", "type": "Exact"}, {"name": "b", "type": "Prefix"},
            ],
            "hostSelection": [{"predicate": "OmitPreviousHosts", "updateFrequency": 2}],
        }}}]});
        assert_eq!(completed(Kind::MESH_RETRY, &spec), Some(want.clone()));
        assert_eq!(completed(Kind::MESH_RETRY, &want), None);
    }
}
