//! What goes with what, what may go at all, and what is left (`spec/resources.md` 12).

use serde_json::{Value, json};
use sunbear_model::{Kind, ResourceKey, Scope};
use sunbear_store::{Change, Operation, OwnerRef};

use super::support::{Cp, change, dataplane, global, zone};

const DELETE: &str = "Could not delete a resource";

fn left(cp: &Cp) -> Vec<String> {
    let snapshot = cp.world.snapshot();
    snapshot.iter().map(|r| format!("{}/{}/{}", r.key.kind, r.key.mesh, r.key.name)).collect()
}

/// One of every type of mesh scope, some of which belong to nobody or to a zone: all go with the
/// mesh, those of another mesh stay.
#[tokio::test]
async fn a_mesh_leaves_no_orphan() {
    let cp = Cp::new(global()).await;
    cp.seed(Kind::MESH, &json!({"name": "m"})).await;
    cp.seed(Kind::ZONE, &json!({"name": "east"})).await;
    let key = |kind, name| ResourceKey::new(kind, "", name);
    let owners = [
        OwnerRef::None,
        OwnerRef::Key(key(Kind::MESH, "m")),
        OwnerRef::Key(key(Kind::ZONE, "east")),
    ];
    let kinds: Vec<Kind> = Kind::all().filter(|kind| kind.is_mesh_scoped()).collect();
    assert!(kinds.len() > 40);
    for (kind, owner) in kinds.iter().flat_map(|kind| owners.iter().map(move |o| (kind, o))) {
        // Dataplanes keep their mesh.
        if *kind == Kind::DATAPLANE {
            continue;
        }
        let name = match owner {
            OwnerRef::None => "none",
            OwnerRef::Key(key) => &*key.name,
            OwnerRef::Keep => unreachable!(),
        };
        cp.seed_owned(*kind, &json!({"mesh": "m", "name": name}), owner.clone()).await;
    }
    for kind in ["Secret", "ExternalService", "RateLimit"] {
        let kind = Kind::by_name(kind).unwrap();
        cp.seed(kind, &json!({"mesh": "default", "name": "stays"})).await;
    }
    // Of global scope, but of the mesh.
    let insight = Kind::by_name("MeshInsight").unwrap();
    cp.seed_owned(insight, &json!({"name": "m"}), OwnerRef::Key(key(Kind::MESH, "m"))).await;
    cp.delete("/meshes/m").await.is(200, &json!({}));
    let want = [
        "ExternalService/default/stays",
        "Mesh//default",
        "RateLimit/default/stays",
        "Secret/default/stays",
        "Zone//east",
    ];
    assert_eq!(left(&cp), want);
    // A mesh of that name starts with nothing.
    cp.put("/meshes/m", &json!({"type": "Mesh", "name": "m"})).await.is(201, &json!({}));
    assert_eq!(cp.get("/meshes/m/secrets").await.json()["total"], 0);
    // The default mesh is a mesh like others.
    cp.delete("/meshes/default").await.is(200, &json!({}));
    assert_eq!(left(&cp), ["Mesh//m", "Zone//east"]);
}

/// What REST itself stores belongs to the mesh, whatever its type.
#[tokio::test]
async fn what_is_put_belongs_to_its_mesh() {
    let cp = Cp::new(zone("east")).await;
    let mesh = cp.world.snapshot().mesh("default").unwrap().uid;
    let secret = json!({"type": "Secret", "mesh": "default", "name": "s", "data": "eA=="});
    assert_eq!(cp.put("/meshes/default/secrets/s", &secret).await.status, 201);
    assert_eq!(cp.put("/meshes/default/dataplanes/d", &dataplane("d")).await.status, 201);
    for (kind, name) in [(Kind::SECRET, "s"), (Kind::DATAPLANE, "d")] {
        let snapshot = cp.world.snapshot();
        let stored = snapshot.find(kind, "default", name).unwrap();
        assert_eq!(stored.owner.as_ref().map(|o| o.uid), Some(mesh), "{kind}");
    }
    // An insight goes with its proxy, and an update does not change whose a thing is.
    let proxy = OwnerRef::Key(ResourceKey::new(Kind::DATAPLANE, "default", "d"));
    let insight = json!({"mesh": "default", "name": "d"});
    cp.seed_owned(Kind::DATAPLANE_INSIGHT, &insight, proxy).await;
    assert_eq!(cp.put("/meshes/default/dataplanes/d", &dataplane("d")).await.status, 200);
    cp.delete("/meshes/default/dataplanes/d").await.is(200, &json!({}));
    assert_eq!(left(&cp), ["Mesh//default", "Secret/default/s"]);
}

/// A proxy registers while its mesh is deleted: either it keeps the mesh or it goes, too.
#[tokio::test]
async fn a_proxy_that_comes_while_its_mesh_goes() {
    let cp = Cp::new(global()).await;
    let mut late = change(Kind::DATAPLANE, "default", "late", &dataplane("late"));
    if let Operation::Put { owner, .. } = &mut late.op {
        *owner = OwnerRef::Key(ResourceKey::new(Kind::MESH, "", "default"));
    }
    cp.store.rival.lock().unwrap().push(late);
    let reply = cp.delete("/meshes/default").await;
    if reply.status == 200 {
        assert!(left(&cp).is_empty(), "{:?}", left(&cp));
    } else {
        let why = "unable to delete mesh, there are still some dataplanes attached";
        reply.is_invalid(DELETE, &[("mesh", why)]);
    }
}

#[tokio::test]
async fn unsafe_deletions() {
    let online = json!({"name": "z", "subscriptions": [
        {"id": "1", "connectTime": "2030-01-01T00:00:00Z"},
    ]});
    let mesh = json!({"name": "m", "mtls": {"backends": [{
        "name": "own", "type": "provided", "conf": {"cert": {"secret": "c"}, "key": {"secret": "k"}},
    }]}});
    for unsafe_delete in [false, true] {
        let cp = Cp::with(global(), |api| api.unsafe_delete = unsafe_delete).await;
        cp.seed(Kind::MESH, &mesh).await;
        cp.seed(Kind::ZONE, &json!({"name": "z"})).await;
        cp.seed(Kind::ZONE_INSIGHT, &online).await;
        for name in ["c", "k", "free"] {
            let secret = json!({"mesh": "m", "name": name, "data": "eA=="});
            cp.seed(Kind::SECRET, &secret).await;
        }
        let mut proxy = dataplane("d");
        proxy["mesh"] = "m".into();
        cp.seed(Kind::DATAPLANE, &proxy).await;
        cp.delete("/meshes/m/secrets/free").await.is(200, &json!({}));
        // A backend need not be enabled to need its secrets.
        for path in ["/meshes/m/secrets/c", "/meshes/m/secrets/k", "/zones/z", "/meshes/m"] {
            let reply = cp.delete(path).await;
            let status = if unsafe_delete { 200 } else { 400 };
            assert_eq!(reply.status.as_u16(), status, "{path} {}", reply.text);
        }
        // Nothing checks references to anything else.
        let gateway = json!({"mesh": "default", "name": "edge"});
        cp.seed(Kind::MESH_GATEWAY, &gateway).await;
        cp.delete("/meshes/default/meshgateways/edge").await.is(200, &json!({}));
    }
}

/// What is missing is missing for every type, in the same words.
#[tokio::test]
async fn what_is_not_there() {
    let cp = Cp::new(global()).await;
    for kind in Kind::all().filter(|k| !k.row().plural.is_empty() && k.writable_on_global()) {
        let mesh = if kind.row().scope == Scope::Mesh { "/meshes/default" } else { "" };
        let path = format!("{mesh}/{}/absent", kind.row().plural);
        let title = "Could not retrieve a resource";
        cp.get(&path).await.is_problem(404, title, "Not found", &[]);
        cp.delete(&path).await.is_problem(404, DELETE, "Not found", &[]);
    }
}

/// Names and meshes of the body are those of the URL, for every type.
#[tokio::test]
async fn bodies_about_something_else() {
    let cp = Cp::new(global()).await;
    cp.seed(Kind::MESH, &json!({"name": "other"})).await;
    let secret = |name: &str, mesh: &str, kind: &str| -> Value {
        json!({"type": kind, "mesh": mesh, "name": name, "data": "eA=="})
    };
    let path = "/meshes/default/secrets/s";
    let title = "Could not process a resource";
    for (body, field, reason) in [
        (
            secret("x", "default", "Secret"),
            "name",
            "name from the URL has to be the same as in body",
        ),
        (secret("s", "other", "Secret"), "mesh", "mesh from the URL has to be the same as in body"),
        (
            secret("s", "default", "GlobalSecret"),
            "type",
            "type from the URL has to be the same as in body",
        ),
    ] {
        cp.put(path, &body).await.is_invalid(title, &[(field, reason)]);
    }
    assert_eq!(cp.put(path, &secret("s", "default", "Secret")).await.status, 201);
    cp.commit(vec![Change::delete(ResourceKey::new(Kind::SECRET, "default", "s"))]).await;
}

/// Fields of insights that a newer peer has written pass through JSON and overviews.
#[tokio::test]
async fn overviews_show_all_of_an_insight() {
    let cp = Cp::new(global()).await;
    cp.seed(Kind::DATAPLANE, &dataplane("d")).await;
    let metadata = json!({"version": {"any": [1, true, null]}, "sunbear": {
        "issues": [{"resource": "MeshGatewayRoute/default/r", "reason": "kept the last good one"}],
    }});
    let insight = json!({
        "mesh": "default",
        "name": "d",
        "metadata": metadata,
        "subscriptions": [{
            "id": "1",
            "controlPlaneInstanceId": "cp",
            "connectTime": "2030-01-01T00:00:00Z",
            "generation": 3,
            "status": {"total": {"responsesSent": "18446744073709551615"}},
            "version": {"dependencies": {"coredns": "1"}},
        }],
    });
    cp.seed(Kind::DATAPLANE_INSIGHT, &insight).await;
    let mut want = insight;
    for key in ["mesh", "name"] {
        want.as_object_mut().unwrap().remove(key);
    }
    let list = cp.get("/meshes/default/dataplanes/_overview").await.json();
    let item = cp.get("/meshes/default/dataplanes/d/_overview").await.json();
    for shown in [&list["items"][0], &item] {
        assert_eq!(shown["dataplaneInsight"], want);
    }
    let alone = cp.get("/meshes/default/dataplane-insights/d").await.json();
    assert_eq!(alone["metadata"], metadata);
}
