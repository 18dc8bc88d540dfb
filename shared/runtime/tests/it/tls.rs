use std::sync::Arc;
use std::time::Duration;

use axum::http::Version;
use axum::routing::get as route;
use axum::{Extension, Router};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use sunbear_runtime::config::TlsVersion;
use sunbear_runtime::serve::{Limits, PeerCertificates, Transport};
use sunbear_runtime::tls::{
    ClientCertificates, ReloadableCertificate, read_authorities, server_config,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::fixture::{
    PATIENCE, Running, client, client_certificate, client_with_certificate, connect, get, http1,
    http2, temporary, text, write_pair,
};

fn answers() -> Router {
    Router::new().route("/version", route(async |version: Version| format!("{version:?}"))).route(
        "/certificates",
        route(async |peer: Option<Extension<PeerCertificates>>| {
            peer.map_or(0, |Extension(peer)| peer.0.len()).to_string()
        }),
    )
}

async fn start(certificate: Arc<ReloadableCertificate>, clients: ClientCertificates) -> Running {
    let config = server_config(certificate, TlsVersion::V1_2, clients).unwrap();
    Running::start(answers(), Transport::Tls(config), Limits::default()).await
}

#[tokio::test]
async fn both_versions_on_a_tls_port() {
    let (_folder, path) = temporary();
    let (files, pair) = write_pair(&path);
    let running =
        start(ReloadableCertificate::load(files).unwrap(), ClientCertificates::Ignored).await;

    let stream = connect(&client(&pair, &["h2", "http/1.1"]), running.address).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut sender = http2(stream).await;
    assert_eq!(text(sender.send_request(get("/version")).await.unwrap()).await, "HTTP/2.0");
    assert_eq!(text(sender.send_request(get("/certificates")).await.unwrap()).await, "0");

    for alpn in [&["http/1.1"][..], &[]] {
        let stream = connect(&client(&pair, alpn), running.address).await;
        let mut sender = http1(stream).await;
        assert_eq!(text(sender.send_request(get("/version")).await.unwrap()).await, "HTTP/1.1");
    }
    running.stop.cancel();
    running.ended().await;
}

#[tokio::test]
async fn certificates_of_clients_reach_the_handler() {
    let (_folder, path) = temporary();
    let (files, pair) = write_pair(&path);
    let (own, authority) = client_certificate();
    let authority_file = path.join("authority.pem");
    std::fs::write(&authority_file, authority).unwrap();
    let roots: RootCertStore = read_authorities(&[authority_file]).unwrap();
    let certificate = ReloadableCertificate::load(files).unwrap();
    let running = start(certificate, ClientCertificates::Optional(Arc::new(roots))).await;

    let with = connect(&client_with_certificate(&own, &["h2"]), running.address).await;
    let without = connect(&client(&pair, &["h2"]), running.address).await;
    for (stream, count) in [(with, "1"), (without, "0")] {
        let mut sender = http2(stream).await;
        assert_eq!(text(sender.send_request(get("/certificates")).await.unwrap()).await, count);
    }
}

#[tokio::test]
async fn a_plain_client_at_a_tls_port_is_closed() {
    let (_folder, path) = temporary();
    let (files, _) = write_pair(&path);
    let running =
        start(ReloadableCertificate::load(files).unwrap(), ClientCertificates::Ignored).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("closed").unwrap();
    assert!(!answer.starts_with(b"HTTP"));
}

#[tokio::test]
async fn a_certificate_is_swapped_while_serving() {
    let (_folder, path) = temporary();
    let (files, old) = write_pair(&path);
    let certificate = ReloadableCertificate::load(files.clone()).unwrap();
    let running = start(Arc::clone(&certificate), ClientCertificates::Ignored).await;
    let mut kept = http2(connect(&client(&old, &["h2"]), running.address).await).await;

    assert!(!certificate.reload_if_changed().unwrap());
    // Half a change: a certificate without its key keeps the old pair, and is tried again.
    let (_other_folder, other) = temporary();
    let (new_files, new) = write_pair(&other);
    std::fs::write(&files.cert, format!("{}\n", new.cert_pem)).unwrap();
    certificate.reload_if_changed().unwrap_err();
    let before = certificate.chain();
    certificate.reload_if_changed().unwrap_err();

    // The rest arrives, and the follower sees it by itself.
    std::fs::copy(&new_files.key, &files.key).unwrap();
    let stop = CancellationToken::new();
    let follower =
        tokio::spawn(Arc::clone(&certificate).follow(Duration::from_millis(10), stop.clone()));
    let new_leaf = CertificateDer::from_pem_slice(new.cert_pem.as_bytes()).unwrap();
    tokio::time::timeout(PATIENCE, async {
        while certificate.chain() != [new_leaf.clone()] {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the new certificate is served");
    assert_ne!(certificate.chain(), before);
    stop.cancel();
    follower.await.unwrap();

    let mut fresh = http2(connect(&client(&new, &["h2"]), running.address).await).await;
    for sender in [&mut fresh, &mut kept] {
        assert_eq!(sender.send_request(get("/version")).await.unwrap().status(), 200);
    }
    running.stop.cancel();
    running.ended().await;
}

#[test]
fn what_cannot_be_loaded_is_named() {
    let (_folder, path) = temporary();
    let (files, _) = write_pair(&path);
    std::fs::write(&files.key, "nonsense").unwrap();
    let error = ReloadableCertificate::load(files.clone()).unwrap_err();
    let text = sunbear_runtime::telemetry::chain(&error);
    assert!(
        text.contains("tls.key") && text.ends_with("no private key in PEM form found"),
        "{text}"
    );
    std::fs::remove_file(&files.cert).unwrap();
    let error = ReloadableCertificate::load(files.clone()).unwrap_err();
    assert!(error.to_string().contains("tls.crt"), "{error}");
    let error = read_authorities(&[files.key]).unwrap_err();
    assert!(error.to_string().ends_with("holds no usable authority"), "{error}");
}
