//! Control planes behind TLS, and certificates of clients.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    path::Path,
    sync::Arc,
    thread,
};

use rustls::{ServerConfig, ServerConnection, StreamOwned, sign::SingleCertAndKey};
use sunbear_security::{certificate, client_trust};

use crate::api::{Done, run_in};

/// Makes a pair of files, and gives their paths.
fn pair(folder: &Path, purpose: &str) -> (String, String) {
    let path = |end: &str| folder.join(format!("{purpose}.{end}")).to_str().unwrap().to_owned();
    let (cert, key) = (path("crt"), path("key"));
    let line = format!(
        "generate tls-certificate --type {purpose} --hostname localhost --key-type ecdsa \
         --key-file {key} --cert-file {cert}"
    );
    assert_eq!(run_in(&line.split_whitespace().collect::<Vec<_>>(), &[], "").code, 0);
    (cert, key)
}

/// A server that answers every request with what it knows of its client. Gives its address.
fn serve(own: &(String, String), clients: &str) -> String {
    let key =
        certificate::certified_key(&fs::read(&own.0).unwrap(), &fs::read(&own.1).unwrap()).unwrap();
    let own = Arc::new(SingleCertAndKey::from(key));
    let config =
        client_trust::server_config(own, true, &fs::read(clients).unwrap(), false).unwrap();
    // The answers are written by hand.
    let mut config = ServerConfig::clone(&config);
    config.alpn_protocols.clear();
    let config = Arc::new(config);
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    // It ends with the test's process.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = BufReader::new(StreamOwned::new(connection, stream.unwrap()));
            let mut line = String::new();
            // A client that refuses us says nothing.
            while stream.read_line(&mut line).is_ok_and(|n| n > 0) && !line.ends_with("\r\n\r\n") {}
            let mut stream = stream.into_inner();
            let known = stream.conn.peer_certificates().is_some();
            let body = format!(r#"{{"product": "Kuma", "version": "client known: {known}"}}"#);
            let head = format!("content-length: {}\r\nconnection: close", body.len());
            let _ = write!(stream, "HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}");
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    address
}

fn version(home: &Path, line: &str) -> Done {
    let arguments: Vec<_> = line.split_whitespace().collect();
    run_in(&arguments, &[("HOME", home.to_str().unwrap())], "")
}

#[test]
fn authorities_and_client_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    let (server, client) = (pair(home, "server"), pair(home, "client"));
    let address = serve(&server, &client.0);
    let own = format!("--client-cert-file {} --client-key-file {}", client.0, client.1);

    let done = version(home, &format!("version --address {address}"));
    assert_eq!(done.code, 3, "{}", done.out);
    let done = version(home, &format!("version --address {address} --ca-cert-file {}", client.0));
    assert_eq!(done.code, 3, "{}", done.out);
    for (options, known) in [
        (format!("--ca-cert-file {}", server.0), false),
        ("--skip-verify".to_owned(), false),
        (format!("--ca-cert-file {} {own}", server.0), true),
        (format!("--skip-verify {own}"), true),
    ] {
        let done = version(home, &format!("version --address {address} {options}"));
        assert_eq!(done.code, 0, "{options}: {}", done.err);
        assert!(
            done.out.ends_with(&format!("Server: Kuma client known: {known}\n")),
            "{}",
            done.out
        );
    }

    // The same from the configuration file.
    let line = format!(
        "config control-planes add --name tls --address {address} --ca-cert-file {} {own}",
        server.0
    );
    let done = version(home, &line);
    assert_eq!(done.code, 0, "{}", done.err);
    let done = version(home, "version");
    assert!(done.out.ends_with("Server: Kuma client known: true\n"), "{}", done.out);
}
