//! Listeners for the other meshes.

use serde_json::json;
use sunbear_gateway_live::{Authority, Call, Case, Gateway, Pair, Scene, Sidecar, Tls, cases};

const CASES: &[Case] = cases! {
    "cross-mesh/certificates" => certificates,
    "cross-mesh/hosts" => hosts,
    "cross-mesh/mesh-comes-and-goes" => comes_and_goes,
    "cross-mesh/permissions" => permissions,
    "cross-mesh/backends-of-others" => backends_of_others,
};

#[tokio::test(flavor = "multi_thread")]
async fn cross_mesh() {
    sunbear_gateway_live::run(CASES).await;
}

pub(crate) fn features() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|case| case.feature)
}

/// How clients of a mesh connect.
fn client(pair: Option<&Pair>) -> Tls {
    let tls = Tls::to("edge.mesh").alpn(&["kuma"]);
    match pair {
        Some(pair) => tls.present(pair),
        None => tls,
    }
}

/// The own mesh with mTLS, a service `x`, which is `a` behind a sidecar, and a cross-mesh listener to it.
async fn start<'g>(gateway: &'g Gateway, listener: &str) -> (Scene<'g>, u16, Sidecar) {
    let authority = Authority::shared();
    let mut scene = gateway.scene();
    scene.mtls(authority);
    let x = authority.sidecar("x", gateway.backend("a")).await;
    scene.put(x.instance("x-1", json!({"kuma.io/service": "x"})));
    let port = scene.listener(listener);
    scene.route("r", "http: {rules: [{matches: [{prefix: /}], to: x}]}");
    (scene, port, x)
}

fn add_mesh(scene: &mut Scene<'_>, authority: &Authority, name: &str) {
    scene.add(&format!(
        "{{type: Mesh, name: {name}, \
         mtls: {{enabledBackend: ca-1, backends: [{{name: ca-1, type: builtin}}]}}}}"
    ));
    scene.authority(name, authority);
}

/// Certificates of any mesh are good, others are not.
async fn certificates(gateway: &Gateway) {
    let other = Authority::of("other");
    let (mut scene, port, _x) = start(gateway, "{protocol: HTTP, crossMesh: true}").await;
    add_mesh(&mut scene, &other, "other");
    scene.apply().await;
    let call = Call::get(port, "/");
    for authority in [&other, Authority::shared()] {
        let answer = call.clone().tls(&client(Some(&authority.issue("app")))).send().await;
        assert_eq!((answer.status, answer.from()), (200, "a"));
        assert!(!answer.header("strict-transport-security").is_empty());
    }
    let stranger = Authority::of("other").issue("app");
    let own = other.issue("app");
    for (what, tls) in [
        ("a stranger of the same name", Some(client(Some(&stranger)))),
        ("no authority at all", Some(client(Some(&Pair::ecdsa("app"))))),
        ("no certificate", Some(client(None))),
        ("no protocol of the mesh", Some(Tls::to("edge.mesh").present(&own))),
        ("no TLS", None),
    ] {
        let call = match tls {
            Some(tls) => call.clone().tls(&tls),
            None => call.clone(),
        };
        let answer = call.attempt().await;
        assert!(answer.is_err(), "{what}: {answer:?}");
    }
}

async fn hosts(gateway: &Gateway) {
    let other = Authority::of("other");
    let (mut scene, port, _x) =
        start(gateway, "{protocol: HTTP, crossMesh: true, hostname: gw.mesh}").await;
    add_mesh(&mut scene, &other, "other");
    scene.apply().await;
    let tls = client(Some(&other.issue("app")));
    let status = async |host: &str| Call::get(port, "/").host(host).tls(&tls).send().await.status;
    assert_eq!(status("gw.mesh").await, 200);
    assert_eq!(status("other.mesh").await, 404);
}

/// Meshes that come are trusted from then on, without a word in the gateway's own.
async fn comes_and_goes(gateway: &Gateway) {
    let other = Authority::of("other");
    let (mut scene, port, _x) = start(gateway, "{protocol: HTTP, crossMesh: true}").await;
    scene.apply().await;
    let call = Call::get(port, "/").tls(&client(Some(&other.issue("app"))));
    assert!(call.attempt().await.is_err());
    add_mesh(&mut scene, &other, "other");
    scene.apply().await;
    call.until("the mesh is trusted", |answer| answer.status == 200).await;
    // Without mTLS a mesh has no authority.
    scene.add("{type: Mesh, name: other}");
    scene.apply().await;
    sunbear_gateway_live::eventually_async("it is trusted no more", async || {
        call.attempt().await.is_err().then_some(())
    })
    .await;
    let own = client(Some(&Authority::shared().issue("app")));
    assert_eq!(Call::get(port, "/").tls(&own).send().await.status, 200);
}

/// TrafficPermissions do not concern who calls a gateway.
async fn permissions(gateway: &Gateway) {
    let other = Authority::of("other");
    let (mut scene, port, _x) = start(gateway, "{protocol: HTTP, crossMesh: true}").await;
    add_mesh(&mut scene, &other, "other");
    scene.add(
        "{type: TrafficPermission, sources: [{match: {kuma.io/service: nobody}}], \
          destinations: [{match: {kuma.io/service: '*'}}]}",
    );
    scene.apply().await;
    let tls = client(Some(&other.issue("app")));
    assert_eq!(Call::get(port, "/").tls(&tls).send().await.status, 200);
}

/// Routes reach services of the own mesh alone.
async fn backends_of_others(gateway: &Gateway) {
    let other = Authority::of("other");
    let mut scene = gateway.scene();
    scene.mtls(Authority::shared());
    add_mesh(&mut scene, &other, "other");
    let x = other.sidecar("x", gateway.backend("a")).await;
    let mut dataplane = x.instance("x-1", json!({"kuma.io/service": "x"}));
    dataplane["mesh"] = "other".into();
    gateway.backend("a").take_seen();
    scene.put(dataplane);
    let port = scene.listener("{protocol: HTTP}");
    scene.route(
        "r",
        "http: {rules: [{matches: [{prefix: /}], to: x}, {matches: [{prefix: /mesh}], \
         backends: [{weight: 1, destination: {kuma.io/service: x, kuma.io/mesh: other}}]}]}",
    );
    scene.apply().await;
    for path in ["/", "/mesh"] {
        assert_eq!(Call::get(port, path).send().await.status, 503);
    }
    assert!(gateway.backend("a").take_seen().is_empty());
}
