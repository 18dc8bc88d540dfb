//! A control plane in memory, and requests to it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{Router, body::Body, response::Response};
use futures_util::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, Method, Request, StatusCode};
use serde_json::{Value, json};
use sunbear_api::{
    Access, ApiState, ControlPlane, Issuers, NoHooks, Options, PeerAddr, REVISION_HEADER, router,
};
use sunbear_model::{Kind, ResourceKey, Spec, rest, validation::Mode};
use sunbear_store::{
    Batch, BatchMode, Change, Changes, Committed, Fence, HistoryEntry, Lease, Loaded, Operation,
    OwnerRef, Retention, Revision, Sqlite, Store, StoreError, World, WorldOptions,
};
use time::OffsetDateTime;
use tokio::sync::watch;
use tower::ServiceExt as _;

/// A control plane.
pub(crate) struct Cp {
    pub(crate) world: World,
    pub(crate) router: Router,
    pub(crate) store: Arc<Unreliable>,
    feed: tokio::task::JoinHandle<()>,
}

impl Drop for Cp {
    fn drop(&mut self) {
        self.feed.abort();
    }
}

pub(crate) fn global() -> Mode {
    Mode::Global { disable_origin_label_validation: false }
}

pub(crate) fn zone(name: &str) -> Mode {
    Mode::FederatedZone { zone: name.to_owned(), disable_origin_label_validation: false }
}

pub(crate) fn standalone() -> Mode {
    Mode::StandaloneZone { zone: "default".to_owned() }
}

impl Cp {
    /// A control plane with nothing in it but the mesh `default`.
    pub(crate) async fn new(mode: Mode) -> Self {
        Self::with(mode, |_| {}).await
    }

    pub(crate) async fn with(mode: Mode, change: impl FnOnce(&mut ApiState)) -> Self {
        let cp = Self::empty(mode, change).await;
        cp.seed(Kind::MESH, &json!({"name": "default"})).await;
        cp
    }

    pub(crate) async fn empty(mode: Mode, change: impl FnOnce(&mut ApiState)) -> Self {
        let store = Arc::new(Unreliable {
            inner: Sqlite::memory().await.unwrap(),
            down: AtomicBool::new(false),
            rival: std::sync::Mutex::new(Vec::new()),
        });
        let (world, feed) =
            World::start(Arc::clone(&store) as Arc<dyn Store>, WorldOptions::default())
                .await
                .unwrap();
        let mut state = ApiState {
            world: world.clone(),
            mode,
            identity: ControlPlane {
                hostname: "cp".to_owned(),
                instance_id: "cp-1234".to_owned(),
                product: "Kuma".to_owned(),
                version: "2.14.3".to_owned(),
                sunbear_version: "0.1.0".to_owned(),
                gui: "/gui".to_owned(),
            },
            config_json: json!({"mode": "x", "store": {"password": "*****"}}),
            access: Access::default(),
            issuers: Issuers::default(),
            read_only: false,
            unsafe_delete: false,
            hooks: Arc::new(NoHooks),
            clock: OffsetDateTime::now_utc,
            options: Options::default(),
        };
        change(&mut state);
        Self { world, router: router(state), store, feed: tokio::spawn(feed) }
    }

    /// Stores an object past the API.
    pub(crate) async fn seed(&self, kind: Kind, body: &Value) {
        self.seed_owned(kind, body, OwnerRef::Keep).await;
    }

    pub(crate) async fn seed_owned(&self, kind: Kind, body: &Value, owner: OwnerRef) {
        let wanted = rest::read_as(kind, body).unwrap();
        let key = ResourceKey::new(kind, &wanted.mesh, &wanted.name);
        let mut change = Change::put(key, wanted.spec, wanted.labels);
        if let Operation::Put { owner: o, .. } = &mut change.op {
            *o = owner;
        }
        self.commit(vec![change]).await;
    }

    pub(crate) async fn commit(&self, changes: Vec<Change>) {
        let committed = self.world.commit(batch(changes)).await.unwrap();
        for result in committed.results {
            result.unwrap();
        }
    }

    /// A request of the administrator.
    pub(crate) async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Reply {
        self.request(request(method, path, body)).await
    }

    pub(crate) async fn request(&self, request: Request<Body>) -> Reply {
        Reply::read(self.router.clone().oneshot(request).await.unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, None).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Reply {
        self.send(Method::PUT, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        self.send(Method::DELETE, path, None).await
    }

    pub(crate) fn stored(&self, kind: Kind, mesh: &str, name: &str) -> Option<Value> {
        self.world.snapshot().find(kind, mesh, name).map(|r| rest::write(r))
    }
}

pub(crate) fn batch(changes: Vec<Change>) -> Batch {
    Batch {
        changes,
        author: "test".to_owned(),
        reason: "test".to_owned(),
        mode: BatchMode::AllOrNothing,
        at: OffsetDateTime::now_utc(),
    }
}

/// A request from this host, which makes its sender the administrator.
pub(crate) fn request(method: Method, path: &str, body: Option<&Value>) -> Request<Body> {
    request_from("127.0.0.1:40000", method, path, body)
}

/// A request from another host.
pub(crate) fn remote(method: Method, path: &str, body: Option<&Value>) -> Request<Body> {
    request_from("192.0.2.1:40000", method, path, body)
}

fn request_from(peer: &str, method: Method, path: &str, body: Option<&Value>) -> Request<Body> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "127.0.0.1:5681")
        .extension(PeerAddr(peer.parse().unwrap()));
    if body.is_some() {
        request = request.header("content-type", "application/json");
    }
    request.body(body.map_or_else(Body::empty, |b| Body::from(b.to_string()))).unwrap()
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) async fn read(response: Response) -> Self {
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        Self { status: parts.status, headers: parts.headers, text }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    pub(crate) fn revision(&self) -> Revision {
        self.header(REVISION_HEADER.as_str()).parse().unwrap()
    }

    /// Status and body are these.
    #[track_caller]
    pub(crate) fn is(&self, status: u16, body: &Value) {
        assert_eq!((self.status.as_u16(), self.json()), (status, body.clone()));
    }

    /// The body is an error with exactly these parts.
    #[track_caller]
    pub(crate) fn is_problem(
        &self,
        status: u16,
        title: &str,
        detail: &str,
        parameters: &[(&str, &str)],
    ) {
        let mut body = json!({
            "type": "/std-errors",
            "status": status,
            "title": title,
            "detail": detail,
            "details": detail,
        });
        if !parameters.is_empty() {
            let list = |key: &str| -> Value {
                parameters.iter().map(|(f, m)| json!({"field": f, key: m})).collect()
            };
            body["invalid_parameters"] = list("reason");
            body["causes"] = list("message");
        }
        self.is(status, &body);
        assert_eq!(self.header("content-type"), "application/json");
    }

    /// The body says that the object is not valid, for these reasons.
    #[track_caller]
    pub(crate) fn is_invalid(&self, title: &str, parameters: &[(&str, &str)]) {
        self.is_problem(400, title, "Resource is not valid", parameters);
    }
}

/// A store that can be away, and into which somebody else may write just before we do.
pub(crate) struct Unreliable {
    inner: Sqlite,
    pub(crate) down: AtomicBool,
    /// Written before our commits, one a commit.
    pub(crate) rival: std::sync::Mutex<Vec<Change>>,
}

impl Store for Unreliable {
    fn commit_fenced(
        &self,
        batch: Batch,
        fence: Option<Fence>,
    ) -> BoxFuture<'_, Result<Committed, StoreError>> {
        if self.down.load(Ordering::SeqCst) {
            let error = StoreError::Unavailable("connection refused to db.internal".into());
            return std::future::ready(Err(error)).boxed();
        }
        let rival = self.rival.lock().unwrap().pop();
        async move {
            if let Some(change) = rival {
                let batch = super::support::batch(vec![change]);
                self.inner.commit(batch).await?;
            }
            self.inner.commit_fenced(batch, fence).await
        }
        .boxed()
    }

    fn load(&self) -> BoxFuture<'_, Result<Loaded, StoreError>> {
        self.inner.load()
    }

    fn changes_since(
        &self,
        revision: Revision,
        limit: u32,
    ) -> BoxFuture<'_, Result<Changes, StoreError>> {
        self.inner.changes_since(revision, limit)
    }

    fn history(
        &self,
        key: &ResourceKey,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<HistoryEntry>, StoreError>> {
        self.inner.history(key, limit)
    }

    fn compact(&self, retention: Retention) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.inner.compact(retention)
    }

    fn wake(&self) -> watch::Receiver<Revision> {
        self.inner.wake()
    }

    fn poll_interval(&self) -> std::time::Duration {
        self.inner.poll_interval()
    }

    fn lease(
        &self,
        name: &str,
        holder: &str,
        ttl: std::time::Duration,
    ) -> BoxFuture<'_, Result<Lease, StoreError>> {
        self.inner.lease(name, holder, ttl)
    }

    fn release(&self, name: &str, holder: &str) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.release(name, holder)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.close()
    }
}

/// A change past the API.
pub(crate) fn change(kind: Kind, mesh: &str, name: &str, body: &Value) -> Change {
    let spec: Spec = rest::read_as(kind, body).unwrap().spec;
    Change::put(ResourceKey::new(kind, mesh, name), spec, BTreeMap::new())
}

/// A route that is valid.
pub(crate) fn route(name: &str) -> Value {
    json!({
        "type": "MeshGatewayRoute",
        "mesh": "default",
        "name": name,
        "selectors": [{"match": {"kuma.io/service": "edge"}}],
        "conf": {"http": {"rules": [{
            "matches": [{"path": {"match": "PREFIX", "value": "/"}}],
            "backends": [{"destination": {"kuma.io/service": "echo"}, "weight": 1}],
        }]}},
    })
}

/// A proxy that is valid.
pub(crate) fn dataplane(name: &str) -> Value {
    json!({
        "type": "Dataplane",
        "mesh": "default",
        "name": name,
        "networking": {
            "address": "127.0.0.1",
            "inbound": [{"port": 80, "tags": {"kuma.io/service": "d"}}],
        },
    })
}

/// A policy that is valid.
pub(crate) fn timeout(name: &str, labels: Value) -> Value {
    json!({
        "type": "MeshTimeout",
        "mesh": "default",
        "name": name,
        "labels": labels,
        "spec": {
            "targetRef": {"kind": "Mesh"},
            "to": [{"targetRef": {"kind": "Mesh"}, "default": {"idleTimeout": "1m"}}],
        },
    })
}
