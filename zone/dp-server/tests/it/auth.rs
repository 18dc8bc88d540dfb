//! Who is let in, and who is shown out.

use std::collections::{BTreeMap, BTreeSet};

use sunbear_model::{Kind, ResourceKey};
use sunbear_security::token::DataplaneClaims;
use sunbear_xds::ResourceType::Cluster;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::{
    client::{Delta, Proxy, Sotw, interest, subscription},
    fixture::{Fixture, any_token, eventually, gateway, token, token_with_id},
};

fn tagged(service: &str) -> DataplaneClaims {
    let values: BTreeSet<String> = [service.to_owned()].into();
    DataplaneClaims {
        tags: BTreeMap::from([("kuma.io/service".to_owned(), values)]),
        ..DataplaneClaims::default()
    }
}

async fn outcome(fixture: &Fixture, proxy: &Proxy) -> Result<(), Status> {
    let mut delta = Delta::open(fixture.address, proxy, subscription(Cluster, &[])).await;
    let delta = delta.next().await.map(|_| ());
    let mut sotw = Sotw::open(fixture.address, proxy, interest(Cluster, &[])).await;
    let sotw = sotw.next().await.map(|_| ());
    // Without the time of the clock, which some messages end with.
    let told = |r: &Result<(), Status>| {
        let status = r.as_ref().err()?;
        let text = status.message().split(" clock says ").next().map(str::to_owned);
        Some((status.code(), text))
    };
    assert_eq!(told(&delta), told(&sotw), "both variants agree");
    delta
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens() {
    let fixture = Fixture::start().await;
    let named = |name: &str, mesh: &str| DataplaneClaims {
        name: name.to_owned(),
        mesh: mesh.to_owned(),
        ..DataplaneClaims::default()
    };
    let revoked = Uuid::new_v4();
    fixture.secret("default", "dataplane-token-revocations-default", &revoked.to_string()).await;
    let hour = time::Duration::HOUR;
    for (token, code, text) in [
        (token(&named("other", "default")), Code::PermissionDenied, "proxy name from requestor"),
        (token(&named("edge-1", "other")), Code::PermissionDenied, "proxy mesh from requestor"),
        (token(&tagged("other")), Code::PermissionDenied, "dataplane contains tag"),
        (
            token_with_id(&named("", ""), Uuid::new_v4(), -hour),
            Code::Unauthenticated,
            "could not parse token: token is expired",
        ),
        (token_with_id(&named("", ""), revoked, hour), Code::Unauthenticated, "token is revoked"),
        (
            "eyJhbGciOiJSUzI1NiJ9.e30.".to_owned(),
            Code::Unauthenticated,
            "JWT token must have kid header",
        ),
        ("nonsense".to_owned(), Code::Unauthenticated, "could not parse token"),
    ] {
        let proxy = Proxy::direct("edge-1", &gateway("edge-1", "edge"), &token);
        let status = outcome(&fixture, &proxy).await.unwrap_err();
        assert_eq!(status.code(), code, "{text}");
        let message = status.message().strip_prefix("authentication failed: ").unwrap();
        assert!(message.starts_with(text), "{message}");
    }
    let mut proxy = Proxy::direct("edge-1", &gateway("edge-1", "edge"), "");
    proxy.token = None;
    assert_eq!(outcome(&fixture, &proxy).await.unwrap_err().code(), Code::Unauthenticated);
    assert!(fixture.dataplane("edge-1").is_none(), "nothing was registered");
    assert!(fixture.server.statuses().is_empty());

    for claims in [named("edge-1", "default"), tagged("edge")] {
        let proxy = Proxy::direct("edge-1", &gateway("edge-1", "edge"), &token(&claims));
        outcome(&fixture, &proxy).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_token_is_for_zone_proxies() {
    use sunbear_security::token::{SigningKey, ZoneClaims, issue};

    let fixture = Fixture::start().await;
    let key = crate::fixture::SIGNING_KEY.as_str();
    let other = sunbear_security::signing_key::generate().unwrap();
    fixture.secret("", "zone-token-signing-key-1", &other).await;
    let claims = ZoneClaims { zone: "east".to_owned(), scope: vec!["egress".to_owned()] };
    let zone_token = |key: &str| {
        let key = SigningKey { kid: "1", key: key.as_bytes() };
        let now = time::OffsetDateTime::now_utc();
        issue(&claims, key, Uuid::new_v4(), now, time::Duration::HOUR).unwrap()
    };
    let dataplane = Proxy::direct("edge-1", &gateway("edge-1", "edge"), &zone_token(&other));
    let status = outcome(&fixture, &dataplane).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);

    let egress = |token: &str, proxy_type: &str, kind: &str| {
        let resource =
            format!("{{type: {kind}, name: zp, networking: {{address: 10.0.0.9, port: 1}}}}");
        let mut proxy = Proxy::direct("zp", &resource, token);
        proxy.id = ".zp".to_owned();
        proxy.metadata.insert("dataplane.proxyType".to_owned(), proxy_type.to_owned());
        proxy
    };
    let proxy = egress(&zone_token(key), "egress", "ZoneEgress");
    assert_eq!(outcome(&fixture, &proxy).await.unwrap_err().code(), Code::Unauthenticated);
    let proxy = egress(&zone_token(&other), "ingress", "ZoneIngress");
    assert_eq!(outcome(&fixture, &proxy).await.unwrap_err().code(), Code::PermissionDenied);

    let proxy = egress(&zone_token(&other), "egress", "ZoneEgress");
    let _stream = Delta::open(fixture.address, &proxy, subscription(Cluster, &[])).await;
    let key = ResourceKey::new(Kind::ZONE_EGRESS, "", "zp");
    let stored = eventually("the egress is registered", || fixture.get(&key)).await;
    assert_eq!(stored.label("kuma.io/proxy-type"), Some("zoneegress"));
    let key = ResourceKey::new(Kind::ZONE_EGRESS_INSIGHT, "", "zp");
    eventually("its insight is written", || fixture.get(&key)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_stream_ends_when_its_token_is_revoked() {
    let fixture = Fixture::start().await;
    let id = Uuid::new_v4();
    let claims = DataplaneClaims::default();
    let own = token_with_id(&claims, id, time::Duration::HOUR);
    let proxy = Proxy::direct("edge-1", &gateway("edge-1", "edge"), &own);
    let other = Proxy::direct("edge-2", &gateway("edge-2", "edge"), &any_token());
    let mut delta = Delta::open(fixture.address, &proxy, subscription(Cluster, &[])).await;
    delta.take().await;
    let mut bystander = Delta::open(fixture.address, &other, subscription(Cluster, &[])).await;
    bystander.take().await;

    fixture.secret("", "dataplane-token-revocations-default", &format!("x,{id}")).await;
    let status = delta.next().await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(status.message(), "authentication failed: token is revoked");
    bystander.subscribe(sunbear_xds::ResourceType::Listener, &[]).await;
    bystander.take().await;

    // So it does when its signing key goes.
    let key = "dataplane-token-signing-key-default-1";
    fixture.delete(ResourceKey::new(Kind::SECRET, "default", key)).await;
    let status = bystander.next().await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_stream_ends_with_its_token() {
    let fixture = Fixture::start().await;
    let own =
        token_with_id(&DataplaneClaims::default(), Uuid::new_v4(), time::Duration::seconds(3));
    let proxy = Proxy::direct("edge-1", &gateway("edge-1", "edge"), &own);
    let mut delta = Delta::open(fixture.address, &proxy, subscription(Cluster, &[])).await;
    delta.take().await;
    let status = delta.next().await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("token is expired"), "{}", status.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_replaces_a_proxy_that_is_not_his() {
    let fixture = Fixture::start().await;
    fixture.put(&gateway("edge-1", "edge")).await;
    let thief = Proxy::direct("edge-1", &gateway("edge-1", "evil"), &token(&tagged("evil")));
    let status = outcome(&fixture, &thief).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("you are trying to override existing proxy"));
    let stored = fixture.dataplane("edge-1").unwrap();
    assert_eq!(stored.version, 1);
    // The indirect flow is checked against what is stored.
    let status = outcome(&fixture, &Proxy::indirect("edge-1", &token(&tagged("evil")))).await;
    assert_eq!(status.unwrap_err().code(), Code::PermissionDenied);
    outcome(&fixture, &Proxy::indirect("edge-1", &token(&tagged("edge")))).await.unwrap();
    let status = outcome(&fixture, &Proxy::indirect("absent", &any_token())).await.unwrap_err();
    assert_eq!(
        status.message(),
        "authentication failed: resource \"default.absent\" not found; create a Dataplane in Kuma \
         CP first or pass it as an argument to kuma-dp"
    );
}
