//! External services.

use serde_json::{Value, json};
use sunbear_model::Kind;
use sunbear_xds::{Effect, Generated, ResourceType};

use crate::{
    build::{
        gateway, generated, generated_after, issues, json_of, mtls, only, resources, route, to,
        with_mesh, world,
    },
    certs,
    golden::snapshot,
    world::World,
};

fn service(name: &str, address: &str, tls: &Value) -> Value {
    json!({
        "type": "ExternalService", "mesh": "default", "name": name,
        "tags": {"kuma.io/service": "web", "kuma.io/protocol": "http2", "v": name},
        "networking": {"address": address, "tls": tls},
    })
}

fn base() -> World {
    let mut world = world();
    world.add(&gateway(&json!([{"port": 8080, "protocol": "HTTP"}])));
    world.add(&route("r", &json!([to("/", "web")])));
    world
}

fn permission(name: &str, source: &str, destination: &str) -> Value {
    let selector = |service: &str| json!([{"match": {"kuma.io/service": service}}]);
    json!({
        "type": "TrafficPermission", "mesh": "default", "name": name,
        "sources": selector(source), "destinations": selector(destination),
    })
}

fn type_of(world: &World) -> String {
    let json = json_of(world);
    let cluster = only(&json, "Clusters");
    let header =
        json["Routes"]["Resources"]["edge:HTTP:8080:*"].to_string().contains("requestHeadersToAdd");
    let assignment = resources(&json, "Endpoints").len();
    assert_eq!(assignment, usize::from(cluster["type"] == "EDS"));
    assert_eq!(header, cluster["type"] == "EDS", "callers are told of in the mesh alone");
    // The first of an enumeration is not shown.
    cluster["type"].as_str().unwrap_or("STATIC").to_owned()
}

#[test]
fn types_by_address() {
    let check = |addresses: &[&str], want: &str, told: usize| {
        let mut world = base();
        for (index, address) in addresses.iter().enumerate() {
            world.add(&service(&format!("web-{index}"), address, &json!(null)));
        }
        assert_eq!(type_of(&world), want, "{addresses:?}");
        assert_eq!(generated(&world).issues.len(), told, "{addresses:?}");
    };
    check(&[], "EDS", 0);
    check(&["example.com:80"], "STRICT_DNS", 0);
    check(&["1.2.3.4:80", "[::1]:80"], "STATIC", 0);
    check(&["1.2.3.4:80", "example.com:80"], "STATIC", 1);
    check(&["nonsense"], "EDS", 1);
}

#[test]
fn who_counts() {
    let check = |permissions: &[(&str, &str)], dataplane: bool, want: &str| {
        let mut world = base();
        world.add(&service("web-1", "example.com:80", &json!(null)));
        for (index, (source, destination)) in permissions.iter().enumerate() {
            world.add(&permission(&format!("p{index}"), source, destination));
        }
        if dataplane {
            world.add(&json!({
                "type": "Dataplane", "mesh": "default", "name": "web",
                "networking": {
                    "address": "10.0.0.3", "inbound": [{"port": 1, "tags": {"kuma.io/service": "web"}}],
                },
            }));
        }
        assert_eq!(type_of(&world), want, "{permissions:?} {dataplane}");
    };
    check(&[], false, "STRICT_DNS");
    check(&[], true, "EDS");
    check(&[("*", "*")], false, "STRICT_DNS");
    check(&[("*", "*")], true, "STRICT_DNS");
    check(&[("edge", "web")], false, "STRICT_DNS");
    check(&[("other", "web")], false, "EDS");
    check(&[("*", "other")], false, "EDS");
    // The most specific one counts, and of equal ones the youngest.
    check(&[("*", "*"), ("other", "web")], false, "EDS");
    check(&[("other", "*"), ("edge", "web")], false, "STRICT_DNS");
    check(&[("edge", "web"), ("other", "web")], false, "EDS");
    check(&[("other", "web"), ("edge", "web")], false, "STRICT_DNS");
}

#[test]
fn destinations_select() {
    let mut world = base();
    for name in ["a", "b"] {
        world.add(&service(name, &format!("{name}.example.com:80"), &json!(null)));
    }
    let hosts = |destination: Value| {
        let mut world = world.clone();
        world.0.retain(|r| r.key.kind != Kind::MESH_GATEWAY_ROUTE);
        let mut rule = to("/", "web");
        rule["backends"][0]["destination"] = destination;
        world.add(&route("r", &json!([rule])));
        let cluster = only(&json_of(&world), "Clusters");
        let endpoints = &cluster["loadAssignment"]["endpoints"][0]["lbEndpoints"];
        let host = |e: &Value| e["endpoint"]["address"]["socketAddress"]["address"].clone();
        endpoints.as_array().into_iter().flatten().map(host).collect::<Vec<_>>()
    };
    let both = [json!("a.example.com"), json!("b.example.com")];
    assert_eq!(hosts(json!({"kuma.io/service": "web"})), both);
    assert_eq!(hosts(json!({"kuma.io/service": "web", "v": "*"})), both);
    assert_eq!(hosts(json!({"kuma.io/service": "web", "v": "b"})), [json!("b.example.com")]);
    assert!(hosts(json!({"kuma.io/service": "web", "v": "c"})).is_empty());
}

#[test]
fn zones_and_protocols() {
    let mut world = base();
    with_mesh(&mut world, &json!({"routing": {"localityAwareLoadBalancing": true}}));
    let mut far = service("a", "a.example.com:80", &json!(null));
    far["tags"]["kuma.io/zone"] = json!("west");
    world.add(&far);
    world.add(&service("b", "b.example.com:80", &json!(null)));
    let cluster = only(&json_of(&world), "Clusters");
    let groups = cluster["loadAssignment"]["endpoints"].as_array().unwrap();
    let locality: Vec<Value> = groups.iter().map(|g| g["locality"]["zone"].clone()).collect();
    assert_eq!(locality, [json!(null), json!("west")]);
    assert_eq!(groups[1]["priority"], 1);
    let options = &cluster["typedExtensionProtocolOptions"];
    assert!(options.to_string().contains("http2ProtocolOptions"));
}

fn tls_of(generated: &Generated) -> Value {
    let cluster = only(&snapshot(generated), "Clusters");
    cluster["transportSocketMatches"].clone()
}

#[test]
fn tls_contexts() {
    let ca = certs::ecdsa("example.com");
    let client = certs::rsa();
    let inline = |text: &str| json!({"inlineString": text});
    let context = |address: &str, tls: Value| {
        let mut world = base();
        world.add(&service("a", address, &tls));
        let got = generated(&world);
        assert_eq!(issues(&got), Vec::<String>::new());
        let matches = tls_of(&got);
        assert_eq!(matches[0]["match"]["kuma.io/external-service-name"], "a");
        matches[0]["transportSocket"]["typedConfig"].clone()
    };
    assert_eq!(context("example.com:443", json!({"enabled": true}))["sni"], "example.com");
    assert_eq!(context("1.2.3.4:443", json!({"enabled": true})).get("sni"), None);
    let full = context(
        "1.2.3.4:443",
        json!({
            "enabled": true, "caCert": inline(&ca.certificate), "allowRenegotiation": true,
            "clientCert": inline(&client.certificate), "clientKey": inline(&client.key),
        }),
    );
    assert_eq!(full["allowRenegotiation"], true);
    let common = &full["commonTlsContext"];
    assert_eq!(
        common["validationContext"]["matchTypedSubjectAltNames"],
        json!([
            {"sanType": "DNS", "matcher": {"exact": "1.2.3.4"}},
            {"sanType": "IP_ADDRESS", "matcher": {"exact": "1.2.3.4"}},
        ])
    );
    assert!(common["tlsCertificates"][0]["privateKey"]["inlineBytes"].is_string());
    let named = context(
        "1.2.3.4:443",
        json!({
            "enabled": true, "serverName": "x.y", "caCert": inline(&ca.certificate),
            "skipHostnameVerification": true,
        }),
    );
    assert_eq!(named["sni"], "x.y");
    let validation = &named["commonTlsContext"]["validationContext"];
    assert!(validation.get("matchTypedSubjectAltNames").is_none());
    assert!(validation["trustedCa"]["inlineBytes"].is_string());
}

#[test]
fn lost_credentials_stay_in_use() {
    let ca = certs::ecdsa("example.com");
    let mut world = base();
    let tls = json!({"enabled": true, "caCert": {"secret": "ca"}});
    world.add(&service("a", "a.example.com:443", &tls));
    world.add(&service("b", "b.example.com:443", &json!(null)));
    let lost = world.clone();
    world.add(&certs::secret("ca", &ca.certificate));
    let before = generated(&world);
    assert!(before.issues.is_empty());

    let got = generated_after(&lost, &before);
    assert_eq!(got.resources, before.resources);
    assert_eq!(issues(&got), ["a networking.tls.caCert: there is no secret \"ca\""]);
    assert_eq!(got.issues[0].effect, Effect::LastGood);
    let mut damaged = lost.clone();
    damaged.add(&certs::secret("ca", "nonsense"));
    assert_eq!(generated_after(&damaged, &got).resources, before.resources);

    // Without a past the one endpoint goes, and the others stay.
    let fresh = generated(&lost);
    assert_eq!(fresh.issues[0].effect, Effect::LeftOut);
    assert_eq!(fresh.resources.len(ResourceType::Listener), 1);
    assert_eq!(tls_of(&fresh), Value::Null);
    let cluster = only(&snapshot(&fresh), "Clusters");
    let endpoints = &cluster["loadAssignment"]["endpoints"][0]["lbEndpoints"];
    assert_eq!(endpoints.as_array().unwrap().len(), 1);
}

#[test]
fn through_the_egress() {
    let egress = |name: &str, zone: &str, address: &str| {
        json!({
            "type": "ZoneEgress", "name": name, "zone": zone,
            "networking": {"address": address, "port": 10002},
        })
    };
    let mut world = base();
    with_mesh(&mut world, &json!({"mtls": mtls(), "routing": {"zoneEgress": true}}));
    world.add(&service("a", "a.example.com:443", &json!({"enabled": true})));
    assert_eq!(type_of(&world), "EDS");
    assert_eq!(only(&json_of(&world), "Endpoints").as_object().unwrap().len(), 1);
    world.add(&egress("e1", "east", "10.0.1.1"));
    world.add(&egress("e2", "west", "10.0.1.2"));
    world.add(&egress("e3", "", "10.0.1.3"));
    world.add(&egress("e4", "east", "egress.internal"));
    // A remote service through the same egress is in the mesh.
    world.add(&json!({
        "type": "ZoneIngress", "name": "far", "zone": "west",
        "networking": {"advertisedAddress": "1.1.1.1", "advertisedPort": 10001, "address": "2.2.2.2", "port": 10001},
        "availableServices": [{"tags": {"kuma.io/service": "far"}, "instances": 3, "mesh": "default"}],
    }));
    world.add(&route("r2", &json!([to("/far", "far")])));
    let got = generated(&world);
    assert_eq!(issues(&got).len(), 1, "{:?}", issues(&got));
    let json = snapshot(&got);
    for (name, cluster) in resources(&json, "Clusters") {
        let identity = if name.starts_with("web") { "zone-egress" } else { "far" };
        assert!(cluster.to_string().contains(&format!("spiffe://default/{identity}\"")), "{name}");
        let endpoints = json["Endpoints"]["Resources"][&name].to_string();
        assert!(endpoints.contains("10.0.1.1") && endpoints.contains("10.0.1.3"), "{endpoints}");
        assert!(!endpoints.contains("10.0.1.2") && !endpoints.contains("1.1.1.1"), "{endpoints}");
    }
}

#[test]
fn ingress_weights() {
    let ingress = |name: &str, address: &str, services: Value| {
        json!({
            "type": "ZoneIngress", "name": name, "zone": "west",
            "networking": {
                "advertisedAddress": address, "advertisedPort": 10001, "address": "2.2.2.2", "port": 10001,
            },
            "availableServices": services,
        })
    };
    let offered = json!([{"tags": {"kuma.io/service": "echo", "kuma.io/zone": "west"}, "instances": 3, "mesh": "default"}]);
    let mut world = world();
    with_mesh(&mut world, &json!({"mtls": mtls()}));
    world.add(&gateway(&json!([{"port": 8080, "protocol": "HTTP"}])));
    world.add(&route("r", &json!([to("/", "echo")])));
    world.add(&ingress("i1", "1.1.1.1", offered.clone()));
    world.add(&ingress("i2", "1.1.1.2", offered.clone()));
    // Behind the same balancer as the first, and without a public address.
    world.add(&ingress("i3", "1.1.1.1", offered.clone()));
    let mut other_mesh = offered;
    other_mesh[0]["mesh"] = json!("other");
    world.add(&ingress("i4", "1.1.1.2", other_mesh));
    let endpoints = only(&json_of(&world), "Endpoints")["endpoints"].clone();
    let weights: Vec<String> = endpoints
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["lbEndpoints"].as_array().unwrap())
        .map(|e| {
            let address = e["endpoint"]["address"]["socketAddress"]["address"].as_str().unwrap();
            format!("{address} {}", e["loadBalancingWeight"])
        })
        .collect();
    assert_eq!(weights, ["10.0.0.2 2", "1.1.1.1 3", "1.1.1.2 3"]);
}
