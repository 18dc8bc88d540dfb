//! The `Node` of a first request: who the peer is and what it can do (`spec/kds.md` 1.7).

use std::collections::{BTreeMap, BTreeSet};

use prost_types::{ListValue, Struct, Value, value::Kind as V};
use serde_json::json;
use sunbear_proto::{
    envoy::config::core::v3::Node,
    kuma::system::v1alpha1::{KumaCpVersion, Version},
};

use crate::NODE_FEATURES;

/// What one side says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name of the zone; the global too uses the zone's name.
    pub id: String,
    /// Instance of the control plane that holds the stream.
    pub instance_id: String,
    /// Version that peers compare with their own.
    pub version: String,
    /// The whole configuration as JSON text, secrets masked; empty from a global.
    pub config: String,
}

impl Identity {
    /// The node of a first request.
    pub fn to_node(&self) -> Node {
        let text = |s: &str| Value { kind: Some(V::StringValue(s.to_owned())) };
        let mut build = BTreeMap::new();
        for key in ["version", "gitTag"] {
            build.insert(key.to_owned(), text(&self.version));
        }
        let version = BTreeMap::from([(
            "kumaCp".to_owned(),
            Value { kind: Some(V::StructValue(Struct { fields: build })) },
        )]);
        let features = NODE_FEATURES.iter().map(|f| text(f)).collect();
        let fields = BTreeMap::from([
            (
                "version".to_owned(),
                Value { kind: Some(V::StructValue(Struct { fields: version })) },
            ),
            ("config".to_owned(), text(&self.config)),
            ("control-plane-id".to_owned(), text(&self.instance_id)),
            (
                "features".to_owned(),
                Value { kind: Some(V::ListValue(ListValue { values: features })) },
            ),
        ]);
        Node { id: self.id.clone(), metadata: Some(Struct { fields }), ..Node::default() }
    }

    /// The node of an ACK or NACK.
    pub fn to_short_node(&self) -> Node {
        Node { id: self.id.clone(), ..Node::default() }
    }
}

/// What a first request's node told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerNode {
    /// Name that the node claims.
    pub id: String,
    /// Instance of the peer's control plane.
    pub instance_id: String,
    /// What the peer can do.
    pub features: BTreeSet<String>,
    /// The peer's configuration, JSON text.
    pub config: String,
    /// The peer's build.
    pub version: Version,
}

impl PeerNode {
    /// Reads a node, tolerating anything.
    pub fn from_node(node: &Node) -> Self {
        let field = |name: &str| {
            node.metadata.as_ref().and_then(|m| m.fields.get(name)).and_then(|v| v.kind.as_ref())
        };
        let text = |name: &str| match field(name) {
            Some(V::StringValue(s)) => s.clone(),
            _ => String::new(),
        };
        let features = match field("features") {
            Some(V::ListValue(list)) => list
                .values
                .iter()
                .filter_map(|v| match &v.kind {
                    Some(V::StringValue(s)) => Some(s.clone()),
                    _ => None,
                })
                .collect(),
            _ => BTreeSet::new(),
        };
        let mut version = KumaCpVersion::default();
        if let Some(V::StructValue(s)) = field("version")
            && let Some(V::StructValue(cp)) = s.fields.get("kumaCp").and_then(|v| v.kind.as_ref())
        {
            let get = |name: &str| match cp.fields.get(name).and_then(|v| v.kind.as_ref()) {
                Some(V::StringValue(s)) => s.clone(),
                _ => String::new(),
            };
            version.version = get("version");
            version.git_tag = get("gitTag");
            version.git_commit = get("gitCommit");
            version.build_date = get("buildDate");
        }
        Self {
            id: node.id.clone(),
            instance_id: text("control-plane-id"),
            features,
            config: text("config"),
            version: Version { kuma_cp: Some(version) },
        }
    }
}

/// Same major version and minors at most two apart; what does not parse is taken as compatible.
pub fn compatible(zone: &str, global: &str) -> bool {
    fn parse(v: &str) -> Option<(u64, u64)> {
        let mut parts = v.split('.');
        let pair = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        parts.next()?.parse::<u64>().ok()?;
        Some(pair)
    }
    match (parse(zone), parse(global)) {
        (Some(z), Some(g)) => z.0 == g.0 && z.1.abs_diff(g.1) <= 2,
        _ => true,
    }
}

/// The least configuration that a global wants to read, for tools without a whole one.
pub fn minimal_config(zone: &str, global_address: &str) -> String {
    json!({
        "mode": "zone",
        "environment": "universal",
        "store": {"type": "memory"},
        "multizone": {"zone": {"name": zone, "globalAddress": global_address}},
    })
    .to_string()
}
