//! What a zone does for its proxies, and resources and their upkeep.

use std::time::Duration;

use super::{Listen, ServerTls, TokenAuthority};

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
