//! The control plane's certificate as proxies see it (`spec/dp-server.md` 3).

use std::net::IpAddr;

use sunbear_security::certificate::{CertificateError, alternative_names_of, require_authority};

use super::BootstrapError;

/// The server's certificate, and what it is good for.
#[derive(Debug)]
pub(crate) struct ServerCertificate {
    pem: String,
    names: Vec<String>,
}

impl ServerCertificate {
    pub(crate) fn new(pem: &str) -> Result<Self, CertificateError> {
        Ok(Self { pem: pem.to_owned(), names: alternative_names_of(pem.as_bytes())? })
    }

    /// What it is good for.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// Refuses a host that the certificate is not good for.
    pub(crate) fn check_host(&self, host: &str) -> Result<(), BootstrapError> {
        if self.names.iter().any(|name| covers(name, host)) {
            Ok(())
        } else {
            Err(BootstrapError::Host { host: host.to_owned(), names: self.names.clone() })
        }
    }

    /// What a proxy verifies the control plane with: what it brought along, else this file.
    pub(crate) fn authority<'a>(&'a self, brought: &'a str) -> Result<&'a str, BootstrapError> {
        let pem = if brought.is_empty() { &self.pem } else { brought };
        match require_authority(pem.as_bytes()) {
            Ok(()) => Ok(pem),
            Err(CertificateError::NotAuthority) => Err(BootstrapError::NotAuthority),
            Err(error) => Err(BootstrapError::Authority(error.to_string())),
        }
    }
}

/// Is a name of a certificate good for this host? A wildcard stands for one label.
fn covers(name: &str, host: &str) -> bool {
    if let Ok(address) = host.parse::<IpAddr>() {
        return name.parse() == Ok(address);
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.is_empty() {
        return false;
    }
    match name.strip_prefix("*.") {
        Some(parent) => host
            .split_once('.')
            .is_some_and(|(first, rest)| !first.is_empty() && rest.eq_ignore_ascii_case(parent)),
        None => name.eq_ignore_ascii_case(host),
    }
}

/// The host of a `Host` header or authority, without port and brackets.
pub(crate) fn without_port(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split_once(']').map_or(authority, |(host, _)| host);
    }
    match authority.rsplit_once(':') {
        // More than one colon and no brackets: an IPv6 address by itself.
        Some((host, _)) if !host.contains(':') => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::{covers, without_port};

    #[test]
    fn hosts() {
        for (authority, host) in [
            ("cp.example:5678", "cp.example"),
            ("cp.example", "cp.example"),
            ("10.0.0.1:5678", "10.0.0.1"),
            ("[::1]:5678", "::1"),
            ("[::1]", "::1"),
            ("::1", "::1"),
            ("", ""),
        ] {
            assert_eq!(without_port(authority), host, "{authority}");
        }
    }

    #[test]
    fn names() {
        for (name, host, want) in [
            ("localhost", "LOCALHOST", true),
            ("localhost", "localhost.", true),
            ("*.example", "cp.example", true),
            ("*.example", "a.cp.example", false),
            ("*.example", "example", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("::1", "0:0:0:0:0:0:0:1", true),
            ("*.0.0.1", "127.0.0.1", false),
            ("localhost", "", false),
        ] {
            assert_eq!(covers(name, host), want, "{name} {host}");
        }
    }
}
