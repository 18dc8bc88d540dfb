//! Dataplanes come with their proxies and go some time after them.

use std::time::Duration;

use sunbear_model::{Kind, ResourceKey};
use sunbear_xds::ResourceType::Cluster;
use tonic::Code;

use crate::{
    client::{Delta, Proxy, subscription},
    fixture::{Fixture, any_token, eventually, gateway},
};

fn direct(name: &str) -> Proxy {
    Proxy::direct(name, &gateway(name, "edge"), &any_token())
}

async fn open(fixture: &Fixture, proxy: &Proxy) -> Delta {
    let mut delta = Delta::open(fixture.address, proxy, subscription(Cluster, &[])).await;
    delta.take().await;
    delta
}

async fn gone(fixture: &Fixture, name: &str) {
    eventually("the Dataplane is gone", || fixture.dataplane(name).is_none().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_registered_and_deregistered() {
    let fixture =
        Fixture::with(|config| config.deregistration_delay = Duration::from_millis(100)).await;
    let delta = open(&fixture, &direct("edge-1")).await;
    let stored = fixture.dataplane("edge-1").unwrap();
    let gateway = stored.as_dataplane().unwrap().networking.as_ref().unwrap().gateway.clone();
    assert_eq!(gateway.unwrap().tags["kuma.io/zone"], "east");
    for (label, value) in [
        ("kuma.io/mesh", "default"),
        ("kuma.io/zone", "east"),
        ("kuma.io/origin", "zone"),
        ("kuma.io/env", "universal"),
        ("kuma.io/proxy-type", "gateway"),
    ] {
        assert_eq!(stored.label(label), Some(value), "{label}");
    }
    let history = fixture.world.store().history(&stored.key, 1).await.unwrap();
    assert_eq!(history[0].author, "dataplane/default.edge-1");
    eventually("the insight is there", || fixture.insight("edge-1")).await;

    drop(delta);
    gone(&fixture, "edge-1").await;
    eventually("the insight goes with it", || fixture.insight("edge-1").is_none().then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_comes_back_in_time_keeps_its_dataplane() {
    let fixture =
        Fixture::with(|config| config.deregistration_delay = Duration::from_millis(500)).await;
    let first = open(&fixture, &direct("edge-1")).await;
    let other = open(&fixture, &direct("edge-2")).await;
    let stored = fixture.dataplane("edge-1").unwrap();
    drop(first);
    eventually("the stream has ended", || fixture.status("edge-1").is_none().then_some(())).await;
    let _second = open(&fixture, &direct("edge-1")).await;
    // One that leaves later and is removed shows that the time of the first is over.
    drop(other);
    gone(&fixture, "edge-2").await;
    assert_eq!(fixture.dataplane("edge-1").unwrap().uid, stored.uid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataplane_that_the_user_made_stays() {
    let fixture =
        Fixture::with(|config| config.deregistration_delay = Duration::from_millis(50)).await;
    fixture.put(&gateway("edge-1", "edge")).await;
    let indirect = open(&fixture, &Proxy::indirect("edge-1", &any_token())).await;
    let other = open(&fixture, &direct("edge-2")).await;
    drop(indirect);
    eventually("the stream has ended", || fixture.status("edge-1").is_none().then_some(())).await;
    drop(other);
    gone(&fixture, "edge-2").await;
    assert!(fixture.dataplane("edge-1").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_leaves_dataplanes_to_the_next() {
    let fixture = Fixture::with(|config| config.deregistration_delay = Duration::ZERO).await;
    let mut delta = open(&fixture, &direct("edge-1")).await;
    let world = fixture.shut_down().await;
    assert_eq!(delta.next().await.unwrap_err().code(), Code::Unavailable);

    let next = Fixture::serve(world, |config| {
        config.instance_id = "cp-2".to_owned();
        config.deregistration_delay = Duration::ZERO;
    })
    .await;
    let insight = next.insight("edge-1").unwrap();
    assert!(insight.subscriptions[0].disconnect_time.is_some(), "the end was written");
    assert!(next.dataplane("edge-1").is_some());
    let delta = open(&next, &direct("edge-1")).await;
    drop(delta);
    gone(&next, "edge-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_at_another_instance_stays() {
    let here =
        Fixture::with(|config| config.deregistration_delay = Duration::from_millis(300)).await;
    let there = Fixture::serve(here.world.clone(), |config| {
        config.instance_id = "cp-2".to_owned();
    })
    .await;
    let first = open(&here, &direct("edge-1")).await;
    let other = open(&here, &direct("edge-2")).await;
    eventually("the first instance has told", || here.insight("edge-1")).await;
    let _second = open(&there, &direct("edge-1")).await;
    eventually("the second instance has told", || {
        (here.insight("edge-1")?.subscriptions.len() == 2).then_some(())
    })
    .await;
    drop(first);
    eventually("the stream has ended", || here.status("edge-1").is_none().then_some(())).await;
    drop(other);
    gone(&here, "edge-2").await;
    assert!(here.dataplane("edge-1").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_registered() {
    let fixture = Fixture::start().await;
    let refused = async |proxy: &Proxy| {
        let mut delta = Delta::open(fixture.address, proxy, subscription(Cluster, &[])).await;
        delta.next().await.unwrap_err()
    };
    // No mesh of this name yet. Its signing key is there, as it may come before.
    fixture
        .secret("later", "dataplane-token-signing-key-later-1", &crate::fixture::SIGNING_KEY)
        .await;
    let token = crate::fixture::token(&sunbear_security::token::DataplaneClaims::default());
    let resource = gateway("edge-1", "edge").replace("default", "later");
    let mut proxy = Proxy::direct("edge-1", &resource, &token);
    proxy.id = "later.edge-1".to_owned();
    let status = refused(&proxy).await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(
        status.message(),
        "could not register proxy passed in kuma-dp run: mesh of name later is not found"
    );
    assert!(fixture.get(&ResourceKey::new(Kind::DATAPLANE, "later", "edge-1")).is_none());

    let invalid = gateway("edge-1", "edge").replace("127.0.0.1", "0.0.0.0");
    let status = refused(&Proxy::direct("edge-1", &invalid, &any_token())).await;
    assert_eq!(status.code(), Code::InvalidArgument);

    fixture
        .put("{type: Mesh, name: default, constraints: {dataplaneProxy: {restrictions: [{tags: {kuma.io/service: edge}}]}}}")
        .await;
    let status = refused(&direct("edge-1")).await;
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("cannot be a member of mesh"), "{}", status.message());
}
