//! Query parameters of lists and single objects: the first byte chooses the path, the rest is the
//! query. Every answer is a page or a problem, and the link to the next page leads to one.
#![no_main]

use std::{cell::RefCell, sync::Arc};

use axum::{Router, body::Body};
use http::{Request, StatusCode, Uri};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use sunbear_api::{
    Access, ApiState, ControlPlane, Issuers, NoHooks, Options, PeerAddr, router,
};
use sunbear_model::{Kind, ResourceKey, rest, validation::Mode};
use sunbear_store::{Batch, BatchMode, Change, Sqlite, Store, World, WorldOptions};
use time::OffsetDateTime;
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

const PATHS: &[&str] = &[
    "/meshes/default/dataplanes",
    "/meshes/default/dataplanes/_overview",
    "/dataplanes+insights",
    "/meshes/default/external-services",
    "/meshes/default/service-insights",
    "/service-insights",
    "/meshes/default/meshtimeouts",
    "/meshes/default/meshtimeouts/t-1/_resources/dataplanes",
    "/meshes/default/meshservices/s/_resources/dataplanes",
    "/zones/_overview",
    "/meshes",
    "/meshes/default/secrets",
    "/meshes/default/dataplanes/d-1",
    "/meshes/default/dataplanes/d-1/_overview",
    "/meshes/default/external-services/e-1",
    "/_kri/kri_m____default_",
];

struct Served {
    runtime: Runtime,
    router: Router,
}

impl Served {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let router = runtime.block_on(serve());
        Self { runtime, router }
    }

    fn get(&self, path_and_query: &str) -> Option<(StatusCode, Value)> {
        let uri: Uri = path_and_query.parse().ok()?;
        let request = Request::builder()
            .uri(uri)
            .header("host", "localhost:5681")
            .extension(PeerAddr("127.0.0.1:40000".parse().unwrap()))
            .body(Body::empty())
            .unwrap();
        self.runtime.block_on(async {
            let response = self.router.clone().oneshot(request).await.unwrap();
            let status = response.status();
            let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
            Some((status, serde_json::from_slice(&body).expect("answers are JSON")))
        })
    }
}

async fn serve() -> Router {
    let store = Arc::new(Sqlite::memory().await.unwrap()) as Arc<dyn Store>;
    let (world, feed) = World::start(store, WorldOptions::default()).await.unwrap();
    tokio::spawn(feed);
    let mut changes = Vec::new();
    for (kind, body) in objects() {
        let kind = Kind::by_name(kind).unwrap();
        let wanted = rest::read_as(kind, &body).unwrap();
        let key = ResourceKey::new(kind, &wanted.mesh, &wanted.name);
        changes.push(Change::put(key, wanted.spec, wanted.labels));
    }
    let batch = Batch {
        changes,
        author: "fuzz".to_owned(),
        reason: "fuzz".to_owned(),
        mode: BatchMode::AllOrNothing,
        at: OffsetDateTime::UNIX_EPOCH,
    };
    world.commit(batch).await.unwrap();
    let mode = Mode::Global { disable_origin_label_validation: false };
    let text = String::new;
    router(ApiState {
        world,
        mode,
        identity: ControlPlane {
            hostname: text(),
            instance_id: text(),
            product: text(),
            version: text(),
            sunbear_version: text(),
            gui: text(),
        },
        config_json: json!({}),
        access: Access::default(),
        issuers: Issuers::default(),
        read_only: false,
        unsafe_delete: false,
        hooks: Arc::new(NoHooks),
        clock: || OffsetDateTime::UNIX_EPOCH,
        options: Options::default(),
    })
}

fn objects() -> Vec<(&'static str, Value)> {
    let mut objects = vec![
        ("Mesh", json!({"name": "default"})),
        ("Mesh", json!({"name": "other"})),
        ("Zone", json!({"name": "east"})),
        ("MeshService", json!({"mesh": "default", "name": "s", "spec": {
            "selector": {"dataplaneTags": {"kuma.io/service": "d"}},
            "ports": [{"port": 80}],
        }})),
        ("ServiceInsight", json!({"mesh": "default", "name": "all-services-default", "services": {
            "a": {}, "b": {"serviceType": "external"}, "c": {"serviceType": "gateway_builtin"},
        }})),
        ("Dataplane", json!({"mesh": "default", "name": "gw", "networking": {
            "address": "127.0.0.1",
            "gateway": {"type": "BUILTIN", "tags": {"kuma.io/service": "edge"}},
        }})),
    ];
    for i in 0..5 {
        let labels = json!({"app": format!("a{}", i % 2), "kuma.io/zone": "east"});
        let tags = json!({"kuma.io/service": "d", "version": i.to_string()});
        objects.push(("Dataplane", json!({
            "mesh": "default",
            "name": format!("d-{i}"),
            "labels": labels,
            "networking": {"address": "127.0.0.1", "inbound": [{"port": 80, "tags": tags}]},
        })));
        objects.push(("ExternalService", json!({
            "mesh": "default",
            "name": format!("e-{i}"),
            "tags": tags,
            "networking": {"address": "example.com:443"},
        })));
        objects.push(("MeshTimeout", json!({
            "mesh": "default",
            "name": format!("t-{i}"),
            "labels": labels,
            "spec": {"to": [{"targetRef": {"kind": "Mesh"}, "default": {"idleTimeout": "1m"}}]},
        })));
    }
    objects
}

thread_local! {
    static SERVED: RefCell<Option<Served>> = const { RefCell::new(None) };
}

/// Checks an answer; gives the link to the next page.
fn check(status: StatusCode, body: &Value) -> Option<String> {
    assert!(!status.is_server_error(), "{status} {body}");
    if status != StatusCode::OK {
        assert_eq!(body["status"], status.as_u16(), "{body}");
        assert!(body["title"].as_str().is_some_and(|t| !t.is_empty()), "{body}");
        return None;
    }
    let items = body.get("items")?.as_array().expect("items are a list");
    let total = body["total"].as_u64().expect("total is a number");
    assert!(items.len() as u64 <= total && items.len() <= 1000, "{body}");
    Some(body.get("next")?.as_str()?.to_owned())
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, query)) = data.split_first() else { return };
    let Ok(query) = std::str::from_utf8(query) else { return };
    let path = PATHS[usize::from(*choice) % PATHS.len()];
    SERVED.with_borrow_mut(|served| {
        let served = served.get_or_insert_with(Served::new);
        let Some((status, body)) = served.get(&format!("{path}?{query}")) else { return };
        let Some(next) = check(status, &body) else { return };
        let next = next.strip_prefix("http://localhost:5681").expect("on the same host");
        assert!(next.starts_with(path), "{next}");
        let (status, more) = served.get(next).expect("the link is one");
        assert_eq!(status, StatusCode::OK, "{next}");
        // The same filters: nothing else has changed.
        assert_eq!(more["total"], body["total"], "{next}");
        assert_ne!(more["items"], body["items"], "{next}");
        check(status, &more);
    });
});
