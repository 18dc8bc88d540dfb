//! Who may write what where: each row of `spec/kds.md` 7.1, with exact bodies.

use serde_json::json;
use sunbear_model::{Kind, validation::Mode};

use super::support::{Cp, change, dataplane, global, route, standalone, timeout, zone};

const GLOBAL_TEXT: &str = "On global control plane you can not modify dataplane resources with 'kumactl apply' or via the HTTP API. You can still use 'kumactl' or the HTTP API to modify them on the zone control plane.\n";
const ZONE_TEXT: &str = "On zone control plane you can only modify zone resources with 'kumactl apply' or via the HTTP API. You can still use 'kumactl' or the HTTP API to modify the rest of the resource on the global control plane.\n";
const NOT_ALLOWED: &str = "Method not allowed";
const PROCESS: &str = "Could not process a resource";
const UPDATE: &str = "Could not update a resource";
const DELETE: &str = "Could not delete a resource";
const ORIGIN: &str = "labels[\"kuma.io/origin\"]";

#[tokio::test]
async fn row_1_not_writable_on_a_global() {
    let cp = Cp::new(global()).await;
    for (path, body) in [
        ("/meshes/default/dataplanes/d", dataplane("d")),
        ("/meshes/default/meshservices/s", json!({})),
        ("/zoneingresses/i", json!({})),
        ("/zone-ingresses/i", json!({})),
        ("/meshes/default/dataplane-insights/d", json!({})),
        // Before the mesh is looked for and the body is read.
        ("/meshes/absent/dataplanes/d", json!("nonsense")),
    ] {
        cp.put(path, &body).await.is_problem(405, NOT_ALLOWED, GLOBAL_TEXT, &[]);
        cp.delete(path).await.is_problem(405, NOT_ALLOWED, GLOBAL_TEXT, &[]);
    }
}

#[tokio::test]
async fn row_2_not_writable_on_a_federated_zone() {
    let cp = Cp::new(zone("east")).await;
    for (path, body) in [
        ("/meshes/default/meshgatewayroutes/r", route("r")),
        ("/meshes/new", json!({"type": "Mesh", "name": "new"})),
        ("/meshes/default/traffic-permissions/p", json!({})),
        ("/zone-insights/east", json!({})),
    ] {
        cp.put(path, &body).await.is_problem(405, NOT_ALLOWED, ZONE_TEXT, &[]);
        cp.delete(path).await.is_problem(405, NOT_ALLOWED, ZONE_TEXT, &[]);
    }
    assert_eq!(cp.put("/meshes/default/dataplanes/d", &dataplane("d")).await.status, 201);
    let zone = json!({"type": "Zone", "name": "east"});
    assert_eq!(cp.put("/zones/east", &zone).await.status, 201);
}

#[tokio::test]
async fn row_3_read_only() {
    for (mode, text) in
        [(global(), GLOBAL_TEXT), (zone("east"), ZONE_TEXT), (standalone(), ZONE_TEXT)]
    {
        let cp = Cp::with(mode, |api| api.read_only = true).await;
        let path = "/meshes/default/meshgatewayroutes/r";
        cp.put(path, &route("r")).await.is_problem(405, NOT_ALLOWED, text, &[]);
        cp.delete(path).await.is_problem(405, NOT_ALLOWED, text, &[]);
        assert_eq!(cp.get("/meshes/default").await.status, 200);
    }
}

#[tokio::test]
async fn row_4_unknown_origin() {
    let path = "/meshes/default/meshtimeouts/t";
    let body = timeout("t", json!({"kuma.io/origin": "moon"}));
    let unknown = (ORIGIN, "unknown resource origin \"moon\"");
    let cp = Cp::new(standalone()).await;
    cp.put(path, &body).await.is_invalid(PROCESS, &[unknown]);
    let cp = Cp::new(global()).await;
    let other = (ORIGIN, "the origin label must be set to 'global'");
    cp.put(path, &body).await.is_invalid(PROCESS, &[unknown, other]);
}

#[tokio::test]
async fn row_5_origin_on_a_global() {
    let cp = Cp::new(global()).await;
    let path = "/meshes/default/meshtimeouts/t";
    let text = "the origin label must be set to 'global'";
    let from_zone = timeout("t", json!({"kuma.io/origin": "zone"}));
    cp.put(path, &from_zone).await.is_invalid(PROCESS, &[(ORIGIN, text)]);
    let here = timeout("t", json!({"kuma.io/origin": "global"}));
    assert_eq!(cp.put(path, &here).await.status, 201);

    let mut synced = from_zone;
    synced["name"] = "s".into();
    cp.seed(Kind::MESH_TIMEOUT, &synced).await;
    cp.delete("/meshes/default/meshtimeouts/s")
        .await
        .is_invalid(DELETE, &[("[\"kuma.io/origin\"]", text)]);
}

#[tokio::test]
async fn row_6_origin_on_a_federated_zone() {
    let cp = Cp::new(zone("east")).await;
    let path = "/meshes/default/meshtimeouts/t";
    let text = "the origin label must be set to 'zone'";
    cp.put(path, &timeout("t", json!({}))).await.is_invalid(PROCESS, &[(ORIGIN, text)]);
    let global = timeout("t", json!({"kuma.io/origin": "global"}));
    cp.put(path, &global).await.is_invalid(PROCESS, &[(ORIGIN, text)]);
    let here = timeout("t", json!({"kuma.io/origin": "zone"}));
    assert_eq!(cp.put(path, &here).await.status, 201);
    assert_eq!(cp.delete(path).await.status, 200);

    let mut synced = global;
    synced["name"] = "s".into();
    cp.seed(Kind::MESH_TIMEOUT, &synced).await;
    let refused = [("[\"kuma.io/origin\"]", text)];
    cp.delete("/meshes/default/meshtimeouts/s").await.is_invalid(DELETE, &refused);
    // Kuma deletes a synced secret, and nothing brings it back.
    let secret = json!({"name": "k", "mesh": "default", "labels": {"kuma.io/origin": "global"}, "data": "eA=="});
    cp.seed(Kind::SECRET, &secret).await;
    cp.delete("/meshes/default/secrets/k").await.is_invalid(DELETE, &refused);
    // Nor would anything bring back what was written over.
    let over = json!({"type": "Secret", "mesh": "default", "name": "k", "data": "eQ=="});
    cp.put("/meshes/default/secrets/k", &over).await.is_invalid(PROCESS, &[(ORIGIN, text)]);
    // Types that are no policies may come without the label.
    let own = json!({"type": "Secret", "mesh": "default", "name": "own", "data": "eA=="});
    assert_eq!(cp.put("/meshes/default/secrets/own", &own).await.status, 201);

    let off = Mode::FederatedZone { zone: "east".into(), disable_origin_label_validation: true };
    let cp = Cp::new(off).await;
    assert_eq!(cp.put(path, &timeout("t", json!({}))).await.status, 201);
}

#[tokio::test]
async fn rows_7_and_8_other_zones_and_meshes() {
    for mode in [zone("default"), standalone()] {
        let cp = Cp::new(mode).await;
        let mut body = dataplane("d");
        body["labels"] = json!({"kuma.io/zone": "west", "kuma.io/mesh": "other"});
        cp.put("/meshes/default/dataplanes/d", &body).await.is_invalid(
            PROCESS,
            &[
                ("labels[\"kuma.io/zone\"]", "kuma.io/zone label should have default value"),
                (
                    "labels[\"kuma.io/mesh\"]",
                    "kuma.io/mesh label must not differ from mesh set on resource",
                ),
            ],
        );
    }
}

#[tokio::test]
async fn row_9_long_names_on_a_federated_zone() {
    let name = "a".repeat(248);
    let path = format!("/meshes/default/dataplanes/{name}");
    let cp = Cp::new(zone("east")).await;
    let text = "the length of the name must be shorter";
    cp.put(&path, &dataplane(&name)).await.is_invalid(PROCESS, &[("name", text)]);
    let cp = Cp::new(standalone()).await;
    assert_eq!(cp.put(&path, &dataplane(&name)).await.status, 201);
}

#[tokio::test]
async fn row_10_immutable_labels() {
    let cp = Cp::new(global()).await;
    let mut synced = route("r");
    synced["labels"] =
        json!({"kuma.io/origin": "zone", "kuma.io/zone": "east", "kuma.io/display-name": "x"});
    cp.seed(Kind::MESH_GATEWAY_ROUTE, &synced).await;
    let path = "/meshes/default/meshgatewayroutes/r";
    cp.put(path, &route("r")).await.is_invalid(
        UPDATE,
        &[
            (ORIGIN, "is immutable, cannot be removed (was \"zone\")"),
            ("labels[\"kuma.io/zone\"]", "is immutable, cannot be removed (was \"east\")"),
            ("labels[\"kuma.io/display-name\"]", "is immutable, cannot be removed (was \"x\")"),
        ],
    );

    let cp = Cp::new(standalone()).await;
    let path = "/meshes/default/dataplanes/d";
    assert_eq!(cp.put(path, &dataplane("d")).await.status, 201);
    // Computed labels may be left out again.
    assert_eq!(cp.put(path, &dataplane("d")).await.status, 200);
    let mut body = dataplane("d");
    body["labels"] = json!({"kuma.io/origin": "global"});
    cp.put(path, &body).await.is_invalid(
        UPDATE,
        &[
            (ORIGIN, "is immutable, cannot be changed from \"zone\" to \"global\""),
            ("labels[\"kuma.io/zone\"]", "is immutable, cannot be removed (was \"default\")"),
        ],
    );
}

#[tokio::test]
async fn row_11_missing_meshes() {
    let cp = Cp::new(global()).await;
    let mut body = route("r");
    body["mesh"] = "absent".into();
    let path = "/meshes/absent/meshgatewayroutes/r";
    for reply in [cp.put(path, &body).await, cp.get(path).await, cp.delete(path).await] {
        reply.is_problem(404, "Failed to retrieve Mesh", "Not found", &[]);
    }
    // The mesh goes between the check and the write.
    let gone =
        sunbear_store::Change::delete(sunbear_model::ResourceKey::new(Kind::MESH, "", "default"));
    cp.store.rival.lock().unwrap().push(gone);
    let reply = cp.put("/meshes/default/meshgatewayroutes/r", &route("r")).await;
    // It depends on whether the news has arrived when the write is decided for the second time.
    if reply.status == 404 {
        reply.is_problem(404, "Failed to retrieve Mesh", "Not found", &[]);
    } else {
        let parameters = [("mesh", "mesh of name default is not found")];
        reply.is_problem(400, "Failed to create a resource", "Mesh is not found", &parameters);
    }
}

#[tokio::test]
async fn row_12_zones_that_are_online() {
    let insight = |subscription| json!({"name": "east", "subscriptions": [subscription]});
    let online = insight(json!({"id": "1", "connectTime": "2030-01-01T00:00:00Z"}));
    let offline = insight(json!({
        "id": "1", "connectTime": "2030-01-01T00:00:00Z", "disconnectTime": "2030-01-01T00:00:01Z",
    }));
    let cp = Cp::new(global()).await;
    let zone = json!({"type": "Zone", "name": "east", "enabled": true});
    assert_eq!(cp.put("/zones/east", &zone).await.status, 201);
    cp.commit(vec![change(Kind::ZONE_INSIGHT, "", "east", &online)]).await;
    cp.delete("/zones/east").await.is_invalid(
        DELETE,
        &[("zone", "unable to delete Zone, Zone CP is still connected, please shut it down first")],
    );
    cp.commit(vec![change(Kind::ZONE_INSIGHT, "", "east", &offline)]).await;
    cp.delete("/zones/east").await.is(200, &json!({}));

    let cp = Cp::with(global(), |api| api.unsafe_delete = true).await;
    assert_eq!(cp.put("/zones/east", &zone).await.status, 201);
    cp.commit(vec![change(Kind::ZONE_INSIGHT, "", "east", &online)]).await;
    cp.delete("/zones/east").await.is(200, &json!({}));
}
