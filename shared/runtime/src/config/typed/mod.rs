//! The configuration as types: what the binaries work with. Every value is checked.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::telemetry::LogOptions;

mod api;
mod multizone;
mod store;
mod zone;

pub use api::*;
pub use multizone::*;
pub use store::*;
pub use zone::*;

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself; never log it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(super::settings::MASK)
    }
}

/// Role of a control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Above zones.
    Global,
    /// Serves proxies; with or without a global above it.
    Zone,
}

impl Mode {
    /// Kuma's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Global => "global",
            Mode::Zone => "zone",
        }
    }
}

/// Where a control plane runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeploymentEnvironment {
    /// On machines.
    Universal,
    /// In a cluster.
    Kubernetes,
}

/// What global and zone have in common.
#[derive(Debug, Clone)]
pub struct Common {
    /// `environment`.
    pub environment: DeploymentEnvironment,
    /// `general`.
    pub general: General,
    /// `log`.
    pub log: LogOptions,
    /// `store`.
    pub store: Store,
    /// `apiServer`.
    pub api: ApiServer,
    /// `access.static`.
    pub access: Access,
    /// `dpServer.authn`: who checks tokens of proxies, and who issues them.
    pub proxy_authentication: ProxyAuthentication,
    /// `defaults`.
    pub defaults: Defaults,
    /// `metrics.zone`.
    pub zone_insights: InsightRetention,
    /// `metrics.dataplane`.
    pub dataplane_insights: InsightRetention,
    /// `ipam` and `dnsServer`.
    pub addresses: Addresses,
    /// `diagnostics`.
    pub diagnostics: Diagnostics,
}

/// Configuration of `sunbear-global`.
#[derive(Debug, Clone)]
pub struct GlobalConfig {
    /// What a zone has too.
    pub common: Common,
    /// `multizone.global.kds`.
    pub kds: GlobalKds,
    /// `interCp`.
    pub inter_cp: InterCp,
}

/// Configuration of `sunbear-zone`.
#[derive(Debug, Clone)]
pub struct ZoneConfig {
    /// What a global has too.
    pub common: Common,
    /// `multizone.zone.name`: a lower-case label of at most 63 characters.
    pub name: String,
    /// `multizone.zone.globalAddress` and `multizone.zone.kds`; `None` for a zone that stands alone.
    pub global: Option<GlobalPeer>,
    /// `multizone.zone.disableOriginLabelValidation`.
    pub disable_origin_label_validation: bool,
    /// `dpServer`.
    pub dp_server: DpServer,
    /// `bootstrapServer.params`, `proxy.gateway`.
    pub bootstrap: Bootstrap,
    /// `xdsServer`.
    pub xds: XdsServer,
    /// `runtime.universal`.
    pub cleanup: Cleanup,
    /// `experimental.ingressTagFilters`: prefixes of the only tags that are advertised; empty: all.
    pub ingress_tag_filters: Vec<String>,
    /// `experimental.exposeZoneProxyMetrics`.
    pub expose_zone_proxy_metrics: bool,
    /// `meshService.deletionGracePeriod`.
    pub mesh_service_deletion_grace: Duration,
}

/// What every part needs.
#[derive(Debug, Clone)]
pub struct General {
    /// Folder for generated certificates and the SQLite file. It may not exist yet.
    pub work_dir: PathBuf,
    /// First pause before a failed component starts again.
    pub restart_base_backoff: Duration,
    /// Longest pause before a failed component starts again.
    pub restart_max_backoff: Duration,
}

/// A certificate and its key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain, leaf first.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// Lowest TLS version of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

/// How a server speaks TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// Files to serve; `None`: the self-signed pair in the work folder.
    pub files: Option<TlsFiles>,
    /// Lowest version.
    pub min_version: TlsVersion,
}

/// An address to listen on, with the key that set the port, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Address of the interface; empty: all, IPv6 too.
    pub interface: String,
    /// Port; 0: any free one.
    pub port: u16,
    /// Configuration key of the port.
    pub key: &'static str,
}

/// Readiness, liveness and metrics.
#[derive(Debug, Clone)]
pub struct Diagnostics {
    /// Where.
    pub listen: Listen,
    /// TLS; `None`: plain.
    pub tls: Option<ServerTls>,
}
