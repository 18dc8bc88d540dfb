//! What a gateway grants to clients that nobody vouches for: every value that its listeners, their
//! connection managers, TLS contexts and virtual hosts have, and what each is there for. A value
//! that no table here names makes the test fail, so nothing of the edge changes unnoticed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::{
    build::{gateway, generated, issues, mtls, resources, route, tcp_route, to_echo, with_mesh},
    certs,
    golden::snapshot,
    world::World,
};

/// A value of the edge: where it is, what it has to be, and what for.
struct Row(&'static str, Value, &'static str);

/// Names that differ between listeners stand for themselves in the tables.
const ANY: &str = "<name>";

fn listener() -> Vec<Row> {
    vec![
        Row("/name", json!(ANY), "statistics and the connection limit go by it"),
        Row("/address/socketAddress/address", json!("10.0.0.1"), "the proxy's own, no other"),
        Row("/address/socketAddress/portValue", json!(ANY), "the listener's"),
        Row("/trafficDirection", json!("INBOUND"), "what comes is from outside"),
        Row("/enableReusePort", json!(true), "no worker alone takes all connections"),
        Row(
            "/perConnectionBufferLimitBytes",
            json!(32768),
            "slow readers and senders of much: memory of a connection",
        ),
        Row("/listenerFilters/0/name", json!("envoy.filters.listener.tls_inspector"), INSPECTOR),
        Row(
            "/listenerFilters/0/typedConfig/@type",
            json!(
                "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
            ),
            INSPECTOR,
        ),
    ]
}

const INSPECTOR: &str = "plain text where TLS is due, server names of others";

fn manager() -> Vec<Row> {
    const FILTERS: &str = "filters that nobody ordered";
    const ADDRESS: &str = "clients that claim to be inside: only these are";
    vec![
        Row(
            "/@type",
            json!(
                "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
            ),
            "",
        ),
        Row("/statPrefix", json!("edge"), "counters of one service under the name of another"),
        Row("/serverName", json!("Kuma Gateway"), "backends that tell what they are"),
        Row("/useRemoteAddress", json!(true), "spoofed x-forwarded-for, x-envoy-* from outside"),
        Row("/internalAddressConfig/cidrRanges/0/addressPrefix", json!("127.0.0.1"), ADDRESS),
        Row("/internalAddressConfig/cidrRanges/0/prefixLen", json!(32), ADDRESS),
        Row("/internalAddressConfig/cidrRanges/1/addressPrefix", json!("::1"), ADDRESS),
        Row("/internalAddressConfig/cidrRanges/1/prefixLen", json!(128), ADDRESS),
        Row("/normalizePath", json!(true), "`/public/../admin`"),
        Row("/mergeSlashes", json!(true), "`//admin` beside a route for `/admin`"),
        Row(
            "/pathWithEscapedSlashesAction",
            json!("UNESCAPE_AND_REDIRECT"),
            "`/public%2f..%2fadmin`: who reads it as a path shall ask for that path",
        ),
        Row(
            "/commonHttpProtocolOptions/headersWithUnderscoresAction",
            json!("REJECT_REQUEST"),
            "x_kuma_tags, which servers take for x-kuma-tags",
        ),
        Row("/commonHttpProtocolOptions/idleTimeout", json!("300s"), "connections left open"),
        Row("/requestHeadersTimeout", json!("0.500s"), "headers that come byte by byte"),
        Row("/streamIdleTimeout", json!("5s"), "bodies that come byte by byte, unread answers"),
        Row(
            "/http2ProtocolOptions/maxConcurrentStreams",
            json!(100),
            "one connection that asks for everything at once",
        ),
        Row(
            "/http2ProtocolOptions/initialStreamWindowSize",
            json!(65536),
            "memory of a stream that nobody reads",
        ),
        Row(
            "/http2ProtocolOptions/initialConnectionWindowSize",
            json!(1_048_576),
            "memory of a connection that nobody reads",
        ),
        Row(
            "/http2ProtocolOptions/allowConnect",
            json!(true),
            "as Kuma's; without upgrades in the manager each CONNECT is refused",
        ),
        Row("/rds/configSource/ads", json!({}), "routes of somebody else"),
        Row("/rds/configSource/resourceApiVersion", json!("V3"), ""),
        Row("/rds/routeConfigName", json!(ANY), "routes of another listener, or host"),
        Row("/httpFilters/0/name", json!("envoy.filters.http.local_ratelimit"), FILTERS),
        Row(
            "/httpFilters/0/typedConfig/@type",
            json!(
                "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
            ),
            FILTERS,
        ),
        Row("/httpFilters/0/typedConfig/statPrefix", json!("rate_limit"), FILTERS),
        Row("/httpFilters/1/name", json!("gzip-compress"), FILTERS),
        Row(
            "/httpFilters/1/typedConfig/@type",
            json!("type.googleapis.com/envoy.extensions.filters.http.compressor.v3.Compressor"),
            FILTERS,
        ),
        Row("/httpFilters/1/typedConfig/compressorLibrary/name", json!("gzip"), FILTERS),
        Row(
            "/httpFilters/1/typedConfig/compressorLibrary/typedConfig/@type",
            json!("type.googleapis.com/envoy.extensions.compression.gzip.compressor.v3.Gzip"),
            FILTERS,
        ),
        Row(
            "/httpFilters/1/typedConfig/responseDirectionConfig/disableOnEtagHeader",
            json!(true),
            "answers that differ under one etag",
        ),
        Row("/httpFilters/2/name", json!("envoy.filters.http.router"), FILTERS),
        Row(
            "/httpFilters/2/typedConfig/@type",
            json!("type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"),
            FILTERS,
        ),
    ]
}

/// What a connection manager must not have, though Envoy would take it.
const ABSENT: &[(&str, &str)] = &[
    ("xffNumTrustedHops", "addresses that clients claim"),
    ("originalIpDetectionExtensions", "addresses that clients claim"),
    ("skipXffAppend", "requests whose origin nobody can tell"),
    ("forwardClientCertDetails", "x-forwarded-client-cert from outside; absent, it is removed"),
    ("setCurrentClientCertDetails", "certificates that nobody checked"),
    ("preserveExternalRequestId", "request ids that clients choose"),
    ("alwaysSetRequestIdInResponse", "ids of traces for everybody"),
    ("stripMatchingHostPort", "the route configuration ignores ports"),
    ("stripAnyHostPort", "the route configuration ignores ports"),
    ("upgradeConfigs", "CONNECT and upgrades, which pass around routes"),
    ("maxRequestHeadersKb", "Envoy's own limit holds: 60 KiB"),
    ("http3ProtocolOptions", "QUIC, which nobody ordered"),
    ("httpProtocolOptions", "HTTP/1.0, chunks beside a length, and whatever else is off"),
    ("streamErrorOnInvalidHttpMessage", "connections that go on after nonsense"),
    ("delayedCloseTimeout", "Envoy's own second holds"),
    ("schemeHeaderTransformation", "schemes that are not those of the connection"),
    ("localReplyConfig", "answers that tell more than Envoy's own"),
    ("proxy100Continue", "bodies without bounds"),
];

fn public_tls() -> Vec<Row> {
    vec![
        Row(
            "/@type",
            json!(
                "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
            ),
            "",
        ),
        Row("/requireClientCertificate", json!(false), "a certificate that means nothing here"),
        Row(
            "/commonTlsContext/tlsParams/tlsMinimumProtocolVersion",
            json!("TLSv1_2"),
            "broken versions of TLS",
        ),
        Row("/commonTlsContext/tlsCertificateSdsSecretConfigs/0/name", json!(ANY), KEYS),
        Row("/commonTlsContext/tlsCertificateSdsSecretConfigs/0/sdsConfig/ads", json!({}), KEYS),
        Row(
            "/commonTlsContext/tlsCertificateSdsSecretConfigs/0/sdsConfig/resourceApiVersion",
            json!("V3"),
            KEYS,
        ),
    ]
}

/// What HTTPS has beyond TLS.
fn https_tls() -> Vec<Row> {
    let mut rows = public_tls();
    for (pointer, protocol) in [
        ("/commonTlsContext/alpnProtocols/0", "h2"),
        ("/commonTlsContext/alpnProtocols/1", "http/1.1"),
    ] {
        rows.push(Row(pointer, json!(protocol), "other protocols on the port of HTTPS"));
    }
    rows
}

const KEYS: &str = "keys in the listener itself, where dumps would show them";

fn cross_mesh_tls() -> Vec<Row> {
    const TRUST: &str = "clients of no mesh";
    vec![
        Row(
            "/@type",
            json!(
                "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
            ),
            "",
        ),
        Row("/requireClientCertificate", json!(true), TRUST),
        Row(
            "/commonTlsContext/combinedValidationContext/defaultValidationContext",
            json!({}),
            "as Kuma's: any mesh's authority is good",
        ),
        Row(
            "/commonTlsContext/combinedValidationContext/validationContextSdsSecretConfig/name",
            json!("mesh_ca:secret:all"),
            TRUST,
        ),
        Row(
            "/commonTlsContext/combinedValidationContext/validationContextSdsSecretConfig/sdsConfig/ads",
            json!({}),
            TRUST,
        ),
        Row(
            "/commonTlsContext/combinedValidationContext/validationContextSdsSecretConfig/sdsConfig/resourceApiVersion",
            json!("V3"),
            TRUST,
        ),
        Row(
            "/commonTlsContext/tlsCertificateSdsSecretConfigs/0/name",
            json!("identity_cert:secret:default"),
            "an identity of another mesh",
        ),
        Row("/commonTlsContext/tlsCertificateSdsSecretConfigs/0/sdsConfig/ads", json!({}), KEYS),
        Row(
            "/commonTlsContext/tlsCertificateSdsSecretConfigs/0/sdsConfig/resourceApiVersion",
            json!("V3"),
            KEYS,
        ),
    ]
}

/// A route configuration without its virtual hosts.
fn routes() -> Vec<Row> {
    vec![
        Row("/name", json!(ANY), ""),
        Row("/validateClusters", json!(false), "one missing cluster that costs all routes"),
        Row("/ignorePortInHostMatching", json!(true), "`host:port` that finds other routes"),
        Row("/requestHeadersToRemove/0", json!("x-kuma-tags"), "clients that claim tags"),
    ]
}

/// A virtual host without its routes.
fn host(secure: bool) -> Vec<Row> {
    let mut rows = vec![
        Row("/name", json!(ANY), ""),
        Row("/domains/0", json!(ANY), "hosts that nobody named: they find no routes"),
    ];
    if secure {
        const HSTS: &str = "clients that are led to plain text";
        rows.push(Row("/requireTls", json!("ALL"), "plain text"));
        for (pointer, value) in [
            ("/responseHeadersToAdd/0/header/key", "Strict-Transport-Security"),
            ("/responseHeadersToAdd/0/header/value", "max-age=31536000; includeSubDomains"),
            ("/responseHeadersToAdd/0/appendAction", "OVERWRITE_IF_EXISTS_OR_ADD"),
        ] {
            rows.push(Row(pointer, json!(value), HSTS));
        }
    }
    rows
}

/// What a TCP proxy has. (Where it leads is not the edge's.)
fn tcp_proxy() -> Vec<Row> {
    vec![
        Row(
            "/@type",
            json!("type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"),
            "",
        ),
        Row("/statPrefix", json!("edge"), "counters of one service under the name of another"),
        Row("/idleTimeout", json!("300s"), "connections left open"),
        Row("/cluster", json!(ANY), ""),
    ]
}

/// The leaves of a value by their JSON pointers; what is empty is a leaf.
fn leaves(value: &Value) -> BTreeMap<String, Value> {
    fn walk(path: &str, value: &Value, found: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                for (key, value) in map {
                    let key = key.replace('~', "~0").replace('/', "~1");
                    walk(&format!("{path}/{key}"), value, found);
                }
            }
            Value::Array(list) if !list.is_empty() => {
                for (index, value) in list.iter().enumerate() {
                    walk(&format!("{path}/{index}"), value, found);
                }
            }
            leaf => {
                found.insert(path.to_owned(), leaf.clone());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk("", value, &mut found);
    found
}

/// The value has what the table says and nothing else.
fn check(what: &str, value: &Value, table: &[Row]) {
    let mut found = leaves(value);
    let mut wrong = Vec::new();
    for Row(pointer, wanted, against) in table {
        match found.remove(*pointer) {
            Some(got) if got == *wanted || *wanted == json!(ANY) => {}
            got => wrong.push(format!("{pointer}: {got:?}, not {wanted} (against: {against})")),
        }
    }
    wrong.extend(found.iter().map(|(pointer, got)| format!("{pointer}: {got}, in no table")));
    assert!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
}

/// Takes a field out of a value.
fn take(value: &mut Value, key: &str) -> Value {
    value.as_object_mut().unwrap().remove(key).unwrap_or_default()
}

/// A gateway with listeners of every kind.
fn world() -> World {
    let mut world = crate::build::world();
    with_mesh(&mut world, &json!({"mtls": mtls()}));
    world.add(&certs::ecdsa("a.x").secret("s"));
    let terminate = json!({"mode": "TERMINATE", "certificates": [{"secret": "s"}]});
    world.add(&gateway(&json!([
        {"port": 8080, "protocol": "HTTP"},
        {"port": 8080, "protocol": "HTTP", "hostname": "a.x"},
        {"port": 8081, "protocol": "HTTP", "crossMesh": true},
        {"port": 8443, "protocol": "HTTPS", "hostname": "a.x", "tls": terminate},
        {"port": 8443, "protocol": "HTTPS", "hostname": "*.x", "tls": terminate},
        {"port": 8443, "protocol": "HTTPS", "tls": terminate},
        {"port": 9090, "protocol": "TCP"},
        {"port": 9443, "protocol": "TLS", "hostname": "a.x", "tls": terminate},
        {"port": 9444, "protocol": "TLS", "hostname": "b.x", "tls": {"mode": "PASSTHROUGH"}},
    ])));
    world.add(&route("r", &json!([to_echo("/")])));
    world.add(&tcp_route("t", &["lines"]));
    world
}

/// A connection manager's field is in a table as a whole or not at all.
fn check_manager(what: &str, manager: &Value) {
    for (field, against) in ABSENT {
        assert_eq!(manager.get(*field), None, "{what}: {field} (against: {against})");
    }
    check(what, manager, &self::manager());
}

/// How a listener's chains have to be: the transport's pointer table, the chain match, the proxy.
fn check_listener(name: &str, listener: &Value) -> usize {
    let mut listener = listener.clone();
    let chains = take(&mut listener, "filterChains");
    let chains = chains.as_array().unwrap();
    check(name, &listener, &self::listener());
    assert_eq!(listener["name"], name);
    let kind = name.split(':').nth(1).unwrap();
    let cross_mesh = name.ends_with(":8081");
    let passthrough = name.ends_with(":9444");
    let mut managers = 0;
    for chain in chains {
        let server = chain["filterChainMatch"]["serverNames"][0].as_str();
        let what = format!("{name} {}", server.unwrap_or("*"));
        let mut wanted = Map::new();
        match (kind, cross_mesh) {
            ("HTTP", true) => {
                wanted.insert("applicationProtocols".to_owned(), json!(["kuma"]));
                wanted.insert("transportProtocol".to_owned(), json!("tls"));
            }
            ("HTTPS" | "TLS", _) => {
                wanted.insert("transportProtocol".to_owned(), json!("tls"));
                if let Some(server) = server {
                    wanted.insert("serverNames".to_owned(), json!([server]));
                }
            }
            _ => {}
        }
        let wanted = if wanted.is_empty() { Value::Null } else { Value::Object(wanted) };
        assert_eq!(chain["filterChainMatch"], wanted, "{what}");
        let tls = &chain["transportSocket"]["typedConfig"];
        let about_tls = format!("{what}, TLS");
        match (kind, cross_mesh, passthrough) {
            ("HTTP", true, _) => check(&about_tls, tls, &cross_mesh_tls()),
            ("HTTPS", ..) => check(&about_tls, tls, &https_tls()),
            ("TLS", _, false) => check(&about_tls, tls, &public_tls()),
            _ => assert_eq!(*tls, Value::Null, "{about_tls}"),
        }
        let filters = chain["filters"].as_array().unwrap();
        assert_eq!(filters.len(), 1, "{what}: {filters:?}");
        let config = &filters[0]["typedConfig"];
        if kind.starts_with("HTTP") {
            check_manager(&what, config);
            let suffix = if kind == "HTTPS" { server.unwrap_or("*") } else { "*" };
            assert_eq!(config["rds"]["routeConfigName"], format!("{name}:{suffix}"));
            managers += 1;
        } else {
            check(&what, config, &tcp_proxy());
        }
        let known = BTreeSet::from(["filterChainMatch", "filters", "name", "transportSocket"]);
        for key in chain.as_object().unwrap().keys() {
            assert!(known.contains(key.as_str()), "{what}: {key} is in no table");
        }
    }
    managers
}

#[test]
fn listeners_of_every_kind() {
    let got = generated(&world());
    assert_eq!(issues(&got), Vec::<String>::new());
    let json = snapshot(&got);
    let listeners = resources(&json, "Listeners");
    let names: Vec<&str> = listeners.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "edge:HTTP:8080",
            "edge:HTTP:8081",
            "edge:HTTPS:8443",
            "edge:TCP:9090",
            "edge:TLS:9443",
            "edge:TLS:9444"
        ]
    );
    let managers: usize = listeners.iter().map(|(n, l)| check_listener(n, l)).sum();
    assert_eq!(managers, 5, "two plain ports, three hosts with TLS");
}

#[test]
fn virtual_hosts_of_every_kind() {
    let json = snapshot(&generated(&world()));
    let mut seen = Vec::new();
    for (name, mut config) in resources(&json, "Routes") {
        let hosts = take(&mut config, "virtualHosts");
        check(&name, &config, &routes());
        let secure = !name.starts_with("edge:HTTP:8080:");
        for mut virtual_host in hosts.as_array().unwrap().clone() {
            take(&mut virtual_host, "routes");
            check(&name, &virtual_host, &host(secure));
            assert_eq!(virtual_host["domains"][0], virtual_host["name"]);
            seen.push(format!("{name} {}", virtual_host["name"].as_str().unwrap()));
        }
    }
    assert_eq!(
        seen,
        [
            "edge:HTTP:8080:* a.x",
            "edge:HTTP:8080:* *",
            "edge:HTTP:8081:* *",
            "edge:HTTPS:8443:* *",
            "edge:HTTPS:8443:*.x *.x",
            "edge:HTTPS:8443:a.x a.x",
        ]
    );
}

/// A host without routes, and none but that.
#[test]
fn a_host_without_routes_answers_404() {
    let mut world = crate::build::world();
    world.add(&gateway(&json!([{"port": 8080, "protocol": "HTTP", "hostname": "a.x"}])));
    let json = snapshot(&generated(&world));
    let config = crate::build::only(&json, "Routes");
    let hosts = config["virtualHosts"].as_array().unwrap();
    assert_eq!(hosts.len(), 1, "no host for those that nobody named");
    assert_eq!(hosts[0]["domains"], json!(["a.x"]));
    assert_eq!(
        hosts[0]["routes"],
        json!([{
            "match": {"prefix": "/"},
            "directResponse": {
                "status": 404,
                "body": {
                    "inlineString":
                        "This is a Kuma MeshGateway. No routes match this MeshGateway!\n",
                },
            },
        }])
    );
}

/// The policies that come with every mesh change nothing of it.
#[test]
fn default_policies_change_nothing() {
    let mut world = world();
    world.add(&json!({
        "type": "MeshTimeout", "mesh": "default", "name": "mesh-gateways-timeout-all-default",
        "spec": {
            "targetRef": {"kind": "Mesh", "proxyTypes": ["Gateway"]},
            "from": [{"targetRef": {"kind": "Mesh"}, "default": {
                "idleTimeout": "5m",
                "http": {"streamIdleTimeout": "5s", "requestHeadersTimeout": "500ms"},
            }}],
            "to": [{"targetRef": {"kind": "Mesh"}, "default": {
                "idleTimeout": "1h", "http": {"streamIdleTimeout": "5s"},
            }}],
        },
    }));
    world.add(&json!({
        "type": "MeshCircuitBreaker", "mesh": "default", "name": "mesh-circuit-breaker-all-default",
        "spec": {
            "targetRef": {"kind": "Mesh"},
            "to": [{"targetRef": {"kind": "Mesh"}, "default": {"connectionLimits": {
                "maxConnections": 1024, "maxPendingRequests": 1024, "maxRetries": 3,
                "maxRequests": 1024,
            }}}],
        },
    }));
    let json = snapshot(&generated(&world));
    let listeners = resources(&json, "Listeners");
    assert_eq!(listeners.iter().map(|(n, l)| check_listener(n, l)).sum::<usize>(), 5);
}

/// Upstream, a connection has the same bounds.
#[test]
fn clusters_have_bounds() {
    let mut world = world();
    for (service, protocol) in [("two", "http2"), ("three", "grpc"), ("four", "tcp")] {
        let mut rule = crate::build::to(&format!("/{service}"), service);
        rule["backends"][0]["destination"]["kuma.io/protocol"] = json!(protocol);
        world.add(&route(service, &json!([rule])));
    }
    let json = snapshot(&generated(&world));
    let mut windows = Vec::new();
    for (name, cluster) in resources(&json, "Clusters") {
        assert_eq!(cluster["perConnectionBufferLimitBytes"], 32768, "{name}");
        let options = &cluster["typedExtensionProtocolOptions"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]
            ["explicitHttpConfig"]["http2ProtocolOptions"];
        if !options.is_null() {
            let wanted = json!({
                "initialStreamWindowSize": 65536, "initialConnectionWindowSize": 1_048_576,
            });
            assert_eq!(*options, wanted, "{name}");
            windows.push(name);
        }
    }
    assert_eq!(windows.len(), 2, "{windows:?}");
}

/// Each route forwards no longer than its stream may be idle.
#[test]
fn routes_have_an_idle_timeout() {
    let json = snapshot(&generated(&world()));
    let mut routes = 0;
    for (name, config) in resources(&json, "Routes") {
        for host in config["virtualHosts"].as_array().unwrap() {
            for route in host["routes"].as_array().unwrap() {
                assert_eq!(route["route"]["idleTimeout"], "5s", "{name}");
                routes += 1;
            }
        }
    }
    assert_eq!(routes, 6);
}

/// Which clients count as internal is the zone's setting, in its order; without IPv6 in the proxy
/// there are no such ranges.
#[test]
fn internal_addresses() {
    let ranges = |configured: &[&str], ipv6: bool| -> Vec<String> {
        let settings = sunbear_xds::Settings {
            internal_cidrs: configured.iter().map(|&range| range.to_owned()).collect(),
            ..crate::build::settings()
        };
        let mut proxy = crate::build::gw();
        proxy.metadata.ipv6_enabled = ipv6;
        let json = snapshot(&sunbear_xds::generate(&world(), &settings, &proxy).unwrap());
        let mut all = BTreeSet::new();
        for listener in resources(&json, "Listeners").values() {
            for chain in listener["filterChains"].as_array().unwrap() {
                let config = &chain["filters"][0]["typedConfig"]["internalAddressConfig"];
                let Some(list) = config["cidrRanges"].as_array() else { continue };
                let text = |range: &Value| {
                    let length = range["prefixLen"].as_u64().unwrap();
                    format!("{}/{length}", range["addressPrefix"].as_str().unwrap())
                };
                all.insert(list.iter().map(text).collect::<Vec<_>>());
            }
        }
        assert_eq!(all.len(), 1, "all listeners have the same: {all:?}");
        all.pop_first().unwrap()
    };
    assert_eq!(ranges(&[], true), ["127.0.0.1/32", "::1/128"]);
    assert_eq!(ranges(&[], false), ["127.0.0.1/32"]);
    assert_eq!(
        ranges(&["10.1.0.0/16", "fd00::/8", "10.0.0.0/24"], true).join(" "),
        "10.1.0.0/16 fd00::/8 10.0.0.0/24"
    );
    assert_eq!(ranges(&["10.1.0.0/16", "fd00::/8"], false), ["10.1.0.0/16"]);
}
