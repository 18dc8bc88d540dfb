//! The order of the log under concurrent writers.

use std::{sync::Arc, time::Duration};

use sunbear_store::{Batch, BatchMode, ChangeError, Changes, Event, Expect, Outcome, Store};

use crate::fixture::{Backend, all, batch, gateway, on_all_stores, one, put, put_if, stored};

on_all_stores! {
    eight_writers_and_a_reader
    one_object_and_many_writers
    creators_of_one_key
}

/// Follows the log until `last`; checks that it gets every revision once and in order.
async fn follow(store: Arc<dyn Store>, last: u64) -> usize {
    let mut wake = store.wake();
    let (mut seen, mut objects) = (0, 0);
    while seen < last {
        let Changes::Rows(rows) = store.changes_since(seen, 50).await.unwrap() else { panic!() };
        for row in &rows {
            assert_eq!(row.revision, seen + 1, "a revision is missing or out of order");
            seen = row.revision;
            objects += usize::from(row.event != Event::Skipped);
        }
        if rows.is_empty() {
            let _ = tokio::time::timeout(Duration::from_secs(10), wake.changed()).await.unwrap();
        }
    }
    objects
}

async fn eight_writers_and_a_reader(backend: &Backend) {
    let store = backend.open().await;
    let reader = tokio::spawn(follow(Arc::clone(&store), 1600));
    let writers: Vec<_> = (0..8)
        .map(|w| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut last = 0;
                for i in 0..100 {
                    let own = gateway("m", &format!("w{w}-{i}"));
                    let changes =
                        [put(&own, "x"), put(&gateway("m", &format!("w{w}")), &i.to_string())];
                    let committed = all(&*store, changes).await;
                    let revisions: Vec<u64> =
                        committed.written.iter().map(|c| c.revision).collect();
                    assert_eq!(revisions, [committed.revision - 1, committed.revision]);
                    assert!(committed.revision > last);
                    last = committed.revision;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let objects = tokio::time::timeout(Duration::from_secs(60), reader).await.unwrap().unwrap();
    // The 800 that were written once; the others may have been seen or overtaken.
    assert!(objects >= 808, "{objects}");
    assert_eq!(store.load().await.unwrap().revision, 1600);
}

async fn one_object_and_many_writers(backend: &Backend) {
    let store = backend.open().await;
    let key = gateway("m", "counter");
    one(&*store, put(&key, "0")).await.unwrap();
    // Each adds one, by compare-and-swap; nobody's addition may get lost.
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let (store, key) = (Arc::clone(&store), key.clone());
            tokio::spawn(async move {
                let mut conflicts = 0;
                for _ in 0..10 {
                    loop {
                        let old = stored(&*store, &key).await.unwrap();
                        let n: u64 = std::str::from_utf8(old.spec.wire()).unwrap().parse().unwrap();
                        let change =
                            put_if(&key, &(n + 1).to_string(), Expect::Version(old.version));
                        match one(&*store, change).await {
                            Ok(_) => break,
                            Err(ChangeError::Conflict(_)) => conflicts += 1,
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
                conflicts
            })
        })
        .collect();
    let mut conflicts = 0;
    for writer in writers {
        conflicts += writer.await.unwrap();
    }
    let end = stored(&*store, &key).await.unwrap();
    assert_eq!(end.spec.wire(), b"80");
    assert_eq!(end.version, 81);
    assert_eq!(end.revision, 81);
    println!("{conflicts} conflicts");
}

async fn creators_of_one_key(backend: &Backend) {
    let store = backend.open().await;
    for round in 0..20 {
        let key = gateway("m", &format!("k{round}"));
        let writers: Vec<_> = (0..8)
            .map(|w: i32| {
                let store = Arc::clone(&store);
                // Half insist on being first, half take what comes.
                let expect = if w % 2 == 0 { Expect::Absent } else { Expect::Any };
                let wish: Batch =
                    batch(BatchMode::AllOrNothing, [put_if(&key, &w.to_string(), expect)]);
                tokio::spawn(async move { store.commit(wish).await.unwrap().results.remove(0) })
            })
            .collect();
        let mut created = 0;
        for writer in writers {
            match writer.await.unwrap() {
                Ok(Outcome::Created(_)) => created += 1,
                Ok(Outcome::Updated(_)) | Err(ChangeError::AlreadyExists(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(created, 1);
    }
    let head = store.load().await.unwrap().revision;
    assert_eq!(follow(Arc::clone(&store), head).await, 20);
}
