//! New meshes and new installations.

use std::sync::Arc;

use serde_json::{Value, json};
use sunbear_api::defaults::{CLUSTER_ID, DefaultsSettings, MeshDefaults, ensure_defaults};
use sunbear_model::{Kind, validation::Mode};
use sunbear_store::Change;
use time::OffsetDateTime;

use super::support::{Cp, change, global, standalone, zone};

fn settings(mode: Mode) -> DefaultsSettings {
    DefaultsSettings {
        mode,
        skip_mesh_creation: false,
        skip_hostname_generators: false,
        bootstrap_admin_token: true,
        clock: OffsetDateTime::now_utc,
    }
}

fn keys(cp: &Cp) -> Vec<String> {
    let snapshot = cp.world.snapshot();
    snapshot.iter().map(|r| format!("{}/{}/{}", r.key.kind, r.key.mesh, r.key.name)).collect()
}

async fn with_hook(mode: Mode) -> Cp {
    Cp::with(mode.clone(), |api| api.hooks = Arc::new(MeshDefaults { mode })).await
}

#[tokio::test]
async fn new_meshes() {
    let cp = with_hook(global()).await;
    let before = cp.world.snapshot().revision;
    let reply = cp.put("/meshes/m", &json!({"type": "Mesh", "name": "m"})).await;
    reply.is(201, &json!({}));
    let mut want = vec![
        "Mesh//default",
        "Mesh//m",
        "MeshCircuitBreaker/m/mesh-circuit-breaker-all-m",
        "MeshRetry/m/mesh-retry-all-m",
        "MeshTimeout/m/mesh-gateways-timeout-all-m",
        "MeshTimeout/m/mesh-timeout-all-m",
        "Secret/m/dataplane-token-signing-key-m-1",
    ];
    assert_eq!(keys(&cp), want);
    // All in one.
    assert_eq!(reply.revision(), before + 6);
    let retry = cp.get("/meshes/m/meshretries/mesh-retry-all-m").await.json();
    assert_eq!(retry["labels"], json!({"kuma.io/mesh": "m"}));
    // They belong to the mesh.
    cp.delete("/meshes/m").await.is(200, &json!({}));
    want.retain(|k| *k == "Mesh//default");
    assert_eq!(keys(&cp), want);
}

#[tokio::test]
async fn skipped_policies() {
    let cp = with_hook(global()).await;
    let mesh = |name: &str, skip: Value| json!({"type": "Mesh", "name": name, "skipCreatingInitialPolicies": skip});
    assert_eq!(cp.put("/meshes/none", &mesh("none", json!(["*"]))).await.status, 201);
    assert_eq!(
        cp.put("/meshes/some", &mesh("some", json!(["MeshTimeout", "MeshRetry"]))).await.status,
        201
    );
    assert_eq!(
        keys(&cp),
        [
            "Mesh//default",
            "Mesh//none",
            "Mesh//some",
            "MeshCircuitBreaker/some/mesh-circuit-breaker-all-some",
            "Secret/none/dataplane-token-signing-key-none-1",
            "Secret/some/dataplane-token-signing-key-some-1",
        ]
    );
}

#[tokio::test]
async fn what_is_there_stays() {
    let cp = with_hook(global()).await;
    let own = json!({"spec": {"targetRef": {"kind": "Mesh"}}});
    cp.commit(vec![change(Kind::MESH_RETRY, "m", "mesh-retry-all-m", &own)]).await;
    // Another policy comes into being just before ours.
    cp.store.rival.lock().unwrap().push(change(
        Kind::MESH_TIMEOUT,
        "m",
        "mesh-timeout-all-m",
        &own,
    ));
    let reply = cp.put("/meshes/m", &json!({"type": "Mesh", "name": "m"})).await;
    reply.is(201, &json!({}));
    for (kind, name) in
        [(Kind::MESH_RETRY, "mesh-retry-all-m"), (Kind::MESH_TIMEOUT, "mesh-timeout-all-m")]
    {
        assert_eq!(cp.stored(kind, "m", name).unwrap()["spec"], own["spec"]);
    }
}

#[tokio::test]
async fn new_installations() {
    let cp = Cp::empty(global(), |_| {}).await;
    let revision = ensure_defaults(&cp.world, &settings(global())).await.unwrap();
    let want = [
        "Config//kuma-cluster-id",
        "GlobalSecret//admin-user-token",
        "GlobalSecret//inter-cp-ca",
        "GlobalSecret//user-token-signing-key-1",
        "GlobalSecret//zone-token-signing-key-1",
        "HostnameGenerator//synced-headless-kube-mesh-service",
        "HostnameGenerator//synced-kube-mesh-service",
        "HostnameGenerator//synced-mesh-external-service",
        "HostnameGenerator//synced-mesh-multi-zone-service",
        "HostnameGenerator//synced-universal-mesh-service",
        "Mesh//default",
        "MeshCircuitBreaker/default/mesh-circuit-breaker-all-default",
        "MeshRetry/default/mesh-retry-all-default",
        "MeshTimeout/default/mesh-gateways-timeout-all-default",
        "MeshTimeout/default/mesh-timeout-all-default",
        "Secret/default/dataplane-token-signing-key-default-1",
    ];
    assert_eq!(keys(&cp), want);
    assert_eq!(cp.world.snapshot().revision, revision);
    let id = cp.stored(Kind::CONFIG, "", CLUSTER_ID).unwrap()["config"].clone();
    assert_eq!(cp.get("/").await.json()["clusterId"], id);
    assert_eq!(id.as_str().unwrap().len(), 36);

    // Again: nothing to do.
    assert_eq!(ensure_defaults(&cp.world, &settings(global())).await.unwrap(), revision);
    // What a user has deleted comes back with the next start, except for policies of a mesh that is there.
    cp.delete("/meshes/default/meshretries/mesh-retry-all-default").await.is(200, &json!({}));
    cp.delete("/globalsecrets/zone-token-signing-key-1").await.is(200, &json!({}));
    ensure_defaults(&cp.world, &settings(global())).await.unwrap();
    assert_eq!(
        keys(&cp),
        want.into_iter().filter(|k| !k.contains("mesh-retry")).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn modes_and_switches() {
    let cp = Cp::empty(zone("east"), |_| {}).await;
    ensure_defaults(&cp.world, &settings(zone("east"))).await.unwrap();
    assert_eq!(
        keys(&cp),
        [
            "GlobalSecret//admin-user-token",
            "GlobalSecret//envoy-admin-ca",
            "GlobalSecret//inter-cp-ca",
            "GlobalSecret//user-token-signing-key-1",
            "HostnameGenerator//local-mesh-external-service",
            "HostnameGenerator//local-universal-mesh-service",
        ]
    );
    let generator = cp.get("/hostnamegenerators/local-universal-mesh-service").await.json();
    assert_eq!(generator["labels"], json!({"kuma.io/origin": "zone"}));
    let selector = json!({"meshService": {"matchLabels": {"kuma.io/origin": "zone"}}});
    let spec = json!({"selector": selector, "template": "{{ .DisplayName }}.svc.mesh.local"});
    assert_eq!(generator["spec"], spec);

    let cp = Cp::empty(standalone(), |_| {}).await;
    let settings = DefaultsSettings {
        skip_mesh_creation: true,
        skip_hostname_generators: true,
        bootstrap_admin_token: false,
        ..settings(standalone())
    };
    ensure_defaults(&cp.world, &settings).await.unwrap();
    assert_eq!(
        keys(&cp),
        [
            "Config//kuma-cluster-id",
            "GlobalSecret//envoy-admin-ca",
            "GlobalSecret//inter-cp-ca",
            "GlobalSecret//user-token-signing-key-1",
            "GlobalSecret//zone-token-signing-key-1",
        ]
    );
}

#[tokio::test]
async fn several_replicas_at_once() {
    let cp = Cp::empty(global(), |_| {}).await;
    let rival: Change = change(Kind::CONFIG, "", CLUSTER_ID, &json!({"config": "theirs"}));
    cp.store.rival.lock().unwrap().push(rival);
    let settings = settings(global());
    let (a, b) =
        tokio::join!(ensure_defaults(&cp.world, &settings), ensure_defaults(&cp.world, &settings),);
    assert_eq!(a.unwrap(), b.unwrap());
    assert_eq!(cp.stored(Kind::CONFIG, "", CLUSTER_ID).unwrap()["config"], "theirs");
    assert_eq!(keys(&cp).len(), 16);
    // The administrator's token is by the key that has stayed.
    let body = json!({"name": "x", "validFor": "1h"});
    assert_eq!(cp.send(http::Method::POST, "/tokens/user", Some(&body)).await.status, 200);
}
