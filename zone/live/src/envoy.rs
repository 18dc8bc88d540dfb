//! Real Envoys.

use std::{
    fmt,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::zone::Zone;

/// What an Envoy is started with.
#[derive(Debug, Clone)]
pub struct EnvoyOptions {
    /// Name of the Dataplane.
    pub name: String,
    /// Mesh of the Dataplane.
    pub mesh: String,
    /// The Dataplane that it brings along, as JSON.
    pub dataplane: Value,
    /// Features that its agent announces. Without `feature-delta-grpc` it speaks the older variant.
    pub features: Vec<&'static str>,
    /// Further fields of the request for the bootstrap, in place of those made here.
    pub request: Value,
    /// Changes the bootstrap before it is used.
    pub bootstrap: fn(&mut Value),
    /// Worker threads.
    pub concurrency: u8,
}

/// A running Envoy; it stops when this is dropped.
pub struct Envoy {
    process: Child,
    folder: TempDir,
}

impl fmt::Debug for Envoy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envoy").field("process", &self.process.id()).finish_non_exhaustive()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("Envoy said:\n{}", self.log());
        }
    }
}

impl Envoy {
    /// The program; none, with a word about it, if there is none.
    pub fn find() -> Option<PathBuf> {
        let named = ["SUNBEAR_ENVOY", "ENVOY_BIN"].iter().filter_map(std::env::var_os);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = named
            .map(PathBuf::from)
            .chain(std::env::split_paths(&path).map(|folder| folder.join("envoy")))
            .find(|path| path.is_file());
        if found.is_none() {
            eprintln!("SKIPPED: there is no Envoy; name one in SUNBEAR_ENVOY");
        }
        found
    }

    /// Asks the zone for the bootstrap, and starts.
    pub async fn start(program: &Path, zone: &Zone, options: &EnvoyOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let work_dir = folder.path();
        let mut request = json!({
            "mesh": options.mesh,
            "name": options.name,
            "dataplaneResource": options.dataplane.to_string(),
            "caCert": zone.certificate,
            "workdir": work_dir,
            "readinessPort": 9902,
            "features": options.features,
        });
        for (key, value) in options.request.as_object().into_iter().flatten() {
            request[key] = value.clone();
        }
        // Rustls refuses an authority as a server's own certificate; Envoy, which matters, does not.
        let client =
            reqwest::Client::builder().tls_danger_accept_invalid_certs(true).build().unwrap();
        let answer = client
            .post(format!("https://localhost:{}/bootstrap", zone.port))
            .header("accept", "application/json")
            .body(request.to_string())
            .send()
            .await
            .unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        assert_eq!(status, 200, "{text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        let document = from_base64(answer["bootstrap"].as_str().unwrap());
        let mut bootstrap: Value =
            serde_saphyr::from_str(std::str::from_utf8(&document).unwrap()).unwrap();
        (options.bootstrap)(&mut bootstrap);
        let path = work_dir.join("bootstrap.json");
        std::fs::write(&path, bootstrap.to_string()).unwrap();

        let log = File::create(work_dir.join("log")).unwrap();
        let process = Command::new(program)
            .arg("--config-path")
            .arg(path)
            .args(["--disable-hot-restart", "--log-level", "warn", "--drain-time-s", "1"])
            .args(["--file-flush-interval-msec", "50"])
            .args(["--concurrency", &options.concurrency.to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { process, folder }
    }

    /// Its work folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// An answer of its admin interface; none while there is no interface.
    pub async fn admin(&self, path: &str) -> Option<String> {
        let socket = self.folder.path().join("kuma-envoy-admin.sock");
        let client = reqwest::Client::builder().unix_socket(&*socket).build().unwrap();
        client.get(format!("http://envoy{path}")).send().await.ok()?.text().await.ok()
    }

    /// The sum of the counters and gauges whose names the expression matches as a whole.
    pub async fn stat(&self, expression: &str) -> u64 {
        let text = self.admin(&format!("/stats?filter=^{expression}$")).await.unwrap_or_default();
        text.lines().filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }
}

fn from_base64(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}
