//! A small blocking HTTP/1.1 client: one request, one connection. It lets the caller choose the
//! `Host` apart from the address, which is what asking a gateway needs.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};

const CONNECT: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(10);

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Names in lower case, in the order received.
    pub headers: Vec<(String, String)>,
    /// The body, decoded if it was chunked.
    pub body: String,
}

impl Answer {
    /// The first header of that (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// A request to be sent on a connection of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The `Host` header.
    pub host: String,
    /// The path, with a query if there is one.
    pub path: String,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// The body; JSON, if there is one.
    pub body: String,
}

impl Request {
    /// A request without further headers and body.
    pub fn new(method: &str, host: &str, path: &str) -> Self {
        Self {
            method: method.to_owned(),
            host: host.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: String::new(),
        }
    }

    /// The same with one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with a JSON body.
    #[must_use]
    pub fn json(mut self, body: String) -> Self {
        self.body = body;
        self.header("content-type", "application/json")
    }

    fn to_bytes(&self) -> Vec<u8> {
        let Self { method, host, path, headers, body } = self;
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || !matches!(method.as_str(), "GET" | "HEAD" | "DELETE") {
            text.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        text.push_str(body);
        text.into_bytes()
    }
}

/// `GET path` at `address` with that `Host`.
pub fn get(address: SocketAddr, host: &str, path: &str) -> Result<Answer> {
    send(address, &Request::new("GET", host, path))
}

/// Sends a request to `address`.
pub fn send(address: SocketAddr, request: &Request) -> Result<Answer> {
    exchange(&mut connect(address)?, request).with_context(|| format!("asking {address}"))
}

/// A connection that does not wait for ever.
pub fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, CONNECT)
        .with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends a request on a connection, which may be one with TLS, and reads the answer.
pub fn exchange(stream: &mut (impl Read + Write), request: &Request) -> Result<Answer> {
    stream.write_all(&request.to_bytes()).context("request not sent")?;
    stream.flush().context("request not sent")?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 8192];
    // Not until the end of the stream: Envoy lingers for a second before it closes some.
    loop {
        let count = stream.read(&mut buffer).context("no answer")?;
        bytes.extend_from_slice(&buffer[..count]);
        if let Some(answer) = parse(&bytes, count == 0).context("bad answer")? {
            return Ok(answer);
        }
    }
}

/// The answer, if `bytes` hold all of it. At the end of the stream they must.
fn parse(bytes: &[u8], ended: bool) -> Result<Option<Answer>> {
    let Some(end) = find(bytes, b"\r\n\r\n") else { return more("head", ended) };
    let head = std::str::from_utf8(&bytes[..end])?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1."))
        .and_then(|line| line.split(' ').nth(1))
        .context("no status line")?
        .parse()?;
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut answer = Answer { status, headers, body: String::new() };
    let rest = &bytes[end + 4..];
    let body = if answer.header("transfer-encoding").is_some_and(|v| v.contains("chunked")) {
        unchunk(rest)?
    } else if let Some(length) = answer.header("content-length") {
        let length: usize = length.parse()?;
        rest.get(..length).map(<[u8]>::to_vec)
    } else {
        ended.then(|| rest.to_vec())
    };
    let Some(body) = body else { return more("body", ended) };
    answer.body = String::from_utf8(body)?;
    Ok(Some(answer))
}

fn more(part: &str, ended: bool) -> Result<Option<Answer>> {
    if ended {
        bail!("the {part} is cut short");
    }
    Ok(None)
}

/// The body, if its last chunk is there.
fn unchunk(mut rest: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    loop {
        let Some(end) = find(rest, b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&rest[..end])?;
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Ok(Some(body));
        }
        // With the line end behind it.
        let Some(chunk) = size.checked_add(2).and_then(|size| rest.get(..size)) else {
            return Ok(None);
        };
        match chunk.strip_suffix(b"\r\n") {
            Some(chunk) => body.extend_from_slice(chunk),
            None => bail!("a chunk does not end"),
        }
        rest = &rest[size + 2..];
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole, it is the answer; cut anywhere, it is none yet, and an error at the end.
    fn check(whole: &[u8]) -> Answer {
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut], false).unwrap(), None, "cut at {cut}");
            assert!(parse(&whole[..cut], true).is_err(), "cut at {cut}");
        }
        parse(whole, false).unwrap().unwrap()
    }

    #[test]
    fn reads_a_body_of_known_length() {
        let answer =
            check(b"HTTP/1.1 404 Not Found\r\nX-Echo: api/east\r\nContent-Length: 2\r\n\r\nhi");
        assert_eq!((answer.status, answer.body.as_str()), (404, "hi"));
        assert_eq!(answer.header("x-echo"), Some("api/east"));
    }

    #[test]
    fn reads_a_chunked_body() {
        let answer = check(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n",
        );
        assert_eq!(answer.body, "abcd");
    }

    #[test]
    fn without_a_length_the_body_ends_with_the_stream() {
        let bytes = b"HTTP/1.1 200 OK\r\n\r\nabc";
        assert_eq!(parse(bytes, false).unwrap(), None);
        assert_eq!(parse(bytes, true).unwrap().unwrap().body, "abc");
    }

    #[test]
    fn a_request_has_all_its_parts() {
        let request = Request::new("PUT", "h", "/p?q").header("x-a", "1").json("{}".to_owned());
        assert_eq!(
            String::from_utf8(request.to_bytes()).unwrap(),
            "PUT /p?q HTTP/1.1\r\nHost: h\r\nConnection: close\r\nx-a: 1\r\n\
             content-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
        );
    }

    #[test]
    fn nonsense_is_an_error() {
        for bytes in [
            &b"SSH-2.0\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n",
        ] {
            assert!(parse(bytes, false).is_err());
        }
    }
}
