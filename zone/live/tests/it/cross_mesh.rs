//! Listeners for the other meshes.

use serde_json::json;
use sunbear_gateway_live::{Authority, Call, Case, Gateway, Pair, Scene, Sidecar, Tls, cases};

const CASES: &[Case] = cases! {
    "cross-mesh/certificates" => certificates,
    "edge/cross-mesh" => refused,
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
}

/// Who has no right gets no answer, and no request of his gets through. What decides it is in the zone:
/// there is no global here at all.
async fn refused(gateway: &Gateway) {
    let other = Authority::of("other");
    let listener = "{protocol: HTTP, crossMesh: true, hostname: gw.mesh}";
    let (mut scene, port, x) = start(gateway, listener).await;
    add_mesh(&mut scene, &other, "other");
    scene.add("{type: Mesh, name: without}");
    scene.apply().await;
    let a = gateway.backend("a");
    a.take_seen();
    let app = other.issue("app");
    let check = async |what: &str, port: u16, tls: Option<Tls>| {
        let mut call = Call::get(port, "/").host("gw.mesh");
        if let Some(tls) = &tls {
            call = call.tls(tls);
        }
        let answer = call.attempt().await;
        assert!(answer.is_err(), "{what}: {answer:?}");
        assert!(a.take_seen().is_empty(), "{what}");
    };
    // Each with what is right but for one thing.
    for (what, pair) in [
        ("a mesh of the same name elsewhere", Authority::of("other").issue("app")),
        ("a mesh without mTLS", Authority::of("without").issue("app")),
        ("no authority at all", Pair::ecdsa("app")),
        ("expired", other.issue_expired("app")),
        ("expired, of the own mesh", Authority::shared().issue_expired("app")),
    ] {
        check(what, port, Some(client(Some(&pair)))).await;
    }
    check("no certificate", port, Some(client(None))).await;
    check("no protocol of the mesh", port, Some(Tls::to("edge.mesh").present(&app))).await;
    let http = Tls::to("edge.mesh").present(&app).alpn(&["h2", "http/1.1"]);
    check("other protocols", port, Some(http)).await;
    check("no TLS", port, None).await;
    // Past the gateway: the service's own port trusts its own mesh alone.
    check("direct", x.port, Some(client(Some(&app)))).await;
    check("direct, without a certificate", x.port, Some(client(None))).await;
    check("direct, without TLS", x.port, None).await;
    // Server names choose nothing (the listener has one chain, as Kuma's): neither a service of the
    // mesh, past the routes, nor another host.
    for sni in ["x.mesh", "gw.mesh", "one.test"] {
        let tls = Tls::to(sni).alpn(&["kuma"]).present(&app);
        for host in ["x.mesh", "x", "one.test", "edge.mesh"] {
            let answer = Call::get(port, "/").host(host).tls(&tls).send().await;
            assert_eq!((answer.status, answer.from()), (404, ""), "{sni} {host}");
        }
    }
    assert!(a.take_seen().is_empty());
    let right = Call::get(port, "/").host("gw.mesh").tls(&client(Some(&app))).send().await;
    assert_eq!((right.status, right.from()), (200, "a"));
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
