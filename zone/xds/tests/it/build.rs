//! Short ways to write resources.

use serde_json::{Value, json};
use sunbear_xds::{Generated, Proxy, Settings, generate};

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

/// A rule from a path prefix to `echo`.
pub(crate) fn to_echo(prefix: &str) -> Value {
    json!({
        "matches": [{"path": {"match": "PREFIX", "value": prefix}}],
        "backends": [{"destination": {"kuma.io/service": "echo"}}],
    })
}

/// Generates for `gw`.
pub(crate) fn generated(world: &World) -> Generated {
    let proxy = Proxy { mesh: "default".to_owned(), name: "gw".to_owned(), ..Proxy::default() };
    generate(world, &Settings { zone: "east".to_owned(), ..Settings::default() }, &proxy).unwrap()
}

/// Generates for `gw`, as JSON.
pub(crate) fn json_of(world: &World) -> Value {
    snapshot(&generated(world))
}

/// Issues as `name field: reason`.
pub(crate) fn issues(generated: &Generated) -> Vec<String> {
    let text = |i: &sunbear_xds::Issue| format!("{} {}: {}", i.resource.name, i.field, i.reason);
    generated.issues.iter().map(text).collect()
}
