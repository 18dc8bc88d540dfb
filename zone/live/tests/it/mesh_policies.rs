//! MeshTimeout, MeshRetry and MeshCircuitBreaker, and what becomes of older policies beside them.

use futures_util::future::join_all;
use serde_json::json;
use sunbear_gateway_live::{Backend, Call, Case, Connection, Gateway, cases, dial, eventually};

use crate::clusters::{dead, only};

const CASES: &[Case] = cases! {
    "mesh-timeout/request" => request,
    "mesh-timeout/stream" => stream,
    "mesh-timeout/connections" => connections,
    "mesh-timeout/headers" => headers,
    "mesh-timeout/idle" => idle,
    "mesh-timeout/tcp" => tcp,
    "mesh-timeout/over-timeout" => over_timeout,
    "mesh-retry/http" => retry,
    "mesh-retry/tcp" => retry_tcp,
    "mesh-retry/over-retry" => over_retry,
    "mesh-circuit-breaker/limits" => limits,
    "mesh-circuit-breaker/outliers" => outliers,
    "mesh-circuit-breaker/over-circuit-breaker" => over_circuit_breaker,
    "mesh-policies/one-listener" => one_listener,
    "mesh-policies/defaults" => defaults,
};

#[tokio::test(flavor = "multi_thread")]
async fn mesh_policies() {
    sunbear_gateway_live::run(CASES).await;
}

pub(crate) fn features() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|case| case.feature)
}

const TO_A: &str = "[{matches: [{prefix: /}], to: a}]";

/// A policy for the whole mesh with this content of `to`.
fn to(kind: &str, conf: &str) -> String {
    format!(
        "{{type: {kind}, spec: {{targetRef: {{kind: Mesh}}, \
         to: [{{targetRef: {{kind: Mesh}}, default: {conf}}}]}}}}"
    )
}

/// A policy for the whole mesh with this content of `from`.
fn from(kind: &str, conf: &str) -> String {
    format!(
        "{{type: {kind}, spec: {{targetRef: {{kind: Mesh}}, \
         from: [{{targetRef: {{kind: Mesh}}, default: {conf}}}]}}}}"
    )
}

async fn with(gateway: &Gateway, policies: &[&str]) -> u16 {
    let mut scene = gateway.scene();
    let port = scene.http(TO_A);
    for policy in policies {
        scene.add(policy);
    }
    scene.apply().await;
    gateway.backend("a").take_seen();
    port
}

fn slow(port: u16) -> Call {
    Call::get(port, "/").header("x-delay-ms", "600")
}

async fn request(gateway: &Gateway) {
    let port = with(gateway, &[&to("MeshTimeout", "{http: {requestTimeout: 200ms}}")]).await;
    assert_eq!(slow(port).send().await.status, 504);
    Call::get(port, "/").until("it is fast enough", |answer| answer.status == 200).await;
}

async fn stream(gateway: &Gateway) {
    // The values for HTTP go by the protocol that the service itself names.
    let port = with(gateway, &[&to("MeshTimeout", "{http: {maxStreamDuration: 200ms}}")]).await;
    assert_eq!(slow(port).send().await.status, 504);
    let port = with(gateway, &[&to("MeshTimeout", "{http: {streamIdleTimeout: 200ms}}")]).await;
    assert_eq!(slow(port).send().await.status, 504);
}

/// Connections to the service end when they are idle, or old.
async fn connections(gateway: &Gateway) {
    for conf in ["{idleTimeout: 300ms}", "{http: {maxConnectionDuration: 300ms}}"] {
        let x = Backend::http("x").await;
        let mut scene = gateway.scene();
        scene.put(x.dataplane());
        let port = scene.http("[{matches: [{prefix: /}], to: x}]");
        scene.add(&to("MeshTimeout", conf));
        scene.apply().await;
        assert_eq!(Call::get(port, "/").send().await.from(), "x");
        assert_eq!(x.connections(), 1);
        eventually("the connection ends", || (x.open_connections() == 0).then_some(())).await;
    }
}

/// Headers that do not end.
async fn headers(gateway: &Gateway) {
    let policy =
        from("MeshTimeout", "{http: {streamIdleTimeout: 5s, requestHeadersTimeout: 300ms}}");
    let port = with(gateway, &[&policy]).await;
    let mut stream = dial(port, None).await.unwrap();
    stream.send("GET / HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    let line = stream.line().await.unwrap();
    assert!(line.starts_with("HTTP/1.1 408"), "{line}");
}

/// Connections that nobody uses.
async fn idle(gateway: &Gateway) {
    let port = with(gateway, &[&from("MeshTimeout", "{idleTimeout: 300ms}")]).await;
    let call = Call::get(port, "/");
    let mut stream = dial(port, None).await.unwrap();
    stream.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(stream.line().await.unwrap().starts_with("HTTP/1.1 200"));
    // Lines until the end of the connection.
    while stream.line().await.is_some() {}
    assert_eq!(Connection::open(&call).await.unwrap().send(&call).await.unwrap().status, 200);
}

async fn tcp(gateway: &Gateway) {
    let x = Backend::tcp("x").await;
    let mut scene = gateway.scene();
    scene.put(x.dataplane());
    let port = scene.listener("{protocol: TCP}");
    scene.route("r", "tcp: {rules: [{to: x}]}");
    scene.add(&from("MeshTimeout", "{idleTimeout: 300ms}"));
    scene.apply().await;
    let mut stream = dial(port, None).await.unwrap();
    assert_eq!(stream.echo("hello").await.as_deref(), Some("x hello"));
    assert_eq!(stream.line().await, None);
}

async fn over_timeout(gateway: &Gateway) {
    let legacy = "{type: Timeout, conf: {http: {requestTimeout: 0.2s, maxStreamDuration: 0.2s}}}";
    let port = with(gateway, &[legacy]).await;
    assert_eq!(slow(port).send().await.status, 504);
    // What the newer one does not say is a default of its own.
    let port = with(gateway, &[legacy, &to("MeshTimeout", "{connectionTimeout: 5s}")]).await;
    assert_eq!(slow(port).send().await.status, 200);
    let legacy = "{type: Timeout, conf: {http: {requestTimeout: 10s}}}";
    let port =
        with(gateway, &[legacy, &to("MeshTimeout", "{http: {requestTimeout: 200ms}}")]).await;
    assert_eq!(slow(port).send().await.status, 504);
}

/// What `a` answers first, and the status and number of tries that come of it.
async fn tries(gateway: &Gateway, port: u16, method: &str, answers: &[u16]) -> (u16, usize) {
    let a = gateway.backend("a");
    a.take_seen();
    a.answer_next(answers);
    let status = Call::get(port, "/").method(method).send().await.status;
    let tries = a.take_seen().len();
    // What was not asked for.
    for _ in tries..answers.len() {
        Call::get(port, "/").method("OPTIONS").send().await;
    }
    (status, tries)
}

const BACK_OFF: &str = "backOff: {baseInterval: 1ms, maxInterval: 2ms}";

async fn retry(gateway: &Gateway) {
    let conf = format!("{{http: {{numRetries: 2, retryOn: [5xx], {BACK_OFF}}}}}");
    let port = with(gateway, &[&to("MeshRetry", &conf)]).await;
    assert_eq!(tries(gateway, port, "GET", &[500, 503]).await, (200, 3));
    assert_eq!(tries(gateway, port, "GET", &[500, 503, 502]).await, (502, 3));
    assert_eq!(tries(gateway, port, "GET", &[418]).await, (418, 1));
    let conf = format!("{{http: {{numRetries: 1, retryOn: ['418', HttpMethodGet], {BACK_OFF}}}}}");
    let port = with(gateway, &[&to("MeshRetry", &conf)]).await;
    assert_eq!(tries(gateway, port, "GET", &[418]).await, (200, 2));
    assert_eq!(tries(gateway, port, "PUT", &[418]).await, (418, 1));
    assert_eq!(tries(gateway, port, "GET", &[503]).await, (503, 1));
}

async fn retry_tcp(gateway: &Gateway) {
    let x = Backend::tcp("x").await;
    let (instance, _port) = dead("x-dead", "x");
    let mut scene = gateway.scene();
    scene.put(x.dataplane());
    scene.put(instance);
    let port = scene.listener("{protocol: TCP}");
    scene.route("r", "tcp: {rules: [{to: x}]}");
    scene.add(&to("MeshRetry", "{tcp: {maxConnectAttempt: 3}}"));
    scene.apply().await;
    for _ in 0..10 {
        let mut stream = dial(port, None).await.unwrap();
        assert_eq!(stream.echo("hello").await.as_deref(), Some("x hello"));
    }
}

async fn over_retry(gateway: &Gateway) {
    let legacy = "{type: Retry, conf: {http: {numRetries: 3, retryOn: [all_5xx]}}}";
    let conf = format!("{{http: {{numRetries: 1, retryOn: [5xx], {BACK_OFF}}}}}");
    let port = with(gateway, &[legacy, &to("MeshRetry", &conf)]).await;
    assert_eq!(tries(gateway, port, "GET", &[500, 500]).await, (500, 2));
}

async fn overflows(port: u16) -> bool {
    let call = Call::get(port, "/").header("x-delay-ms", "1000");
    let answers = join_all((0..6).map(|_| call.send())).await;
    answers.iter().any(|answer| answer.header("x-envoy-overloaded") == "true")
}

async fn limits(gateway: &Gateway) {
    let conf = "{connectionLimits: {maxConnections: 1, maxPendingRequests: 1}}";
    let port = with(gateway, &[&to("MeshCircuitBreaker", conf)]).await;
    assert!(overflows(port).await);
    let conf = "{connectionLimits: {maxConnections: 10, maxPendingRequests: 10}}";
    let port = with(gateway, &[&to("MeshCircuitBreaker", conf)]).await;
    assert!(!overflows(port).await);
}

const EJECT: &str = "interval: 100ms, baseEjectionTime: 10m, maxEjectionPercent: 100";

/// A service `x` of `a`, `b` and an instance that always answers 500.
async fn with_bad_instance(gateway: &Gateway, policies: &[&str]) -> (u16, Backend) {
    let bad = Backend::http("bad").await;
    bad.answer_next(&[500; 200]);
    let mut scene = gateway.scene();
    for backend in [gateway.backend("a"), gateway.backend("b"), &bad] {
        let name = format!("x-{}", backend.name);
        scene.put(backend.instance(&name, json!({"kuma.io/service": "x"})));
    }
    let port = scene.http("[{matches: [{prefix: /}], to: x}]");
    for policy in policies {
        scene.add(policy);
    }
    scene.apply().await;
    (port, bad)
}

async fn outliers(gateway: &Gateway) {
    let detectors = "detectors: {totalFailures: {consecutive: 2}}";
    let conf = format!("{{outlierDetection: {{{EJECT}, {detectors}}}}}");
    let (port, bad) = with_bad_instance(gateway, &[&to("MeshCircuitBreaker", &conf)]).await;
    only(port, &["a", "b"]).await;
    assert!((2..10).contains(&bad.seen().len()));
    let conf = format!("{{outlierDetection: {{disabled: true, {EJECT}, {detectors}}}}}");
    let (port, bad) = with_bad_instance(gateway, &[&to("MeshCircuitBreaker", &conf)]).await;
    for _ in 0..15 {
        Call::get(port, "/").send().await;
    }
    assert_eq!(bad.seen().len(), 5);
}

/// Limits of the newer policy win; outlier detection stays where it has none.
async fn over_circuit_breaker(gateway: &Gateway) {
    let legacy = "{type: CircuitBreaker, conf: {thresholds: {maxConnections: 1, \
                   maxPendingRequests: 1}, interval: 0.1s, baseEjectionTime: 600s, \
                   maxEjectionPercent: 100, detectors: {totalErrors: {consecutive: 2}}}}";
    let newer = to(
        "MeshCircuitBreaker",
        "{connectionLimits: {maxConnections: 100, maxPendingRequests: 100}}",
    );
    let port = with(gateway, &[legacy, &newer]).await;
    assert!(!overflows(port).await);
    let (port, bad) = with_bad_instance(gateway, &[legacy, &newer]).await;
    only(port, &["a", "b"]).await;
    assert!((2..10).contains(&bad.seen().len()));
}

/// A policy for some listeners of the gateway.
async fn one_listener(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let red = scene.listener("{protocol: HTTP, tags: {color: red}}");
    let blue = scene.listener("{protocol: HTTP, tags: {color: blue}}");
    scene.route("r", &format!("http: {{rules: {TO_A}}}"));
    scene.add(
        "{type: MeshTimeout, spec: {targetRef: {kind: MeshGateway, name: edge, \
          tags: {color: red}}, to: [{targetRef: {kind: Mesh}, \
          default: {http: {requestTimeout: 200ms}}}]}}",
    );
    scene.apply().await;
    assert_eq!(slow(red).send().await.status, 504);
    assert_eq!(slow(blue).send().await.status, 200);
}

/// Beside the policies that meshes are created with, of the older ones only what these lack acts.
async fn defaults(gateway: &Gateway) {
    let policies = [
        "{type: MeshTimeout, name: mesh-gateways-timeout-all-default, spec: {
           targetRef: {kind: Mesh, proxyTypes: [Gateway]},
           from: [{targetRef: {kind: Mesh}, default: {idleTimeout: 5m,
             http: {streamIdleTimeout: 5s, requestHeadersTimeout: 500ms}}}],
           to: [{targetRef: {kind: Mesh}, default: {idleTimeout: 1h,
             http: {streamIdleTimeout: 5s}}}]}}",
        "{type: MeshTimeout, name: mesh-timeout-all-default, spec: {
           targetRef: {kind: Mesh, proxyTypes: [Sidecar]},
           to: [{targetRef: {kind: Mesh}, default: {http: {requestTimeout: 1ms}}}]}}",
        "{type: MeshCircuitBreaker, name: mesh-circuit-breaker-all-default, spec: {
           targetRef: {kind: Mesh}, to: [{targetRef: {kind: Mesh}, default: {connectionLimits: {
             maxConnections: 1024, maxPendingRequests: 1024, maxRetries: 3, maxRequests: 1024}}}]}}",
        "{type: MeshRetry, name: mesh-retry-all-default, spec: {
           targetRef: {kind: Mesh}, to: [{targetRef: {kind: Mesh}, default: {
             tcp: {maxConnectAttempt: 5},
             http: {numRetries: 5, perTryTimeout: 16s,
               backOff: {baseInterval: 25ms, maxInterval: 250ms}},
             grpc: {numRetries: 5, perTryTimeout: 16s,
               backOff: {baseInterval: 25ms, maxInterval: 250ms}}}}]}}",
        "{type: Timeout, conf: {http: {requestTimeout: 0.2s}}}",
        "{type: Retry, conf: {http: {numRetries: 1, retriableStatusCodes: [418]}}}",
        "{type: CircuitBreaker, conf: {thresholds: {maxConnections: 1, maxPendingRequests: 1}}}",
        "{type: RateLimit, conf: {http: {requests: 20, interval: 600s}}}",
    ];
    let port = with(gateway, &policies).await;
    assert_eq!(slow(port).send().await.status, 200);
    assert_eq!(tries(gateway, port, "GET", &[418]).await, (418, 1));
    assert_eq!(tries(gateway, port, "GET", &[503, 502]).await, (200, 3));
    assert!(!overflows(port).await);
    Call::get(port, "/").until("the older limit holds", |answer| answer.status == 429).await;
}
