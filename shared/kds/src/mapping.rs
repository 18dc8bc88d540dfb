//! Who sees what, and how a resource changes on the way (`spec/kds.md` 4).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use prost::Message as _;
use serde_json::Value;
use sunbear_model::{Kind, Resource, ResourceKey, Spec, Typed, label, name};
use sunbear_proto::kuma::mesh::v1alpha1 as mesh;
use sunbear_store::Snapshot;

use crate::{
    FEATURE_HASH_SUFFIX,
    wire::{self, Received, WireResource},
};

/// Which side sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// A global towards its zones.
    Global,
    /// The zone of this name towards its global.
    Zone(String),
}

/// An encoded resource together with who may get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The bytes.
    pub wire: WireResource,
    /// The same without hash suffix, for zones that do not know it; absent where equal.
    plain: Option<WireResource>,
    audience: Audience,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Audience {
    /// Every peer.
    All,
    /// Zones with the feature `optional-top-level-target-ref`.
    TargetRefOptional,
    /// Zones with the feature `hg-mz-selector`.
    MultiZoneSelector,
    /// Zones other than the origin, while the origin is enabled.
    OtherZones {
        origin: String,
        /// Producer policies: need a feature.
        policy: bool,
        /// A policy without top-level target: needs a feature.
        targetless: bool,
        /// Bound to one zone by its target.
        only_zone: Option<String>,
    },
}

/// What a sender knows of its peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Zone name, or `global`.
    pub name: String,
    /// Features of the peer's node.
    pub features: BTreeSet<String>,
}

impl Outgoing {
    /// The form for this peer, or `None` if it must not see the resource. `enabled` answers for
    /// zones; a zone that cannot be read counts as enabled.
    pub fn for_peer(&self, peer: &Peer, enabled: impl Fn(&str) -> bool) -> Option<&WireResource> {
        let has = |feature: &str| peer.features.contains(feature);
        let visible = match &self.audience {
            Audience::All => true,
            Audience::TargetRefOptional => has("optional-top-level-target-ref"),
            Audience::MultiZoneSelector => has("hg-mz-selector"),
            Audience::OtherZones { origin, policy, targetless, only_zone } => {
                *origin != peer.name
                    && (!policy || has("producer-policy-flow"))
                    && (!targetless || has("optional-top-level-target-ref"))
                    && only_zone.as_ref().is_none_or(|z| *z == peer.name)
                    && enabled(origin)
            }
        };
        if !visible {
            return None;
        }
        match &self.plain {
            Some(plain) if !has(FEATURE_HASH_SUFFIX) => Some(plain),
            _ => Some(&self.wire),
        }
    }

    /// Depends on whether its zone of origin is enabled.
    pub fn crosses_zones(&self) -> bool {
        matches!(self.audience, Audience::OtherZones { .. })
    }
}

/// Is the zone of this name enabled? Absent zones count as enabled.
pub fn zone_enabled(snapshot: &Snapshot, zone: &str) -> bool {
    snapshot
        .get(&ResourceKey::new(Kind::ZONE, "", zone))
        .and_then(|z| z.as_zone().and_then(|z| z.enabled))
        .unwrap_or(true)
}

/// Filters and encodes resources, each once per change, whatever the number of streams.
#[derive(Debug)]
pub struct Encoder {
    role: Role,
    /// By key: the revision that was encoded, and the result.
    cache: Mutex<HashMap<ResourceKey, (u64, Option<Arc<Outgoing>>)>>,
}

impl Encoder {
    /// An encoder for one side.
    pub fn new(role: Role) -> Self {
        Self { role, cache: Mutex::default() }
    }

    /// The side that it encodes for.
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// The types that this side sends.
    pub fn sends(&self, kind: Kind) -> bool {
        match self.role {
            Role::Global => kind.sent_to_zones(),
            Role::Zone(_) => kind.sent_to_global(),
        }
    }

    /// The wire form, or `None` if nobody gets it.
    pub fn outgoing(&self, resource: &Resource) -> Option<Arc<Outgoing>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((revision, outgoing)) = cache.get(&resource.key)
            && *revision == resource.revision
        {
            return outgoing.clone();
        }
        let outgoing = match &self.role {
            Role::Global => to_zones(resource),
            Role::Zone(zone) => to_global(resource, zone),
        }
        .map(Arc::new);
        cache.insert(resource.key.clone(), (resource.revision, outgoing.clone()));
        outgoing
    }

    /// Drops the cached form of a deleted resource.
    pub fn forget(&self, key: &ResourceKey) {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

const INTERNAL_GLOBAL_SECRETS: [&str; 4] =
    ["envoy-admin-ca", "admin-user-token", "inter-cp-ca", "user-token-revocations"];
const ZONE_KEY_PREFIX: &str = "zone-token-signing-key";
const ZONE_PUBLIC_KEY_PREFIX: &str = "zone-token-signing-public-key";

/// Global to zones: filter 4.3, then map.
fn to_zones(resource: &Resource) -> Option<Outgoing> {
    let kind = resource.key.kind;
    let labels = &resource.labels;
    if !kind.sent_to_zones() || resource.label(label::KDS_SYNC) == Some("disabled") {
        return None;
    }
    if kind == Kind::CONFIG && &*resource.key.name != "kuma-cluster-id" {
        return None;
    }
    if kind == Kind::GLOBAL_SECRET
        && (INTERNAL_GLOBAL_SECRETS.contains(&&*resource.key.name)
            || resource.key.name.starts_with("user-token-signing-key"))
    {
        return None;
    }
    let json_policy = kind.is_json() && kind.row().policy;
    let targetless = json_policy && resource.as_json().is_none_or(|s| s.get("targetRef").is_none());
    let local = is_origin(labels, label::ORIGIN_GLOBAL);
    let audience = if local && kind.row().global_to_zone {
        if targetless {
            Audience::TargetRefOptional
        } else if kind.name() == "HostnameGenerator" && selects_multi_zone(resource) {
            Audience::MultiZoneSelector
        } else {
            Audience::All
        }
    } else if !local && kind.row().across_zones {
        if json_policy && !is_producer(resource) {
            return None;
        }
        let origin = labels
            .get(label::ZONE)
            .cloned()
            .unwrap_or_else(|| resource.key.name.split('.').next().unwrap_or_default().to_owned());
        Audience::OtherZones {
            origin,
            policy: json_policy,
            targetless,
            only_zone: json_policy.then(|| bound_zone(resource)).flatten(),
        }
    } else {
        return None;
    };

    let mut labels = labels.clone();
    labels.insert(label::ORIGIN.to_owned(), label::ORIGIN_GLOBAL.to_owned());
    let mut wire_name = resource.key.name.to_string();
    let mut spec = resource.spec.wire_arc();
    if kind == Kind::GLOBAL_SECRET
        && let Some(serial) = wire_name.strip_prefix(ZONE_KEY_PREFIX)
    {
        // Zones check tokens with the public half; the private one never leaves.
        let public = sunbear_security::signing_key::public_pem(resource.secret_data()?).ok()?;
        let message =
            sunbear_proto::kuma::system::v1alpha1::Secret { data: Some(public.into_bytes()) };
        spec = message.encode_to_vec().into();
        labels.entry(label::DISPLAY_NAME.to_owned()).or_insert_with(|| wire_name.clone());
        wire_name = format!("{ZONE_PUBLIC_KEY_PREFIX}{serial}");
    }
    // Each control plane computes the status of its own copy.
    let status: Option<&[u8]> = kind.has_status().then_some(b"{}");
    let encode = |name: &str, labels: &BTreeMap<String, String>| {
        wire::encode(kind, &resource.key.mesh, name, labels, &spec, status)
    };
    let (wire, plain) = if kind.row().hashed {
        let plain = encode(&wire_name, &labels);
        let hashed = name::hashed_for_sync(&resource.key.mesh, &wire_name, &labels);
        labels.entry(label::DISPLAY_NAME.to_owned()).or_insert(wire_name);
        (encode(&hashed, &labels), Some(plain))
    } else {
        (encode(&wire_name, &labels), None)
    };
    Some(Outgoing { wire, plain, audience })
}

/// Zone to global: filter and map 4.4.
fn to_global(resource: &Resource, zone: &str) -> Option<Outgoing> {
    let kind = resource.key.kind;
    if !kind.sent_to_global()
        || resource.label(label::KDS_SYNC) == Some("disabled")
        || !is_origin(&resource.labels, label::ORIGIN_ZONE)
    {
        return None;
    }
    let mut labels = resource.labels.clone();
    labels.insert(label::ORIGIN.to_owned(), label::ORIGIN_ZONE.to_owned());
    labels.insert(label::ZONE.to_owned(), zone.to_owned());
    labels.remove(label::DELETION_GRACE);
    let spec = without_generations(&resource.spec, kind);
    let name = name::hashed_for_sync(&resource.key.mesh, &resource.key.name, &labels);
    labels.entry(label::DISPLAY_NAME.to_owned()).or_insert_with(|| resource.key.name.to_string());
    let status =
        if kind.has_status() { Some(resource.status.as_deref().unwrap_or(b"{}")) } else { None };
    let wire = wire::encode(kind, &resource.key.mesh, &name, &labels, &spec, status);
    Some(Outgoing { wire, plain: None, audience: Audience::All })
}

/// Heartbeat counters of insights are local; without them an idle insight is not sent again.
fn without_generations(spec: &Spec, kind: Kind) -> Arc<[u8]> {
    fn reset(subscriptions: &mut [mesh::DiscoverySubscription]) -> bool {
        let counted = subscriptions.iter().any(|s| s.generation != 0);
        subscriptions.iter_mut().for_each(|s| s.generation = 0);
        counted
    }
    // Writing a message anew loses what only a newer release knows, so that is done where it has to
    // be.
    let bytes = match kind {
        Kind::DATAPLANE_INSIGHT => match spec.typed() {
            Typed::DataplaneInsight(insight) => {
                let mut insight = (**insight).clone();
                reset(&mut insight.subscriptions).then(|| insight.encode_to_vec())
            }
            _ => None,
        },
        Kind::ZONE_INGRESS_INSIGHT => {
            mesh::ZoneIngressInsight::decode(spec.wire()).ok().and_then(|mut insight| {
                reset(&mut insight.subscriptions).then(|| insight.encode_to_vec())
            })
        }
        Kind::ZONE_EGRESS_INSIGHT => {
            mesh::ZoneEgressInsight::decode(spec.wire()).ok().and_then(|mut insight| {
                reset(&mut insight.subscriptions).then(|| insight.encode_to_vec())
            })
        }
        _ => None,
    };
    bytes.map_or_else(|| spec.wire_arc(), Into::into)
}

/// Locally originated: no origin label, an empty one, or `own`.
pub fn is_origin(labels: &BTreeMap<String, String>, own: &str) -> bool {
    labels.get(label::ORIGIN).is_none_or(|o| o.is_empty() || o == own)
}

fn selects_multi_zone(resource: &Resource) -> bool {
    resource
        .as_json()
        .and_then(|s| s.pointer("/selector/meshMultiZoneService"))
        .is_some_and(|v| !v.is_null())
}

/// A producer policy by label, and by what it says: some `to` item names a service of the
/// policy's own namespace.
fn is_producer(resource: &Resource) -> bool {
    if resource.label(label::POLICY_ROLE) != Some("producer") {
        return false;
    }
    let Some(namespace) = resource.label(label::NAMESPACE) else { return false };
    let items = resource.as_json().and_then(|s| s.get("to")).and_then(Value::as_array);
    items.is_some_and(|items| {
        !items.is_empty()
            && items.iter().all(|item| {
                let target = &item["targetRef"];
                target["kind"] == "MeshService"
                    && target.get("name").is_some_and(|n| n != "")
                    && target
                        .get("namespace")
                        .and_then(Value::as_str)
                        .is_none_or(|n| n.is_empty() || n == namespace)
            })
    })
}

/// The one zone that a policy's top-level target restricts it to.
fn bound_zone(resource: &Resource) -> Option<String> {
    let target = resource.as_json()?.get("targetRef")?;
    if target.get("kind")? != "MeshSubset" {
        return None;
    }
    target.get("tags")?.get(label::ZONE)?.as_str().map(str::to_owned)
}

/// Global ingest, step by step of 4.6: the zone is who authenticated, whatever the payload says.
/// Returns whether the spec had to be rewritten.
pub fn attribute(received: &mut Received, zone: &str, hash_suffix: bool) -> bool {
    if !hash_suffix {
        received.key = ResourceKey::new(
            received.key.kind,
            &received.key.mesh,
            &format!("{zone}.{}", received.key.name),
        );
    }
    received.labels.insert(label::ZONE.to_owned(), zone.to_owned());
    received.labels.insert(label::ORIGIN.to_owned(), label::ORIGIN_ZONE.to_owned());
    let kind = received.key.kind;
    let mut changed = false;
    let mut pin = |tags: &mut BTreeMap<String, String>| {
        if let Some(value) = tags.get_mut(label::ZONE)
            && value != zone
        {
            changed = changed || !value.is_empty();
            zone.clone_into(value);
        }
    };
    let spec = match received.spec.typed() {
        Typed::Dataplane(dataplane) => {
            let mut dataplane = (**dataplane).clone();
            if let Some(networking) = &mut dataplane.networking {
                networking.inbound.iter_mut().for_each(|i| pin(&mut i.tags));
                networking.gateway.iter_mut().for_each(|g| pin(&mut g.tags));
            }
            Some(dataplane.encode_to_vec())
        }
        Typed::ZoneIngress(sent) => {
            let mut ingress = (**sent).clone();
            ingress.available_services.iter_mut().for_each(|s| pin(&mut s.tags));
            changed |= !sent.zone.is_empty() && sent.zone != zone;
            if ingress.available_services == sent.available_services {
                let zone = zone.to_owned();
                Some(followed_by(
                    &received.spec,
                    &mesh::ZoneIngress { zone, ..mesh::ZoneIngress::default() },
                ))
            } else {
                zone.clone_into(&mut ingress.zone);
                Some(ingress.encode_to_vec())
            }
        }
        Typed::ZoneEgress(sent) => {
            changed |= !sent.zone.is_empty() && sent.zone != zone;
            let zone = zone.to_owned();
            Some(followed_by(
                &received.spec,
                &mesh::ZoneEgress { zone, ..mesh::ZoneEgress::default() },
            ))
        }
        _ => None,
    };
    // Only a spec that differs is replaced: re-encoding would drop fields of newer peers.
    if let Some(bytes) = spec
        && changed_zone(&received.spec, &bytes, kind)
    {
        received.spec = Spec::from_wire(kind, bytes);
    }
    changed
}

/// The bytes of a spec with other values of single fields: what comes last counts, and all else stays
/// as it was sent.
fn followed_by(spec: &Spec, fields: &impl prost::Message) -> Vec<u8> {
    let mut bytes = spec.wire().to_vec();
    bytes.extend(fields.encode_to_vec());
    bytes
}

fn changed_zone(old: &Spec, new: &[u8], kind: Kind) -> bool {
    Spec::from_wire(kind, new.to_vec()).typed() != old.typed()
}
