//! The REST server, and who may do what with it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::{Listen, ServerTls};

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
    /// Callers without credentials may write policies.
    pub anonymous_writes: bool,
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
