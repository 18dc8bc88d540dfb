//! Exit codes and messages. A script stands for Envoy where its version is all that is asked for.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use tokio::process::Command;

use super::agent::{command, free_port};
use super::control_plane::{Says, Server};

fn version_only_envoy(folder: &Path) -> PathBuf {
    let script = folder.join("envoy-version");
    std::fs::write(&script, "#!/bin/sh\necho 'envoy  version: 0/1.38.2/Clean/RELEASE/BoringSSL'\n")
        .unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    script
}

fn says(refusal: Option<(u16, &str)>) -> Arc<Mutex<Says>> {
    let nowhere: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let refusal = refusal.map(|(status, text)| (status, text.to_owned()));
    Arc::new(Mutex::new(Says {
        gateway: nowhere,
        upstream: nowhere,
        revision: 1,
        refusal,
        request: None,
    }))
}

async fn outcome(command: &mut Command) -> (Option<i32>, String) {
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn a_refusal_ends_it_with_3_and_the_control_planes_words() {
    let folder = tempfile::tempdir().unwrap();
    let says = says(Some((422, "mesh: mesh \"x\" does not exist")));
    let server = Server::start(([127, 0, 0, 1], 0).into(), says.clone()).await;
    let envoy = version_only_envoy(folder.path());
    let mut command = command(server.address, &envoy, folder.path(), free_port([127, 0, 0, 1]));
    let (code, text) = outcome(command.args(["--dataplane-token", "a.b.c"])).await;
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("mesh: mesh \"x\" does not exist"), "{text}");
    assert!(!text.contains("a.b.c"), "the token is in the log");
    let request = says.lock().unwrap().request.clone().unwrap();
    assert_eq!(request["dataplaneToken"], "a.b.c");
    assert_eq!(request["name"], "gw-1");
}

#[tokio::test]
async fn an_unknown_proxy_is_asked_for_until_the_time_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(([127, 0, 0, 1], 0).into(), says(Some((404, "")))).await;
    let envoy = version_only_envoy(folder.path());
    let mut command = command(server.address, &envoy, folder.path(), free_port([127, 0, 0, 1]));
    let (code, text) =
        outcome(command.env("SUNBEAR_CONTROL_PLANE_RETRY_MAX_DURATION", "500ms")).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("does not know this proxy"), "{text}");
}

#[tokio::test]
async fn a_taken_readiness_port_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let envoy = version_only_envoy(folder.path());
    let mut command =
        command(taken.local_addr().unwrap(), &envoy, folder.path(), taken.local_addr().unwrap());
    let (code, text) = outcome(&mut command).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("KUMA_READINESS_PORT"), "{text}");
}

#[tokio::test]
async fn usage_errors_end_it_with_2() {
    let cases: [&[&str]; 4] = [
        &["run"],
        &["run", "--no-such-flag"],
        &["run", "--dataplane", "{type: Mesh}"],
        &["run", "--name", "a", "--mesh", "m", "--proxy-type", "x"],
    ];
    for arguments in cases {
        let (code, text) =
            outcome(Command::new(env!("CARGO_BIN_EXE_sunbear-dp")).args(arguments)).await;
        assert_eq!(code, Some(2), "{arguments:?}: {text}");
    }
}

#[tokio::test]
async fn version_and_help_are_there() {
    let (code, text) = outcome(Command::new(env!("CARGO_BIN_EXE_sunbear-dp")).arg("version")).await;
    assert_eq!(code, Some(0));
    assert!(text.starts_with("sunbear-dp "), "{text}");
    let (_, text) =
        outcome(Command::new(env!("CARGO_BIN_EXE_sunbear-dp")).args(["run", "--help"])).await;
    for part in ["Exit codes", "--cp-address", "--state-dir", "KUMA_CONTROL_PLANE_URL"] {
        assert!(text.contains(part), "{part}");
    }
}
