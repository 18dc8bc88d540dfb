//! A world over a store in memory, and short ways to fill it.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use sunbear_insights::run;
use sunbear_model::{Kind, Resource, ResourceKey, Spec, rest};
use sunbear_store::{
    Batch, BatchMode, Change, Committed, Operation, OwnerRef, Sqlite, Store, World, WorldOptions,
};
use time::OffsetDateTime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long tests wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Fixture {
    pub(crate) world: World,
    feed: JoinHandle<()>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.feed.abort();
    }
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::over(Arc::new(Sqlite::memory().await.unwrap())).await
    }

    pub(crate) async fn over(store: Arc<dyn Store>) -> Self {
        let (world, feed) = World::start(store, WorldOptions::default()).await.unwrap();
        Self { world, feed: tokio::spawn(feed) }
    }

    pub(crate) async fn commit(&self, changes: Vec<Change>) -> Committed {
        let batch = Batch {
            changes,
            author: "test".to_owned(),
            reason: "test".to_owned(),
            mode: BatchMode::AllOrNothing,
            at: OffsetDateTime::now_utc(),
        };
        let committed = self.world.commit(batch).await.unwrap();
        assert!(committed.results.iter().all(Result::is_ok), "{committed:?}");
        committed
    }

    pub(crate) async fn put(&self, kind: Kind, body: &Value) {
        self.commit(vec![put(kind, body)]).await;
    }

    pub(crate) fn mesh_insight(&self, mesh: &str) -> Option<Arc<Resource>> {
        let kind = Kind::by_name("MeshInsight").unwrap();
        self.world.snapshot().find(kind, "", mesh).cloned()
    }

    pub(crate) fn service_insight(&self, mesh: &str) -> Option<Arc<Resource>> {
        let name = format!("all-services-{mesh}");
        self.world.snapshot().find(Kind::SERVICE_INSIGHT, mesh, &name).cloned()
    }

    /// Waits until the condition holds; asks again after each change.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut subscription = self.world.subscribe();
        while !condition(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            let update = tokio::time::timeout(left, subscription.next()).await;
            assert!(update.is_ok(), "{what} did not happen");
        }
    }

    /// Waits until a mesh has so many Dataplanes, as its MeshInsight says.
    pub(crate) async fn until_proxies(&self, mesh: &str, count: u64) {
        self.until(&format!("{count} proxies in {mesh}"), |f| {
            f.mesh_insight(mesh).is_some_and(|r| {
                rest::write(&r).pointer("/dataplanes/total").and_then(Value::as_u64).unwrap_or(0)
                    == count
            })
        })
        .await;
    }

    pub(crate) fn start(&self, instance: &str, interval: Duration) -> Running {
        let stop = CancellationToken::new();
        let work = run(self.world.clone(), instance.to_owned(), stop.clone(), interval);
        Running { stop, task: tokio::spawn(work) }
    }
}

/// The shell at work.
pub(crate) struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap();
    }
}

pub(crate) fn put(kind: Kind, body: &Value) -> Change {
    let wanted = rest::read_as(kind, body).unwrap();
    assert!(wanted.unknown.is_empty(), "{:?}", wanted.unknown);
    let key = ResourceKey::new(kind, &wanted.mesh, &wanted.name);
    let mut change = Change::put(key.clone(), wanted.spec, wanted.labels);
    if let (true, Operation::Put { owner, .. }) = (kind.is_mesh_scoped(), &mut change.op) {
        *owner = OwnerRef::Key(mesh(&key.mesh));
    }
    change
}

pub(crate) fn put_bytes(key: &ResourceKey, bytes: &[u8]) -> Change {
    Change::put(key.clone(), Spec::from_wire(key.kind, bytes), BTreeMap::new())
}

pub(crate) fn mesh(name: &str) -> ResourceKey {
    ResourceKey::new(Kind::MESH, "", name)
}

pub(crate) fn dataplane(mesh: &str, name: &str) -> ResourceKey {
    ResourceKey::new(Kind::DATAPLANE, mesh, name)
}
