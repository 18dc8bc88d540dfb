//! A certificate is gone or damaged: what is told of it, and what a restarted server does.

use prost_types::{Struct, value::Kind as ValueKind};
use sunbear_model::{Kind, ResourceKey};
use sunbear_xds::ResourceType::{Listener, Route, Secret};

use crate::{
    client::{Delta, Holding, Proxy, subscription},
    fixture::{CERTIFICATE, Fixture, any_token, eventually, gateway},
};

const GATEWAY: &str = "
type: MeshGateway
mesh: default
name: edge
selectors: [{match: {kuma.io/service: edge}}]
conf:
  listeners:
  - port: 18443
    protocol: HTTPS
    hostname: a.example
    tls: {mode: TERMINATE, certificates: [{secret: cert}]}
";

async fn open(fixture: &Fixture) -> (Delta, Holding) {
    let proxy = Proxy::direct("edge-1", &gateway("edge-1", "edge"), &any_token());
    let mut delta = Delta::open(fixture.address, &proxy, subscription(Listener, &[])).await;
    delta.subscribe(sunbear_xds::ResourceType::Cluster, &[]).await;
    delta.subscribe(sunbear_xds::ResourceType::Endpoint, &["*"]).await;
    delta.subscribe(Route, &["*"]).await;
    delta.subscribe(Secret, &["*"]).await;
    let holding = delta.take_all(&[Listener, Route, Secret]).await;
    (delta, holding)
}

/// What the insight of `edge-1` says of issues, as `effect type/name field`.
fn issues(fixture: &Fixture) -> Option<Vec<String>> {
    let Some(metadata) = fixture.insight("edge-1")?.metadata else { return Some(Vec::new()) };
    let Some(issues) = metadata.fields.get("sunbear.issues") else { return Some(Vec::new()) };
    let Some(ValueKind::StructValue(issues)) = &issues.kind else { panic!("{issues:?}") };
    let Some(ValueKind::ListValue(items)) = &issues.fields["items"].kind else { panic!() };
    let text = |item: &Struct, key: &str| match &item.fields[key].kind {
        Some(ValueKind::StringValue(text)) => text.clone(),
        other => panic!("{key}: {other:?}"),
    };
    let line = |item: &prost_types::Value| match &item.kind {
        Some(ValueKind::StructValue(item)) => {
            let of = |key| text(item, key);
            format!("{} {}/{} {}", of("effect"), of("type"), of("name"), of("field"))
        }
        other => panic!("{other:?}"),
    };
    Some(items.values.iter().map(line).collect())
}

fn metrics(fixture: &Fixture) -> String {
    let registry = prometheus::Registry::new();
    registry.register(fixture.server.collector().unwrap()).unwrap();
    prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_does_not_forget_what_was_good() {
    let fixture = Fixture::start().await.with_gateway().await;
    let pem = format!("{}{}", CERTIFICATE.cert_pem, CERTIFICATE.key_pem);
    fixture.secret("default", "cert", &pem).await;
    fixture.put(GATEWAY).await;
    let (delta, before) = open(&fixture).await;
    assert_eq!(before[&Listener].len(), 1, "{before:?}");
    eventually("nothing is wrong", || issues(&fixture).filter(Vec::is_empty)).await;
    assert!(metrics(&fixture).contains("xds_streams_active 1\n"));

    fixture.secret("default", "cert", "nonsense").await;
    let told = eventually("it is told", || issues(&fixture).filter(|i| !i.is_empty())).await;
    let kept = "last_good MeshGateway/edge conf.listeners[0].tls.certificates[0]";
    assert_eq!(told, [kept]);
    let text = metrics(&fixture);
    for line in [
        "sunbear_xds_generation_issues{effect=\"last_good\",mesh=\"default\"} 1\n",
        "sunbear_xds_proxies_with_issues{mesh=\"default\"} 1\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
    let key = ResourceKey::new(Kind::GATEWAY_LAST_GOOD, "default", "edge");
    eventually("it is stored", || fixture.get(&key)).await;
    drop(delta);

    // Another server has only what is stored.
    let fixture = Fixture::serve(fixture.shut_down().await, |_| {}).await;
    let (delta, after) = open(&fixture).await;
    assert_eq!(after, before);
    eventually("it is told again", || issues(&fixture).filter(|i| *i == [kept])).await;

    // Mended, and no longer needed.
    fixture.secret("default", "cert", &pem).await;
    eventually("all is well", || issues(&fixture).filter(Vec::is_empty)).await;
    fixture.delete(ResourceKey::new(Kind::MESH_GATEWAY, "default", "edge")).await;
    eventually("nothing is left of it", || fixture.get(&key).is_none().then_some(())).await;
    drop(delta);
}
