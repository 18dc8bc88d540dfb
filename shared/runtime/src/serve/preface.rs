//! Which HTTP a client speaks, from its first bytes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// What every HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
}

/// Reads until the version is certain. The stream returned yields the bytes read once more.
pub(super) async fn detect<S: AsyncRead + Unpin>(
    mut stream: S,
) -> io::Result<(Version, Rewound<S>)> {
    let mut read = Vec::with_capacity(PREFACE.len());
    let version = loop {
        if read.len() == PREFACE.len() {
            break Version::Http2;
        }
        let mut rest = (&mut stream).take((PREFACE.len() - read.len()) as u64);
        if rest.read_buf(&mut read).await? == 0 {
            if read.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            break Version::Http1;
        }
        if !PREFACE.starts_with(&read) {
            break Version::Http1;
        }
    };
    Ok((version, Rewound { stream, read, position: 0 }))
}

/// A stream with bytes put back in front of it.
pub(super) struct Rewound<S> {
    stream: S,
    read: Vec<u8>,
    position: usize,
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(left) = this.read.get(this.position..).filter(|left| !left.is_empty()) {
            let (now, _) = left.split_at(left.len().min(buffer.remaining()));
            buffer.put_slice(now);
            this.position += now.len();
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(chunks: &[&[u8]], expected: Version) {
        let mut mock = tokio::io::join(Chunks::new(chunks), tokio::io::sink());
        let (version, mut stream) = detect(&mut mock).await.unwrap();
        assert_eq!(version, expected);
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, chunks.concat());
    }

    /// Yields one chunk a read.
    struct Chunks(Vec<Vec<u8>>);

    impl Chunks {
        fn new(chunks: &[&[u8]]) -> Self {
            Self(chunks.iter().rev().map(|chunk| chunk.to_vec()).collect())
        }
    }

    impl AsyncRead for Chunks {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let this = self.get_mut();
            if let Some(mut chunk) = this.0.pop() {
                let rest = chunk.split_off(chunk.len().min(buffer.remaining()));
                buffer.put_slice(&chunk);
                if !rest.is_empty() {
                    this.0.push(rest);
                }
            }
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn versions() {
        check(&[b"GET / HTTP/1.1\r\n\r\n"], Version::Http1).await;
        check(&[b"P", b"UT / HTTP/1.1\r\n\r\n"], Version::Http1).await;
        check(&[b"PRI * HTT"], Version::Http1).await;
        check(&[b"PRI * HTTP/2.0\r\n", b"\r\nSM\r\n\r\n", b"frames"], Version::Http2).await;
        check(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nframes and more frames"], Version::Http2).await;
    }

    #[tokio::test]
    async fn a_silent_end_is_no_request() {
        let silent = tokio::io::join(Chunks::new(&[]), tokio::io::sink());
        assert!(detect(silent).await.is_err());
    }
}
