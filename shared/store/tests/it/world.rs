//! The world over a store.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::BoxFuture;
use sunbear_model::{Kind, ResourceKey};
use sunbear_store::{
    Batch, BatchMode, Changes, Committed, Fence, HistoryEntry, Lease, Loaded, Retention, Revision,
    Sqlite, Store, StoreError, Update, World, WorldOptions, WorldState,
};
use tokio::sync::watch;

use crate::fixture::{
    Backend, all, batch, delete, gateway, mesh, now, on_all_stores, owned, put, sorted, spec, until,
};

on_all_stores! {
    reads_its_writes
    changes_of_others_arrive
    subscribers_of_all_speeds_converge
    compaction_makes_it_load_anew
    many_writers_one_world
}

async fn world(store: Arc<dyn Store>, options: WorldOptions) -> World {
    let (world, feed) = World::start(store, options).await.unwrap();
    tokio::spawn(feed);
    world
}

async fn write(
    world: &World,
    changes: impl IntoIterator<Item = sunbear_store::Change>,
) -> Committed {
    world.commit(batch(BatchMode::AllOrNothing, changes)).await.unwrap()
}

/// Memory is what the database says.
async fn assert_equal(world: &World) {
    let stored = sorted(&**world.store()).await;
    let snapshot = world.snapshot();
    let memory: Vec<_> = snapshot.iter().cloned().collect();
    assert_eq!(memory, stored);
    assert_eq!(snapshot.revision, world.store().load().await.unwrap().revision);
}

async fn reads_its_writes(backend: &Backend) {
    let world = world(backend.open().await, WorldOptions::default()).await;
    let (m, g) = (mesh("m"), gateway("m", "g"));
    let mut subscription = world.subscribe();
    assert!(world.snapshot().is_empty());
    write(&world, [put(&m, "1"), owned(&g, "1", &m)]).await;
    let first = world.snapshot();
    assert_eq!(first.revision, 2);
    assert_eq!(first.get(&g).unwrap().spec, spec(&g, "1"));
    let Update::Changes { snapshot, keys } = subscription.next().await else { panic!() };
    assert_eq!(*keys, [m.clone(), g.clone()]);
    assert_eq!(snapshot.revision, 2);
    for i in 0..5 {
        write(&world, [put(&g, &format!("x{i}"))]).await;
        assert_eq!(world.snapshot().get(&g).unwrap().spec, spec(&g, &format!("x{i}")));
    }
    // Several changes, one notice.
    let Update::Changes { snapshot, keys } = subscription.next().await else { panic!() };
    assert_eq!((snapshot.revision, &*keys), (7, &[g.clone()][..]));
    write(&world, [delete(&m)]).await;
    assert!(world.snapshot().is_empty());
    let Update::Changes { snapshot, keys } = subscription.next().await else { panic!() };
    assert_eq!((snapshot.len(), &*keys), (0, &[m, g.clone()][..]));
    // Old snapshots do not change.
    assert_eq!(first.get(&g).unwrap().spec, spec(&g, "1"));
    assert_equal(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_list_in_order() {
    let world = world(Backend::Memory.open().await, WorldOptions::default()).await;
    let key = |m: &str, n: &str| ResourceKey::new(Kind::MESH_GATEWAY, m, n);
    let keys = [key("a", "b"), key("a", "c"), key("a-b", "a"), key("b", "a"), key("b", "b")];
    write(&world, keys.iter().rev().map(|k| put(k, ""))).await;
    write(&world, [put(&mesh("m2"), ""), put(&mesh("m1"), "")]).await;
    let s = world.snapshot();
    let names = |r: &Arc<sunbear_model::Resource>| r.key.clone();
    let kind = Kind::MESH_GATEWAY;
    assert_eq!(s.list(kind).map(names).collect::<Vec<_>>(), keys);
    assert_eq!(s.list_mesh(kind, "a").map(names).collect::<Vec<_>>(), keys[..2]);
    assert_eq!(s.list_mesh(kind, "c").count(), 0);
    assert_eq!(s.list_after(kind, "a", "c").map(names).collect::<Vec<_>>(), keys[2..]);
    assert_eq!(s.list_after(kind, "a", "bb").map(names).collect::<Vec<_>>(), keys[1..]);
    assert_eq!(s.count(kind), 5);
    assert_eq!(s.len(), 7);
    assert_eq!(s.meshes().map(|m| m.key.name.to_string()).collect::<Vec<_>>(), ["m1", "m2"]);
    assert!(s.mesh("m1").is_some() && s.mesh("m3").is_none());
    assert!(s.find(kind, "b", "a").is_some());
}

async fn changes_of_others_arrive(backend: &Backend) {
    let store = backend.open().await;
    let world = world(Arc::clone(&store), WorldOptions::default()).await;
    let mut subscription = world.subscribe();
    // Past the world, as another replica would.
    let other =
        if matches!(backend, Backend::Postgres { .. }) { backend.open().await } else { store };
    let committed =
        all(&*other, (0..2500).map(|i| put(&gateway("m", &format!("g{i}")), "x"))).await;
    let wait = world.wait_for(committed.revision);
    let snapshot = tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap().unwrap();
    assert_eq!(snapshot.len(), 2500);
    // In one piece, although it is several pages.
    let Update::Changes { snapshot, keys } = subscription.next().await else { panic!() };
    assert_eq!((snapshot.revision, keys.len()), (2500, 2500));
    all(&*other, [delete(&gateway("m", "g7"))]).await;
    let Update::Changes { snapshot, keys } = subscription.next().await else { panic!() };
    assert_eq!(*keys, [gateway("m", "g7")]);
    assert_eq!(snapshot.len(), 2499);
    // Mixed: own commits behind those of others.
    for i in 0..50 {
        all(&*other, [put(&gateway("o", &i.to_string()), "x")]).await;
        let own = write(&world, [put(&gateway("w", &i.to_string()), "x")]).await;
        assert!(world.snapshot().revision >= own.revision);
    }
    assert_equal(&world).await;
}

async fn subscribers_of_all_speeds_converge(backend: &Backend) {
    let options = WorldOptions { ring_sets: 16, ring_keys: 40, ..WorldOptions::default() };
    let world = world(backend.open().await, options).await;
    let mut slow = world.subscribe();
    let mut fast = world.subscribe();
    let follower = tokio::spawn(async move {
        let mut copy = fast_copy(&mut fast, 300).await;
        copy.sort();
        copy
    });
    for i in 0..100 {
        let key = |n: i32| gateway("m", &n.to_string());
        write(&world, [put(&key(i), "x"), put(&key(i + 1), "y"), delete(&key(i - 1))]).await;
    }
    let revision = world.snapshot().revision;
    let Update::Resync { snapshot } = slow.next().await else { panic!() };
    assert_eq!(snapshot.revision, revision);
    write(&world, [put(&gateway("m", "last"), "x")]).await;
    let Update::Changes { keys, .. } = slow.next().await else { panic!() };
    assert_eq!(*keys, [gateway("m", "last")]);
    let mut want: Vec<_> = world.snapshot().iter().map(|r| (r.key.clone(), r.revision)).collect();
    want.sort();
    let copy = tokio::time::timeout(Duration::from_secs(30), follower).await.unwrap().unwrap();
    assert_eq!(copy, want);
}

/// What a subscriber has that only looks at the keys that it is told, at `revision` or later.
async fn fast_copy(
    subscription: &mut sunbear_store::Subscription,
    revision: Revision,
) -> Vec<(ResourceKey, Revision)> {
    let mut copy = std::collections::BTreeMap::new();
    while subscription.seen() < revision || !copy.contains_key(&gateway("m", "last")) {
        match subscription.next().await {
            Update::Changes { snapshot, keys } => {
                for key in keys.iter() {
                    match snapshot.get(key) {
                        Some(r) => copy.insert(key.clone(), r.revision),
                        None => copy.remove(key),
                    };
                }
            }
            Update::Resync { snapshot } => {
                copy = snapshot.iter().map(|r| (r.key.clone(), r.revision)).collect();
            }
            Update::Closed => panic!(),
        }
    }
    copy.into_iter().collect()
}

async fn compaction_makes_it_load_anew(backend: &Backend) {
    let store = backend.open().await;
    let blind = Arc::new(Shaky::new(Arc::clone(&store)));
    let world = world(Arc::clone(&blind) as Arc<dyn Store>, WorldOptions::default()).await;
    let mut subscription = world.subscribe();
    write(&world, [put(&gateway("m", "same"), "x"), put(&gateway("m", "gone"), "x")]).await;
    let same = world.snapshot().find(Kind::MESH_GATEWAY, "m", "same").cloned().unwrap();
    let Update::Changes { .. } = subscription.next().await else { panic!() };
    // While the world cannot read, the log moves on and is compacted.
    blind.fail(true);
    for i in 0..20 {
        all(&*store, [put(&gateway("m", &i.to_string()), "x")]).await;
    }
    all(&*store, [delete(&gateway("m", "gone"))]).await;
    let keep = Retention { feed_rows: 2, feed_since: now(), ..Retention::standard(now()) };
    store.compact(keep).await.unwrap();
    blind.fail(false);
    let Update::Resync { snapshot } = subscription.next().await else { panic!() };
    assert_eq!(snapshot.revision, 23);
    assert_eq!(world.health().reloads, 1);
    // What did not change is the same object, decoded or not.
    assert!(Arc::ptr_eq(snapshot.find(Kind::MESH_GATEWAY, "m", "same").unwrap(), &same));
    assert_equal(&world).await;
    write(&world, [put(&gateway("m", "z"), "x")]).await;
    let Update::Changes { keys, .. } = subscription.next().await else { panic!() };
    assert_eq!(*keys, [gateway("m", "z")]);
}

async fn many_writers_one_world(backend: &Backend) {
    let world = world(backend.open().await, WorldOptions::default()).await;
    let writers: Vec<_> = (0..8)
        .map(|w| {
            let world = world.clone();
            tokio::spawn(async move {
                for i in 0..40 {
                    let key = gateway("m", &format!("{w}-{}", i % 7));
                    let committed = match i % 5 {
                        4 => write(&world, [delete(&key)]).await,
                        _ => write(&world, [put(&key, &i.to_string()), put(&mesh("m"), "x")]).await,
                    };
                    let snapshot = world.snapshot();
                    assert!(snapshot.revision >= committed.revision);
                    assert_eq!(snapshot.get(&key).is_some(), i % 5 != 4);
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_equal(&world).await;
    assert_eq!(world.health().state, WorldState::Following);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_database_leaves_memory_alone_and_is_found_again() {
    let store: Arc<dyn Store> = Arc::new(Sqlite::memory().await.unwrap());
    let shaky = Arc::new(Shaky::new(Arc::clone(&store)));
    let world = world(Arc::clone(&shaky) as Arc<dyn Store>, WorldOptions::default()).await;
    write(&world, [put(&mesh("m"), "x")]).await;
    shaky.fail(true);
    let refused = world.commit(batch(BatchMode::AllOrNothing, [put(&mesh("n"), "x")])).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))));
    all(&*store, [put(&mesh("o"), "x")]).await;
    shaky.wake.send_replace(2);
    until("notice", async || matches!(world.health().state, WorldState::Retrying(_)).then_some(()))
        .await;
    assert!(world.snapshot().mesh("m").is_some());
    assert_eq!(world.health().lag, 1);
    shaky.fail(false);
    let found = tokio::time::timeout(Duration::from_secs(20), world.wait_for(2)).await.unwrap();
    assert!(found.unwrap().mesh("o").is_some());
    until("recovery", async || (world.health().state == WorldState::Following).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_database_is_reported_and_not_applied() {
    let fill = async |names: &[&str]| {
        let store: Arc<dyn Store> = Arc::new(Sqlite::memory().await.unwrap());
        for name in names {
            all(&*store, [put(&mesh(name), "x")]).await;
        }
        store
    };
    let original = fill(&["a", "b", "c"]).await;
    for backup in [
        // Shorter; as long, with another end; longer, with another end.
        fill(&["a"]).await,
        fill(&["a", "b", "x"]).await,
        fill(&["a", "b", "x", "y", "z"]).await,
    ] {
        let shaky = Arc::new(Shaky::new(Arc::clone(&original)));
        let world = world(Arc::clone(&shaky) as Arc<dyn Store>, WorldOptions::default()).await;
        let mut subscription = world.subscribe();
        *shaky.inner.lock().unwrap() = backup;
        shaky.wake.send_modify(|r| *r += 10);
        until("notice", async || {
            matches!(world.health().state, WorldState::Regressed { ours: 3, .. }).then_some(())
        })
        .await;
        assert_eq!(world.snapshot().len(), 3);
        let refused = world.commit(batch(BatchMode::AllOrNothing, [put(&mesh("n"), "x")])).await;
        assert!(matches!(refused, Err(StoreError::Regressed { ours: 3, .. })), "{refused:?}");
        // Back to the right one: it goes on.
        *shaky.inner.lock().unwrap() = Arc::clone(&original);
        shaky.wake.send_modify(|r| *r += 10);
        until("recovery", async || (world.health().state == WorldState::Following).then_some(()))
            .await;
        let nothing = tokio::time::timeout(Duration::ZERO, subscription.next()).await;
        assert!(nothing.is_err(), "{nothing:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_learn_that_the_feed_ended() {
    let store: Arc<dyn Store> = Arc::new(Sqlite::memory().await.unwrap());
    let (world, feed) = World::start(store, WorldOptions::default()).await.unwrap();
    let feed = tokio::spawn(feed);
    let mut subscription = world.subscribe();
    write(&world, [put(&mesh("m"), "x")]).await;
    feed.abort();
    let _ = feed.await;
    assert!(matches!(subscription.next().await, Update::Changes { .. }));
    assert!(matches!(subscription.next().await, Update::Closed));
    assert_eq!(world.health().state, WorldState::Closed);
    assert!(world.wait_for(1).await.is_some());
    assert!(world.wait_for(2).await.is_none());
}

/// A store that fails when it is told to, and that can be exchanged.
struct Shaky {
    inner: Mutex<Arc<dyn Store>>,
    failing: watch::Sender<bool>,
    wake: watch::Sender<Revision>,
}

impl Shaky {
    fn new(inner: Arc<dyn Store>) -> Self {
        let wake = watch::channel(*inner.wake().borrow()).0;
        Self { inner: Mutex::new(inner), failing: watch::channel(false).0, wake }
    }

    fn fail(&self, failing: bool) {
        self.failing.send_replace(failing);
        // So that the feed looks.
        self.wake.send_modify(|r| *r += u64::from(failing));
    }

    fn call<'a, T: Send + 'a>(
        &'a self,
        call: impl for<'s> FnOnce(&'s dyn Store) -> BoxFuture<'s, Result<T, StoreError>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, StoreError>> {
        Box::pin(async move {
            if *self.failing.borrow() {
                return Err(StoreError::Unavailable("told to fail".into()));
            }
            let inner = Arc::clone(&*self.inner.lock().unwrap());
            call(&*inner).await
        })
    }
}

impl Store for Shaky {
    fn commit_fenced(
        &self,
        batch: Batch,
        fence: Option<Fence>,
    ) -> BoxFuture<'_, Result<Committed, StoreError>> {
        self.call(|s| s.commit_fenced(batch, fence))
    }
    fn load(&self) -> BoxFuture<'_, Result<Loaded, StoreError>> {
        self.call(|s| s.load())
    }
    fn changes_since(
        &self,
        since: Revision,
        limit: u32,
    ) -> BoxFuture<'_, Result<Changes, StoreError>> {
        self.call(move |s| s.changes_since(since, limit))
    }
    fn history(
        &self,
        key: &ResourceKey,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<HistoryEntry>, StoreError>> {
        let key = key.clone();
        self.call(move |s| s.history(&key, limit))
    }
    fn compact(&self, retention: Retention) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.call(|s| s.compact(retention))
    }
    fn wake(&self) -> watch::Receiver<Revision> {
        self.wake.subscribe()
    }
    fn poll_interval(&self) -> Duration {
        Duration::from_secs(1)
    }
    fn lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Lease, StoreError>> {
        let (name, holder) = (name.to_owned(), holder.to_owned());
        self.call(move |s| s.lease(&name, &holder, ttl))
    }
    fn release(&self, name: &str, holder: &str) -> BoxFuture<'_, Result<(), StoreError>> {
        let (name, holder) = (name.to_owned(), holder.to_owned());
        self.call(move |s| s.release(&name, &holder))
    }
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}
