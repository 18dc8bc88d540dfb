//! The state-of-the-world variant: every response holds all resources of a type that the client
//! asked for (`spec/dp-server.md` 8.5).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};
use sunbear_proto::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{DiscoveryRequest, DiscoveryResponse},
};
use sunbear_xds::{ResourceSet, ResourceType, XdsResource};

use super::{
    Answer, Machine, ProtocolError, Rejection, StreamSettings, TypeStatus, clipped, has_all,
    is_tried_again, is_wildcard_type,
    order::{self, Lanes},
    pace::{Outstanding, Pace, REMOVAL_PATIENCE, Retry},
    text_names,
};

/// Subscribes to everything.
const WILDCARD: &str = "*";

/// A request for endpoints or routes that names only some of what there is waits this long for
/// the client to ask for the rest, which it does while it works through clusters and listeners.
const PARKING: Duration = Duration::from_millis(500);

/// Resources by name.
type Content = BTreeMap<String, Arc<XdsResource>>;

/// One stream.
#[derive(Debug)]
pub struct Stream {
    settings: StreamSettings,
    nonce: u64,
    set: Option<Arc<ResourceSet>>,
    lanes: BTreeMap<ResourceType, Lane>,
    /// Since when removals of clusters have been waiting.
    removals_held_since: Option<Instant>,
    /// Clusters that were sent before the client's first request for endpoints.
    early_clusters: BTreeSet<String>,
}

/// What is known about one type. It exists from the client's first request for the type.
#[derive(Debug, Default)]
struct Lane {
    interest: Interest,
    /// The client has named names on this stream, so an empty list means none, not all.
    named: bool,
    /// Version that the client brought along; not yet compared with a set.
    claimed: Option<String>,
    /// The client had resources of this type when it came.
    brought: bool,
    /// What the client has by what was sent to it.
    known: Arc<Content>,
    /// What it has accepted.
    accepted: Arc<Content>,
    /// A response is due even if it says nothing new.
    answer_due: bool,
    /// The response waits for the client to ask for more names.
    parked_until: Option<Instant>,
    /// A response would say something new; kept up to date with the fields above and the set.
    changes: bool,
    /// A response would take something away.
    removals: bool,
    pace: Pace<Arc<Content>>,
    /// Nonce of the last response; 0 before the first.
    last_nonce: u64,
    status: TypeStatus,
    /// Version of a resource that the client refused by name. It gets the accepted one instead,
    /// or none, so that the others of the type go on.
    refused: BTreeMap<String, String>,
    /// What was new in a refused response when the refusal names nothing: version by name.
    suspects: BTreeMap<String, String>,
    retry: Retry,
    /// What was refused is on its way once more.
    trial: bool,
    /// What the client has may differ from `accepted`: it brought something along, or a response
    /// was sent without waiting for the answer to the one before.
    uncertain: bool,
}

/// What of a type a client asked for last.
#[derive(Debug, Default, PartialEq, Eq)]
enum Interest {
    #[default]
    All,
    Names(BTreeSet<String>),
}

impl Interest {
    fn covers(&self, name: &str) -> bool {
        match self {
            Interest::All => true,
            Interest::Names(names) => names.contains(name),
        }
    }
}

impl Lane {
    /// What the client should have.
    fn target(&self, set: &ResourceSet, resource_type: ResourceType) -> Content {
        set.iter(resource_type)
            .filter(|r| self.interest.covers(&r.name))
            .filter_map(|r| {
                let resource = if set.keeps(resource_type, &r.name)
                    && (self.brought || self.known.contains_key(&r.name))
                {
                    // What a response leaves out of such a type stays as it is.
                    self.known.get(&r.name)?
                } else if self.refused.get(&r.name) == Some(&r.version) {
                    self.accepted.get(&r.name)?
                } else {
                    r
                };
                Some((r.name.clone(), Arc::clone(resource)))
            })
            .collect()
    }

    /// Brings `changes` and `removals` up to date.
    fn refresh(&mut self, set: &ResourceSet, resource_type: ResourceType) {
        let wanted = |name: &String, version: &mut String| {
            set.get(resource_type, name).is_some_and(|r| r.version == *version)
        };
        self.refused.retain(wanted);
        let suspects = self.suspects.len();
        self.suspects.retain(wanted);
        // One of them may have been what was wrong, and the others deserve another chance.
        self.answer_due |= self.suspects.len() < suspects;
        let target = self.target(set, resource_type);
        if let Some(claimed) = self.claimed.take()
            && claimed == version_of(&target)
        {
            self.known = Arc::new(target.clone());
            self.accepted = Arc::clone(&self.known);
            self.answer_due = false;
            self.uncertain = false;
        }
        let wildcard = self.interest == Interest::All;
        self.changes = (self.answer_due && (wildcard || !target.is_empty()))
            || target.iter().any(|(name, resource)| {
                self.known.get(name).is_none_or(|k| k.version != resource.version)
            });
        // Absence is news only where absence means removal.
        self.removals = wildcard && self.known.keys().any(|name| !target.contains_key(name));
        if self.refused.is_empty() && self.suspects.is_empty() && !self.changes && !self.trial {
            self.status.rejected = None;
            self.retry = Retry::default();
        }
    }

    /// What was refused is part of the next response again when it is time.
    fn try_again(&mut self, now: Instant) {
        if self.retry.take_due(now) {
            self.refused.clear();
            self.suspects.clear();
            self.trial = true;
        }
    }

    fn parked(&self, now: Instant) -> bool {
        self.parked_until.is_some_and(|until| now < until)
    }

    fn on_ack(&mut self, sent: Outstanding<Arc<Content>>) {
        self.accepted = sent.content;
        self.status.acked = Some(sent.version);
        self.suspects.clear();
        self.trial = false;
        self.uncertain = false;
    }

    fn on_nack(&mut self, sent: Outstanding<Arc<Content>>, message: &str) {
        self.trial = false;
        let fresh: Vec<&Arc<XdsResource>> = sent
            .content
            .values()
            .filter(|r| self.accepted.get(&r.name).is_none_or(|a| a.version != r.version))
            .collect();
        let (named, unnamed): (Vec<_>, Vec<_>) =
            fresh.into_iter().partition(|r| text_names(message, &r.name));
        // Whether the client took the rest, removals among it, depends on the kind of fault.
        let rest = !unnamed.is_empty()
            || self.accepted.keys().any(|name| !sent.content.contains_key(name));
        self.answer_due |= !named.is_empty() && rest;
        let blamed = if named.is_empty() { &unnamed } else { &named };
        let names = blamed.iter().map(|r| r.name.clone()).collect();
        if named.is_empty() {
            self.suspects = unnamed.iter().map(|r| (r.name.clone(), r.version.clone())).collect();
        }
        for resource in named {
            self.refused.insert(resource.name.clone(), resource.version.clone());
            if self.uncertain {
                continue;
            }
            match self.accepted.get(&resource.name) {
                Some(accepted) => {
                    let accepted = Arc::clone(accepted);
                    Arc::make_mut(&mut self.known).insert(resource.name.clone(), accepted);
                }
                None => {
                    Arc::make_mut(&mut self.known).remove(&resource.name);
                }
            }
        }
        self.status.rejected =
            Some(Rejection { version: sent.version, message: clipped(message), names });
    }
}

impl Stream {
    fn lanes(&self, now: Instant) -> Lanes {
        Lanes::from_fn(|t| {
            self.lanes.get(&t).map_or_else(order::Lane::default, |lane| order::Lane {
                changes: self.set.is_some() && (lane.changes || lane.retry.due(now)),
                removals: self.set.is_some() && lane.removals,
                busy: lane.pace.busy(now),
                full: lane.pace.full(),
                resting: lane.pace.resting(now),
            })
        })
    }

    fn removals_overdue(&self, now: Instant) -> bool {
        self.removals_held_since.is_some_and(|since| now >= since + REMOVAL_PATIENCE)
    }

    /// The next type that may send, and whether what is gone may be left out.
    fn next(&self, now: Instant) -> Option<(ResourceType, bool)> {
        self.set.as_ref()?;
        let lanes = self.lanes(now);
        let overdue = self.removals_overdue(now);
        self.lanes.iter().find_map(|(t, lane)| {
            let changes = (lane.changes || lane.retry.due(now))
                && !lane.parked(now)
                && lanes.changes_allowed(*t);
            let removals = lane.removals && lanes.removals_allowed(*t, overdue);
            (changes || removals)
                .then(|| (*t, *t != ResourceType::Cluster || !lane.removals || removals))
        })
    }

    fn refresh(&mut self, resource_type: ResourceType) {
        if let (Some(set), Some(lane)) = (&self.set, self.lanes.get_mut(&resource_type)) {
            lane.refresh(set, resource_type);
        }
    }

    fn note_held_removals(&mut self, now: Instant) {
        let waiting = self.lanes.get(&ResourceType::Cluster).is_some_and(|lane| lane.removals);
        self.removals_held_since =
            if waiting { self.removals_held_since.or(Some(now)) } else { None };
    }

    /// A request that names only part of what there is waits for its rest.
    fn park(&mut self, now: Instant, resource_type: ResourceType) {
        let Some(lane) = self.lanes.get_mut(&resource_type) else { return };
        let incomplete = matches!(resource_type, ResourceType::Endpoint | ResourceType::Route)
            && self.set.as_ref().is_some_and(|set| {
                set.names(resource_type).any(|name| !lane.interest.covers(name))
            });
        lane.parked_until = (incomplete && lane.changes).then_some(now + PARKING);
    }

    /// Envoy warms a changed cluster and waits for its endpoints once more.
    fn force_endpoints(&mut self, clusters: &BTreeSet<String>) {
        let Some(set) = &self.set else { return };
        let Some(lane) = self.lanes.get_mut(&ResourceType::Endpoint) else {
            self.early_clusters.extend(clusters.iter().cloned());
            return;
        };
        if clusters.iter().any(|name| {
            lane.interest.covers(name) && set.get(ResourceType::Endpoint, name).is_some()
        }) {
            lane.answer_due = true;
            lane.refresh(set, ResourceType::Endpoint);
        }
    }
}

impl Machine for Stream {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn new(settings: StreamSettings) -> Self {
        Self {
            settings,
            nonce: 0,
            set: None,
            lanes: BTreeMap::new(),
            removals_held_since: None,
            early_clusters: BTreeSet::new(),
        }
    }

    fn node(request: &Self::Request) -> Option<&Node> {
        request.node.as_ref()
    }

    fn on_request(
        &mut self,
        now: Instant,
        request: Self::Request,
    ) -> Result<Answer, ProtocolError> {
        if request.type_url.is_empty() {
            return Err(ProtocolError::NoTypeUrl);
        }
        let Some(resource_type) = ResourceType::from_type_url(&request.type_url) else {
            return Ok(Answer::None);
        };
        let first = !self.lanes.contains_key(&resource_type);
        let lane = self.lanes.entry(resource_type).or_default();

        let mut answer = Answer::None;
        if !first && !request.response_nonce.is_empty() {
            if let Some(sent) = lane.pace.answered(&request.response_nonce) {
                if let Some(error) = &request.error_detail {
                    lane.on_nack(sent, &error.message);
                    lane.pace.resting_until = Some(now + self.settings.nack_backoff);
                    if (!lane.refused.is_empty() || !lane.suspects.is_empty())
                        && is_tried_again(resource_type)
                    {
                        lane.retry.refused(now, self.settings.nack_backoff);
                    }
                    answer = Answer::Nack { resource_type, message: clipped(&error.message) };
                } else {
                    lane.on_ack(sent);
                    answer = Answer::Ack(resource_type);
                }
            } else if lane.pace.outstanding.is_some()
                || request.response_nonce != lane.last_nonce.to_string()
            {
                // The client had not seen the latest response when it wrote this; it will answer
                // that one, which is complete, with all that it wants.
                return Ok(Answer::None);
            }
        }

        let names: BTreeSet<String> = request.resource_names.into_iter().collect();
        lane.named |= names.iter().any(|name| name != WILDCARD);
        let interest = if names.contains(WILDCARD)
            || (names.is_empty() && !lane.named && is_wildcard_type(resource_type))
        {
            Interest::All
        } else {
            Interest::Names(names)
        };
        if first {
            lane.claimed = Some(request.version_info).filter(|v| !v.is_empty());
            lane.uncertain = lane.claimed.is_some();
            lane.brought = lane.claimed.is_some();
            lane.answer_due = true;
        }
        let changed = first || lane.interest != interest;
        lane.interest = interest;
        // What a client no longer asks for it forgets.
        let interest = &lane.interest;
        if !lane.known.keys().all(|name| interest.covers(name)) {
            Arc::make_mut(&mut lane.known).retain(|name, _| interest.covers(name));
        }

        self.refresh(resource_type);
        if first && resource_type == ResourceType::Endpoint {
            let clusters = std::mem::take(&mut self.early_clusters);
            self.force_endpoints(&clusters);
        }
        if changed {
            self.park(now, resource_type);
        }
        self.note_held_removals(now);
        Ok(answer)
    }

    fn set_resources(&mut self, now: Instant, set: Arc<ResourceSet>) {
        self.set = Some(set);
        for resource_type in ResourceType::ALL {
            self.refresh(resource_type);
            if let Some(lane) = self.lanes.get_mut(&resource_type) {
                lane.parked_until = None;
            }
        }
        self.note_held_removals(now);
    }

    fn poll(&mut self, now: Instant) -> Option<(ResourceType, Self::Response)> {
        let (resource_type, complete) = self.next(now)?;
        let set = Arc::clone(self.set.as_ref()?);
        let lane = self.lanes.get_mut(&resource_type)?;

        lane.try_again(now);
        let mut content = lane.target(&set, resource_type);
        let clusters: BTreeSet<String> = content
            .iter()
            .filter(|(name, r)| lane.known.get(*name).is_none_or(|k| k.version != r.version))
            .map(|(name, _)| name.clone())
            .collect();
        if !complete {
            for (name, resource) in &*lane.known {
                content.entry(name.clone()).or_insert_with(|| Arc::clone(resource));
            }
        }
        lane.answer_due = false;
        lane.parked_until = None;
        let content = Arc::new(content);
        lane.known = Arc::clone(&content);

        self.nonce += 1;
        let version = version_of(&content);
        let response = DiscoveryResponse {
            version_info: version.clone(),
            resources: content.values().map(|r| r.any.clone()).collect(),
            type_url: resource_type.type_url().to_owned(),
            nonce: self.nonce.to_string(),
            control_plane: self.settings.control_plane(),
            ..DiscoveryResponse::default()
        };
        lane.status.sent = Some(version.clone());
        lane.last_nonce = self.nonce;
        lane.uncertain |= lane.pace.outstanding.is_some();
        lane.pace.sent(Outstanding { nonce: self.nonce, sent_at: now, version, content });
        lane.refresh(&set, resource_type);
        if resource_type == ResourceType::Cluster {
            self.force_endpoints(&clusters);
            self.note_held_removals(now);
        }
        Some((resource_type, response))
    }

    fn wants(&self, now: Instant) -> bool {
        self.next(now).is_some()
    }

    fn next_deadline(&self, now: Instant) -> Option<Instant> {
        self.lanes
            .values()
            .flat_map(|lane| {
                lane.pace.deadlines().chain(lane.parked_until).chain(lane.retry.deadline())
            })
            .chain(self.removals_held_since.map(|since| since + REMOVAL_PATIENCE))
            .filter(|at| *at > now)
            .min()
    }

    fn is_settled(&self) -> bool {
        let Some(set) = &self.set else { return false };
        self.lanes.values().all(|lane| {
            lane.pace.outstanding.is_none()
                && !lane.changes
                && !lane.removals
                && lane.status.rejected.is_none()
        }) && has_all(
            set,
            |t| self.lanes.contains_key(&t),
            |t, r| {
                self.lanes.get(&t).is_some_and(|lane| match lane.known.get(&r.name) {
                    Some(known) => known.version == r.version || set.keeps(t, &r.name),
                    None => lane.brought && set.keeps(t, &r.name),
                })
            },
        )
    }

    fn status(&self) -> BTreeMap<ResourceType, TypeStatus> {
        self.lanes.iter().map(|(t, lane)| (*t, lane.status.clone())).collect()
    }
}

/// A version for this content: equal if and only if names and contents are. It covers what was
/// asked for, not the whole type, so that a client that comes back with it is known to have
/// exactly that.
fn version_of(content: &Content) -> String {
    use std::fmt::Write as _;

    let mut hash = Sha256::new();
    for (name, resource) in content {
        hash.update(name.len().to_be_bytes());
        hash.update(name.as_bytes());
        hash.update(resource.version.as_bytes());
    }
    let mut version = String::with_capacity(32);
    for byte in &hash.finalize()[..16] {
        // Writing to a String cannot fail.
        let _ = write!(version, "{byte:02x}");
    }
    version
}
