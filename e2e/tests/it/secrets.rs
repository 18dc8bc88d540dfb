//! Secrets that are encrypted in the database, on both databases.

use std::{fs, path::Path, process::Command};

use crate::{
    control_plane::{ControlPlane, Ports, program},
    postgres::Postgres,
};

const SECRET: &str = r#"{"type":"GlobalSecret","name":"s","data":"dmVyeS1zZWNyZXQ="}"#;
const FIRST: &str = "a:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const SECOND: &str = "b:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
/// Another key under the first one's name.
const IMPOSTOR: &str = "a:AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

#[test]
fn sqlite() {
    check(&[]);
}

#[test]
fn postgres() {
    let Some(postgres) = Postgres::start("right") else { return };
    check(&[
        ("KUMA_STORE_TYPE", "postgres"),
        ("KUMA_STORE_POSTGRES_PORT", &postgres.port.to_string()),
        ("KUMA_STORE_POSTGRES_USER", "sunbear"),
        ("KUMA_STORE_POSTGRES_PASSWORD", "right"),
        ("KUMA_STORE_POSTGRES_DB_NAME", "postgres"),
    ]);
}

/// The life of a key: none, the first, a second in front of it, the first taken away.
fn check(store: &[(&str, &str)]) {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    let with_keys: Vec<_> =
        [store, &[("SUNBEAR_STORE_SECRETS_KEY_FILE", keys.to_str().unwrap())]].concat();
    let serves = |settings: &[(&str, &str)], said: &str| {
        let mut global = ControlPlane::global_with(folder.path(), Ports::free(), settings);
        global.until_ready();
        let (status, secret) = global.get("/global-secrets/s").unwrap();
        assert!(status == 404 || secret.contains("dmVyeS1zZWNyZXQ="), "{secret}");
        // The log of all starts is one file.
        let log = global.log();
        let start = log.rfind("control plane starts").expect("a start");
        assert!(log[start..].contains(said), "{}", &log[start..]);
        (status, global)
    };

    let (status, global) = serves(store, "secrets are stored plain in the database");
    assert_eq!(status, 404);
    assert_eq!(global.send("PUT", "/global-secrets/s", SECRET).0, 201);
    drop(global);

    fs::write(&keys, FIRST).unwrap();
    assert_eq!(rotate(folder.path(), &with_keys).0, 0);
    assert_eq!(serves(&with_keys, "secrets are encrypted in the database").0, 200);
    // Without the key nothing is served, and it is said which key is missing.
    refuses(folder.path(), store, &["key \"a\" is not configured", "store.secrets.keyFile"]);
    fs::write(&keys, IMPOSTOR).unwrap();
    refuses(folder.path(), &with_keys, &["cannot be decrypted with key \"a\"", "put the key"]);
    fs::write(&keys, "a:AAAA").unwrap();
    refuses(folder.path(), &with_keys, &["store.secrets.keyFile", "32 bytes"]);

    fs::write(&keys, format!("{SECOND}\n{FIRST}\n")).unwrap();
    assert_eq!(serves(&with_keys, "secrets are encrypted in the database").0, 200);
    let (code, said) = rotate(folder.path(), &with_keys);
    assert_eq!(code, 0, "{said}");
    fs::write(&keys, SECOND).unwrap();
    assert_eq!(serves(&with_keys, "secrets are encrypted in the database").0, 200);
}

fn rotate(folder: &Path, settings: &[(&str, &str)]) -> (i32, String) {
    run(folder, &["secrets", "rotate"], settings)
}

/// A start that fails with these words in its last line.
fn refuses(folder: &Path, settings: &[(&str, &str)], words: &[&str]) {
    let (code, said) = run(folder, &["run"], settings);
    assert_eq!(code, 1, "{said}");
    let last = said.trim_end().lines().next_back().unwrap();
    for word in words {
        assert!(last.contains(word), "{word} in {last}");
    }
}

fn run(folder: &Path, arguments: &[&str], settings: &[(&str, &str)]) -> (i32, String) {
    let output = Command::new(program("sunbear-global"))
        .args(arguments)
        .env("KUMA_GENERAL_WORK_DIR", folder.join("global"))
        .envs(settings.iter().copied())
        .output()
        .unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}
