//! The gateway as a client in a mesh with mTLS.

use serde_json::json;
use sunbear_gateway_live::{Authority, Call, Case, Gateway, Sidecar, SidecarOptions, cases};

use crate::routes::answers;

const CASES: &[Case] = cases! {
    "mtls/identity" => identity,
    "mtls/server-name" => server_name,
    "mtls/impostor" => impostor,
    "mtls/other-authority" => other_authority,
    "mtls/turned-on" => turned_on,
    "mtls/permission" => permission,
    "mtls/other-zone" => other_zone,
    "mtls/egress" => egress,
};

#[tokio::test(flavor = "multi_thread")]
async fn mtls() {
    sunbear_gateway_live::run(CASES).await;
}

pub(crate) fn features() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|case| case.feature)
}

const TO_X: &str = "[{matches: [{prefix: /}], to: x}]";

fn options<'g>(gateway: &'g Gateway, service: &str) -> SidecarOptions<'g> {
    Authority::shared().sidecar_options(service, gateway.backend("a"))
}

/// A sidecar of a service before `a`.
async fn sidecar(gateway: &Gateway, service: &str) -> Sidecar {
    Sidecar::start(&options(gateway, service)).await
}

/// The same, which takes connections for one server name alone.
async fn named(gateway: &Gateway, service: &str, name: &str) -> Sidecar {
    let options = SidecarOptions { server_names: vec![name], ..options(gateway, service) };
    Sidecar::start(&options).await
}

fn tags() -> serde_json::Value {
    json!({"kuma.io/service": "x"})
}

/// The sidecar learns from the certificate who calls.
async fn identity(gateway: &Gateway) {
    let x = sidecar(gateway, "x").await;
    let mut scene = gateway.scene();
    scene.mtls(Authority::shared());
    scene.put(x.instance("x-1", tags()));
    let port = scene.http(TO_X);
    scene.apply().await;
    let seen = Call::get(port, "/").send().await.seen();
    let peer = seen.header("x-peer");
    for name in ["spiffe://default/edge", "kuma://kuma.io/service/edge"] {
        assert!(peer.split(',').any(|n| n == name), "{peer}");
    }
}

/// Ingresses go by the server name: the tags of the destination, and the mesh.
async fn server_name(gateway: &Gateway) {
    let x = named(gateway, "x", "x{mesh=default,size=big,version=v1}").await;
    let mut scene = gateway.scene();
    scene.mtls(Authority::shared());
    scene.put(x.instance("x-1", json!({"kuma.io/service": "x", "version": "v1", "size": "big"})));
    let port = scene.http(
        "[{matches: [{prefix: /}], backends: [{weight: 1, \
         destination: {kuma.io/service: x, version: v1, size: big}}]}]",
    );
    scene.apply().await;
    assert_eq!(answers(Call::get(port, "/")).await, "a");
}

/// Nobody may pass for the service: `x` behind this sidecar does not get a request.
async fn refused(gateway: &Gateway, x: &Sidecar) {
    let mut scene = gateway.scene();
    scene.mtls(Authority::shared());
    scene.put(x.instance("x-1", tags()));
    let port = scene.http(TO_X);
    scene.apply().await;
    gateway.backend("a").take_seen();
    assert_eq!(Call::get(port, "/").send().await.status, 503);
    assert!(gateway.backend("a").take_seen().is_empty());
}

/// A certificate of the mesh, but of another service.
async fn impostor(gateway: &Gateway) {
    refused(gateway, &sidecar(gateway, "other").await).await;
}

/// The right name, signed by somebody else.
async fn other_authority(gateway: &Gateway) {
    let pair = Authority::of("default").issue("x");
    let options = SidecarOptions { pair, ..options(gateway, "x") };
    refused(gateway, &Sidecar::start(&options).await).await;
}

async fn turned_on(gateway: &Gateway) {
    let x = sidecar(gateway, "x").await;
    let mut scene = gateway.scene();
    scene.put(x.instance("x-1", tags()));
    let port = scene.http(TO_X);
    scene.apply().await;
    assert_eq!(Call::get(port, "/").send().await.status, 503);
    scene.mtls(Authority::shared());
    scene.apply().await;
    Call::get(port, "/").until("TLS is spoken", |answer| answer.from() == "a").await;
    scene.mesh("{mtls: null}");
    scene.remove("Dataplane", "x-1");
    scene.put(gateway.backend("b").instance("x-2", tags()));
    scene.apply().await;
    Call::get(port, "/").until("plain text is spoken", |answer| answer.from() == "b").await;
}

/// Sidecars check permissions by the gateway's identity; nobody who calls the gateway is concerned.
async fn permission(gateway: &Gateway) {
    let allowing = async |uri| {
        let options = SidecarOptions { allowed: vec![uri], ..options(gateway, "x") };
        Sidecar::start(&options).await
    };
    let open = allowing("spiffe://default/edge").await;
    let closed = allowing("spiffe://default/other").await;
    for (x, status) in [(&open, 200), (&closed, 503)] {
        let mut scene = gateway.scene();
        scene.mtls(Authority::shared());
        scene.put(x.instance("x-1", tags()));
        scene.add("{type: TrafficPermission, sources: [{match: {kuma.io/service: nobody}}]}");
        let port = scene.http(TO_X);
        scene.apply().await;
        assert_eq!(Call::get(port, "/").send().await.status, status);
    }
}

/// A service of another zone, behind its ingress, which passes TLS on.
async fn other_zone(gateway: &Gateway) {
    let x = named(gateway, "x", "x{mesh=default}").await;
    let ingress = |instances: u32| {
        json!({
            "type": "ZoneIngress", "name": "ingress-west", "zone": "west",
            "networking": {
                "address": "127.0.0.1", "port": 10001,
                "advertisedAddress": "127.0.0.1", "advertisedPort": x.port,
            },
            "availableServices": [{
                "mesh": "default", "instances": instances,
                "tags": {"kuma.io/service": "x", "kuma.io/zone": "west"},
            }],
        })
    };
    let mut scene = gateway.scene();
    scene.mtls(Authority::shared());
    scene.put(ingress(1));
    let port = scene.http(TO_X);
    scene.apply().await;
    assert_eq!(answers(Call::get(port, "/")).await, "a");

    // With locality awareness an instance of the own zone is preferred.
    let near = Authority::shared().sidecar("x", gateway.backend("b")).await;
    scene.put(near.instance("x-1", json!({"kuma.io/service": "x", "kuma.io/zone": "east"})));
    scene.put(ingress(20));
    scene.apply().await;
    Call::get(port, "/").until("the near one is there", |a| a.from() == "b").await;
    Call::get(port, "/").until("the far one too", |a| a.from() == "a").await;
    scene.mesh("{routing: {localityAwareLoadBalancing: true}}");
    scene.apply().await;
    sunbear_gateway_live::eventually_async("only the near one is asked", async || {
        for _ in 0..20 {
            if answers(Call::get(port, "/")).await != "b" {
                return None;
            }
        }
        Some(())
    })
    .await;
    // And if it goes, the other zone has it.
    scene.remove("Dataplane", "x-1");
    scene.apply().await;
    Call::get(port, "/").until("the far one is asked", |a| a.from() == "a").await;
}

/// An external service by way of the zone's egress.
async fn egress(gateway: &Gateway) {
    let egress = named(gateway, "zone-egress", "ext{mesh=default}").await;
    let mut scene = gateway.scene();
    scene.mtls(Authority::shared());
    scene.mesh("{routing: {zoneEgress: true}}");
    scene.add(
        "{type: ExternalService, name: ext, tags: {kuma.io/service: ext, kuma.io/protocol: http}, \
          networking: {address: 'ext.invalid:80'}}",
    );
    let port = scene.http("[{matches: [{prefix: /}], to: ext}]");
    scene.apply().await;
    assert_eq!(Call::get(port, "/").send().await.status, 503);
    scene.put(json!({
        "type": "ZoneEgress", "name": "egress-1", "zone": "east",
        "networking": {"address": "127.0.0.1", "port": egress.port},
    }));
    scene.apply().await;
    Call::get(port, "/").until("the egress has it", |answer| answer.from() == "a").await;
}
