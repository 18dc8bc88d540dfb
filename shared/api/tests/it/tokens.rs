//! Issuing tokens.

use http::Method;
use serde_json::{Value, json};
use sunbear_api::{
    Issuers,
    defaults::{DefaultsSettings, ensure_defaults},
};
use sunbear_model::Kind;
use sunbear_security::{
    signing_key,
    token::{self, DataplaneClaims, Revocations, UserClaims, Verified, ZoneClaims},
};
use time::{Duration, OffsetDateTime};

use super::support::{Cp, Reply, global, remote, zone};

const INVALID: &str = "Invalid request";

async fn with_keys() -> Cp {
    let cp = Cp::empty(global(), |_| {}).await;
    let settings = DefaultsSettings {
        mode: global(),
        skip_mesh_creation: false,
        skip_hostname_generators: false,
        bootstrap_admin_token: false,
        clock: OffsetDateTime::now_utc,
    };
    ensure_defaults(&cp.world, &settings).await.unwrap();
    cp
}

async fn post(cp: &Cp, kind: &str, body: &Value) -> Reply {
    cp.send(Method::POST, &format!("/tokens/{kind}"), Some(body)).await
}

fn key(cp: &Cp, kind: Kind, mesh: &str, name: &str) -> Vec<u8> {
    cp.world.snapshot().find(kind, mesh, name).unwrap().secret_data().unwrap().to_vec()
}

#[tokio::test]
async fn tokens_say_what_was_asked() {
    let cp = with_keys().await;
    let now = OffsetDateTime::now_utc();
    let none = Revocations::none();

    let body = json!({
        "name": "edge-1", "mesh": "default", "type": "ingress", "workload": "w",
        "tags": {"kuma.io/service": ["b", "a"], "empty": null}, "validFor": "720h",
    });
    let reply = post(&cp, "dataplane", &body).await;
    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "text/plain"));
    let signing = key(&cp, Kind::SECRET, "default", "dataplane-token-signing-key-default-1");
    let Verified { claims, valid_until, .. } =
        token::verify::<DataplaneClaims>(&reply.text, &signing, &none, now).unwrap();
    assert_eq!(
        serde_json::to_value(&claims).unwrap(),
        json!({
            "Name": "edge-1", "Mesh": "default", "Type": "ingress", "Workload": "w",
            "Tags": {"kuma.io/service": ["a", "b"], "empty": []},
        })
    );
    let left = valid_until.unwrap() - now;
    assert!((left - Duration::hours(720)).abs() < Duration::minutes(5), "{left}");

    let body = json!({"zone": "east", "scope": ["ingress", "egress", "cp"]});
    let reply = post(&cp, "zone", &body).await;
    let signing = key(&cp, Kind::GLOBAL_SECRET, "", "zone-token-signing-key-1");
    let verified = token::verify::<ZoneClaims>(&reply.text, &signing, &none, now).unwrap();
    assert_eq!((verified.claims.zone.as_str(), verified.claims.scope.len()), ("east", 3));
    let left = verified.valid_until.unwrap() - now;
    assert!((left - Duration::days(3650)).abs() < Duration::minutes(5), "{left}");

    let body = json!({"name": "john", "groups": null, "validFor": "1h30m"});
    let reply = post(&cp, "user", &body).await;
    let signing = key(&cp, Kind::GLOBAL_SECRET, "", "user-token-signing-key-1");
    let verified = token::verify::<UserClaims>(&reply.text, &signing, &none, now).unwrap();
    assert_eq!(verified.claims.name, "john");
}

#[tokio::test]
async fn the_newest_key_signs() {
    let cp = with_keys().await;
    for serial in [2, 10, 9] {
        let name = format!("zone-token-signing-key-{serial}");
        use base64::Engine as _;
        let data =
            base64::engine::general_purpose::STANDARD.encode(signing_key::generate().unwrap());
        let body = json!({"type": "GlobalSecret", "name": name, "data": data});
        assert_eq!(cp.put(&format!("/globalsecrets/{name}"), &body).await.status, 201);
    }
    let reply = post(&cp, "zone", &json!({"zone": "east", "scope": []})).await;
    assert_eq!(token::kid_of(&reply.text).unwrap(), "10");
}

#[tokio::test]
async fn bad_requests() {
    let cp = with_keys().await;
    for (kind, body, parameters) in [
        ("dataplane", json!({}), &[("mesh", "cannot be empty")][..]),
        (
            "dataplane",
            json!({"validFor": "x", "type": "y"}),
            &[
                ("mesh", "cannot be empty"),
                ("validFor", "is invalid: time: invalid duration \"x\""),
                ("type", "y is not a valid proxy type"),
            ],
        ),
        ("zone", json!({}), &[("zone", "cannot be empty"), ("scope", "cannot be empty")]),
        (
            "zone",
            json!({"zone": "east", "scope": [], "validFor": "-1h"}),
            &[("validFor", "is invalid: must not be negative")],
        ),
        ("user", json!({}), &[("name", "cannot be empty"), ("validFor", "cannot be empty")]),
        ("user", json!({"name": "x", "validFor": "0s"}), &[("validFor", "cannot be empty or nil")]),
        (
            "user",
            json!({"name": "x", "validFor": "99999999999999h"}),
            &[("validFor", "is invalid: time: invalid duration \"99999999999999h\"")],
        ),
    ] {
        post(&cp, kind, &body).await.is_invalid(INVALID, parameters);
    }
    for body in [json!("x"), json!([]), json!({"name": 1}), json!({"scope": "ingress"})] {
        for kind in ["dataplane", "zone", "user"] {
            let reply = post(&cp, kind, &body).await;
            assert_eq!(reply.status, 400);
            if body == json!("x") {
                assert_eq!(reply.text, "");
            }
        }
    }
}

#[tokio::test]
async fn keys_that_are_missing() {
    let cp = Cp::new(zone("east")).await;
    let title = "Signing Key not found";
    post(&cp, "zone", &json!({"zone": "east", "scope": []})).await.is_problem(
        404,
        title,
        "there is no signing key with KID 1. GlobalSecret of name \"zone-token-signing-key-1\" is not \
         found. If signing key was rotated, regenerate the token",
        &[],
    );
    post(&cp, "dataplane", &json!({"mesh": "absent"})).await.is_problem(
        404,
        title,
        "there is no signing key with KID 1. Secret of name \"dataplane-token-signing-key-absent-1\" \
         in mesh \"absent\" is not found. If signing key was rotated, regenerate the token",
        &[],
    );
}

#[tokio::test]
async fn only_for_administrators() {
    let cp = with_keys().await;
    let nobody = "user \"mesh-system:anonymous/mesh-system:unauthenticated\" cannot access";
    for (kind, body, detail) in [
        ("dataplane", json!({"mesh": "default"}), format!("{nobody} generate dataplane token")),
        (
            "zone",
            json!({"zone": "east", "scope": []}),
            format!("{nobody} generate zone token for zone 'east'"),
        ),
        ("user", json!({"name": "x", "validFor": "1h"}), "action not allowed".to_owned()),
    ] {
        let request = remote(Method::POST, &format!("/tokens/{kind}"), Some(&body));
        cp.request(request).await.is_problem(403, "Access Denied", &detail, &[]);
    }
}

#[tokio::test]
async fn issuers_that_are_off() {
    let off = Issuers { dataplane: false, zone: false, user: false };
    let cp = Cp::with(global(), |api| api.issuers = off).await;
    for (kind, body) in [
        ("dataplane", json!({"mesh": "default"})),
        ("zone", json!({"zone": "east", "scope": []})),
        ("user", json!({"name": "x", "validFor": "1h"})),
    ] {
        let detail = "issuing tokens using the control plane is disabled.";
        post(&cp, kind, &body).await.is_problem(400, "Could not issue a token", detail, &[]);
    }
}
