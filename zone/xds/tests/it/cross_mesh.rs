//! Listeners for other meshes, and what must never cross the border between meshes.

use serde_json::{Value, json};
use sunbear_model::Kind;
use sunbear_xds::{ResourceType, SecretRequest, cross_mesh_endpoints};

use crate::{
    build::{
        gateway, generated, issues, json_of, mtls, only, resources, route, to, to_echo, with_mesh,
        world,
    },
    certs,
    golden::snapshot,
    world::World,
};

fn cross(port: u16) -> Value {
    json!({"port": port, "protocol": "HTTP", "crossMesh": true})
}

fn base() -> World {
    let mut world = world();
    with_mesh(&mut world, &json!({"mtls": mtls()}));
    world.add(&gateway(&json!([cross(8080), {"port": 8081, "protocol": "HTTP"}])));
    world.add(&route("r", &json!([to_echo("/")])));
    world
}

/// Another mesh, with the same names in it.
fn other_mesh(world: &mut World, mtls: &Value) {
    world.add(&json!({"type": "Mesh", "name": "other", "mtls": mtls}));
    for mut resource in [
        gateway(&json!([cross(8080), {"port": 8081, "protocol": "HTTP"}])),
        route("r", &json!([to("/theirs", "theirs")])),
        route("r2", &json!([to("/echo", "echo")])),
        json!({
            "type": "Dataplane", "name": "gw",
            "networking": {
                "address": "10.9.0.1",
                "gateway": {"type": "BUILTIN", "tags": {"kuma.io/service": "edge"}},
            },
        }),
        json!({
            "type": "Dataplane", "name": "echo-1",
            "networking": {
                "address": "10.9.0.2",
                "inbound": [{"port": 80, "tags": {"kuma.io/service": "echo"}}],
            },
        }),
        json!({
            "type": "ExternalService", "name": "echo", "tags": {"kuma.io/service": "echo"},
            "networking": {"address": "theirs.example.com:80"},
        }),
        json!({
            "type": "MeshTimeout", "name": "t",
            "spec": {"to": [{"targetRef": {"kind": "Mesh"}, "default": {"http": {"requestTimeout": "77s"}}}]},
        }),
        json!({
            "type": "Timeout", "name": "t",
            "sources": [{"match": {"kuma.io/service": "*"}}],
            "destinations": [{"match": {"kuma.io/service": "*"}}],
            "conf": {"connectTimeout": "78s"},
        }),
        certs::ecdsa("a.x").secret("s"),
    ] {
        resource["mesh"] = json!("other");
        world.add(&resource);
    }
}

#[test]
fn nothing_of_another_mesh_gets_in() {
    let alone = base();
    let mut both = base();
    other_mesh(&mut both, &mtls());
    both.add(&json!({
        "type": "ZoneIngress", "name": "i", "zone": "west",
        "networking": {"advertisedAddress": "1.1.1.1", "advertisedPort": 10001, "address": "2.2.2.2", "port": 1},
        "availableServices": [{"tags": {"kuma.io/service": "echo"}, "instances": 3, "mesh": "other"}],
    }));
    let (want, got) = (generated(&alone), generated(&both));
    assert_eq!(got.resources, want.resources);
    assert_eq!(got.secrets, want.secrets);
    assert_eq!(got.issues, want.issues);
}

#[test]
fn a_mesh_in_a_destination_is_a_tag_like_others() {
    let mut world = base();
    other_mesh(&mut world, &mtls());
    let mut rule = to("/", "theirs");
    rule["backends"][0]["destination"]["kuma.io/mesh"] = json!("other");
    let mut echo = to("/echo", "echo");
    echo["backends"][0]["destination"]["kuma.io/mesh"] = json!("other");
    world.add(&route("r3", &json!([rule, echo])));
    let json = json_of(&world);
    for (name, assignment) in resources(&json, "Endpoints") {
        let cluster = &json["Clusters"]["Resources"][&name];
        let context = &cluster["transportSocket"]["typedConfig"];
        let sni = context["sni"].as_str().unwrap();
        assert!(sni.contains("mesh=default"), "{sni}");
        assert!(cluster.to_string().contains("spiffe://default/"));
        assert!(!cluster.to_string().contains("spiffe://other/"));
        if sni.contains("kuma.io/mesh=other") {
            assert!(assignment.get("endpoints").is_none(), "{assignment}");
        }
    }
}

#[test]
fn the_listener_wants_certificates() {
    let got = generated(&base());
    let json = snapshot(&got);
    let chains = &json["Listeners"]["Resources"]["edge:HTTP:8080"]["filterChains"];
    assert_eq!(chains.as_array().unwrap().len(), 1);
    assert_eq!(
        chains[0]["filterChainMatch"],
        json!({"transportProtocol": "tls", "applicationProtocols": ["kuma"]})
    );
    assert_eq!(chains[0]["transportSocket"]["typedConfig"]["requireClientCertificate"], true);
    assert!(got.secrets.contains(&SecretRequest::AllMeshCas));
    // A listener for everybody asks for no such thing.
    let mut plain = base();
    plain.0.retain(|r| r.key.kind != Kind::MESH_GATEWAY);
    plain.add(&gateway(&json!([{"port": 8081, "protocol": "HTTP"}])));
    assert!(!generated(&plain).secrets.contains(&SecretRequest::AllMeshCas));
}

#[test]
fn without_mtls_there_is_none() {
    let mut world = base();
    with_mesh(&mut world, &json!({}));
    let got = generated(&world);
    let names: Vec<&str> = got.resources.names(ResourceType::Listener).collect();
    assert_eq!(names, ["edge:HTTP:8081"]);
    assert!(got.secrets.is_empty());
    only(&snapshot(&got), "Routes");
}

#[test]
fn listeners_that_cannot_cross() {
    let check = |listeners: Value, selectors: usize, served: &[&str], told: &[&str]| {
        let mut world = base();
        world.0.retain(|r| r.key.kind != Kind::MESH_GATEWAY);
        let mut body = gateway(&listeners);
        for _ in 1..selectors {
            let more = body["selectors"][0].clone();
            body["selectors"].as_array_mut().unwrap().push(more);
        }
        world.add(&body);
        let got = generated(&world);
        let json = snapshot(&got);
        let listeners = resources(&json, "Listeners");
        assert_eq!(listeners.keys().collect::<Vec<_>>(), served);
        assert_eq!(issues(&got), told);
        let open: Vec<String> = listeners
            .into_iter()
            .filter(|(_, l)| l["filterChains"][0].get("transportSocket").is_none())
            .map(|(name, _)| name)
            .collect();
        let hosts = json["Routes"].to_string();
        assert!(open.is_empty() || !hosts.contains("secret.x"), "{hosts}");
        let found = cross_mesh_endpoints(&world, "default").len();
        assert_eq!(found, usize::from(!served.is_empty() && open.is_empty()));
    };
    let with = |mut listener: Value, key: &str, value: Value| {
        listener[key] = value;
        listener
    };
    // The first one does not decide that what is meant for meshes is for all.
    let secret = with(cross(8080), "hostname", json!("secret.x"));
    let plain = json!({"port": 8080, "protocol": "HTTP"});
    let mixed = "must be the same for all listeners of a port";
    let (first, second) = (
        format!("edge conf.listeners[0]: crossMesh {mixed}"),
        format!("edge conf.listeners[1]: crossMesh {mixed}"),
    );
    check(json!([plain, secret]), 1, &["edge:HTTP:8080"], &[&second]);
    check(json!([secret, plain]), 1, &["edge:HTTP:8080"], &[&first]);
    let tls = with(cross(8080), "tls", json!({"mode": "TERMINATE"}));
    check(json!([tls]), 1, &[], &["edge conf.listeners[0]: tls must be empty with crossMesh"]);
    let told = "edge conf.listeners[0]: there can be at most one selector with crossMesh";
    check(json!([cross(8080)]), 2, &[], &[told]);
    check(json!([cross(8080)]), 1, &["edge:HTTP:8080"], &[]);
    let tcp = with(cross(8080), "protocol", json!("TCP"));
    check(
        json!([tcp]),
        1,
        &[],
        &["edge conf.listeners[0]: protocol is not supported with crossMesh"],
    );
}

#[test]
fn gateways_that_others_find() {
    let mut world = base();
    let tags = |endpoint: &sunbear_xds::CrossMeshEndpoint| {
        let pairs: Vec<String> = endpoint.tags.iter().map(|(k, v)| format!("{k}={v}")).collect();
        format!("{}:{} {}", endpoint.address, endpoint.port, pairs.join(" "))
    };
    let found = |world: &World, mesh: &str| {
        cross_mesh_endpoints(world, mesh).iter().map(tags).collect::<Vec<_>>()
    };
    assert_eq!(found(&world, "default"), ["10.0.0.1:8080 kuma.io/service=edge"]);
    assert!(found(&world, "other").is_empty());
    other_mesh(&mut world, &json!(null));
    assert!(found(&world, "other").is_empty(), "no mTLS, nobody to be found");
    world.0.retain(|r| !(r.key.kind == Kind::MESH && &*r.key.name == "other"));
    world.add(&json!({"type": "Mesh", "name": "other", "mtls": mtls()}));
    assert_eq!(found(&world, "other"), ["10.9.0.1:8080 kuma.io/service=edge"]);
    world.add(&json!({
        "type": "Dataplane", "mesh": "default", "name": "gw-2", "labels": {"kuma.io/zone": "east"},
        "networking": {
            "address": "10.0.0.9", "advertisedAddress": "1.2.3.4",
            "gateway": {"type": "BUILTIN", "tags": {"kuma.io/service": "edge", "v": "2"}},
        },
    }));
    assert_eq!(
        found(&world, "default"),
        [
            "10.0.0.1:8080 kuma.io/service=edge",
            "10.0.0.9:8080 kuma.io/service=edge kuma.io/zone=east v=2",
        ]
    );
}
