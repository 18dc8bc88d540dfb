//! A stored object: key, labels, spec and what the store adds.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock},
};

use sunbear_proto::kuma::{mesh::v1alpha1 as mesh, system::v1alpha1 as system};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{kind::Kind, label, validation::Path};

/// Identity of an object. Orders by type, mesh, name, which is the order of lists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceKey {
    /// Type.
    pub kind: Kind,
    /// Mesh; empty for types of global scope.
    pub mesh: Arc<str>,
    /// Name, unique per type and mesh.
    pub name: Arc<str>,
}

impl ResourceKey {
    /// A key; the mesh of a type of global scope is dropped.
    pub fn new(kind: Kind, mesh: &str, name: &str) -> Self {
        let mesh = if kind.is_mesh_scoped() { mesh } else { "" };
        Self { kind, mesh: mesh.into(), name: name.into() }
    }
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "type={:?} name={:?} mesh={:?}", self.kind.name(), &*self.name, &*self.mesh)
    }
}

/// Who an object dies with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Never reused id of the owner.
    pub uid: Uuid,
}

/// A spec: its wire bytes, which are the truth (so fields of newer peers survive), and the typed
/// view, decoded once when first asked for.
#[derive(Clone)]
pub struct Spec {
    kind: Kind,
    wire: Arc<[u8]>,
    typed: OnceLock<Typed>,
    /// Fields that were written down empty, where validation tells that from absent. The wire does
    /// not, and neither does anything else.
    given_empty: Option<Arc<[String]>>,
}

/// The typed view of a spec that we interpret.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "each variant is the message of its name")]
pub enum Typed {
    Config(Box<system::Config>),
    Dataplane(Box<mesh::Dataplane>),
    DataplaneInsight(Box<mesh::DataplaneInsight>),
    ExternalService(Box<mesh::ExternalService>),
    Mesh(Box<mesh::Mesh>),
    MeshGateway(Box<mesh::MeshGateway>),
    MeshGatewayRoute(Box<mesh::MeshGatewayRoute>),
    /// Secret and GlobalSecret.
    Secret(Box<system::Secret>),
    Zone(Box<system::Zone>),
    ZoneEgress(Box<mesh::ZoneEgress>),
    ZoneIngress(Box<mesh::ZoneIngress>),
    ZoneInsight(Box<system::ZoneInsight>),
    /// JSON text, parsed.
    Json(Box<serde_json::Value>),
    /// A type that this release stores and syncs without looking inside.
    Opaque,
    /// The bytes are not what their type says; kept, never interpreted.
    Malformed(String),
}

impl Spec {
    /// A spec from its wire bytes.
    pub fn from_wire(kind: Kind, wire: impl Into<Arc<[u8]>>) -> Self {
        Self { kind, wire: wire.into(), typed: OnceLock::new(), given_empty: None }
    }

    /// A spec from a message. The caller gives the message that the kind names.
    pub fn from_message<M: prost::Message>(kind: Kind, message: &M) -> Self {
        Self::from_wire(kind, message.encode_to_vec())
    }

    /// The same spec, with what validation should know of its text.
    pub(crate) fn with_given_empty(mut self, fields: Vec<String>) -> Self {
        self.given_empty = (!fields.is_empty()).then(|| fields.into());
        self
    }

    /// Was the field at this path written down, but empty?
    pub(crate) fn given_empty(&self, path: &Path) -> bool {
        let path = path.as_str();
        self.given_empty.as_ref().is_some_and(|fields| fields.iter().any(|field| field == path))
    }

    /// Wire bytes: protobuf or JSON text, as the kind's codec says.
    pub fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// The wire bytes, shared.
    pub fn wire_arc(&self) -> Arc<[u8]> {
        Arc::clone(&self.wire)
    }

    /// The typed view.
    pub fn typed(&self) -> &Typed {
        self.typed.get_or_init(|| decode(self.kind, &self.wire))
    }
}

impl PartialEq for Spec {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind && self.wire == other.wire
    }
}

impl Eq for Spec {}

impl fmt::Debug for Spec {
    // Never the content: a spec may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spec({}, {} bytes)", self.kind, self.wire.len())
    }
}

fn decode(kind: Kind, wire: &[u8]) -> Typed {
    fn read<M: prost::Message + Default>(wire: &[u8], wrap: impl Fn(Box<M>) -> Typed) -> Typed {
        match M::decode(wire) {
            Ok(message) => wrap(Box::new(message)),
            Err(e) => Typed::Malformed(e.to_string()),
        }
    }
    match kind {
        Kind::CONFIG => read(wire, Typed::Config),
        Kind::DATAPLANE => read(wire, Typed::Dataplane),
        Kind::DATAPLANE_INSIGHT => read(wire, Typed::DataplaneInsight),
        Kind::EXTERNAL_SERVICE => read(wire, Typed::ExternalService),
        Kind::MESH => read(wire, Typed::Mesh),
        Kind::MESH_GATEWAY => read(wire, Typed::MeshGateway),
        Kind::MESH_GATEWAY_ROUTE => read(wire, Typed::MeshGatewayRoute),
        Kind::SECRET | Kind::GLOBAL_SECRET => read(wire, Typed::Secret),
        Kind::ZONE => read(wire, Typed::Zone),
        Kind::ZONE_EGRESS => read(wire, Typed::ZoneEgress),
        Kind::ZONE_INGRESS => read(wire, Typed::ZoneIngress),
        Kind::ZONE_INSIGHT => read(wire, Typed::ZoneInsight),
        kind if kind.is_json() => match serde_json::from_slice(wire) {
            Ok(value) => Typed::Json(Box::new(value)),
            Err(e) => Typed::Malformed(e.to_string()),
        },
        _ => Typed::Opaque,
    }
}

/// An object as the store holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// Identity.
    pub key: ResourceKey,
    /// Never reused; tells a re-created object from the old one.
    pub uid: Uuid,
    /// +1 per update, from 1; for compare-and-swap only.
    pub version: u64,
    /// Revision of the store at the last write.
    pub revision: u64,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Spec.
    pub spec: Spec,
    /// JSON text of the status; only types that have one.
    pub status: Option<Arc<[u8]>>,
    /// Dies with this object.
    pub owner: Option<Owner>,
    /// When it was stored here first.
    pub created_at: OffsetDateTime,
    /// When it was last written here.
    pub modified_at: OffsetDateTime,
}

impl Resource {
    /// The name as the user knows it: without the suffix of a synced copy.
    pub fn display_name(&self) -> &str {
        self.labels.get(label::DISPLAY_NAME).map_or(&self.key.name, String::as_str)
    }

    /// A label's value.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }

    /// The spec as Mesh, if it is one.
    pub fn as_mesh(&self) -> Option<&mesh::Mesh> {
        if let Typed::Mesh(m) = self.spec.typed() { Some(m) } else { None }
    }

    /// The spec as Dataplane, if it is one.
    pub fn as_dataplane(&self) -> Option<&mesh::Dataplane> {
        if let Typed::Dataplane(m) = self.spec.typed() { Some(m) } else { None }
    }

    /// The spec as DataplaneInsight, if it is one.
    pub fn as_dataplane_insight(&self) -> Option<&mesh::DataplaneInsight> {
        if let Typed::DataplaneInsight(m) = self.spec.typed() { Some(m) } else { None }
    }

    /// The spec as MeshGateway, if it is one.
    pub fn as_mesh_gateway(&self) -> Option<&mesh::MeshGateway> {
        if let Typed::MeshGateway(m) = self.spec.typed() { Some(m) } else { None }
    }

    /// The spec as MeshGatewayRoute, if it is one.
    pub fn as_mesh_gateway_route(&self) -> Option<&mesh::MeshGatewayRoute> {
        if let Typed::MeshGatewayRoute(m) = self.spec.typed() { Some(m) } else { None }
    }

    /// The value of a Secret or GlobalSecret.
    pub fn secret_data(&self) -> Option<&[u8]> {
        if let Typed::Secret(m) = self.spec.typed() { m.data.as_deref() } else { None }
    }

    /// The spec as Zone, if it is one.
    pub fn as_zone(&self) -> Option<&system::Zone> {
        if let Typed::Zone(m) = self.spec.typed() { Some(m) } else { None }
    }

    /// The spec as ZoneInsight, if it is one.
    pub fn as_zone_insight(&self) -> Option<&system::ZoneInsight> {
        if let Typed::ZoneInsight(m) = self.spec.typed() { Some(m) } else { None }
    }

    /// The spec as parsed JSON, for the targetRef family.
    pub fn as_json(&self) -> Option<&serde_json::Value> {
        if let Typed::Json(v) = self.spec.typed() { Some(v) } else { None }
    }
}
