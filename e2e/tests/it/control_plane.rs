//! One control plane under test.

use std::{
    env, fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use xtask::{http, process::Process};

/// How long anything may take before the test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The program of this name, built in the same profile as this test.
pub(crate) fn program(name: &str) -> PathBuf {
    let own = env::current_exe().unwrap();
    let path = own.parent().unwrap().parent().unwrap().join(name);
    assert!(path.exists(), "{} is not built: run cargo build --workspace", path.display());
    path
}

/// Ports that nobody listens on now. They are below those that systems give to connections, so that
/// none of the many connections of other tests takes one before it is listened on.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    const FIRST: u32 = 10_000;
    const NUMBER: u32 = 9_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Processes that choose at the same time rarely meet.
    let start = std::process::id().wrapping_mul(97);
    std::array::from_fn(|_| {
        let mut ports = std::iter::repeat_with(|| {
            let next = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
            u16::try_from(FIRST + next % NUMBER).unwrap()
        });
        ports.find(|port| is_free(*port)).unwrap()
    })
}

fn is_free(port: u16) -> bool {
    let any = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port));
    any.or_else(|error| match error.kind() {
        ErrorKind::AddrInUse => Err(error),
        // No IPv6 here.
        _ => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)),
    })
    .is_ok()
}

/// Where a control plane listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) http: u16,
    pub(crate) https: u16,
    pub(crate) kds: u16,
    pub(crate) dp: u16,
    pub(crate) diagnostics: u16,
}

impl Ports {
    pub(crate) fn free() -> Self {
        let [http, https, kds, dp, diagnostics] = free_ports();
        Self { http, https, kds, dp, diagnostics }
    }
}

/// A control plane with a folder and ports of its own; killed when dropped.
pub(crate) struct ControlPlane {
    name: String,
    pub(crate) ports: Ports,
    pub(crate) folder: PathBuf,
    process: Process,
}

impl ControlPlane {
    pub(crate) fn global(folder: &Path, ports: Ports) -> Self {
        Self::global_with(folder, ports, &[])
    }

    /// A global with further settings.
    pub(crate) fn global_with(folder: &Path, ports: Ports, settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program("sunbear-global"));
        command
            .arg("run")
            .env("KUMA_MULTIZONE_GLOBAL_KDS_GRPC_PORT", ports.kds.to_string())
            .envs(settings.iter().copied());
        Self::start("global", folder, ports, command)
    }

    /// A zone of the global at `address`, whose certificate is in `ca`.
    pub(crate) fn zone(
        label: &str,
        zone: &str,
        folder: &Path,
        ports: Ports,
        address: &str,
        ca: &Path,
    ) -> Self {
        Self::zone_with(label, zone, folder, ports, address, ca, &[])
    }

    /// As [`Self::zone`], with further settings.
    pub(crate) fn zone_with(
        label: &str,
        zone: &str,
        folder: &Path,
        ports: Ports,
        address: &str,
        ca: &Path,
        settings: &[(&str, &str)],
    ) -> Self {
        let mut command = Command::new(program("sunbear-zone"));
        command
            .arg("run")
            .env("KUMA_MULTIZONE_ZONE_NAME", zone)
            .env("KUMA_MULTIZONE_ZONE_GLOBAL_ADDRESS", address)
            .env("KUMA_MULTIZONE_ZONE_KDS_ROOT_CA_FILE", ca)
            .env("KUMA_DP_SERVER_PORT", ports.dp.to_string())
            .envs(settings.iter().copied());
        Self::start(label, folder, ports, command)
    }

    /// Runs a command that becomes, or starts, a control plane.
    pub(crate) fn start(label: &str, folder: &Path, ports: Ports, mut command: Command) -> Self {
        let own = folder.join(label);
        fs::create_dir_all(&own).unwrap();
        command
            .env("KUMA_GENERAL_WORK_DIR", &own)
            .env("KUMA_API_SERVER_HTTP_PORT", ports.http.to_string())
            .env("KUMA_API_SERVER_HTTPS_PORT", ports.https.to_string())
            .env("KUMA_DIAGNOSTICS_SERVER_PORT", ports.diagnostics.to_string());
        let process = Process::spawn(label, command, folder).unwrap();
        Self { name: label.to_owned(), ports, folder: own, process }
    }

    /// Its own certificate, by which others verify it.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.join("kuma-cp.crt")
    }

    pub(crate) fn kds_address(&self) -> String {
        format!("grpcs://localhost:{}", self.ports.kds)
    }

    pub(crate) fn log(&self) -> String {
        self.process.log_tail(500)
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.exited().unwrap().is_none()
    }

    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(status) = self.process.exited().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{} goes on running:\n{}", self.name, self.log());
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGHUP.
    pub(crate) fn hang_up(&self) {
        let id = self.process.id().to_string();
        let status = Command::new("sh").args(["-c", "kill -HUP \"$0\"", &id]).status();
        assert!(status.unwrap().success());
    }

    pub(crate) fn get(&self, path: &str) -> Option<(u16, String)> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.ports.http));
        let answer = http::get(address, "localhost", path).ok()?;
        Some((answer.status, answer.body))
    }

    pub(crate) fn is_ready(&self) -> bool {
        let address = SocketAddr::from(([127, 0, 0, 1], self.ports.diagnostics));
        http::get(address, "localhost", "/ready").is_ok_and(|a| a.status == 200)
    }

    /// Sends a body to a path; status and answer.
    pub(crate) fn send(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports.http)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer)
    }

    /// Waits until a condition on it holds.
    pub(crate) fn until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            assert!(start.elapsed() < PATIENCE, "{}: no {what}:\n{}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn until_ready(&mut self) {
        self.until("readiness", |cp| {
            assert!(cp.is_running(), "{} ended:\n{}", cp.name, cp.log());
            cp.is_ready()
        });
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.process.kill();
    }
}
