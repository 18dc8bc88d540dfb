//! Certificate authorities of meshes.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use sunbear_api::defaults::MeshDefaults;
use sunbear_model::Kind;
use sunbear_security::ca::{self, Authority, BuiltinSettings};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::support::{Cp, global};

const CREATE: &str = "Failed to create a resource";
const UPDATE: &str = "Failed to update a resource";

async fn cp() -> Cp {
    Cp::with(global(), |api| api.hooks = Arc::new(MeshDefaults { mode: global() })).await
}

fn mesh(name: &str, mtls: Value) -> Value {
    json!({"type": "Mesh", "name": name, "skipCreatingInitialPolicies": ["*"], "mtls": mtls})
}

fn builtin(name: &str) -> Value {
    json!({"enabledBackend": name, "backends": [{"name": name, "type": "builtin"}]})
}

fn secret(cp: &Cp, mesh: &str, name: &str) -> Option<Vec<u8>> {
    let snapshot = cp.world.snapshot();
    snapshot.find(Kind::SECRET, mesh, name).map(|r| r.secret_data().unwrap().to_vec())
}

fn authority(cp: &Cp, mesh: &str, backend: &str) -> Authority {
    let part = |name: String| secret(cp, mesh, &name).unwrap();
    let cert = part(ca::builtin_cert_secret(mesh, backend));
    Authority::load(&cert, &part(ca::builtin_key_secret(mesh, backend))).unwrap()
}

#[tokio::test]
async fn builtin_authorities_come_with_the_mesh() {
    let cp = cp().await;
    let before = cp.world.snapshot().revision;
    let reply = cp.put("/meshes/m", &mesh("m", builtin("ca-1"))).await;
    reply.is(201, &json!({}));
    // The mesh, its signing key, two secrets: all in one.
    assert_eq!(reply.revision(), before + 4);
    let first = authority(&cp, "m", "ca-1");
    let end = OffsetDateTime::now_utc() + Duration::days(3_650);
    assert!((first.not_after() - end).abs() < Duration::minutes(5));
    let stored = cp.stored(Kind::SECRET, "m", "m.ca-builtin-cert-ca-1").unwrap();
    assert_eq!(stored.get("labels"), None);

    // An update changes nothing about it.
    cp.put("/meshes/m", &mesh("m", builtin("ca-1"))).await.is(200, &json!({}));
    assert_eq!(authority(&cp, "m", "ca-1").root_pem(), first.root_pem());
    // Another one needs mTLS to be off.
    let other = mesh("m", builtin("ca-2"));
    cp.put("/meshes/m", &other).await.is_invalid(
        UPDATE,
        &[(
            "mtls.enabledBackend",
            "Changing CA when mTLS is enabled is forbidden. Disable mTLS first and then change the CA",
        )],
    );
    assert_eq!(secret(&cp, "m", "m.ca-builtin-cert-ca-2"), None);
    cp.put("/meshes/m", &mesh("m", json!({"backends": []}))).await.is(200, &json!({}));
    cp.put("/meshes/m", &other).await.is(200, &json!({}));
    assert_ne!(authority(&cp, "m", "ca-2").root_pem(), first.root_pem());
    // The first one waits for its backend to come back.
    assert_eq!(authority(&cp, "m", "ca-1").root_pem(), first.root_pem());

    // It goes with the mesh.
    cp.delete("/meshes/m").await.is(200, &json!({}));
    assert_eq!(secret(&cp, "m", "m.ca-builtin-cert-ca-2"), None);
}

#[tokio::test]
async fn what_is_missing_is_made_on_update() {
    let cp = cp().await;
    cp.put("/meshes/m", &mesh("m", json!(null))).await.is(201, &json!({}));
    cp.put("/meshes/m", &mesh("m", builtin("ca"))).await.is(200, &json!({}));
    let first = authority(&cp, "m", "ca").root_pem().to_owned();
    let in_use = "The secret \"m.ca-builtin-key-ca\" that you are trying to remove is currently in use in Mesh \"m\" in mTLS backend \"ca\". Please remove the reference from the \"ca\" backend before removing the secret.";
    let path = "/meshes/m/secrets/m.ca-builtin-key-ca";
    cp.delete(path).await.is_invalid("Could not delete a resource", &[("name", in_use)]);
    // Half a pair is made anew.
    let key = sunbear_model::ResourceKey::new(Kind::SECRET, "m", "m.ca-builtin-key-ca");
    cp.commit(vec![sunbear_store::Change::delete(key)]).await;
    cp.put("/meshes/m", &mesh("m", builtin("ca"))).await.is(200, &json!({}));
    assert_ne!(authority(&cp, "m", "ca").root_pem(), first);
}

#[tokio::test]
async fn settings_of_builtin_authorities() {
    let cp = cp().await;
    let with = |ca: Value| {
        mesh("m", json!({"backends": [{"name": "ca", "type": "builtin", "conf": {"caCert": ca}}]}))
    };
    let at = "mtls.backends[0].conf.caCert";
    let refused = cp.put("/meshes/m", &with(json!({"RSAbits": 1024}))).await;
    let field = format!("{at}.RSAbits");
    refused.is_invalid(CREATE, &[(&field, "RSA keys have 2048, 3072 or 4096 bits, not 1024")]);
    let refused = cp.put("/meshes/m", &with(json!({"expiration": "soon"}))).await;
    refused.is_invalid(CREATE, &[(&format!("{at}.expiration"), "has to be a valid format")]);
    let good = with(json!({"RSAbits": 3072, "expiration": "10d"}));
    cp.put("/meshes/m", &good).await.is(201, &json!({}));
    let end = OffsetDateTime::now_utc() + Duration::days(10);
    assert!((authority(&cp, "m", "ca").not_after() - end).abs() < Duration::minutes(5));
}

#[tokio::test]
async fn provided_authorities() {
    let cp = cp().await;
    let now = OffsetDateTime::now_utc();
    let pair = ca::make_builtin("x", BuiltinSettings::default(), Uuid::from_u128(1), now).unwrap();
    let inline = |text: &str| json!({"inline": STANDARD.encode(text)});
    let provided = |cert: Value, key: Value| {
        let conf = json!({"cert": cert, "key": key});
        let backends = json!([{"name": "ca", "type": "provided", "conf": conf}]);
        mesh("m", json!({"enabledBackend": "ca", "backends": backends}))
    };
    let at = "mtls.backends[0].conf";
    let (cert_at, key_at) = (format!("{at}.cert"), format!("{at}.key"));
    let secret = |name: &str| json!({"secret": name});

    let missing = "could not load data: resource not found: type=\"Secret\" name=\"c\" mesh=\"m\"";
    cp.put("/meshes/m", &provided(secret("c"), secret("k")))
        .await
        .is_invalid(CREATE, &[(&cert_at, missing), (&key_at, missing)]);
    let body = provided(json!({"file": "/dev/zero"}), inline(&pair.key_pem));
    let why = "could not load data: open /dev/zero: not a file";
    cp.put("/meshes/m", &body).await.is_invalid(CREATE, &[(&cert_at, why), (&key_at, why)]);
    let body = provided(inline("x"), inline(&pair.key_pem));
    let why = "not a valid TLS key pair: tls: failed to find any PEM data in certificate input";
    cp.put("/meshes/m", &body).await.is_invalid(CREATE, &[(&cert_at, why)]);
    // Validation can be switched off.
    let mut unchecked = provided(secret("c"), secret("k"));
    unchecked["mtls"]["skipValidation"] = true.into();
    cp.put("/meshes/m", &unchecked).await.is(201, &json!({}));

    for (name, value) in [("c", &pair.cert_pem), ("k", &pair.key_pem)] {
        let body =
            json!({"type": "Secret", "mesh": "m", "name": name, "data": STANDARD.encode(value)});
        assert_eq!(cp.put(&format!("/meshes/m/secrets/{name}"), &body).await.status, 201);
    }
    cp.put("/meshes/m", &provided(secret("c"), secret("k"))).await.is(200, &json!({}));
    let text = json!({"inlineString": pair.cert_pem});
    cp.put("/meshes/m", &provided(text, secret("k"))).await.is(200, &json!({}));
    // The certificate is in no secret now, the key still is.
    assert_eq!(cp.delete("/meshes/m/secrets/c").await.status, 200);
    assert_eq!(cp.delete("/meshes/m/secrets/k").await.status, 400);

    let tags = std::collections::BTreeMap::new();
    let leaf = Authority::load(pair.cert_pem.as_bytes(), pair.key_pem.as_bytes())
        .unwrap()
        .issue(
            &ca::Workload {
                mesh: "x",
                tags: &tags,
                valid_for: ca::WORKLOAD_VALIDITY,
                key: ca::WorkloadKey::P256,
            },
            Uuid::from_u128(2),
            now,
        )
        .unwrap();
    let body = provided(inline(&leaf.chain_pem), inline(&leaf.key_pem));
    let reply = cp.put("/meshes/m", &body);
    let first = format!("{cert_at}[0]");
    reply.await.is_invalid(
        UPDATE,
        &[
            (&first, "basic constraint 'CA' must be set to 'true' (see X509-SVID: 4.1. Basic Constraints)"),
            (&first, "key usage extension 'keyCertSign' must be set (see X509-SVID: 4.3. Key Usage)"),
            (&first, "key usage extension 'keyAgreement' must NOT be set (see X509-SVID: Appendix A. X.509 Field Reference)"),
        ],
    );
}
