//! Rules that the recordings do not show.

use serde_json::{Value, json};
use sunbear_insights::MeshState;
use sunbear_model::{Kind, Resource, ResourceKey, Spec, rest};
use sunbear_proto::kuma::mesh::v1alpha1::{MeshInsight, ServiceInsight};
use time::OffsetDateTime;

use crate::fixture::{Fixture, dataplane, put, put_bytes};

fn shown(kind: Kind, spec: Spec) -> Value {
    let at = OffsetDateTime::UNIX_EPOCH;
    let resource = Resource {
        key: ResourceKey::new(kind, "m", "n"),
        uid: Default::default(),
        version: 1,
        revision: 1,
        labels: Default::default(),
        spec,
        status: None,
        owner: None,
        created_at: at,
        modified_at: at,
    };
    rest::write(&resource)
}

fn mesh_insight(message: &MeshInsight) -> Value {
    let kind = Kind::by_name("MeshInsight").unwrap();
    shown(kind, Spec::from_message(kind, message))
}

fn services(message: &ServiceInsight) -> Value {
    let kind = Kind::SERVICE_INSIGHT;
    shown(kind, Spec::from_message(kind, message))["services"].clone()
}

/// A connected proxy's insight.
fn insight(name: &str, version: &str, backend: &str) -> Value {
    json!({
        "mesh": "m", "name": name,
        "subscriptions": [
            {"id": "old", "connectTime": "2026-01-01T00:00:00Z", "version": {"envoy": {"version": "1"}},
             "disconnectTime": "2026-01-01T00:00:01Z"},
            {"id": "new", "connectTime": "2026-01-01T00:00:02Z",
             "version": {"kumaDp": {"version": version}, "envoy": {"version": "1.38.2"}}},
        ],
        "mTLS": {"issuedBackend": backend, "supportedBackends": [backend, "both", "both"]},
    })
}

fn inbound(service: &str, zone: &str, more: &Value) -> Value {
    let mut inbound =
        json!({"port": 1, "tags": {"kuma.io/service": service, "kuma.io/zone": zone}});
    inbound.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    inbound
}

async fn filled() -> Fixture {
    let fixture = Fixture::new().await;
    let sidecar = |name: &str, inbounds: &[Value]| {
        put(
            Kind::DATAPLANE,
            &json!({"mesh": "m", "name": name, "networking": {"inbound": inbounds}}),
        )
    };
    let none = json!({});
    let changes = vec![
        put(Kind::MESH, &json!({"name": "m"})),
        sidecar(
            "a",
            &[inbound("web", "z2", &none), inbound("web", "z2", &none), inbound("", "z9", &none)],
        ),
        sidecar(
            "b",
            &[
                inbound("web", "z1", &none),
                inbound("api", "z1", &json!({"state": "NotReady"})),
                inbound("gone", "z1", &json!({"state": "Ignored"})),
            ],
        ),
        sidecar("c", &[inbound("api", "z1", &none)]),
        put(
            Kind::DATAPLANE,
            &json!({"mesh": "m", "name": "d", "networking": {"gateway": {"type": "DELEGATED",
                "tags": {"kuma.io/service": "edge"}}}}),
        ),
        put(Kind::DATAPLANE_INSIGHT, &insight("a", "2.14.3", "ca-1")),
        put(Kind::DATAPLANE_INSIGHT, &insight("b", "2.14.3", "ca-1")),
        put(Kind::DATAPLANE_INSIGHT, &insight("d", "", "ca-2")),
        // An insight without its proxy.
        put(Kind::DATAPLANE_INSIGHT, &insight("x", "0", "ca-9")),
        put(
            Kind::EXTERNAL_SERVICE,
            &json!({"mesh": "m", "name": "e1", "networking": {"address": "example.com:443"},
                "tags": {"kuma.io/service": "far", "kuma.io/zone": "z3"}}),
        ),
        put(
            Kind::EXTERNAL_SERVICE,
            &json!({"mesh": "m", "name": "e2", "networking": {"address": "second:1"},
                "tags": {"kuma.io/service": "far"}}),
        ),
        put(
            Kind::EXTERNAL_SERVICE,
            &json!({"mesh": "m", "name": "e3", "networking": {"address": "third:1"},
                "tags": {"kuma.io/service": "web", "kuma.io/zone": "z0"}}),
        ),
    ];
    fixture.commit(changes).await;
    fixture
}

#[tokio::test]
async fn counts() {
    let fixture = filled().await;
    let state = MeshState::of("m", &fixture.world.snapshot());
    let mut got = mesh_insight(&state.mesh_insight());
    for key in ["type", "name", "mesh", "creationTime", "modificationTime"] {
        got.as_object_mut().unwrap().remove(key);
    }
    assert_eq!(
        got,
        json!({
            "dataplanes": {"total": 4, "online": 2, "offline": 1, "partiallyDegraded": 1},
            "dataplanesByType": {
                "standard": {"total": 3, "online": 1, "offline": 1, "partiallyDegraded": 1},
                "gateway": {"total": 1, "online": 1},
                "gatewayBuiltin": {},
                "gatewayDelegated": {"total": 1, "online": 1},
            },
            "dpVersions": {
                "kumaDp": {
                    "2.14.3": {"total": 1, "online": 1, "partiallyDegraded": 1},
                    "unknown": {"total": 2, "online": 1, "offline": 1},
                },
                "envoy": {
                    "1.38.2": {"total": 2, "online": 2, "partiallyDegraded": 1},
                    "unknown": {"total": 1, "offline": 1},
                },
            },
            "mTLS": {
                "issuedBackends": {
                    "ca-1": {"total": 2, "online": 1, "partiallyDegraded": 1},
                    "ca-2": {"total": 1, "online": 1},
                },
                "supportedBackends": {
                    "both": {"total": 3, "online": 2, "partiallyDegraded": 1},
                    "ca-1": {"total": 2, "online": 1, "partiallyDegraded": 1},
                    "ca-2": {"total": 1, "online": 1},
                },
            },
            "services": {"total": 6, "internal": 3, "external": 3},
            "resources": {"Dataplane": {"total": 4}, "ExternalService": {"total": 3}},
        })
    );
    assert_eq!(
        services(&state.service_insight()),
        json!({
            "api": {"status": "offline", "dataplanes": {"offline": 2}, "zones": ["z1"],
                "issuedBackends": {"ca-1": 1}},
            "edge": {"status": "online", "dataplanes": {"online": 1}, "serviceType": "gateway_delegated",
                "issuedBackends": {"ca-2": 1}},
            "far": {"status": "not_available", "dataplanes": {}, "serviceType": "external",
                "addressPort": "example.com:443", "zones": ["z3"]},
            // Twice online on a, degraded on b; the external one came too late to say what it is.
            "web": {"status": "partially_degraded", "dataplanes": {"online": 2, "offline": 1},
                "zones": ["z0", "z1", "z2"], "issuedBackends": {"ca-1": 3}},
        })
    );
}

#[tokio::test]
async fn a_mesh_without_anything() {
    let fixture = Fixture::new().await;
    let state = MeshState::of("m", &fixture.world.snapshot());
    assert!(state.is_empty());
    let got = mesh_insight(&state.mesh_insight());
    // Readers rely on it.
    assert_eq!(got["dataplanes"], json!({}));
    assert_eq!(got["policies"], Value::Null);
}

#[tokio::test]
async fn with_mesh_services_alone_only_delegated_gateways_are_services() {
    let fixture = filled().await;
    let body = json!({"name": "m", "meshServices": {"mode": "Exclusive"}});
    fixture.put(Kind::MESH, &body).await;
    let state = MeshState::of("m", &fixture.world.snapshot());
    let got = services(&state.service_insight());
    let names: Vec<&String> = got.as_object().unwrap().keys().collect();
    assert_eq!(names, ["edge"]);
    let got = mesh_insight(&state.mesh_insight());
    assert_eq!(got["services"], Value::Null);
    assert_eq!(got["resources"]["ExternalService"]["total"], 3);
}

#[tokio::test]
async fn malformed_objects_are_counted_and_passed_over() {
    let fixture = filled().await;
    let external = ResourceKey::new(Kind::EXTERNAL_SERVICE, "m", "bad");
    let broken = ResourceKey::new(Kind::DATAPLANE_INSIGHT, "m", "a");
    fixture
        .commit(vec![
            put_bytes(&dataplane("m", "bad"), b"\xff"),
            put_bytes(&external, b"\xff"),
            put_bytes(&broken, b"\xff"),
        ])
        .await;
    let state = MeshState::of("m", &fixture.world.snapshot());
    let got = mesh_insight(&state.mesh_insight());
    assert_eq!(got["resources"]["Dataplane"]["total"], 5);
    assert_eq!(
        got["dataplanes"],
        json!({"total": 4, "online": 1, "offline": 2, "partiallyDegraded": 1})
    );
    assert_eq!(services(&state.service_insight())["web"]["dataplanes"], json!({"offline": 3}));
}
