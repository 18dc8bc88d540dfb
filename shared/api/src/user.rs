//! Who is calling (`spec/rest-api.md` 10.1, 10.2).

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderValue, Uri, header, request::Parts};

/// The address at the other end of the connection. Whoever accepts connections puts it into the
/// extensions of each request; without it the caller counts as remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddr(pub SocketAddr);

/// The request came over TLS. Whoever terminates TLS puts it into the extensions of each request;
/// addresses of next pages then start with `https`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverTls;

/// The client has shown a certificate that its connection was checked with. Whoever terminates TLS
/// puts it into the extensions of each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientCertificate;

const ADMIN: &str = "mesh-system:admin";
const ANONYMOUS: &str = "mesh-system:anonymous";
pub(crate) const AUTHENTICATED: &str = "mesh-system:authenticated";
pub(crate) const UNAUTHENTICATED: &str = "mesh-system:unauthenticated";

/// A caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Name.
    pub name: String,
    /// Groups, in the order in which they were given.
    pub groups: Vec<String>,
}

impl User {
    /// The administrator.
    pub fn admin() -> Self {
        Self { name: ADMIN.to_owned(), groups: vec![ADMIN.to_owned(), AUTHENTICATED.to_owned()] }
    }

    /// Somebody without credentials.
    pub fn anonymous() -> Self {
        Self { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()] }
    }

    /// The bearer of a good token.
    pub(crate) fn of_token(name: String, mut groups: Vec<String>) -> Self {
        groups.push(AUTHENTICATED.to_owned());
        Self { name, groups }
    }

    /// Nothing is known of this caller.
    pub fn is_anonymous(&self) -> bool {
        self.name == ANONYMOUS
    }
}

impl std::fmt::Display for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.name, self.groups.join(","))
    }
}

/// Did somebody on this very host make the request, and no browser on behalf of another site?
///
/// A page of any site can make a local browser send requests to the loopback address, and a proxy
/// on this host passes on what comes from elsewhere; neither may count.
pub(crate) fn is_direct_and_local(parts: &Parts) -> bool {
    let headers = &parts.headers;
    let Some(PeerAddr(peer)) = parts.extensions.get::<PeerAddr>() else { return false };
    let forwarded = ["forwarded", "x-forwarded-for", "x-real-ip"];
    peer.ip().to_canonical().is_loopback()
        && forwarded.iter().all(|name| headers.get_all(*name).iter().all(HeaderValue::is_empty))
        && authority(parts).is_some_and(|(host, _)| is_loopback(&host))
        && matches!(text(headers, "sec-fetch-site"), Some("" | "same-origin" | "none"))
        && is_same_origin(parts)
}

/// The first value of a header; empty if it is absent, nothing if it is not text.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    match headers.get(name) {
        None => Some(""),
        Some(value) => value.to_str().ok(),
    }
}

fn is_same_origin(parts: &Parts) -> bool {
    let origin = match text(&parts.headers, "origin") {
        None => return false,
        Some("") => return true,
        Some(origin) => origin,
    };
    let Some((scheme, rest)) = origin.split_once("://") else { return false };
    let default_port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    let Some((host, port)) = host_and_port(rest) else { return false };
    let Some((own_host, own_port)) = authority(parts) else { return false };
    is_loopback(&host)
        && host == own_host
        && port.unwrap_or(default_port) == own_port.unwrap_or(default_port)
}

/// Host and port that the request was sent to, by its Host header or, over HTTP/2, its address.
fn authority(parts: &Parts) -> Option<(String, Option<u16>)> {
    host_and_port(request_host(&parts.headers, &parts.uri)?)
}

/// The host part of a request, as the client named it.
pub(crate) fn request_host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    match headers.get(header::HOST) {
        Some(host) => host.to_str().ok(),
        None => uri.authority().map(http::uri::Authority::as_str),
    }
}

/// Splits `host:port`, with the host in its plainest spelling. Nothing for anything that is more
/// or less than that.
fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    if text.contains(['/', '?', '#', '@', '\\', ' ']) {
        return None;
    }
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
    } else {
        match text.split_once(':') {
            None => (text, None),
            Some((host, port)) => (host, Some(port)),
        }
    };
    let port = match port {
        None => None,
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
            Some(port.parse::<u16>().ok().filter(|p| *p > 0)?)
        }
        Some(_) => return None,
    };
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    if host.is_empty() {
        return None;
    }
    let host = host.parse::<IpAddr>().map_or_else(|_| host.to_owned(), |ip| ip.to_string());
    Some((host, port))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn local(peer: &str, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().uri("/meshes");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        parts.extensions.insert(PeerAddr(peer.parse().unwrap()));
        is_direct_and_local(&parts)
    }

    #[test]
    fn who_is_local() {
        let host = ("host", "localhost:5681");
        for (peer, headers, want) in [
            ("127.0.0.1:5", &[host][..], true),
            ("[::1]:5", &[("host", "[::1]:5681")], true),
            ("[::ffff:127.0.0.1]:5", &[("host", "127.0.0.1")], true),
            ("127.8.0.1:5", &[("host", "LOCALHOST.")], true),
            ("10.0.0.1:5", &[host], false),
            ("127.0.0.1:5", &[], false),
            ("127.0.0.1:5", &[("host", "cp.example.com:5681")], false),
            ("127.0.0.1:5", &[("host", "localhost:")], false),
            ("127.0.0.1:5", &[("host", "localhost@evil")], false),
            ("127.0.0.1:5", &[host, ("x-forwarded-for", "10.0.0.1")], false),
            ("127.0.0.1:5", &[host, ("forwarded", "for=10.0.0.1")], false),
            ("127.0.0.1:5", &[host, ("x-real-ip", "10.0.0.1")], false),
            ("127.0.0.1:5", &[host, ("sec-fetch-site", "same-origin")], true),
            ("127.0.0.1:5", &[host, ("sec-fetch-site", "none")], true),
            ("127.0.0.1:5", &[host, ("sec-fetch-site", "cross-site")], false),
            ("127.0.0.1:5", &[host, ("origin", "http://localhost:5681")], true),
            ("127.0.0.1:5", &[("host", "localhost"), ("origin", "http://localhost:80")], true),
            ("127.0.0.1:5", &[host, ("origin", "http://localhost:1")], false),
            ("127.0.0.1:5", &[host, ("origin", "http://127.0.0.1:5681")], false),
            ("127.0.0.1:5", &[host, ("origin", "http://evil.example")], false),
            ("127.0.0.1:5", &[host, ("origin", "null")], false),
            ("127.0.0.1:5", &[host, ("origin", "http://localhost:5681/x")], false),
        ] {
            assert_eq!(local(peer, headers), want, "{peer} {headers:?}");
        }
    }
}
