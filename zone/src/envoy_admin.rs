//! Asking the Envoys of this zone, for users of this control plane and of the global.
//!
//! An Envoy's admin interface listens on a Unix socket or on loopback, so only proxies on this
//! host can be asked.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use prost_types::value::Kind as V;
use sunbear_api::{AdminBackend, AdminError, AdminFuture, AdminQuestion};
use sunbear_kds::admin::{EnvoyAdmin, Question, Target};
use sunbear_model::{Kind, ResourceKey};
use sunbear_store::World;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};

/// Port of the admin interface where neither the proxy nor its bootstrap says another.
const DEFAULT_PORT: u16 = 9901;
/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(8);
/// More than any message to a global may have; a larger answer is cut off with an error.
const LIMIT: u64 = 64 << 20;

/// The proxies that this control plane knows.
#[derive(Clone)]
pub(crate) struct LocalProxies(pub(crate) World);

/// Where an admin interface is.
enum Place {
    Socket(PathBuf),
    Address(SocketAddr),
}

impl LocalProxies {
    fn place(&self, kind: Kind, mesh: &str, name: &str) -> Result<Place, String> {
        let snapshot = self.0.snapshot();
        let insight_kind = match kind {
            Kind::DATAPLANE => Kind::DATAPLANE_INSIGHT,
            Kind::ZONE_INGRESS => Kind::ZONE_INGRESS_INSIGHT,
            Kind::ZONE_EGRESS => Kind::ZONE_EGRESS_INSIGHT,
            _ => return Err(format!("{kind} is no proxy")),
        };
        let proxy = snapshot
            .get(&ResourceKey::new(kind, mesh, name))
            .ok_or_else(|| format!("there is no {kind} {name:?} in this zone"))?;
        let metadata = snapshot
            .get(&ResourceKey::new(insight_kind, mesh, name))
            .and_then(|i| i.as_dataplane_insight()?.metadata.clone())
            .unwrap_or_default();
        let text = |key: &str| match metadata.fields.get(key).and_then(|v| v.kind.as_ref()) {
            Some(V::StringValue(s)) if !s.is_empty() => Some(s.clone()),
            _ => None,
        };
        if let Some(socket) = text("dataplane.admin.socketPath").map(PathBuf::from)
            && socket.exists()
        {
            return Ok(Place::Socket(socket));
        }
        let networking = proxy.as_dataplane().and_then(|d| d.networking.as_ref());
        let address: Option<IpAddr> =
            networking.and_then(|n| n.address.parse().ok()).filter(IpAddr::is_loopback);
        let port = networking
            .and_then(|n| n.admin.as_ref())
            .and_then(|a| u16::try_from(a.port).ok())
            .filter(|p| *p != 0)
            .or_else(|| text("dataplane.admin.port")?.parse().ok())
            .unwrap_or(DEFAULT_PORT);
        match address {
            Some(_) => Ok(Place::Address(SocketAddr::from(([127, 0, 0, 1], port)))),
            None => Err(format!(
                "the admin interface of {name:?} is reachable on the proxy's own host alone"
            )),
        }
    }

    async fn get(&self, place: Place, path: &str) -> Result<Vec<u8>, String> {
        let asking = async {
            match place {
                Place::Socket(path_of_socket) => {
                    exchange(UnixStream::connect(path_of_socket).await?, path).await
                }
                Place::Address(address) => exchange(TcpStream::connect(address).await?, path).await,
            }
        };
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Err(format!("Envoy's admin interface: {error}")),
            Err(_) => Err("Envoy's admin interface does not answer".to_owned()),
        }
    }
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

impl EnvoyAdmin for LocalProxies {
    fn ask(
        &self,
        target: Target,
        question: Question,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Vec<u8>, String>> + Send + '_>> {
        Box::pin(async move {
            let kind = Kind::by_name(&target.kind)
                .ok_or_else(|| format!("unknown type {:?}", target.kind))?;
            let place = self.place(kind, &target.mesh, &target.name)?;
            let answer = self.get(place, path_of(question)).await?;
            Ok(match question {
                // The token of the proxy is in its bootstrap.
                Question::XdsConfig { .. } => sunbear_api::redact(answer),
                Question::Stats { .. } | Question::Clusters { .. } => answer,
            })
        })
    }
}

impl AdminBackend for LocalProxies {
    fn ask(&self, proxy: Arc<sunbear_model::Resource>, question: AdminQuestion) -> AdminFuture<'_> {
        Box::pin(async move {
            let question = match question {
                AdminQuestion::ConfigDump { include_eds } => Question::XdsConfig { include_eds },
                AdminQuestion::Stats { json, used_only } => Question::Stats { json, used_only },
                AdminQuestion::Clusters { json } => Question::Clusters { json },
            };
            let place = self
                .place(proxy.key.kind, &proxy.key.mesh, &proxy.key.name)
                .map_err(AdminError::Failed)?;
            self.get(place, path_of(question)).await.map_err(AdminError::Failed)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn answers() {
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\na: b\r\n\r\nhi").unwrap(), b"hi");
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        assert_eq!(parse(chunked).unwrap(), b"abcde");
        assert!(parse(b"HTTP/1.1 404 Not Found\r\n\r\n").unwrap_err().contains("404"));
        assert!(parse(b"nonsense").is_err());
    }
}
