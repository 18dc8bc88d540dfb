//! Short ways to write resources.

use serde_json::{Value, json};
use sunbear_model::Kind;
use sunbear_xds::{Generated, Proxy, Settings, generate, generate_after};

use crate::{golden::snapshot, world::World};

/// A mesh, a gateway Dataplane `gw` of service `edge`, and a service `echo` in it.
pub(crate) fn world() -> World {
    let mut world = World::default();
    world.add(&json!({"type": "Mesh", "name": "default"}));
    world.add(&json!({
        "type": "Dataplane", "mesh": "default", "name": "gw",
        "networking": {
            "address": "10.0.0.1",
            "gateway": {"type": "BUILTIN", "tags": {"kuma.io/service": "edge"}},
        },
    }));
    world.add(&json!({
        "type": "Dataplane", "mesh": "default", "name": "echo-1",
        "networking": {
            "address": "10.0.0.2",
            "inbound": [
                {"port": 80, "tags": {"kuma.io/service": "echo", "kuma.io/protocol": "http"}},
            ],
        },
    }));
    world
}

/// The mesh of [`world`] with this instead of nothing.
pub(crate) fn with_mesh(world: &mut World, spec: &Value) {
    let mut mesh = json!({"type": "Mesh", "name": "default"});
    mesh.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    world.0.retain(|r| r.key.kind != Kind::MESH || &*r.key.name != "default");
    world.add(&mesh);
}

/// mTLS of a mesh.
pub(crate) fn mtls() -> Value {
    json!({"enabledBackend": "ca", "backends": [{"name": "ca", "type": "builtin"}]})
}

/// A MeshGateway `edge` with these listeners.
pub(crate) fn gateway(listeners: &Value) -> Value {
    json!({
        "type": "MeshGateway", "mesh": "default", "name": "edge",
        "selectors": [{"match": {"kuma.io/service": "edge"}}],
        "conf": {"listeners": listeners},
    })
}

/// A route of the gateway with these rules.
pub(crate) fn route(name: &str, rules: &Value) -> Value {
    json!({
        "type": "MeshGatewayRoute", "mesh": "default", "name": name,
        "selectors": [{"match": {"kuma.io/service": "edge"}}],
        "conf": {"http": {"rules": rules}},
    })
}

/// A TCP route of the gateway to services.
pub(crate) fn tcp_route(name: &str, services: &[&str]) -> Value {
    let backends: Vec<Value> =
        services.iter().map(|s| json!({"destination": {"kuma.io/service": s}})).collect();
    json!({
        "type": "MeshGatewayRoute", "mesh": "default", "name": name,
        "selectors": [{"match": {"kuma.io/service": "edge"}}],
        "conf": {"tcp": {"rules": [{"backends": backends}]}},
    })
}

/// A rule from a path prefix to a service.
pub(crate) fn to(prefix: &str, service: &str) -> Value {
    json!({
        "matches": [{"path": {"match": "PREFIX", "value": prefix}}],
        "backends": [{"destination": {"kuma.io/service": service}}],
    })
}

/// A rule from a path prefix to `echo`.
pub(crate) fn to_echo(prefix: &str) -> Value {
    to(prefix, "echo")
}

/// The zone's settings.
pub(crate) fn settings() -> Settings {
    Settings { zone: "east".to_owned(), ..Settings::default() }
}

/// The proxy `gw`.
pub(crate) fn gw() -> Proxy {
    Proxy { mesh: "default".to_owned(), name: "gw".to_owned(), ..Proxy::default() }
}

/// Generates for `gw`.
pub(crate) fn generated(world: &World) -> Generated {
    generate(world, &settings(), &gw()).unwrap()
}

/// Generates for `gw`, which had something before.
pub(crate) fn generated_after(world: &World, previous: &Generated) -> Generated {
    generate_after(world, &settings(), &gw(), Some(previous)).unwrap()
}

/// Generates for `gw`, as JSON.
pub(crate) fn json_of(world: &World) -> Value {
    snapshot(&generated(world))
}

/// The resources of a type in JSON.
pub(crate) fn resources(json: &Value, kind: &str) -> serde_json::Map<String, Value> {
    json[kind]["Resources"].as_object().unwrap().clone()
}

/// The only resource of a type.
pub(crate) fn only(json: &Value, kind: &str) -> Value {
    let resources = resources(json, kind);
    assert_eq!(resources.len(), 1, "{kind}: {:?}", resources.keys());
    resources.values().next().unwrap().clone()
}

/// Issues as `name field: reason`.
pub(crate) fn issues(generated: &Generated) -> Vec<String> {
    let text = |i: &sunbear_xds::Issue| format!("{} {}: {}", i.resource.name, i.field, i.reason);
    generated.issues.iter().map(text).collect()
}
