//! Access logs, traces and injected faults.

use serde_json::{Value, json};
use sunbear_model::Kind;
use sunbear_xds::{ProxyMetadata, generate};

use crate::{
    build::{
        gateway, generated, gw, issues, json_of, only, resources, route, settings, tcp_route, to,
        to_echo, with_mesh, world,
    },
    golden::snapshot,
    world::World,
};

fn base() -> World {
    let mut world = world();
    world.add(&gateway(&json!([
        {"port": 8080, "protocol": "HTTP"},
        {"port": 9090, "protocol": "TCP", "tags": {"port": "tcp"}},
    ])));
    world.add(&route("h", &json!([to_echo("/")])));
    world.add(&tcp_route("t", &["echo"]));
    world
}

fn filter(json: &Value, listener: &str) -> Value {
    json["Listeners"]["Resources"][listener]["filterChains"][0]["filters"][0]["typedConfig"].clone()
}

fn log_of(json: &Value, listener: &str) -> Value {
    filter(json, listener)["accessLog"][0]["typedConfig"].clone()
}

fn log(name: &str, source: &str, destination: &str, backend: &str) -> Value {
    json!({
        "type": "TrafficLog", "mesh": "default", "name": name,
        "sources": [{"match": {"kuma.io/service": source}}],
        "destinations": [{"match": {"kuma.io/service": destination}}],
        "conf": {"backend": backend},
    })
}

fn file(name: &str, format: &str) -> Value {
    json!({"name": name, "type": "file", "format": format, "conf": {"path": format!("/tmp/{name}")}})
}

#[test]
fn which_log_counts() {
    let backends = json!([file("a", ""), file("b", ""), file("c", "")]);
    let path = |logs: &[Value]| {
        let mut world = base();
        with_mesh(&mut world, &json!({"logging": {"defaultBackend": "c", "backends": backends}}));
        logs.iter().for_each(|l| world.add(l));
        log_of(&json_of(&world), "edge:HTTP:8080")["path"].as_str().map(str::to_owned)
    };
    assert_eq!(path(&[]), None);
    assert_eq!(path(&[log("l", "*", "*", "a")]).as_deref(), Some("/tmp/a"));
    assert_eq!(path(&[log("l", "*", "*", "")]).as_deref(), Some("/tmp/c"));
    // A log for a destination is none, nor one for another source, nor one of a lost backend.
    assert_eq!(path(&[log("l", "*", "echo", "a")]), None);
    assert_eq!(path(&[log("l", "other", "*", "a")]), None);
    assert_eq!(path(&[log("l", "*", "*", "z")]), None);
    assert_eq!(path(&[log("l", "*", "pass_through", "a")]).as_deref(), Some("/tmp/a"));
    let ranked = [log("1", "edge", "*", "a"), log("2", "*", "*", "b")];
    assert_eq!(path(&ranked).as_deref(), Some("/tmp/a"));
    let equal = [log("2", "*", "*", "a"), log("1", "*", "*", "b")];
    assert_eq!(path(&equal).as_deref(), Some("/tmp/b"), "the younger one");
}

#[test]
fn log_lines() {
    let mut world = base();
    let format = "%KUMA_SOURCE_ADDRESS% %KUMA_SOURCE_SERVICE%>%KUMA_DESTINATION_SERVICE% \
                  %KUMA_MESH% %KUMA_TRAFFIC_DIRECTION% [%KUMA_ZONE%%KUMA_WORKLOAD%] %REQ(:PATH)%";
    let tcp =
        json!({"name": "t", "type": "tcp", "format": format, "conf": {"address": "logs:5000"}});
    with_mesh(&mut world, &json!({"logging": {"defaultBackend": "t", "backends": [tcp]}}));
    world.add(&log("l", "*", "*", ""));
    let mut proxy = gw();
    proxy.metadata = ProxyMetadata { work_dir: "/run/dp/".to_owned(), ..ProxyMetadata::default() };
    let json = snapshot(&generate(&world, &settings(), &proxy).unwrap());
    for listener in ["edge:HTTP:8080", "edge:TCP:9090"] {
        let log = log_of(&json, listener);
        assert_eq!(log["path"], "/run/dp/kuma-al-gw-default.sock");
        assert_eq!(
            log["logFormat"]["textFormatSource"]["inlineString"],
            "logs:5000;10.0.0.1:0 edge>* default INBOUND [] %REQ(:PATH)%\n"
        );
    }
    proxy.metadata.work_dir = format!("/{}", "x".repeat(200));
    let json = snapshot(&generate(&world, &settings(), &proxy).unwrap());
    let path = log_of(&json, "edge:TCP:9090")["path"].as_str().unwrap().to_owned();
    assert_eq!(path.len(), 98 + 5);

    let mut plain = base();
    with_mesh(
        &mut plain,
        &json!({"logging": {"defaultBackend": "f", "backends": [file("f", "")]}}),
    );
    plain.add(&log("l", "*", "*", ""));
    let text = log_of(&json_of(&plain), "edge:TCP:9090")["logFormat"]["textFormatSource"].clone();
    assert_eq!(
        text["inlineString"],
        "[%START_TIME%] %RESPONSE_FLAGS% default 10.0.0.1(edge)->%UPSTREAM_HOST%(*) took %DURATION%ms, \
         sent %BYTES_SENT% bytes, received: %BYTES_RECEIVED% bytes\n"
    );
}

#[test]
fn a_format_that_envoy_refuses_costs_the_log() {
    let mut world = base();
    let backends = json!([file("f", "%NEVER_HEARD_OF%")]);
    with_mesh(&mut world, &json!({"logging": {"defaultBackend": "f", "backends": backends}}));
    world.add(&log("l", "*", "*", ""));
    let got = generated(&world);
    assert_eq!(
        issues(&got),
        ["default logging.backends[0].format: unknown command NEVER_HEARD_OF"]
    );
    assert_eq!(log_of(&snapshot(&got), "edge:HTTP:8080"), Value::Null);
}

fn traced(backend: Value) -> World {
    let mut world = base();
    let tracing = json!({"defaultBackend": "b", "backends": [backend]});
    with_mesh(&mut world, &json!({ "tracing": tracing }));
    world.add(&json!({
        "type": "TrafficTrace", "mesh": "default", "name": "t",
        "selectors": [{"match": {"kuma.io/service": "*"}}],
    }));
    world
}

#[test]
fn collectors() {
    let zipkin = |url: &str| json!({"name": "b", "type": "zipkin", "conf": {"url": url}});
    let world = traced(zipkin("https://zipkin.local:443/api"));
    let json = json_of(&world);
    let cluster = &json["Clusters"]["Resources"]["tracing:b"];
    assert_eq!(cluster["type"], "STRICT_DNS");
    let tls = &cluster["transportSocketMatches"][0];
    assert_eq!(tls["transportSocket"]["typedConfig"]["sni"], "zipkin.local");
    assert_eq!((&tls["name"], &tls["match"]), (&json!("zipkin.local"), &json!({})));
    let tracing = &filter(&json, "edge:HTTP:8080")["tracing"];
    assert_eq!(tracing["provider"]["typedConfig"]["collectorEndpoint"], "/api");
    assert!(tracing.get("overallSampling").is_none());
    assert!(filter(&json, "edge:TCP:9090").get("tracing").is_none());

    let datadog = json!({
        "name": "b", "type": "datadog", "sampling": 12.5, "conf": {"address": "1.2.3.4", "port": 8126},
    });
    let json = json_of(&traced(datadog));
    assert!(json["Clusters"]["Resources"]["tracing:b"].get("dnsLookupFamily").is_none());
    let tracing = &filter(&json, "edge:HTTP:8080")["tracing"];
    assert_eq!(tracing["provider"]["typedConfig"]["serviceName"], "edge");
    assert_eq!(tracing["overallSampling"]["value"], 12.5);

    let broken = generated(&traced(zipkin("http://zipkin.local/api")));
    assert_eq!(
        issues(&broken),
        ["default tracing.backends[0].conf: the URL has to have a host and a port"]
    );
    assert!(filter(&snapshot(&broken), "edge:HTTP:8080").get("tracing").is_none());
}

fn fault(name: &str, service: &str, conf: Value) -> Value {
    json!({
        "type": "FaultInjection", "mesh": "default", "name": name,
        "sources": [{"match": {"kuma.io/service": "edge"}}],
        "destinations": [{"match": {"kuma.io/service": service, "kuma.io/protocol": "http"}}],
        "conf": conf,
    })
}

#[test]
fn faults() {
    let mut world = world();
    world.add(&gateway(&json!([
        {"port": 8080, "protocol": "HTTP"},
        {"port": 8081, "protocol": "HTTP", "tags": {"port": "quiet"}},
    ])));
    let mut faulty = to("/faulty", "echo");
    faulty["backends"][0]["destination"]["kuma.io/protocol"] = json!("http");
    let mut body = route("r", &json!([faulty, to_echo("/quiet")]));
    body["selectors"][0]["match"]["kuma.io/service"] = json!("edge");
    world.add(&body);
    world.add(&fault(
        "f",
        "*",
        json!({
            "delay": {"percentage": 50.5, "value": "5s"},
            "abort": {"percentage": 40, "httpStatus": 503},
            "responseBandwidth": {"percentage": 0.001, "limit": "50 mbps"},
        }),
    ));
    // The source is looked up by listener.
    let mut elsewhere = fault("g", "*", json!({"abort": {"percentage": 1, "httpStatus": 500}}));
    elsewhere["sources"][0]["match"]["port"] = json!("nowhere");
    world.add(&elsewhere);
    let json = json_of(&world);
    let name = "envoy.filters.http.fault";
    let routes = &json["Routes"]["Resources"]["edge:HTTP:8080:*"]["virtualHosts"][0]["routes"];
    for route in routes.as_array().unwrap() {
        let config = &route["typedPerFilterConfig"][name];
        if !route["match"].to_string().contains("faulty") {
            assert_eq!(*config, Value::Null);
            continue;
        }
        let percent = |n: u32, of: &str| json!({"numerator": n, "denominator": of});
        assert_eq!(config["delay"]["fixedDelay"], "5s");
        assert_eq!(config["delay"]["percentage"], percent(5050, "TEN_THOUSAND"));
        assert_eq!(config["abort"], json!({"httpStatus": 503, "percentage": {"numerator": 40}}));
        assert_eq!(config["responseRateLimit"]["fixedLimit"]["limitKbps"], "50000");
        assert_eq!(config["responseRateLimit"]["percentage"], percent(10, "MILLION"));
    }
    let filters = |json: &Value| {
        let filters = filter(json, "edge:HTTP:8080")["httpFilters"].clone();
        filters
            .as_array()
            .unwrap()
            .iter()
            .map(|f| f["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let plain =
        ["envoy.filters.http.local_ratelimit", "gzip-compress", "envoy.filters.http.router"];
    assert_eq!(filters(&json)[0], name);
    assert_eq!(filters(&json)[1..], plain);

    let ignoring = sunbear_xds::Settings { ignore_fault_injections: true, ..settings() };
    let ignored = snapshot(&generate(&world, &ignoring, &gw()).unwrap());
    assert_eq!(filters(&ignored), plain);
    world.0.retain(|r| r.key.kind != Kind::by_name("FaultInjection").unwrap());
    assert_eq!(ignored, json_of(&world));
}

#[test]
fn faults_that_envoy_refuses_are_none() {
    let mut world = world();
    world.add(&gateway(&json!([{"port": 8080, "protocol": "HTTP"}])));
    let mut rule = to_echo("/");
    rule["backends"][0]["destination"]["kuma.io/protocol"] = json!("http");
    world.add(&route("r", &json!([rule])));
    world.add(&fault(
        "f",
        "echo",
        json!({
            "delay": {"percentage": 50, "value": "-5s"},
            "abort": {"percentage": 40, "httpStatus": 101},
            "responseBandwidth": {"percentage": 1, "limit": "much kbps"},
        }),
    ));
    let routes = only(&json_of(&world), "Routes").to_string();
    assert!(!routes.contains("fault"), "{routes}");
    assert_eq!(resources(&json_of(&world), "Listeners").len(), 1);
}
