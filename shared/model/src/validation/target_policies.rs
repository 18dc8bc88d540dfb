//! MeshTimeout, MeshRetry and MeshCircuitBreaker (`spec/policies.md` 12). Other types with a JSON
//! spec are not looked into.

use serde_json::Value;
use sunbear_proto::duration;

use super::{
    Path, Violations, schema,
    target_ref::{self, Allowed},
    values,
};
use crate::kind::Kind;

/// Checks a spec: its shape, and if that is right, what it says. A policy has the role `system`
/// here, which may have every kind of target.
pub(super) fn validate(kind: Kind, spec: &Value, violations: &mut Violations) {
    let before = violations.0.len();
    schema::check(kind, spec, violations);
    if violations.0.len() > before {
        return;
    }
    match kind {
        Kind::MESH_CIRCUIT_BREAKER => circuit_breaker(spec, violations),
        Kind::MESH_RETRY => retry(spec, violations),
        Kind::MESH_TIMEOUT => timeout(spec, violations),
        _ => {}
    }
}

const NOT_EMPTY: &str = "must not be empty";
const DEFINED: &str = "must be defined";

const TOP_KINDS: &[&str] = &[
    "Mesh",
    "MeshSubset",
    "Dataplane",
    "MeshGateway",
    "MeshService",
    "MeshServiceSubset",
    "MeshHTTPRoute",
];
const ONLY_MESH: Allowed = Allowed::of(&["Mesh"]);
/// Destinations, if the top does not say what they are.
const TO: Allowed = Allowed::of(&[
    "Mesh",
    "MeshService",
    "MeshExternalService",
    "MeshMultiZoneService",
    "MeshHTTPRoute",
]);
/// Destinations under a MeshGateway or a MeshHTTPRoute.
const TO_EXTERNAL: Allowed = Allowed::of(&["Mesh", "MeshExternalService"]);

/// The elements of a list, none if it is not there.
fn items<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object[field].as_array().map_or(&[], Vec::as_slice)
}

fn has(object: &Value, fields: &[&str]) -> bool {
    fields.iter().any(|field| object.get(field).is_some())
}

/// The kind of the top reference.
fn top_kind(spec: &Value) -> &str {
    spec["targetRef"]["kind"].as_str().unwrap_or("Mesh")
}

fn top(spec: &Value, kinds: &'static [&'static str], violations: &mut Violations) {
    if let Some(target) = spec.get("targetRef") {
        let inbound = !items(spec, "from").is_empty() || !items(spec, "rules").is_empty();
        let allowed = Allowed { kinds, listener_tags: true, inbound };
        target_ref::validate(&Path::at("spec").field("targetRef"), target, allowed, violations);
    }
}

fn nothing(spec: &Value, violations: &mut Violations) {
    if ["from", "to", "rules"].iter().all(|field| items(spec, field).is_empty()) {
        violations.push("spec", "at least one of 'from', 'to' or 'rules' has to be defined");
    }
}

fn rules_alone(spec: &Value, violations: &mut Violations) {
    let others = !items(spec, "from").is_empty() || !items(spec, "to").is_empty();
    if !items(spec, "rules").is_empty() && others {
        violations.push("spec", "fields 'to' and 'from' must be empty when 'rules' is defined");
    }
}

/// Checks the reference and the settings of each element.
fn each(
    spec: &Value,
    field: &str,
    allowed: Allowed,
    violations: &mut Violations,
    settings: impl Fn(&Path, &Value, &mut Violations),
) {
    for (i, item) in items(spec, field).iter().enumerate() {
        let path = Path::at("spec").field(field).index(i);
        target_ref::validate(&path.field("targetRef"), &item["targetRef"], allowed, violations);
        settings(&path.field("default"), &item["default"], violations);
    }
}

fn nanos(value: Option<&Value>) -> Option<i128> {
    duration::parse_nanos(value?.as_str()?)
}

/// Durations that, if given, are above zero.
fn positive(path: &Path, object: &Value, fields: &[&str], violations: &mut Violations) {
    for field in fields {
        if nanos(object.get(field)).is_some_and(|n| n <= 0) {
            violations.push(path.field(field), "must be greater than zero when defined");
        }
    }
}

/// Durations that, if given, are not below zero.
fn not_negative(path: &Path, object: &Value, fields: &[&str], violations: &mut Violations) {
    for field in fields {
        if nanos(object.get(field)).is_some_and(|n| n < 0) {
            violations.push(path.field(field), "must not be negative when defined");
        }
    }
}

/// Fields that have no place here.
fn without(
    path: &Path,
    object: &Value,
    fields: &[&str],
    message: &str,
    violations: &mut Violations,
) {
    for field in fields.iter().filter(|field| object.get(field).is_some()) {
        violations.push(path.field(field), message);
    }
}

fn timeout(spec: &Value, violations: &mut Violations) {
    top(spec, TOP_KINDS, violations);
    rules_alone(spec, violations);
    nothing(spec, violations);
    let kind = top_kind(spec);
    let settings = |path: &Path, conf: &Value, violations: &mut Violations| {
        timeouts(path, conf, kind == "MeshHTTPRoute", violations);
    };
    let narrow = matches!(kind, "MeshHTTPRoute" | "MeshGateway");
    if !narrow {
        each(spec, "from", ONLY_MESH, violations, settings);
    } else if !items(spec, "from").is_empty() {
        violations.push("spec.from", "must not be defined");
    }
    each(spec, "to", if narrow { TO_EXTERNAL } else { TO }, violations, settings);
    for (i, rule) in items(spec, "rules").iter().enumerate() {
        let path = Path::at("spec").field("rules").index(i);
        let mut identity = false;
        for (j, value) in items(rule, "matches").iter().enumerate() {
            let path = path.field("matches").index(j);
            identity |= target_ref::validate_match(&path, value, violations);
        }
        let (path, conf) = (path.field("default"), &rule["default"]);
        if identity {
            let message = "can't be specified when matches contain spiffeID because this field \
                           cannot be conditioned on source identity";
            without(&path, conf, &["connectionTimeout", "idleTimeout"], message, violations);
            let fields = ["requestHeadersTimeout", "maxStreamDuration", "maxConnectionDuration"];
            without(&path.field("http"), &conf["http"], &fields, message, violations);
        }
        settings(&path, conf, violations);
    }
}

fn timeouts(path: &Path, conf: &Value, of_route: bool, violations: &mut Violations) {
    if !has(conf, &["connectionTimeout", "idleTimeout", "http"]) {
        violations.push(path, "at least one timeout should be configured");
        return;
    }
    let (http_path, http) = (path.field("http"), &conf["http"]);
    if of_route {
        let message = "can't be specified when top-level TargetRef is referencing MeshHTTPRoute";
        without(path, conf, &["connectionTimeout", "idleTimeout"], message, violations);
        let fields = ["maxStreamDuration", "maxConnectionDuration"];
        without(&http_path, http, &fields, message, violations);
    }
    positive(path, conf, &["connectionTimeout"], violations);
    not_negative(path, conf, &["idleTimeout"], violations);
    let fields =
        ["requestTimeout", "streamIdleTimeout", "maxStreamDuration", "maxConnectionDuration"];
    if http.is_object() && !has(http, &fields) {
        violations.push(&http_path, "at least one timeout in this section should be configured");
    }
    not_negative(&http_path, http, &fields, violations);
    not_negative(&http_path, http, &["requestHeadersTimeout"], violations);
}

fn retry(spec: &Value, violations: &mut Violations) {
    if let Some(target) = spec.get("targetRef") {
        let allowed = Allowed { kinds: TOP_KINDS, listener_tags: true, inbound: false };
        target_ref::validate(&Path::at("spec").field("targetRef"), target, allowed, violations);
    }
    let narrow = matches!(top_kind(spec), "MeshHTTPRoute" | "MeshGateway");
    let to = if narrow { TO_EXTERNAL } else { TO };
    each(spec, "to", to, violations, |path, conf, violations| {
        // Kuma's path.
        let path = path.field("conf");
        if !has(conf, &["tcp", "http", "grpc"]) {
            violations.push(&path, "at least one of the 'tcp', 'http', 'grpc' must be specified");
        }
        if let Some(tcp) = conf.get("tcp") {
            let path = path.field("tcp");
            match tcp.get("maxConnectAttempt").and_then(Value::as_f64) {
                None => violations.push(path, NOT_EMPTY),
                Some(0.0) => {
                    violations.push(path.field("maxConnectAttempt"), "must be greater than 0");
                }
                Some(_) => {}
            }
        }
        if let Some(http) = conf.get("http") {
            retry_http(&path.field("http"), http, violations);
        }
        if let Some(grpc) = conf.get("grpc") {
            let path = path.field("grpc");
            let fields =
                ["numRetries", "perTryTimeout", "backOff", "retryOn", "rateLimitedBackOff"];
            if !has(grpc, &fields) {
                violations.push(&path, NOT_EMPTY);
            }
            back_off(&path, grpc, violations);
        }
    });
}

fn retry_http(path: &Path, http: &Value, violations: &mut Violations) {
    let fields = [
        "numRetries",
        "perTryTimeout",
        "backOff",
        "retryOn",
        "retriableRequestHeaders",
        "retriableResponseHeaders",
        "rateLimitedBackOff",
        "hostSelection",
    ];
    if !has(http, &fields) {
        violations.push(path, NOT_EMPTY);
    }
    back_off(path, http, violations);
    for (i, condition) in items(http, "retryOn").iter().enumerate() {
        let condition = condition.as_str().unwrap_or_default();
        if !is_retry_condition(condition) {
            violations.push(path.field("retryOn").index(i), format!("unknown item '{condition}'"));
        }
    }
    let mut priorities = false;
    for (i, predicate) in items(http, "hostSelection").iter().enumerate() {
        let path = path.field("hostSelection").index(i);
        match predicate["predicate"].as_str() {
            Some("OmitHostsWithTags") if predicate.get("tags").is_none() => {
                violations.push(path.field("tags"), DEFINED);
            }
            Some("OmitPreviousPriorities") => {
                if priorities {
                    violations.push(
                        path.field("predicate"),
                        "OmitPreviousPriorities must only be specified once",
                    );
                }
                // Absent, it gets a default.
                if predicate["updateFrequency"].as_f64().is_some_and(|n| n <= 0.0) {
                    violations.push(
                        path.field("updateFrequency"),
                        "must be defined and greater than zero",
                    );
                }
                priorities = true;
            }
            Some(_) | None => {}
        }
    }
}

/// A condition by name, a method, or a status code.
fn is_retry_condition(text: &str) -> bool {
    let named = matches!(
        text,
        "5xx"
            | "GatewayError"
            | "Reset"
            | "Retriable4xx"
            | "ConnectFailure"
            | "EnvoyRatelimited"
            | "RefusedStream"
            | "Http3PostConnectFailure"
    );
    let method = text.strip_prefix("HttpMethod").is_some_and(|method| {
        matches!(
            method,
            "Connect" | "Delete" | "Get" | "Head" | "Options" | "Patch" | "Post" | "Put" | "Trace"
        )
    });
    named || method || text.parse().is_ok_and(values::is_known_status)
}

fn back_off(path: &Path, conf: &Value, violations: &mut Violations) {
    if conf.get("backOff").is_some_and(|b| !has(b, &["baseInterval", "maxInterval"])) {
        violations.push(path.field("backOff"), NOT_EMPTY);
    }
    if let Some(limited) = conf.get("rateLimitedBackOff") {
        let path = path.field("rateLimitedBackOff");
        if nanos(limited.get("maxInterval")).is_some_and(|n| n <= 0) {
            violations.push(path.field("maxInterval"), "must be defined and greater than zero");
        }
        if limited.get("resetHeaders").is_none() {
            violations.push(path.field("resetHeaders"), DEFINED);
        }
    }
}

fn circuit_breaker(spec: &Value, violations: &mut Violations) {
    // Without MeshHTTPRoute.
    top(spec, &TOP_KINDS[..TOP_KINDS.len() - 1], violations);
    nothing(spec, violations);
    rules_alone(spec, violations);
    for (i, rule) in items(spec, "rules").iter().enumerate() {
        // Kuma's path.
        let path = Path::at("spec").field("from").index(i).field("default");
        breaker(&path, &rule["default"], violations);
    }
    each(spec, "from", ONLY_MESH, violations, breaker);
    let to = Allowed::of(&["Mesh", "MeshService", "MeshExternalService", "MeshMultiZoneService"]);
    each(spec, "to", to, violations, breaker);
}

fn breaker(path: &Path, conf: &Value, violations: &mut Violations) {
    if !has(conf, &["connectionLimits", "outlierDetection"]) {
        violations.push(
            path,
            "at least one of: 'connectionLimits' or 'outlierDetection' should be configured",
        );
        return;
    }
    let limits =
        ["maxConnections", "maxConnectionPools", "maxPendingRequests", "maxRetries", "maxRequests"];
    counts(&path.field("connectionLimits"), &conf["connectionLimits"], &limits, violations);
    if let Some(detection) = conf.get("outlierDetection") {
        outlier_detection(&path.field("outlierDetection"), detection, violations);
    }
}

fn outlier_detection(path: &Path, detection: &Value, violations: &mut Violations) {
    positive(path, detection, &["interval", "baseEjectionTime"], violations);
    percent(path, detection, "maxEjectionPercent", violations);
    if let Some(threshold) = detection.get("healthyPanicThreshold") {
        let path = path.field("healthyPanicThreshold");
        match decimal(threshold) {
            None => violations.push(path, "string must be a valid number"),
            Some(n) if !(0.0..=100.0).contains(&n) => {
                violations.push(path, "must be in inclusive range [0.0, 100.0]");
            }
            Some(_) => {}
        }
    }
    let path = path.field("detectors");
    let Some(detectors) = detection.get("detectors") else {
        violations.push(path, DEFINED);
        return;
    };
    let kinds = [
        "totalFailures",
        "gatewayFailures",
        "localOriginFailures",
        "successRate",
        "failurePercentage",
    ];
    if !has(detectors, &kinds) {
        let message = format!("must have at least one defined: {}", kinds.join(", "));
        violations.push(path, message);
        return;
    }
    for kind in &kinds[..3] {
        counts(&path.field(kind), &detectors[*kind], &["consecutive"], violations);
    }
    let volume = ["minimumHosts", "requestVolume"];
    let (rate_path, rate) = (path.field("successRate"), &detectors["successRate"]);
    counts(&rate_path, rate, &volume, violations);
    if let Some(factor) = rate.get("standardDeviationFactor") {
        let path = rate_path.field("standardDeviationFactor");
        match decimal(factor) {
            None => violations.push(path, "invalid number"),
            Some(n) if n <= 0.0 => violations.push(path, "must be greater than 0"),
            Some(_) => {}
        }
    }
    let (path, share) = (path.field("failurePercentage"), &detectors["failurePercentage"]);
    counts(&path, share, &volume, violations);
    percent(&path, share, "threshold", violations);
}

/// Counts that, if given, are above zero.
fn counts(path: &Path, object: &Value, fields: &[&str], violations: &mut Violations) {
    for field in fields {
        if object[*field].as_f64() == Some(0.0) {
            violations.push(path.field(field), "must be greater than 0");
        }
    }
}

fn percent(path: &Path, object: &Value, field: &str, violations: &mut Violations) {
    if object[field].as_f64().is_some_and(|n| n > 100.0) {
        violations.push(path.field(field), "must be in inclusive range [0, 100]");
    }
}

/// A number, or the text of a decimal one.
fn decimal(value: &Value) -> Option<f64> {
    match value {
        Value::String(text) => {
            let digits = text.bytes().any(|b| b.is_ascii_digit());
            let known = |b: u8| b.is_ascii_digit() || b"+-.eE".contains(&b);
            (digits && text.bytes().all(known)).then(|| text.parse().ok())?
        }
        _ => value.as_f64(),
    }
}

#[cfg(test)]
mod tests;
