//! Who is at the other end of a stream: the node that Envoy sends, parsed once
//! (`spec/dp-server.md` 8.1, 9).

use std::{collections::BTreeMap, fmt, sync::Arc};

use prost_types::{Struct, value};
use sunbear_model::{Kind, ResourceKey, document, rest::Desired};
use sunbear_proto::{
    envoy::config::core::v3::Node as EnvoyNode,
    kuma::mesh::v1alpha1::{EnvoyVersion, KumaDpVersion, Version},
};
use sunbear_xds::ProxyMetadata;

/// Release of Kuma whose proxies we serve; proxies up to two minor versions away count as
/// compatible.
const COMPATIBLE_WITH: (u64, u64) = (2, 14);

/// Minor versions that a proxy may be away from ours.
const MINOR_DISTANCE: u64 = 2;

/// Kinds of proxies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProxyKind {
    /// A sidecar or gateway.
    Dataplane,
    /// Lets other zones' traffic in.
    ZoneIngress,
    /// Lets traffic out of the zone.
    ZoneEgress,
}

impl ProxyKind {
    /// The kind of a proxy type in requests and metadata.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "" | "dataplane" => Some(Self::Dataplane),
            "ingress" => Some(Self::ZoneIngress),
            "egress" => Some(Self::ZoneEgress),
            _ => None,
        }
    }

    /// The proxy type in requests and metadata.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dataplane => "dataplane",
            Self::ZoneIngress => "ingress",
            Self::ZoneEgress => "egress",
        }
    }

    /// Kind of the resource that describes such a proxy.
    pub(crate) fn resource_kind(self) -> Kind {
        match self {
            Self::Dataplane => Kind::DATAPLANE,
            Self::ZoneIngress => Kind::ZONE_INGRESS,
            Self::ZoneEgress => Kind::ZONE_EGRESS,
        }
    }

    /// Kind of the resource that says how such a proxy does.
    pub(crate) fn insight_kind(self) -> Kind {
        match self {
            Self::Dataplane => Kind::DATAPLANE_INSIGHT,
            Self::ZoneIngress => Kind::ZONE_INGRESS_INSIGHT,
            Self::ZoneEgress => Kind::ZONE_EGRESS_INSIGHT,
        }
    }
}

/// Identity of a proxy: there is at most one stream for each.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProxyKey {
    /// What it is.
    pub kind: ProxyKind,
    /// Its mesh; empty for zone proxies.
    pub mesh: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl ProxyKey {
    /// Key of the resource that describes the proxy.
    pub fn resource_key(&self) -> ResourceKey {
        ResourceKey::new(self.kind.resource_kind(), &self.mesh, &self.name)
    }

    /// Key of the resource that says how the proxy does.
    pub fn insight_key(&self) -> ResourceKey {
        ResourceKey::new(self.kind.insight_kind(), &self.mesh, &self.name)
    }

    /// Who writes on behalf of the proxy, for history.
    pub(crate) fn author(&self) -> String {
        match self.kind {
            ProxyKind::Dataplane => format!("dataplane/{self}"),
            ProxyKind::ZoneIngress | ProxyKind::ZoneEgress => {
                format!("{}/{}", self.kind.name(), self.name)
            }
        }
    }
}

impl fmt::Display for ProxyKey {
    // The node id.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.mesh, self.name)
    }
}

/// Why a node is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NodeError {
    #[error("the first request of a stream has to name the node")]
    Missing,
    #[error("the node ID {0:?} should be a combination of \"mesh.name\"")]
    Id(String),
    #[error("unknown proxy type {0:?}")]
    ProxyType(String),
    #[error("proxyId {id} does not match proxy resource {resource}")]
    OtherResource { id: String, resource: String },
}

/// What Envoy says about itself on the first request of a stream.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// As sent; it may not change.
    pub(crate) id: String,
    pub(crate) key: ProxyKey,
    pub(crate) metadata: Struct,
    /// The resource that the proxy brought along: the direct flow.
    pub(crate) resource: Option<Desired>,
    pub(crate) version: Version,
}

impl Node {
    pub(crate) fn parse(node: &EnvoyNode) -> Result<Self, NodeError> {
        let bad_id = || NodeError::Id(node.id.clone());
        // Names may hold dots, meshes may not.
        let (mesh, name) = node.id.split_once('.').ok_or_else(bad_id)?;
        let metadata = node.metadata.clone().unwrap_or_default();
        let proxy_type = text(&metadata, "dataplane.proxyType");
        let kind = ProxyKind::from_name(proxy_type)
            .ok_or_else(|| NodeError::ProxyType(proxy_type.to_owned()))?;
        if name.is_empty() || mesh.is_empty() == (kind == ProxyKind::Dataplane) {
            return Err(bad_id());
        }
        let key = ProxyKey { kind, mesh: mesh.into(), name: name.into() };
        let resource = match text(&metadata, "dataplane.resource") {
            "" => None,
            given => read_resource(given)
                .inspect_err(
                    |error| tracing::warn!(proxy = %key, error, "ignoring the proxy's resource"),
                )
                .ok(),
        };
        if let Some(desired) = &resource {
            let theirs = ResourceKey::new(desired.kind, &desired.mesh, &desired.name);
            if theirs != key.resource_key() {
                return Err(NodeError::OtherResource {
                    id: node.id.clone(),
                    resource: theirs.to_string(),
                });
            }
        }
        let version = version(&metadata);
        Ok(Self { id: node.id.clone(), key, metadata, resource, version })
    }

    /// What the generator wants to know.
    pub(crate) fn proxy_metadata(&self) -> ProxyMetadata {
        ProxyMetadata::from_struct(&self.metadata)
    }
}

/// Reads a resource that a proxy brings along, JSON or YAML.
pub(crate) fn read_resource(text: &str) -> Result<Desired, String> {
    let (documents, errors) = document::parse("dataplaneResource", text, &BTreeMap::new());
    if let Some(error) = errors.first() {
        return Err(error.to_string());
    }
    let [document] = documents.as_slice() else {
        return Err("dataplaneResource: expected one document".to_owned());
    };
    let desired = document.read().map_err(|error| error.to_string())?;
    let kinds = [Kind::DATAPLANE, Kind::ZONE_INGRESS, Kind::ZONE_EGRESS];
    if kinds.contains(&desired.kind) {
        Ok(desired)
    } else {
        Err(format!("dataplaneResource: {} is not a proxy", desired.kind))
    }
}

fn text<'a>(metadata: &'a Struct, key: &str) -> &'a str {
    match metadata.fields.get(key).and_then(|v| v.kind.as_ref()) {
        Some(value::Kind::StringValue(s)) => s,
        _ => "",
    }
}

fn child<'a>(metadata: &'a Struct, key: &str) -> Option<&'a Struct> {
    match metadata.fields.get(key).and_then(|v| v.kind.as_ref()) {
        Some(value::Kind::StructValue(s)) => Some(s),
        _ => None,
    }
}

/// The proxy's versions; blanks where it does not say.
fn version(metadata: &Struct) -> Version {
    const DEPENDENCY: &str = "version.dependencies.";

    let empty = Struct::default();
    let version = child(metadata, "version").unwrap_or(&empty);
    let dp = child(version, "kumaDp").unwrap_or(&empty);
    let envoy = child(version, "envoy").unwrap_or(&empty);
    let dp_version = text(dp, "version");
    let dependencies = child(metadata, "dynamicMetadata")
        .into_iter()
        .flat_map(|m| &m.fields)
        .filter_map(|(key, value)| match &value.kind {
            Some(value::Kind::StringValue(version)) => {
                Some((key.strip_prefix(DEPENDENCY)?.to_owned(), version.clone()))
            }
            _ => None,
        })
        .collect();
    Version {
        kuma_dp: Some(KumaDpVersion {
            version: dp_version.to_owned(),
            git_tag: text(dp, "gitTag").to_owned(),
            git_commit: text(dp, "gitCommit").to_owned(),
            build_date: text(dp, "buildDate").to_owned(),
            kuma_cp_compatible: is_compatible(dp_version),
        }),
        envoy: Some(EnvoyVersion {
            version: text(envoy, "version").to_owned(),
            build: text(envoy, "build").to_owned(),
            kuma_dp_compatible: envoy
                .fields
                .get("kumaDpCompatible")
                .is_some_and(|v| v.kind == Some(value::Kind::BoolValue(true))),
        }),
        dependencies,
    }
}

/// Same major version and not too many minor ones away. What is no version is a build of a
/// developer, who knows.
fn is_compatible(version: &str) -> bool {
    if version.contains("preview") {
        return true;
    }
    let mut parts = version.strip_prefix('v').unwrap_or(version).splitn(3, '.');
    let mut number = || parts.next().and_then(|p| p.parse::<u64>().ok());
    match (number(), number()) {
        (Some(major), Some(minor)) => {
            major == COMPATIBLE_WITH.0 && minor.abs_diff(COMPATIBLE_WITH.1) <= MINOR_DISTANCE
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use prost_types::{Value, value::Kind as V};

    use super::*;

    fn metadata(pairs: &[(&str, V)]) -> Struct {
        Struct {
            fields: pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), Value { kind: Some(v.clone()) }))
                .collect(),
        }
    }

    fn s(text: &str) -> V {
        V::StringValue(text.to_owned())
    }

    fn parse(id: &str, pairs: &[(&str, V)]) -> Result<Node, NodeError> {
        Node::parse(&EnvoyNode {
            id: id.to_owned(),
            metadata: Some(metadata(pairs)),
            ..EnvoyNode::default()
        })
    }

    #[test]
    fn identities() {
        let node = parse("default.edge.with.dots", &[]).unwrap();
        assert_eq!((&*node.key.mesh, &*node.key.name), ("default", "edge.with.dots"));
        let node = parse(".in-1", &[("dataplane.proxyType", s("ingress"))]).unwrap();
        assert_eq!(node.key.kind, ProxyKind::ZoneIngress);
        assert_eq!(node.key.author(), "ingress/in-1");
        for (id, proxy_type) in
            [("nodot", ""), ("m.", ""), (".n", ""), ("m.n", "ingress"), ("m.n", "nonsense")]
        {
            assert!(parse(id, &[("dataplane.proxyType", s(proxy_type))]).is_err(), "{id}");
        }
    }

    #[test]
    fn resources_have_to_fit() {
        let resource = |text: &str| parse("m.a", &[("dataplane.resource", s(text))]);
        let node = resource("{type: Dataplane, mesh: m, name: a, networking: {address: 1.2.3.4}}");
        assert!(node.unwrap().resource.is_some());
        assert_eq!(
            resource("{type: Dataplane, mesh: m, name: b}").unwrap_err().to_string(),
            "proxyId m.a does not match proxy resource type=\"Dataplane\" name=\"b\" mesh=\"m\""
        );
        assert!(resource("{type: ZoneIngress, name: a}").is_err());
        // What cannot be read counts as absent.
        for text in ["{", "[]", "{type: Mesh, name: m}", ""] {
            assert!(resource(text).unwrap().resource.is_none(), "{text}");
        }
    }

    #[test]
    fn versions_tolerate_anything() {
        assert_eq!(parse("m.a", &[]).unwrap().version.kuma_dp.unwrap().version, "");
        let bad = [("version", V::StructValue(metadata(&[("kumaDp", s("x"))])))];
        assert!(parse("m.a", &bad).is_ok());
        let dependencies = [(
            "dynamicMetadata",
            V::StructValue(metadata(&[("version.dependencies.coredns", s("1.0"))])),
        )];
        let version = parse("m.a", &dependencies).unwrap().version;
        assert_eq!(version.dependencies["coredns"], "1.0");
    }

    #[test]
    fn compatibility() {
        for (version, want) in [
            ("2.14.3", true),
            ("2.12.0", true),
            ("2.16.9", true),
            ("2.11.9", false),
            ("2.17.0", false),
            ("1.14.0", false),
            ("unknown", true),
            ("0.0.0-preview.v1", true),
            ("", true),
        ] {
            assert_eq!(is_compatible(version), want, "{version}");
        }
    }
}
