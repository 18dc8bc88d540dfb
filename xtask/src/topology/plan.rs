//! Who listens where.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, bail};

use super::SERVICES;

/// `kuma.io/service` of the gateways in `docs/quickstart`.
pub(super) const GATEWAY_SERVICE: &str = "edge-gateway";

/// Ports from the base that each zone has for itself; the global has the first.
const BLOCK: u16 = 10;

/// Addresses of everything in a topology.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The global control plane.
    pub global: Global,
    /// The zones in the order of the settings.
    pub zones: Vec<Zone>,
}

/// Ports of the global, on all addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Global {
    /// The HTTP API.
    pub http: u16,
    /// The same with TLS.
    pub https: u16,
    /// What zones connect to.
    pub kds: u16,
    /// Health and metrics.
    pub diagnostics: u16,
}

/// A zone: its control plane's ports, on all addresses, and what is on the zone's own address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// The zone's name.
    pub name: String,
    /// The loopback address of its services and gateway.
    pub address: Ipv4Addr,
    /// The HTTP API.
    pub http: u16,
    /// The same with TLS.
    pub https: u16,
    /// What proxies connect to.
    pub dp_server: u16,
    /// Health and metrics.
    pub diagnostics: u16,
    /// Envoy's admin port, on the zone's address.
    pub admin: u16,
    /// The readiness of `sunbear-dp`, on 127.0.0.1.
    pub readiness: u16,
    /// Where clients reach the gateway.
    pub gateway: SocketAddr,
    /// The services' names and addresses.
    pub services: Vec<(String, SocketAddr)>,
}

impl Plan {
    /// Global at `base`, each zone a block further.
    pub fn new(base: u16, gateway_port: u16, zones: &[String]) -> Result<Self> {
        let blocks = u16::try_from(zones.len() + 1)?;
        let last = blocks
            .checked_mul(BLOCK)
            .and_then(|ports| base.checked_add(ports))
            .with_context(|| format!("{base} is too high a base for {blocks} blocks of ports"))?;
        if base == 0 || (base..last).contains(&gateway_port) {
            bail!("ports {base} to {last} are no good with gateways on {gateway_port}");
        }
        let global = Global { http: base, https: base + 1, kds: base + 2, diagnostics: base + 3 };
        let zones = zones
            .iter()
            .zip(2..=254)
            .map(|(name, host)| {
                let address = Ipv4Addr::new(127, 0, 0, host);
                let on_zone = |port| SocketAddr::new(IpAddr::V4(address), port);
                let first = base + BLOCK * u16::from(host - 1);
                Zone {
                    name: name.clone(),
                    address,
                    http: first,
                    https: first + 1,
                    dp_server: first + 2,
                    diagnostics: first + 3,
                    admin: first + 4,
                    readiness: first + 5,
                    gateway: on_zone(gateway_port),
                    services: SERVICES
                        .iter()
                        .zip(first + 6..)
                        .map(|(service, port)| ((*service).to_owned(), on_zone(port)))
                        .collect(),
                }
            })
            .collect();
        Ok(Self { global, zones })
    }

    /// Everything that has to be free, with a name.
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        let everywhere = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
        let Global { http, https, kds, diagnostics } = self.global;
        let mut all = vec![
            ("global API".to_owned(), everywhere(http)),
            ("global API, TLS".to_owned(), everywhere(https)),
            ("global KDS".to_owned(), everywhere(kds)),
            ("global diagnostics".to_owned(), everywhere(diagnostics)),
        ];
        for zone in &self.zones {
            let name = &zone.name;
            let on_zone = |port| SocketAddr::new(IpAddr::V4(zone.address), port);
            let home = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
            all.extend([
                (format!("{name} API"), everywhere(zone.http)),
                (format!("{name} API, TLS"), everywhere(zone.https)),
                (format!("{name} proxies' server"), everywhere(zone.dp_server)),
                (format!("{name} diagnostics"), everywhere(zone.diagnostics)),
                (format!("{name} gateway admin"), on_zone(zone.admin)),
                (format!("{name} gateway readiness"), home(zone.readiness)),
                (format!("{name} gateway"), zone.gateway),
            ]);
            all.extend(zone.services.iter().map(|(s, a)| (format!("{s} in {name}"), *a)));
        }
        all
    }
}

impl Zone {
    /// The name of its gateway's Dataplane.
    pub fn gateway_name(&self) -> String {
        format!("gateway-{}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn zones(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("zone-{n}")).collect()
    }

    #[test]
    fn no_two_share_a_port_but_the_gateways() {
        let plan = Plan::new(20_000, 8080, &zones(20)).unwrap();
        let ports: Vec<_> =
            plan.addresses().iter().map(|(_, a)| a.port()).filter(|p| *p != 8080).collect();
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), ports.len());
        let gateways: BTreeSet<_> = plan.zones.iter().map(|z| z.gateway).collect();
        assert_eq!(gateways.len(), 20);
        assert_eq!(plan.zones[0].gateway.to_string(), "127.0.0.2:8080");
    }

    #[test]
    fn impossible_ports_are_refused() {
        assert!(Plan::new(65_510, 8080, &zones(2)).is_err());
        assert!(Plan::new(8070, 8080, &zones(2)).is_err());
        assert!(Plan::new(0, 8080, &zones(2)).is_err());
        assert!(Plan::new(65_500, 8080, &zones(2)).is_ok());
    }
}
