//! One bad part costs itself alone.

use serde_json::json;
use sunbear_model::{Kind, ResourceKey};
use sunbear_xds::{GenerateError, Proxy, ResourceType, Settings, generate};

use crate::build::{gateway, generated, issues, json_of, route, to_echo, world};

#[test]
fn a_bad_listener_is_left_out() {
    let mut world = world();
    world.add(&gateway(&json!([
        {"port": 8080, "protocol": "HTTP"},
        {"port": 8443, "protocol": "HTTPS", "tls": {"mode": "TERMINATE"}},
        {"port": 70000, "protocol": "HTTP"},
        {"port": 9000, "protocol": "HTTP", "crossMesh": true},
        {"port": 8080, "protocol": "TCP"},
    ])));
    let got = generated(&world);
    let names: Vec<&str> = got.resources.names(ResourceType::Listener).collect();
    assert_eq!(names, ["edge:HTTP:8080"]);
    assert_eq!(
        issues(&got),
        [
            "edge conf.listeners[1]: cannot be empty in TLS termination mode",
            "edge conf.listeners[2]: the port has to be between 1 and 65535",
            "edge conf.listeners[3]: mTLS must be enabled for crossMesh-enabled MeshGateways",
            "edge conf.listeners[4]: protocol conflicts with other listeners on this port",
        ]
    );
}

#[test]
fn a_bad_entry_is_left_out() {
    let mut world = world();
    world.add(&gateway(&json!([{"port": 8080, "protocol": "HTTP"}])));
    let backends = json!([{"destination": {"kuma.io/service": "echo"}}]);
    world.add(&route(
        "r",
        &json!([
            to_echo("/good"),
            {
                "matches": [
                    {"path": {"match": "REGEX", "value": "/a("}},
                    {"path": {"match": "REGEX", "value": "/items/{id}"}},
                    {"headers": [{"match": "REGEX", "name": "x", "value": "[z-a]"}]},
                ],
                "backends": backends,
            },
            {"matches": [{"path": {"value": "/none"}}]},
            {
                "matches": [{"path": {"value": "/redirect"}}],
                "filters": [{"redirect": {"statusCode": 304}}],
            },
            {
                "matches": [{"path": {"value": "/group"}}],
                "filters": [{"rewrite": {"replaceFull": "/\\1"}}],
                "backends": backends,
            },
            {
                "matches": [{"path": {"value": "/header"}}],
                "filters": [{"requestHeader": {"add": [{"name": "host", "value": "a"}]}}],
                "backends": backends,
            },
        ]),
    ));
    let got = generated(&world);
    assert_eq!(
        issues(&got),
        [
            "r conf.http.rules[1].matches[0].path.value: regular expression: missing )",
            "r conf.http.rules[1].matches[2].headers[0].value: regular expression: invalid character range",
            "r conf.http.rules[2].backends: cannot be empty",
            "r conf.http.rules[3].filters: redirects cannot have status 304; requests get status 500",
            "r conf.http.rules[4].matches[0]: the new path refers to a group that the pattern does not have",
            "r conf.http.rules[5].filters: operation on header \"host\" left out: pseudo headers and the host can only be set on requests",
        ]
    );
    let json = json_of(&world);
    let routes =
        json["Routes"]["Resources"]["edge:HTTP:8080:*"]["virtualHosts"][0]["routes"].clone();
    let paths: Vec<String> =
        routes.as_array().unwrap().iter().map(|r| r["match"].to_string()).collect();
    assert_eq!(
        paths,
        [
            r#"{"path":"/redirect"}"#,
            r#"{"path":"/header"}"#,
            r#"{"path":"/good"}"#,
            r#"{"prefix":"/good/"}"#,
            r#"{"safeRegex":{"regex":"/items/{id}"}}"#,
        ]
    );
    assert_eq!(routes[0]["directResponse"], json!({"status": 500}));
}

#[test]
fn addresses_have_to_be_ip_addresses() {
    let mut world = world();
    world.add(&json!({
        "type": "Dataplane", "mesh": "default", "name": "echo-2",
        "networking": {
            "address": "echo.internal",
            "inbound": [{"port": 80, "tags": {"kuma.io/service": "echo"}}],
        },
    }));
    world.add(&gateway(&json!([{"port": 8080, "protocol": "HTTP"}])));
    world.add(&route("r", &json!([to_echo("/")])));
    let got = generated(&world);
    assert_eq!(
        issues(&got),
        [
            "echo-2 networking.inbound[0]: an endpoint has to have an IP address and a port from 1 to 65535"
        ]
    );
    assert_eq!(got.resources.len(ResourceType::Endpoint), 1);
}

#[test]
fn hosts_are_compared_without_case() {
    let mut world = world();
    world.add(&gateway(&json!([
        {"port": 8080, "protocol": "HTTP", "hostname": "a.x"},
        {"port": 8080, "protocol": "HTTP", "hostname": "A.x"},
    ])));
    let got = generated(&world);
    assert_eq!(issues(&got), ["edge conf.listeners[1]: host \"A.x\" is there twice on this port"]);
}

#[test]
fn one_cluster_for_tcp_and_http() {
    let mut world = world();
    world.add(&gateway(&json!([
        {"port": 8080, "protocol": "HTTP"},
        {"port": 9090, "protocol": "TCP"},
    ])));
    world.add(&route("h", &json!([to_echo("/")])));
    world.add(&json!({
        "type": "MeshGatewayRoute", "mesh": "default", "name": "t",
        "selectors": [{"match": {"kuma.io/service": "edge"}}],
        "conf": {"tcp": {"rules": [{"backends": [{"destination": {"kuma.io/service": "echo"}}]}]}},
    }));
    let got = generated(&world);
    assert_eq!(got.resources.len(ResourceType::Cluster), 1);
    assert_eq!(got.issues.len(), 1);
    assert_eq!(got.issues[0].field, "conf.listeners[1]");
}

#[test]
fn the_admin_address_is_taken() {
    let mut world = world();
    world.add(&gateway(&json!([
        {"port": 8080, "protocol": "HTTP"},
        {"port": 9901, "protocol": "HTTP"},
    ])));
    let metadata =
        sunbear_xds::ProxyMetadata { admin_port: 9901, readiness_port: 9902, ..Default::default() };
    let proxy = Proxy { mesh: "default".to_owned(), name: "gw".to_owned(), metadata };
    let got = generate(&world, &Settings::default(), &proxy).unwrap();
    let names: Vec<&str> = got.resources.names(ResourceType::Listener).collect();
    assert_eq!(names, ["edge:HTTP:8080", "kuma:envoy:admin"]);
    assert_eq!(got.issues[0].field, "conf.listeners[1]");
}

#[test]
fn no_gateway_still_means_a_runtime() {
    let got = generated(&world());
    assert_eq!(got.resources.len(ResourceType::Runtime), 1);
    assert_eq!(got.resources.len(ResourceType::Listener), 0);
}

#[test]
fn unknown_proxies() {
    let proxy = |mesh: &str, name: &str| Proxy {
        mesh: mesh.to_owned(),
        name: name.to_owned(),
        ..Proxy::default()
    };
    let error = |proxy: &Proxy| generate(&world(), &Settings::default(), proxy).unwrap_err();
    assert!(matches!(error(&proxy("default", "x")), GenerateError::NoDataplane { .. }));
    assert!(matches!(error(&proxy("other", "gw")), GenerateError::NoDataplane { .. }));
    assert!(matches!(error(&proxy("default", "echo-1")), GenerateError::NotAGateway { .. }));
}

#[test]
fn dependencies() {
    let depends = generated(&world()).depends_on;
    let key = |kind: &str, mesh: &str, name: &str| {
        ResourceKey::new(Kind::by_name(kind).unwrap(), mesh, name)
    };
    for (concerned, key) in [
        (true, key("Mesh", "", "default")),
        (false, key("Mesh", "", "other")),
        (true, key("Dataplane", "default", "new")),
        (false, key("Dataplane", "other", "new")),
        (true, key("MeshGatewayRoute", "default", "r")),
        (true, key("MeshTimeout", "default", "t")),
        (true, key("Timeout", "default", "t")),
        (false, key("DataplaneInsight", "default", "gw")),
        (false, key("ServiceInsight", "default", "all-services-default")),
        (false, key("MeshInsight", "", "default")),
        (false, key("ZoneInsight", "", "east")),
        (false, key("Zone", "", "east")),
        (false, key("ZoneIngress", "", "ingress")),
        (false, key("TrafficRoute", "default", "r")),
    ] {
        assert_eq!(depends.concerns(&key), concerned, "{key}");
    }
}

#[test]
fn mtls_is_never_left_out() {
    let mut world = world();
    world.0.retain(|r| r.key.kind != Kind::MESH);
    world.add(&json!({
        "type": "Mesh", "name": "default",
        "mtls": {"enabledBackend": "ca", "backends": [{"name": "ca", "type": "builtin"}]},
    }));
    world.add(&gateway(&json!([{"port": 8080, "protocol": "HTTP"}])));
    world.add(&route("r", &json!([to_echo("/")])));
    let json = json_of(&world);
    let clusters = json["Clusters"]["Resources"].as_object().unwrap();
    assert!(
        clusters.values().all(|c| c["transportSocket"]["name"] == "envoy.transport_sockets.tls")
    );
    let names: Vec<String> = generated(&world).secrets.iter().map(|s| s.name()).collect();
    assert_eq!(names, ["identity_cert:secret:default", "mesh_ca:secret:default"]);
}
