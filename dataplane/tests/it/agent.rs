//! Starts the binary and talks to it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::eventually;

pub(crate) const DEFINITION: &str = r#"{"type":"Dataplane","mesh":"default","name":"gw-1","networking":{"address":"127.0.0.1","gateway":{"type":"BUILTIN","tags":{"kuma.io/service":"edge"}}}}"#;

/// A running agent. Dropping it kills the agent and its Envoys.
pub(crate) struct Agent {
    child: Child,
    pub(crate) folder: PathBuf,
    pub(crate) readiness: SocketAddr,
}

/// The command with the settings that all tests share.
pub(crate) fn command(
    control_plane: SocketAddr,
    envoy: &Path,
    folder: &Path,
    readiness: SocketAddr,
) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sunbear-dp"));
    command
        .args([
            "run",
            "--dataplane",
            DEFINITION,
            "--drain-time",
            "1s",
            "--concurrency",
            "1",
            "--dns-enabled=false",
        ])
        .arg("--cp-address")
        .arg(format!("http://{control_plane}"))
        .arg("--binary-path")
        .arg(envoy)
        .arg("--work-dir")
        .arg(folder)
        .args(["--envoy-log-level", "warn"])
        .env("KUMA_READINESS_PORT", readiness.port().to_string())
        .env("KUMA_CONTROL_PLANE_RETRY_BACKOFF", "200ms")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// A port that is free now.
pub(crate) fn free_port(ip: [u8; 4]) -> SocketAddr {
    std::net::TcpListener::bind(SocketAddr::from((ip, 0))).unwrap().local_addr().unwrap()
}

impl Agent {
    pub(crate) fn start(control_plane: SocketAddr, envoy: &Path, folder: &Path) -> Agent {
        let readiness = free_port([127, 0, 0, 1]);
        let child = command(control_plane, envoy, folder, readiness).spawn().unwrap();
        Agent { child, folder: folder.to_owned(), readiness }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.child.id().expect("the agent runs");
        kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
    }

    /// Waits for the agent's end without touching its Envoys.
    pub(crate) async fn wait(&mut self) {
        self.child.wait().await.unwrap();
    }

    pub(crate) async fn ended(mut self) -> ExitStatus {
        self.child.wait().await.unwrap()
    }

    pub(crate) fn envoys(&self) -> Vec<Pid> {
        envoys(&self.folder)
    }

    /// The status of the readiness reporter.
    pub(crate) async fn ready(&self) -> Option<u16> {
        Some(get(self.readiness, "/ready").await?.0)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // The agent first, which would start them again.
        let _ = self.child.start_kill();
        for envoy in self.envoys() {
            let _ = kill(envoy, Signal::SIGKILL);
        }
    }
}

/// The Envoys that the process file names and that run.
pub(crate) fn envoys(folder: &Path) -> Vec<Pid> {
    let text = std::fs::read_to_string(folder.join("envoy.pid")).unwrap_or_default();
    let pids = text.lines().filter_map(|line| line.split('\t').next()?.parse().ok());
    pids.map(Pid::from_raw).filter(|pid| kill(*pid, None).is_ok()).collect()
}

/// One request on a connection of its own: status and configuration revision of the answer.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Option<(u16, Option<u32>)> {
    request(&mut connect(address).await?, path).await
}

/// A connection for several requests.
pub(crate) async fn connect(address: SocketAddr) -> Option<SendRequest<Empty<Bytes>>> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    Some(sender)
}

pub(crate) async fn request(
    sender: &mut SendRequest<Empty<Bytes>>,
    path: &str,
) -> Option<(u16, Option<u32>)> {
    sender.ready().await.ok()?;
    let request = Request::get(path).header("host", "test").body(Empty::new()).unwrap();
    let response = sender.send_request(request).await.ok()?;
    let revision =
        response.headers().get("x-revision").and_then(|value| value.to_str().ok()?.parse().ok());
    let status = response.status().as_u16();
    response.into_body().collect().await.ok()?;
    Some((status, revision))
}

/// Waits until the gateway answers with this revision.
pub(crate) async fn serves(gateway: SocketAddr, revision: u32) {
    eventually(&format!("revision {revision}"), || async {
        (get(gateway, "/").await? == (200, Some(revision))).then_some(())
    })
    .await;
}
