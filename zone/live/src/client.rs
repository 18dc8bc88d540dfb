//! Clients: requests with any host, server name and certificate.

use std::{io, net::Ipv4Addr, sync::Arc};

use http::{HeaderMap, Method, Request, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Bytes,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio_rustls::TlsConnector;

use crate::{
    backend::Seen,
    certificate::Pair,
    stream::{Stream, dial_from},
    wait::{PATIENCE, eventually_async},
};

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// Nobody listens.
    Refused(io::Error),
    /// TLS did not come about.
    Handshake(io::Error),
    /// The connection ended, or what came is no HTTP.
    Broken(hyper::Error),
    /// Nothing happened.
    Timeout,
}

/// How a client speaks TLS. Whatever certificate the server has is accepted; look at it yourself.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// Server name to ask for; none to ask for none.
    pub sni: Option<String>,
    /// Protocols to offer.
    pub alpn: Vec<&'static str>,
    /// Kinds of signatures to accept from the server; empty for all.
    pub schemes: Vec<SignatureScheme>,
    /// Certificate of the client.
    pub pair: Option<Pair>,
    /// The only version to speak, if it matters.
    pub version: Option<&'static rustls::SupportedProtocolVersion>,
}

impl Tls {
    /// Asks for a server name, and offers HTTP/1.1.
    pub fn to(sni: &str) -> Self {
        Self { sni: Some(sni.to_owned()), alpn: vec!["http/1.1"], ..Self::default() }
    }

    /// Asks for no server name.
    pub fn without_name() -> Self {
        Self { alpn: vec!["http/1.1"], ..Self::default() }
    }

    /// Offers these protocols.
    pub fn alpn(mut self, protocols: &[&'static str]) -> Self {
        self.alpn = protocols.to_vec();
        self
    }

    /// Accepts these signatures alone.
    pub fn schemes(mut self, schemes: &[SignatureScheme]) -> Self {
        self.schemes = schemes.to_vec();
        self
    }

    /// Presents a certificate.
    pub fn present(mut self, pair: &Pair) -> Self {
        self.pair = Some(pair.clone());
        self
    }

    /// Speaks this version alone.
    pub fn version(mut self, version: &'static rustls::SupportedProtocolVersion) -> Self {
        self.version = Some(version);
        self
    }

    pub(crate) fn server_name(&self) -> ServerName<'static> {
        // Names of mesh services are no host names; for these see `connector`.
        let name = self.sni.clone().unwrap_or_else(|| "none.invalid".to_owned());
        ServerName::try_from(name).unwrap()
    }

    pub(crate) fn connector(&self) -> TlsConnector {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = match self.version {
            Some(version) => builder.with_protocol_versions(&[version]).unwrap(),
            None => builder.with_safe_default_protocol_versions().unwrap(),
        };
        let verifier = AcceptAny { provider, schemes: self.schemes.clone() };
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &self.pair {
            Some(pair) => builder.with_client_auth_cert(pair.chain(), pair.private_key()).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.enable_sni = self.sni.is_some();
        config.alpn_protocols = self.alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }
}

#[derive(Debug)]
struct AcceptAny {
    provider: Arc<CryptoProvider>,
    schemes: Vec<SignatureScheme>,
}

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        if self.schemes.is_empty() {
            self.provider.signature_verification_algorithms.supported_schemes()
        } else {
            self.schemes.clone()
        }
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: String,
    /// Version of HTTP.
    pub version: Version,
    /// Certificate of the server, DER.
    pub certificate: Option<Vec<u8>>,
}

impl Answer {
    /// A header; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    /// All values of a header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).collect()
    }

    /// What the backend received; it must have been one of ours that answered.
    pub fn seen(&self) -> Seen {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|_| panic!("no answer of a backend: {self:?}"))
    }

    /// Name of the backend that answered; empty if it was none of ours.
    pub fn from(&self) -> &str {
        self.header("x-backend")
    }
}

/// Where clients are that are not internal.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A request to be sent.
#[derive(Debug, Clone)]
pub struct Call {
    port: u16,
    source: Ipv4Addr,
    method: Method,
    target: String,
    host: Option<String>,
    headers: Vec<(String, String)>,
    body: String,
    tls: Option<Tls>,
    http2: bool,
}

impl Call {
    /// A GET for this path and query at this port.
    pub fn get(port: u16, target: &str) -> Self {
        Self {
            port,
            source: Ipv4Addr::LOCALHOST,
            method: Method::GET,
            target: target.to_owned(),
            host: None,
            headers: Vec::new(),
            body: String::new(),
            tls: None,
            http2: false,
        }
    }

    /// Another method.
    pub fn method(mut self, method: &str) -> Self {
        self.method = method.parse().unwrap();
        self
    }

    /// From [`OUTSIDE`], which is not among the addresses that gateways take for internal ones.
    pub fn outside(mut self) -> Self {
        self.source = OUTSIDE;
        self
    }

    /// The host asked for, else the server's address.
    pub fn host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    /// A header more.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A body.
    pub fn body(mut self, body: &str) -> Self {
        body.clone_into(&mut self.body);
        self
    }

    /// Over TLS. With `h2` among the protocols, HTTP/2 is spoken if the server chooses it.
    pub fn tls(mut self, tls: &Tls) -> Self {
        self.tls = Some(tls.clone());
        self
    }

    /// Over TLS, with the host asked for as the server name.
    pub fn https(self) -> Self {
        let tls = Tls::to(self.host.as_deref().expect("a host"));
        self.tls(&tls)
    }

    /// HTTP/2 without asking.
    pub fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    /// Sends it on a connection of its own. There must be an answer.
    pub async fn send(&self) -> Answer {
        self.attempt().await.unwrap_or_else(|failure| panic!("{self:?}: {failure:?}"))
    }

    /// Sends it on a connection of its own.
    pub async fn attempt(&self) -> Result<Answer, Failure> {
        Connection::open(self).await?.send(self).await
    }

    /// Sends it until the answer is as wanted. For changes of what is there already, which arrive
    /// at Envoy's threads a moment after they were acknowledged.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        eventually_async(what, async || self.attempt().await.ok().filter(|a| wanted(a))).await
    }

    fn request(&self, http2: bool) -> Request<Full<Bytes>> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let host = self.host.clone().unwrap_or_else(|| format!("127.0.0.1:{}", self.port));
        let mut request = Request::builder().method(self.method.clone());
        if http2 {
            request =
                request.version(Version::HTTP_2).uri(format!("{scheme}://{host}{}", self.target));
        } else {
            request = request.uri(&self.target);
            if !self.headers.iter().any(|(name, _)| name == "host") {
                request = request.header("host", host);
            }
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(Full::new(Bytes::from(self.body.clone()))).unwrap()
    }
}

/// A connection that stays open between requests.
#[derive(Debug)]
pub struct Connection {
    sender: Sender,
    /// Certificate of the server, DER.
    pub certificate: Option<Vec<u8>>,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    /// Connects in the way of this call.
    pub async fn open(call: &Call) -> Result<Self, Failure> {
        Self::over(dial_from(call.source, call.port, call.tls.as_ref()).await?, call.http2).await
    }

    /// Speaks HTTP on a connection.
    pub async fn over(stream: Stream, http2: bool) -> Result<Self, Failure> {
        let http2 = http2 || stream.alpn.as_deref() == Some("h2");
        let certificate = stream.certificate;
        let io = TokioIo::new(stream.inner);
        let sender = if http2 {
            let (sender, connection) =
                http2::handshake(TokioExecutor::new(), io).await.map_err(Failure::Broken)?;
            tokio::spawn(connection);
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::Builder::new()
                .preserve_header_case(true)
                .handshake(io)
                .await
                .map_err(Failure::Broken)?;
            tokio::spawn(connection);
            Sender::Http1(sender)
        };
        Ok(Self { sender, certificate })
    }

    /// Sends the request of a call.
    pub async fn send(&mut self, call: &Call) -> Result<Answer, Failure> {
        tokio::time::timeout(PATIENCE, self.exchange(call)).await.map_err(|_| Failure::Timeout)?
    }

    async fn exchange(&mut self, call: &Call) -> Result<Answer, Failure> {
        let answer = match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await.map_err(Failure::Broken)?;
                sender.send_request(call.request(false)).await
            }
            Sender::Http2(sender) => {
                sender.ready().await.map_err(Failure::Broken)?;
                sender.send_request(call.request(true)).await
            }
        };
        let (parts, body) = answer.map_err(Failure::Broken)?.into_parts();
        let body = body.collect().await.map_err(Failure::Broken)?.to_bytes();
        Ok(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
            version: parts.version,
            certificate: self.certificate.clone(),
        })
    }
}
