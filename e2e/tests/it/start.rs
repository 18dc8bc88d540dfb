//! Wrong settings: what is said, and how the process ends.

use std::{path::Path, process::Command};

use crate::control_plane::{ControlPlane, Ports, free_ports, program};

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

#[test]
fn wrong_settings_are_named_and_end_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let (code, said) = refused(
        "sunbear-zone",
        folder.path(),
        &[
            ("KUMA_MULTIZONE_ZONE_NAME", "east"),
            ("KUMA_MULTIZONE_ZONE_GLOBAL_ADDRESS", "http://global:5685"),
        ],
    );
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("multizone.zone.globalAddress"), "{said}");

    let (code, said) =
        refused("sunbear-zone", folder.path(), &[("KUMA_MULTIZONE_ZONE_NAME", "East_1")]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("multizone.zone.name"), "{said}");

    let (code, said) =
        refused("sunbear-global", folder.path(), &[("KUMA_API_SERVER_HTTP_PORT", "x")]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("apiServer.http.port"), "{said}");
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
