//! A real Envoy, from its bootstrap over TLS to requests through the gateway, in both variants.
//!
//! Looks for Envoy in `SUNBEAR_ENVOY`, `ENVOY_BIN` and on the path. Without it the tests are
//! skipped, and say so.

use std::{
    fs::File,
    net::{SocketAddr, TcpListener as StdListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use axum::{Router, extract::Request, routing::any};
use serde_json::{Value, json};
use sunbear_dp_server::DpServer;
use sunbear_runtime::{
    config::{Listen, TlsFiles, TlsVersion},
    serve::{Limits, Server, Transport, bind},
    tls::{ClientCertificates, ReloadableCertificate, install_crypto_provider, server_config},
};
use sunbear_security::{
    certificate,
    mutual::{MutualCertificates, PROXY_NAME},
    trust::{ServerTrust, client_config, client_config_showing},
};
use sunbear_xds::{AdminTls, ResourceType};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    client::{Delta, Proxy, subscription},
    fixture::{CERTIFICATE, ECHO, Fixture, PATIENCE, ROUTE, any_token, eventually},
};

fn find(variables: &[&str], name: &str) -> Option<PathBuf> {
    let named = variables
        .iter()
        .filter_map(std::env::var_os)
        .map(PathBuf::from)
        .find(|path| path.is_file());
    let path = std::env::var_os("PATH").unwrap_or_default();
    named.or_else(|| std::env::split_paths(&path).map(|p| p.join(name)).find(|p| p.is_file()))
}

fn envoy() -> Option<PathBuf> {
    let envoy = find(&["SUNBEAR_ENVOY", "ENVOY_BIN"], "envoy");
    if envoy.is_none() {
        eprintln!("SKIPPED: there is no Envoy; name one in SUNBEAR_ENVOY");
    }
    envoy
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Serves the data-plane server as a zone does.
async fn serve_tls(server: &Arc<DpServer>, listener: TcpListener, folder: &Path) {
    let files = TlsFiles { cert: folder.join("cp.crt"), key: folder.join("cp.key") };
    std::fs::write(&files.cert, &CERTIFICATE.cert_pem).unwrap();
    std::fs::write(&files.key, &CERTIFICATE.key_pem).unwrap();
    let certificate = ReloadableCertificate::load(files).unwrap();
    let config = server_config(certificate, TlsVersion::V1_2, ClientCertificates::Ignored).unwrap();
    let server = Server {
        name: "dp-server",
        listener,
        router: server.router(),
        transport: Transport::Tls(config),
        limits: Limits::default(),
    };
    tokio::spawn(server.run(CancellationToken::new()));
}

/// An upstream that answers with its name and the header that routes set.
async fn serve_echo(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = move |request: Request| async move {
        let revision = request.headers().get("x-rev").and_then(|v| v.to_str().ok());
        format!("{name} {}", revision.unwrap_or("-"))
    };
    let router = Router::new().fallback(any(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

struct Envoy {
    process: Child,
    folder: TempDir,
    gateway: u16,
    admin: PathBuf,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        // Not at once, so that kuma-dp takes its Envoy with it.
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            eprintln!("Envoy said:\n{log}");
        }
    }
}

impl Envoy {
    /// Fetches a bootstrap, and starts.
    async fn start(binary: &Path, port: u16, gateway: u16, features: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let work_dir = folder.path();
        let request = json!({
            "mesh": "default",
            "name": "edge-1",
            "dataplaneToken": any_token(),
            "dataplaneResource": dataplane().to_string(),
            "caCert": CERTIFICATE.cert_pem,
            "workdir": work_dir,
            "readinessPort": 9902,
            "features": features,
        });
        // Rustls refuses an authority as a server's own certificate; Envoy, which matters, does not.
        let client =
            reqwest::Client::builder().tls_danger_accept_invalid_certs(true).build().unwrap();
        let answer = client
            .post(format!("https://localhost:{port}/bootstrap"))
            .header("accept", "application/json")
            .body(request.to_string())
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        let answer: Value = answer.json().await.unwrap();
        let bootstrap = base64_decode(answer["bootstrap"].as_str().unwrap());
        let path = work_dir.join("bootstrap.yaml");
        std::fs::write(&path, bootstrap).unwrap();

        let log = File::create(work_dir.join("log")).unwrap();
        let process = Command::new(binary)
            .arg("--config-path")
            .arg(path)
            .args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warn"])
            .args(["--drain-time-s", "1"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let admin = work_dir.join("kuma-envoy-admin.sock");
        Self { process, folder, gateway, admin }
    }

    /// Lets kuma-dp do all that.
    fn start_with_kuma_dp(kuma_dp: &Path, binary: &Path, port: u16, gateway: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let resource = dataplane().to_string();
        let option = |name: &str, path: PathBuf| format!("--{name}={}", path.display());
        let work_dir = folder.path().join("work");
        std::fs::create_dir(&work_dir).unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let process = Command::new(kuma_dp)
            .arg("run")
            .arg(format!("--cp-address=https://localhost:{port}"))
            .arg(option("ca-cert-file", file("ca", &CERTIFICATE.cert_pem)))
            .arg(option("dataplane-file", file("dataplane.yaml", &resource)))
            .arg(option("dataplane-token-file", file("token", &any_token())))
            .arg(option("binary-path", binary.to_owned()))
            .arg(option("work-dir", work_dir.clone()))
            .args(["--dns-enabled=false", "--drain-time=1s"])
            .env("KUMA_READINESS_PORT", free_port().to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let admin = work_dir.join("kuma-envoy-admin.sock");
        Self { process, folder, gateway, admin }
    }

    async fn get(&self) -> Option<String> {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).build().unwrap();
        let answer = client.get(format!("http://127.0.0.1:{}/", self.gateway)).send().await.ok()?;
        (answer.status().as_u16() == 200).then_some(answer.text().await.ok()?)
    }

    /// Waits for an answer of the gateway.
    async fn answers(&self, want: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut got = None;
        while got.as_deref() != Some(want) {
            assert!(tokio::time::Instant::now() < deadline, "got {got:?}, want {want:?}");
            got = self.get().await.or(got);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A counter or gauge of Envoy.
    async fn stat(&self, name: &str) -> u64 {
        let client = reqwest::Client::builder().unix_socket(&*self.admin).build().unwrap();
        let url = format!("http://envoy/stats?filter=^{name}$");
        let text = client.get(url).send().await.unwrap().text().await.unwrap();
        text.trim().rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
    }
}

/// The gateway that the proxy is.
fn dataplane() -> Value {
    json!({
        "type": "Dataplane",
        "mesh": "default",
        "name": "edge-1",
        "networking": {
            "address": "127.0.0.1",
            "gateway": {"type": "BUILTIN", "tags": {"kuma.io/service": "edge"}},
            "admin": {"port": free_port()},
        },
    })
}

fn base64_decode(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

async fn settled(fixture: &Fixture, revision: u64) {
    eventually("Envoy has acknowledged everything", || {
        fixture.status("edge-1").filter(|s| s.applied_revision >= Some(revision))
    })
    .await;
}

/// A zone with a gateway and two services, and its TLS port.
struct Zone {
    fixture: Fixture,
    port: u16,
    gateway: u16,
    _folder: TempDir,
}

impl Zone {
    async fn start() -> Self {
        Self::with(None).await
    }

    /// A zone whose control plane reaches admin interfaces from elsewhere.
    async fn with(admin_tls: Option<AdminTls>) -> Self {
        install_crypto_provider();
        let folder = tempfile::tempdir().unwrap();
        // All interfaces, because Envoy may take localhost to be `::1`.
        let listen = Listen { interface: String::new(), port: 0, key: "test" };
        let listener = bind(&listen).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let fixture = Fixture::with(|config| {
            config.bootstrap.xds_port = port;
            config.xds.admin_tls = admin_tls;
            config.deregistration_delay = Duration::from_millis(100);
        })
        .await;
        serve_tls(&fixture.server, listener, folder.path()).await;

        let gateway = free_port();
        let echo = serve_echo("echo").await;
        let other = serve_echo("other").await;
        fixture
            .put(&format!(
                "{{type: MeshGateway, mesh: default, name: edge, \
                  selectors: [{{match: {{kuma.io/service: edge}}}}], \
                  conf: {{listeners: [{{port: {gateway}, protocol: HTTP}}]}}}}"
            ))
            .await;
        fixture.put(&ECHO.replace("19090", &echo.port().to_string())).await;
        fixture
            .put(&ECHO.replace("echo", "other").replace("19090", &other.port().to_string()))
            .await;
        Self { fixture, port, gateway, _folder: folder }
    }
}

fn route(service: &str, revision: u32) -> String {
    ROUTE
        .replace("service: echo", &format!("service: {service}"))
        .replace("value: '0'", &format!("value: '{revision}'"))
}

async fn a_gateway_serves(features: Value) {
    let Some(binary) = envoy() else { return };
    let Zone { fixture, port, gateway, _folder } = Zone::start().await;
    let revision = fixture.put(&route("echo", 0)).await.revision;
    let envoy = Envoy::start(&binary, port, gateway, features).await;
    envoy.answers("echo 0").await;
    settled(&fixture, revision).await;

    // A change of the route alone.
    let revision = fixture.put(&route("echo", 1)).await.revision;
    envoy.answers("echo 1").await;
    settled(&fixture, revision).await;

    // Another backend: a cluster comes, the route moves, a cluster goes. No request fails.
    let (stop, failures) = constant_traffic(gateway);
    let revision = fixture.put(&route("other", 2)).await.revision;
    envoy.answers("other 2").await;
    settled(&fixture, revision).await;

    // A cluster that changes gets its endpoints again, else it would not become warm.
    let policy = "{type: MeshCircuitBreaker, mesh: default, name: cb, spec: {targetRef: {kind: Mesh}, \
        to: [{targetRef: {kind: Mesh}, default: {connectionLimits: {maxConnections: 77}}}]}}";
    let revision = fixture.put(policy).await.revision;
    settled(&fixture, revision).await;
    assert_eq!(envoy.stat("cluster_manager.warming_clusters").await, 0);
    envoy.answers("other 2").await;

    // Somebody else takes the stream over for a moment; Envoy comes back and hears nothing new.
    let before = updates(&envoy).await;
    let known = fixture.status("edge-1").unwrap();
    let resource = fixture.dataplane("edge-1").unwrap();
    let other = Proxy::indirect("edge-1", &any_token());
    let intruder =
        Delta::open(fixture.address, &other, subscription(ResourceType::Runtime, &[])).await;
    eventually("Envoy is back", || {
        let status = fixture.status("edge-1")?;
        let back = status.connected_at > known.connected_at
            && status.types.contains_key(&ResourceType::Cluster)
            && status.applied_revision.is_some();
        back.then_some(())
    })
    .await;
    drop(intruder);
    assert_eq!(updates(&envoy).await, before);
    assert_eq!(fixture.dataplane("edge-1").unwrap().revision, resource.revision);

    stop.cancel();
    assert_eq!(failures.await.unwrap(), 0, "failed requests");
    assert_eq!(envoy.stat("listener_manager.lds.update_rejected").await, 0);
    assert_eq!(envoy.stat("cluster_manager.cds.update_rejected").await, 0);

    // A listener whose port is taken is refused; the other one goes on.
    let taken = StdListener::bind("127.0.0.1:0").unwrap();
    let taken_port = taken.local_addr().unwrap().port();
    fixture
        .put(&format!(
            "{{type: MeshGateway, mesh: default, name: edge, \
              selectors: [{{match: {{kuma.io/service: edge}}}}], \
              conf: {{listeners: [{{port: {gateway}, protocol: HTTP}}, \
                {{port: {taken_port}, protocol: HTTP}}]}}}}"
        ))
        .await;
    eventually("the refusal is seen", || {
        let status = fixture.status("edge-1")?;
        status.types.get(&ResourceType::Listener)?.rejected.clone()
    })
    .await;
    envoy.answers("other 2").await;
    drop(taken);

    // Mesh mTLS: clusters wait for certificates, which come on the same stream.
    let (certificate, key) = authority();
    fixture.secret("default", "default.ca-builtin-cert-ca-1", &certificate).await;
    fixture.secret("default", "default.ca-builtin-key-ca-1", &key).await;
    let mesh = "{type: Mesh, name: default, mtls: {enabledBackend: ca-1, \
        backends: [{name: ca-1, type: builtin}]}}";
    fixture.put(mesh).await;
    let revision = fixture
        .put(&format!(
            "{{type: MeshGateway, mesh: default, name: edge, \
              selectors: [{{match: {{kuma.io/service: edge}}}}], \
              conf: {{listeners: [{{port: {gateway}, protocol: HTTP}}]}}}}"
        ))
        .await
        .revision;
    settled(&fixture, revision).await;
    let status = fixture.status("edge-1").unwrap();
    assert!(status.types.contains_key(&ResourceType::Secret), "{status:?}");
    assert_eq!(envoy.stat("cluster_manager.warming_clusters").await, 0);
    eventually("the certificate is told", || fixture.insight("edge-1")?.m_tls).await;
}

/// The CA of a mesh.
fn authority() -> (String, String) {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};

    let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "default");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// How often Envoy has taken clusters and listeners.
async fn updates(envoy: &Envoy) -> [u64; 2] {
    [
        envoy.stat("cluster_manager.cds.update_success").await,
        envoy.stat("listener_manager.lds.update_success").await,
    ]
}

/// Requests one after the other until stopped; the number of those that failed.
fn constant_traffic(port: u16) -> (CancellationToken, tokio::task::JoinHandle<usize>) {
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let task = tokio::spawn(async move {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build().unwrap();
        let mut failures = 0;
        while !stopped.is_cancelled() {
            match client.get(format!("http://127.0.0.1:{port}/")).send().await {
                Ok(answer) if answer.status().as_u16() == 200 => {}
                other => {
                    eprintln!("request failed: {other:?}");
                    failures += 1;
                }
            }
        }
        failures
    });
    (stop, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn delta() {
    a_gateway_serves(json!(["feature-delta-grpc"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sotw() {
    a_gateway_serves(json!([])).await;
}

/// A control plane reaches the admin interface from elsewhere, and nobody else does.
#[tokio::test(flavor = "multi_thread")]
async fn admin_interface_from_elsewhere() {
    let Some(binary) = envoy() else { return };
    let now = time::OffsetDateTime::now_utc();
    let authority = || {
        let pair = sunbear_security::ca::make_envoy_admin(uuid::Uuid::new_v4(), now).unwrap();
        let both = format!("{}{}", pair.cert_pem, pair.key_pem);
        MutualCertificates::of_authority(both.as_bytes(), PROXY_NAME).unwrap()
    };
    let (own, other) = (authority(), authority());
    let admin_tls = AdminTls {
        ca: own.ca_pem.clone().into_bytes(),
        certificate: own.server.cert_pem.clone().into_bytes(),
        key: own.server.key_pem.clone().into_bytes(),
    };
    let Zone { fixture, port, gateway, _folder } = Zone::with(Some(admin_tls)).await;
    fixture.put(&route("echo", 0)).await;
    let envoy = Envoy::start(&binary, port, gateway, json!(["feature-delta-grpc"])).await;
    envoy.answers("echo 0").await;
    let proxy = fixture.dataplane("edge-1").unwrap();
    let networking = proxy.as_dataplane().unwrap().networking.clone().unwrap();
    let admin = SocketAddr::from(([127, 0, 0, 1], networking.admin.unwrap().port as u16));

    let trust = ServerTrust::Authorities(own.ca_pem.as_bytes());
    let showing = |pair: &certificate::PemPair| {
        let key = certificate::certified_key(pair.cert_pem.as_bytes(), pair.key_pem.as_bytes());
        client_config_showing(trust, key.unwrap(), &[]).unwrap()
    };
    let client = |tls| {
        let builder = reqwest::Client::builder().tls_backend_preconfigured(tls);
        builder.resolve(PROXY_NAME, admin).build().unwrap()
    };
    let url = |path: &str| format!("https://{PROXY_NAME}:{}{path}", admin.port());
    let dump = client(showing(&own.client)).get(url("/config_dump")).send().await.unwrap();
    assert_eq!(dump.status().as_u16(), 200);
    assert!(dump.text().await.unwrap().contains("ListenersConfigDump"));
    let strangers =
        [client_config(trust, &[]).unwrap(), showing(&own.server), showing(&other.client)];
    for stranger in strangers {
        let refused = client(stranger).get(url("/config_dump")).send().await;
        assert!(refused.is_err(), "{refused:?}");
    }
    let plain = reqwest::get(format!("http://{admin}/config_dump")).await.unwrap();
    assert_eq!(plain.status().as_u16(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn kuma_dp() {
    let Some(binary) = envoy() else { return };
    let Some(kuma_dp) = find(&["SUNBEAR_KUMA_DP"], "kuma-dp") else {
        eprintln!("SKIPPED: there is no kuma-dp; name one in SUNBEAR_KUMA_DP");
        return;
    };
    let Zone { fixture, port, gateway, _folder } = Zone::start().await;
    fixture.put(&route("echo", 0)).await;
    let envoy = Envoy::start_with_kuma_dp(&kuma_dp, &binary, port, gateway);
    envoy.answers("echo 0").await;
    let revision = fixture.put(&route("other", 1)).await.revision;
    envoy.answers("other 1").await;
    settled(&fixture, revision).await;
    let insight = eventually("it is told", || fixture.insight("edge-1")).await;
    let version = insight.subscriptions.last().unwrap().version.clone().unwrap();
    assert!(!version.envoy.unwrap().version.is_empty());

    drop(envoy);
    eventually("the Dataplane goes with it", || {
        fixture.dataplane("edge-1").is_none().then_some(())
    })
    .await;
}
