//! Global and zones: both ends of their connection.

use std::path::PathBuf;
use std::time::Duration;

use super::{Listen, PublicKey, Secret, ServerTls};

/// The KDS server of a global.
#[derive(Debug, Clone)]
pub struct GlobalKds {
    /// Where.
    pub listen: Listen,
    /// TLS; `None`: plain.
    pub tls: Option<ServerTls>,
    /// Largest message in bytes, both ways.
    pub max_message_size: usize,
    /// How often ZoneInsights are written.
    pub zone_insight_flush_interval: Duration,
    /// Liveness of zones; `None`: off.
    pub zone_health_check: Option<ZoneHealthCheck>,
    /// First pause before a refused resource is sent again.
    pub nack_backoff: Duration,
    /// Prefixes of labels that are not sent to zones.
    pub skip_label_prefixes: Vec<String>,
    /// How zones prove who they are.
    pub authentication: KdsAuthentication,
}

/// How replicas of a global reach each other.
#[derive(Debug, Clone)]
pub struct InterCp {
    /// Where.
    pub listen: Listen,
    /// Host name or address at which the others reach this one; empty: an address of this host.
    pub address: String,
}

/// Liveness of zones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZoneHealthCheck {
    /// How often a zone calls.
    pub poll_interval: Duration,
    /// Silence after which its streams are closed.
    pub timeout: Duration,
}

/// How zones prove who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KdsAuthentication {
    /// Not at all.
    None,
    /// By zone token with scope `cp`.
    ZoneToken {
        /// Check them against keys in secrets.
        use_secrets: bool,
        /// Check them against these keys first.
        public_keys: Vec<PublicKey>,
    },
}

/// The global above a zone.
#[derive(Debug, Clone)]
pub struct GlobalPeer {
    /// Where it is.
    pub address: GlobalAddress,
    /// Authorities that its certificate is checked against; `None`: the system's.
    pub root_ca_file: Option<PathBuf>,
    /// Do not check its certificate.
    pub tls_skip_verify: bool,
    /// Largest message in bytes, both ways.
    pub max_message_size: usize,
    /// First pause before a refused resource is sent again.
    pub nack_backoff: Duration,
    /// Prefixes of labels that are not sent up.
    pub skip_label_prefixes: Vec<String>,
    /// Zone token to present.
    pub token: Option<TokenSource>,
}

/// Address of a global.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlobalAddress {
    /// `grpcs://` as opposed to `grpc://`.
    pub tls: bool,
    /// Host; an IPv6 address is without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl GlobalAddress {
    /// The address as HTTP clients want it: `https://host:port` or `http://host:port`.
    pub fn http_url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        if self.host.contains(':') {
            format!("{scheme}://[{}]:{}", self.host, self.port)
        } else {
            format!("{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// Where a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// The token itself.
    Inline(Secret),
    /// A file, to be read anew for every stream.
    File(PathBuf),
}
