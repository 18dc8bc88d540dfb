//! Defaults inside of specs that are not interpreted otherwise.

use serde_json::Value;

use super::Default::{self, Bool, Text, Whole};
use crate::kind::Kind;

/// Type, path below `spec`, value. A default is filled in where the object around it is there.
const DEFAULTS: &[(&str, &str, Default)] = &[
    ("MeshAccessLog", "from[].default.backends[].file.format.omitEmptyValues", Bool(false)),
    ("MeshAccessLog", "from[].default.backends[].openTelemetry.endpoint", Text("")),
    ("MeshAccessLog", "from[].default.backends[].tcp.format.omitEmptyValues", Bool(false)),
    ("MeshAccessLog", "rules[].default.backends[].file.format.omitEmptyValues", Bool(false)),
    ("MeshAccessLog", "rules[].default.backends[].openTelemetry.endpoint", Text("")),
    ("MeshAccessLog", "rules[].default.backends[].tcp.format.omitEmptyValues", Bool(false)),
    ("MeshAccessLog", "to[].default.backends[].file.format.omitEmptyValues", Bool(false)),
    ("MeshAccessLog", "to[].default.backends[].openTelemetry.endpoint", Text("")),
    ("MeshAccessLog", "to[].default.backends[].tcp.format.omitEmptyValues", Bool(false)),
    ("MeshExternalService", "match.protocol", Text("tcp")),
    ("MeshExternalService", "match.type", Text("HostnameGenerator")),
    ("MeshExternalService", "tls.allowRenegotiation", Bool(false)),
    ("MeshExternalService", "tls.enabled", Bool(false)),
    ("MeshExternalService", "tls.verification.mode", Text("Secured")),
    ("MeshExternalService", "tls.verification.subjectAltNames[].type", Text("Exact")),
    ("MeshExternalService", "tls.version.max", Text("TLSAuto")),
    ("MeshExternalService", "tls.version.min", Text("TLSAuto")),
    ("MeshHTTPRoute", "to[].rules[].default.backendRefs[].weight", Whole(1)),
    ("MeshHTTPRoute", "to[].rules[].default.filters[].requestMirror.backendRef.weight", Whole(1)),
    ("MeshHTTPRoute", "to[].rules[].default.filters[].requestRedirect.statusCode", Whole(302)),
    ("MeshHTTPRoute", "to[].rules[].matches[].headers[].type", Text("Exact")),
    ("MeshMetric", "default.applications[].path", Text("/metrics")),
    ("MeshMetric", "default.backends[].openTelemetry.endpoint", Text("")),
    ("MeshMetric", "default.backends[].prometheus.path", Text("/metrics")),
    ("MeshMetric", "default.backends[].prometheus.port", Whole(5670)),
    ("MeshMetric", "default.backends[].prometheus.tls.mode", Text("Disabled")),
    ("MeshMultiZoneService", "ports[].appProtocol", Text("tcp")),
    ("MeshOpenTelemetryBackend", "env.mode", Text("Optional")),
    ("MeshOpenTelemetryBackend", "env.precedence", Text("EnvFirst")),
    ("MeshPassthrough", "default.appendMatch[].protocol", Text("tcp")),
    ("MeshService", "ports[].appProtocol", Text("tcp")),
    ("MeshService", "state", Text("Unavailable")),
    ("MeshTCPRoute", "to[].rules[].default.backendRefs[].weight", Whole(1)),
    ("MeshTLS", "from[].default.tlsVersion.max", Text("TLSAuto")),
    ("MeshTLS", "from[].default.tlsVersion.min", Text("TLSAuto")),
    ("MeshTLS", "rules[].default.tlsVersion.max", Text("TLSAuto")),
    ("MeshTLS", "rules[].default.tlsVersion.min", Text("TLSAuto")),
    ("MeshTrace", "default.backends[].datadog.splitService", Bool(false)),
    ("MeshTrace", "default.backends[].openTelemetry.endpoint", Text("")),
    ("MeshTrace", "default.backends[].zipkin.apiVersion", Text("httpJson")),
    ("MeshTrace", "default.backends[].zipkin.sharedSpanContext", Bool(true)),
    ("MeshTrace", "default.backends[].zipkin.traceId128bit", Bool(false)),
];

/// Fills them in.
pub(super) fn complete(kind: Kind, spec: &mut Value) {
    for (_, path, default) in DEFAULTS.iter().filter(|(name, ..)| *name == kind.name()) {
        fill(spec, path, *default);
    }
}

fn fill(value: &mut Value, path: &str, default: Default) {
    let Some(object) = value.as_object_mut() else {
        return;
    };
    let Some((field, rest)) = path.split_once('.') else {
        object.entry(path).or_insert_with(|| default.value());
        return;
    };
    match field.strip_suffix("[]") {
        Some(list) => {
            for item in object.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                fill(item, rest, default);
            }
        }
        None => {
            if let Some(inner) = object.get_mut(field) {
                fill(inner, rest, default);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn filled_where_something_is() {
        let check = |kind: &str, mut spec: Value, want: Value| {
            complete(Kind::by_name(kind).unwrap(), &mut spec);
            assert_eq!(spec, want);
        };
        check(
            "MeshService",
            json!({"ports": [{"port": 80}, {"port": 81, "appProtocol": "http"}, 5]}),
            json!({
                "ports": [{"port": 80, "appProtocol": "tcp"}, {"port": 81, "appProtocol": "http"}, 5],
                "state": "Unavailable",
            }),
        );
        check("MeshExternalService", json!({"tls": []}), json!({"tls": []}));
        check(
            "MeshHTTPRoute",
            json!({"to": [{"rules": [{"default": {"filters": [{"requestRedirect": {}}, {}]}}]}]}),
            json!({"to": [{"rules": [{"default": {"filters": [
                {"requestRedirect": {"statusCode": 302}}, {}]}}]}]}),
        );
        check("MeshTrust", json!({}), json!({}));
    }

    #[test]
    fn types_are_there() {
        for (name, ..) in DEFAULTS {
            assert!(Kind::by_name(name).is_some_and(Kind::is_json), "{name}");
        }
    }
}
