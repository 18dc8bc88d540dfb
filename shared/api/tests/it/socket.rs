//! Over a real connection.

use axum::extract::Request;
use serde_json::json;
use sunbear_api::PeerAddr;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::support::{Cp, global, route};

/// Serves the API and tells it the peer, as a binary does. Returns its address.
pub(crate) async fn serve(cp: &Cp) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = cp.router.clone().layer(axum::middleware::map_request(
        move |mut request: Request| async move {
            request.extensions_mut().insert(PeerAddr("127.0.0.1:1".parse().unwrap()));
            request
        },
    ));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address.to_string()
}

/// Sends bytes, reads the answer to the end.
pub(crate) async fn exchange(address: &str, request: &[u8]) -> String {
    let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
    let request = request.to_vec();
    let sent = tokio::spawn(async move {
        let result = write.write_all(&request).await;
        (result, write)
    });
    let mut answer = Vec::new();
    read.read_to_end(&mut answer).await.unwrap();
    drop(sent.await.unwrap());
    String::from_utf8_lossy(&answer).into_owned()
}

fn put(path: &str, address: &str, body: &str) -> Vec<u8> {
    format!(
        "PUT {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn get(path: &str, address: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn round_trip() {
    let cp = Cp::new(global()).await;
    let address = serve(&cp).await;
    let path = "/meshes/default/meshgatewayroutes/r";
    let created = exchange(&address, &put(path, &address, &route("r").to_string())).await;
    assert!(created.starts_with("HTTP/1.1 201 Created\r\n"), "{created}");
    assert!(created.contains("\r\nx-sunbear-revision: 2\r\n"), "{created}");
    assert!(created.ends_with("\r\n\r\n{}\n"), "{created}");
    let got = exchange(&address, &get(path, &address)).await;
    assert!(got.starts_with("HTTP/1.1 200 OK\r\n") && got.contains("\"name\": \"r\""), "{got}");
    let list = exchange(&address, &get("/zones?size=1", &address)).await;
    assert!(list.contains("\"next\": null"), "{list}");
    let missing = exchange(&address, &get("/nonsense", &address)).await;
    assert!(missing.ends_with("404: Page Not Found"), "{missing}");
    let head = get(path, &address);
    let head = exchange(&address, &[b"HEAD", &head[3..]].concat()).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test]
async fn next_pages_are_on_the_same_host() {
    let cp = Cp::new(global()).await;
    cp.seed(sunbear_model::Kind::MESH, &json!({"name": "other"})).await;
    let address = serve(&cp).await;
    let list = exchange(&address, &get("/meshes?size=1", &address)).await;
    assert!(
        list.contains(&format!("\"next\": \"http://{address}/meshes?offset=1&size=1\"")),
        "{list}"
    );
}

/// The sender of a body that is too large sees the answer, although it is still sending.
#[tokio::test]
async fn large_bodies_are_answered() {
    let cp = Cp::new(global()).await;
    let address = serve(&cp).await;
    let body = format!("{{\"type\": \"{}\"}}", "x".repeat(30 << 20));
    let answer =
        exchange(&address, &put("/meshes/default/meshgatewayroutes/r", &address, &body)).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("\"title\": \"Could not process a resource\""), "{answer}");
    let after = exchange(&address, &get("/meshes", &address)).await;
    assert!(after.starts_with("HTTP/1.1 200 OK\r\n"), "{after}");
}
