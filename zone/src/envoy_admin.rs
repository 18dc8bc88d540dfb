//! Asking the Envoys of this zone, for users of this control plane and of the global.
//!
//! An Envoy's admin interface listens on a Unix socket or on loopback, where a control plane on the
//! same host finds it. From elsewhere the way goes through the listener that every proxy gets for it,
//! which admits nobody but a control plane of this zone, and has to prove that it is such a listener.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use rustls_pki_types::ServerName;
use serde_json::Value;
use sunbear_api::{AdminBackend, AdminError, AdminFuture, AdminQuestion, defaults::ENVOY_ADMIN_CA};
use sunbear_kds::admin::{EnvoyAdmin, Question, Target};
use sunbear_model::{Kind, Resource, ResourceKey, rest};
use sunbear_security::{
    certificate,
    mutual::{MutualCertificates, PROXY_NAME},
    trust::{self, ServerTrust},
};
use sunbear_store::World;
use sunbear_xds::AdminTls;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsConnector;
use tracing::warn;

/// Port of the admin interface where neither the proxy nor its bootstrap says another.
const DEFAULT_PORT: u16 = 9901;
/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(8);
/// More than any message to a global may have; a larger answer is cut off with an error.
const LIMIT: u64 = 64 << 20;

/// The proxies that this control plane knows.
#[derive(Clone)]
pub(crate) struct Proxies {
    world: World,
    /// For admin interfaces on other hosts; none if the zone's authority is of no use.
    tls: Option<TlsConnector>,
}

/// Why an Envoy did not answer.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("there is no {kind} \"{name}\" in this zone")]
    Unknown { kind: String, name: String },
    #[error(
        "{kind} \"{name}\" is not connected to this control plane, so its Envoy cannot be asked; \
         start the proxy, or see in its log why it does not connect"
    )]
    NotConnected { kind: Kind, name: String },
    #[error(
        "{kind} \"{name}\": networking.address {address:?} is no IP address, so its Envoy cannot be \
         asked from here"
    )]
    Address { kind: Kind, name: String, address: String },
    #[error(
        "the GlobalSecret \"{ENVOY_ADMIN_CA}\" is no authority, so Envoys on other hosts cannot be \
         asked; delete it and restart the control plane to get a new one"
    )]
    NoAuthority,
    #[error("Envoy's admin interface at {place}: {source}")]
    Unreachable { place: String, source: io::Error },
    #[error("Envoy's admin interface at {0} does not answer")]
    Silent(String),
    #[error("Envoy's admin interface at {place}: {reason}")]
    Answer { place: String, reason: String },
}

impl From<AskError> for AdminError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Unknown { .. } | AskError::NotConnected { .. } | AskError::Address { .. } => {
                Self::Refused(error.to_string())
            }
            AskError::NoAuthority
            | AskError::Unreachable { .. }
            | AskError::Silent(_)
            | AskError::Answer { .. } => Self::Failed(error.to_string()),
        }
    }
}

/// Where an admin interface is.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Socket(PathBuf),
    /// On this host.
    Plain(SocketAddr),
    /// The listener for control planes.
    Listener(SocketAddr),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Socket(path) => path.display().fmt(f),
            Place::Plain(address) | Place::Listener(address) => address.fmt(f),
        }
    }
}

/// What proxies present, and what this control plane does, from the zone's authority; nothing if that
/// is of no use, which a warning says.
pub(crate) fn certificates(world: &World) -> Option<MutualCertificates> {
    let key = ResourceKey::new(Kind::GLOBAL_SECRET, "", ENVOY_ADMIN_CA);
    let snapshot = world.snapshot();
    let data = snapshot.get(&key)?.secret_data()?;
    match MutualCertificates::of_authority(data, PROXY_NAME) {
        Ok(certificates) => Some(certificates),
        Err(error) => {
            let error = anyhow::Error::new(error);
            warn!(secret = ENVOY_ADMIN_CA, "Envoys on other hosts cannot be asked: {error:#}");
            None
        }
    }
}

/// For the listeners of proxies.
pub(crate) fn listener_tls(certificates: &MutualCertificates) -> AdminTls {
    AdminTls {
        ca: certificates.ca_pem.clone().into_bytes(),
        certificate: certificates.server.cert_pem.clone().into_bytes(),
        key: certificates.server.key_pem.clone().into_bytes(),
    }
}

fn connector(certificates: &MutualCertificates) -> anyhow::Result<TlsConnector> {
    let own = &certificates.client;
    let own = certificate::certified_key(own.cert_pem.as_bytes(), own.key_pem.as_bytes())?;
    let authority = ServerTrust::Authorities(certificates.ca_pem.as_bytes());
    Ok(TlsConnector::from(Arc::new(trust::client_config_showing(authority, own, &[])?)))
}

impl Proxies {
    pub(crate) fn new(
        world: World,
        certificates: Option<&MutualCertificates>,
    ) -> anyhow::Result<Self> {
        let tls = certificates.map(connector).transpose();
        Ok(Self { world, tls: tls.context("certificate for the admin interfaces of Envoys")? })
    }

    fn place(&self, kind: Kind, mesh: &str, name: &str) -> Result<Place, AskError> {
        let snapshot = self.world.snapshot();
        let unknown = || AskError::Unknown { kind: kind.to_string(), name: name.to_owned() };
        let insight = match kind {
            Kind::DATAPLANE => Kind::DATAPLANE_INSIGHT,
            Kind::ZONE_INGRESS => Kind::ZONE_INGRESS_INSIGHT,
            Kind::ZONE_EGRESS => Kind::ZONE_EGRESS_INSIGHT,
            _ => return Err(unknown()),
        };
        let proxy = snapshot.get(&ResourceKey::new(kind, mesh, name)).ok_or_else(unknown)?;
        let insight = snapshot.get(&ResourceKey::new(insight, mesh, name));
        let insight = insight.map(|i| rest::write(i)).filter(is_connected);
        let insight =
            insight.ok_or_else(|| AskError::NotConnected { kind, name: name.to_owned() })?;
        find(proxy, &insight)
    }

    async fn get(&self, place: Place, path: &str) -> Result<Vec<u8>, AskError> {
        let asking = async {
            match &place {
                Place::Socket(file) => exchange(UnixStream::connect(file).await?, path).await,
                Place::Plain(address) => exchange(TcpStream::connect(address).await?, path).await,
                Place::Listener(address) => {
                    let Some(tls) = &self.tls else { return Ok(Err(AskError::NoAuthority)) };
                    let name = ServerName::try_from(PROXY_NAME).map_err(io::Error::other)?;
                    let stream = TcpStream::connect(address).await?;
                    exchange(tls.connect(name, stream).await?, path).await
                }
            }
            .map(|answer| {
                answer.map_err(|reason| AskError::Answer { place: place.to_string(), reason })
            })
        };
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(source)) => Err(AskError::Unreachable { place: place.to_string(), source }),
            Err(_) => Err(AskError::Silent(place.to_string())),
        }
    }
}

/// The last subscription has begun and not ended.
fn is_connected(insight: &Value) -> bool {
    let last = insight.pointer("/subscriptions").and_then(Value::as_array).and_then(|s| s.last());
    last.is_some_and(|s| s.get("connectTime").is_some() && s.get("disconnectTime").is_none())
}

/// Where the admin interface of a proxy is that says this of itself.
fn find(proxy: &Resource, insight: &Value) -> Result<Place, AskError> {
    let said = |key: &str| {
        let value = insight.get("metadata").and_then(|m| m.get(key)).and_then(Value::as_str);
        value.filter(|text| !text.is_empty())
    };
    let socket = said("dataplane.admin.socketPath").map(PathBuf::from);
    let on_socket = socket.is_some();
    if let Some(socket) = socket.filter(|socket| socket.exists()) {
        return Ok(Place::Socket(socket));
    }
    let spec = rest::write(proxy);
    let address = spec.pointer("/networking/address").and_then(Value::as_str).unwrap_or_default();
    let ip: IpAddr = address.parse().map_err(|_| AskError::Address {
        kind: proxy.key.kind,
        name: proxy.key.name.to_string(),
        address: address.to_owned(),
    })?;
    let port = spec
        .pointer("/networking/admin/port")
        .and_then(Value::as_u64)
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
        .or_else(|| said("dataplane.admin.port")?.parse().ok())
        .unwrap_or(DEFAULT_PORT);
    let address = SocketAddr::new(ip, port);
    // There the interface itself listens, and nothing before it.
    let loopback = ip == IpAddr::V4(Ipv4Addr::LOCALHOST) || ip == IpAddr::V6(Ipv6Addr::LOCALHOST);
    Ok(if loopback && !on_socket { Place::Plain(address) } else { Place::Listener(address) })
}

/// One request over HTTP/1.0, whose answer ends with the connection and is never chunked.
async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
) -> std::io::Result<Result<Vec<u8>, String>> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    stream.take(LIMIT).read_to_end(&mut bytes).await?;
    Ok(parse(&bytes))
}

/// The body of an answer, if its status is 200.
fn parse(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let malformed = || "Envoy's answer is no HTTP".to_owned();
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(malformed)?;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let body = &bytes[end + 4..];
    let status = head.split(' ').nth(1).ok_or_else(malformed)?;
    if status != "200" {
        return Err(format!("Envoy answers with status {status}"));
    }
    if head.contains("transfer-encoding: chunked") {
        unchunk(body).ok_or_else(malformed)
    } else {
        Ok(body.to_vec())
    }
}

fn unchunk(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let line = body.windows(2).position(|w| w == b"\r\n")?;
        let size = std::str::from_utf8(&body[..line]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        body = body.get(line + 2..)?;
        if size == 0 {
            return Some(out);
        }
        out.extend_from_slice(body.get(..size)?);
        body = body.get(size + 2..)?;
    }
}

fn path_of(question: Question) -> &'static str {
    match question {
        Question::XdsConfig { include_eds: false } => "/config_dump",
        Question::XdsConfig { include_eds: true } => "/config_dump?include_eds",
        Question::Stats { json: false, used_only: false } => "/stats",
        Question::Stats { json: false, used_only: true } => "/stats?usedonly",
        Question::Stats { json: true, used_only: false } => "/stats?format=json",
        Question::Stats { json: true, used_only: true } => "/stats?format=json&usedonly",
        Question::Clusters { json: false } => "/clusters",
        Question::Clusters { json: true } => "/clusters?format=json",
    }
}

impl EnvoyAdmin for Proxies {
    fn ask(
        &self,
        target: Target,
        question: Question,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Vec<u8>, String>> + Send + '_>> {
        Box::pin(async move {
            let unknown =
                || AskError::Unknown { kind: target.kind.clone(), name: target.name.clone() };
            let kind = Kind::by_name(&target.kind).ok_or_else(|| unknown().to_string())?;
            let place = self.place(kind, &target.mesh, &target.name).map_err(|e| e.to_string())?;
            let answer = self.get(place, path_of(question)).await.map_err(|e| e.to_string())?;
            Ok(match question {
                // The token of the proxy is in its bootstrap.
                Question::XdsConfig { .. } => sunbear_api::redact(answer),
                Question::Stats { .. } | Question::Clusters { .. } => answer,
            })
        })
    }
}

impl AdminBackend for Proxies {
    fn ask(&self, proxy: Arc<Resource>, question: AdminQuestion) -> AdminFuture<'_> {
        Box::pin(async move {
            let question = match question {
                AdminQuestion::ConfigDump { include_eds } => Question::XdsConfig { include_eds },
                AdminQuestion::Stats { json, used_only } => Question::Stats { json, used_only },
                AdminQuestion::Clusters { json } => Question::Clusters { json },
            };
            let place = self.place(proxy.key.kind, &proxy.key.mesh, &proxy.key.name)?;
            Ok(self.get(place, path_of(question)).await?)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path};

    use serde_json::json;
    use sunbear_model::Spec;
    use time::OffsetDateTime;

    use super::*;

    #[test]
    fn answers() {
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\na: b\r\n\r\nhi").unwrap(), b"hi");
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        assert_eq!(parse(chunked).unwrap(), b"abcde");
        assert!(parse(b"HTTP/1.1 404 Not Found\r\n\r\n").unwrap_err().contains("404"));
        assert!(parse(b"nonsense").is_err());
    }

    fn proxy(kind: Kind, networking: &Value) -> Resource {
        let body = json!({"type": kind.name(), "name": "p", "mesh": "m", "networking": networking});
        Resource {
            key: ResourceKey::new(kind, "m", "p"),
            uid: Default::default(),
            version: 1,
            revision: 1,
            labels: BTreeMap::new(),
            spec: rest::read_as(kind, &body).unwrap().spec,
            status: None,
            owner: None,
            created_at: OffsetDateTime::UNIX_EPOCH,
            modified_at: OffsetDateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn places() {
        let here = tempfile::NamedTempFile::new().unwrap();
        let here = here.path().to_str().unwrap();
        let said = |key: &str, value: &str| json!({"metadata": {key: value}});
        let socket = |path: &str| said("dataplane.admin.socketPath", path);
        let plain = |text: &str| Place::Plain(text.parse().unwrap());
        let listener = |text: &str| Place::Listener(text.parse().unwrap());
        let at = |address: &str| json!({"address": address});
        for (networking, insight, want) in [
            (at("127.0.0.1"), json!({}), plain("127.0.0.1:9901")),
            (at("127.0.0.1"), said("dataplane.admin.port", "77"), plain("127.0.0.1:77")),
            (
                json!({"address": "::1", "admin": {"port": 7}}),
                said("dataplane.admin.port", "77"),
                plain("[::1]:7"),
            ),
            (at("127.0.0.1"), socket(here), Place::Socket(Path::new(here).to_owned())),
            // Of another host, or of another container on this one.
            (at("127.0.0.1"), socket("/absent"), listener("127.0.0.1:9901")),
            (at("127.0.0.2"), json!({}), listener("127.0.0.2:9901")),
            (at("10.1.2.3"), socket("/absent"), listener("10.1.2.3:9901")),
        ] {
            for kind in [Kind::DATAPLANE, Kind::ZONE_INGRESS, Kind::ZONE_EGRESS] {
                let got = find(&proxy(kind, &networking), &insight).unwrap();
                assert_eq!(got, want, "{kind} {networking} {insight}");
            }
        }
        let error = find(&proxy(Kind::DATAPLANE, &at("gateway.local")), &json!({})).unwrap_err();
        assert!(error.to_string().contains("networking.address \"gateway.local\""), "{error}");
    }

    #[test]
    fn who_is_connected() {
        let open = json!({"id": "2", "connectTime": "2026-01-01T00:00:00Z"});
        let mut closed = open.clone();
        closed["disconnectTime"] = "2026-01-01T00:01:00Z".into();
        for (subscriptions, want) in
            [(json!([]), false), (json!([closed, open]), true), (json!([open, closed]), false)]
        {
            assert_eq!(is_connected(&json!({"subscriptions": subscriptions})), want);
        }
        assert!(!is_connected(&json!({})));
    }

    async fn world(objects: &[(Kind, Value)]) -> World {
        let store = Arc::new(sunbear_store::Sqlite::memory().await.unwrap());
        let (world, feed) =
            World::start(store, sunbear_store::WorldOptions::default()).await.unwrap();
        tokio::spawn(feed);
        let changes = objects.iter().map(|(kind, body)| {
            let text = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default();
            let key = ResourceKey::new(*kind, text("mesh"), text("name"));
            let spec: Spec = rest::read_as(*kind, body).unwrap().spec;
            sunbear_store::Change::put(key, spec, BTreeMap::new())
        });
        let batch = sunbear_store::Batch {
            changes: changes.collect(),
            author: "test".to_owned(),
            reason: "test".to_owned(),
            mode: sunbear_store::BatchMode::AllOrNothing,
            at: OffsetDateTime::UNIX_EPOCH,
        };
        for result in world.commit(batch).await.unwrap().results {
            result.unwrap();
        }
        world
    }

    /// Envoys that do not run are not asked, whoever else listens at their address.
    #[tokio::test]
    async fn a_proxy_that_is_not_connected() {
        let ingress = json!({"name": "zi", "networking": {"address": "127.0.0.1", "port": 1}});
        let world = world(&[(Kind::ZONE_INGRESS, ingress)]).await;
        let proxies = Proxies::new(world, None).unwrap();
        let ask = async |name: &str| {
            let target = Target {
                kind: "ZoneIngress".to_owned(),
                name: name.to_owned(),
                mesh: String::new(),
            };
            EnvoyAdmin::ask(&proxies, target, Question::Clusters { json: false }).await.unwrap_err()
        };
        let error = ask("zi").await;
        assert!(error.starts_with("ZoneIngress \"zi\" is not connected"), "{error}");
        assert_eq!(ask("other").await, "there is no ZoneIngress \"other\" in this zone");
    }

    /// An admin interface on another host: each side wants to see the certificate of the zone.
    #[tokio::test]
    async fn over_tls() {
        let authority = || {
            let now = OffsetDateTime::now_utc();
            let pair = sunbear_security::ca::make_envoy_admin(uuid::Uuid::new_v4(), now).unwrap();
            let both = format!("{}{}", pair.cert_pem, pair.key_pem);
            MutualCertificates::of_authority(both.as_bytes(), PROXY_NAME).unwrap()
        };
        let (own, other) = (authority(), authority());
        let place = Place::Listener(serve(&own).await);
        let proxies =
            |certificates| async move { Proxies::new(world(&[]).await, certificates).unwrap() };
        let answer = proxies(Some(&own)).await.get(place, "/stats").await.unwrap();
        assert_eq!(answer, b"GET /stats HTTP/1.1");
        // A listener of another zone, and a control plane of another zone.
        for (server, client) in [(&other, &own), (&own, &other)] {
            let place = Place::Listener(serve(server).await);
            let error = proxies(Some(client)).await.get(place, "/stats").await.unwrap_err();
            assert!(matches!(error, AskError::Unreachable { .. }), "{error}");
        }
        let place = Place::Listener(serve(&own).await);
        let error = proxies(None).await.get(place, "/stats").await.unwrap_err();
        assert!(matches!(error, AskError::NoAuthority), "{error}");
    }

    /// Answers one request as the listener of a proxy does.
    async fn serve(certificates: &MutualCertificates) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let own = &certificates.server;
        let own =
            certificate::certified_key(own.cert_pem.as_bytes(), own.key_pem.as_bytes()).unwrap();
        let own = Arc::new(tokio_rustls::rustls::sign::SingleCertAndKey::from(own));
        let trusted = certificates.ca_pem.as_bytes();
        let config =
            sunbear_security::client_trust::server_config(own, true, trusted, true).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(config);
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..length]);
            let answer = format!("HTTP/1.1 200 OK\r\n\r\n{}", request.lines().next().unwrap());
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        });
        address
    }
}
