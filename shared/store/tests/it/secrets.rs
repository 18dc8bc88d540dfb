//! Secrets at rest: sealed in the database, plain everywhere else.

use std::{path::Path, sync::Arc};

use sqlx::Connection as _;
use sunbear_model::{Kind, ResourceKey};
use sunbear_store::{
    Changes, Event, HistoryOp, KeyRingError, Outcome, Postgres, PostgresOptions, Rotated,
    SecretCipher, Sqlite, Store, StoreError, World, WorldOptions,
};

use crate::fixture::{Backend, all, gateway, one, put, sorted, spec, stored};

const OLD: &str = "old:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const NEW: &str = "new-1:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const VALUE: &str = "a value that nobody may read in the database";

fn ring(keys: &[&str]) -> SecretCipher {
    SecretCipher::from_text(&keys.join("\n")).unwrap()
}

fn plain() -> SecretCipher {
    SecretCipher::default()
}

fn secret(name: &str) -> ResourceKey {
    ResourceKey::new(Kind::SECRET, "m", name)
}

fn global_secret(name: &str) -> ResourceKey {
    ResourceKey::new(Kind::GLOBAL_SECRET, "", name)
}

/// Runs each test on a file and on Postgres.
macro_rules! on_databases {
    ($($name:ident)*) => {
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

on_databases! {
    rows_are_sealed_and_nothing_else_is
    missing_and_wrong_keys
    rotation
    from_plain_to_sealed
    a_row_is_worth_nothing_elsewhere
    a_plain_spec_like_an_envelope
    no_rotation_without_a_key
}

async fn open(backend: &Backend, secrets: SecretCipher) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match backend {
        Backend::Memory => unreachable!("there is no database to look into"),
        Backend::File(folder) => {
            Arc::new(Sqlite::open_with_secrets(folder.path().join("db"), secrets).await?)
        }
        Backend::Postgres { url, .. } => {
            let mut options = PostgresOptions::from_url(url).unwrap();
            options.secrets = secrets;
            Arc::new(Postgres::connect(options).await?)
        }
    })
}

async fn rotate(backend: &Backend, secrets: SecretCipher) -> Result<Rotated, StoreError> {
    match backend {
        Backend::Memory => unreachable!("there is no database to look into"),
        Backend::File(folder) => {
            let store = Sqlite::open_with_secrets(folder.path().join("db"), secrets).await?;
            let rotated = store.rotate_secrets().await;
            store.close().await;
            rotated
        }
        Backend::Postgres { url, .. } => {
            let mut options = PostgresOptions::from_url(url).unwrap();
            options.secrets = secrets;
            let store = Postgres::connect(options).await?;
            let rotated = store.rotate_secrets().await;
            store.close().await;
            rotated
        }
    }
}

/// Asks the database itself.
async fn raw(backend: &Backend, sql: &'static str) -> Vec<Vec<u8>> {
    match backend {
        Backend::Memory => unreachable!("there is no database to look into"),
        Backend::File(folder) => {
            let url = format!("sqlite://{}", folder.path().join("db").display());
            let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
            sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap()
        }
        Backend::Postgres { url, .. } => {
            let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
            sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap()
        }
    }
}

const SPECS: &str = "SELECT spec FROM resources WHERE type IN ('Secret', 'GlobalSecret')";
const LOGGED: &str = "SELECT spec FROM changes WHERE spec IS NOT NULL";

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|w| w == text.as_bytes())
}

/// Whether the value is anywhere in the files of a database.
fn in_files(folder: &Path) -> bool {
    // The journal of a connection that is being closed may vanish between listing and reading.
    std::fs::read_dir(folder)
        .unwrap()
        .any(|file| std::fs::read(file.unwrap().path()).is_ok_and(|bytes| contains(&bytes, VALUE)))
}

async fn rows_are_sealed_and_nothing_else_is(backend: &Backend) {
    let store = open(backend, ring(&[OLD])).await.unwrap();
    let (s, g, other) = (secret("s"), global_secret("g"), gateway("m", "edge"));
    let committed = all(&*store, [put(&s, VALUE), put(&g, VALUE), put(&other, VALUE)]).await;

    // Everybody sees what was put.
    for key in [&s, &g, &other] {
        assert_eq!(stored(&*store, key).await.unwrap().spec, spec(key, VALUE));
    }
    let Changes::Rows(rows) = store.changes_since(0, 10).await.unwrap() else { panic!() };
    assert_eq!(rows, committed.written);
    let (world, feed) = World::start(Arc::clone(&store), WorldOptions::default()).await.unwrap();
    assert_eq!(world.snapshot().get(&s).unwrap().spec, spec(&s, VALUE));
    drop(feed);

    // The database does not.
    let specs = raw(backend, SPECS).await;
    assert_eq!(specs.len(), 2);
    for sealed in &specs {
        assert!(!contains(sealed, VALUE));
        assert_eq!(sealed[..6], *b"\x07\x01\x03old");
    }
    // Of these, the log keeps the gateway's only.
    assert_eq!(raw(backend, LOGGED).await, [VALUE.as_bytes()]);
    assert_eq!(store.history(&s, 9).await.unwrap()[0].op, HistoryOp::Created);

    // Puts are compared as they were meant.
    assert!(matches!(one(&*store, put(&s, VALUE)).await, Ok(Outcome::Unchanged(_))));
    assert_eq!(raw(backend, SPECS).await, specs);
    let Ok(Outcome::Updated(updated)) = one(&*store, put(&s, "other")).await else { panic!() };
    assert_eq!((updated.version, &updated.spec), (2, &spec(&s, "other")));
    one(&*store, put(&s, VALUE)).await.unwrap();
    let before = sorted(&*store).await;
    store.close().await;
    if let Backend::File(folder) = backend {
        all(&*open(backend, ring(&[OLD])).await.unwrap(), [crate::fixture::delete(&other)]).await;
        let _ = folder;
    } else {
        let store = open(backend, ring(&[NEW, OLD])).await.unwrap();
        assert_eq!(sorted(&*store).await, before);
    }
}

async fn missing_and_wrong_keys(backend: &Backend) {
    let store = open(backend, ring(&[OLD])).await.unwrap();
    all(&*store, [put(&secret("s"), VALUE)]).await;
    store.close().await;
    drop(store);
    for secrets in [plain(), ring(&[NEW])] {
        let store = open(backend, secrets).await.unwrap();
        let error = store.load().await.unwrap_err();
        assert!(
            matches!(&error, StoreError::SecretKeyMissing { id, object }
                if id == "old" && *object == secret("s")),
            "{error:?}"
        );
        assert_eq!(
            error.to_string(),
            "key \"old\" is not configured, and type=\"Secret\" name=\"s\" mesh=\"m\" is encrypted \
             with it"
        );
        assert!(!error.is_retryable());
        // So a control plane does not start.
        let world = World::start(Arc::clone(&store), WorldOptions::default()).await;
        assert!(matches!(world.map(|_| ()), Err(StoreError::SecretKeyMissing { .. })));
        let wish =
            crate::fixture::batch(sunbear_store::BatchMode::Independent, [put(&secret("s"), "x")]);
        let refused = store.commit(wish).await;
        assert!(matches!(refused, Err(StoreError::SecretKeyMissing { .. })), "{refused:?}");
        store.close().await;
    }
    let store = open(backend, ring(&[&NEW.replace("new-1", "old")])).await.unwrap();
    let error = store.load().await.unwrap_err();
    assert!(matches!(&error, StoreError::SecretUnreadable { id, .. } if id == "old"), "{error:?}");
    store.close().await;
    drop(store);
    let error = rotate(backend, ring(&[NEW])).await.unwrap_err();
    assert!(matches!(error, StoreError::SecretKeyMissing { .. }), "{error:?}");
    let store = open(backend, ring(&[OLD])).await.unwrap();
    assert_eq!(stored(&*store, &secret("s")).await.unwrap().spec, spec(&secret("s"), VALUE));
}

async fn rotation(backend: &Backend) {
    let store = open(backend, ring(&[OLD])).await.unwrap();
    all(&*store, [put(&secret("a"), VALUE), put(&global_secret("b"), VALUE)]).await;
    store.close().await;
    drop(store);
    let store = open(backend, ring(&[NEW, OLD])).await.unwrap();
    all(&*store, [put(&secret("c"), VALUE), put(&gateway("m", "g"), VALUE)]).await;
    let before = store.load().await.unwrap();
    let before = (before.revision, sorted(&*store).await);
    store.close().await;
    drop(store);

    let rotated = rotate(backend, ring(&[NEW, OLD])).await.unwrap();
    assert_eq!(rotated, Rotated { sealed: 2, unchanged: 1 });
    for sealed in raw(backend, SPECS).await {
        assert_eq!(sealed[..8], *b"\x07\x01\x05new-1");
    }
    // The old key is not needed any more, and nothing has happened.
    let store = open(backend, ring(&[NEW])).await.unwrap();
    assert_eq!((store.load().await.unwrap().revision, sorted(&*store).await), before);
    let Changes::Rows(rows) = store.changes_since(0, 10).await.unwrap() else { panic!() };
    assert_eq!(rows.len(), 4);
    assert!(rows.iter().all(|c| matches!(c.event, Event::Created(_))));
    store.close().await;
    drop(store);
    let again = rotate(backend, ring(&[NEW])).await.unwrap();
    assert_eq!(again, Rotated { sealed: 0, unchanged: 3 });
}

async fn from_plain_to_sealed(backend: &Backend) {
    let store = open(backend, plain()).await.unwrap();
    all(&*store, [put(&secret("a"), VALUE), put(&global_secret("b"), VALUE)]).await;
    // Former contents leave traces in the file.
    all(&*store, [put(&secret("a"), &VALUE.repeat(500)), put(&secret("c"), VALUE)]).await;
    all(&*store, [put(&secret("a"), VALUE), crate::fixture::delete(&secret("c"))]).await;
    let before = sorted(&*store).await;
    store.close().await;
    drop(store);
    assert!(raw(backend, SPECS).await.iter().all(|stored| contains(stored, VALUE)));

    // With a key, plain rows are still read.
    let store = open(backend, ring(&[NEW])).await.unwrap();
    assert_eq!(sorted(&*store).await, before);
    store.close().await;
    drop(store);
    let rotated = rotate(backend, ring(&[NEW])).await.unwrap();
    assert_eq!(rotated, Rotated { sealed: 2, unchanged: 0 });
    assert!(raw(backend, SPECS).await.iter().all(|stored| !contains(stored, VALUE)));
    if let Backend::File(folder) = backend {
        assert!(!in_files(folder.path()));
    }
    let store = open(backend, ring(&[NEW])).await.unwrap();
    assert_eq!(sorted(&*store).await, before);
}

async fn a_row_is_worth_nothing_elsewhere(backend: &Backend) {
    let moves = [
        "UPDATE resources SET name = 'other'",
        "UPDATE resources SET name = 'a', mesh = 'other'",
        "UPDATE resources SET mesh = '', type = 'GlobalSecret'",
    ];
    let store = open(backend, ring(&[OLD])).await.unwrap();
    all(&*store, [put(&secret("a"), VALUE)]).await;
    store.close().await;
    drop(store);
    for change in moves {
        raw(backend, change).await;
        let store = open(backend, ring(&[OLD])).await.unwrap();
        let error = store.load().await.unwrap_err();
        assert!(matches!(error, StoreError::SecretUnreadable { .. }), "{error:?}");
        assert!(!format!("{error:?} {error}").contains(VALUE));
        store.close().await;
    }
    raw(backend, "UPDATE resources SET mesh = 'm', type = 'Secret', name = 'a'").await;
    let store = open(backend, ring(&[OLD])).await.unwrap();
    assert_eq!(stored(&*store, &secret("a")).await.unwrap().spec, spec(&secret("a"), VALUE));
}

async fn a_plain_spec_like_an_envelope(backend: &Backend) {
    let text = "\u{7}\u{1}\u{3}old and so on";
    let store = open(backend, plain()).await.unwrap();
    all(&*store, [put(&secret("a"), text), put(&secret("b"), ""), put(&secret("c"), "\u{7}")])
        .await;
    let before = sorted(&*store).await;
    assert_eq!(before[0].spec, spec(&secret("a"), text));
    assert!(matches!(one(&*store, put(&secret("a"), text)).await, Ok(Outcome::Unchanged(_))));
    store.close().await;
    drop(store);
    rotate(backend, ring(&[NEW])).await.unwrap();
    let store = open(backend, ring(&[NEW])).await.unwrap();
    assert_eq!(sorted(&*store).await, before);
}

async fn no_rotation_without_a_key(backend: &Backend) {
    let error = rotate(backend, plain()).await.unwrap_err();
    assert!(matches!(error, StoreError::Settings(_)), "{error:?}");
    assert_eq!(SecretCipher::from_text(" ").unwrap_err(), KeyRingError::Empty);
}

/// Rotation while another replica writes under the new key already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_under_load() {
    let Some(backend) = Backend::postgres().await else { return };
    let store = open(&backend, ring(&[OLD])).await.unwrap();
    all(&*store, (0..50).map(|n| put(&secret(&format!("s{n}")), VALUE))).await;
    store.close().await;
    let store = open(&backend, ring(&[NEW, OLD])).await.unwrap();
    let writer = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for n in 0..200 {
                let key = secret(&format!("s{}", n % 50));
                one(&*store, put(&key, &format!("{n}"))).await.unwrap();
            }
        })
    };
    rotate(&backend, ring(&[NEW, OLD])).await.unwrap();
    writer.await.unwrap();
    let store = open(&backend, ring(&[NEW])).await.unwrap();
    for n in 0..50 {
        let key = secret(&format!("s{n}"));
        assert_eq!(stored(&*store, &key).await.unwrap().spec, spec(&key, &format!("{}", n + 150)));
    }
}
