//! The configuration as types: what the binaries work with. Every value is checked.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::telemetry::LogOptions;

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

/// Configuration of `sunbear-global`.
#[derive(Debug, Clone)]
pub struct GlobalConfig {
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
    /// `multizone.global.kds`.
    pub kds: GlobalKds,
    /// `dpServer.authn`: the global issues tokens of proxies.
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

/// Configuration of `sunbear-zone`.
#[derive(Debug, Clone)]
pub struct ZoneConfig {
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
    /// `multizone.zone.name`: a lower-case label of at most 63 characters.
    pub name: String,
    /// `multizone.zone.globalAddress` and `multizone.zone.kds`; `None` for a zone that stands alone.
    pub global: Option<GlobalPeer>,
    /// `multizone.zone.disableOriginLabelValidation`.
    pub disable_origin_label_validation: bool,
    /// `dpServer`.
    pub dp_server: DpServer,
    /// `dpServer.authn`.
    pub proxy_authentication: ProxyAuthentication,
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

/// Where resources are kept.
#[derive(Debug, Clone)]
pub struct Store {
    /// Which store.
    pub kind: StoreKind,
    /// Keys that secrets are encrypted with; `None`: they are stored plain.
    pub secrets: Option<SecretKeys>,
    /// Skip the checks before a delete.
    pub unsafe_delete: bool,
    /// Retries of conflicting writes.
    pub upsert: UpsertRetry,
}

/// Which store.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "one value in a process")]
pub enum StoreKind {
    /// Gone when the process ends.
    Memory,
    /// A file.
    Sqlite {
        /// The file.
        path: PathBuf,
    },
    /// A server.
    Postgres(Postgres),
}

/// Where the keys are that secrets are encrypted with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretKeys {
    /// In a file.
    File(PathBuf),
    /// Here.
    Inline(Secret),
}

/// Connection to Postgres.
#[derive(Debug, Clone)]
pub struct Postgres {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User.
    pub user: String,
    /// Password.
    pub password: Secret,
    /// Database.
    pub db_name: String,
    /// TLS toward the server.
    pub tls: PostgresTls,
    /// Client certificate.
    pub client_certificate: Option<TlsFiles>,
    /// Connections that are kept open.
    pub min_connections: u32,
    /// Most connections at once; `None` is unlimited.
    pub max_connections: Option<u32>,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// Age at which a connection is replaced.
    pub max_lifetime: Duration,
    /// Idle time after which a connection is closed.
    pub idle_timeout: Duration,
}

/// TLS toward Postgres.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PostgresTls {
    /// Plain.
    Disable,
    /// TLS, any certificate.
    VerifyNone,
    /// TLS, certificate of a known authority. `None`: the system's.
    VerifyCa(Option<PathBuf>),
    /// TLS, certificate of a known authority with the server's name. `None`: the system's.
    VerifyFull(Option<PathBuf>),
}

/// Retries of conflicting writes.
#[derive(Debug, Clone, Copy)]
pub struct UpsertRetry {
    /// First pause.
    pub base_backoff: Duration,
    /// How often.
    pub max_times: u32,
    /// Random part of a pause, 0 to 100.
    pub jitter_percent: u8,
}

/// The REST server.
#[derive(Debug, Clone)]
pub struct ApiServer {
    /// Plain HTTP; `None`: off.
    pub http: Option<Listen>,
    /// HTTP over TLS; `None`: off.
    pub https: Option<ApiHttps>,
    /// Serve reads only.
    pub read_only: bool,
    /// Origins that browsers may call from.
    pub cors_allowed_domains: Vec<String>,
    /// Callers from this host are administrators.
    pub localhost_is_admin: bool,
    /// How other callers prove who they are.
    pub authentication: ApiAuthentication,
    /// Create the secret `admin-user-token` at start.
    pub bootstrap_admin_token: bool,
    /// User tokens.
    pub user_tokens: TokenAuthority,
    /// Path that REST is served under; begins with `/`.
    pub base_path: String,
    /// Public address behind a reverse proxy, or empty.
    pub root_url: String,
    /// Web pages; `None`: off.
    pub gui: Option<Gui>,
}

/// REST over TLS.
#[derive(Debug, Clone)]
pub struct ApiHttps {
    /// Where.
    pub listen: Listen,
    /// Certificate and versions.
    pub tls: ServerTls,
    /// Authorities that client certificates are checked against.
    pub client_ca_file: Option<PathBuf>,
    /// Folder of certificates that client certificates are checked against.
    pub client_certs_dir: Option<PathBuf>,
    /// Refuse clients without a certificate.
    pub require_client_cert: bool,
}

/// How callers of REST prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiAuthentication {
    /// By user token.
    Tokens,
    /// Any checked client certificate is an administrator's.
    AdminClientCerts,
}

/// The web pages.
#[derive(Debug, Clone)]
pub struct Gui {
    /// Path that they are served under; begins with `/`.
    pub base_path: String,
    /// Public address behind a reverse proxy, or empty.
    pub root_url: String,
}

/// Issuing and checking of one kind of token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenAuthority {
    /// Serve the endpoint that issues them.
    pub enable_issuer: bool,
    /// Check them against keys in secrets.
    pub use_secrets: bool,
    /// Check them against these keys first.
    pub public_keys: Vec<PublicKey>,
}

/// A static key for tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// Key id in the token's header.
    pub kid: String,
    /// Mesh it is good for; `None`: every one. Only for dataplane tokens.
    pub mesh: Option<String>,
    /// The key.
    pub source: PublicKeySource,
}

/// Where a static key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKeySource {
    /// PEM text.
    Inline(String),
    /// PEM file.
    File(PathBuf),
}

/// Who may do one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Users.
    pub users: BTreeSet<String>,
    /// Groups.
    pub groups: BTreeSet<String>,
}

/// Who may do what with REST.
#[derive(Debug, Clone)]
pub struct Access {
    /// Handle secrets.
    pub admin_resources: Grant,
    /// Issue dataplane tokens.
    pub generate_dp_token: Grant,
    /// Issue user tokens.
    pub generate_user_token: Grant,
    /// Issue zone tokens.
    pub generate_zone_token: Grant,
    /// See the configuration of proxies.
    pub view_config_dump: Grant,
    /// See statistics of proxies.
    pub view_stats: Grant,
    /// See clusters of proxies.
    pub view_clusters: Grant,
    /// See this configuration.
    pub control_plane_metadata: Grant,
}

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

/// The server for proxies.
#[derive(Debug, Clone)]
pub struct DpServer {
    /// Where.
    pub listen: Listen,
    /// Certificate and versions.
    pub tls: ServerTls,
    /// How long open connections may finish when the process stops.
    pub graceful_shutdown_timeout: Duration,
    /// Let proxies read their token from a file for every stream.
    pub reloadable_tokens: bool,
}

/// How proxies prove who they are.
#[derive(Debug, Clone)]
pub struct ProxyAuthentication {
    /// Dataplanes.
    pub dataplane: ProxyAuthenticationKind,
    /// ZoneIngress and ZoneEgress.
    pub zone_proxy: ProxyAuthenticationKind,
    /// Dataplane tokens.
    pub dataplane_tokens: TokenAuthority,
    /// Zone tokens.
    pub zone_tokens: TokenAuthority,
}

/// How one kind of proxy proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyAuthenticationKind {
    /// By dataplane or zone token.
    Token,
    /// By a service account of Kubernetes.
    ServiceAccountToken,
    /// Not at all.
    None,
}

/// What goes into a proxy's bootstrap.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    /// Address of Envoy's admin interface.
    pub admin_address: String,
    /// Port of Envoy's admin interface; `None`: no such interface.
    pub admin_port: Option<u16>,
    /// Its access log.
    pub admin_access_log_path: String,
    /// It listens on a Unix socket.
    pub admin_unix_socket: bool,
    /// Host of the server for proxies; `None`: the one they used for the bootstrap.
    pub xds_host: Option<String>,
    /// Port of the server for proxies.
    pub xds_port: u16,
    /// How long a proxy waits for a connection.
    pub xds_connect_timeout: Duration,
    /// Largest message for proxies with a reloadable token.
    pub xds_max_receive_message_bytes: u32,
    /// Most connections that a gateway's Envoy accepts.
    pub gateway_max_connections: u64,
}

/// Serving of configuration to proxies.
#[derive(Debug, Clone, Copy)]
pub struct XdsServer {
    /// How often insights are written.
    pub status_flush_interval: Duration,
    /// Time between the end of a stream and the removal of its Dataplane.
    pub deregistration_delay: Duration,
    /// Pause after a proxy refused a configuration.
    pub nack_backoff: Duration,
}

/// Removal of proxies that went away.
#[derive(Debug, Clone, Copy)]
pub struct Cleanup {
    /// Time offline after which a Dataplane is removed.
    pub dataplane_age: Duration,
    /// Time offline after which a ZoneIngress or ZoneEgress is removed.
    pub zone_proxy_age: Duration,
}

/// What is created without being asked for.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    /// Not even the Mesh `default`.
    pub skip_mesh_creation: bool,
    /// TrafficRoute and TrafficPermission with every Mesh.
    pub create_mesh_routing_resources: bool,
    /// No HostnameGenerators.
    pub skip_hostname_generators: bool,
}

/// How much history an insight keeps.
#[derive(Debug, Clone, Copy)]
pub struct InsightRetention {
    /// Subscriptions that are kept.
    pub subscription_limit: usize,
    /// Silence after which an open subscription counts as ended.
    pub idle_timeout: Duration,
    /// Drop the details of ended subscriptions. Only for zones.
    pub compact_finished: bool,
}

/// Addresses and names of services.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// Top domain of services.
    pub domain: String,
    /// Range of virtual addresses.
    pub vip_cidr: String,
    /// Give every service a virtual address.
    pub service_vips: bool,
    /// Port at virtual addresses.
    pub service_vip_port: u16,
    /// Range for MeshServices.
    pub mesh_service_cidr: String,
    /// Range for MeshExternalServices.
    pub mesh_external_service_cidr: String,
    /// Range for MeshMultiZoneServices.
    pub mesh_multi_zone_service_cidr: String,
    /// Ranges whose requests gateways treat as internal, in the order given.
    pub known_internal_cidrs: Vec<String>,
}

/// Readiness, liveness and metrics.
#[derive(Debug, Clone)]
pub struct Diagnostics {
    /// Where.
    pub listen: Listen,
    /// TLS; `None`: plain.
    pub tls: Option<ServerTls>,
}
