//! The incremental variant: resources that changed, names that went (`spec/dp-server.md` 8.5.1).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use sunbear_proto::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
};
use sunbear_xds::{ResourceSet, ResourceType, XdsResource};

use super::{
    Answer, Machine, ProtocolError, Rejection, StreamSettings, TypeStatus, clipped, has_all,
    is_tried_again, is_wildcard_type,
    known::Known,
    order::{self, Lanes},
    pace::{Outstanding, Pace, REMOVAL_PATIENCE, Retry},
    text_names,
};

/// Subscribes to everything, or ends doing so.
const WILDCARD: &str = "*";

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
    wildcard: bool,
    /// What the client has by what was sent to it, and what it said it had when it came; and the
    /// names that it subscribed to one by one.
    known: Known,
    /// Names to be answered for whether or not they changed.
    forced: BTreeSet<String>,
    /// The first answer to a wildcard, which is due even when there is nothing.
    empty_answer_due: bool,
    /// Names to send, and names to take away. Kept up to date with the fields above and the set.
    changed: BTreeSet<String>,
    removed: BTreeSet<String>,
    /// After a rejected batch: its parts, to be tried one at a time so that a bad one does not
    /// hide the others.
    singly: VecDeque<String>,
    pace: Pace<Batch>,
    status: TypeStatus,
    /// Version that the client refused, by name.
    refused: BTreeMap<String, String>,
    retry: Retry,
}

/// Content of a response.
#[derive(Debug, Clone, Default)]
struct Batch {
    /// In name order.
    changed: Vec<Arc<XdsResource>>,
    removed: BTreeSet<String>,
    /// It was one of the parts of a rejected batch.
    part: bool,
}

impl Lane {
    fn covers(&self, name: &str) -> bool {
        self.wildcard || self.known.subscribed(name)
    }

    /// Has the client something of a name that is to stay as it is?
    fn keeps(&self, set: &ResourceSet, resource_type: ResourceType, name: &str) -> bool {
        set.keeps(resource_type, name) && self.known.contains(name)
    }

    /// Brings `changed` and `removed` up to date.
    fn refresh(&mut self, set: &ResourceSet, resource_type: ResourceType) {
        self.changed = set
            .iter(resource_type)
            .filter(|r| {
                self.covers(&r.name)
                    && (self.forced.contains(&r.name) || !self.known.has(r))
                    && !self.keeps(set, resource_type, &r.name)
            })
            .map(|r| r.name.clone())
            .collect();
        self.removed = self
            .known
            .names()
            .chain(self.forced.iter().map(String::as_str))
            .filter(|name| {
                set.get(resource_type, name).is_none() && !self.keeps(set, resource_type, name)
            })
            .map(str::to_owned)
            .collect();
        self.refused.retain(|name, version| {
            set.get(resource_type, name).is_some_and(|r| r.version == *version)
        });
        self.settle_status();
    }

    fn settle_status(&mut self) {
        if self.refused.is_empty() {
            self.status.rejected = None;
            self.retry = Retry::default();
        } else if let Some(rejection) = &mut self.status.rejected {
            rejection.names = self.refused.keys().cloned().collect();
        }
    }

    fn has_changes(&self) -> bool {
        !self.changed.is_empty() || !self.singly.is_empty() || self.empty_answer_due
    }

    /// Is there something to send, be it for another time?
    fn has_changes_at(&self, now: Instant) -> bool {
        self.has_changes() || self.retry.due(now)
    }

    /// What was refused goes out once more when it is time, one at a time.
    fn try_again(&mut self, now: Instant) {
        if self.retry.take_due(now) {
            let again = self.refused.keys().filter(|name| !self.singly.contains(name));
            self.singly.extend(again.cloned().collect::<Vec<_>>());
        }
    }

    fn on_ack(&mut self, sent: Outstanding<Batch>) {
        for resource in &sent.content.changed {
            if self.refused.get(&resource.name) == Some(&resource.version) {
                self.refused.remove(&resource.name);
            }
        }
        self.status.acked = Some(sent.version);
        self.settle_status();
    }

    fn on_nack(&mut self, mut sent: Outstanding<Batch>, message: &str) {
        let several = sent.content.changed.len() + sent.content.removed.len() > 1;
        // What was replaced since, by a response that overtook this one, has its own fate.
        sent.content.changed.retain(|resource| self.known.has(resource));
        sent.content.removed.retain(|name| !self.known.contains(name));
        if several && !sent.content.part {
            // Those that the text names go last, so that the innocent do not wait for them.
            let (named, others): (Vec<_>, Vec<_>) = sent
                .content
                .removed
                .iter()
                .chain(sent.content.changed.iter().map(|resource| &resource.name))
                .cloned()
                .partition(|name| text_names(message, name));
            self.singly.retain(|name| !named.contains(name) && !others.contains(name));
            self.singly.extend(others.into_iter().chain(named));
        }
        let refused = sent.content.changed.iter();
        self.refused.extend(refused.map(|r| (r.name.clone(), r.version.clone())));
        self.status.rejected = Some(Rejection {
            version: sent.version,
            message: clipped(message),
            names: self.refused.keys().cloned().collect(),
        });
    }
}

impl Stream {
    fn lanes(&self, now: Instant) -> Lanes {
        Lanes::from_fn(|t| {
            self.lanes.get(&t).map_or_else(order::Lane::default, |lane| order::Lane {
                changes: self.set.is_some() && lane.has_changes_at(now),
                removals: self.set.is_some() && !lane.removed.is_empty(),
                busy: lane.pace.busy(now),
                full: lane.pace.full(),
                resting: lane.pace.resting(now),
            })
        })
    }

    fn removals_overdue(&self, now: Instant) -> bool {
        self.removals_held_since.is_some_and(|since| now >= since + REMOVAL_PATIENCE)
    }

    /// The next type that may send, whether its changes may go and whether its removals may.
    fn next(&self, now: Instant) -> Option<(ResourceType, bool, bool)> {
        self.set.as_ref()?;
        let lanes = self.lanes(now);
        let overdue = self.removals_overdue(now);
        self.lanes.iter().find_map(|(t, lane)| {
            let changes = lane.has_changes_at(now) && lanes.changes_allowed(*t);
            let removals = !lane.removed.is_empty() && lanes.removals_allowed(*t, overdue);
            (changes || removals).then_some((*t, changes, removals))
        })
    }

    fn refresh(&mut self, resource_type: ResourceType) {
        if let (Some(set), Some(lane)) = (&self.set, self.lanes.get_mut(&resource_type)) {
            lane.refresh(set, resource_type);
        }
    }

    fn note_held_removals(&mut self, now: Instant) {
        let waiting =
            self.lanes.get(&ResourceType::Cluster).is_some_and(|lane| !lane.removed.is_empty());
        self.removals_held_since =
            if waiting { self.removals_held_since.or(Some(now)) } else { None };
    }

    /// Envoy warms a changed cluster and waits for its endpoints once more.
    fn force_endpoints(&mut self, clusters: &BTreeSet<String>) {
        let Some(set) = &self.set else { return };
        let Some(lane) = self.lanes.get_mut(&ResourceType::Endpoint) else {
            self.early_clusters.extend(clusters.iter().cloned());
            return;
        };
        for name in clusters {
            if lane.covers(name) && set.get(ResourceType::Endpoint, name).is_some() {
                lane.forced.insert(name.clone());
            }
        }
        lane.refresh(set, ResourceType::Endpoint);
    }
}

impl Machine for Stream {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

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
        // An ACK alone changes nothing of what there is to send.
        let mut stale = first
            || !request.resource_names_subscribe.is_empty()
            || !request.resource_names_unsubscribe.is_empty();
        let nonce = &request.response_nonce;
        if let Some(sent) = lane.pace.answered(nonce).or_else(|| lane.pace.answered_late(nonce)) {
            if let Some(error) = &request.error_detail {
                lane.on_nack(sent, &error.message);
                lane.pace.resting_until = Some(now + self.settings.nack_backoff);
                stale = true;
                answer = Answer::Nack { resource_type, message: clipped(&error.message) };
            } else {
                lane.on_ack(sent);
                answer = Answer::Ack(resource_type);
            }
            // As long as parts of a rejected batch wait, none is tried a second time.
            if lane.singly.is_empty() && !lane.refused.is_empty() && is_tried_again(resource_type) {
                lane.retry.refused(now, self.settings.nack_backoff);
            }
        }

        if first {
            lane.wildcard =
                is_wildcard_type(resource_type) && request.resource_names_subscribe.is_empty();
            lane.empty_answer_due = lane.wildcard && request.initial_resource_versions.is_empty();
        }
        for name in request.resource_names_subscribe {
            if name == WILDCARD {
                lane.empty_answer_due |=
                    !lane.wildcard && request.initial_resource_versions.is_empty();
                lane.wildcard = true;
                continue;
            }
            // A repeated subscription asks for the resource again; one that comes with the
            // client's versions asks only for what is newer, or gone.
            lane.known.subscribe(&name);
            if !request.initial_resource_versions.contains_key(&name) {
                lane.forced.insert(name);
            }
        }
        for name in request.resource_names_unsubscribe {
            if name == WILDCARD {
                lane.wildcard = false;
                lane.empty_answer_due = false;
                lane.known.retain_subscribed();
                continue;
            }
            lane.known.unsubscribe(&name);
            lane.forced.remove(&name);
            if lane.wildcard {
                // The wildcard still covers it, and the client has forgotten it.
                lane.forced.insert(name);
            } else {
                lane.known.remove(&name);
                lane.singly.retain(|n| *n != name);
            }
        }
        if first {
            for (name, version) in request.initial_resource_versions {
                if lane.covers(&name) {
                    lane.known.claimed(name, version);
                }
            }
        }
        if stale {
            self.refresh(resource_type);
        }
        if first && resource_type == ResourceType::Endpoint {
            let clusters = std::mem::take(&mut self.early_clusters);
            self.force_endpoints(&clusters);
        }
        self.note_held_removals(now);
        Ok(answer)
    }

    fn set_resources(&mut self, now: Instant, set: Arc<ResourceSet>) {
        let old = self.set.replace(Arc::clone(&set));
        for resource_type in ResourceType::ALL {
            // Lanes are up to date with the set before, so only what differs is looked at.
            if old.as_ref().is_none_or(|old| !set.shares(old, resource_type)) {
                self.refresh(resource_type);
            }
        }
        self.note_held_removals(now);
    }

    fn poll(&mut self, now: Instant) -> Option<(ResourceType, Self::Response)> {
        let (resource_type, changes, removals) = self.next(now)?;
        let set = Arc::clone(self.set.as_ref()?);
        let lane = self.lanes.get_mut(&resource_type)?;

        let mut batch = Batch::default();
        let mut names = BTreeSet::new();
        if changes {
            lane.try_again(now);
            lane.empty_answer_due = false;
            names = std::mem::take(&mut lane.changed);
            lane.singly.retain(|name| !names.contains(name));
        }
        if removals {
            batch.removed = std::mem::take(&mut lane.removed);
            lane.singly.retain(|name| !batch.removed.contains(name));
        }
        if names.is_empty()
            && batch.removed.is_empty()
            && changes
            && let Some(name) = lane.singly.pop_front()
        {
            batch.part = true;
            lane.removed.remove(&name);
            if set.get(resource_type, &name).is_some() && lane.covers(&name) {
                names.insert(name);
            } else {
                batch.removed.insert(name);
            }
        }

        let mut resources = Vec::with_capacity(names.len());
        for name in names {
            let Some(resource) = set.get(resource_type, &name) else { continue };
            resources.push(Resource {
                name: name.clone(),
                version: resource.version.clone(),
                resource: Some(resource.any.clone()),
                ..Resource::default()
            });
            lane.forced.remove(&name);
            lane.known.sent(Arc::clone(resource));
            batch.changed.push(Arc::clone(resource));
        }
        if batch.changed.len() > 1 {
            lane.known.shrink();
        }
        for name in &batch.removed {
            lane.forced.remove(name);
            lane.known.remove(name);
        }

        self.nonce += 1;
        let version = set.version(resource_type);
        let response = DeltaDiscoveryResponse {
            system_version_info: version.clone(),
            resources,
            type_url: resource_type.type_url().to_owned(),
            removed_resources: batch.removed.iter().cloned().collect(),
            nonce: self.nonce.to_string(),
            control_plane: self.settings.control_plane(),
            ..DeltaDiscoveryResponse::default()
        };
        lane.status.sent = Some(version.clone());
        let clusters = (resource_type == ResourceType::Cluster)
            .then(|| batch.changed.iter().map(|resource| resource.name.clone()).collect());
        lane.pace.sent(Outstanding { nonce: self.nonce, sent_at: now, version, content: batch });
        if let Some(clusters) = clusters {
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
            .flat_map(|lane| lane.pace.deadlines().chain(lane.retry.deadline()))
            .chain(self.removals_held_since.map(|since| since + REMOVAL_PATIENCE))
            .filter(|at| *at > now)
            .min()
    }

    fn is_settled(&self) -> bool {
        let Some(set) = &self.set else { return false };
        self.lanes.values().all(|lane| {
            lane.pace.outstanding.is_none()
                && !lane.has_changes()
                && lane.removed.is_empty()
                && lane.refused.is_empty()
        }) && has_all(
            set,
            |t| self.lanes.contains_key(&t),
            |t, r| {
                self.lanes
                    .get(&t)
                    .is_some_and(|lane| lane.known.has(r) || lane.keeps(set, t, &r.name))
            },
        )
    }

    fn status(&self) -> BTreeMap<ResourceType, TypeStatus> {
        self.lanes.iter().map(|(t, lane)| (*t, lane.status.clone())).collect()
    }
}
