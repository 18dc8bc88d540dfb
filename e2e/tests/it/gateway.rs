//! A builtin gateway under test.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;
use xtask::{envoy, process::Process};

use crate::control_plane::{ControlPlane, free_ports, program};

/// `sunbear-dp` with Envoy, of service `edge` in mesh `default`; it goes on until this is dropped.
pub(crate) struct Gateway {
    pub(crate) process: Process,
    pub(crate) work: PathBuf,
}

impl Gateway {
    /// Starts the gateway `name`, with files of its own in `folder`.
    pub(crate) fn start(
        folder: &Path,
        zone: &ControlPlane,
        name: &str,
        address: Ipv4Addr,
        token: &str,
    ) -> Self {
        let work = folder.join(format!("{name}.work"));
        fs::create_dir(&work).unwrap();
        let [admin, readiness] = free_ports();
        let dataplane = json!({
            "type": "Dataplane", "mesh": "default", "name": name,
            "networking": {
                "address": address, "admin": {"port": admin},
                "gateway": {"type": "BUILTIN", "tags": {"kuma.io/service": "edge"}},
            },
        });
        let (definition, token_file) = (format!("{name}.json"), format!("{name}.token"));
        fs::write(folder.join(&definition), dataplane.to_string()).unwrap();
        fs::write(folder.join(&token_file), token).unwrap();
        let mut command = Command::new(program("sunbear-dp"));
        command
            .arg("run")
            .arg(format!("--cp-address=https://localhost:{}", zone.ports.dp))
            .args([&"--ca-cert-file".into(), &zone.certificate()])
            .args([&"--dataplane-file".into(), &folder.join(definition)])
            .args([&"--dataplane-token-file".into(), &folder.join(token_file)])
            .args([&"--work-dir".into(), &work])
            .args([&"--state-dir".into(), &work.join("state")])
            .args([&"--binary-path".into(), &envoy::find_or_fetch().unwrap()])
            .args(["--dns-enabled=false", "--drain-time=1s", "--concurrency=1"])
            .arg("--log-level=debug")
            .env("KUMA_READINESS_PORT", readiness.to_string());
        Self { process: Process::spawn(name, command, folder).unwrap(), work }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.process.kill();
        if std::thread::panicking() {
            eprintln!("the gateway said:\n{}", self.process.log_tail(50));
        }
    }
}
