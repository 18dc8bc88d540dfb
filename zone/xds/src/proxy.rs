//! The proxy that is generated for, and the settings of the zone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use prost_types::{Struct, Value, value::Kind};

/// A proxy: a Dataplane by mesh and name, and what its Envoy said about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxy {
    /// Mesh of the Dataplane.
    pub mesh: String,
    /// Name of the Dataplane.
    pub name: String,
    /// From the node metadata.
    pub metadata: ProxyMetadata,
}

/// The node metadata that generation depends on (Kuma: pkg/core/xds/metadata.go).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyMetadata {
    /// Envoy's admin port; 0 when the admin interface is off.
    pub admin_port: u16,
    /// Envoy's admin address as the proxy gave it; may be empty.
    pub admin_address: String,
    /// Envoy's admin Unix socket; empty when it listens on TCP.
    pub admin_socket_path: String,
    /// Port of the readiness reporter on loopback; 0 if there is none.
    pub readiness_port: u16,
    /// Features that the proxy's agent announced.
    pub features: BTreeSet<String>,
    /// Work folder of the proxy's agent; may be empty.
    pub work_dir: String,
    /// The host can do IPv6. Missing means yes.
    pub ipv6_enabled: bool,
    /// The Dataplane text that the proxy's agent brought along; empty if it brought none.
    pub resource: String,
    /// Free key-value pairs for templates of Dataplanes.
    pub dynamic: BTreeMap<String, String>,
}

impl Default for ProxyMetadata {
    fn default() -> Self {
        Self {
            admin_port: 0,
            admin_address: String::new(),
            admin_socket_path: String::new(),
            readiness_port: 0,
            features: BTreeSet::new(),
            work_dir: String::new(),
            ipv6_enabled: true,
            resource: String::new(),
            dynamic: BTreeMap::new(),
        }
    }
}

impl ProxyMetadata {
    /// Reads node metadata. Keys hold dots and are flat; ports are decimal text. Whatever does not
    /// have the expected form counts as missing, because this comes from outside.
    pub fn from_struct(metadata: &Struct) -> Self {
        let text = |key: &str| match metadata.fields.get(key).and_then(|v| v.kind.as_ref()) {
            Some(Kind::StringValue(s)) => s.clone(),
            _ => String::new(),
        };
        let port = |key: &str| match metadata.fields.get(key).and_then(|v| v.kind.as_ref()) {
            Some(Kind::StringValue(s)) => s.parse().unwrap_or(0),
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "whole and in range"
            )]
            Some(Kind::NumberValue(n)) if n.fract() == 0.0 && (0.0..65536.0).contains(n) => {
                *n as u16
            }
            _ => 0,
        };
        let features = match metadata.fields.get("features").and_then(|v| v.kind.as_ref()) {
            Some(Kind::ListValue(list)) => list.values.iter().filter_map(as_text).collect(),
            _ => BTreeSet::new(),
        };
        let dynamic = match metadata.fields.get("dynamicMetadata").and_then(|v| v.kind.as_ref()) {
            Some(Kind::StructValue(fields)) => {
                fields.fields.iter().filter_map(|(k, v)| Some((k.clone(), as_text(v)?))).collect()
            }
            _ => BTreeMap::new(),
        };
        let ipv6_enabled = match metadata.fields.get("ipv6Enabled").and_then(|v| v.kind.as_ref()) {
            Some(Kind::BoolValue(b)) => *b,
            _ => true,
        };
        Self {
            admin_port: port("dataplane.admin.port"),
            admin_address: text("dataplane.admin.address"),
            admin_socket_path: text("dataplane.admin.socketPath"),
            readiness_port: port("dataplane.readinessReporter.port"),
            features,
            work_dir: text("workdir"),
            ipv6_enabled,
            resource: text("dataplane.resource"),
            dynamic,
        }
    }
}

fn as_text(value: &Value) -> Option<String> {
    match value.kind.as_ref() {
        Some(Kind::StringValue(s)) => Some(s.clone()),
        _ => None,
    }
}

/// What the zone's configuration says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Name of the zone.
    pub zone: String,
    /// Networks whose addresses count as internal clients, as `address/length`, in order. Empty:
    /// the two loopback ones alone.
    pub internal_cidrs: Vec<String>,
    /// What the Envoy admin listener presents and trusts; without it that listener serves
    /// readiness only.
    pub admin_tls: Option<AdminTls>,
    /// Leaves FaultInjection policies without effect on gateways, as in Kuma.
    pub ignore_fault_injections: bool,
}

/// Certificates of the listener through which the control plane reaches a proxy's admin interface.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminTls {
    /// CA that signs both sides, PEM.
    pub ca: Vec<u8>,
    /// Certificate that proxies present, PEM.
    pub certificate: Vec<u8>,
    /// Its key, PEM.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for AdminTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminTls(..)")
    }
}

/// Is this text an IP address?
pub(crate) fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use prost_types::{ListValue, Struct, Value, value::Kind};

    use super::ProxyMetadata;

    fn text(s: &str) -> Kind {
        Kind::StringValue(s.to_owned())
    }

    fn read(fields: Vec<(&str, Kind)>) -> ProxyMetadata {
        let fields = fields.into_iter().map(|(k, v)| (k.to_owned(), Value { kind: Some(v) }));
        ProxyMetadata::from_struct(&Struct { fields: fields.collect() })
    }

    #[test]
    fn metadata() {
        let features = ListValue { values: vec![Value { kind: Some(text("f")) }] };
        let got = read(vec![
            ("dataplane.admin.port", text("9901")),
            ("dataplane.admin.socketPath", text("/run/a.sock")),
            ("dataplane.readinessReporter.port", text("9902")),
            ("features", Kind::ListValue(features)),
            ("ipv6Enabled", Kind::BoolValue(false)),
            ("workdir", text("/tmp")),
        ]);
        assert_eq!((got.admin_port, got.readiness_port), (9901, 9902));
        assert_eq!((&*got.admin_socket_path, &*got.work_dir), ("/run/a.sock", "/tmp"));
        assert!(got.features.contains("f"));
        assert!(!got.ipv6_enabled);
    }

    #[test]
    fn nonsense_counts_as_missing() {
        assert_eq!(read(vec![]), ProxyMetadata::default());
        let got = read(vec![
            ("dataplane.admin.port", text("99999")),
            ("dataplane.readinessReporter.port", Kind::NumberValue(f64::NAN)),
            ("features", text("f")),
            ("ipv6Enabled", text("no")),
        ]);
        assert_eq!(got, ProxyMetadata::default());
    }
}
