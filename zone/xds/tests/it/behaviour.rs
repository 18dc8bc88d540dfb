//! Behaviour that Kuma's snapshots do not reach.

use serde_json::{Value, json};

use crate::{
    build::{gateway, generated, json_of, only, route, to_echo, world},
    world::World,
};

fn with_route() -> World {
    let mut world = world();
    world.add(&gateway(&json!([{"port": 8080, "protocol": "HTTP"}])));
    world.add(&route("r", &json!([to_echo("/")])));
    world
}

#[test]
fn endpoints_by_locality() {
    let mut world = with_route();
    world.0.retain(|r| &*r.key.name != "default");
    world.add(&json!({
        "type": "Mesh", "name": "default", "routing": {"localityAwareLoadBalancing": true},
    }));
    let mut add = |name: &str, address: &str, inbound: Value| {
        world.add(&json!({
            "type": "Dataplane", "mesh": "default", "name": name, "labels": {"l": "1"},
            "networking": {
                "address": "10.1.1.1", "advertisedAddress": address, "inbound": [inbound],
            },
        }));
    };
    let zone = |zone: &str| {
        json!({"port": 80, "tags": {
            "kuma.io/service": "echo", "kuma.io/zone": zone, "kuma.io/protocol": "http",
        }})
    };
    add("b", "10.0.0.9", zone("east"));
    add("c", "10.0.0.3", zone("west"));
    add("d", "10.0.0.10", zone("east"));
    let mut sick = zone("east");
    sick["health"] = json!({"ready": false});
    add("e", "10.0.0.66", sick);
    let mut away = zone("east");
    away["state"] = json!("NotReady");
    add("f", "10.0.0.67", away);

    let assignment = only(&json_of(&world), "Endpoints");
    let groups: Vec<String> = assignment["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|g| {
            let addresses: Vec<&str> = g["lbEndpoints"]
                .as_array()
                .unwrap()
                .iter()
                .map(|e| e["endpoint"]["address"]["socketAddress"]["address"].as_str().unwrap())
                .collect();
            let zone = g["locality"]["zone"].as_str().unwrap_or("none");
            format!("{zone} {} {}", g["priority"].as_u64().unwrap_or(0), addresses.join(" "))
        })
        .collect();
    assert_eq!(groups, ["none 0 10.0.0.2", "east 0 10.0.0.10 10.0.0.9", "west 1 10.0.0.3"]);
    let labels = &assignment["endpoints"][1]["lbEndpoints"][0]["metadata"]["filterMetadata"];
    assert_eq!(labels["io.kuma.labels"], json!({"l": "1"}));
}

#[test]
fn destination_tags_filter_endpoints() {
    let mut world = world();
    world.add(&gateway(&json!([{"port": 8080, "protocol": "HTTP"}])));
    let mut rule = to_echo("/");
    rule["backends"][0]["destination"]["version"] = json!("*");
    world.add(&route("r", &json!([rule])));
    let assignment = only(&json_of(&world), "Endpoints");
    assert_eq!(assignment.as_object().unwrap().len(), 1, "a name and nothing else: {assignment}");
}

#[test]
fn the_later_policy_wins_by_kind_and_name() {
    let timeout = |name: &str, target: Value, seconds: u32| {
        json!({
            "type": "MeshTimeout", "mesh": "default", "name": name,
            "spec": {"targetRef": target, "to": [{
                "targetRef": {"kind": "Mesh"},
                "default": {"http": {"requestTimeout": format!("{seconds}s")}},
            }]},
        })
    };
    let applied = |policies: &[Value]| {
        let mut world = with_route();
        policies.iter().for_each(|p| world.add(p));
        let route = only(&json_of(&world), "Routes")["virtualHosts"][0]["routes"][0].clone();
        route["route"]["timeout"].as_str().map(str::to_owned)
    };
    let mesh = json!({"kind": "Mesh"});
    let edge = json!({"kind": "MeshGateway", "name": "edge"});
    assert_eq!(applied(&[]), None);
    assert_eq!(applied(&[timeout("a", mesh.clone(), 1)]).as_deref(), Some("1s"));
    // The first by name wins over the others of its kind.
    let both = [timeout("a", mesh.clone(), 1), timeout("b", mesh.clone(), 2)];
    assert_eq!(applied(&both).as_deref(), Some("1s"));
    let narrow = [timeout("a", mesh, 1), timeout("z", edge, 3)];
    assert_eq!(applied(&narrow).as_deref(), Some("3s"));
}

#[test]
fn policies_of_other_zones_and_shadows_do_not_act() {
    for (acts, labels) in [
        (true, json!({"kuma.io/origin": "global"})),
        (true, json!({"kuma.io/origin": "zone", "kuma.io/zone": "east"})),
        (false, json!({"kuma.io/origin": "zone", "kuma.io/zone": "west"})),
        (false, json!({"kuma.io/effect": "shadow"})),
    ] {
        let mut world = with_route();
        world.add(&json!({
            "type": "MeshTimeout", "mesh": "default", "name": "t", "labels": labels,
            "spec": {"from": [{
                "targetRef": {"kind": "Mesh"}, "default": {"http": {"streamIdleTimeout": "77s"}},
            }]},
        }));
        let listener = only(&json_of(&world), "Listeners");
        let manager = &listener["filterChains"][0]["filters"][0]["typedConfig"];
        assert_eq!(manager["streamIdleTimeout"] == "77s", acts, "{labels}");
    }
}

#[test]
fn the_first_limit_of_a_port_counts() {
    let mut world = world();
    world.add(&gateway(&json!([
        {"port": 8080, "protocol": "HTTP", "hostname": "a.x"},
        {"port": 8080, "protocol": "HTTP", "hostname": "b.x", "resources": {"connectionLimit": 9}},
    ])));
    assert_eq!(
        only(&json_of(&world), "Runtimes")["layer"],
        json!({"envoy.resource_limits.listener.edge:HTTP:8080.connection_limit": 9})
    );
}

#[test]
fn weights_in_a_route() {
    let mut world = world();
    world.add(&gateway(&json!([{"port": 8080, "protocol": "HTTP"}])));
    let backend = |service: &str, weight: u32| json!({"weight": weight, "destination": {"kuma.io/service": service}});
    let mut rule = to_echo("/");
    rule["backends"] = json!([backend("b", 1), backend("a", 0), backend("b", 2)]);
    world.add(&route("r", &json!([rule])));
    let json = only(&json_of(&world), "Routes");
    let clusters = &json["virtualHosts"][0]["routes"][0]["route"]["weightedClusters"]["clusters"];
    let weights: Vec<String> = clusters
        .as_array()
        .unwrap()
        .iter()
        .map(|c| format!("{} {}", &c["name"].as_str().unwrap()[..2], c["weight"]))
        .collect();
    assert_eq!(weights, ["a- 0", "b- 3"]);
    assert!(generated(&world).issues.is_empty());
}
