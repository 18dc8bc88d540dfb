//! What Kuma tells writers of targetRef policies that they should no longer use. Clients print it
//! word by word.

use serde_json::Value;

use crate::{kind::Kind, matching::TargetRef};

/// Deprecations in a policy, in Kuma's order.
pub(super) fn of(kind: Kind, spec: &Value) -> Vec<String> {
    let mut found = Vec::new();
    match kind.name() {
        "MeshTrust" if spec.get("origin").is_some_and(|o| !o.is_null()) => {
            found.push("setting spec.origin field is deprecated".to_owned());
        }
        "MeshPassthrough" => {}
        _ if kind.row().policy => policy(kind, spec, &mut found),
        _ => {}
    }
    found
}

fn policy(kind: Kind, spec: &Value, found: &mut Vec<String>) {
    let from = items(spec.get("from"));
    if !from.is_empty()
        && let Some(instead) = instead_of_from(kind.name())
    {
        found.push(format!("'from' field is deprecated{instead}"));
    }
    match kind.name() {
        "MeshTrafficPermission" => {
            let by_service =
                from.iter().filter(|item| TargetRef::of(Some(item)).kind() == "MeshService");
            found.extend(by_service.map(|_| {
                "MeshService value for 'from[].targetRef.kind' is deprecated, use MeshSubset with \
                 'kuma.io/service' instead"
                    .to_owned()
            }));
        }
        "MeshAccessLog" | "MeshTrace" | "MeshMetric" => {
            let parts = ["to", "from", "rules"].into_iter().flat_map(|l| items(spec.get(l)));
            let mut confs = parts.chain([spec]).filter_map(|part| part.get("default"));
            if confs.any(|conf| items(conf.get("backends")).iter().any(has_inline_endpoint)) {
                found.push(
                    "openTelemetry.endpoint is deprecated, use openTelemetry.backendRef with a \
                     MeshOpenTelemetryBackend resource instead"
                        .to_owned(),
                );
            }
        }
        "MeshLoadBalancingStrategy" => hash_policies(spec, found),
        _ => {}
    }
    // For health checks the reference comes first.
    target(spec, found);
    if kind.name() == "MeshHealthCheck" {
        let old = |item: &&Value| {
            item.pointer("/default/healthyPanicThreshold").is_some_and(|t| !t.is_null())
        };
        found.extend(items(spec.get("to")).iter().filter(old).map(|_| {
            "healthyPanicThreshold for 'to[].default' is deprecated. The setting has been moved to \
             MeshCircuitBreaker policy, please use MeshCircuitBreaker policy instead."
                .to_owned()
        }));
    }
}

fn instead_of_from(kind: &str) -> Option<&'static str> {
    match kind {
        "MeshAccessLog" | "MeshCircuitBreaker" | "MeshRateLimit" | "MeshTLS" | "MeshTimeout" => {
            Some(", use 'rules' instead")
        }
        "MeshFaultInjection" => Some(", use 'rules' with SPIFFE-based 'matches' instead"),
        "MeshTrafficPermission" => {
            Some(" and will be removed in 3.0, use 'rules' with MeshIdentity (spiffeId) instead")
        }
        _ => None,
    }
}

fn target(spec: &Value, found: &mut Vec<String>) {
    let kind = TargetRef::of(Some(spec)).kind();
    match kind {
        "MeshService" | "MeshServiceSubset" | "MeshSubset" => found.push(format!(
            "{kind} value for 'targetRef.kind' is deprecated, use Dataplane with labels instead"
        )),
        "MeshHTTPRoute" => found.push(
            "MeshHTTPRoute value for 'targetRef.kind' is deprecated, use MeshHTTPRoute in \
             spec.to[].targetRef"
                .to_owned(),
        ),
        _ => {}
    }
}

fn has_inline_endpoint(backend: &Value) -> bool {
    let Some(telemetry) = backend.get("openTelemetry") else { return false };
    telemetry.get("endpoint").and_then(Value::as_str).is_some_and(|e| !e.is_empty())
        && telemetry.get("backendRef").is_none_or(Value::is_null)
}

fn hash_policies(spec: &Value, found: &mut Vec<String>) {
    for (index, item) in items(spec.get("to")).iter().enumerate() {
        let balancer = item.pointer("/default/loadBalancer");
        let member = match balancer.and_then(|b| b.get("type")).and_then(Value::as_str) {
            Some("RingHash") => "ringHash",
            Some("Maglev") => "maglev",
            _ => continue,
        };
        let policies = balancer.and_then(|b| b.get(member)).and_then(|m| m.get("hashPolicies"));
        let Some(policies) = policies.filter(|p| p.is_array()) else { continue };
        let path = format!("spec.to[{index}].default.loadBalancer.{member}.hashPolicies");
        found.push(format!(
            "configuration '{path}' is deprecated, use 'spec.to[{index}].default.hashPolicies' \
             instead"
        ));
        for (i, policy) in items(Some(policies)).iter().enumerate() {
            if policy.get("type").and_then(Value::as_str) == Some("SourceIP") {
                found.push(format!(
                    "SourceIP type for '{path}[{i}].type' is deprecated, use Connection instead"
                ));
            }
        }
    }
}

fn items(list: Option<&Value>) -> &[Value] {
    list.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(kind: &str, spec: &Value, want: &[&str]) {
        assert_eq!(of(Kind::by_name(kind).unwrap(), spec), want, "{kind} {spec}");
    }

    #[test]
    fn texts() {
        let from = json!({"from": [{"targetRef": {"kind": "MeshService", "name": "x"}}]});
        let rules = "'from' field is deprecated, use 'rules' instead";
        check("MeshTimeout", &from, &[rules]);
        check("MeshTLS", &from, &[rules]);
        check("MeshRetry", &from, &[]);
        check(
            "MeshFaultInjection",
            &from,
            &["'from' field is deprecated, use 'rules' with SPIFFE-based 'matches' instead"],
        );
        check(
            "MeshTrafficPermission",
            &from,
            &[
                "'from' field is deprecated and will be removed in 3.0, use 'rules' with \
                 MeshIdentity (spiffeId) instead",
                "MeshService value for 'from[].targetRef.kind' is deprecated, use MeshSubset with \
                 'kuma.io/service' instead",
            ],
        );
        check("MeshTimeout", &json!({"from": [], "rules": [{}]}), &[]);
        let subset = json!({"targetRef": {"kind": "MeshSubset", "tags": {"a": "b"}}});
        check(
            "MeshRetry",
            &subset,
            &["MeshSubset value for 'targetRef.kind' is deprecated, use Dataplane with labels \
               instead"],
        );
        check("MeshPassthrough", &subset, &[]);
        check("MeshTrust", &json!({"origin": {}}), &["setting spec.origin field is deprecated"]);
        let backend = json!({"type": "OpenTelemetry", "openTelemetry": {"endpoint": "o:4317"}});
        let telemetry = "openTelemetry.endpoint is deprecated, use openTelemetry.backendRef with a \
                         MeshOpenTelemetryBackend resource instead";
        check("MeshTrace", &json!({"default": {"backends": [backend]}}), &[telemetry]);
        check(
            "MeshAccessLog",
            &json!({"to": [{"default": {"backends": [backend]}}]}),
            &[telemetry],
        );
        let ring = json!({"to": [{"default": {"loadBalancer": {"type": "RingHash", "ringHash": {
            "hashPolicies": [{"type": "Header"}, {"type": "SourceIP"}],
        }}}}]});
        let path = "spec.to[0].default.loadBalancer.ringHash.hashPolicies";
        let moved = format!(
            "configuration '{path}' is deprecated, use 'spec.to[0].default.hashPolicies' instead"
        );
        let source =
            format!("SourceIP type for '{path}[1].type' is deprecated, use Connection instead");
        check("MeshLoadBalancingStrategy", &ring, &[&moved, &source]);
    }
}
