//! What every store must do.

use std::{sync::Arc, time::Duration};

use sunbear_model::{Kind, Owner, ResourceKey};
use sunbear_store::{
    BatchMode, ChangeError, Changes, Event, Expect, Fence, HistoryOp, Lease, Outcome, Retention,
    Store, StoreError,
};

use crate::fixture::{
    Backend, all, batch, delete, delete_if, gateway, labelled, labels, mesh, now, on_all_stores,
    one, owned, put, put_if, sorted, spec, stored, with_status,
};

on_all_stores! {
    put_and_load
    preconditions
    equal_put_writes_nothing
    status_and_owner
    delete_takes_what_is_owned
    delete_takes_what_has_become_owned
    batches
    one_key_often_in_a_batch
    limits
    history_and_its_exceptions
    log_and_compaction
    reopen
    leases_and_fencing
    big_batch
}

async fn rows(store: &dyn Store, since: u64) -> Vec<sunbear_store::WorldChange> {
    match store.changes_since(since, 1_000_000).await.unwrap() {
        Changes::Rows(rows) => rows,
        other => panic!("{other:?}"),
    }
}

async fn put_and_load(backend: &Backend) {
    let store = backend.open().await;
    assert_eq!(store.load().await.unwrap().revision, 0);
    assert_eq!(rows(&*store, 0).await, []);

    let key = gateway("default", "edge");
    let at = now();
    let change = labelled(put(&key, "a\0\u{ff}"), &[("kuma.io/zone", "z"), ("b", "\"ü\\")]);
    let mut wish = batch(BatchMode::AllOrNothing, [change]);
    wish.at = at;
    let committed = store.commit(wish).await.unwrap();
    assert_eq!(committed.revision, 1);
    let Ok(Outcome::Created(created)) = &committed.results[0] else { panic!("{committed:?}") };
    assert_eq!(created.version, 1);
    assert_eq!(created.revision, 1);
    assert_eq!(created.labels, labels(&[("kuma.io/zone", "z"), ("b", "\"ü\\")]));
    assert_eq!(created.spec, spec(&key, "a\0\u{ff}"));
    assert!((at - created.created_at).unsigned_abs() < Duration::from_micros(1));
    assert_eq!(created.modified_at, created.created_at);
    // What the commit says is what the database says.
    assert_eq!(sorted(&*store).await, [Arc::clone(created)]);
    assert_eq!(rows(&*store, 0).await, committed.written);
    assert_eq!(*store.wake().borrow(), 1);

    let Ok(Outcome::Updated(updated)) = one(&*store, put(&key, "")).await else { panic!() };
    assert_eq!((updated.version, updated.revision, updated.uid), (2, 2, created.uid));
    assert_eq!(updated.created_at, created.created_at);
    assert!(updated.labels.is_empty());
    assert_eq!(stored(&*store, &key).await.unwrap(), updated);

    // The same name elsewhere is another object.
    one(&*store, put(&gateway("other", "edge"), "x")).await.unwrap();
    one(&*store, put(&ResourceKey::new(Kind::MESH_TIMEOUT, "default", "edge"), "{}"))
        .await
        .unwrap();
    assert_eq!(store.load().await.unwrap().revision, 4);
    assert_eq!(sorted(&*store).await.len(), 3);
    store.close().await;
    assert!(matches!(store.load().await, Err(StoreError::Unavailable(_))));
    let closed = store.commit(batch(BatchMode::Independent, [put(&key, "y")])).await;
    assert!(matches!(closed, Err(StoreError::Unavailable(_))), "{closed:?}");
}

async fn preconditions(backend: &Backend) {
    let store = backend.open().await;
    let key = gateway("m", "n");
    let text = r#"type="MeshGateway" name="n" mesh="m""#;
    let fails = async |change, kind: &str| {
        let error = one(&*store, change).await.unwrap_err();
        assert_eq!(error.to_string(), format!("resource {kind}: {text}"));
    };
    fails(put_if(&key, "1", Expect::Present), "not found").await;
    fails(put_if(&key, "1", Expect::Version(1)), "not found").await;
    fails(delete_if(&key, Expect::Present), "not found").await;
    fails(delete_if(&key, Expect::Version(1)), "not found").await;
    assert!(
        matches!(one(&*store, delete(&key)).await, Ok(Outcome::Deleted(keys)) if keys.is_empty())
    );
    assert_eq!(rows(&*store, 0).await, []);

    one(&*store, put_if(&key, "1", Expect::Absent)).await.unwrap();
    fails(put_if(&key, "2", Expect::Absent), "already exists").await;
    fails(put_if(&key, "1", Expect::Absent), "already exists").await;
    one(&*store, put_if(&key, "2", Expect::Version(1))).await.unwrap();
    fails(put_if(&key, "3", Expect::Version(1)), "conflict").await;
    fails(put_if(&key, "2", Expect::Version(1)), "conflict").await;
    fails(delete_if(&key, Expect::Version(1)), "conflict").await;
    one(&*store, put_if(&key, "3", Expect::Present)).await.unwrap();
    assert_eq!(stored(&*store, &key).await.unwrap().version, 3);
    let before = stored(&*store, &key).await.unwrap();
    let Ok(Outcome::Deleted(keys)) = one(&*store, delete_if(&key, Expect::Version(3))).await else {
        panic!()
    };
    assert_eq!(keys, std::slice::from_ref(&key));
    // A new object of the same name is not the old one.
    one(&*store, put_if(&key, "3", Expect::Absent)).await.unwrap();
    let after = stored(&*store, &key).await.unwrap();
    assert_ne!(before.uid, after.uid);
    assert_eq!((after.version, after.revision), (1, 5));
}

async fn equal_put_writes_nothing(backend: &Backend) {
    let store = backend.open().await;
    let (a, b) = (mesh("a"), gateway("a", "b"));
    let changes =
        || [put(&a, "1"), labelled(with_status(owned(&b, "2", &a), Some("{}")), &[("x", "y")])];
    all(&*store, changes()).await;
    let before = sorted(&*store).await;
    let again = all(&*store, changes()).await;
    for (result, key) in again.results.iter().zip([&a, &b]) {
        let Ok(Outcome::Unchanged(resource)) = result else { panic!("{result:?}") };
        assert_eq!(resource, before.iter().find(|r| r.key == *key).unwrap());
    }
    assert!(again.written.is_empty());
    assert_eq!(again.revision, 2);
    assert_eq!(store.load().await.unwrap().revision, 2);
    assert_eq!(sorted(&*store).await, before);
    assert_eq!(rows(&*store, 0).await.len(), 2);
    // Keeping status and owner is equal too.
    let keep = one(&*store, labelled(put(&b, "2"), &[("x", "y")])).await;
    assert!(matches!(keep, Ok(Outcome::Unchanged(_))));
    // Each part alone makes a difference.
    for change in [put(&b, "2"), put(&b, "3"), with_status(put(&b, "3"), None), owned(&b, "3", &b)]
    {
        let done = one(&*store, change).await;
        assert!(matches!(done, Ok(Outcome::Updated(_))), "{done:?}");
    }
    assert_eq!(store.load().await.unwrap().revision, 6);
}

async fn status_and_owner(backend: &Backend) {
    let store = backend.open().await;
    let (a, b) = (mesh("a"), gateway("a", "b"));
    let missing = one(&*store, owned(&b, "1", &a)).await.unwrap_err();
    assert_eq!(missing, ChangeError::OwnerMissing { key: b.clone(), owner: a.clone() });
    // An earlier change of the batch may create the owner.
    all(&*store, [put(&a, "1"), with_status(owned(&b, "1", &a), Some(r#"{"s":1}"#))]).await;
    let owner = stored(&*store, &a).await.unwrap();
    let child = stored(&*store, &b).await.unwrap();
    assert_eq!(child.owner, Some(Owner { uid: owner.uid }));
    assert_eq!(child.status.as_deref(), Some(&br#"{"s":1}"#[..]));
    one(&*store, put(&b, "2")).await.unwrap();
    let child = stored(&*store, &b).await.unwrap();
    assert_eq!(child.owner, Some(Owner { uid: owner.uid }));
    assert_eq!(child.status.as_deref(), Some(&br#"{"s":1}"#[..]));
    // Empty is not none.
    one(&*store, with_status(put(&b, "2"), Some(""))).await.unwrap();
    assert_eq!(stored(&*store, &b).await.unwrap().status.as_deref(), Some(&b""[..]));
    one(&*store, with_status(put(&b, "2"), None)).await.unwrap();
    assert_eq!(stored(&*store, &b).await.unwrap().status, None);
}

/// In one batch an object gets an owner, which then goes, and takes it along with what it owns.
async fn delete_takes_what_has_become_owned(backend: &Backend) {
    let store = backend.open().await;
    let (m, other) = (mesh("m"), mesh("other"));
    let (a, b) = (gateway("m", "a"), gateway("m", "b"));
    all(&*store, [put(&m, "m"), put(&other, "o"), owned(&a, "a", &other), owned(&b, "b", &a)])
        .await;
    let committed = all(&*store, [owned(&a, "a", &m), delete(&m)]).await;
    let Ok(Outcome::Deleted(keys)) = &committed.results[1] else { panic!("{committed:?}") };
    assert_eq!(*keys, [b, a, m]);
    assert_eq!(sorted(&*store).await.len(), 1);
}

async fn delete_takes_what_is_owned(backend: &Backend) {
    let store = backend.open().await;
    let m = mesh("m");
    let dp = ResourceKey::new(Kind::DATAPLANE, "m", "dp");
    let insight = ResourceKey::new(Kind::DATAPLANE_INSIGHT, "m", "dp");
    let (g1, g2) = (gateway("m", "g1"), gateway("m", "g2"));
    let other = mesh("other");
    all(
        &*store,
        [
            put(&other, "o"),
            put(&m, "m"),
            labelled(owned(&g2, "g2", &m), &[("kuma.io/zone", "z2")]),
            owned(&dp, "dp", &m),
            owned(&insight, "i", &dp),
            labelled(owned(&g1, "g1", &m), &[("kuma.io/zone", "z1")]),
        ],
    )
    .await;
    let committed = all(&*store, [delete(&m)]).await;
    let order = [g2, g1, insight, dp, m];
    let Ok(Outcome::Deleted(keys)) = &committed.results[0] else { panic!() };
    // Owned before owner, in an order that depends on names alone.
    let position = |key: &ResourceKey| keys.iter().position(|k| k == key).unwrap();
    assert_eq!(keys.len(), order.len());
    assert!(position(&order[2]) < position(&order[3]));
    assert_eq!(position(&order[4]), 4);
    let feed = rows(&*store, 6).await;
    assert_eq!(feed, committed.written);
    let mut tombstones = Vec::new();
    for (change, revision) in feed.iter().zip(7..) {
        let Event::Deleted(tombstone) = &change.event else { panic!("{change:?}") };
        assert_eq!(change.revision, revision);
        tombstones.push(tombstone.clone());
    }
    assert_eq!(
        tombstones.iter().map(|t| &t.key).collect::<Vec<_>>(),
        keys.iter().collect::<Vec<_>>()
    );
    let zone = |i: usize| tombstones[position(&order[i])].labels.clone();
    assert_eq!(zone(0), labels(&[("kuma.io/zone", "z2")]));
    assert_eq!(zone(1), labels(&[("kuma.io/zone", "z1")]));
    assert_eq!(sorted(&*store).await.len(), 1);
    // The older entries stay, without their objects.
    let log = rows(&*store, 0).await;
    assert_eq!(log.iter().map(|c| c.revision).collect::<Vec<_>>(), (1..=11).collect::<Vec<_>>());
    assert!(log[1..6].iter().all(|c| c.event == Event::Skipped));
}

async fn batches(backend: &Backend) {
    let store = backend.open().await;
    let (a, b, c) = (mesh("a"), mesh("b"), mesh("c"));
    one(&*store, put(&a, "1")).await.unwrap();
    let changes = || [put(&b, "1"), put_if(&a, "2", Expect::Absent), put(&c, "1")];
    let none = all(&*store, changes()).await;
    assert!(none.written.is_empty());
    assert!(matches!(&none.results[0], Err(ChangeError::NotApplied(k)) if *k == b));
    assert!(matches!(&none.results[1], Err(ChangeError::AlreadyExists(k)) if *k == a));
    assert!(matches!(&none.results[2], Err(ChangeError::NotApplied(k)) if *k == c));
    assert_eq!(sorted(&*store).await.len(), 1);

    let rest = store.commit(batch(BatchMode::Independent, changes())).await.unwrap();
    assert!(matches!(&rest.results[0], Ok(Outcome::Created(_))));
    assert!(matches!(&rest.results[1], Err(ChangeError::AlreadyExists(k)) if *k == a));
    assert!(matches!(&rest.results[2], Ok(Outcome::Created(_))));
    assert_eq!(rest.written.len(), 2);
    assert_eq!(rest.revision, 3);
    assert_eq!(sorted(&*store).await.len(), 3);

    let empty = all(&*store, []).await;
    assert!(empty.results.is_empty() && empty.written.is_empty());
}

async fn one_key_often_in_a_batch(backend: &Backend) {
    let store = backend.open().await;
    let (m, g, n) = (mesh("m"), gateway("m", "g"), mesh("n"));
    // Created and deleted at once; replaced twice; deleted and created again; moved to an owner
    // that is created later in the batch, away from one that is deleted.
    all(&*store, [put(&m, "1"), owned(&g, "1", &m)]).await;
    let old = stored(&*store, &m).await.unwrap();
    let committed = all(
        &*store,
        [
            put(&n, "x"),
            put(&n, "y"),
            owned(&g, "2", &n),
            delete(&m),
            put(&m, "2"),
            put(&mesh("gone"), "1"),
            owned(&gateway("gone", "too"), "1", &mesh("gone")),
            delete(&mesh("gone")),
        ],
    )
    .await;
    assert!(committed.results.iter().all(Result::is_ok), "{committed:?}");
    let revisions: Vec<u64> = committed.written.iter().map(|c| c.revision).collect();
    assert_eq!(revisions, (3..=11).collect::<Vec<_>>());
    let left = sorted(&*store).await;
    let names: Vec<String> = left.iter().map(|r| r.key.to_string()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    let new = stored(&*store, &m).await.unwrap();
    assert_ne!(old.uid, new.uid);
    assert_eq!(new.revision, 7);
    let n = stored(&*store, &n).await.unwrap();
    assert_eq!((n.version, n.revision), (2, 4));
    let g = stored(&*store, &g).await.unwrap();
    assert_eq!(g.owner, Some(Owner { uid: n.uid }));
    // Entry by entry the log of the commit leads to what is stored.
    let Ok(Outcome::Created(seen)) = &committed.results[4] else { panic!() };
    assert_eq!(*seen, new);
}

async fn limits(backend: &Backend) {
    let store = backend.open().await;
    let long = mesh(&"n".repeat(254));
    let error = one(&*store, put(&long, "")).await.unwrap_err();
    assert!(matches!(error, ChangeError::TooLarge { what: "name", size: 254, .. }), "{error:?}");
    one(&*store, put(&gateway(&"m".repeat(253), &"n".repeat(253)), "")).await.unwrap();
    let error = one(&*store, put(&mesh("a\0b"), "")).await.unwrap_err();
    assert!(matches!(error, ChangeError::NullCharacter { what: "name", .. }));
    assert!(matches!(one(&*store, delete(&mesh("a\0b"))).await, Ok(Outcome::Deleted(_))));
    assert_eq!(store.history(&mesh("a\0b"), 1).await.unwrap(), []);
    let error = one(&*store, labelled(put(&mesh("a"), ""), &[("k", "\0")])).await.unwrap_err();
    assert!(matches!(error, ChangeError::NullCharacter { what: "labels", .. }));
    let error = one(&*store, put(&mesh("a"), &"x".repeat((16 << 20) + 1))).await.unwrap_err();
    assert!(matches!(error, ChangeError::TooLarge { what: "spec", .. }));
    // Author and reason come from headers and the like; they must not make a write fail.
    let mut odd = batch(BatchMode::AllOrNothing, [put(&mesh("a"), "1")]);
    odd.author = "a\0b".to_owned();
    odd.reason = "\0".to_owned();
    store.commit(odd).await.unwrap();
    let history = store.history(&mesh("a"), 1).await.unwrap();
    assert_eq!((&*history[0].author, &*history[0].reason), ("ab", ""));
    let large = "x".repeat(1 << 20);
    one(&*store, put(&mesh("a"), &large)).await.unwrap();
    assert_eq!(stored(&*store, &mesh("a")).await.unwrap().spec, spec(&mesh("a"), &large));
}

async fn history_and_its_exceptions(backend: &Backend) {
    let store = backend.open().await;
    let key = gateway("m", "n");
    one(&*store, labelled(put(&key, "1"), &[("a", "1")])).await.unwrap();
    one(&*store, labelled(put(&key, "2"), &[("a", "2")])).await.unwrap();
    one(&*store, delete(&key)).await.unwrap();
    one(&*store, put(&key, "3")).await.unwrap();
    let history = store.history(&key, 10).await.unwrap();
    let told: Vec<_> = history.iter().map(|h| (h.revision, h.op, h.version)).collect();
    use HistoryOp::{Created, Deleted, Updated};
    assert_eq!(told, [(4, Created, 1), (3, Deleted, 2), (2, Updated, 2), (1, Created, 1)]);
    assert_eq!(history[2].spec, Some(spec(&key, "2")));
    assert_eq!(history[2].labels, labels(&[("a", "2")]));
    assert_eq!(history[1].labels, labels(&[("a", "2")]));
    assert_eq!(history[1].spec, None);
    assert_eq!((&*history[0].author, &*history[0].reason), ("tester", "test"));
    assert_eq!(history[1].uid, history[3].uid);
    assert_ne!(history[0].uid, history[1].uid);
    assert_eq!(store.history(&key, 1).await.unwrap(), history[..1]);
    assert_eq!(store.history(&gateway("m", "x"), 9).await.unwrap(), []);

    for kind in [Kind::SECRET, Kind::GLOBAL_SECRET, Kind::DATAPLANE_INSIGHT, Kind::ZONE_INSIGHT] {
        let key = ResourceKey::new(kind, "m", "s");
        one(&*store, put(&key, "secret")).await.unwrap();
        let history = store.history(&key, 10).await.unwrap();
        assert_eq!(history.len(), 1);
        assert_eq!(history[0].spec, None, "{kind}");
    }
}

async fn log_and_compaction(backend: &Backend) {
    let store = backend.open().await;
    let (g, secret) = (gateway("m", "g"), ResourceKey::new(Kind::SECRET, "m", "s"));
    for i in 0..10 {
        one(&*store, put(&g, &i.to_string())).await.unwrap();
        one(&*store, put(&secret, &i.to_string())).await.unwrap();
    }
    // Paging.
    let Changes::Rows(page) = store.changes_since(3, 4).await.unwrap() else { panic!() };
    assert_eq!(page.iter().map(|c| c.revision).collect::<Vec<_>>(), [4, 5, 6, 7]);
    assert_eq!(store.changes_since(20, 4).await.unwrap(), Changes::Rows(Vec::new()));
    assert_eq!(store.changes_since(21, 4).await.unwrap(), Changes::Regressed { head: 20 });

    let ago = |hours| now() - time::Duration::hours(hours);
    let mut keep = Retention {
        feed_since: ago(1),
        feed_rows: 6,
        history_per_object: 3,
        history_since: ago(2),
    };
    // Up to 14: all seven of the secret, and those of the gateway that are not its newest three.
    assert_eq!(store.compact(keep.clone()).await.unwrap(), 7 + 7);
    assert_eq!(store.compact(keep.clone()).await.unwrap(), 0);
    assert_eq!(store.changes_since(13, 100).await.unwrap(), Changes::Compacted);
    let Changes::Rows(tail) = store.changes_since(14, 100).await.unwrap() else { panic!() };
    assert_eq!(tail.iter().map(|c| c.revision).collect::<Vec<_>>(), (15..=20).collect::<Vec<_>>());
    assert_eq!(store.history(&g, 100).await.unwrap().len(), 3);

    // Everything old: only the newest entry stays in the feed, and history as asked for.
    keep.feed_since = ago(-1);
    store.compact(keep.clone()).await.unwrap();
    assert_eq!(store.changes_since(18, 100).await.unwrap(), Changes::Compacted);
    let Changes::Rows(tail) = store.changes_since(19, 100).await.unwrap() else { panic!() };
    assert_eq!(tail.len(), 1);
    assert_eq!(store.history(&g, 100).await.unwrap().len(), 3);
    keep.history_since = ago(-1);
    store.compact(keep).await.unwrap();
    assert_eq!(store.history(&g, 100).await.unwrap().len(), 0);
    // The state is untouched, and writing goes on.
    assert_eq!(sorted(&*store).await.len(), 2);
    assert_eq!(all(&*store, [put(&g, "new")]).await.revision, 21);
}

async fn reopen(backend: &Backend) {
    if matches!(backend, Backend::Memory) {
        return;
    }
    let store = backend.open().await;
    let m = mesh("m");
    all(&*store, [put(&m, "1"), with_status(owned(&gateway("m", "g"), "\0", &m), Some("{}"))])
        .await;
    let before = sorted(&*store).await;
    let log = rows(&*store, 0).await;
    store.close().await;
    let store = backend.open().await;
    assert_eq!(sorted(&*store).await, before);
    assert_eq!(rows(&*store, 0).await, log);
    assert_eq!(*store.wake().borrow(), 2);
    assert_eq!(all(&*store, [delete(&m)]).await.revision, 4);
}

async fn leases_and_fencing(backend: &Backend) {
    let store = backend.open().await;
    let minute = Duration::from_secs(60);
    let held = |fencing| Lease::Held { fencing };
    assert_eq!(store.lease("leader", "a", minute).await.unwrap(), held(1));
    assert_eq!(store.lease("leader", "a", minute).await.unwrap(), held(1));
    let other = Lease::Other { holder: "a".to_owned() };
    assert_eq!(store.lease("leader", "b", minute).await.unwrap(), other);
    assert_eq!(store.lease("another", "b", minute).await.unwrap(), held(1));
    store.release("leader", "b").await.unwrap();
    assert_eq!(store.lease("leader", "b", minute).await.unwrap(), other);

    let write = async |fencing, text: &str| {
        let fence = Some(Fence { name: "leader".to_owned(), fencing });
        store.commit_fenced(batch(BatchMode::AllOrNothing, [put(&mesh("m"), text)]), fence).await
    };
    write(1, "1").await.unwrap();
    // Let it lapse.
    assert_eq!(store.lease("leader", "a", Duration::ZERO).await.unwrap(), held(1));
    let lapsed = write(1, "2").await.unwrap_err();
    assert!(matches!(&lapsed, StoreError::Fenced(name) if name == "leader"), "{lapsed:?}");
    assert_eq!(store.lease("leader", "b", minute).await.unwrap(), held(2));
    let stalled = write(1, "2").await.unwrap_err();
    assert!(matches!(stalled, StoreError::Fenced(_)));
    write(2, "3").await.unwrap();
    assert_eq!(stored(&*store, &mesh("m")).await.unwrap().spec, spec(&mesh("m"), "3"));
}

async fn big_batch(backend: &Backend) {
    let store = backend.open().await;
    let keys: Vec<ResourceKey> = (0..5000).map(|i| gateway("m", &format!("g{i:04}"))).collect();
    let m = mesh("m");
    let body = "x".repeat(500);
    let wish = |body: &str| -> Vec<_> {
        [put(&m, "m")].into_iter().chain(keys.iter().map(|k| owned(k, body, &m))).collect()
    };
    let start = std::time::Instant::now();
    let created = all(&*store, wish(&body)).await;
    let create = start.elapsed();
    assert_eq!(created.revision, 5001);
    let updated = all(&*store, wish("y")).await;
    assert_eq!(updated.written.len(), 5000);
    let again = all(&*store, wish("y")).await;
    assert!(again.written.is_empty());
    assert_eq!(sorted(&*store).await.len(), 5001);
    let deleted = all(&*store, [delete(&m)]).await;
    assert_eq!(deleted.written.len(), 5001);
    assert_eq!(sorted(&*store).await.len(), 0);
    println!("5001 creates in {create:?}, everything in {:?}", start.elapsed());
}
