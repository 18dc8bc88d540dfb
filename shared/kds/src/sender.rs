//! The sending half of the delta protocol (`spec/kds.md` 2.6), one per stream, without I/O.
//!
//! What Kuma peers rely on: the first response of a type comes at once and is complete; one
//! response per type is outstanding; every response waits for its ACK or NACK; a NACK is not
//! answered by an immediate resend. A rejected resource is tried again later, with back-off, or
//! when it changes or its Mesh does.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use sunbear_model::{Kind, ResourceKey};
use sunbear_proto::envoy::{
    config::core::v3::ControlPlane,
    service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
};

use crate::wire::WireResource;

/// First wait before a rejected resource is sent again; doubles up to [`RETRY_MAX`].
pub const RETRY_FIRST: Duration = Duration::from_secs(5);
/// Longest wait before a rejected resource is sent again.
pub const RETRY_MAX: Duration = Duration::from_secs(600);

/// What a sender reads: the current resources in the form for its peer.
pub trait Source {
    /// The wire form for the peer, or `None` if there is none (any more) that it may see.
    fn get(&self, key: &ResourceKey) -> Option<WireResource>;
    /// All of a type, for the first response.
    fn all(&self, kind: Kind) -> Vec<(ResourceKey, WireResource)>;
}

/// What a request was, for counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The first request of a type.
    Subscribed,
    /// A response was accepted.
    Ack,
    /// A response was rejected.
    Nack,
    /// Not the answer to what is outstanding; nothing happened.
    Stale,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Sent {
    name: Arc<str>,
    version: Arc<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rejected {
    attempts: u32,
    retry_at: Duration,
}

#[derive(Debug)]
struct InFlight {
    nonce: String,
    keys: Vec<ResourceKey>,
}

#[derive(Debug, Default)]
struct TypeState {
    first_answered: bool,
    sent: HashMap<ResourceKey, Sent>,
    /// Versions that the peer says it has from an earlier stream, by wire name.
    claimed: BTreeMap<String, String>,
    pending: BTreeSet<ResourceKey>,
    compare_all: bool,
    in_flight: Option<InFlight>,
    rejected: BTreeMap<ResourceKey, Rejected>,
}

/// State of one sending stream.
#[derive(Debug)]
pub struct Sender {
    identifier: String,
    nonce: u64,
    types: BTreeMap<Kind, TypeState>,
    /// Types that we do not know: answered once, with nothing.
    unknown: BTreeMap<String, bool>,
}

impl Sender {
    /// A sender that calls itself `identifier` (`global`, or the zone's name).
    pub fn new(identifier: impl Into<String>) -> Self {
        Self {
            identifier: identifier.into(),
            nonce: 0,
            types: BTreeMap::new(),
            unknown: BTreeMap::new(),
        }
    }

    /// Takes a request: a subscription, an ACK or a NACK. `now` is any monotonic time.
    pub fn on_request(&mut self, request: &DeltaDiscoveryRequest, now: Duration) -> Seen {
        let Some(kind) = Kind::by_name(&request.type_url) else {
            if request.response_nonce.is_empty() {
                self.unknown.entry(request.type_url.clone()).or_insert(false);
                return Seen::Subscribed;
            }
            return if request.error_detail.is_some() { Seen::Nack } else { Seen::Ack };
        };
        if request.response_nonce.is_empty() {
            let state = self.types.entry(kind).or_default();
            if state.first_answered || state.in_flight.is_some() {
                return Seen::Stale;
            }
            state.claimed = request.initial_resource_versions.clone();
            return Seen::Subscribed;
        }
        let Some(state) = self.types.get_mut(&kind) else { return Seen::Stale };
        let Some(answered) =
            state.in_flight.take_if(|flight| flight.nonce == request.response_nonce)
        else {
            return Seen::Stale;
        };
        if request.error_detail.is_some() {
            for key in answered.keys {
                let rejected =
                    state.rejected.entry(key).or_insert(Rejected { attempts: 0, retry_at: now });
                let wait = RETRY_FIRST
                    .saturating_mul(2u32.saturating_pow(rejected.attempts.min(16)))
                    .min(RETRY_MAX);
                rejected.attempts += 1;
                rejected.retry_at = now + wait;
            }
            Seen::Nack
        } else {
            for key in answered.keys {
                state.rejected.remove(&key);
            }
            Seen::Ack
        }
    }

    /// Says that a resource was written or deleted.
    pub fn on_change(&mut self, key: &ResourceKey) {
        if let Some(state) = self.types.get_mut(&key.kind)
            && state.first_answered
        {
            state.pending.insert(key.clone());
        }
        if key.kind == Kind::MESH {
            // What was refused for want of its mesh may be taken now.
            for state in self.types.values_mut() {
                for (rejected_key, rejected) in &mut state.rejected {
                    if rejected_key.mesh == key.name {
                        rejected.retry_at = Duration::ZERO;
                    }
                }
            }
        }
    }

    /// Says that anything of a type may have changed, also what the peer may see of it.
    pub fn on_resync(&mut self, kind: Kind) {
        if let Some(state) = self.types.get_mut(&kind)
            && state.first_answered
        {
            state.compare_all = true;
        }
    }

    /// As [`Sender::on_resync`] for all types.
    pub fn on_resync_all(&mut self) {
        let kinds: Vec<_> = self.types.keys().copied().collect();
        for kind in kinds {
            self.on_resync(kind);
        }
    }

    /// The next response to send, if any. Call until it gives none.
    pub fn poll(&mut self, source: &dyn Source, now: Duration) -> Option<DeltaDiscoveryResponse> {
        if let Some((type_url, answered)) = self.unknown.iter_mut().find(|(_, done)| !**done) {
            *answered = true;
            let type_url = type_url.clone();
            return Some(self.response(type_url, Vec::new(), Vec::new()).0);
        }
        let kinds: Vec<Kind> = self.types.keys().copied().collect();
        for kind in kinds {
            let Some(state) = self.types.get_mut(&kind) else { continue };
            if state.in_flight.is_some() {
                continue;
            }
            let first = !state.first_answered;
            let Some((resources, removed, keys)) = state.collect(kind, source, now) else {
                continue;
            };
            state.first_answered = true;
            if !first && resources.is_empty() && removed.is_empty() {
                continue;
            }
            let (response, nonce) = self.response(kind.name().to_owned(), resources, removed);
            if let Some(state) = self.types.get_mut(&kind) {
                state.in_flight = Some(InFlight { nonce, keys });
            }
            return Some(response);
        }
        None
    }

    /// When to poll again although nothing happened, for resources that were rejected.
    pub fn next_retry(&self) -> Option<Duration> {
        self.types
            .values()
            .filter(|s| s.in_flight.is_none())
            .flat_map(|s| s.rejected.values())
            .map(|r| r.retry_at)
            .min()
    }

    /// Rejected and not yet accepted, per type.
    pub fn rejected(&self) -> impl Iterator<Item = &ResourceKey> {
        self.types.values().flat_map(|s| s.rejected.keys())
    }

    /// True when the peer has acknowledged everything that was sent of the types it asked for.
    pub fn is_in_sync(&self) -> bool {
        self.types.values().all(|s| {
            s.first_answered && s.in_flight.is_none() && s.pending.is_empty() && !s.compare_all
        })
    }

    fn response(
        &mut self,
        type_url: String,
        resources: Vec<WireResource>,
        removed_resources: Vec<String>,
    ) -> (DeltaDiscoveryResponse, String) {
        self.nonce += 1;
        let nonce = self.nonce.to_string();
        let response = DeltaDiscoveryResponse {
            type_url,
            resources: resources.iter().map(WireResource::to_delta).collect(),
            removed_resources,
            nonce: nonce.clone(),
            control_plane: Some(ControlPlane { identifier: self.identifier.clone() }),
            ..DeltaDiscoveryResponse::default()
        };
        (response, nonce)
    }
}

impl TypeState {
    /// What differs from what the peer has; marks it as sent. `None` if there is nothing to look
    /// at.
    fn collect(
        &mut self,
        kind: Kind,
        source: &dyn Source,
        now: Duration,
    ) -> Option<(Vec<WireResource>, Vec<String>, Vec<ResourceKey>)> {
        let (mut resources, mut removed, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        if !self.first_answered || self.compare_all {
            self.compare_all = false;
            self.pending.clear();
            let mut claimed = std::mem::take(&mut self.claimed);
            let mut gone = std::mem::take(&mut self.sent);
            for (key, wire) in source.all(kind) {
                let before = gone.remove(&key);
                let claims = claimed.remove(&*wire.name);
                let same = before.as_ref().is_some_and(|s| s.version == wire.version)
                    || claims.as_deref() == Some(&*wire.version);
                self.note(key, before, wire, same, &mut resources, &mut removed, &mut keys);
            }
            let mut rest: Vec<(ResourceKey, Sent)> = gone.into_iter().collect();
            rest.sort_by(|a, b| a.0.cmp(&b.0));
            for (key, sent) in rest {
                self.rejected.remove(&key);
                removed.push(sent.name.to_string());
                keys.push(key);
            }
            removed.extend(claimed.into_keys());
            return Some((resources, removed, keys));
        }
        let due: Vec<ResourceKey> = self
            .rejected
            .iter()
            .filter(|(_, r)| r.retry_at <= now)
            .map(|(k, _)| k.clone())
            .collect();
        if self.pending.is_empty() && due.is_empty() {
            return None;
        }
        let mut look = std::mem::take(&mut self.pending);
        for key in due {
            // Forgetting the version makes the comparison find a difference.
            if let Some(sent) = self.sent.get_mut(&key) {
                sent.version = "".into();
            }
            look.insert(key);
        }
        for key in look {
            let before = self.sent.remove(&key);
            match (source.get(&key), before) {
                (Some(wire), before) => {
                    let same = before.as_ref().is_some_and(|s| s.version == wire.version);
                    self.note(key, before, wire, same, &mut resources, &mut removed, &mut keys);
                }
                (None, Some(sent)) => {
                    self.rejected.remove(&key);
                    removed.push(sent.name.to_string());
                    keys.push(key);
                }
                (None, None) => {
                    self.rejected.remove(&key);
                }
            }
        }
        Some((resources, removed, keys))
    }

    fn note(
        &mut self,
        key: ResourceKey,
        before: Option<Sent>,
        wire: WireResource,
        same: bool,
        resources: &mut Vec<WireResource>,
        removed: &mut Vec<String>,
        keys: &mut Vec<ResourceKey>,
    ) {
        // A label may have changed the name: the peer then has to drop the old one.
        if let Some(sent) = before
            && sent.name != wire.name
        {
            removed.push(sent.name.to_string());
        }
        self.sent.insert(
            key.clone(),
            Sent { name: Arc::clone(&wire.name), version: Arc::clone(&wire.version) },
        );
        if !same {
            resources.push(wire);
            keys.push(key);
        }
    }
}

#[cfg(test)]
mod tests;
