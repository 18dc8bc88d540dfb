//! What holds for all inputs.

use std::fs;

use proptest::prelude::*;
use serde_json::{Value, json};
use sunbear_xds::ResourceType;

use crate::{
    build::{gateway, generated, json_of, route, to_echo, world},
    world::World,
};

fn rich_world() -> World {
    let mut world = world();
    for (name, zone, address) in [
        ("echo-2", "east", "10.0.0.4"),
        ("echo-3", "west", "10.0.0.3"),
        ("echo-4", "east", "10.0.0.30"),
    ] {
        world.add(&json!({
            "type": "Dataplane", "mesh": "default", "name": name,
            "networking": {
                "address": address,
                "inbound": [{"port": 80, "tags": {"kuma.io/service": "echo", "kuma.io/zone": zone}}],
            },
        }));
    }
    world.add(&gateway(&json!([
        {"port": 8080, "protocol": "HTTP"},
        {"port": 8080, "protocol": "HTTP", "hostname": "a.x", "tags": {"t": "1"}},
        {"port": 9090, "protocol": "TCP", "tags": {"t": "2"}, "resources": {"connectionLimit": 7}},
    ])));
    for (name, hosts) in [("r1", json!(["*.x"])), ("r2", json!(["b.x", "a.x"])), ("r3", json!([]))]
    {
        let mut body = route(name, &json!([to_echo("/"), to_echo("/b"), to_echo("/b/")]));
        body["conf"]["http"]["hostnames"] = hosts;
        world.add(&body);
    }
    world.add(&json!({
        "type": "MeshGatewayRoute", "mesh": "default", "name": "t",
        "selectors": [{"match": {"kuma.io/service": "edge"}}],
        "conf": {"tcp": {"rules": [{"backends": [{"destination": {"kuma.io/service": "echo"}}]}]}},
    }));
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn order_of_resources_does_not_matter(
        shuffled in Just(rich_world().0).prop_shuffle()
    ) {
        let want = generated(&rich_world());
        let got = generated(&World(shuffled));
        prop_assert_eq!(&want, &got);
        for resource_type in ResourceType::ALL {
            prop_assert!(got.resources.diff(&want.resources, resource_type).is_empty());
            prop_assert_eq!(
                got.resources.version(resource_type),
                want.resources.version(resource_type)
            );
        }
    }

    /// Nothing in a route makes the generator panic or the result inconsistent.
    #[test]
    fn any_route_generates(
        paths in prop::collection::vec(("EXACT|PREFIX|REGEX", "[/ab(){}\\[\\]*\\\\é]{0,6}"), 1..4),
        hostnames in prop::collection::vec("[*.ab]{0,5}", 0..4),
        header in ("[:a-bH \\n]{0,5}", "[%A-B()a:1]{0,6}"),
        weights in prop::collection::vec(0u32..3, 0..3),
    ) {
        let mut world = world();
        world.add(&gateway(&json!([{"port": 8080, "protocol": "HTTP"}])));
        let matches: Vec<Value> = paths
            .iter()
            .map(|(kind, value)| json!({"path": {"match": kind, "value": value}}))
            .collect();
        let backends: Vec<Value> = weights
            .iter()
            .map(|w| json!({"weight": w, "destination": {"kuma.io/service": format!("s{w}")}}))
            .collect();
        let (name, value) = header;
        let filters = json!([{"requestHeader": {"set": [{"name": name, "value": value}]}}]);
        let rules = json!([{"matches": matches, "backends": backends, "filters": filters}]);
        let mut body = route("r", &rules);
        body["conf"]["http"]["hostnames"] = json!(hostnames);
        world.add(&body);
        let json = json_of(&world);
        let hosts = json["Routes"]["Resources"]["edge:HTTP:8080:*"]["virtualHosts"].clone();
        let mut names: Vec<String> = hosts
            .as_array()
            .unwrap()
            .iter()
            .map(|h| h["name"].as_str().unwrap_or_default().to_ascii_lowercase())
            .collect();
        names.sort();
        let count = names.len();
        names.dedup();
        prop_assert_eq!(names.len(), count);
    }
}

#[test]
fn a_change_shows_in_the_diff() {
    let old = generated(&rich_world());
    let mut world = rich_world();
    world.0.retain(|r| &*r.key.name != "t");
    let new = generated(&world);
    for resource_type in [ResourceType::Cluster, ResourceType::Endpoint] {
        let diff = new.resources.diff(&old.resources, resource_type);
        assert!(diff.changed.is_empty());
        assert_eq!(diff.removed.len(), 1);
    }
    let listeners = new.resources.diff(&old.resources, ResourceType::Listener);
    assert_eq!(listeners.changed.len(), 1);
    assert!(new.resources.diff(&old.resources, ResourceType::Route).is_empty());
}

#[test]
fn one_route_more_changes_routes_only() {
    let mut world = rich_world();
    let old = generated(&world);
    world.add(&route("r4", &json!([to_echo("/new")])));
    let new = generated(&world);
    for resource_type in ResourceType::ALL {
        let changed = !new.resources.diff(&old.resources, resource_type).is_empty();
        assert_eq!(changed, resource_type == ResourceType::Route, "{resource_type:?}");
    }
}

#[test]
fn test_data_names_its_origin() {
    let notice = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/NOTICE");
    assert!(fs::read_to_string(notice).unwrap().contains("Apache License"));
}
