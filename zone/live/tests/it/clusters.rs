//! Instances behind a service, and services outside of the mesh.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sunbear_gateway_live::{
    Authority, Backend, Call, Case, Gateway, Pair, Port, Scene, base64, cases, eventually_async,
};

use crate::routes::answers;

const CASES: &[Case] = cases! {
    "cluster/round-robin" => round_robin,
    "cluster/subset" => subset,
    "cluster/http2" => http2,
    "cluster/instances-change" => instances_change,
    "cluster/instance-not-ready" => instance_not_ready,
    "cluster/locality" => locality,
    "cluster/load-balancers" => load_balancers,
    "external/http" => external_http,
    "external/host-name" => external_host_name,
    "external/https" => external_https,
    "external/https-refused" => external_https_refused,
    "external/https-unverified" => external_https_unverified,
    "external/client-certificate" => external_client_certificate,
    "external/several" => external_several,
    "external/permission" => external_permission,
    "external/tcp" => external_tcp,
};

#[tokio::test(flavor = "multi_thread")]
async fn clusters() {
    sunbear_gateway_live::run(CASES).await;
}

pub(crate) fn features() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|case| case.feature)
}

const TO_X: &str = "[{matches: [{prefix: /}], to: x}]";

/// Waits until this many answers in a row come from these, and all of them answer.
pub(crate) async fn only(port: u16, wanted: &[&str]) {
    let wanted: BTreeSet<&str> = wanted.iter().copied().collect();
    eventually_async("these alone answer", async || {
        let mut seen = BTreeSet::new();
        for _ in 0..20 {
            let answer = Call::get(port, "/").send().await;
            if answer.status != 200 || !wanted.contains(answer.from()) {
                return None;
            }
            seen.insert(answer.from().to_owned());
        }
        (seen.len() == wanted.len()).then_some(())
    })
    .await;
}

/// Makes `a`, `b` and so on instances of `x`, with these tags beside the service.
fn instances(gateway: &Gateway, scene: &mut Scene<'_>, list: &[(&str, Value)]) {
    for (name, tags) in list {
        let mut tags = tags.clone();
        tags["kuma.io/service"] = "x".into();
        scene.put(gateway.backend(name).instance(&format!("x-{name}"), tags));
    }
}

async fn round_robin(gateway: &Gateway) {
    let mut scene = gateway.scene();
    instances(gateway, &mut scene, &[("a", json!({})), ("b", json!({})), ("c", json!({}))]);
    let port = scene.http(TO_X);
    scene.apply().await;
    let mut shares = std::collections::BTreeMap::new();
    for _ in 0..30 {
        *shares.entry(answers(Call::get(port, "/")).await).or_insert(0) += 1;
    }
    assert_eq!(shares.values().copied().collect::<Vec<_>>(), [10, 10, 10], "{shares:?}");
}

/// Tags of a destination choose instances; values are compared exactly.
async fn subset(gateway: &Gateway) {
    let mut scene = gateway.scene();
    instances(
        gateway,
        &mut scene,
        &[
            ("a", json!({"version": "v1", "size": "big"})),
            ("b", json!({"version": "v1"})),
            ("c", json!({"version": "v2"})),
        ],
    );
    let to = |path: &str, tags: &str| {
        format!(
            "{{matches: [{{prefix: {path}}}], \
             backends: [{{weight: 1, destination: {{kuma.io/service: x, {tags}}}}}]}}"
        )
    };
    let port = scene.http(&format!(
        "[{}, {}, {}, {}]",
        to("/", "version: v1"),
        to("/big", "version: v1, size: big"),
        to("/v2", "version: v2"),
        to("/v3", "version: v3"),
    ));
    scene.apply().await;
    only(port, &["a", "b"]).await;
    for _ in 0..5 {
        assert_eq!(answers(Call::get(port, "/big")).await, "a");
        assert_eq!(answers(Call::get(port, "/v2")).await, "c");
    }
    assert_eq!(Call::get(port, "/v3").send().await.status, 503);
}

/// The protocol in the route's destination is the one that is spoken.
async fn http2(gateway: &Gateway) {
    let mut scene = gateway.scene();
    for protocol in ["http2", "grpc", "http"] {
        let tags = json!({"kuma.io/service": "x", "kuma.io/protocol": protocol});
        scene.put(gateway.backend("a").instance(&format!("x-{protocol}"), tags));
    }
    let rules: Vec<String> = ["http2", "grpc", "http"]
        .map(|protocol| {
            format!(
                "{{matches: [{{prefix: /{protocol}}}], backends: [{{weight: 1, destination: \
                 {{kuma.io/service: x, kuma.io/protocol: {protocol}}}}}]}}"
            )
        })
        .to_vec();
    let port = scene.http(&format!("[{}]", rules.join(",")));
    scene.apply().await;
    for (path, version) in [("/http2", "HTTP/2"), ("/grpc", "HTTP/2"), ("/http", "HTTP/1.1")] {
        assert_eq!(Call::get(port, path).send().await.seen().version, version);
    }
}

/// Instances come and go, and no request fails.
async fn instances_change(gateway: &Gateway) {
    let mut scene = gateway.scene();
    instances(gateway, &mut scene, &[("a", json!({}))]);
    let port = scene.http(TO_X);
    scene.apply().await;
    only(port, &["a"]).await;
    let clusters = gateway.envoy.stat("cluster_manager.cds.update_success").await;
    instances(gateway, &mut scene, &[("b", json!({}))]);
    scene.commit().await;
    only(port, &["a", "b"]).await;
    scene.remove("Dataplane", "x-a");
    scene.commit().await;
    only(port, &["b"]).await;
    assert_eq!(gateway.envoy.stat("cluster_manager.cds.update_success").await, clusters);
}

async fn instance_not_ready(gateway: &Gateway) {
    let mut scene = gateway.scene();
    instances(gateway, &mut scene, &[("a", json!({}))]);
    let tags = json!({"kuma.io/service": "x"});
    let mut one = gateway.backend("b").instance("x-b", tags.clone());
    one["networking"]["inbound"][0]["state"] = "NotReady".into();
    scene.put(one.clone());
    let mut other = gateway.backend("c").instance("x-c", tags);
    other["networking"]["inbound"][0]["health"] = json!({"ready": false});
    scene.put(other);
    let port = scene.http(TO_X);
    scene.apply().await;
    only(port, &["a"]).await;
    one["networking"]["inbound"][0]["state"] = "Ready".into();
    scene.put(one);
    scene.commit().await;
    only(port, &["a", "b"]).await;
}

/// Instances of other zones are asked like others, unless the mesh says otherwise.
async fn locality(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let list = [("a", json!({"kuma.io/zone": "east"})), ("b", json!({"kuma.io/zone": "west"}))];
    instances(gateway, &mut scene, &list);
    let port = scene.http(TO_X);
    scene.apply().await;
    only(port, &["a", "b"]).await;
    scene.mesh("{routing: {localityAwareLoadBalancing: true}}");
    scene.commit().await;
    only(port, &["a"]).await;
    scene.remove("Dataplane", "x-a");
    scene.commit().await;
    only(port, &["b"]).await;
}

/// Other ways to balance than round robin come through a ProxyTemplate.
async fn load_balancers(gateway: &Gateway) {
    for policy in ["RANDOM", "LEAST_REQUEST", "RING_HASH", "MAGLEV"] {
        let mut scene = gateway.scene();
        instances(gateway, &mut scene, &[("a", json!({})), ("b", json!({})), ("c", json!({}))]);
        let port = scene.http("[{matches: [{exact: /plain}], to: x}]");
        scene.apply().await;
        assert_eq!(Call::get(port, "/plain").send().await.status, 200);
        let clusters = gateway.envoy.admin("/clusters").await.unwrap();
        let cluster =
            clusters.lines().find_map(|l| l.split_once("::").filter(|c| c.0.starts_with("x-")));
        let cluster = cluster.unwrap().0;
        // A virtual host is merged, so its further routes come after those of the gateway.
        let hashes = "[{header: {headerName: x-user}, terminal: true}, \
                       {cookie: {name: user}, terminal: true}, \
                       {connectionProperties: {sourceIp: true}}]";
        let host = format!(
            "{{routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}, hashPolicy: {hashes}}}}}]}}"
        );
        scene.put(json!({
            "type": "ProxyTemplate",
            "selectors": [{"match": {"kuma.io/service": "edge"}}],
            "conf": {"imports": ["gateway-proxy"], "modifications": [
                {"cluster": {
                    "operation": "patch",
                    "match": {"name": cluster},
                    "value": format!("{{lbPolicy: {policy}}}"),
                }},
                {"virtualHost": {"operation": "patch", "match": {"name": "*"}, "value": host}},
            ]},
        }));
        scene.apply().await;
        let call = |user: usize| Call::get(port, "/hashed").header("x-user", &format!("u{user}"));
        call(0).until("the route is there", |answer| answer.status == 200).await;
        let mut whole = BTreeSet::new();
        for user in 0..15 {
            let mut own = BTreeSet::new();
            for _ in 0..4 {
                own.insert(answers(call(user)).await);
            }
            if ["RING_HASH", "MAGLEV"].contains(&policy) {
                assert_eq!(own.len(), 1, "{policy}: {own:?}");
                let cookie = Call::get(port, "/").header("cookie", &format!("user=u{user}"));
                assert_eq!(answers(cookie.clone()).await, answers(cookie).await);
            }
            whole.extend(own);
        }
        assert_eq!(whole.len(), 3, "{policy}");
        if ["RING_HASH", "MAGLEV"].contains(&policy) {
            let mut own = BTreeSet::new();
            for _ in 0..4 {
                own.insert(answers(Call::get(port, "/")).await);
            }
            assert_eq!(own.len(), 1, "{policy}, by address: {own:?}");
        }
    }
}

/// An ExternalService `ext` at this address, with these fields of `networking.tls`.
fn external(name: &str, address: &str, tls: Value, tags: Value) -> Value {
    let mut document = json!({
        "type": "ExternalService",
        "name": name,
        "tags": {"kuma.io/service": "ext", "kuma.io/protocol": "http"},
        "networking": {"address": address},
    });
    for (key, value) in tags.as_object().into_iter().flatten() {
        document["tags"][key] = value.clone();
    }
    if !tls.is_null() {
        document["networking"]["tls"] = tls;
        document["networking"]["tls"]["enabled"] = true.into();
    }
    document
}

/// Requests to `ext` go to this address with this TLS.
async fn to_external(gateway: &Gateway, address: &str, tls: Value) -> u16 {
    let mut scene = gateway.scene();
    scene.put(external("ext", address, tls, Value::Null));
    let port = scene.http("[{matches: [{prefix: /}], to: ext}]");
    scene.apply().await;
    port
}

async fn external_http(gateway: &Gateway) {
    let address = gateway.backend("a").address.to_string();
    let port = to_external(gateway, &address, Value::Null).await;
    let seen = Call::get(port, "/x").host("out.test").send().await.seen();
    assert_eq!((&*seen.path, &*seen.host), ("/x", "out.test"));
    // What is in the mesh alone is told to nobody else.
    assert_eq!(seen.header("x-kuma-tags"), "");
}

/// The name is looked up, and can take the place of the host.
async fn external_host_name(gateway: &Gateway) {
    let address = format!("localhost:{}", gateway.backend("a").address.port());
    let mut scene = gateway.scene();
    scene.put(external("ext", &address, Value::Null, Value::Null));
    let port = scene.http(
        "[{matches: [{prefix: /kept}], to: ext}, {matches: [{prefix: /foo}], to: ext, filters: [
           {rewrite: {replacePrefixMatch: /bar, host_to_backend_hostname: true}}]}]",
    );
    scene.apply().await;
    let call = |path: &str| Call::get(port, path).host("out.test");
    call("/kept").until("the name is found", |answer| answer.status == 200).await;
    assert_eq!(call("/kept").send().await.seen().host, "out.test");
    for (path, seen) in [("/foo", "/bar"), ("/foo/x", "/bar/x")] {
        let got = call(path).send().await.seen();
        assert_eq!((&*got.path, &*got.host), (seen, "localhost"));
    }
}

async fn external_https(gateway: &Gateway) {
    let pair = Pair::ecdsa("ext.test");
    let server = Backend::https("server", pair.server()).await;
    let mut scene = gateway.scene();
    let tls = json!({"serverName": "ext.test", "caCert": {"secret": "ca"}});
    scene.put(external("ext", &server.address.to_string(), tls, Value::Null));
    scene.secret("ca", &pair.certificate);
    let port = scene.http("[{matches: [{prefix: /}], to: ext}]");
    scene.apply().await;
    let answer = Call::get(port, "/").send().await;
    assert_eq!(answer.from(), "server");
    assert_eq!(answer.seen().tls.unwrap().sni.as_deref(), Some("ext.test"));
    let inline = json!({
        "serverName": "ext.test", "caCert": {"inline": base64(&pair.certificate)},
    });
    let port = to_external(gateway, &server.address.to_string(), inline).await;
    assert_eq!(answers(Call::get(port, "/")).await, "server");
}

/// Neither another authority nor another name is good enough.
async fn external_https_refused(gateway: &Gateway) {
    let pair = Pair::ecdsa("ext.test");
    let server = Backend::https("server", pair.server()).await;
    let ca = |pair: &Pair| json!({"inlineString": pair.certificate});
    for tls in [
        json!({"serverName": "ext.test", "caCert": ca(&Pair::ecdsa("ext.test"))}),
        json!({"serverName": "other.test", "caCert": ca(&pair)}),
        json!({"caCert": ca(&pair)}),
    ] {
        let port = to_external(gateway, &server.address.to_string(), tls.clone()).await;
        assert_eq!(Call::get(port, "/").send().await.status, 503, "{tls}");
    }
    assert!(server.seen().is_empty());
}

/// Without an authority nothing is verified; and the name need not be.
async fn external_https_unverified(gateway: &Gateway) {
    let pair = Pair::ecdsa("ext.test");
    let server = Backend::https("server", pair.server()).await;
    for tls in [
        json!({}),
        json!({"caCert": {"inlineString": pair.certificate}, "skipHostnameVerification": true}),
    ] {
        let port = to_external(gateway, &server.address.to_string(), tls).await;
        assert_eq!(answers(Call::get(port, "/")).await, "server");
    }
}

async fn external_client_certificate(gateway: &Gateway) {
    let authority = Authority::of("partner");
    let pair = Pair::ecdsa("ext.test");
    let server = Backend::https("server", pair.server_for(&authority.pair().certificate)).await;
    let client = authority.issue("edge");
    let text = |text: &str| json!({"inlineString": text});
    let port = to_external(
        gateway,
        &server.address.to_string(),
        json!({"clientCert": text(&client.certificate), "clientKey": text(&client.key)}),
    )
    .await;
    let seen = Call::get(port, "/").send().await.seen();
    assert!(seen.tls.unwrap().client.contains(&"spiffe://partner/edge".to_owned()));
    let port = to_external(gateway, &server.address.to_string(), json!({})).await;
    assert_eq!(Call::get(port, "/").send().await.status, 503);
}

/// All ExternalServices of a service whose tags fit, each with TLS of its own.
async fn external_several(gateway: &Gateway) {
    let server = Backend::https("server", Pair::ecdsa("ext.test").server()).await;
    let mut scene = gateway.scene();
    let plain = gateway.backend("a").address.to_string();
    scene.put(external("one", &plain, Value::Null, json!({"version": "v1"})));
    scene.put(external("two", &server.address.to_string(), json!({}), json!({"version": "v2"})));
    let port = scene.http(
        "[{matches: [{prefix: /}], to: ext}, {matches: [{prefix: /v2}], \
         backends: [{weight: 1, destination: {kuma.io/service: ext, version: v2}}]}]",
    );
    scene.apply().await;
    only(port, &["a", "server"]).await;
    for _ in 0..5 {
        assert_eq!(answers(Call::get(port, "/v2")).await, "server");
    }
}

/// Once a mesh has permissions, external services need one.
async fn external_permission(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let address = gateway.backend("a").address.to_string();
    scene.put(external("ext", &address, Value::Null, Value::Null));
    let port = scene.http("[{matches: [{prefix: /}], to: ext}]");
    let permission = |source: &str, destination: &str| {
        format!(
            "{{type: TrafficPermission, sources: [{{match: {{kuma.io/service: {source}}}}}], \
             destinations: [{{match: {{kuma.io/service: {destination}}}}}]}}"
        )
    };
    scene.add(&permission("other", "ext"));
    scene.apply().await;
    assert_eq!(Call::get(port, "/").send().await.status, 503);
    scene.add(&permission("edge", "elsewhere"));
    scene.apply().await;
    assert_eq!(Call::get(port, "/").send().await.status, 503);
    scene.add(&permission("edge", "ext"));
    scene.apply().await;
    Call::get(port, "/").until("it is permitted", |answer| answer.from() == "a").await;
    scene.add(&permission("other", "ext"));
    scene.apply().await;
    Call::get(port, "/").until("it is not", |answer| answer.status == 503).await;
    scene.remove("TrafficPermission", "trafficpermission");
    scene.apply().await;
    Call::get(port, "/").until("all are permitted", |answer| answer.from() == "a").await;
}

async fn external_tcp(gateway: &Gateway) {
    let lines = Backend::tcp("lines").await;
    let mut scene = gateway.scene();
    let tags = json!({"kuma.io/protocol": "tcp"});
    scene.put(external("ext", &lines.address.to_string(), Value::Null, tags));
    let port = scene.listener("{protocol: TCP}");
    scene.route("r", "tcp: {rules: [{to: ext}]}");
    scene.apply().await;
    let mut stream = sunbear_gateway_live::dial(port, None).await.unwrap();
    assert_eq!(stream.echo("hello").await.as_deref(), Some("lines hello"));
}

/// An instance where nobody listens, as long as the port is kept.
pub(crate) fn dead(name: &str, service: &str) -> (Value, Port) {
    let port = Port::take();
    let document = json!({
        "type": "Dataplane", "mesh": "default", "name": name,
        "networking": {
            "address": "127.0.0.1",
            "inbound": [{"port": port.number(), "tags": {"kuma.io/service": service}}],
        },
    });
    (document, port)
}
