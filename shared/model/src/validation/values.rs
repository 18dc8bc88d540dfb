//! Rules for single values (`spec/resources.md` 2.5).

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::LazyLock,
};

use regex::Regex;

use super::{Path, Violations};

/// A pattern that is part of the program.
pub(super) fn pattern(text: &str) -> Regex {
    #[expect(clippy::expect_used, reason = "every pattern is compiled by a unit test")]
    Regex::new(text).expect("the pattern is valid")
}

static DOMAIN: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"));
static DNS_NAME: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"^[a-zA-Z0-9_][a-zA-Z0-9_-]{0,62}(\.[a-zA-Z0-9_][a-zA-Z0-9_-]{0,62})*[._]?$")
});
static MESH_DURATION: LazyLock<Regex> = LazyLock::new(|| pattern(r"^([0-9]+)(y|w|d|h|m|s|ms)$"));

/// The range of TCP ports.
pub(super) fn port(path: Path, port: u32, violations: &mut Violations) {
    if !(1..=65535).contains(&port) {
        violations.push(path, "port must be in the range [1, 65535]");
    }
}

/// An address that others connect to; `path` is that of the parent.
pub(super) fn address(path: &Path, address: &str, violations: &mut Violations) {
    let field = path.field("address");
    if address.is_empty() {
        violations.push(field, "address can't be empty");
        return;
    }
    if address == "0.0.0.0" || address == "::" {
        violations.push(&field, "must not be 0.0.0.0 or ::");
    }
    if !is_ip(address) && !is_dns_name(address) {
        violations.push(field, "address has to be valid IP address or domain name");
    }
}

/// A host filter: `*`, `*.domain` or a domain.
pub(super) fn hostname(path: Path, hostname: &str, violations: &mut Violations) {
    if hostname == "*" {
        return;
    }
    if hostname.len() > 253 {
        violations.push(&path, "must be at most 253 characters");
    }
    match hostname.strip_prefix("*.") {
        Some(domain) if !DOMAIN.is_match(domain) => {
            violations.push(path, "invalid wildcard domain");
        }
        None if !DOMAIN.is_match(hostname) => violations.push(path, "invalid hostname"),
        Some(_) | None => {}
    }
}

/// A share of a hundred; `path` is that of the parent.
pub(super) fn percentage(path: &Path, percentage: Option<f64>, violations: &mut Violations) {
    let field = path.field("percentage");
    match percentage {
        None => violations.push(field, "cannot be empty"),
        Some(p) if !(0.0..=100.0).contains(&p) => {
            violations.push(field, "has to be in [0.0 - 100.0] range");
        }
        Some(_) => {}
    }
}

/// A duration that must not be zero (a negative one passes, as in Kuma).
pub(super) fn positive_duration(path: Path, seconds: i64, nanos: i32, violations: &mut Violations) {
    // The bounds of `google.protobuf.Duration`: ten thousand years, and one sign.
    let valid = (-315_576_000_000..=315_576_000_000).contains(&seconds)
        && (-999_999_999..=999_999_999).contains(&nanos)
        && !(seconds > 0 && nanos < 0)
        && !(seconds < 0 && nanos > 0);
    if !valid {
        violations.push(path, "must have a valid value");
    } else if seconds == 0 && nanos == 0 {
        violations.push(path, "must have a positive value");
    }
}

/// A count that must not be zero.
pub(super) fn threshold(path: Path, threshold: u32, violations: &mut Violations) {
    if threshold == 0 {
        violations.push(path, "must have a positive value");
    }
}

/// An IP address as Go's parser takes it.
pub(super) fn parse_ip(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

/// Is this an IP address?
pub(super) fn is_ip(text: &str) -> bool {
    parse_ip(text).is_some()
}

/// Can a listener on `text` be reached at 127.0.0.1?
pub(super) fn covers_loopback(text: &str) -> bool {
    parse_ip(text).is_some_and(|ip| ip.is_unspecified() || ip == IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Is this a DNS name, in the wide sense (any case, underscores) and no IP address?
pub(super) fn is_dns_name(text: &str) -> bool {
    text.bytes().filter(|b| *b != b'.').count() <= 255 && !is_ip(text) && DNS_NAME.is_match(text)
}

/// A duration of a Mesh: `0`, or a number with one unit out of y, w, d, h, m, s, ms.
pub(super) fn is_mesh_duration(text: &str) -> bool {
    text == "0" || MESH_DURATION.is_match(text)
}

/// A protocol that we know, in any case; `None` is "unknown".
pub(super) fn known_protocol(text: &str) -> bool {
    matches!(
        text.to_lowercase().as_str(),
        "http" | "tcp" | "tls" | "http2" | "grpc" | "kafka" | "mysql"
    )
}

/// The end of messages about protocols; it lists fewer than are known.
pub(super) const PROTOCOL_HINT: &str = "Allowed values: grpc, http, http2, kafka, tcp";

/// Host and port of `host:port`, each of which may be empty; brackets around an IPv6 host.
pub(super) fn split_host_port(text: &str) -> Option<(&str, &str)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    (!host.contains(['[', ']']) && !port.contains(['[', ']'])).then_some((host, port))
}

/// `host:port` with both parts.
pub(super) fn is_host_port(text: &str) -> bool {
    split_host_port(text).is_some_and(|(host, port)| !host.is_empty() && !port.is_empty())
}

/// An HTTP status code that Go has a text for.
pub(super) fn is_known_status(status: u32) -> bool {
    matches!(
        status,
        100..=103
            | 200..=208
            | 226
            | 300..=305
            | 307
            | 308
            | 400..=418
            | 421..=426
            | 428
            | 429
            | 431
            | 451
            | 500..=508
            | 510
            | 511
    )
}

/// A URI as an HTTP request may carry it: an absolute path or an absolute URL.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RequestUri<'a> {
    /// The port, if the URI has one; it may be empty.
    pub(super) port: Option<&'a str>,
}

impl<'a> RequestUri<'a> {
    /// `None` if the text is no such URI.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        if text.is_empty() || text.bytes().any(|b| b < b' ' || b == 0x7f) {
            return None;
        }
        if text == "*" {
            return Some(Self { port: None });
        }
        let (scheme, rest) = split_scheme(text)?;
        let rest = rest.split_once('?').map_or(rest, |(path, _)| path);
        if !rest.starts_with('/') {
            // Opaque, such as `mailto:someone`.
            return (!scheme.is_empty()).then_some(Self { port: None });
        }
        let (authority, path) = match rest.strip_prefix("//") {
            Some(after) if !scheme.is_empty() => {
                after.split_at(after.find('/').unwrap_or(after.len()))
            }
            Some(_) | None => ("", rest),
        };
        if !well_escaped(path) {
            return None;
        }
        Some(Self { port: authority_port(authority)? })
    }
}

/// Scheme and rest; an empty scheme if there is none, `None` if it is malformed.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    for (i, b) in text.bytes().enumerate() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if i > 0 => {}
            b':' if i == 0 => return None,
            b':' => return Some((&text[..i], &text[i + 1..])),
            _ => break,
        }
    }
    Some(("", text))
}

/// The port of an authority, `None` if the authority is malformed.
fn authority_port(authority: &str) -> Option<Option<&str>> {
    let allowed = |b: u8, more: &[u8]| {
        b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:%".contains(&b) || more.contains(&b)
    };
    let host = match authority.rsplit_once('@') {
        Some((user, host)) => {
            if !user.bytes().all(|b| allowed(b, b"@")) || !well_escaped(user) {
                return None;
            }
            host
        }
        None => authority,
    };
    if !host.bytes().all(|b| b >= 0x80 || allowed(b, b"[]<>\"")) || !well_escaped(host) {
        return None;
    }
    let (end, bracketed) = match host.strip_prefix('[') {
        Some(_) => (host.rfind(']')? + 1, true),
        None => (host.rfind(':').unwrap_or(host.len()), false),
    };
    let after = &host[end..];
    if after.is_empty() {
        return Some(None);
    }
    let port = after.strip_prefix(':')?;
    if !bracketed && host[..end].contains(':') || !port.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(Some(port))
}

/// Every `%` is followed by two hexadecimal digits.
fn well_escaped(text: &str) -> bool {
    text.split('%')
        .skip(1)
        .all(|after| after.len() >= 2 && after.bytes().take(2).all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["10.0.0.1", "::1", "fd00::1", "a.example", "a_b", "example.com.", "A-b"] {
            assert!(is_ip(good) || is_dns_name(good), "{good}");
        }
        for bad in ["", "..", "a b", "-a", "1.2.3.4/24", "fe80::1%eth0", "a..b", "é"] {
            assert!(!is_ip(bad) && !is_dns_name(bad), "{bad}");
        }
        // Not an IP address for Go either; a DNS name by its letters.
        assert!(!is_ip("010.0.0.1") && is_dns_name("010.0.0.1"));
        assert!(
            covers_loopback("0.0.0.0") && covers_loopback("::") && covers_loopback("127.0.0.1")
        );
        assert!(covers_loopback("::ffff:127.0.0.1"));
        assert!(
            !covers_loopback("::1")
                && !covers_loopback("127.0.0.2")
                && !covers_loopback("localhost")
        );
    }

    #[test]
    fn host_ports() {
        for good in ["kibana:1234", "[::1]:80", "1.2.3.4:http"] {
            assert!(is_host_port(good), "{good}");
        }
        for bad in ["", "a", ":80", "a:", "::1:80", "[::1]", "[]:80", "[::1:80"] {
            assert!(!is_host_port(bad), "{bad}");
        }
    }

    #[test]
    fn durations() {
        for good in ["0", "1y", "2w", "3d", "10h", "5m", "30s", "100ms"] {
            assert!(is_mesh_duration(good), "{good}");
        }
        for bad in ["", "1", "1h30m", "1.5h", "-1d", "d"] {
            assert!(!is_mesh_duration(bad), "{bad}");
        }
        for (seconds, nanos, want) in [
            (0, 0, Some("must have a positive value")),
            (-1, 0, None),
            (1, -1, Some("must have a valid value")),
            (i64::MAX, 0, Some("must have a valid value")),
            (0, 1, None),
        ] {
            let mut violations = Violations::default();
            positive_duration(Path::at("d"), seconds, nanos, &mut violations);
            assert_eq!(violations.iter().next().map(|v| v.message.as_str()), want);
        }
    }

    #[test]
    fn request_uris() {
        let port = |text| RequestUri::parse(text).map(|u| u.port);
        assert_eq!(port("http://zipkin.local:9411/v2/spans"), Some(Some("9411")));
        assert_eq!(port("http://[::1]:80"), Some(Some("80")));
        assert_eq!(port("http://user:pass@host:8080/x?y"), Some(Some("8080")));
        assert_eq!(port("http://zipkin.local/v2"), Some(None));
        assert_eq!(port("/metrics?x=:%zz"), Some(None));
        assert_eq!(port("//host:80/x"), Some(None));
        assert_eq!(port("mailto:a"), Some(None));
        for bad in [
            "",
            "metrics",
            "a b",
            ":80/x",
            "http://a b/",
            "http://a:port/",
            "/a%zz",
            "/a\n",
            "http://[::1/x",
        ] {
            assert_eq!(port(bad), None, "{bad}");
        }
    }

    #[test]
    fn patterns_compile() {
        let _ = (&*DOMAIN, &*DNS_NAME, &*MESH_DURATION);
    }
}
