//! A process that dies while it writes to SQLite. The child is this test binary.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use sunbear_store::{Sqlite, Store as _, StoreError};

use crate::fixture::{all, gateway, mesh, owned, put, sorted};

const FILE: &str = "SUNBEAR_STORE_CRASH_FILE";

/// The child: writes batches of three and says what was acknowledged. A plain run does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(file) = std::env::var(FILE) else { return };
    let store = Sqlite::open(file).await.unwrap();
    let from = store.load().await.unwrap().revision;
    for i in from.. {
        let owner = mesh(&format!("m{i}"));
        let (a, b) = (gateway(&owner.name, "a"), gateway(&owner.name, "b"));
        all(
            &store,
            [put(&owner, "m"), owned(&a, &"a".repeat(3000), &owner), owned(&b, "b", &owner)],
        )
        .await;
        println!("acknowledged {i}");
    }
}

fn killed_after(file: &Path, lines: usize) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child", "--nocapture"])
        .env(FILE, file)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut acknowledged = Vec::new();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in output.by_ref() {
        // The harness may have begun the line.
        if let Some((_, i)) = line.unwrap().split_once("acknowledged ") {
            acknowledged.push(i.to_owned());
        }
        if acknowledged.len() == lines {
            // SIGKILL.
            child.kill().unwrap();
            break;
        }
    }
    // What was said before the signal counts too.
    for line in output.map_while(Result::ok) {
        if let Some((_, i)) = line.split_once("acknowledged ") {
            acknowledged.push(i.to_owned());
        }
    }
    assert!(!child.wait().unwrap().success());
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_writer_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("folder/db");
    let mut acknowledged = Vec::new();
    for lines in [1, 17, 60, 151] {
        acknowledged.extend(killed_after(&file, lines));
        // The lock died with its owner.
        let store = Sqlite::open(&file).await.unwrap();
        let loaded = store.load().await.unwrap();
        let names: Vec<&str> = loaded.resources.iter().map(|r| &*r.key.name).collect();
        for i in &acknowledged {
            assert!(names.contains(&&*format!("m{i}")), "m{i} was acknowledged and is lost");
        }
        // Batches are whole.
        let meshes = names.iter().filter(|n| n.starts_with('m')).count();
        assert_eq!(names.len(), meshes * 3);
        assert_eq!(loaded.revision, names.len() as u64);
        store.close().await;
        let check = integrity(&file).await;
        assert_eq!(check, "ok");
    }
    assert!(acknowledged.len() >= 229);
}

async fn integrity(file: &Path) -> String {
    use sqlx::Connection as _;
    let url = format!("sqlite://{}", file.display());
    let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
    let broken: Vec<(i64,)> = sqlx::query_as("SELECT 1 FROM pragma_foreign_key_check")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    assert!(broken.is_empty());
    sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut connection).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("db");
    let store = Sqlite::open(&file).await.unwrap();
    let second = Sqlite::open(&file).await.unwrap_err();
    assert!(matches!(second, StoreError::Locked(_)), "{second:?}");
    store.close().await;
    Sqlite::open(&file).await.unwrap().close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_not_taken_for_a_database() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("db");
    std::fs::write(&file, "this is no database, whatever it may be named. ".repeat(100)).unwrap();
    let error = Sqlite::open(&file).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_fails_the_write_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("db");
    let store = Sqlite::open_with_page_limit(&file, 200).await.unwrap();
    let mut written = 0;
    let error = loop {
        let key = gateway("m", &format!("g{written}"));
        let change = put(&key, &"x".repeat(10_000));
        match store
            .commit(crate::fixture::batch(sunbear_store::BatchMode::AllOrNothing, [change]))
            .await
        {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1000);
    };
    assert!(matches!(error, StoreError::Full(_)), "{error:?}");
    // Reads go on, and so do writes once there is room.
    assert_eq!(sorted(&store).await.len(), written);
    all(&store, (0..written).map(|i| crate::fixture::delete(&gateway("m", &format!("g{i}")))))
        .await;
    let again = all(&store, [put(&gateway("m", "again"), "small")]).await;
    assert_eq!(again.revision, 2 * written as u64 + 1);
}
