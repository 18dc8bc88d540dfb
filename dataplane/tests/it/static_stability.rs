//! A gateway with a real Envoy that loses its control plane, its Envoy, its agent or its files.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use tempfile::TempDir;

use super::agent::{Agent, connect, envoys, free_port, get, request, serves};
use super::control_plane::{Says, Server};
use super::{envoy, eventually};

/// One gateway's surroundings.
struct Bench {
    envoy: PathBuf,
    folder: TempDir,
    says: Arc<Mutex<Says>>,
    gateway: SocketAddr,
    control_plane_address: SocketAddr,
    control_plane: Option<Server>,
    _upstream: Server,
}

impl Bench {
    /// `host` sets the listener's address apart from that of other tests.
    async fn new(envoy: PathBuf, host: u8) -> Bench {
        let gateway = free_port([127, 0, 38, host]);
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        let says = Says { gateway, upstream: any, revision: 1, refusal: None, request: None };
        let says = Arc::new(Mutex::new(says));
        let upstream = Server::start(any, says.clone()).await;
        says.lock().unwrap().upstream = upstream.address;
        // An address of its own, so that nobody takes the port while the control plane is down.
        let control_plane = Server::start(([127, 0, 39, host], 0).into(), says.clone()).await;
        Bench {
            envoy,
            folder: tempfile::tempdir().unwrap(),
            says,
            gateway,
            control_plane_address: control_plane.address,
            control_plane: Some(control_plane),
            _upstream: upstream,
        }
    }

    fn start_agent(&self) -> Agent {
        Agent::start(self.control_plane_address, &self.envoy, self.folder.path())
    }

    fn set_revision(&self, revision: u32) {
        self.says.lock().unwrap().revision = revision;
    }

    async fn stop_control_plane(&mut self) {
        self.control_plane = None;
        let address = self.control_plane_address;
        eventually("the control plane's end", || async {
            connect(address).await.is_none().then_some(())
        })
        .await;
    }

    async fn start_control_plane(&mut self) {
        self.control_plane =
            Some(Server::start(self.control_plane_address, self.says.clone()).await);
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits until the configuration of this revision is sealed.
    async fn sealed(&self, revision: u32) {
        let file = self.file("envoy.sealed");
        let mark = format!(r#""key":"x-revision","value":"{revision}""#);
        eventually(&format!("revision {revision} on disk"), || async {
            std::fs::read_to_string(&file).ok()?.contains(&mark).then_some(())
        })
        .await;
    }
}

async fn stop(agent: Agent) {
    let folder = agent.folder.clone();
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.ended().await.code(), Some(0));
    assert_eq!(envoys(&folder), []);
}

fn runs_from(folder: &Path, config: &str) -> bool {
    std::fs::read_to_string(folder.join("envoy.pid")).is_ok_and(|text| {
        let mut lines = text.lines();
        lines.next().is_some_and(|line| line.ends_with(config)) && lines.next().is_none()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_envoy_comes_back_without_control_plane_and_hands_over_when_it_returns() {
    let Some(envoy) = envoy("a_killed_envoy_comes_back") else { return };
    let mut bench = Bench::new(envoy, 1).await;
    let agent = bench.start_agent();
    serves(bench.gateway, 1).await;
    eventually("readiness", || async { (agent.ready().await? == 200).then_some(()) }).await;
    bench.set_revision(2);
    serves(bench.gateway, 2).await;
    bench.sealed(2).await;

    // The control plane's end changes nothing for the Envoy that runs.
    let before = agent.envoys();
    bench.stop_control_plane().await;
    assert_eq!(get(bench.gateway, "/").await, Some((200, Some(2))));
    assert_eq!(agent.envoys(), before);

    // Envoy's end does not need it either, twice.
    for _ in 0..2 {
        let [pid] = agent.envoys()[..] else { panic!("one Envoy runs") };
        kill(pid, Signal::SIGKILL).unwrap();
        eventually("another Envoy", || async {
            (!agent.envoys().is_empty() && !agent.envoys().contains(&pid)).then_some(())
        })
        .await;
        serves(bench.gateway, 2).await;
        assert!(runs_from(&agent.folder, "bootstrap-sealed.json"));
    }
    eventually("readiness", || async { (agent.ready().await? == 200).then_some(()) }).await;

    // It returns with news. Requests on kept connections never fail meanwhile.
    let over = Arc::new(AtomicBool::new(false));
    let traffic = tokio::spawn(traffic(bench.gateway, over.clone()));
    bench.set_revision(3);
    bench.start_control_plane().await;
    serves(bench.gateway, 3).await;
    eventually("the stand-in's end", || async {
        runs_from(&agent.folder, "bootstrap.yaml").then_some(())
    })
    .await;
    over.store(true, Ordering::Relaxed);
    let (requests, failures) = traffic.await.unwrap();
    assert!(requests > 0);
    assert_eq!(failures, 0, "of {requests} requests");
    bench.sealed(3).await;
    stop(agent).await;
}

/// Requests until it is over: how many, and how many failed. A connection is left when Envoy says
/// that it closes it.
async fn traffic(gateway: SocketAddr, over: Arc<AtomicBool>) -> (u32, u32) {
    let (mut requests, mut failures) = (0, 0);
    let mut connection = None;
    while !over.load(Ordering::Relaxed) {
        if connection.is_none() {
            connection = connect(gateway).await;
        }
        let Some(sender) = &mut connection else { continue };
        // A connection that was closed in good order between requests is no failure.
        if sender.ready().await.is_err() {
            connection = None;
            continue;
        }
        requests += 1;
        if !matches!(request(sender, "/").await, Some((200, _))) {
            failures += 1;
            connection = None;
        }
    }
    (requests, failures)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_starts_without_control_plane_even_from_a_damaged_file() {
    let Some(envoy) = envoy("a_gateway_starts_without_control_plane") else { return };
    let mut bench = Bench::new(envoy, 2).await;
    let agent = bench.start_agent();
    serves(bench.gateway, 1).await;
    bench.sealed(1).await;
    bench.set_revision(2);
    serves(bench.gateway, 2).await;
    bench.sealed(2).await;
    stop(agent).await;
    bench.stop_control_plane().await;

    let agent = bench.start_agent();
    serves(bench.gateway, 2).await;
    stop(agent).await;

    let whole = std::fs::read(bench.file("envoy.sealed")).unwrap();
    std::fs::write(bench.file("envoy.sealed"), &whole[..whole.len() / 2]).unwrap();
    let agent = bench.start_agent();
    serves(bench.gateway, 1).await;
    stop(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_leaves_envoy_serving_and_the_next_one_takes_over() {
    let Some(envoy) = envoy("a_killed_agent_leaves_envoy_serving") else { return };
    let bench = Bench::new(envoy, 3).await;
    let agent = bench.start_agent();
    serves(bench.gateway, 1).await;
    bench.sealed(1).await;
    let [orphan] = agent.envoys()[..] else { panic!("one Envoy runs") };
    agent.signal(Signal::SIGKILL);
    let folder = agent.folder.clone();
    // Not `drop`, which would stop Envoy as well.
    let mut agent = std::mem::ManuallyDrop::new(agent);
    agent.wait().await;
    assert_eq!(get(bench.gateway, "/").await, Some((200, Some(1))));

    bench.set_revision(2);
    let agent = bench.start_agent();
    eventually("the orphan's end", || async {
        (!envoys(&folder).contains(&orphan) && envoys(&folder).len() == 1).then_some(())
    })
    .await;
    serves(bench.gateway, 2).await;
    stop(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_gives_no_configuration_does_not_keep_a_gateway_down() {
    let Some(envoy) = envoy("a_control_plane_that_gives_no_configuration") else { return };
    let mut bench = Bench::new(envoy, 4).await;
    let agent = bench.start_agent();
    serves(bench.gateway, 1).await;
    bench.sealed(1).await;
    stop(agent).await;
    // A 500 is no refusal.
    bench.says.lock().unwrap().refusal = Some((500, String::new()));
    let agent = bench.start_agent();
    serves(bench.gateway, 1).await;
    assert!(runs_from(&agent.folder, "bootstrap-sealed.json"));
    // A refusal does not take the service away from a gateway that serves.
    bench.says.lock().unwrap().refusal = Some((422, "no".into()));
    bench.stop_control_plane().await;
    bench.start_control_plane().await;
    assert_eq!(get(bench.gateway, "/").await, Some((200, Some(1))));
    stop(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_gateway_says_so_and_serves_until_the_end() {
    let Some(envoy) = envoy("a_stopping_gateway_says_so") else { return };
    let bench = Bench::new(envoy, 5).await;
    let agent = bench.start_agent();
    serves(bench.gateway, 1).await;
    eventually("readiness", || async { (agent.ready().await? == 200).then_some(()) }).await;
    agent.signal(Signal::SIGUSR2);
    eventually("draining", || async { (agent.ready().await? == 503).then_some(()) }).await;
    assert_eq!(get(bench.gateway, "/").await, Some((200, Some(1))));
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.ended().await.code(), Some(0));
}

#[tokio::test]
async fn envoy_accepts_the_golden_static_configuration() {
    let Some(envoy) = envoy("envoy_accepts_the_golden_static_configuration") else { return };
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/static-bootstrap.json");
    let output = tokio::process::Command::new(envoy)
        .args(["--mode", "validate", "--disable-hot-restart", "--config-path", golden])
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
