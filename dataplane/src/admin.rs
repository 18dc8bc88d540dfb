//! A client of Envoy's admin interface.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::document::AdminAddress;
use crate::static_config::is_for_traffic;

/// Limit of an ordinary call.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Limit of a configuration dump, which can be hundreds of megabytes.
const DUMP_TIMEOUT: Duration = Duration::from_secs(60);

/// A client of one Envoy. Each call is a connection of its own: they are rare, and Envoy may be
/// replaced behind the address.
#[derive(Debug, Clone)]
pub(crate) struct Admin {
    address: AdminAddress,
}

impl Admin {
    /// A client for this address.
    pub(crate) fn new(address: AdminAddress) -> Admin {
        Admin { address }
    }

    /// Where it connects to.
    pub(crate) fn address(&self) -> &AdminAddress {
        &self.address
    }

    /// Envoy's own answer to `/ready`.
    pub(crate) async fn ready(&self) -> anyhow::Result<(StatusCode, Bytes)> {
        self.call(Method::GET, "/ready", TIMEOUT).await
    }

    /// Whether all is initialized and traffic is served.
    pub(crate) async fn is_live(&self) -> bool {
        self.ready().await.is_ok_and(|(status, _)| status == StatusCode::OK)
    }

    /// How many listeners for traffic there are.
    pub(crate) async fn listeners(&self) -> anyhow::Result<usize> {
        // Lines of `name::address`.
        let text = self.get("/listeners", TIMEOUT).await?;
        let names = text
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(String::from_utf8_lossy);
        Ok(names.filter(|name| is_for_traffic(name)).count())
    }

    /// Statistics whose names match, as `name: value` lines.
    pub(crate) async fn stats(&self, filter: &str) -> anyhow::Result<String> {
        let path = format!("/stats?filter={}", percent_encoded(filter));
        let text = self.get(&path, TIMEOUT).await?;
        String::from_utf8(text.to_vec()).context("Envoy's statistics are not text")
    }

    /// The configuration dump with endpoints.
    pub(crate) async fn config_dump(&self) -> anyhow::Result<Bytes> {
        self.get("/config_dump?include_eds", DUMP_TIMEOUT).await
    }

    /// The runtime's layers and values.
    pub(crate) async fn runtime(&self) -> anyhow::Result<Bytes> {
        self.get("/runtime", TIMEOUT).await
    }

    /// Lets health checks fail and asks clients to close their connections.
    pub(crate) async fn fail_health_checks(&self) -> anyhow::Result<()> {
        self.post("/healthcheck/fail").await
    }

    /// Stops accepting connections; those that are open go on.
    pub(crate) async fn stop_listeners(&self) -> anyhow::Result<()> {
        self.post("/drain_listeners").await
    }

    /// How many downstream connections are open, not counting those to the admin interface itself.
    ///
    /// `server.total_connections` would be simpler, but Envoy brings it up to date only every few
    /// seconds.
    pub(crate) async fn connections(&self) -> anyhow::Result<u64> {
        let text = self.stats("^listener\\..*\\.downstream_cx_active$").await?;
        let counts = text
            .lines()
            .filter(|line| !line.starts_with("listener.admin."))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        Ok(counts.sum())
    }

    async fn get(&self, path: &str, limit: Duration) -> anyhow::Result<Bytes> {
        let (status, body) = self.call(Method::GET, path, limit).await?;
        ensure!(status == StatusCode::OK, "Envoy answered {status} to {path}");
        Ok(body)
    }

    async fn post(&self, path: &str) -> anyhow::Result<()> {
        let (status, _) = self.call(Method::POST, path, TIMEOUT).await?;
        ensure!(status == StatusCode::OK, "Envoy answered {status} to {path}");
        Ok(())
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        limit: Duration,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let exchange = async {
            match &self.address {
                AdminAddress::Pipe(socket) => {
                    exchange(UnixStream::connect(socket).await?, method, path).await
                }
                AdminAddress::Tcp(address) => {
                    exchange(TcpStream::connect(address).await?, method, path).await
                }
            }
        };
        tokio::time::timeout(limit, exchange)
            .await
            .context("no answer in time")
            .flatten()
            .with_context(|| format!("Envoy's admin interface at {} failed", self.address))
    }
}

async fn exchange<S>(stream: S, method: Method, path: &str) -> anyhow::Result<(StatusCode, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(hyper::header::HOST, "envoy-admin")
        .body(Empty::<Bytes>::new())?;
    let answer = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        // The connection ends when nobody can send on it any more.
        drop(sender);
        anyhow::Ok((status, body))
    };
    // The connection's end says nothing that the answer does not say.
    let (answer, _) = tokio::join!(answer, connection);
    answer
}

fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(byte as char)
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::percent_encoded;

    #[test]
    fn filters_are_encoded() {
        assert_eq!(percent_encoded("^a\\.(b|c)$"), "%5Ea%5C.%28b%7Cc%29%24");
    }
}
