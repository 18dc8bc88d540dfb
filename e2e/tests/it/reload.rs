//! Certificates that change while a control plane serves.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use xtask::project;

use crate::control_plane::{ControlPlane, Ports, program};

/// A gateway that asks for its bootstrap.
const BOOTSTRAP: &str = r#"{"mesh":"default","name":"edge","proxyType":"dataplane",
"dataplaneResource":"{\"type\":\"Dataplane\",\"mesh\":\"default\",\"name\":\"edge\",\"networking\":{\"address\":\"127.0.0.1\",\"gateway\":{\"type\":\"BUILTIN\",\"tags\":{\"kuma.io/service\":\"edge\"}}}}"}"#;

/// Writes a self-signed pair for this host, as users do.
fn generate(folder: &Path) {
    let made = Command::new(program("sunbearctl"))
        .args(["generate", "tls-certificate", "--type", "server", "--hostname", "localhost"])
        .args(["--key-type", "ecdsa"])
        .args([&"--cert-file".into(), &folder.join("tls.crt")])
        .args([&"--key-file".into(), &folder.join("tls.key")])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// Does the zone's API serve a certificate that those who trust this file accept?
fn is_served(zone: &ControlPlane, trusted: &Path) -> bool {
    Command::new(program("sunbearctl"))
        .args(["get", "meshes", "--no-config", "--address"])
        .arg(format!("https://localhost:{}", zone.ports.https))
        .arg("--ca-cert-file")
        .arg(trusted)
        .stdin(Stdio::null())
        .output()
        .unwrap()
        .status
        .success()
}

/// The bootstrap of a proxy that brings no authority.
fn bootstrap(zone: &ControlPlane) -> String {
    let answer = Command::new("curl")
        .args(["--silent", "--show-error", "--data", BOOTSTRAP])
        .args(["--header", "content-type: application/json"])
        // curl does not know an authority without a name.
        .arg("--insecure")
        .arg(format!("https://localhost:{}/bootstrap", zone.ports.dp))
        .output()
        .unwrap();
    String::from_utf8_lossy(&[answer.stdout, answer.stderr].concat()).into_owned()
}

/// A file as it stands in the inline bytes of a bootstrap.
fn inline(pem: &Path) -> String {
    let output = Command::new("base64").arg("-w0").arg(pem).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_new_certificate_is_served_and_handed_to_proxies_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    generate(folder.path());
    let (cert, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    let (old, ports) = (folder.path().join("old.crt"), Ports::free());
    fs::copy(&cert, &old).unwrap();
    let mut command = Command::new(program("sunbear-zone"));
    command
        .arg("run")
        .env("KUMA_DP_SERVER_PORT", ports.dp.to_string())
        .env("KUMA_DP_SERVER_AUTHN_DP_PROXY_TYPE", "none")
        .env("KUMA_GENERAL_TLS_CERT_FILE", &cert)
        .env("KUMA_GENERAL_TLS_KEY_FILE", &key);
    let mut zone = ControlPlane::start("zone", folder.path(), ports, command);
    zone.until_ready();
    assert!(is_served(&zone, &old));
    let curl = project::find_program("curl", &[]).is_some();
    if curl {
        let told = bootstrap(&zone);
        assert!(told.contains(&inline(&old)), "{told}");
    } else {
        eprintln!("SKIPPED: no curl to ask for a bootstrap with");
    }

    generate(folder.path());
    zone.hang_up();
    zone.until("the new certificate", |zone| is_served(zone, &cert));
    assert!(!is_served(&zone, &old));
    if curl {
        zone.until("the new certificate in bootstraps", |zone| {
            bootstrap(zone).contains(&inline(&cert))
        });
    }
    assert!(zone.is_running(), "SIGHUP ends nothing");
}

#[test]
fn the_certificate_that_is_missing_is_said_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut global = ControlPlane::global(folder.path(), Ports::free());
    global.until_ready();
    assert_eq!(global.log().matches("no certificate configured").count(), 1, "{}", global.log());
}
