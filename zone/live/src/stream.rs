//! Connections, plain or with TLS.

use std::{io, net::Ipv4Addr, pin::Pin, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::{
    client::{Failure, Tls},
    wait::PATIENCE,
};

/// Reads and writes.
pub(crate) trait Both: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Both for T {}

/// A connection of a client.
pub struct Stream {
    pub(crate) inner: Pin<Box<dyn Both>>,
    /// What the server presented, DER; none without TLS.
    pub certificate: Option<Vec<u8>>,
    /// What was agreed upon.
    pub alpn: Option<String>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("alpn", &self.alpn).finish_non_exhaustive()
    }
}

impl Stream {
    /// Sends text.
    pub async fn send(&mut self, text: &str) -> io::Result<()> {
        self.send_bytes(text.as_bytes()).await
    }

    /// Sends bytes.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_all(bytes).await?;
        self.inner.flush().await
    }

    /// Reads so many bytes; none if the connection ends before.
    pub async fn bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; count];
        let read = tokio::time::timeout(PATIENCE, self.inner.read_exact(&mut bytes));
        read.await.expect("bytes come or the connection ends").ok()?;
        Some(bytes)
    }

    /// Reads until the connection ends, however it does.
    pub async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(PATIENCE, self.inner.read_to_end(&mut bytes));
        // What came before a reset counts.
        let _ = read.await.expect("the connection ends");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Reads a line, without its end; none if the connection ends before.
    pub async fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        loop {
            let read = tokio::time::timeout(PATIENCE, self.inner.read_u8());
            match read.await.expect("a line comes or the connection ends") {
                Ok(b'\n') => return String::from_utf8(line).ok(),
                Ok(byte) => line.push(byte),
                Err(_) => return None,
            }
        }
    }

    /// Sends a line and reads one.
    pub async fn echo(&mut self, text: &str) -> Option<String> {
        self.send(&format!("{text}\n")).await.ok()?;
        self.line().await
    }
}

/// Connects to a port on loopback. While nobody listens there it tries again: a listener comes a
/// moment after it was acknowledged.
pub async fn dial(port: u16, tls: Option<&Tls>) -> Result<Stream, Failure> {
    dial_from(Ipv4Addr::LOCALHOST, port, tls).await
}

/// The same from another address on loopback.
pub(crate) async fn dial_from(
    source: Ipv4Addr,
    port: u16,
    tls: Option<&Tls>,
) -> Result<Stream, Failure> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let stream = loop {
        let socket = TcpSocket::new_v4().map_err(Failure::Refused)?;
        if source != Ipv4Addr::LOCALHOST {
            socket.bind((source, 0).into()).map_err(Failure::Refused)?;
        }
        match socket.connect((Ipv4Addr::LOCALHOST, port).into()).await {
            Ok(stream) => break stream,
            Err(error) if tokio::time::Instant::now() > deadline => {
                return Err(Failure::Refused(error));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    dial_on(stream, tls).await
}

/// Begins TLS, if there is to be some.
pub(crate) async fn dial_on(stream: TcpStream, tls: Option<&Tls>) -> Result<Stream, Failure> {
    stream.set_nodelay(true).map_err(Failure::Refused)?;
    let Some(tls) = tls else {
        return Ok(Stream { inner: Box::pin(stream), certificate: None, alpn: None });
    };
    let handshake = tls.connector().connect(tls.server_name(), stream);
    let stream = tokio::time::timeout(PATIENCE, handshake)
        .await
        .map_err(|_| Failure::Timeout)?
        .map_err(Failure::Handshake)?;
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates().and_then(|chain| Some(chain.first()?.to_vec()));
    let alpn = session.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned());
    Ok(Stream { inner: Box::pin(stream), certificate, alpn })
}
