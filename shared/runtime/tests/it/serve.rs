use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::Version;
use axum::routing::get as route;
use axum::{Extension, Router};
use futures_util::StreamExt;
use http_body_util::BodyExt;
use sunbear_runtime::config::Listen;
use sunbear_runtime::serve::{Limits, PeerAddr, Transport, bind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::fixture::{PATIENCE, Running, get, http1, http2, text};

async fn plain(running: &Running) -> TcpStream {
    TcpStream::connect(running.address).await.unwrap()
}

fn answers() -> Router {
    Router::new()
        .route("/version", route(async |version: Version| format!("{version:?}")))
        .route(
            "/peer",
            route(async |Extension(PeerAddr(peer)): Extension<PeerAddr>| peer.to_string()),
        )
        .route("/panic", route(async || -> &'static str { panic!("on purpose") }))
}

/// One endless stream, as a gRPC subscription is. Sends the first item at once.
fn endless() -> Router {
    Router::new().route(
        "/stream",
        route(async || {
            let first = futures_util::stream::once(async {
                Ok::<_, Infallible>(Bytes::from_static(b"first"))
            });
            Body::from_stream(first.chain(futures_util::stream::pending()))
        }),
    )
}

fn quick_drain() -> Limits {
    Limits { drain: Duration::ZERO, ..Limits::default() }
}

#[tokio::test]
async fn both_versions_on_a_plain_port() {
    let running = Running::start(answers(), Transport::Plain, Limits::default()).await;
    let stream = plain(&running).await;
    let local = stream.local_addr().unwrap();
    let mut client = http1(stream).await;
    assert_eq!(text(client.send_request(get("/version")).await.unwrap()).await, "HTTP/1.1");
    assert_eq!(text(client.send_request(get("/peer")).await.unwrap()).await, local.to_string());
    let mut client = http2(plain(&running).await).await;
    assert_eq!(text(client.send_request(get("/version")).await.unwrap()).await, "HTTP/2.0");
    running.stop.cancel();
    running.ended().await;
}

#[tokio::test]
async fn a_panic_costs_one_request() {
    let running = Running::start(answers(), Transport::Plain, Limits::default()).await;
    let mut client = http2(plain(&running).await).await;
    assert_eq!(client.send_request(get("/panic")).await.unwrap().status(), 500);
    assert_eq!(client.send_request(get("/version")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_request_under_way_is_finished() {
    let (started, mut starts) = mpsc::channel::<oneshot::Sender<()>>(1);
    let router = Router::new().route(
        "/slow",
        route(async move || {
            let (finish, finished) = oneshot::channel();
            started.send(finish).await.unwrap();
            finished.await.unwrap();
            "done"
        }),
    );
    let limits = Limits { drain: PATIENCE, ..Limits::default() };
    let running = Running::start(router, Transport::Plain, limits).await;
    for version in [1, 2] {
        let stream = plain(&running).await;
        let request = tokio::spawn(async move {
            let response = if version == 1 {
                http1(stream).await.send_request(get("/slow")).await
            } else {
                http2(stream).await.send_request(get("/slow")).await
            };
            text(response.unwrap()).await
        });
        let finish = starts.recv().await.unwrap();
        if version == 2 {
            running.stop.cancel();
        }
        finish.send(()).unwrap();
        assert_eq!(request.await.unwrap(), "done");
    }
    let address = running.address;
    running.ended().await;
    TcpStream::connect(address).await.unwrap_err();
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_a_stop() {
    let limits = Limits { drain: PATIENCE * 10, ..Limits::default() };
    let running = Running::start(answers(), Transport::Plain, limits).await;
    // One that never said anything, one of each version that did.
    let _silent = plain(&running).await;
    let mut first = http1(plain(&running).await).await;
    assert_eq!(text(first.send_request(get("/version")).await.unwrap()).await, "HTTP/1.1");
    let mut second = http2(plain(&running).await).await;
    assert_eq!(text(second.send_request(get("/version")).await.unwrap()).await, "HTTP/2.0");
    running.stop.cancel();
    running.ended().await;
}

#[tokio::test]
async fn an_endless_stream_is_cut_at_the_deadline() {
    let running = Running::start(endless(), Transport::Plain, quick_drain()).await;
    let mut first = http1(plain(&running).await).await;
    let mut body = first.send_request(get("/stream")).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
    let mut second = http2(plain(&running).await).await;
    let mut body2 = second.send_request(get("/stream")).await.unwrap().into_body();
    assert_eq!(body2.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
    running.stop.cancel();
    running.ended().await;
    for body in [&mut body, &mut body2] {
        let next = tokio::time::timeout(PATIENCE, body.frame()).await.expect("the stream ends");
        assert!(!matches!(next, Some(Ok(_))), "{next:?}");
    }
}

/// Not only the connection: the handler must not go on in the background either.
#[tokio::test]
async fn a_deaf_handler_is_dropped_at_the_deadline() {
    let (started, mut starts) = mpsc::channel(1);
    let dropped = CancellationToken::new();
    let guard = dropped.clone();
    let router = Router::new().route(
        "/deaf",
        route(async move || {
            let _guard = guard.drop_guard();
            started.send(()).await.unwrap();
            std::future::pending::<&'static str>().await
        }),
    );
    let running = Running::start(router, Transport::Plain, quick_drain()).await;
    let mut client = http2(plain(&running).await).await;
    let request = tokio::spawn(async move { client.send_request(get("/deaf")).await.is_err() });
    starts.recv().await.unwrap();
    running.stop.cancel();
    running.ended().await;
    tokio::time::timeout(PATIENCE, dropped.cancelled()).await.expect("the handler is dropped");
    assert!(request.await.unwrap());
}

#[tokio::test]
async fn connections_are_bounded() {
    let limits = Limits { max_connections: 1, ..Limits::default() };
    let running = Running::start(answers(), Transport::Plain, limits).await;
    let mut first = http1(plain(&running).await).await;
    assert_eq!(text(first.send_request(get("/version")).await.unwrap()).await, "HTTP/1.1");
    let mut second = http1(plain(&running).await).await;
    let waiting =
        tokio::spawn(async move { second.send_request(get("/version")).await.unwrap().status() });
    // The first connection still works, the second is served once the first is gone.
    assert_eq!(text(first.send_request(get("/version")).await.unwrap()).await, "HTTP/1.1");
    assert!(!waiting.is_finished());
    drop(first);
    assert_eq!(tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap(), 200);
}

#[tokio::test]
async fn slow_clients_are_closed() {
    let limits = Limits {
        handshake: Duration::from_millis(50),
        header_read: Duration::from_millis(50),
        ..Limits::default()
    };
    let running = Running::start(answers(), Transport::Plain, limits).await;
    // The last one looks like HTTP/2 and stops before it is certain.
    for said in [&b""[..], b"GET / HTTP/1.1\r\n", b"PRI * "] {
        let mut stream = plain(&running).await;
        stream.write_all(said).await.unwrap();
        let mut rest = Vec::new();
        let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        end.unwrap_or_else(|_| panic!("still open after {said:?}")).unwrap();
    }
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let listen = |port| Listen { interface: String::new(), port, key: "dpServer.port" };
    let taken = bind(&listen(0)).await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = bind(&listen(port)).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("could not listen on ")
            && text.ends_with(&format!(":{port} (dpServer.port)")),
        "{text}"
    );
}
