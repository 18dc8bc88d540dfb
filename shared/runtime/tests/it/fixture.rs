//! A running server and clients for it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http_body_util::BodyExt;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use sunbear_runtime::config::{Listen, TlsFiles};
use sunbear_runtime::serve::{Limits, Server, Transport, bind};
use sunbear_runtime::tls::install_crypto_provider;
use sunbear_security::certificate::{PemPair, self_signed};
use sunbear_security::trust::{ServerTrust, client_config};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

/// Long enough for the slowest machine; nothing waits this long when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) server: JoinHandle<()>,
}

impl Running {
    pub(crate) async fn start(router: Router, transport: Transport, limits: Limits) -> Self {
        let listen = Listen { interface: "127.0.0.1".to_owned(), port: 0, key: "test.port" };
        let listener = bind(&listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server = Server { name: "test", listener, router, transport, limits };
        let server = tokio::spawn(server.run(stop.clone()));
        Self { address, stop, server }
    }

    /// Waits until the server ended by itself.
    pub(crate) async fn ended(self) {
        tokio::time::timeout(PATIENCE, self.server).await.expect("the server ends").unwrap();
    }
}

/// A pair in a folder.
pub(crate) fn write_pair(folder: &Path) -> (TlsFiles, PemPair) {
    install_crypto_provider();
    let ips: [IpAddr; 1] = ["127.0.0.1".parse().unwrap()];
    let pair = self_signed("localhost", &ips, time::OffsetDateTime::now_utc()).unwrap();
    let files = TlsFiles { cert: folder.join("tls.crt"), key: folder.join("tls.key") };
    std::fs::write(&files.cert, &pair.cert_pem).unwrap();
    std::fs::write(&files.key, &pair.key_pem).unwrap();
    (files, pair)
}

pub(crate) fn client(pair: &PemPair, alpn: &[&str]) -> TlsConnector {
    let trust = ServerTrust::Authorities(pair.cert_pem.as_bytes());
    TlsConnector::from(Arc::new(client_config(trust, alpn).unwrap()))
}

/// Trusts everybody, and shows a certificate.
pub(crate) fn client_with_certificate(own: &PemPair, alpn: &[&str]) -> TlsConnector {
    let chain = vec![CertificateDer::from_pem_slice(own.cert_pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes()).unwrap();
    let mut config = client_config(ServerTrust::Anyone, alpn).unwrap();
    let key = aws_lc_rs::sign::any_supported_type(&key).unwrap();
    config.client_auth_cert_resolver =
        Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key)));
    TlsConnector::from(Arc::new(config))
}

/// A client certificate, and the authority that issued it (PEM).
pub(crate) fn client_certificate() -> (PemPair, String) {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["client".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let cert_pem = params.signed_by(&key, &Issuer::new(authority, authority_key)).unwrap().pem();
    (PemPair { cert_pem, key_pem: key.serialize_pem() }, authority_pem)
}

/// As every client of ours does.
pub(crate) async fn connect(connector: &TlsConnector, address: SocketAddr) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
}

pub(crate) type Http2 = hyper::client::conn::http2::SendRequest<Body>;
pub(crate) type Http1 = hyper::client::conn::http1::SendRequest<Body>;

pub(crate) async fn http2<S>(stream: S) -> Http2
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(stream);
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub(crate) async fn http1<S>(stream: S) -> Http1
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(format!("http://localhost{path}"))
        .header("host", "localhost")
        .body(Body::empty())
        .unwrap()
}

pub(crate) async fn text(response: Response<hyper::body::Incoming>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub(crate) fn temporary() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    (folder, path)
}
