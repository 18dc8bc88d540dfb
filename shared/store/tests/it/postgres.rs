//! What is special about Postgres: replicas, restarts, notifications, and why revisions come from a
//! counter.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use sqlx::{Connection as _, PgConnection, PgPool, postgres::PgPoolOptions};
use sunbear_store::{
    BatchMode, ChangeError, Changes, Expect, Gate, Hooks, Outcome, Postgres, PostgresOptions,
    RevisionSource, Store, StoreError, World, WorldOptions, WorldState, testing::TestPostgres,
};
use tokio::sync::Semaphore;

use crate::fixture::{
    all, batch, delete, gateway, mesh, now, one, owned, put, put_if, sorted, stored, until,
};

async fn database() -> Option<(Arc<TestPostgres>, String)> {
    let server = TestPostgres::shared().await?;
    let url = server.create_database().await.unwrap();
    Some((server, url))
}

async fn open(url: &str) -> Postgres {
    Postgres::connect(PostgresOptions::from_url(url).unwrap()).await.unwrap()
}

async fn open_with(url: &str, hooks: Hooks) -> Postgres {
    Postgres::connect_with_hooks(PostgresOptions::from_url(url).unwrap(), hooks).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_may_migrate_at_once_and_again() {
    let Some((_server, url)) = database().await else { return };
    let (a, b, c) = tokio::join!(open(&url), open(&url), open(&url));
    for (i, store) in [a, b, c].iter().enumerate() {
        one(store, put(&mesh(&format!("m{i}")), "x")).await.unwrap();
        assert_eq!(sorted(store).await.len(), i + 1);
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_hears_of_the_other() {
    let Some((_server, url)) = database().await else { return };
    let (a, b) = (open(&url).await, open(&url).await);
    until("listening", async || b.is_listening().then_some(())).await;
    let mut wake = b.wake();
    all(&a, [put(&mesh("m"), "x")]).await;
    // Far less than the poll interval.
    let heard = tokio::time::timeout(Duration::from_secs(5), wake.wait_for(|r| *r == 1)).await;
    assert_eq!(*heard.unwrap().unwrap(), 1);
    assert_eq!(b.poll_interval(), Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_notifications_the_poll_finds_changes() {
    let Some((_server, url)) = database().await else { return };
    let deaf = open_with(&url, Hooks { listen: false, ..Hooks::default() }).await;
    assert_eq!(deaf.poll_interval(), Duration::from_secs(1));
    let (world, feed) = World::start(Arc::new(deaf), WorldOptions::default()).await.unwrap();
    tokio::spawn(feed);
    let other = open(&url).await;
    let committed = all(&other, [put(&mesh("m"), "x")]).await;
    let found = tokio::time::timeout(Duration::from_secs(20), world.wait_for(committed.revision));
    assert!(found.await.unwrap().unwrap().mesh("m").is_some());
}

/// Writer A takes a number and stalls before its commit; writer B takes the next, and a reader
/// looks.
async fn interleave(revisions: RevisionSource) -> Option<Vec<u64>> {
    let (_server, url) = database().await?;
    let gate = Gate { arrived: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)) };
    let a =
        open_with(&url, Hooks { revisions, gate: Some(gate.clone()), ..Hooks::default() }).await;
    let b = open_with(&url, Hooks { revisions, ..Hooks::default() }).await;
    let mut watch = PgConnection::connect(&url).await.unwrap();
    let a = tokio::spawn(async move { all(&a, [put(&mesh("a"), "x")]).await.revision });
    gate.arrived.acquire().await.unwrap().forget();
    let reader = open_with(&url, Hooks { listen: false, ..Hooks::default() }).await;
    let b = tokio::spawn(async move { all(&b, [put(&mesh("b"), "x")]).await.revision });
    // Until B has committed, or waits for A. Without the counter it only waits for moments, and for
    // other things than A.
    loop {
        let waits: bool = sqlx::query_scalar(
            "SELECT count(*) > 0 FROM pg_stat_activity \
             WHERE wait_event_type = 'Lock' AND datname = current_database()",
        )
        .fetch_one(&mut watch)
        .await
        .unwrap();
        if (waits && revisions == RevisionSource::Counter) || b.is_finished() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let mut seen = Vec::new();
    let mut last = 0;
    let mut read = async |seen: &mut Vec<u64>| match reader.changes_since(last, 10).await.unwrap() {
        Changes::Rows(rows) => {
            seen.extend(rows.iter().map(|c| c.revision));
            last = seen.last().copied().unwrap_or(0);
        }
        other => panic!("{other:?}"),
    };
    read(&mut seen).await;
    gate.open.add_permits(1);
    let (a, b) = (a.await.unwrap(), b.await.unwrap());
    assert_eq!((a, b), (1, 2));
    read(&mut seen).await;
    Some(seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_counter_orders_revisions_by_commit() {
    if let Some(seen) = interleave(RevisionSource::Counter).await {
        assert_eq!(seen, [1, 2]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_sequence_would_lose_revisions() {
    if let Some(seen) = interleave(RevisionSource::PlainSequence).await {
        assert_eq!(seen, [2], "the reader at 2 never sees 1");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_under_load_loses_nothing_that_was_acknowledged() {
    let Some(server) = TestPostgres::start().await else { return };
    if !server.is_own() {
        eprintln!("SKIPPED: a foreign server cannot be restarted");
        return;
    }
    let url = server.create_database().await.unwrap();
    let mut options = PostgresOptions::from_url(&url).unwrap();
    options.acquire_timeout = Duration::from_millis(200);
    let store: Arc<dyn Store> = Arc::new(Postgres::connect(options).await.unwrap());
    let (world, feed) = World::start(Arc::clone(&store), WorldOptions::default()).await.unwrap();
    tokio::spawn(feed);

    let stop = Arc::new(AtomicBool::new(false));
    let refused = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = (0..4)
        .map(|w| {
            let (world, stop, refused, done) =
                (world.clone(), Arc::clone(&stop), Arc::clone(&refused), Arc::clone(&done));
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for i in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let key = gateway("m", &format!("w{w}-{i}"));
                    match world.commit(batch(BatchMode::AllOrNothing, [put(&key, "x")])).await {
                        Ok(_) => {
                            acknowledged.push(key);
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(StoreError::Unavailable(_)) => {
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                }
                acknowledged
            })
        })
        .collect();
    for _ in 0..2 {
        let before = done.load(Ordering::Relaxed);
        until("writes", async || (done.load(Ordering::Relaxed) > before + 50).then_some(())).await;
        let before = refused.load(Ordering::Relaxed);
        server.kill();
        until("refusals", async || (refused.load(Ordering::Relaxed) > before + 4).then_some(()))
            .await;
        until("notice", async || {
            matches!(world.health().state, WorldState::Retrying(_)).then_some(())
        })
        .await;
        // Memory goes on serving.
        assert!(world.snapshot().len() > 50);
        server.run().await.unwrap();
        until("recovery", async || (world.health().state == WorldState::Following).then_some(()))
            .await;
    }
    let before = done.load(Ordering::Relaxed);
    until("writes again", async || (done.load(Ordering::Relaxed) > before + 50).then_some(()))
        .await;
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    let loaded = store.load().await.unwrap();
    let snapshot = world.wait_for(loaded.revision).await.unwrap();
    assert_eq!(snapshot.len(), loaded.resources.len());
    for key in &acknowledged {
        assert!(snapshot.get(key).is_some(), "{key} was acknowledged and is lost");
    }
    assert_eq!(world.health().reloads, 0);
    println!("{} acknowledged, {} refused", acknowledged.len(), refused.load(Ordering::Relaxed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_database_says_so() {
    let Some((_server, url)) = database().await else { return };
    let store = open(&url).await;
    one(&store, put(&mesh("m"), "x")).await.unwrap();
    let mut admin = PgConnection::connect(&url).await.unwrap();
    let name = url.rsplit('/').next().unwrap();
    // As after a failover: the sessions break, and new ones reach a server that takes no writes.
    let set = async |admin: &mut PgConnection, read_only: &str| {
        let sql = format!("ALTER DATABASE {name} SET default_transaction_read_only = {read_only}");
        sqlx::query("SET default_transaction_read_only = off").execute(&mut *admin).await.unwrap();
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut *admin).await.unwrap();
    };
    set(&mut admin, "on").await;
    sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    .execute(&mut admin)
    .await
    .unwrap();
    let refused = store.commit(batch(BatchMode::AllOrNothing, [put(&mesh("m"), "y")])).await;
    assert!(matches!(refused, Err(StoreError::ReadOnly(_))), "{refused:?}");
    assert_eq!(sorted(&store).await.len(), 1);
    // Sessions that are read-only are not kept for later writes.
    set(&mut admin, "off").await;
    until("writes again", async || {
        store.commit(batch(BatchMode::AllOrNothing, [put(&mesh("m"), "z")])).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_there() {
    let mut options = PostgresOptions::new("127.0.0.1", 1, "u", "p", "d");
    options.acquire_timeout = Duration::from_millis(100);
    let error = Postgres::connect(options).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert!(error.is_retryable());
}

/// One write after the other, as REST makes them. Prints, and asserts nothing about time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_long_a_write_takes() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = sunbear_store::Sqlite::open(folder.path().join("db")).await.unwrap();
    let mut stores: Vec<(&str, Arc<dyn Store>)> = vec![("sqlite", Arc::new(sqlite))];
    let database = database().await;
    if let Some((_, url)) = &database {
        stores.push(("postgres", Arc::new(open(url).await)));
    }
    for (name, store) in stores {
        let (world, feed) = World::start(store, WorldOptions::default()).await.unwrap();
        tokio::spawn(feed);
        let mut times = Vec::new();
        for i in 0..300 {
            let key = gateway("m", &format!("g{}", i % 50));
            let mut wish = batch(BatchMode::AllOrNothing, [put(&key, &i.to_string().repeat(500))]);
            wish.at = now();
            let start = std::time::Instant::now();
            world.commit(wish).await.unwrap();
            times.push(start.elapsed());
        }
        times.sort();
        println!("{name}: median {:?}, 99th of 100 {:?}", times[150], times[297]);
    }
}

/// Plans are made while there is hardly a row, and kept. They must not become slow as rows come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_write_reads_a_whole_table() {
    const WRITES: usize = 50;
    let Some((_server, url)) = database().await else { return };
    let owner = mesh("m");
    let store = open(&url).await;
    one(&store, put(&owner, "x")).await.unwrap();
    store.close().await;
    let before = whole_reads(&url).await;

    let store = open(&url).await;
    let (a, b) = (gateway("m", "a"), gateway("m", "b"));
    for i in 0..WRITES {
        let created = gateway("m", &format!("g{i}"));
        all(&store, [owned(&created, "x", &owner)]).await;
        all(&store, [put(&a, &i.to_string())]).await;
        // Groups of several callers.
        let wishes = [&created, &b].map(|key| {
            store.commit(batch(BatchMode::AllOrNothing, [put(key, &format!("group {i}"))]))
        });
        for answer in futures_util::future::join_all(wishes).await {
            answer.unwrap();
        }
        all(&store, [delete(&created)]).await;
        let Changes::Rows(rows) = store.changes_since(1, 10).await.unwrap() else {
            panic!("nothing was compacted")
        };
        assert!(!rows.is_empty());
        store.history(&a, 3).await.unwrap();
    }
    store.close().await;
    assert_eq!(whole_reads(&url).await, before);
}

/// How often somebody has read a whole table of resources or of the log. Sessions have reported what
/// they did when they have ended.
async fn whole_reads(url: &str) -> Vec<(String, i64)> {
    let watch = PgPoolOptions::new().max_connections(1).connect(url).await.unwrap();
    until("the end of other sessions", async || {
        let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
            AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
        let n: i64 = sqlx::query_scalar(others).fetch_one(&watch).await.unwrap();
        (n == 0).then_some(())
    })
    .await;
    let reads = "SELECT relname::text, seq_scan FROM pg_stat_user_tables \
        WHERE relname IN ('resources', 'changes') ORDER BY relname";
    sqlx::query_as(reads).fetch_all(&watch).await.unwrap()
}

/// Callers who wait for a commit are served by one transaction, and each gets its own answer: what
/// fails, depends on another one, or writes nothing has no effect on the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_writers_share_a_transaction() {
    const WRITERS: usize = 40;
    let Some((_server, url)) = database().await else { return };
    let store = open(&url).await;
    let owner = mesh("m");
    let old = gateway("m", "old");
    all(&store, [put(&owner, "x"), put(&old, "same")]).await;

    let watch = PgPool::connect(&url).await.unwrap();
    let mut other = PgConnection::connect(&url).await.unwrap();
    let mut hold = other.begin().await.unwrap();
    sqlx::query("SELECT n FROM counters FOR UPDATE").execute(&mut *hold).await.unwrap();
    let wishes = (0..WRITERS).map(|i| {
        let change = match i {
            10 => put_if(&old, "y", Expect::Version(99)),
            11 => put(&gateway("m", "g9"), "again"),
            12 => owned(&gateway("m", "orphan"), "x", &mesh("none")),
            13 => put(&old, "same"),
            _ => owned(&gateway("m", &format!("g{i}")), &i.to_string(), &owner),
        };
        let mut wish = batch(BatchMode::AllOrNothing, [change]);
        wish.author = format!("writer {i}\0");
        store.commit(wish)
    });
    let release = async {
        until("a writer that waits", async || {
            let waiting = "SELECT count(*) FROM pg_stat_activity \
                WHERE wait_event_type = 'Lock' AND datname = current_database()";
            let n: i64 = sqlx::query_scalar(waiting).fetch_one(&watch).await.unwrap();
            (n > 0).then_some(())
        })
        .await;
        hold.rollback().await.unwrap();
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(wishes), release);

    let mut revisions = Vec::new();
    for (i, answer) in answers.into_iter().enumerate() {
        let answer = answer.unwrap();
        revisions.extend(answer.written.iter().map(|w| (w.revision, i)));
        match (i, answer.results.into_iter().next().unwrap()) {
            (10, Err(ChangeError::Conflict(key))) => assert_eq!(key, old),
            (12, Err(ChangeError::OwnerMissing { .. })) => {}
            (13, Ok(Outcome::Unchanged(resource))) => assert_eq!(resource.key, old),
            (11, Ok(Outcome::Updated(resource))) => {
                assert_eq!((resource.version, resource.key.name.as_ref()), (2, "g9"));
            }
            (_, Ok(Outcome::Created(_))) if !(10..=13).contains(&i) => {}
            (i, other) => panic!("writer {i}: {other:?}"),
        }
    }
    revisions.sort_unstable();
    assert_eq!(revisions.len(), WRITERS - 3);
    for ((revision, writer), expected) in revisions.iter().zip(3..) {
        assert_eq!(*revision, expected);
        let author: String = sqlx::query_scalar("SELECT author FROM changes WHERE revision = $1")
            .bind(i64::try_from(*revision).unwrap())
            .fetch_one(&watch)
            .await
            .unwrap();
        assert_eq!(author, format!("writer {writer}"));
    }
    let transactions: i64 =
        sqlx::query_scalar("SELECT count(DISTINCT xmin::text) FROM changes WHERE revision > 2")
            .fetch_one(&watch)
            .await
            .unwrap();
    assert!(transactions < WRITERS as i64 / 2, "{transactions} transactions");
    assert_eq!(stored(&store, &gateway("m", "g9")).await.unwrap().version, 2);
    store.close().await;
}
