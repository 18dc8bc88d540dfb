//! Wrong settings: what is said, and how the process ends.

use std::{fs, path::Path, process::Command};

use xtask::project;

use crate::{
    control_plane::{ControlPlane, Ports, free_ports, program},
    postgres::Postgres,
};

/// Runs a program that must refuse to start; exit code and what it said.
fn refused(program_name: &str, folder: &Path, settings: &[(&str, &str)]) -> (i32, String) {
    let output = Command::new(program(program_name))
        .arg("run")
        .env("KUMA_GENERAL_WORK_DIR", folder)
        .envs(settings.iter().copied())
        .output()
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    (output.status.code().unwrap(), said)
}

/// A start that must fail: exit code, and the words of the one line that says why.
struct Refusal<'a> {
    program: &'a str,
    settings: &'a [(&'a str, &'a str)],
    code: i32,
    words: &'a [&'a str],
}

#[test]
fn wrong_settings_are_named_and_end_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "no folder").unwrap();
    let below = file.join("folder");
    let refusals = [
        Refusal {
            program: "sunbear-zone",
            settings: &[
                ("KUMA_MULTIZONE_ZONE_NAME", "east"),
                ("KUMA_MULTIZONE_ZONE_GLOBAL_ADDRESS", "http://global:5685"),
            ],
            code: 2,
            words: &["multizone.zone.globalAddress", "grpcs://host:port"],
        },
        Refusal {
            program: "sunbear-zone",
            settings: &[("KUMA_MULTIZONE_ZONE_GLOBAL_ADDRESS", "grpcs://global:5685")],
            code: 2,
            words: &["multizone.zone.name", "must be set"],
        },
        Refusal {
            program: "sunbear-zone",
            settings: &[("KUMA_MULTIZONE_ZONE_NAME", "East_1")],
            code: 2,
            words: &["multizone.zone.name", "lower-case"],
        },
        Refusal {
            program: "sunbear-zone",
            settings: &[
                ("KUMA_MULTIZONE_ZONE_NAME", "east"),
                ("KUMA_MULTIZONE_ZONE_GLOBAL_ADDRESS", "grpcs://localhost:1"),
                ("KUMA_MULTIZONE_ZONE_KDS_ROOT_CA_FILE", "/nowhere/ca.pem"),
            ],
            code: 1,
            words: &["multizone.zone.kds.rootCaFile", "/nowhere/ca.pem"],
        },
        Refusal {
            program: "sunbear-global",
            settings: &[("KUMA_API_SERVER_HTTP_PORT", "x")],
            code: 2,
            words: &["apiServer.http.port", "a whole number"],
        },
        Refusal {
            program: "sunbear-global",
            settings: &[("KUMA_GENERAL_WORK_DIR", below.to_str().unwrap())],
            code: 1,
            words: &["creating the folder", "general.workDir"],
        },
        Refusal {
            program: "sunbear-global",
            settings: &[
                ("KUMA_GENERAL_TLS_CERT_FILE", "/nowhere/tls.crt"),
                ("KUMA_GENERAL_TLS_KEY_FILE", "/nowhere/tls.key"),
            ],
            code: 1,
            words: &["could not read /nowhere/tls.crt", "name another certificate"],
        },
        Refusal {
            program: "sunbear-global",
            settings: &[("SUNBEAR_STORE_SECRETS_KEY_FILE", "/nowhere/keys")],
            code: 1,
            words: &["store.secrets.keyFile", "/nowhere/keys"],
        },
    ];
    for (index, refusal) in refusals.iter().enumerate() {
        let own = folder.path().join(index.to_string());
        let (code, said) = refused(refusal.program, &own, refusal.settings);
        assert_eq!(code, refusal.code, "{said}");
        // Tasks that were starting may log after it.
        let line = said.lines().find(|line| refusal.words.iter().all(|w| line.contains(w)));
        assert!(line.is_some(), "{:?} in one line of {said}", refusal.words);
    }
}

/// Folders of which no byte is left, or that may only be read. The cause goes away, and the next
/// start succeeds.
#[test]
fn full_and_read_only_folders() {
    let Some(unshare) = project::find_program("unshare", &[]) else {
        eprintln!("SKIPPED: no unshare");
        return;
    };
    for (options, mended, words) in [
        ("size=64k", "size=64m", ["disk is full", "make room"]),
        ("size=64m,ro", "rw", ["read-only", "make the folder writable"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (own, ports) = (folder.path().join("global"), Ports::free());
        // In a mount namespace of its own, which needs no rights.
        let script = "mount -t tmpfs -o \"$OPTIONS\" none \"$KUMA_GENERAL_WORK_DIR\" || exit 77
            \"$PROGRAM\" run; echo \"exit code $?\"
            mount -o \"remount,$MENDED\" none \"$KUMA_GENERAL_WORK_DIR\"
            exec \"$PROGRAM\" run";
        let mut command = Command::new(&unshare);
        command
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
            .env("PROGRAM", program("sunbear-global"))
            .envs([("OPTIONS", options), ("MENDED", mended)])
            .env("KUMA_MULTIZONE_GLOBAL_KDS_GRPC_PORT", ports.kds.to_string());
        let mut global = ControlPlane::start("global", folder.path(), ports, command);
        global.until("an answer or an end", |g| g.is_ready() || !g.is_running());
        let log = global.log();
        if !global.is_running() && !log.contains("exit code") {
            eprintln!("SKIPPED: no mount namespace here: {log}");
            return;
        }
        assert!(global.is_ready(), "{}: {log}", own.display());
        let before = log.lines().position(|line| line == "exit code 1").expect("an exit code");
        let said = log.lines().nth(before - 1).unwrap();
        for word in words {
            assert!(said.contains(word), "{word} in {said}");
        }
    }
}

#[test]
fn a_postgres_that_refuses_is_named_and_a_start_after_that_succeeds() {
    let Some(postgres) = Postgres::start("right") else { return };
    let folder = tempfile::tempdir().unwrap();
    let port = postgres.port.to_string();
    let settings = |password: &'static str, database: &'static str| {
        [
            ("KUMA_STORE_TYPE", "postgres"),
            ("KUMA_STORE_POSTGRES_PORT", port.as_str()),
            ("KUMA_STORE_POSTGRES_USER", "sunbear"),
            ("KUMA_STORE_POSTGRES_PASSWORD", password),
            ("KUMA_STORE_POSTGRES_DB_NAME", database),
        ]
    };
    for (password, database, words) in [
        ("very-wrong", "postgres", ["password authentication failed", "store.postgres.user"]),
        ("right", "absent", ["database \"absent\" does not exist", "dbName"]),
    ] {
        let (code, said) = refused("sunbear-global", folder.path(), &settings(password, database));
        assert_eq!(code, 1, "{said}");
        let last = said.trim_end().lines().next_back().unwrap();
        for word in words {
            assert!(last.contains(word), "{word} in {last}");
        }
        assert!(!said.contains("very-wrong"), "{said}");
    }
    let right = settings("right", "postgres");
    let mut global = ControlPlane::global_with(folder.path(), Ports::free(), &right);
    global.until_ready();
}

/// The zone goes on trying, and needs no restart once its files are right.
#[test]
fn wrong_authorities_and_tokens_are_said_and_mended_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [("KUMA_MULTIZONE_GLOBAL_KDS_AUTH_TYPE", "zoneToken")];
    let mut global = ControlPlane::global_with(folder.path(), Ports::free(), &settings);
    global.until_ready();
    let mut stranger = ControlPlane::global(&folder.path().join("stranger"), Ports::free());
    stranger.until_ready();
    let issue = |zone: &str, valid_for: &str| {
        let body = format!(r#"{{"zone":"{zone}","scope":["cp"],"validFor":"{valid_for}"}}"#);
        let (code, said) = global.send("POST", "/tokens/zone", &body);
        assert_eq!(code, 200, "{said}");
        said.trim_end().lines().next_back().unwrap().to_owned()
    };

    let (ca, token) = (folder.path().join("ca.pem"), folder.path().join("token"));
    fs::copy(stranger.certificate(), &ca).unwrap();
    fs::write(&token, issue("east", "1ms")).unwrap();
    let mut zone = ControlPlane::zone_with(
        "east",
        "east",
        folder.path(),
        Ports::free(),
        &global.kds_address(),
        &ca,
        &[("KUMA_MULTIZONE_ZONE_KDS_AUTH_TOKEN_PATH", token.to_str().unwrap())],
    );
    let says = |zone: &mut ControlPlane, words: [&str; 2]| {
        zone.until(words[0], |z| {
            z.log().lines().any(|line| words.iter().all(|word| line.contains(word)))
        });
        assert!(zone.is_running() && !zone.is_ready());
    };
    says(&mut zone, ["UnknownIssuer", "multizone.zone.kds.rootCaFile"]);
    fs::copy(global.certificate(), &ca).unwrap();
    says(&mut zone, ["expired", "multizone.zone.kds.auth.tokenPath"]);
    fs::write(&token, issue("west", "1h")).unwrap();
    says(&mut zone, ["west", "multizone.zone.kds.auth.tokenPath"]);
    fs::write(&token, issue("east", "1h")).unwrap();
    zone.until_ready();
}

#[test]
fn an_absent_postgres_is_named_and_the_password_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let [port] = free_ports();
    let (code, said) = refused(
        "sunbear-global",
        folder.path(),
        &[
            ("KUMA_STORE_TYPE", "postgres"),
            ("KUMA_STORE_POSTGRES_HOST", "127.0.0.1"),
            ("KUMA_STORE_POSTGRES_PORT", &port.to_string()),
            ("KUMA_STORE_POSTGRES_USER", "sunbear"),
            ("KUMA_STORE_POSTGRES_PASSWORD", "very-secret"),
            ("KUMA_STORE_POSTGRES_DB_NAME", "sunbear"),
        ],
    );
    assert_eq!(code, 1, "{said}");
    assert!(said.contains(&format!("127.0.0.1:{port}")), "{said}");
    assert!(!said.contains("very-secret"), "{said}");
}

#[test]
fn a_port_in_use_is_named_with_its_setting() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = ControlPlane::global(folder.path(), Ports::free());
    first.until_ready();
    let mut second = ControlPlane::global(
        &folder.path().join("second"),
        Ports { http: first.ports.http, ..Ports::free() },
    );
    assert_eq!(second.exit_code(), Some(1));
    assert!(second.log().contains("apiServer.http.port"), "{}", second.log());
    assert!(second.log().contains("choose another port"), "{}", second.log());
}

#[test]
fn one_database_file_serves_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = ControlPlane::global(folder.path(), Ports::free());
    first.until_ready();
    // The same folder, other ports.
    let mut second = ControlPlane::global(folder.path(), Ports::free());
    assert_eq!(second.exit_code(), Some(1));
    assert!(second.log().contains("in use by another process"), "{}", second.log());
    assert!(first.is_running());
}

#[test]
fn a_wrong_address_of_the_global_is_tried_again_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let ports = Ports::free();
    // The certificate has to be there; it is that of the global that comes later.
    let mut global = ControlPlane::global(folder.path(), ports);
    global.until_ready();
    global.kill();
    let mut zone = ControlPlane::zone(
        "east",
        "east",
        folder.path(),
        Ports::free(),
        &global.kds_address(),
        &global.certificate(),
    );
    zone.until("word of the retry", |z| {
        let log = z.log();
        log.contains("stream to the global ended") && log.contains("retry_in_ms")
    });
    assert!(zone.log().contains("Connection refused"), "{}", zone.log());
    assert!(zone.is_running() && !zone.is_ready(), "not ready without its first sync");
    // Users are served meanwhile.
    zone.until("REST", |z| z.get("/").is_some_and(|(status, _)| status == 200));
    let mut global = ControlPlane::global(folder.path(), ports);
    global.until_ready();
    zone.until_ready();
}
