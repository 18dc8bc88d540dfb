//! A minimal HTTP/1.1 client over one kept connection: what is measured must not be the client.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

/// One connection.
pub(crate) struct Connection {
    address: String,
    stream: Option<BufReader<TcpStream>>,
}

impl Connection {
    /// A connection to `host:port`, opened when first used and again after a loss.
    pub(crate) fn new(address: impl Into<String>) -> Self {
        Self { address: address.into(), stream: None }
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        host: Option<&str>,
        body: Option<&str>,
    ) -> Result<Answer> {
        let kept = self.stream.is_some();
        let mut result = self.try_send(method, path, host, body).await;
        if result.is_err() {
            self.stream = None;
            // The server may have closed a connection that was idle for long.
            if kept {
                result = self.try_send(method, path, host, body).await;
            }
        }
        if result.is_err() {
            self.stream = None;
        }
        result
    }

    async fn try_send(
        &mut self,
        method: &str,
        path: &str,
        host: Option<&str>,
        body: Option<&str>,
    ) -> Result<Answer> {
        if self.stream.is_none() {
            let stream = TcpStream::connect(&self.address)
                .await
                .with_context(|| format!("connecting to {}", self.address))?;
            stream.set_nodelay(true)?;
            self.stream = Some(BufReader::new(stream));
        }
        let Some(stream) = &mut self.stream else { bail!("no connection") };
        let host = host.unwrap_or(&self.address);
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n");
        if let Some(body) = body {
            request.push_str(&format!(
                "content-type: application/json\r\ncontent-length: {}\r\n",
                body.len()
            ));
        }
        request.push_str("\r\n");
        if let Some(body) = body {
            request.push_str(body);
        }
        stream.write_all(request.as_bytes()).await?;

        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let status: u16 =
            line.split(' ').nth(1).and_then(|s| s.parse().ok()).context("no status line")?;
        let mut headers = BTreeMap::new();
        loop {
            line.clear();
            if stream.read_line(&mut line).await? == 0 {
                bail!("connection closed in the headers");
            }
            let text = line.trim_end();
            if text.is_empty() {
                break;
            }
            if let Some((name, value)) = text.split_once(':') {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
        }
        let mut content = Vec::new();
        if headers.get("transfer-encoding").is_some_and(|v| v == "chunked") {
            loop {
                line.clear();
                stream.read_line(&mut line).await?;
                let size = usize::from_str_radix(line.trim_end(), 16).context("chunk size")?;
                let start = content.len();
                content.resize(start + size + 2, 0);
                stream.read_exact(&mut content[start..]).await?;
                content.truncate(start + size);
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = headers.get("content-length") {
            content.resize(length.parse()?, 0);
            stream.read_exact(&mut content).await?;
        }
        if headers.get("connection").is_some_and(|v| v == "close") {
            self.stream = None;
        }
        Ok(Answer { status, headers, body: content })
    }

    /// Deletes a resource and insists on success.
    pub(crate) async fn delete(&mut self, path: &str) -> Result<()> {
        let answer = self.send("DELETE", path, None, None).await?;
        if !(200..300).contains(&answer.status) {
            bail!("DELETE {path}: {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        }
        Ok(())
    }

    /// Puts a resource and insists on success.
    pub(crate) async fn put(&mut self, path: &str, body: &str) -> Result<Answer> {
        let answer = self.send("PUT", path, None, Some(body)).await?;
        if !(200..300).contains(&answer.status) {
            bail!("PUT {path}: {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        }
        Ok(answer)
    }
}
