//! The receiving half of the delta protocol (`spec/kds.md` 2.5, 4.5, 4.6), without I/O: turns a
//! response and what is stored into the changes to commit, and results into an ACK or NACK.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use sunbear_model::{Kind, Resource, ResourceKey, label, validation};
use sunbear_proto::{
    envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    google::rpc::Status,
};
use sunbear_store::{Change, Expect, Operation, OwnerRef, Snapshot, StatusChange};

use crate::{
    mapping,
    node::Identity,
    wire::{self, Received},
};

/// Which side receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Side {
    /// A zone takes what its global provides.
    Zone,
    /// The global takes what this zone provides.
    Global {
        /// The zone, as authenticated.
        zone: String,
        /// The zone adds hash suffixes itself.
        hash_suffix: bool,
    },
}

/// What a response asks to be written.
#[derive(Debug, Default)]
pub struct Plan {
    /// Creates, then deletes, then updates; a change a key.
    pub changes: Vec<Change>,
    /// What cannot be taken, one line each; the stored copies stay.
    pub rejections: Vec<String>,
    /// Some rejection is a conflict with what is stored here.
    pub conflict: bool,
    /// Specs whose claim to another zone was overwritten.
    pub rewritten: usize,
}

#[derive(Debug, Default)]
struct TypeState {
    answered: bool,
    /// Names of the peer, for removals: splitting at a dot is ambiguous.
    names: HashMap<String, ResourceKey>,
}

/// State of one receiving stream.
#[derive(Debug)]
pub struct Receiver {
    side: Side,
    identity: Identity,
    types: HashMap<Kind, TypeState>,
}

impl Receiver {
    /// A receiver that names itself `identity` in its requests.
    pub fn new(side: Side, identity: Identity) -> Self {
        Self { side, identity, types: HashMap::new() }
    }

    /// The first requests, one per type that this side takes.
    pub fn subscriptions(&self) -> Vec<DeltaDiscoveryRequest> {
        Kind::all()
            .filter(|k| match self.side {
                Side::Zone => k.sent_to_zones(),
                Side::Global { .. } => k.sent_to_global(),
            })
            .map(|kind| DeltaDiscoveryRequest {
                node: Some(self.identity.to_node()),
                type_url: kind.name().to_owned(),
                resource_names_subscribe: vec!["*".to_owned()],
                ..DeltaDiscoveryRequest::default()
            })
            .collect()
    }

    /// True once every subscribed type had its first response.
    pub fn has_all_first_responses(&self) -> bool {
        self.types.values().filter(|t| t.answered).count() == self.subscriptions_len()
    }

    fn subscriptions_len(&self) -> usize {
        Kind::all()
            .filter(|k| match self.side {
                Side::Zone => k.sent_to_zones(),
                Side::Global { .. } => k.sent_to_global(),
            })
            .count()
    }

    /// Compares a response with what is stored.
    pub fn plan(&mut self, response: DeltaDiscoveryResponse, stored: &Snapshot) -> Plan {
        let mut plan = Plan::default();
        let Some(kind) = Kind::by_name(&response.type_url) else {
            plan.rejections.push(format!("unknown type {:?}", response.type_url));
            return plan;
        };
        let state = self.types.entry(kind).or_default();
        let initial = !state.answered;

        let mut received: Vec<Received> = Vec::with_capacity(response.resources.len());
        let mut kept: BTreeSet<ResourceKey> = BTreeSet::new();
        for resource in response.resources {
            let wire_name = resource.name.clone();
            match wire::decode(kind, resource) {
                Ok(mut r) => {
                    if let Side::Global { zone, hash_suffix } = &self.side {
                        plan.rewritten +=
                            usize::from(mapping::attribute(&mut r, zone, *hash_suffix));
                    }
                    state.names.insert(r.wire_name.clone(), r.key.clone());
                    kept.insert(r.key.clone());
                    let violations =
                        validation::validate_spec(kind, &r.key.mesh, &r.key.name, &r.spec);
                    if violations.is_empty() {
                        received.push(r);
                    } else {
                        plan.rejections.push(violations.to_string());
                    }
                }
                Err(error) => {
                    kept.extend(
                        error.key.clone().or_else(|| find(state, kind, &wire_name, stored)),
                    );
                    plan.rejections.push(error.to_string());
                }
            }
        }

        let mut updates = Vec::new();
        for r in received {
            let existing = stored.get(&r.key);
            if let Some(existing) = existing {
                if !considered(&self.side, existing) && !takes_over(&self.side, existing) {
                    plan.conflict = true;
                    plan.rejections.push(format!("resource already exists: {}", quoted(&r.key)));
                    continue;
                }
                let same_status = match self.side {
                    // A zone computes status itself.
                    Side::Zone => true,
                    Side::Global { .. } => existing.status == r.status,
                };
                if existing.spec == r.spec && existing.labels == r.labels && same_status {
                    continue;
                }
            }
            let is_update = existing.is_some();
            let change = put(&self.side, r, is_update);
            if is_update { updates.push(change) } else { plan.changes.push(change) }
        }

        let mut deleted: BTreeSet<ResourceKey> = BTreeSet::new();
        if initial {
            deleted.extend(
                stored
                    .list(kind)
                    .filter(|r| considered(&self.side, r) && !kept.contains(&r.key))
                    .map(|r| r.key.clone()),
            );
        }
        for name in response.removed_resources {
            let key = find(state, kind, &name, stored);
            state.names.remove(&name);
            // Removed and present in one response counts as an update.
            if let Some(key) = key
                && !kept.contains(&key)
                && stored.get(&key).is_some_and(|r| considered(&self.side, r))
            {
                deleted.insert(key);
            }
        }
        plan.changes.extend(
            deleted
                .into_iter()
                .map(|key| Change { key, op: Operation::Delete { expect: Expect::Any } }),
        );
        plan.changes.append(&mut updates);
        plan
    }

    /// The answer to a response: an ACK, or a NACK when there is something to complain about.
    pub fn answer(
        &mut self,
        type_url: &str,
        nonce: &str,
        rejections: &[String],
        conflict: bool,
    ) -> DeltaDiscoveryRequest {
        if let Some(kind) = Kind::by_name(type_url) {
            self.types.entry(kind).or_default().answered = true;
        }
        let mut request = DeltaDiscoveryRequest {
            node: Some(self.identity.to_short_node()),
            type_url: type_url.to_owned(),
            response_nonce: nonce.to_owned(),
            ..DeltaDiscoveryRequest::default()
        };
        if !rejections.is_empty() {
            let mut message = rejections.join("\n");
            if conflict {
                message.insert_str(0, "user error\n");
            }
            request.resource_names_subscribe = vec!["*".to_owned()];
            // The code stays 0: peers look for the presence of the field.
            request.error_detail = Some(Status { code: 0, message, details: Vec::new() });
        }
        request
    }
}

fn put(side: &Side, r: Received, is_update: bool) -> Change {
    let status = match side {
        Side::Zone if is_update => StatusChange::Keep,
        Side::Zone => StatusChange::Set(r.key.kind.has_status().then(|| Arc::from(*b"{}"))),
        Side::Global { .. } => StatusChange::Set(r.status),
    };
    let owner = match side {
        Side::Zone => OwnerRef::None,
        Side::Global { zone, .. } => OwnerRef::Key(ResourceKey::new(Kind::ZONE, "", zone)),
    };
    Change {
        key: r.key,
        op: Operation::Put {
            spec: r.spec,
            labels: r.labels,
            status,
            owner,
            // The peer owns these objects; no local writer competes for them.
            expect: Expect::Any,
        },
    }
}

/// A synced object may replace one that no zone claims, as after a lost origin label.
fn takes_over(side: &Side, existing: &Resource) -> bool {
    match side {
        Side::Zone => {
            existing.key.kind.row().hashed
                && mapping::is_origin(&existing.labels, label::ORIGIN_GLOBAL)
        }
        Side::Global { .. } => false,
    }
}

/// May this side's sync touch the stored object?
fn considered(side: &Side, stored: &Resource) -> bool {
    match side {
        Side::Zone => {
            let kind = stored.key.kind;
            let zone_may_provide = kind.sent_to_global()
                || matches!(kind, Kind::SECRET | Kind::GLOBAL_SECRET | Kind::CONFIG);
            !zone_may_provide || stored.label(label::ORIGIN) == Some(label::ORIGIN_GLOBAL)
        }
        // The origin is asked for too: a user may have labelled a global object with a zone.
        Side::Global { zone, .. } => {
            stored.label(label::ORIGIN) == Some(label::ORIGIN_ZONE)
                && stored.label(label::ZONE) == Some(zone)
        }
    }
}

/// The key behind a wire name: as received earlier, else any split at a dot that is stored.
fn find(state: &TypeState, kind: Kind, wire_name: &str, stored: &Snapshot) -> Option<ResourceKey> {
    if let Some(key) = state.names.get(wire_name) {
        return Some(key.clone());
    }
    wire_name
        .rmatch_indices('.')
        .map(|(dot, _)| ResourceKey::new(kind, &wire_name[dot + 1..], &wire_name[..dot]))
        .find(|key| stored.get(key).is_some())
}

fn quoted(key: &ResourceKey) -> String {
    format!("type={:?} name={:?} mesh={:?}", key.kind.name(), &*key.name, &*key.mesh)
}
