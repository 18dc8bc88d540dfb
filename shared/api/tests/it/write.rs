//! PUT and DELETE beyond the rules of modes.

use std::sync::atomic::Ordering;

use http::Method;
use serde_json::{Value, json};
use sunbear_model::{Kind, ResourceKey};
use sunbear_store::OwnerRef;

use super::support::{Cp, change, dataplane, global, route, standalone, timeout, zone};

const PROCESS: &str = "Could not process a resource";
const CREATE: &str = "Failed to create a resource";
const UPDATE: &str = "Failed to update a resource";
const DELETE: &str = "Could not delete a resource";

#[tokio::test]
async fn create_replace_delete() {
    let cp = Cp::new(global()).await;
    let path = "/meshes/default/meshgatewayroutes/r";
    let created = cp.put(path, &route("r")).await;
    created.is(201, &json!({}));
    assert_eq!(created.text, "{}\n");
    assert_eq!(created.revision(), cp.world.snapshot().revision);

    // Nothing changes, so nothing is written.
    let same = cp.put(path, &route("r")).await;
    same.is(200, &json!({}));
    assert_eq!(same.revision(), created.revision());

    let mut other = route("r");
    other["labels"] = json!({"team": "a"});
    let replaced = cp.put(path, &other).await;
    replaced.is(200, &json!({}));
    assert_eq!(replaced.revision(), created.revision() + 1);
    let stored = cp.get(path).await.json();
    assert_eq!(stored["labels"], json!({"kuma.io/mesh": "default", "team": "a"}));

    // Labels are replaced as a whole.
    cp.put(path, &route("r")).await.is(200, &json!({}));
    assert_eq!(cp.get(path).await.json()["labels"], json!({"kuma.io/mesh": "default"}));

    let deleted = cp.delete(path).await;
    deleted.is(200, &json!({}));
    assert_eq!(deleted.revision(), cp.world.snapshot().revision);
    cp.delete(path).await.is_problem(404, DELETE, "Not found", &[]);
    cp.get(path).await.is_problem(404, "Could not retrieve a resource", "Not found", &[]);
}

#[tokio::test]
async fn unknown_fields_are_named() {
    let cp = Cp::new(global()).await;
    let mut body = route("r");
    body["nonsense"] = 1.into();
    body["conf"]["http"]["hostname"] = "a".into();
    cp.put("/meshes/default/meshgatewayroutes/r", &body).await.is(
        201,
        &json!({"warnings": [
            "unknown field \"nonsense\" was ignored",
            "unknown field \"conf.http.hostname\" was ignored",
        ]}),
    );
    // Clients send back what they got.
    let stored = cp.get("/meshes/default/meshgatewayroutes/r").await.json();
    cp.put("/meshes/default/meshgatewayroutes/r", &stored).await.is(200, &json!({}));
}

#[tokio::test]
async fn names_that_are_no_labels_are_warned_about() {
    let cp = Cp::new(global()).await;
    let reply = cp.put("/meshes/a.b", &json!({"type": "Mesh", "name": "a.b"})).await;
    assert_eq!(reply.status, 201);
    let warning = reply.json()["warnings"][0].as_str().unwrap().to_owned();
    assert!(warning.starts_with("Invalid Mesh resource name: 'a.b'."), "{warning}");
}

#[tokio::test]
async fn violations_of_the_spec_hide_those_of_the_envelope() {
    let cp = Cp::new(global()).await;
    let mut body = route("other");
    body["selectors"] = json!([]);
    let reply = cp.put("/meshes/default/meshgatewayroutes/r", &body).await;
    reply.is_invalid(PROCESS, &[("selectors", "must have at least one element")]);
}

#[tokio::test]
async fn status_stays_through_updates() {
    let cp = Cp::new(global()).await;
    let body = json!({
        "type": "MeshMultiZoneService", "mesh": "default", "name": "s",
        "spec": {"selector": {"meshService": {"matchLabels": {"a": "b"}}}, "ports": [{"port": 80}]},
        "status": {"vips": [{"ip": "user"}]},
    });
    let path = "/meshes/default/meshmultizoneservices/s";
    assert_eq!(cp.put(path, &body).await.status, 201);
    assert_eq!(cp.get(path).await.json()["status"], json!({}));
}

#[tokio::test]
async fn dataplanes_of_a_zone() {
    let cp = Cp::new(zone("east")).await;
    let path = "/meshes/default/dataplanes/d";
    let mut body = dataplane("d");
    body["networking"]["inbound"][0]["serviceProbe"] = json!({"interval": "5s", "tcp": {}});
    assert_eq!(cp.put(path, &body).await.status, 201);
    let stored = cp.get(path).await.json();
    assert_eq!(
        stored["labels"],
        json!({
            "kuma.io/env": "universal", "kuma.io/mesh": "default", "kuma.io/origin": "zone",
            "kuma.io/proxy-type": "sidecar", "kuma.io/zone": "east",
        })
    );
    let inbound = &stored["networking"]["inbound"][0];
    assert_eq!(inbound["tags"], json!({"kuma.io/service": "d", "kuma.io/zone": "east"}));
    assert_eq!(inbound["state"], "NotReady");
    assert_eq!(inbound["health"], json!({}));
    // Only a new one waits for its probes.
    assert_eq!(cp.put(path, &body).await.status, 200);
    assert_eq!(cp.get(path).await.json()["networking"]["inbound"][0].get("state"), None);

    let mut body = dataplane("w");
    body["labels"] = json!({"kuma.io/workload": "1w"});
    let reply = cp.put("/meshes/default/dataplanes/w", &body).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["title"]), (400, &json!("Bad Request")));
    let detail = reply.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.starts_with("bad request: labels[\"kuma.io/workload\"]: must be a valid DNS-1035"),
        "{detail}"
    );
}

#[tokio::test]
async fn membership_of_meshes() {
    let cp = Cp::new(standalone()).await;
    let mesh = json!({
        "type": "Mesh", "name": "strict",
        "constraints": {"dataplaneProxy": {"restrictions": [{"tags": {"kuma.io/zone": "default"}}]}},
    });
    assert_eq!(cp.put("/meshes/strict", &mesh).await.status, 201);
    let mut body = dataplane("d");
    body["mesh"] = "strict".into();
    cp.put("/meshes/strict/dataplanes/d", &body).await.is_invalid(
        CREATE,
        &[(
            "",
            "dataplane cannot be a member of mesh \"strict\" because its tags \"kuma.io/service=d \
             kuma.io/zone=default\" matches restricted tags \"kuma.io/zone=default\" defined on the Mesh",
        )],
    );
}

#[tokio::test]
async fn meshes() {
    let cp = Cp::new(global()).await;
    let long = "a".repeat(64);
    cp.put(&format!("/meshes/{long}"), &json!({"type": "Mesh", "name": long}))
        .await
        .is_invalid(CREATE, &[("name", "cannot be longer than 63 characters")]);

    let mtls = |name: &str| {
        json!({
            "type": "Mesh", "name": "m",
            "mtls": {"enabledBackend": name, "backends": [{"name": name, "type": "builtin"}]},
        })
    };
    assert_eq!(cp.put("/meshes/m", &mtls("ca-1")).await.status, 201);
    cp.put("/meshes/m", &mtls("ca-2")).await.is_invalid(
        UPDATE,
        &[(
            "mtls.enabledBackend",
            "Changing CA when mTLS is enabled is forbidden. Disable mTLS first and then change the CA",
        )],
    );
    assert_eq!(cp.put("/meshes/m", &json!({"type": "Mesh", "name": "m"})).await.status, 200);
    assert_eq!(cp.put("/meshes/m", &mtls("ca-2")).await.status, 200);

    // Secrets of its certificate authority stay.
    let secret =
        json!({"type": "Secret", "mesh": "m", "name": "m.ca-builtin-key-ca-2", "data": "eA=="});
    let path = "/meshes/m/secrets/m.ca-builtin-key-ca-2";
    assert_eq!(cp.put(path, &secret).await.status, 201);
    cp.delete(path).await.is_invalid(
        DELETE,
        &[(
            "name",
            "The secret \"m.ca-builtin-key-ca-2\" that you are trying to remove is currently in use \
             in Mesh \"m\" in mTLS backend \"ca-2\". Please remove the reference from the \"ca-2\" \
             backend before removing the secret.",
        )],
    );
}

#[tokio::test]
async fn deleting_a_mesh_takes_all_with_it() {
    let cp = Cp::new(global()).await;
    cp.seed(Kind::ZONE, &json!({"name": "east"})).await;
    assert_eq!(cp.put("/meshes/default/meshgatewayroutes/r", &route("r")).await.status, 201);
    let secret = json!({"type": "Secret", "mesh": "default", "name": "s", "data": "eA=="});
    assert_eq!(cp.put("/meshes/default/secrets/s", &secret).await.status, 201);
    // From a zone: a policy, and a proxy that keeps the mesh.
    let zone = OwnerRef::Key(ResourceKey::new(Kind::ZONE, "", "east"));
    cp.seed_owned(
        Kind::MESH_TIMEOUT,
        &timeout("t", json!({"kuma.io/origin": "zone"})),
        zone.clone(),
    )
    .await;
    cp.seed_owned(Kind::DATAPLANE, &dataplane("d"), zone).await;
    cp.delete("/meshes/default").await.is_invalid(
        DELETE,
        &[("mesh", "unable to delete mesh, there are still some dataplanes attached")],
    );
    cp.commit(vec![sunbear_store::Change::delete(ResourceKey::new(
        Kind::DATAPLANE,
        "default",
        "d",
    ))])
    .await;
    cp.delete("/meshes/default").await.is(200, &json!({}));
    let left: Vec<_> = cp.world.snapshot().iter().map(|r| r.key.to_string()).collect();
    assert_eq!(left, ["type=\"Zone\" name=\"east\" mesh=\"\""]);
}

#[tokio::test]
async fn deleting_a_zone_takes_what_came_from_it() {
    let cp = Cp::new(global()).await;
    cp.seed(Kind::ZONE, &json!({"name": "east"})).await;
    let zone = OwnerRef::Key(ResourceKey::new(Kind::ZONE, "", "east"));
    cp.seed_owned(Kind::DATAPLANE, &dataplane("d"), zone.clone()).await;
    cp.seed_owned(Kind::ZONE_INSIGHT, &json!({"name": "east"}), zone).await;
    cp.delete("/zones/east").await.is(200, &json!({}));
    let left: Vec<_> = cp.world.snapshot().iter().map(|r| r.key.to_string()).collect();
    assert_eq!(left, ["type=\"Mesh\" name=\"default\" mesh=\"\""]);
}

fn labelled(value: &str) -> Value {
    json!({
        "type": "Zone", "name": "z", "labels": {"v": value},
    })
}

#[tokio::test]
async fn lost_updates() {
    let cp = Cp::new(global()).await;
    cp.put("/zones/z", &labelled("0")).await.is(201, &json!({}));
    let rival = |enabled: bool| change(Kind::ZONE, "", "z", &json!({"enabled": enabled}));
    // Somebody wrote a moment ago, perhaps through another replica: the last writer wins.
    cp.store.rival.lock().unwrap().push(rival(false));
    cp.put("/zones/z", &labelled("1")).await.is(200, &json!({}));
    assert_eq!(cp.stored(Kind::ZONE, "", "z").unwrap()["labels"], json!({"v": "1"}));
    // Somebody goes on writing: that is a race.
    cp.store.rival.lock().unwrap().extend([rival(true), rival(false)]);
    let conflict = "resource conflict: type=\"Zone\" name=\"z\" mesh=\"\"";
    cp.put("/zones/z", &labelled("2")).await.is_problem(409, "Conflict", conflict, &[]);
    cp.store.rival.lock().unwrap().extend([rival(true), rival(false)]);
    cp.delete("/zones/z").await.is_problem(409, "Conflict", conflict, &[]);

    // Created by somebody else at the same time: an update, then.
    cp.store.rival.lock().unwrap().push(change(Kind::ZONE, "", "new", &json!({})));
    let body = json!({"type": "Zone", "name": "new", "labels": {"v": "1"}});
    cp.put("/zones/new", &body).await.is(200, &json!({}));
}

#[tokio::test]
async fn without_a_database() {
    let cp = Cp::new(global()).await;
    cp.put("/zones/z", &labelled("0")).await.is(201, &json!({}));
    cp.store.down.store(true, Ordering::SeqCst);
    for (method, body) in [(Method::PUT, Some(labelled("1"))), (Method::DELETE, None)] {
        let reply = cp.send(method, "/zones/z", body.as_ref()).await;
        reply.is_problem(503, "Service unavailable", "database unavailable", &[]);
        assert_eq!(reply.header("retry-after"), "1");
    }
    // Reads go on.
    assert_eq!(cp.get("/zones/z").await.status, 200);
    assert_eq!(cp.get("/zones").await.json()["total"], 1);
    cp.store.down.store(false, Ordering::SeqCst);
    cp.put("/zones/z", &labelled("1")).await.is(200, &json!({}));
}
