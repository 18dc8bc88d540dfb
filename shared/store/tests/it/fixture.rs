//! Stores to test, and short ways to write to them.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use sunbear_model::{Kind, Resource, ResourceKey, Spec};
use sunbear_store::{
    Batch, BatchMode, Change, ChangeError, Committed, Expect, Operation, Outcome, OwnerRef,
    Postgres, PostgresOptions, Sqlite, StatusChange, Store, testing::TestPostgres,
};
use tempfile::TempDir;
use time::OffsetDateTime;

/// Where a store keeps its data.
pub(crate) enum Backend {
    Memory,
    File(TempDir),
    Postgres { _server: Arc<TestPostgres>, url: String },
}

impl Backend {
    pub(crate) fn file() -> Self {
        Self::File(tempfile::tempdir().unwrap())
    }

    /// None if there is no Postgres.
    pub(crate) async fn postgres() -> Option<Self> {
        let server = TestPostgres::shared().await?;
        let url = server.create_database().await.unwrap();
        Some(Self::Postgres { _server: server, url })
    }

    pub(crate) async fn open(&self) -> Arc<dyn Store> {
        match self {
            Self::Memory => Arc::new(Sqlite::memory().await.unwrap()),
            Self::File(folder) => Arc::new(Sqlite::open(folder.path().join("db")).await.unwrap()),
            Self::Postgres { url, .. } => {
                let options = PostgresOptions::from_url(url).unwrap();
                Arc::new(Postgres::connect(options).await.unwrap())
            }
        }
    }
}

/// Runs each test on each kind of store.
macro_rules! on_all_stores {
    ($($name:ident)*) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(&$crate::fixture::Backend::Memory).await;
            })*
        }
        mod file {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(&$crate::fixture::Backend::file()).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(backend) = $crate::fixture::Backend::postgres().await {
                    super::$name(&backend).await;
                }
            })*
        }
    };
}
pub(crate) use on_all_stores;

pub(crate) fn mesh(name: &str) -> ResourceKey {
    ResourceKey::new(Kind::MESH, "", name)
}

pub(crate) fn gateway(mesh: &str, name: &str) -> ResourceKey {
    ResourceKey::new(Kind::MESH_GATEWAY, mesh, name)
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

pub(crate) fn spec(key: &ResourceKey, text: &str) -> Spec {
    Spec::from_wire(key.kind, text.as_bytes())
}

pub(crate) fn put(key: &ResourceKey, text: &str) -> Change {
    Change::put(key.clone(), spec(key, text), BTreeMap::new())
}

pub(crate) fn put_if(key: &ResourceKey, text: &str, expect: Expect) -> Change {
    with(put(key, text), |_, _, e| *e = expect)
}

pub(crate) fn owned(key: &ResourceKey, text: &str, owner: &ResourceKey) -> Change {
    with(put(key, text), |_, o, _| *o = OwnerRef::Key(owner.clone()))
}

pub(crate) fn labelled(change: Change, pairs: &[(&str, &str)]) -> Change {
    with(change, |l, _, _| *l = labels(pairs))
}

pub(crate) fn with_status(mut change: Change, new: Option<&str>) -> Change {
    if let Operation::Put { status, .. } = &mut change.op {
        *status = StatusChange::Set(new.map(|s| s.as_bytes().into()));
    }
    change
}

fn with(
    mut change: Change,
    set: impl FnOnce(&mut BTreeMap<String, String>, &mut OwnerRef, &mut Expect),
) -> Change {
    if let Operation::Put { labels, owner, expect, .. } = &mut change.op {
        set(labels, owner, expect);
    }
    change
}

pub(crate) fn delete(key: &ResourceKey) -> Change {
    Change::delete(key.clone())
}

pub(crate) fn delete_if(key: &ResourceKey, expect: Expect) -> Change {
    Change { key: key.clone(), op: Operation::Delete { expect } }
}

pub(crate) fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

pub(crate) fn batch(mode: BatchMode, changes: impl IntoIterator<Item = Change>) -> Batch {
    Batch {
        changes: changes.into_iter().collect(),
        author: "tester".to_owned(),
        reason: "test".to_owned(),
        mode,
        at: now(),
    }
}

pub(crate) async fn all(store: &dyn Store, changes: impl IntoIterator<Item = Change>) -> Committed {
    store.commit(batch(BatchMode::AllOrNothing, changes)).await.unwrap()
}

pub(crate) async fn one(store: &dyn Store, change: Change) -> Result<Outcome, ChangeError> {
    all(store, [change]).await.results.pop().unwrap()
}

/// The object, straight from the database.
pub(crate) async fn stored(store: &dyn Store, key: &ResourceKey) -> Option<Arc<Resource>> {
    sorted(store).await.into_iter().find(|r| r.key == *key)
}

pub(crate) async fn sorted(store: &dyn Store) -> Vec<Arc<Resource>> {
    let mut resources = store.load().await.unwrap().resources;
    resources.sort_by(|a, b| a.key.cmp(&b.key));
    resources
}

/// Waits until `condition` gives something.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut condition: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
