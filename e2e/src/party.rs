//! Who takes part, by the names of the services in `docker-compose.yml`.

use std::fmt;

/// The services of every zone.
pub const SERVICES: [&str; 2] = ["frontend", "api"];

/// Something that can fail by itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// The database of the globals.
    Postgres,
    /// A replica of the global control plane, from 1.
    Global(u8),
    /// What stands before the replicas.
    Balancer,
    /// A zone's control plane.
    Zone(String),
    /// A zone's gateway: `sunbear-dp` and Envoy.
    Gateway(String),
    /// A service of a zone.
    Service {
        /// The service.
        service: String,
        /// The zone.
        zone: String,
    },
    /// Whoever sends requests to gateways. Only connections can fail here.
    Client,
}

impl Party {
    /// A zone's control plane.
    pub fn zone(name: &str) -> Self {
        Self::Zone(name.to_owned())
    }

    /// A zone's gateway.
    pub fn gateway(zone: &str) -> Self {
        Self::Gateway(zone.to_owned())
    }

    /// A service of a zone.
    pub fn service(service: &str, zone: &str) -> Self {
        Self::Service { service: service.to_owned(), zone: zone.to_owned() }
    }

    /// Everybody of a zone, in the order of their start.
    pub fn of_zone(zone: &str) -> Vec<Self> {
        let mut all: Vec<_> = SERVICES.iter().map(|s| Self::service(s, zone)).collect();
        all.extend([Self::zone(zone), Self::gateway(zone)]);
        all
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres => f.write_str("postgres"),
            Self::Global(replica) => write!(f, "global-{replica}"),
            Self::Balancer => f.write_str("balancer"),
            Self::Zone(zone) => write!(f, "zone-{zone}"),
            Self::Gateway(zone) => write!(f, "gateway-{zone}"),
            Self::Service { service, zone } => write!(f, "{service}-{zone}"),
            Self::Client => f.write_str("client"),
        }
    }
}
