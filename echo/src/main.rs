//! A service for demonstrations and tests: it answers every request with its own name, its zone
//! and what it received.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue},
    response::IntoResponse,
    serve::ListenerExt as _,
};
use clap::Parser;
use serde_json::{Map, Value, json};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// Names who answered: `service/zone`, or `service/zone/instance`.
const ECHO: HeaderName = HeaderName::from_static("x-echo");

/// Answers every request with its own name and zone and what it received.
#[derive(Debug, Clone, Parser)]
#[command(name = "sunbear-echo", version)]
struct Arguments {
    /// Address and port to listen on.
    #[arg(long)]
    listen: SocketAddr,
    /// The service's name.
    #[arg(long)]
    name: String,
    /// The zone that it runs in.
    #[arg(long)]
    zone: String,
    /// Tells several instances of one service apart.
    #[arg(long)]
    instance: Option<String>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("cannot listen on {}", arguments.listen))?
        .tap_io(|stream| {
            // Without it the answers of a measured service would wait for Nagle's algorithm.
            let _ = stream.set_nodelay(true);
        });
    eprintln!("{} in {} on {}", arguments.name, arguments.zone, arguments.listen);
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    axum::serve(listener, app(&arguments)?).with_graceful_shutdown(stop).await?;
    Ok(())
}

#[derive(Debug, Clone)]
struct Identity {
    header: HeaderValue,
    json: Value,
}

fn app(arguments: &Arguments) -> Result<Router> {
    let Arguments { name, zone, instance, .. } = arguments;
    let mut header = format!("{name}/{zone}");
    if let Some(instance) = instance {
        header.push('/');
        header.push_str(instance);
    }
    let identity = Identity {
        header: HeaderValue::from_str(&header).context("names that fit no header")?,
        json: json!({"service": name, "zone": zone, "instance": instance}),
    };
    Ok(Router::new().fallback(answer).with_state(identity))
}

async fn answer(State(identity): State<Identity>, request: Request) -> impl IntoResponse {
    let mut body = identity.json;
    body["method"] = request.method().as_str().into();
    body["path"] = request.uri().path().into();
    body["query"] = request.uri().query().into();
    body["headers"] = headers(request.headers());
    ([(ECHO, identity.header)], Json(body))
}

/// Every header with the list of its values.
fn headers(headers: &HeaderMap) -> Value {
    let mut all = Map::new();
    for name in headers.keys() {
        let values = headers.get_all(name).iter();
        let values = values.map(|v| String::from_utf8_lossy(v.as_bytes()).into()).collect();
        all.insert(name.to_string(), Value::Array(values));
    }
    Value::Object(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use axum::body::{Body, to_bytes};
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(instance: Option<&str>, request: Request) -> (HeaderValue, Value) {
        let arguments = Arguments {
            listen: "127.0.0.1:1".parse().unwrap(),
            name: "api".to_owned(),
            zone: "east".to_owned(),
            instance: instance.map(str::to_owned),
        };
        let response = app(&arguments).unwrap().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let header = response.headers()[ECHO].clone();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (header, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn names_itself_and_the_request() {
        let request = Request::put("/a/b?c=d")
            .header("x-two", "1")
            .header("x-two", "2")
            .body(Body::from("ignored"))
            .unwrap();
        let (header, body) = ask(None, request).await;
        assert_eq!(header, "api/east");
        let expected = json!({
            "service": "api", "zone": "east", "instance": null,
            "method": "PUT", "path": "/a/b", "query": "c=d",
            "headers": {"x-two": ["1", "2"]},
        });
        assert_eq!(body, expected);
    }

    #[tokio::test]
    async fn an_instance_is_named_too() {
        let (header, body) = ask(Some("2"), Request::get("/").body(Body::empty()).unwrap()).await;
        assert_eq!(header, "api/east/2");
        assert_eq!(body["instance"], "2");
    }
}
