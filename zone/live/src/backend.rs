//! Servers behind the gateway.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::ServerConfig;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::stream::Both;

/// A request as it arrived.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Seen {
    /// Who received it.
    pub backend: String,
    /// Method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Host, or authority.
    pub host: String,
    /// Version, such as `HTTP/1.1`.
    pub version: String,
    /// All other headers; names in lower case.
    pub headers: BTreeMap<String, Vec<String>>,
    /// Body.
    pub body: String,
    /// What TLS said, if there was some.
    pub tls: Option<TlsSeen>,
}

impl Seen {
    /// A header's values, joined with commas; empty if it is not there.
    pub fn header(&self, name: &str) -> String {
        self.headers.get(name).map(|values| values.join(",")).unwrap_or_default()
    }
}

/// A handshake as a server saw it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct TlsSeen {
    /// The server name that was asked for.
    pub sni: Option<String>,
    /// The protocol that was agreed upon.
    pub alpn: Option<String>,
    /// URIs in the certificate of the client.
    pub client: Vec<String>,
}

#[derive(Debug, Default)]
struct State {
    seen: Mutex<Vec<Seen>>,
    /// Statuses of the next answers.
    script: Mutex<VecDeque<u16>>,
    /// Status for `/health`.
    health: AtomicU16,
    connections: AtomicUsize,
    open: AtomicUsize,
    handshakes: Mutex<Vec<TlsSeen>>,
}

/// A server in this process. HTTP ones answer with what they received ([`Seen`]) and with their
/// name in `x-backend`; requests say by headers what else they want:
/// - `x-status`: another status than 200;
/// - `x-delay-ms`: to wait before the answer;
/// - `x-pause-ms`: to wait between head and body of the answer;
/// - `x-bytes`: a body of that many bytes instead.
///
/// The others return lines, with their name before each.
#[derive(Debug, Clone)]
pub struct Backend {
    /// Name, which is the service too.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    http: bool,
}

impl Backend {
    /// Speaks HTTP/1.1 and HTTP/2.
    pub async fn http(name: &str) -> Self {
        Self::start(name, None, true).await
    }

    /// Speaks the same over TLS.
    pub async fn https(name: &str, tls: Arc<ServerConfig>) -> Self {
        Self::start(name, Some(tls), true).await
    }

    /// Returns lines.
    pub async fn tcp(name: &str) -> Self {
        Self::start(name, None, false).await
    }

    /// Returns lines over TLS.
    pub async fn tls(name: &str, tls: Arc<ServerConfig>) -> Self {
        Self::start(name, Some(tls), false).await
    }

    async fn start(name: &str, tls: Option<Arc<ServerConfig>>, http: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { health: AtomicU16::new(200), ..State::default() };
        let backend = Self { name: name.to_owned(), address, state: Arc::new(state), http };
        let server = backend.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(server.clone().serve(stream, tls.clone()));
            }
        });
        backend
    }

    async fn serve(self, stream: TcpStream, tls: Option<Arc<ServerConfig>>) {
        let _ = stream.set_nodelay(true);
        self.state.connections.fetch_add(1, Ordering::SeqCst);
        self.state.open.fetch_add(1, Ordering::SeqCst);
        match tls {
            None => self.speak(stream, None).await,
            Some(config) => {
                if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
                    let seen = handshake(stream.get_ref().1);
                    self.state.handshakes.lock().unwrap().push(seen.clone());
                    self.speak(stream, Some(seen)).await;
                }
            }
        }
        self.state.open.fetch_sub(1, Ordering::SeqCst);
    }

    async fn speak(&self, stream: impl Both + 'static, tls: Option<TlsSeen>) {
        if self.http {
            let service = service_fn(|request| self.clone().answer(request, tls.clone()));
            let builder = auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        } else {
            let _ = self.return_lines(stream).await;
        }
    }

    async fn return_lines(&self, stream: impl Both) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut line = format!("{} ", self.name).into_bytes();
        let name = line.len();
        while stream.read_until(b'\n', &mut line).await? > 0 {
            stream.write_all(&line).await?;
            stream.flush().await?;
            line.truncate(name);
        }
        Ok(())
    }

    async fn answer(
        self,
        request: Request<Incoming>,
        tls: Option<TlsSeen>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let (parts, body) = request.into_parts();
        let number = |name: &str| -> Option<u64> {
            parts.headers.get(name).and_then(|v| v.to_str().ok()?.parse().ok())
        };
        let path = parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        if path == "/health" {
            let status = self.state.health.load(Ordering::SeqCst);
            return Ok(Response::builder().status(status).body(Full::default()).unwrap());
        }
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let text = |v: &http::HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
        let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in &parts.headers {
            headers.entry(name.to_string()).or_default().push(text(value));
        }
        let authority = parts.uri.authority().map(ToString::to_string);
        let host = headers.remove("host").map(|values| values.join(","));
        let seen = Seen {
            backend: self.name.clone(),
            method: parts.method.to_string(),
            path,
            host: authority.or(host).unwrap_or_default(),
            version: version(parts.version).to_owned(),
            headers,
            body: String::from_utf8_lossy(&body).into_owned(),
            tls,
        };
        let mut text = serde_json::to_string(&seen).unwrap();
        self.state.seen.lock().unwrap().push(seen);
        let scripted = self.state.script.lock().unwrap().pop_front();
        let wanted = number("x-status").and_then(|s| u16::try_from(s).ok());
        if let Some(delay) = number("x-delay-ms") {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        if let Some(bytes) = number("x-bytes") {
            text = "x".repeat(usize::try_from(bytes).unwrap());
        }
        Ok(Response::builder()
            .status(scripted.or(wanted).unwrap_or(200))
            .header("x-backend", &self.name)
            .body(Full::new(Bytes::from(text)))
            .unwrap())
    }

    /// The Dataplane of this service.
    pub fn dataplane(&self) -> Value {
        let protocol = if self.http { "http" } else { "tcp" };
        let name = format!("{}-1", self.name);
        self.instance(&name, json!({"kuma.io/service": self.name, "kuma.io/protocol": protocol}))
    }

    /// A Dataplane of this address.
    pub fn instance(&self, name: &str, tags: Value) -> Value {
        dataplane(name, self.address.port(), tags)
    }

    /// Everything that was received since the last time this was asked.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.state.seen.lock().unwrap())
    }

    /// Everything that was received.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// Handshakes that came about.
    pub fn handshakes(&self) -> Vec<TlsSeen> {
        self.state.handshakes.lock().unwrap().clone()
    }

    /// Answers the next requests with these statuses.
    pub fn answer_next(&self, statuses: &[u16]) {
        self.state.script.lock().unwrap().extend(statuses);
    }

    /// What `/health` answers.
    pub fn set_health(&self, status: u16) {
        self.state.health.store(status, Ordering::SeqCst);
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// How many connections there are.
    pub fn open_connections(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }
}

/// The Dataplane of an instance on loopback.
pub(crate) fn dataplane(name: &str, port: u16, tags: Value) -> Value {
    json!({
        "type": "Dataplane",
        "mesh": crate::gateway::MESH,
        "name": name,
        "networking": {
            "address": "127.0.0.1",
            "inbound": [{"port": port, "tags": tags}],
        },
    })
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        _ => "?",
    }
}

fn handshake(session: &rustls::ServerConnection) -> TlsSeen {
    let mut seen = TlsSeen {
        sni: session.server_name().map(str::to_owned),
        alpn: session.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned()),
        client: Vec::new(),
    };
    let Some(leaf) = session.peer_certificates().and_then(<[_]>::first) else { return seen };
    let (_, certificate) = X509Certificate::from_der(leaf).unwrap();
    if let Ok(Some(names)) = certificate.subject_alternative_name() {
        for name in &names.value.general_names {
            if let GeneralName::URI(uri) = name {
                seen.client.push((*uri).to_owned());
            }
        }
    }
    seen
}
