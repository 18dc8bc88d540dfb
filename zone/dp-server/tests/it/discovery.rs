//! Configuration reaches proxies, and only when it changes.

use sunbear_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use sunbear_xds::ResourceType::{self, Cluster, Endpoint, Listener, Route, Runtime};
use tonic::Code;

use crate::{
    client::{Delta, Proxy, Sotw, interest, subscription},
    fixture::{ECHO, Fixture, ROUTE, any_token, eventually, gateway, soon},
};

const TYPES: [ResourceType; 5] = [Cluster, Endpoint, Listener, Route, Runtime];

fn proxy() -> Proxy {
    Proxy::direct("edge-1", &gateway("edge-1", "edge"), &any_token())
}

/// A stream that asks for everything.
async fn delta_of_everything(fixture: &Fixture) -> Delta {
    let delta = Delta::open(fixture.address, &proxy(), subscription(Cluster, &[])).await;
    delta.subscribe(Listener, &[]).await;
    for t in [Endpoint, Route, Runtime] {
        delta.subscribe(t, &["*"]).await;
    }
    delta
}

#[tokio::test(flavor = "multi_thread")]
async fn delta_gets_everything_and_then_changes() {
    let fixture = Fixture::start().await.with_gateway().await;
    let mut delta = delta_of_everything(&fixture).await;
    let holding = delta.take_all(&TYPES).await;
    assert!(TYPES.iter().all(|t| !holding[t].is_empty()), "{holding:?}");
    let status = eventually("all is acknowledged", || {
        fixture.status("edge-1").filter(|s| s.applied_revision.is_some())
    })
    .await;
    assert_eq!(status.generation_error, None);

    // A change of the route reaches the proxy, and nothing else does.
    let changed = fixture.put(&ROUTE.replace("value: '0'", "value: '1'")).await;
    let response = delta.take().await;
    assert_eq!(response.type_url, Route.type_url());
    assert_eq!(response.resources.len(), 1);
    eventually("the change is acknowledged", || {
        fixture.status("edge-1").filter(|s| s.applied_revision >= Some(changed.revision))
    })
    .await;

    // An endpoint more.
    fixture.put(&ECHO.replace("echo-1", "echo-2").replace("19090", "19091")).await;
    let response = delta.take().await;
    assert_eq!(response.type_url, Endpoint.type_url());

    // Changes that do not concern the proxy are not even pushed as the same again.
    fixture.put("{type: Mesh, name: other}").await;
    let last = fixture.put(&ROUTE.replace("value: '0'", "value: '2'")).await;
    let response = delta.take().await;
    assert_eq!(response.type_url, Route.type_url());
    eventually("that is acknowledged too", || {
        fixture.status("edge-1").filter(|s| s.applied_revision >= Some(last.revision))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delta_reconnects_without_a_push() {
    let fixture = Fixture::start().await.with_gateway().await;
    let mut delta = delta_of_everything(&fixture).await;
    let holding = delta.take_all(&TYPES).await;
    eventually("all is acknowledged", || fixture.status("edge-1")?.applied_revision).await;
    let registered = fixture.dataplane("edge-1").unwrap();
    drop(delta);

    let versions = |t: ResourceType| DeltaDiscoveryRequest {
        initial_resource_versions: holding[&t].clone(),
        ..subscription(t, if matches!(t, Cluster | Listener) { &[] } else { &["*"] })
    };
    let mut delta = Delta::open(fixture.address, &proxy(), versions(Cluster)).await;
    for t in [Endpoint, Listener, Route, Runtime] {
        delta.send(versions(t)).await;
    }
    // Whatever else were to be said would be said before the answer about this name.
    delta.subscribe(Runtime, &["barrier"]).await;
    let response = delta.take().await;
    assert_eq!(
        (response.nonce.as_str(), &response.removed_resources[..]),
        ("1", &["barrier".to_owned()][..])
    );
    eventually("nothing is missing", || fixture.status("edge-1")?.applied_revision).await;
    assert_eq!(fixture.dataplane("edge-1").unwrap().revision, registered.revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn sotw_gets_everything_and_then_changes() {
    let fixture = Fixture::start().await.with_gateway().await;
    let mut sotw =
        Sotw::open(fixture.address, &proxy(), interest(Runtime, &["gateway.listeners"])).await;
    assert_eq!(sotw.take(&["gateway.listeners"]).await.type_url, Runtime.type_url());
    let mut versions = vec![];
    for (t, names) in [(Cluster, &[][..]), (Endpoint, &["*"]), (Listener, &[]), (Route, &["*"])] {
        sotw.send(interest(t, names)).await;
        let response = sotw.take(names).await;
        assert_eq!(response.type_url, t.type_url());
        assert!(!response.resources.is_empty());
        versions.push((t, names, response.version_info));
    }
    eventually("all is acknowledged", || fixture.status("edge-1")?.applied_revision).await;

    // Back with what it has, it hears nothing.
    drop(sotw);
    let (t, names, version) = &versions[0];
    let first = DiscoveryRequest { version_info: version.clone(), ..interest(*t, names) };
    let mut sotw = Sotw::open(fixture.address, &proxy(), first).await;
    for (t, names, version) in &versions[1..] {
        sotw.send(DiscoveryRequest { version_info: version.clone(), ..interest(*t, names) }).await;
    }
    sotw.send(interest(Runtime, &["gateway.listeners"])).await;
    let response = sotw.take(&["gateway.listeners"]).await;
    assert_eq!((response.nonce.as_str(), response.type_url.as_str()), ("1", Runtime.type_url()));

    fixture.put(&ROUTE.replace("value: '0'", "value: '1'")).await;
    let response = sotw.take(&["*"]).await;
    assert_eq!((response.nonce.as_str(), response.type_url.as_str()), ("2", Route.type_url()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_listeners_is_answered() {
    let fixture = Fixture::start().await;
    let mut delta = Delta::open(fixture.address, &proxy(), subscription(Cluster, &[])).await;
    assert_eq!(delta.take().await.resources, vec![]);
    delta.subscribe(Listener, &[]).await;
    assert_eq!(delta.take().await.resources, vec![]);
    drop(delta);
    let mut sotw = Sotw::open(fixture.address, &proxy(), interest(Cluster, &[])).await;
    assert_eq!(sotw.take(&[]).await.resources, vec![]);
    sotw.send(interest(Listener, &[])).await;
    assert_eq!(sotw.take(&[]).await.resources, vec![]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_gets_only_the_latest() {
    let fixture = Fixture::start().await.with_gateway().await;
    let mut delta = delta_of_everything(&fixture).await;
    delta.take_all(&TYPES).await;
    eventually("all is acknowledged", || fixture.status("edge-1")?.applied_revision).await;
    let mut last = 0;
    for i in 1..=30 {
        last = fixture.put(&ROUTE.replace("value: '0'", &format!("value: '{i}'"))).await.revision;
    }
    eventually("the changes are looked at", || {
        fixture.status("edge-1").filter(|s| s.considered_revision >= last)
    })
    .await;
    // One response that was on its way, and one with the rest.
    assert_eq!(delta.take().await.type_url, Route.type_url());
    eventually("the next one is made", || {
        let status = fixture.status("edge-1")?;
        (status.applied_revision >= Some(last)
            || status.types[&Route].sent != status.types[&Route].acked)
            .then_some(())
    })
    .await;
    if fixture.status("edge-1").unwrap().applied_revision < Some(last) {
        assert_eq!(delta.take().await.type_url, Route.type_url());
    }
    eventually("that was all", || {
        fixture.status("edge-1").filter(|s| s.applied_revision >= Some(last))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_is_shown() {
    let fixture = Fixture::start().await.with_gateway().await;
    let mut delta = Delta::open(fixture.address, &proxy(), subscription(Listener, &[])).await;
    let response = delta.next().await.unwrap();
    delta.nack(&response, "cannot bind").await;
    let status = eventually("the rejection is seen", || {
        let status = fixture.status("edge-1")?;
        status.types.get(&Listener)?.rejected.is_some().then_some(status)
    })
    .await;
    assert_eq!(status.applied_revision, None);
    let rejection = status.types[&Listener].rejected.as_ref().unwrap();
    assert_eq!(rejection.message, "cannot bind");
    assert_eq!(rejection.names.len(), response.resources.len());
    eventually("the rejection is counted", || {
        let insight = fixture.insight("edge-1")?;
        let status = insight.subscriptions.last()?.status?;
        (status.lds?.responses_rejected == 1 && status.total?.responses_rejected == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_stream_replaces_the_older_one() {
    let fixture = Fixture::start().await.with_gateway().await;
    let mut first = Delta::open(fixture.address, &proxy(), subscription(Cluster, &[])).await;
    first.take().await;
    let mut second = Sotw::open(fixture.address, &proxy(), interest(Cluster, &[])).await;
    second.take(&[]).await;
    let status = loop {
        match first.next().await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Aborted);
    assert_eq!(fixture.server.statuses().len(), 1);
    fixture.put(&ECHO.replace("echo", "other")).await;
    fixture.put(&ROUTE.replace("service: echo", "service: other")).await;
    assert_eq!(second.take(&[]).await.type_url, Cluster.type_url());
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_end_the_stream() {
    let fixture = Fixture::start().await.with_gateway().await;
    let mut delta = Delta::open(fixture.address, &proxy(), subscription(Cluster, &[])).await;
    delta.take().await;
    let mut other = proxy();
    other.id = "default.other".to_owned();
    delta
        .send(DeltaDiscoveryRequest { node: Some(other.node()), ..subscription(Listener, &[]) })
        .await;
    let status = delta.next().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(
        status.message(),
        "stream was authenticated for ID default.edge-1. Received request is for node with ID \
         default.other. Node ID cannot be changed after stream is initialized"
    );

    let mut delta = Delta::open(fixture.address, &proxy(), DeltaDiscoveryRequest::default()).await;
    assert_eq!(delta.next().await.unwrap_err().code(), Code::InvalidArgument);

    let mut other = proxy();
    other.id = "default.edge-2".to_owned();
    let mut delta = Delta::open(fixture.address, &other, subscription(Cluster, &[])).await;
    let status = delta.next().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("proxyId default.edge-2 does not match proxy resource"));
}

#[tokio::test(flavor = "multi_thread")]
async fn http_on_the_same_port() {
    let fixture = Fixture::start().await;
    sunbear_runtime::tls::install_crypto_provider();
    let client = reqwest::Client::new();
    let url = |path: &str| format!("http://localhost:{}{path}", fixture.address.port());
    let body = serde_json::json!({
        "mesh": "default",
        "name": "edge-1",
        "dataplaneToken": any_token(),
        "dataplaneResource": gateway("edge-1", "edge"),
    });
    let answer = client.post(url("/bootstrap")).body(body.to_string()).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    assert_eq!(answer.headers()["content-type"], "text/x-yaml");
    let answer = client.get(url("/")).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 404);
    assert_ne!(soon("a body", answer.text()).await.unwrap(), "404: Page Not Found");
    let unknown =
        client.post(url("/some.Service/Method")).header("content-type", "application/grpc");
    let answer = unknown.send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["grpc-status"]),
        (200, &"12".parse().unwrap())
    );
}
