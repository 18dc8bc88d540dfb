//! What the server is told by the binary.

use std::{fmt, net::IpAddr, time::Duration};

/// How proxies of one kind prove who they are (`spec/dp-server.md` 7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthType {
    /// With a token: a dataplane token for Dataplanes, a zone token for zone proxies.
    Token,
    /// Not at all.
    None,
}

/// A public key that verifies tokens besides those in Secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// Id that a token's header names.
    pub kid: String,
    /// Only for Dataplanes of this mesh; empty for all. Zone tokens do not look at it.
    pub mesh: String,
    /// PEM.
    pub pem: String,
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({:?}, mesh {:?})", self.kid, self.mesh)
    }
}

/// How tokens of one kind are checked.
#[derive(Debug, Clone)]
pub struct TokenSettings {
    /// Whether they are.
    pub auth: AuthType,
    /// Look for signing keys in Secrets (Dataplanes) or GlobalSecrets (zone proxies).
    pub use_secrets: bool,
    /// Further keys.
    pub public_keys: Vec<PublicKey>,
}

impl Default for TokenSettings {
    fn default() -> Self {
        Self { auth: AuthType::Token, use_secrets: true, public_keys: Vec::new() }
    }
}

/// Parameters of the bootstrap document (`bootstrapServer.params`).
#[derive(Debug, Clone)]
pub struct BootstrapParams {
    /// Port of Envoy's admin interface unless the Dataplane names one; 0 turns it off.
    pub admin_port: u16,
    /// Address of the admin interface when it is on TCP, and of the admin listener.
    pub admin_address: IpAddr,
    /// Access log of the admin interface; empty for none.
    pub admin_access_log_path: String,
    /// Put the admin interface on a Unix socket in the proxy's work folder, if it has one.
    pub envoy_admin_unix_socket: bool,
    /// Host that proxies connect to for xDS; empty for the one that they asked for the bootstrap.
    pub xds_host: String,
    /// Port that proxies connect to for xDS.
    pub xds_port: u16,
    /// Envoy's timeout for that connection.
    pub xds_connect_timeout: Duration,
    /// Global limit of downstream connections of a gateway.
    pub global_downstream_max_connections: u64,
}

impl Default for BootstrapParams {
    fn default() -> Self {
        Self {
            admin_port: 9901,
            admin_address: IpAddr::from([127, 0, 0, 1]),
            admin_access_log_path: "/dev/null".to_owned(),
            envoy_admin_unix_socket: true,
            xds_host: String::new(),
            xds_port: 5678,
            xds_connect_timeout: Duration::from_secs(1),
            global_downstream_max_connections: 50_000,
        }
    }
}

/// All settings of the server.
#[derive(Debug, Clone)]
pub struct DpServerConfig {
    /// Name of this zone.
    pub zone: String,
    /// This process; it names the writer of insights.
    pub instance_id: String,
    /// The zone has a global control plane, so zone tokens are checked with the synced public
    /// keys, not the signing keys.
    pub federated: bool,
    /// Content of the server's certificate file, PEM. It is handed out as the CA to proxies that
    /// bring none. See [`crate::DpServer::set_server_certificate`] for later ones.
    pub server_certificate: String,
    /// Tokens of Dataplanes.
    pub dataplane_tokens: TokenSettings,
    /// Tokens of zone ingresses and egresses.
    pub zone_tokens: TokenSettings,
    /// Bootstrap documents.
    pub bootstrap: BootstrapParams,
    /// Settings of the generator.
    pub xds: sunbear_xds::Settings,
    /// Pause of a type's responses after a rejection.
    pub nack_backoff: Duration,
    /// Least time between two writes of one insight, but for its beginning and end.
    pub status_flush_interval: Duration,
    /// How often an open subscription shows that its control plane lives.
    pub generation_interval: Duration,
    /// How long a Dataplane of the direct flow outlives its stream.
    pub deregistration_delay: Duration,
}

impl DpServerConfig {
    /// Kuma's defaults, for a zone without a global.
    pub fn new(zone: &str, instance_id: &str, server_certificate: &str) -> Self {
        Self {
            zone: zone.to_owned(),
            instance_id: instance_id.to_owned(),
            federated: false,
            server_certificate: server_certificate.to_owned(),
            dataplane_tokens: TokenSettings::default(),
            zone_tokens: TokenSettings::default(),
            bootstrap: BootstrapParams::default(),
            xds: sunbear_xds::Settings { zone: zone.to_owned(), ..Default::default() },
            nack_backoff: Duration::from_secs(5),
            status_flush_interval: Duration::from_secs(10),
            generation_interval: Duration::from_secs(150),
            deregistration_delay: Duration::from_secs(10),
        }
    }
}
