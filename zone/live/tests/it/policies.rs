//! Policies between sources and destinations.

use futures_util::future::join_all;
use serde_json::json;
use sunbear_gateway_live::{Answer, Backend, Call, Case, Gateway, Scene, cases, eventually};

use crate::{
    clusters::{dead, only},
    routes::answers,
};

const CASES: &[Case] = cases! {
    "rate-limit/default-answer" => rate_limit,
    "rate-limit/own-answer" => rate_limit_answer,
    "rate-limit/per-route" => rate_limit_per_route,
    "fault/abort" => fault_abort,
    "fault/delay" => fault_delay,
    "fault/bandwidth" => fault_bandwidth,
    "fault/listeners" => fault_listeners,
    "retry/count" => retry_count,
    "retry/statuses" => retry_statuses,
    "retry/methods" => retry_methods,
    "retry/try-timeout" => retry_try_timeout,
    "retry/connect-failure" => retry_connect_failure,
    "timeout/request" => timeout_request,
    "timeout/idle" => timeout_idle,
    "timeout/stream" => timeout_stream,
    "circuit-breaker/connections" => breaker_connections,
    "circuit-breaker/requests" => breaker_requests,
    "outlier/total-errors" => outlier_total,
    "outlier/gateway-errors" => outlier_gateway,
    "outlier/local-errors" => outlier_local,
    "outlier/failure" => outlier_failure,
    "outlier/standard-deviation" => outlier_deviation,
    "health/http" => health_http,
    "health/tcp" => health_tcp,
    "health/panic" => health_panic,
    "choice/most-specific" => most_specific,
    "choice/several-destinations" => several_destinations,
    "choice/listener-tags" => listener_tags,
    "none/traffic-route" => traffic_route,
    "none/virtual-outbound" => virtual_outbound,
};

#[tokio::test(flavor = "multi_thread")]
async fn policies() {
    sunbear_gateway_live::run(CASES).await;
}

pub(crate) fn features() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|case| case.feature)
}

/// Rules `/a`, `/b` and `/` to `a`, `b` and `a`, and these policies.
async fn with(gateway: &Gateway, policies: &[&str]) -> u16 {
    let mut scene = gateway.scene();
    let port = scene.http(
        "[{matches: [{prefix: /a}], to: a}, {matches: [{prefix: /b}], to: b}, \
          {matches: [{prefix: /}], to: a}]",
    );
    for policy in policies {
        scene.add(policy);
    }
    scene.apply().await;
    gateway.backend("a").take_seen();
    port
}

async fn statuses(port: u16, path: &str, requests: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..requests {
        statuses.push(Call::get(port, path).send().await.status);
    }
    statuses
}

async fn rate_limit(gateway: &Gateway) {
    let port =
        with(gateway, &["{type: RateLimit, conf: {http: {requests: 2, interval: 600s}}}"]).await;
    assert_eq!(statuses(port, "/a", 4).await, [200, 200, 429, 429]);
    assert_eq!(gateway.backend("a").take_seen().len(), 2);
}

async fn rate_limit_answer(gateway: &Gateway) {
    let port = with(
        gateway,
        &["{type: RateLimit, destinations: [{match: {kuma.io/service: a}}], conf: {http: {
            requests: 1, interval: 600s, onRateLimit: {status: 423, headers: [
              {key: x-limited, value: 'yes', append: true}, {key: server, value: limiter}]}}}}"],
    )
    .await;
    assert_eq!(statuses(port, "/a", 1).await, [200]);
    let answer = Call::get(port, "/a").send().await;
    assert_eq!((answer.status, answer.header("x-limited")), (423, "yes"));
    // Other services are not concerned.
    assert_eq!(statuses(port, "/b", 3).await, [200, 200, 200]);
}

async fn rate_limit_per_route(gateway: &Gateway) {
    let port =
        with(gateway, &["{type: RateLimit, conf: {http: {requests: 1, interval: 600s}}}"]).await;
    assert_eq!(statuses(port, "/a/", 2).await, [200, 429]);
    assert_eq!(statuses(port, "/b/", 2).await, [200, 429]);
    assert_eq!(statuses(port, "/other", 2).await, [200, 429]);
}

async fn fault_abort(gateway: &Gateway) {
    let port = with(
        gateway,
        &["{type: FaultInjection, destinations: [{match: {kuma.io/service: a, kuma.io/protocol: http}}], \
            conf: {abort: {httpStatus: 418, percentage: 100}}}"],
    )
    .await;
    // The destination in the route does not name a protocol.
    assert_eq!(statuses(port, "/a", 1).await, [200]);
    let to = |service: &str| {
        format!(
            "backends: [{{weight: 1, \
             destination: {{kuma.io/service: {service}, kuma.io/protocol: http}}}}]"
        )
    };
    for (percentage, expected) in [("100", 418), ("0", 200)] {
        let mut scene = gateway.scene();
        let port = scene.http(&format!(
            "[{{matches: [{{prefix: /a}}], {}}}, {{matches: [{{prefix: /b}}], {}}}]",
            to("a"),
            to("b")
        ));
        scene.add(&format!(
            "{{type: FaultInjection, \
             destinations: [{{match: {{kuma.io/service: a, kuma.io/protocol: http}}}}], \
             conf: {{abort: {{httpStatus: 418, percentage: {percentage}}}}}}}"
        ));
        scene.apply().await;
        gateway.backend("a").take_seen();
        assert_eq!(statuses(port, "/a", 3).await, [expected; 3]);
        let arrived = if expected == 200 { 3 } else { 0 };
        assert_eq!(gateway.backend("a").take_seen().len(), arrived);
        assert_eq!(statuses(port, "/b", 3).await, [200; 3]);
    }
}

/// A rule for everything to `a`, with its protocol, and a fault for it.
async fn faulty(gateway: &Gateway, conf: &str) -> u16 {
    let mut scene = gateway.scene();
    let port = scene.http(
        "[{matches: [{prefix: /}], backends: [{weight: 1, \
         destination: {kuma.io/service: a, kuma.io/protocol: http}}]}]",
    );
    scene.add(&format!(
        "{{type: FaultInjection, \
         destinations: [{{match: {{kuma.io/service: '*', kuma.io/protocol: http}}}}], conf: {conf}}}"
    ));
    scene.apply().await;
    port
}

async fn fault_delay(gateway: &Gateway) {
    let port = faulty(gateway, "{delay: {value: 0.3s, percentage: 100}}").await;
    // Envoy's timers are coarse, so its own count says more than a clock here.
    let delayed = async || gateway.envoy.stat(r"http\..*\.fault\.delays_injected").await;
    let before = delayed().await;
    assert_eq!(statuses(port, "/", 1).await, [200]);
    assert_eq!(delayed().await, before + 1);
}

async fn fault_bandwidth(gateway: &Gateway) {
    let port = faulty(gateway, "{responseBandwidth: {limit: 200kbps, percentage: 100}}").await;
    let limited = async || gateway.envoy.stat(r"http\..*\.fault\.response_rl_injected").await;
    let before = limited().await;
    let answer = Call::get(port, "/").header("x-bytes", "100000").send().await;
    assert_eq!(answer.body.len(), 100_000);
    assert_eq!(limited().await, before + 1);
}

/// Sources are matched with the tags of the listener.
async fn fault_listeners(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let red = scene.listener("{protocol: HTTP, tags: {color: red}}");
    let blue = scene.listener("{protocol: HTTP, tags: {color: blue}}");
    scene.route(
        "r",
        "http: {rules: [{matches: [{prefix: /}], backends: [{weight: 1, \
         destination: {kuma.io/service: a, kuma.io/protocol: http}}]}]}",
    );
    scene.add(
        "{type: FaultInjection, sources: [{match: {kuma.io/service: edge, color: red}}], \
          destinations: [{match: {kuma.io/service: '*', kuma.io/protocol: http}}], \
          conf: {abort: {httpStatus: 418, percentage: 100}}}",
    );
    scene.apply().await;
    assert_eq!(Call::get(red, "/").send().await.status, 418);
    assert_eq!(Call::get(blue, "/").send().await.status, 200);
}

const QUICKLY: &str = "backOff: {baseInterval: 0.001s, maxInterval: 0.002s}";

async fn retry_count(gateway: &Gateway) {
    let policy = format!(
        "{{type: Retry, conf: {{http: {{numRetries: 2, retryOn: [all_5xx], {QUICKLY}}}}}}}"
    );
    let port = with(gateway, &[&policy]).await;
    let a = gateway.backend("a");
    a.answer_next(&[503, 500]);
    assert_eq!(statuses(port, "/", 1).await, [200]);
    assert_eq!(a.take_seen().len(), 3);
    a.answer_next(&[503, 503, 501]);
    assert_eq!(statuses(port, "/", 1).await, [501]);
    assert_eq!(a.take_seen().len(), 3);
    // Without a policy nothing is tried again.
    let port = with(gateway, &[]).await;
    a.answer_next(&[503]);
    assert_eq!(statuses(port, "/", 2).await, [503, 200]);
    assert_eq!(a.take_seen().len(), 2);
}

async fn retry_statuses(gateway: &Gateway) {
    let policy = format!(
        "{{type: Retry, conf: {{http: {{numRetries: 1, retriableStatusCodes: [418, 429], {QUICKLY}}}}}}}"
    );
    let port = with(gateway, &[&policy]).await;
    let a = gateway.backend("a");
    for (status, got) in [(418, 200), (429, 200), (503, 200), (500, 500), (404, 404)] {
        // Gateway errors are among the defaults.
        a.answer_next(&[status]);
        assert_eq!(statuses(port, "/", 1).await, [got], "{status}");
    }
}

async fn retry_methods(gateway: &Gateway) {
    let policy = format!(
        "{{type: Retry, conf: {{http: {{numRetries: 1, retriableMethods: [GET, PUT], {QUICKLY}}}}}}}"
    );
    let port = with(gateway, &[&policy]).await;
    for (method, got) in [("GET", 200), ("PUT", 200), ("POST", 503)] {
        gateway.backend("a").answer_next(&[503]);
        let answer = Call::get(port, "/").method(method).send().await;
        assert_eq!(answer.status, got, "{method}");
    }
}

async fn retry_try_timeout(gateway: &Gateway) {
    let policy = format!(
        "{{type: Retry, conf: {{http: {{numRetries: 2, perTryTimeout: 0.4s, \
         retryOn: [all_5xx], {QUICKLY}}}}}}}"
    );
    let port = with(gateway, &[&policy]).await;
    let answer = Call::get(port, "/").header("x-delay-ms", "5000").send().await;
    assert_eq!(answer.status, 504);
    assert_eq!(gateway.backend("a").take_seen().len(), 3);
}

async fn retry_connect_failure(gateway: &Gateway) {
    let (instance, _port) = dead("x-dead", "x");
    for (policy, failures) in [(Some("{type: Retry, conf: {http: {numRetries: 3}}}"), 0), (None, 5)]
    {
        let mut scene = gateway.scene();
        scene.put(gateway.backend("a").instance("x-a", json!({"kuma.io/service": "x"})));
        scene.put(instance.clone());
        if let Some(policy) = policy {
            scene.add(policy);
        }
        let port = scene.http("[{matches: [{prefix: /}], to: x}]");
        scene.apply().await;
        let failed = statuses(port, "/", 10).await.iter().filter(|status| **status != 200).count();
        assert_eq!(failed, failures);
    }
}

async fn timeout_request(gateway: &Gateway) {
    let slow = |port, path: &str| Call::get(port, path).header("x-delay-ms", "600");
    let port = with(
        gateway,
        &["{type: Timeout, destinations: [{match: {kuma.io/service: a}}], \
            conf: {http: {requestTimeout: 0.2s}}}"],
    )
    .await;
    assert_eq!(slow(port, "/a").send().await.status, 504);
    assert_eq!(slow(port, "/b").send().await.status, 200);
    Call::get(port, "/a").until("it is fast enough", |answer| answer.status == 200).await;
}

/// Connections to the service that nobody uses are closed.
async fn timeout_idle(gateway: &Gateway) {
    let x = Backend::http("x").await;
    let mut scene = gateway.scene();
    scene.put(x.dataplane());
    let port = scene.http("[{matches: [{prefix: /}], to: x}]");
    scene.add("{type: Timeout, conf: {http: {idleTimeout: 0.3s}}}");
    scene.apply().await;
    assert_eq!(answers(Call::get(port, "/")).await, "x");
    assert_eq!(x.connections(), 1);
    eventually("the connection ends", || (x.open_connections() == 0).then_some(())).await;
}

async fn timeout_stream(gateway: &Gateway) {
    let port = with(
        gateway,
        &["{type: Timeout, conf: {http: {requestTimeout: 60s, maxStreamDuration: 0.2s}}}"],
    )
    .await;
    let answer = Call::get(port, "/").header("x-delay-ms", "5000").send().await;
    assert_eq!(answer.status, 504);
}

/// Requests at the same time.
async fn at_once(call: &Call, number: usize) -> Vec<Answer> {
    join_all((0..number).map(|_| call.send())).await
}

async fn breaker_connections(gateway: &Gateway) {
    let port = with(
        gateway,
        &["{type: CircuitBreaker, destinations: [{match: {kuma.io/service: a}}], \
            conf: {thresholds: {maxConnections: 1, maxPendingRequests: 1}}}"],
    )
    .await;
    let slow = |path: &str| Call::get(port, path).header("x-delay-ms", "1000");
    let answers = at_once(&slow("/a"), 6).await;
    let (good, bad): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert!(!good.is_empty() && !bad.is_empty(), "{answers:?}");
    for answer in bad {
        assert_eq!((answer.status, answer.header("x-envoy-overloaded")), (503, "true"));
    }
    assert!(at_once(&slow("/b"), 6).await.iter().all(|answer| answer.status == 200));
}

async fn breaker_requests(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let tags = json!({"kuma.io/service": "x", "kuma.io/protocol": "http2"});
    scene.put(gateway.backend("a").instance("x-a", tags));
    let port = scene.http(
        "[{matches: [{prefix: /}], backends: [{weight: 1, \
         destination: {kuma.io/service: x, kuma.io/protocol: http2}}]}]",
    );
    scene.add("{type: CircuitBreaker, conf: {thresholds: {maxRequests: 2}}}");
    scene.apply().await;
    assert_eq!(Call::get(port, "/").send().await.status, 200);
    let answers = at_once(&Call::get(port, "/").header("x-delay-ms", "1000"), 6).await;
    let good = answers.iter().filter(|answer| answer.status == 200).count();
    assert!((2..6).contains(&good), "{answers:?}");
}

/// A service `x` of `a`, `b` and a third instance that always answers with this status.
async fn with_bad_instance<'g>(
    gateway: &'g Gateway,
    status: u16,
    conf: &str,
) -> (Scene<'g>, u16, Backend) {
    let bad = Backend::http("bad").await;
    bad.answer_next(&[status; 200]);
    let mut scene = gateway.scene();
    let tags = json!({"kuma.io/service": "x"});
    for backend in [gateway.backend("a"), gateway.backend("b"), &bad] {
        scene.put(backend.instance(&format!("x-{}", backend.name), tags.clone()));
    }
    let port = scene.http("[{matches: [{prefix: /}], to: x}]");
    scene.add(&format!("{{type: CircuitBreaker, conf: {conf}}}"));
    scene.apply().await;
    (scene, port, bad)
}

const EJECT: &str = "interval: 0.1s, baseEjectionTime: 600s, maxEjectionPercent: 100";

/// Detectors that look back need some requests in each interval.
const SLOWLY: &str = "interval: 0.7s, baseEjectionTime: 600s, maxEjectionPercent: 100";

async fn outlier_total(gateway: &Gateway) {
    let conf = format!("{{{EJECT}, detectors: {{totalErrors: {{consecutive: 2}}}}}}");
    let (_scene, port, bad) = with_bad_instance(gateway, 500, &conf).await;
    only(port, &["a", "b"]).await;
    assert!((2..10).contains(&bad.seen().len()));
}

/// Only 502, 503 and 504 count here.
async fn outlier_gateway(gateway: &Gateway) {
    let conf = format!("{{{EJECT}, detectors: {{gatewayErrors: {{consecutive: 3}}}}}}");
    let (_scene, port, bad) = with_bad_instance(gateway, 502, &conf).await;
    only(port, &["a", "b"]).await;
    assert!((3..10).contains(&bad.seen().len()));
    let (_scene, port, bad) = with_bad_instance(gateway, 500, &conf).await;
    statuses(port, "/", 30).await;
    assert_eq!(bad.seen().len(), 10);
}

/// What goes wrong before the service answers.
async fn outlier_local(gateway: &Gateway) {
    let (instance, _port) = dead("x-dead", "x");
    let mut scene = gateway.scene();
    scene.put(gateway.backend("a").instance("x-a", json!({"kuma.io/service": "x"})));
    scene.put(instance);
    let port = scene.http("[{matches: [{prefix: /}], to: x}]");
    scene.add(&format!(
        "{{type: CircuitBreaker, conf: {{{EJECT}, splitExternalAndLocalErrors: true, \
         detectors: {{localErrors: {{consecutive: 2}}}}}}}}"
    ));
    scene.apply().await;
    let failed = statuses(port, "/", 4).await.iter().filter(|status| **status == 503).count();
    assert_eq!(failed, 2);
    only(port, &["a"]).await;
}

async fn outlier_failure(gateway: &Gateway) {
    let conf = format!(
        "{{{SLOWLY}, detectors: {{failure: {{requestVolume: 3, minimumHosts: 3, threshold: 50}}}}}}"
    );
    let (_scene, port, _bad) = with_bad_instance(gateway, 500, &conf).await;
    assert!(statuses(port, "/", 3).await.contains(&500));
    only(port, &["a", "b"]).await;
}

async fn outlier_deviation(gateway: &Gateway) {
    let conf = format!(
        "{{{SLOWLY}, detectors: \
         {{standardDeviation: {{requestVolume: 3, minimumHosts: 3, factor: 0.5}}}}}}"
    );
    let (_scene, port, _bad) = with_bad_instance(gateway, 500, &conf).await;
    assert!(statuses(port, "/", 3).await.contains(&500));
    only(port, &["a", "b"]).await;
}

const CHECK: &str = "interval: 0.05s, noTrafficInterval: 0.05s, timeout: 2s, \
                     unhealthyThreshold: 1, healthyThreshold: 1";

async fn health_http(gateway: &Gateway) {
    let sick = Backend::http("sick").await;
    sick.set_health(500);
    let mut scene = gateway.scene();
    for backend in [gateway.backend("a"), &sick] {
        let name = format!("x-{}", backend.name);
        scene.put(backend.instance(&name, json!({"kuma.io/service": "x"})));
    }
    let port = scene.http("[{matches: [{prefix: /}], to: x}]");
    scene.add(&format!(
        "{{type: HealthCheck, conf: {{{CHECK}, \
         http: {{path: /health, expectedStatuses: [200, 201]}}}}}}"
    ));
    scene.apply().await;
    only(port, &["a"]).await;
    sick.set_health(201);
    only(port, &["a", "sick"]).await;
    sick.set_health(204);
    only(port, &["a"]).await;
}

async fn health_tcp(gateway: &Gateway) {
    let (instance, _port) = dead("x-dead", "x");
    for tcp in ["", ", tcp: {}"] {
        let mut scene = gateway.scene();
        for backend in [gateway.backend("a"), gateway.backend("b")] {
            let name = format!("x-{}", backend.name);
            scene.put(backend.instance(&name, json!({"kuma.io/service": "x"})));
        }
        scene.put(instance.clone());
        let port = scene.http("[{matches: [{prefix: /}], to: x}]");
        scene.add(&format!("{{type: HealthCheck, conf: {{{CHECK}{tcp}}}}}"));
        scene.apply().await;
        only(port, &["a", "b"]).await;
    }
    // What is to come back for what is sent.
    let [lines, other] = [Backend::tcp("lines").await, Backend::tcp("other").await];
    let mut scene = gateway.scene();
    for backend in [&lines, &other] {
        let name = format!("x-{}", backend.name);
        scene.put(backend.instance(&name, json!({"kuma.io/service": "x"})));
    }
    let port = scene.listener("{protocol: TCP}");
    scene.route("r", "tcp: {rules: [{to: x}]}");
    let base64 = sunbear_gateway_live::base64;
    scene.add(&format!(
        "{{type: HealthCheck, conf: {{{CHECK}, tcp: {{send: {}, receive: [{}]}}}}}}",
        base64("hello\n"),
        base64("lines hello"),
    ));
    scene.apply().await;
    sunbear_gateway_live::eventually_async("one is left", async || {
        for _ in 0..10 {
            let mut stream = sunbear_gateway_live::dial(port, None).await.unwrap();
            if stream.echo("hello").await? != "lines hello" {
                return None;
            }
        }
        Some(())
    })
    .await;
}

/// With too few healthy instances all are asked, or none.
async fn health_panic(gateway: &Gateway) {
    let sick = Backend::http("sick").await;
    sick.set_health(500);
    for (panic, fails) in [("", false), (", failTrafficOnPanic: true", true)] {
        let mut scene = gateway.scene();
        scene.put(sick.instance("x-sick", json!({"kuma.io/service": "x"})));
        let port = scene.http("[{matches: [{prefix: /}], to: x}]");
        scene.add(&format!(
            "{{type: HealthCheck, conf: {{{CHECK}, healthyPanicThreshold: 60{panic}, \
             http: {{path: /health, expectedStatuses: [200]}}}}}}"
        ));
        scene.apply().await;
        let what = if fails { "no instance is asked" } else { "all instances are asked" };
        let expected = if fails { 503 } else { 200 };
        Call::get(port, "/").until(what, |answer| answer.status == expected).await;
    }
}

fn limit(name: &str, destination: &str, requests: u32) -> String {
    format!(
        "{{type: RateLimit, name: {name}, \
         destinations: [{{match: {{kuma.io/service: {destination}}}}}], \
         conf: {{http: {{requests: {requests}, interval: 600s}}}}}}"
    )
}

async fn most_specific(gateway: &Gateway) {
    let port = with(gateway, &[&limit("one", "'*'", 1), &limit("two", "a", 3)]).await;
    assert_eq!(statuses(port, "/a/", 4).await, [200, 200, 200, 429]);
    assert_eq!(statuses(port, "/b/", 2).await, [200, 429]);
}

/// A policy for all services is preferred where a route leads to several.
async fn several_destinations(gateway: &Gateway) {
    let backend =
        |service: &str| format!("{{weight: 1, destination: {{kuma.io/service: {service}}}}}");
    let mut scene = gateway.scene();
    let port = scene.http(&format!(
        "[{{matches: [{{prefix: /one}}], backends: [{}, {}]}}, \
          {{matches: [{{prefix: /two}}], to: a}}]",
        backend("a"),
        backend("b")
    ));
    scene.add(&limit("specific", "a", 3));
    scene.add(&limit("general", "'*'", 1));
    scene.apply().await;
    assert_eq!(statuses(port, "/one/", 3).await, [200, 429, 429]);
    assert_eq!(statuses(port, "/two/", 4).await, [200, 200, 200, 429]);
}

async fn listener_tags(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let red = scene.listener("{protocol: HTTP, tags: {color: red}}");
    let blue = scene.listener("{protocol: HTTP, tags: {color: blue}}");
    scene.route("r", "http: {rules: [{matches: [{prefix: /}], to: a}]}");
    scene.add(
        "{type: Timeout, sources: [{match: {kuma.io/service: edge, color: red}}], \
          conf: {http: {requestTimeout: 0.2s}}}",
    );
    scene.apply().await;
    let slow = |port| Call::get(port, "/").header("x-delay-ms", "600");
    assert_eq!(slow(red).send().await.status, 504);
    assert_eq!(slow(blue).send().await.status, 200);
}

async fn traffic_route(gateway: &Gateway) {
    let port = with(
        gateway,
        &["{type: TrafficRoute, conf: {destination: {kuma.io/service: b}, \
            http: [{match: {path: {prefix: /}}, destination: {kuma.io/service: c}}]}}"],
    )
    .await;
    assert_eq!(answers(Call::get(port, "/a")).await, "a");
}

async fn virtual_outbound(gateway: &Gateway) {
    let port = with(
        gateway,
        &["{type: VirtualOutbound, selectors: [{match: {kuma.io/service: '*'}}], \
            conf: {host: '{{.service}}.mesh', port: '80', \
            parameters: [{name: service, tagKey: kuma.io/service}]}}"],
    )
    .await;
    assert_eq!(answers(Call::get(port, "/a").host("b.mesh")).await, "a");
    assert_eq!(gateway.issues(), Vec::<String>::new());
}
