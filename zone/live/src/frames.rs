//! HTTP/2, frame by frame, for what no client would send.

use std::io;

use crate::stream::{Stream, dial};

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Type; the constants of [`Frames`].
    pub kind: u8,
    /// Flags.
    pub flags: u8,
    /// Stream; 0 is the connection.
    pub stream: u32,
    /// What is in it.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error of a `RST_STREAM` or `GOAWAY`.
    pub fn error(&self) -> Option<u32> {
        let at = match self.kind {
            Frames::RST_STREAM => 0,
            Frames::GOAWAY => 4,
            _ => return None,
        };
        let bytes = self.payload.get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    }
}

/// A connection of HTTP/2 without the rules of it.
#[derive(Debug)]
pub struct Frames {
    stream: Stream,
}

impl Frames {
    /// Type of a body's part.
    pub const DATA: u8 = 0;
    /// Type of headers.
    pub const HEADERS: u8 = 1;
    /// Type of priorities.
    pub const PRIORITY: u8 = 2;
    /// Type of a stream's end in the middle.
    pub const RST_STREAM: u8 = 3;
    /// Type of settings.
    pub const SETTINGS: u8 = 4;
    /// Type of what ends a connection.
    pub const GOAWAY: u8 = 7;
    /// Type of further room in a window.
    pub const WINDOW_UPDATE: u8 = 8;
    /// Type of further headers.
    pub const CONTINUATION: u8 = 9;
    /// The stream ends.
    pub const END_STREAM: u8 = 1;
    /// The headers end.
    pub const END_HEADERS: u8 = 4;

    /// Connects, without TLS, and says no more than it must.
    pub async fn open(port: u16) -> Self {
        let mut stream = dial(port, None).await.unwrap();
        stream.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut frames = Self { stream };
        frames.send(Self::SETTINGS, 0, 0, &[]).await.unwrap();
        frames
    }

    /// Sends a frame.
    pub async fn send(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> io::Result<()> {
        self.stream.send_bytes(&bytes(kind, flags, stream, payload)).await
    }

    /// Sends the headers of a GET, which end; the stream ends with them if `end` says so.
    pub async fn get(
        &mut self,
        stream: u32,
        path: &str,
        headers: &[(&str, &str)],
        end: bool,
    ) -> io::Result<()> {
        let flags = Self::END_HEADERS | if end { Self::END_STREAM } else { 0 };
        self.send(Self::HEADERS, flags, stream, &get(path, headers)).await
    }

    /// Sends the headers of a GET, and ends the stream before there is an answer.
    pub async fn get_and_reset(&mut self, stream: u32, path: &str) -> io::Result<()> {
        let flags = Self::END_HEADERS | Self::END_STREAM;
        let mut both = bytes(Self::HEADERS, flags, stream, &get(path, &[]));
        // The error is CANCEL.
        both.extend(bytes(Self::RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        self.stream.send_bytes(&both).await
    }

    /// The next frame; none if the connection ends.
    pub async fn next(&mut self) -> Option<Frame> {
        let head = self.stream.bytes(9).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        let payload = self.stream.bytes(usize::try_from(length).unwrap()).await?;
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame of a type; none if the connection ends before.
    pub async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }
}

/// The header block of a GET.
pub(crate) fn get(path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let pseudo =
        [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "one.test")];
    let mut block = Vec::new();
    for (name, value) in pseudo.iter().chain(headers) {
        literal(name, value, &mut block);
    }
    block
}

/// A header as literal text that goes into no table.
fn literal(name: &str, value: &str, block: &mut Vec<u8>) {
    block.push(0);
    for text in [name, value] {
        // A number with a prefix of 7 bits.
        let mut length = text.len();
        if length < 127 {
            block.push(u8::try_from(length).unwrap());
        } else {
            block.push(127);
            length -= 127;
            while length >= 128 {
                block.push(u8::try_from(length % 128).unwrap() | 128);
                length /= 128;
            }
            block.push(u8::try_from(length).unwrap());
        }
        block.extend_from_slice(text.as_bytes());
    }
}

fn bytes(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}
