//! The readiness reporter: `/ready` on a port of its own, relayed from the Envoy that serves.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::bail;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::admin::Admin;

/// Limit for a client's request header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// What the reporter relays.
#[derive(Debug, Clone, Default)]
pub(crate) struct Readiness {
    /// The Envoy to ask, if one runs.
    pub(crate) serving: Option<Admin>,
    /// Draining or stopping.
    pub(crate) terminating: bool,
}

/// The bound reporter.
#[derive(Debug)]
pub(crate) struct Reporter {
    listeners: Vec<TcpListener>,
}

impl Reporter {
    /// Binds the port, on IPv6 as well where the host has it: the control plane of an IPv6 proxy
    /// asks there.
    pub(crate) async fn bind(address: IpAddr, port: u16) -> anyhow::Result<Reporter> {
        let v6 = if address.is_unspecified() { Ipv6Addr::UNSPECIFIED } else { Ipv6Addr::LOCALHOST };
        let v4 = TcpListener::bind((address, port)).await;
        // The IPv6 wildcard takes IPv4 in too, so it fails where that is bound already.
        let v6 = TcpListener::bind((v6, port)).await;
        if let (Err(error), false) = (&v4, address.is_unspecified() && v6.is_ok()) {
            bail!(
                "cannot listen on {} for readiness: {error}; another proxy on this host? give each its own KUMA_READINESS_PORT",
                SocketAddr::new(address, port)
            );
        }
        Ok(Reporter { listeners: v4.into_iter().chain(v6).collect() })
    }

    /// Serves for as long as the process runs.
    pub(crate) fn spawn(self, readiness: watch::Receiver<Readiness>) {
        for listener in self.listeners {
            tokio::spawn(accept(listener, readiness.clone()));
        }
    }
}

async fn accept(listener: TcpListener, readiness: watch::Receiver<Readiness>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(serve(stream, readiness.clone()));
            }
            Err(error) => {
                // Out of file descriptors, mostly: it passes, and a tight loop would not help.
                tracing::warn!(%error, "cannot accept a readiness probe");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, readiness: watch::Receiver<Readiness>) {
    let service = service_fn(|request: Request<Incoming>| {
        let readiness = readiness.borrow().clone();
        async move { anyhow::Ok(answer(request.uri().path(), readiness).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "readiness connection failed");
    }
}

/// Nothing else of Envoy's admin interface is reachable here: in a pod this port is open to the
/// network.
async fn answer(path: &str, readiness: Readiness) -> Response<Full<Bytes>> {
    let (status, body) = match (path, readiness) {
        ("/ready", Readiness { terminating: true, .. }) => {
            (StatusCode::SERVICE_UNAVAILABLE, "TERMINATING".into())
        }
        ("/ready", Readiness { serving: None, .. }) => {
            (StatusCode::SERVICE_UNAVAILABLE, "NOT_READY".into())
        }
        ("/ready", Readiness { serving: Some(admin), .. }) => match admin.ready().await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(error = format!("{error:#}"), "Envoy does not answer");
                (StatusCode::SERVICE_UNAVAILABLE, "NOT_READY".into())
            }
        },
        _ => (StatusCode::NOT_FOUND, "not found".into()),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, max-age=0"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[tokio::test]
    async fn nothing_is_ready_without_an_envoy() {
        let status = |path: &'static str, readiness: Readiness| async move {
            answer(path, readiness).await.status()
        };
        assert_eq!(status("/ready", Readiness::default()).await, StatusCode::SERVICE_UNAVAILABLE);
        let terminating = Readiness { serving: None, terminating: true };
        assert_eq!(status("/ready", terminating).await, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(status("/stats", Readiness::default()).await, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn a_taken_port_is_said_clearly() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = Reporter::bind(IpAddr::V4(Ipv4Addr::LOCALHOST), port).await.unwrap_err();
        assert!(format!("{error:#}").contains("KUMA_READINESS_PORT"), "{error:#}");
    }
}
