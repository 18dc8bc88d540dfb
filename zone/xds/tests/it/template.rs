//! What users change with ProxyTemplates.

use serde_json::{Value, json};
use sunbear_xds::{Proxy, ProxyMetadata, ResourceType, generate};

use crate::{
    build::{gateway, generated, gw, issues, resources, route, settings, to_echo, world},
    golden::snapshot,
    world::World,
};

fn base() -> World {
    let mut world = world();
    world.add(&gateway(&json!([{"port": 8080, "protocol": "HTTP"}])));
    world.add(&route("r", &json!([to_echo("/")])));
    world
}

fn template(conf: &Value) -> Value {
    json!({
        "type": "ProxyTemplate", "mesh": "default", "name": "t",
        "selectors": [{"match": {"kuma.io/service": "edge"}}], "conf": conf,
    })
}

fn modified(modifications: &Value) -> (Value, Vec<String>) {
    let mut world = base();
    let conf = json!({"imports": ["gateway-proxy"], "modifications": modifications});
    world.add(&template(&conf));
    let got = generated(&world);
    (snapshot(&got), issues(&got))
}

fn cluster_of(json: &Value) -> Value {
    let clusters = resources(json, "Clusters");
    clusters.into_iter().find(|(name, _)| name.starts_with("echo-")).unwrap().1
}

#[test]
fn a_template_replaces_the_profile() {
    let proxy = Proxy {
        metadata: ProxyMetadata {
            admin_port: 9901,
            readiness_port: 9902,
            ..ProxyMetadata::default()
        },
        ..gw()
    };
    let counts = |imports: &Value| {
        let mut world = base();
        world.add(&template(&json!({ "imports": imports })));
        let got = generate(&world, &settings(), &proxy).unwrap();
        let count = |t| got.resources.len(t);
        (
            count(ResourceType::Listener),
            count(ResourceType::Cluster),
            count(ResourceType::Runtime),
            got.issues.len(),
        )
    };
    let plain = generate(&base(), &settings(), &proxy).unwrap();
    assert_eq!(plain.resources.len(ResourceType::Listener), 2);
    assert_eq!(counts(&json!(["gateway-proxy"])), (2, 3, 1, 0));
    assert_eq!(counts(&json!(["default-proxy"])), (1, 2, 0, 0));
    assert_eq!(counts(&json!([])), (0, 0, 0, 0));
    assert_eq!(counts(&json!(["what"])), (0, 0, 0, 1));
    // An empty one changes nothing.
    let mut world = base();
    world.add(&template(&json!({"imports": ["gateway-proxy"]})));
    assert_eq!(generate(&world, &settings(), &proxy).unwrap().resources, plain.resources);
}

#[test]
fn templates_of_others_do_not_count() {
    let mut world = base();
    let mut other = template(&json!({"imports": []}));
    other["selectors"][0]["match"]["kuma.io/service"] = json!("other");
    world.add(&other);
    assert_eq!(generated(&world).resources, generated(&base()).resources);
}

#[test]
fn raw_resources() {
    let mut world = base();
    let raw = "'@type': type.googleapis.com/envoy.config.cluster.v3.Cluster\n\
               name: mine\nconnect_timeout: 7s\ntype: STATIC\n";
    world.add(&template(&json!({
        "imports": ["gateway-proxy"],
        "resources": [
            {"name": "mine", "version": "1", "resource": raw},
            {"name": "bad", "version": "1", "resource": "name: x"},
            {"name": "worse", "version": "1", "resource": "'@type': x/y.Z\nname: x"},
        ],
        "modifications": [
            {"cluster": {"operation": "patch", "match": {"origin": "proxy-template-raw"}, "value": "altStatName: raw"}},
        ],
    })));
    let got = generated(&world);
    let json = snapshot(&got);
    assert_eq!(
        json["Clusters"]["Resources"]["mine"],
        json!({"name": "mine", "connectTimeout": "7s", "altStatName": "raw", "type": "STATIC"})
    );
    assert_eq!(
        issues(&got),
        [
            "t conf.resources[1].resource: \"@type\" is missing",
            "t conf.resources[2].resource: unknown type \"x/y.Z\"",
        ]
    );
}

#[test]
fn clusters() {
    let (json, told) = modified(&json!([
        {"cluster": {"operation": "patch", "match": {"origin": "gateway"}, "value": "
            connect_timeout: 9s
            circuit_breakers: {thresholds: [{priority: HIGH, max_retries: 1}]}
            typed_extension_protocol_options:
              envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
                '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
                common_http_protocol_options: {max_requests_per_connection: 5}
        "}},
        {"cluster": {"operation": "patch", "match": {"name": "none"}, "value": "altStatName: x"}},
        {"cluster": {"operation": "add", "value": "name: new\ntype: EDS\nedsClusterConfig: {edsConfig: {ads: {}}}\nnonsense: 1"}},
        {"cluster": {"operation": "explode", "value": ""}},
        {"cluster": {"operation": "patch", "value": "connectTimeout: [1]"}},
    ]));
    let cluster = cluster_of(&json);
    assert_eq!(cluster["connectTimeout"], "9s");
    assert_eq!(cluster["circuitBreakers"]["thresholds"].as_array().unwrap().len(), 2);
    let options = &cluster["typedExtensionProtocolOptions"];
    let options = &options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
    assert_eq!(options["commonHttpProtocolOptions"]["maxRequestsPerConnection"], 5);
    assert_eq!(options["commonHttpProtocolOptions"]["idleTimeout"], "0s");
    assert!(options["explicitHttpConfig"].is_object());
    assert!(cluster.get("altStatName").is_none());
    assert_eq!(json["Endpoints"]["Resources"]["new"], json!({"clusterName": "new"}));
    assert_eq!(told.len(), 3, "{told:?}");
    assert_eq!(told[0], "t conf.modifications[2]: unknown field nonsense");

    let (json, _) = modified(&json!([
        {"cluster": {"operation": "remove", "match": {"origin": "gateway"}}},
    ]));
    assert!(resources(&json, "Clusters").is_empty() && resources(&json, "Endpoints").is_empty());
}

#[test]
fn listeners_and_their_filters() {
    let lua = "name: lua\ntypedConfig:\n  '@type': type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua\n  \
               default_source_code: {inline_string: x}";
    let tcp = "name: first\ntyped_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC, stat_prefix: r}";
    let mut world = base();
    world.add(&template(&json!({
        "imports": ["gateway-proxy"],
        "modifications": [
            {"listener": {"operation": "patch", "match": {"name": "edge:HTTP:8080"}, "value": "tcpBacklogSize: 7"}},
            {"networkFilter": {"operation": "addFirst", "match": {"listenerName": "edge:HTTP:8080"}, "value": tcp}},
            {"networkFilter": {
                "operation": "patch", "match": {"name": "envoy.filters.network.http_connection_manager"},
                "value": "typedConfig: {'@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, server_name: mine}",
            }},
            {"httpFilter": {"operation": "addLast", "value": lua}},
            {"httpFilter": {"operation": "addBefore", "match": {"name": "lua"}, "value": "name: before"}},
            {"httpFilter": {"operation": "addAfter", "match": {"name": "nobody"}, "value": "name: never"}},
            {"httpFilter": {"operation": "remove", "match": {"name": "gzip-compress", "origin": "gateway"}}},
            {"httpFilter": {"operation": "remove", "match": {"name": "envoy.filters.http.router", "origin": "admin"}}},
            {"httpFilter": {"operation": "remove", "match": {"listenerTags": {"a": "b"}}}},
        ],
    })));
    let got = generated(&world);
    assert_eq!(
        issues(&got),
        ["t conf.modifications[8]: listeners of gateways have no tags to match"]
    );
    // The filter of a type that only Envoy knows is not shown as what it is.
    let listener = got.resources.get(ResourceType::Listener, "edge:HTTP:8080").unwrap();
    let bytes = String::from_utf8_lossy(&listener.any.value).into_owned();
    assert!(bytes.contains("xds.type.v3.TypedStruct") && bytes.contains("lua.v3.Lua"));
    let order =
        ["envoy.filters.http.local_ratelimit", "before", "lua", "envoy.filters.http.router"];
    let positions: Vec<usize> = order.iter().map(|name| bytes.find(name).unwrap()).collect();
    assert!(positions.is_sorted(), "{positions:?}");
    assert!(bytes.contains("mine") && !bytes.contains("gzip") && !bytes.contains("never"));
    assert!(bytes.find("first").unwrap() < bytes.find("http_connection_manager").unwrap());

    let (json, told) = modified(&json!([
        {"listener": {"operation": "remove", "match": {"origin": "gateway"}}},
        {"listener": {"operation": "add", "value": "name: mine\naddress: {socketAddress: {address: 1.2.3.4, portValue: 1}}"}},
    ]));
    assert_eq!(resources(&json, "Listeners").keys().collect::<Vec<_>>(), ["mine"]);
    assert!(resources(&json, "Routes").is_empty() && told.is_empty());
}

#[test]
fn virtual_hosts() {
    let (json, told) = modified(&json!([
        {"virtualHost": {"operation": "add", "value": "name: mine\ndomains: [mine.x]"}},
        {"virtualHost": {"operation": "patch", "match": {"name": "*", "origin": "gateway"}, "value":
            "request_headers_to_add: [{header: {key: a, value: b}}]"}},
        {"virtualHost": {"operation": "remove", "match": {"routeConfigurationName": "other"}}},
        {"virtualHost": {"operation": "remove", "match": {"origin": "outbound"}}},
    ]));
    assert!(told.is_empty());
    let hosts = json["Routes"]["Resources"]["edge:HTTP:8080:*"]["virtualHosts"].clone();
    assert_eq!(hosts[0]["requestHeadersToAdd"][0]["header"], json!({"key": "a", "value": "b"}));
    assert_eq!(hosts[0]["routes"].as_array().unwrap().len(), 1);
    assert_eq!(hosts[1], json!({"name": "mine", "domains": ["mine.x"]}));
    let (json, _) =
        modified(&json!([{"virtualHost": {"operation": "remove", "match": {"name": "*"}}}]));
    assert!(json["Routes"]["Resources"]["edge:HTTP:8080:*"].get("virtualHosts").is_none());
}
