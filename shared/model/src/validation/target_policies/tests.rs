use serde_json::json;

use super::*;

fn check(kind: Kind, spec: &Value, want: &[&str]) {
    let mut violations = Violations::default();
    validate(kind, spec, &mut violations);
    let got: Vec<_> = violations.iter().map(|v| format!("{}: {}", v.field, v.message)).collect();
    assert_eq!(got, want, "{spec}");
}

#[test]
fn timeouts() {
    let check = |spec: Value, want: &[&str]| check(Kind::MESH_TIMEOUT, &spec, want);
    let mesh = json!({"kind": "Mesh"});
    check(
        json!({
            "targetRef": {"kind": "MeshGateway", "name": "edge", "tags": {"port": "http"}},
            "to": [{"targetRef": mesh, "default": {"idleTimeout": "0s", "http": {"requestTimeout": "15s"}}}],
        }),
        &[],
    );
    check(json!({}), &["spec: at least one of 'from', 'to' or 'rules' has to be defined"]);
    check(
        json!({
            "targetRef": {"kind": "MeshHTTPRoute", "name": "r"},
            "from": [{"targetRef": mesh}],
            "to": [
                {"targetRef": {"kind": "MeshService", "name": "a"}, "default": {
                    "connectionTimeout": "0s", "idleTimeout": "-1s", "http": {"maxStreamDuration": "1s"}}},
                {"targetRef": mesh},
                {"targetRef": mesh, "default": {"http": {"requestHeadersTimeout": "-1ms"}}},
            ],
        }),
        &[
            "spec.from: must not be defined",
            "spec.to[0].targetRef.kind: value 'MeshService' is not supported",
            "spec.to[0].default.connectionTimeout: can't be specified when top-level TargetRef \
             is referencing MeshHTTPRoute",
            "spec.to[0].default.idleTimeout: can't be specified when top-level TargetRef is \
             referencing MeshHTTPRoute",
            "spec.to[0].default.http.maxStreamDuration: can't be specified when top-level \
             TargetRef is referencing MeshHTTPRoute",
            "spec.to[0].default.connectionTimeout: must be greater than zero when defined",
            "spec.to[0].default.idleTimeout: must not be negative when defined",
            "spec.to[1].default: at least one timeout should be configured",
            "spec.to[2].default.http: at least one timeout in this section should be configured",
            "spec.to[2].default.http.requestHeadersTimeout: must not be negative when defined",
        ],
    );
    check(
        json!({
            "targetRef": {"kind": "Dataplane", "sectionName": "http"},
            "to": [{"targetRef": mesh, "default": {"idleTimeout": "1s"}}],
            "rules": [{
                "matches": [
                    {},
                    {"spiffeID": {"type": "Exact", "value": "a"}},
                    {"sni": {"type": "Exact", "value": ""}},
                    {"sni": {"type": "Exact", "value": "A"}},
                ],
                "default": {"idleTimeout": "1s", "http": {"requestTimeout": "1s", "maxStreamDuration": "1s"}},
            }],
        }),
        &[
            "spec: fields 'to' and 'from' must be empty when 'rules' is defined",
            "spec.rules[0].matches[0]: must specify at least one of 'spiffeID' or 'sni'",
            "spec.rules[0].matches[1].spiffeID: must be a valid Spiffe ID: scheme is missing or \
             invalid",
            "spec.rules[0].matches[2].sni.value: must be set",
            "spec.rules[0].matches[3].sni.value: a lowercase RFC 1123 subdomain must consist of \
             lower case alphanumeric characters, '-' or '.', and must start and end with an \
             alphanumeric character (e.g. 'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            "spec.rules[0].default.idleTimeout: can't be specified when matches contain \
             spiffeID because this field cannot be conditioned on source identity",
            "spec.rules[0].default.http.maxStreamDuration: can't be specified when matches \
             contain spiffeID because this field cannot be conditioned on source identity",
        ],
    );
}

#[test]
fn retries() {
    let check = |spec: Value, want: &[&str]| check(Kind::MESH_RETRY, &spec, want);
    let to = |conf: Value| json!({"to": [{"targetRef": {"kind": "Mesh"}, "default": conf}]});
    check(json!({}), &[]);
    check(
        to(json!({})),
        &["spec.to[0].default.conf: at least one of the 'tcp', 'http', 'grpc' must be specified"],
    );
    check(
        to(json!({"tcp": {}, "http": {"hostSelectionMaxAttempts": 1}, "grpc": {}})),
        &[
            "spec.to[0].default.conf.tcp: must not be empty",
            "spec.to[0].default.conf.http: must not be empty",
            "spec.to[0].default.conf.grpc: must not be empty",
        ],
    );
    check(
        to(json!({
            "tcp": {"maxConnectAttempt": 0},
            "http": {
                "backOff": {},
                "rateLimitedBackOff": {"maxInterval": "0s"},
                "retryOn": ["5xx", "503", "HttpMethodGet", "HttpMethod", "999", "reset"],
                "hostSelection": [
                    {"predicate": "OmitPreviousHosts"},
                    {"predicate": "OmitHostsWithTags"},
                    {"predicate": "OmitPreviousPriorities", "updateFrequency": 0},
                    {"predicate": "OmitPreviousPriorities"},
                ],
            },
            "grpc": {"rateLimitedBackOff": {"resetHeaders": []}, "retryOn": ["Canceled"]},
        })),
        &[
            "spec.to[0].default.conf.tcp.maxConnectAttempt: must be greater than 0",
            "spec.to[0].default.conf.http.backOff: must not be empty",
            "spec.to[0].default.conf.http.rateLimitedBackOff.maxInterval: must be defined and \
             greater than zero",
            "spec.to[0].default.conf.http.rateLimitedBackOff.resetHeaders: must be defined",
            "spec.to[0].default.conf.http.retryOn[3]: unknown item 'HttpMethod'",
            "spec.to[0].default.conf.http.retryOn[4]: unknown item '999'",
            "spec.to[0].default.conf.http.retryOn[5]: unknown item 'reset'",
            "spec.to[0].default.conf.http.hostSelection[1].tags: must be defined",
            "spec.to[0].default.conf.http.hostSelection[2].updateFrequency: must be defined \
             and greater than zero",
            "spec.to[0].default.conf.http.hostSelection[3].predicate: OmitPreviousPriorities \
             must only be specified once",
        ],
    );
}

#[test]
fn circuit_breakers() {
    let check = |spec: Value, want: &[&str]| check(Kind::MESH_CIRCUIT_BREAKER, &spec, want);
    check(
        json!({
            "targetRef": {"kind": "MeshHTTPRoute", "name": "r"},
            "rules": [{"default": {}}],
        }),
        &[
            "spec.targetRef.kind: value 'MeshHTTPRoute' is not supported",
            "spec.from[0].default: at least one of: 'connectionLimits' or 'outlierDetection' \
             should be configured",
        ],
    );
    check(
        json!({"to": [
            {"targetRef": {"kind": "MeshHTTPRoute", "name": "r"}, "default": {"outlierDetection": {}}},
            {"targetRef": {"kind": "Mesh"}, "default": {"outlierDetection": {"detectors": {}}}},
            {"targetRef": {"kind": "Mesh"}, "default": {
                "connectionLimits": {"maxConnections": 0, "maxRequests": 1},
                "outlierDetection": {
                    "interval": "0s", "maxEjectionPercent": 101, "healthyPanicThreshold": "x",
                    "detectors": {
                        "totalFailures": {"consecutive": 0},
                        "successRate": {"requestVolume": 0, "standardDeviationFactor": "-1.9"},
                        "failurePercentage": {"threshold": 200},
                    },
                },
            }},
            {"targetRef": {"kind": "Mesh"}, "default": {"outlierDetection": {
                "healthyPanicThreshold": "100.1",
                "detectors": {"successRate": {"standardDeviationFactor": "1.9"}},
            }}},
        ]}),
        &[
            "spec.to[0].targetRef.kind: value 'MeshHTTPRoute' is not supported",
            "spec.to[0].default.outlierDetection.detectors: must be defined",
            "spec.to[1].default.outlierDetection.detectors: must have at least one defined: \
             totalFailures, gatewayFailures, localOriginFailures, successRate, failurePercentage",
            "spec.to[2].default.connectionLimits.maxConnections: must be greater than 0",
            "spec.to[2].default.outlierDetection.interval: must be greater than zero when defined",
            "spec.to[2].default.outlierDetection.maxEjectionPercent: must be in inclusive range \
             [0, 100]",
            "spec.to[2].default.outlierDetection.healthyPanicThreshold: string must be a valid \
             number",
            "spec.to[2].default.outlierDetection.detectors.totalFailures.consecutive: must be \
             greater than 0",
            "spec.to[2].default.outlierDetection.detectors.successRate.requestVolume: must be \
             greater than 0",
            "spec.to[2].default.outlierDetection.detectors.successRate.standardDeviationFactor: \
             must be greater than 0",
            "spec.to[2].default.outlierDetection.detectors.failurePercentage.threshold: must be \
             in inclusive range [0, 100]",
            "spec.to[3].default.outlierDetection.healthyPanicThreshold: must be in inclusive \
             range [0.0, 100.0]",
        ],
    );
}
