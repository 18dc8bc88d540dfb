//! What is told about proxies' streams: DataplaneInsight, ZoneIngressInsight, ZoneEgressInsight
//! (`spec/dp-server.md` 10).
//!
//! Streams only count, in memory. One task writes, so a slow or absent store never holds a
//! stream up. Several proxies' insights go in one commit.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use prost::Message;
use prost_types::{ListValue, Struct, Timestamp, Value, value};
use rand::Rng as _;
use sunbear_model::{Kind, Resource, Spec, validation::compute_labels};
use sunbear_proto::kuma::mesh::v1alpha1::{
    DataplaneInsight, DiscoveryServiceStats, DiscoverySubscription, DiscoverySubscriptionStatus,
    ZoneEgressInsight, ZoneIngressInsight, dataplane_insight::Mtls,
};
use sunbear_store::{
    Batch, BatchMode, Change, ChangeError, Expect, Operation, OwnerRef, Snapshot, StatusChange,
};
use sunbear_xds::{Issue, ResourceType};
use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    identity::Issued,
    lifecycle::mode,
    proxy::{Node, ProxyKey},
    server::DpServer,
};

/// Subscriptions that an insight keeps.
const KEPT_SUBSCRIPTIONS: usize = 2;

/// Key of the issues in the metadata.
const ISSUES: &str = "sunbear.issues";

/// Issues that an insight names; beyond that it only counts them.
const KEPT_ISSUES: usize = 20;

/// Longest pause after the store failed.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// Insights in one commit: a transaction stays short even when all proxies come at once.
const MAX_BATCH: usize = 500;

/// Least time between two writes of one insight, however its streams come and go. Shorter when the
/// flush interval is.
const LEAST_PAUSE: Duration = Duration::from_secs(1);

/// How often the writer looks for what is due. Shorter when the flush interval is.
const TICK: Duration = Duration::from_secs(1);

/// All subscriptions that are open or not yet written to their end.
#[derive(Debug, Default)]
pub(crate) struct Book {
    records: Mutex<Records>,
    /// Woken when something is to be written at once.
    urgent: Notify,
}

#[derive(Debug, Default)]
struct Records {
    next: u64,
    /// By order of beginning.
    by_id: BTreeMap<u64, Record>,
    /// Proxies whose insights were written within the least pause.
    written_at: HashMap<ProxyKey, Instant>,
}

/// One stream.
#[derive(Debug)]
struct Record {
    proxy: ProxyKey,
    metadata: Struct,
    subscription: DiscoverySubscription,
    /// The certificate that the proxy was last given on this stream.
    certificate: Option<Mtls>,
    /// What of its configuration is not as it is configured.
    issues: Option<Value>,
    /// Counts changes, so that a write knows what it has covered.
    edits: u64,
    /// Edits that are stored.
    written: u64,
    /// Do not wait for the interval.
    urgent: bool,
    /// Last attempt to write.
    tried_at: Option<Instant>,
    /// Next sign of life.
    generation_due: Instant,
}

impl Record {
    fn is_due(&self, now: Instant, interval: Duration) -> bool {
        self.edits > self.written
            && (self.urgent || self.tried_at.is_none_or(|at| now >= at + interval))
    }

    fn is_closed(&self) -> bool {
        self.subscription.disconnect_time.is_some()
    }

    /// What the proxy says of itself, and beside it, if there are any, the issues. Control planes
    /// that do not know of them pass the key on and show it as it is.
    fn metadata_with_issues(&self) -> Struct {
        let mut metadata = self.metadata.clone();
        if let Some(issues) = &self.issues {
            metadata.fields.insert(ISSUES.to_owned(), issues.clone());
        }
        metadata
    }
}

/// A stream's hold on its record; closes it when dropped.
#[derive(Debug)]
pub(crate) struct Subscription {
    server: Arc<DpServer>,
    id: u64,
}

impl Subscription {
    /// Begins a subscription.
    pub(crate) fn open(server: &Arc<DpServer>, node: &Node) -> Self {
        let connect_time = timestamp(server.now());
        let subscription = DiscoverySubscription {
            id: Uuid::new_v4().to_string(),
            control_plane_instance_id: server.config.instance_id.clone(),
            connect_time: Some(connect_time),
            status: Some(DiscoverySubscriptionStatus {
                total: Some(DiscoveryServiceStats::default()),
                cds: Some(DiscoveryServiceStats::default()),
                eds: Some(DiscoveryServiceStats::default()),
                lds: Some(DiscoveryServiceStats::default()),
                rds: Some(DiscoveryServiceStats::default()),
                ..DiscoverySubscriptionStatus::default()
            }),
            version: Some(node.version.clone()),
            ..DiscoverySubscription::default()
        };
        let mut records = server.insights.lock();
        records.next += 1;
        let id = records.next;
        let record = Record {
            proxy: node.key.clone(),
            metadata: node.metadata.clone(),
            subscription,
            certificate: None,
            issues: None,
            edits: 1,
            written: 0,
            urgent: true,
            tried_at: None,
            generation_due: Instant::now() + server.config.generation_interval,
        };
        records.by_id.insert(id, record);
        drop(records);
        server.insights.urgent.notify_one();
        Self { server: Arc::clone(server), id }
    }

    /// A response went out.
    pub(crate) fn sent(&self, resource_type: ResourceType) {
        self.count(resource_type, |stats| stats.responses_sent += 1);
    }

    /// It was accepted.
    pub(crate) fn acknowledged(&self, resource_type: ResourceType) {
        self.count(resource_type, |stats| stats.responses_acknowledged += 1);
    }

    /// It was rejected.
    pub(crate) fn rejected(&self, resource_type: ResourceType) {
        self.count(resource_type, |stats| stats.responses_rejected += 1);
    }

    /// The proxy has this certificate.
    pub(crate) fn certificate(&self, issued: &Issued) {
        let certificate = Mtls {
            certificate_expiration_time: Some(timestamp(issued.valid_until)),
            last_certificate_regeneration: Some(timestamp(issued.issued_at)),
            certificate_regenerations: 0,
            issued_backend: issued.backend.clone(),
            supported_backends: issued.supported.clone(),
        };
        let mut records = self.server.insights.lock();
        let Some(record) = records.by_id.get_mut(&self.id) else { return };
        if record.certificate.as_ref() != Some(&certificate) {
            record.certificate = Some(certificate);
            record.edits += 1;
        }
    }

    /// Parts of its configuration are not as they are configured, or there is no new one at all.
    /// This is written at once: it is what somebody has to act upon.
    pub(crate) fn issues(&self, issues: &[Issue], error: Option<&str>) {
        let value = issues_value(issues, error);
        let mut records = self.server.insights.lock();
        let Some(record) = records.by_id.get_mut(&self.id) else { return };
        if record.issues == value {
            return;
        }
        record.issues = value;
        record.edits += 1;
        record.urgent = true;
        drop(records);
        self.server.insights.urgent.notify_one();
    }

    fn count(&self, resource_type: ResourceType, f: impl Fn(&mut DiscoveryServiceStats)) {
        let now = timestamp(self.server.now());
        let mut records = self.server.insights.lock();
        let Some(record) = records.by_id.get_mut(&self.id) else { return };
        record.edits += 1;
        let status = record.subscription.status.get_or_insert_default();
        status.last_update_time = Some(now);
        f(status.total.get_or_insert_default());
        let own = match resource_type {
            ResourceType::Cluster => &mut status.cds,
            ResourceType::Endpoint => &mut status.eds,
            ResourceType::Listener => &mut status.lds,
            ResourceType::Route => &mut status.rds,
            ResourceType::Secret | ResourceType::Runtime => return,
        };
        f(own.get_or_insert_default());
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let now = timestamp(self.server.now());
        let mut records = self.server.insights.lock();
        if let Some(record) = records.by_id.get_mut(&self.id) {
            record.subscription.disconnect_time = Some(now);
            record.edits += 1;
            record.urgent = true;
        }
        drop(records);
        self.server.insights.urgent.notify_one();
    }
}

impl Book {
    fn lock(&self) -> MutexGuard<'_, Records> {
        // Nothing panics while holding the lock.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what is due, until told to stop.
    pub(crate) async fn run(&self, server: &DpServer, stop: &CancellationToken) {
        let tick = TICK.min(server.config.status_flush_interval);
        let mut pause = None;
        loop {
            let failed = self.write(server, false).await.is_err();
            let wait = if failed {
                let next = pause.map_or(tick, |p: Duration| (p * 2).min(MAX_PAUSE));
                pause = Some(next);
                next.mul_f64(rand::rng().random_range(0.75..1.25))
            } else {
                pause = None;
                tick
            };
            let urgent = async {
                if failed { std::future::pending().await } else { self.urgent.notified().await }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = urgent => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Writes what is due, or all that is not written, in batches.
    pub(crate) async fn write(&self, server: &DpServer, everything: bool) -> Result<(), ()> {
        let now = Instant::now();
        self.show_life(now, server.config.generation_interval);
        let mut due = self.due(now, server, everything);
        while !due.is_empty() {
            let rest = due.split_off(due.len().min(MAX_BATCH));
            self.write_batch(server, &due).await?;
            due = rest;
        }
        Ok(())
    }

    /// Writes what is not yet written about one proxy.
    pub(crate) async fn write_one(&self, server: &DpServer, proxy: &ProxyKey) -> Result<(), ()> {
        self.write_batch(server, std::slice::from_ref(proxy)).await
    }

    /// Moves the generation of open subscriptions on, so that others see that they are alive.
    fn show_life(&self, now: Instant, interval: Duration) {
        for record in self.lock().by_id.values_mut() {
            if now >= record.generation_due && !record.is_closed() {
                record.subscription.generation += 1;
                record.edits += 1;
                record.generation_due = now + interval;
            }
        }
    }

    /// Proxies with something to write.
    fn due(&self, now: Instant, server: &DpServer, everything: bool) -> Vec<ProxyKey> {
        let interval = server.config.status_flush_interval;
        let pause = LEAST_PAUSE.min(interval);
        let mut records = self.lock();
        records.written_at.retain(|_, at| now < *at + pause);
        let records = records;
        let mut due: Vec<ProxyKey> = records
            .by_id
            .values()
            .filter(|r| {
                let rests = records.written_at.contains_key(&r.proxy);
                (r.is_due(now, interval) && !rests) || (everything && r.edits > r.written)
            })
            .map(|r| r.proxy.clone())
            .collect();
        due.sort_unstable();
        due.dedup();
        due
    }

    async fn write_batch(&self, server: &DpServer, proxies: &[ProxyKey]) -> Result<(), ()> {
        let snapshot = server.world.snapshot();
        let plan = self.plan(server, &snapshot, proxies);
        if plan.is_empty() {
            return Ok(());
        }
        let batch = Batch {
            changes: plan.iter().map(|p| p.change.clone()).collect(),
            author: "dp-server".to_owned(),
            reason: "proxy status".to_owned(),
            mode: BatchMode::Independent,
            at: server.now(),
        };
        match server.world.commit(batch).await {
            Ok(committed) => {
                for (planned, result) in plan.iter().zip(&committed.results) {
                    self.settle(planned, result.as_ref().err());
                }
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%error, insights = plan.len(), "could not write insights, trying again");
                let mut records = self.lock();
                for (id, _) in plan.iter().flat_map(|p| &p.covered) {
                    if let Some(record) = records.by_id.get_mut(id) {
                        record.urgent = true;
                    }
                }
                Err(())
            }
        }
    }

    /// What to write for these proxies. What is stored already, and what has no resource to
    /// belong to any more, is settled here.
    fn plan(&self, server: &DpServer, snapshot: &Snapshot, proxies: &[ProxyKey]) -> Vec<Planned> {
        let now = Instant::now();
        let mut plan = Vec::new();
        let mut records = self.lock();
        for proxy in proxies {
            let covered: Vec<(u64, u64)> = records
                .by_id
                .iter()
                .filter(|(_, r)| r.proxy == *proxy)
                .map(|(id, r)| (*id, r.edits))
                .collect();
            let stored = snapshot.get(&proxy.insight_key());
            let mut insight = Insight::read(proxy, stored.map(|r| &**r));
            for (id, _) in &covered {
                if let Some(record) = records.by_id.get_mut(id) {
                    record.urgent = false;
                    record.tried_at = Some(now);
                    insight.put(&record.subscription, &record.metadata_with_issues());
                    if let Some(certificate) = &record.certificate {
                        insight.put_certificate(certificate);
                    }
                }
            }
            let spec = insight.to_spec();
            let key = proxy.insight_key();
            let labels = compute_labels(&mode(&server.config), &key, &spec, BTreeMap::default());
            let gone = snapshot.get(&proxy.resource_key()).is_none();
            let equal = stored.is_some_and(|r| r.spec == spec && r.labels == labels);
            if gone || equal {
                // Without its proxy an insight cannot be; one that is still to come is awaited.
                records.settle(&covered, equal, gone);
                continue;
            }
            let op = Operation::Put {
                spec,
                labels,
                status: StatusChange::Keep,
                owner: OwnerRef::Key(proxy.resource_key()),
                expect: stored.map_or(Expect::Absent, |r| Expect::Version(r.version)),
            };
            records.written_at.insert(proxy.clone(), now);
            plan.push(Planned { change: Change { key, op }, covered });
        }
        plan
    }

    fn settle(&self, planned: &Planned, error: Option<&ChangeError>) {
        let gone = match error {
            None => false,
            Some(ChangeError::OwnerMissing { .. }) => true,
            Some(error) => {
                // Somebody else wrote it; the next attempt starts from that.
                tracing::debug!(%error, "insight not written");
                false
            }
        };
        self.lock().settle(&planned.covered, error.is_none(), gone);
    }
}

impl Records {
    /// Marks edits as written; forgets subscriptions that are written to their end, or whose
    /// proxy has gone.
    fn settle(&mut self, covered: &[(u64, u64)], written: bool, gone: bool) {
        for (id, edits) in covered {
            let Some(record) = self.by_id.get_mut(id) else { continue };
            if written {
                record.written = *edits;
            } else if !gone {
                // At the next look, not only after the interval.
                record.urgent = true;
            }
            let done = record.is_closed() && (gone || record.written == record.edits);
            if done {
                self.by_id.remove(id);
            }
        }
    }
}

/// A change, and the edits of subscriptions that it stores.
#[derive(Debug)]
struct Planned {
    change: Change,
    covered: Vec<(u64, u64)>,
}

/// One of the three kinds.
#[derive(Debug)]
enum Insight {
    Dataplane(DataplaneInsight),
    ZoneIngress(ZoneIngressInsight),
    ZoneEgress(ZoneEgressInsight),
}

impl Insight {
    /// What is stored; empty if there is nothing or it is malformed.
    fn read(proxy: &ProxyKey, stored: Option<&Resource>) -> Self {
        fn decode<M: Message + Default>(stored: Option<&Resource>) -> M {
            stored.and_then(|r| M::decode(r.spec.wire()).ok()).unwrap_or_default()
        }
        match proxy.insight_key().kind {
            Kind::ZONE_INGRESS_INSIGHT => Self::ZoneIngress(decode(stored)),
            Kind::ZONE_EGRESS_INSIGHT => Self::ZoneEgress(decode(stored)),
            _ => Self::Dataplane(decode(stored)),
        }
    }

    /// Enters a subscription. A new one ends those that seem open, for there is one stream a
    /// proxy; one that is older than the newest and has been dropped stays so.
    fn put(&mut self, subscription: &DiscoverySubscription, metadata: &Struct) {
        let (subscriptions, stored_metadata) = match self {
            Self::Dataplane(i) => (&mut i.subscriptions, &mut i.metadata),
            Self::ZoneIngress(i) => (&mut i.subscriptions, &mut i.metadata),
            Self::ZoneEgress(i) => (&mut i.subscriptions, &mut i.metadata),
        };
        if let Some(stored) = subscriptions.iter_mut().find(|s| s.id == subscription.id) {
            stored.clone_from(subscription);
        } else {
            let began =
                |s: &DiscoverySubscription| s.connect_time.map_or((0, 0), |t| (t.seconds, t.nanos));
            if subscriptions.last().is_some_and(|last| began(last) > began(subscription)) {
                return;
            }
            for open in subscriptions.iter_mut().filter(|s| s.disconnect_time.is_none()) {
                open.disconnect_time = subscription.connect_time;
            }
            subscriptions.push(subscription.clone());
            let surplus = subscriptions.len().saturating_sub(KEPT_SUBSCRIPTIONS);
            subscriptions.drain(..surplus);
        }
        if subscriptions.last().is_some_and(|last| last.id == subscription.id) {
            *stored_metadata = Some(metadata.clone());
        }
    }

    /// Enters a certificate, and counts it if it is another one than before.
    fn put_certificate(&mut self, certificate: &Mtls) {
        let Self::Dataplane(insight) = self else { return };
        let stored = insight.m_tls.take().unwrap_or_default();
        let regenerations = stored.certificate_regenerations;
        let known = Mtls { certificate_regenerations: 0, ..stored } == *certificate;
        insight.m_tls = Some(Mtls {
            certificate_regenerations: if known { regenerations } else { regenerations + 1 },
            ..certificate.clone()
        });
    }

    fn to_spec(&self) -> Spec {
        match self {
            Self::Dataplane(i) => Spec::from_message(Kind::DATAPLANE_INSIGHT, i),
            Self::ZoneIngress(i) => Spec::from_message(Kind::ZONE_INGRESS_INSIGHT, i),
            Self::ZoneEgress(i) => Spec::from_message(Kind::ZONE_EGRESS_INSIGHT, i),
        }
    }
}

/// The control plane instance of an insight's last subscription.
pub(crate) fn last_instance(insight: &Resource) -> Option<String> {
    let wire = insight.spec.wire();
    let subscriptions = match insight.key.kind {
        Kind::ZONE_INGRESS_INSIGHT => ZoneIngressInsight::decode(wire).ok()?.subscriptions,
        Kind::ZONE_EGRESS_INSIGHT => ZoneEgressInsight::decode(wire).ok()?.subscriptions,
        _ => DataplaneInsight::decode(wire).ok()?.subscriptions,
    };
    subscriptions.last().map(|s| s.control_plane_instance_id.clone())
}

/// `{count, error, items: [{type, mesh, name, field, reason, effect}]}`; none if there is nothing to
/// tell.
fn issues_value(issues: &[Issue], error: Option<&str>) -> Option<Value> {
    if issues.is_empty() && error.is_none() {
        return None;
    }
    let items = issues.iter().take(KEPT_ISSUES).map(|issue| {
        let key = &issue.resource;
        object([
            ("type", text(key.kind.name())),
            ("mesh", text(&key.mesh)),
            ("name", text(&key.name)),
            ("field", text(&issue.field)),
            ("reason", text(&issue.reason)),
            ("effect", text(issue.effect.name())),
        ])
    });
    let list = ListValue { values: items.collect() };
    #[expect(clippy::cast_precision_loss, reason = "a count of parts of a configuration")]
    let count = Value { kind: Some(value::Kind::NumberValue(issues.len() as f64)) };
    let items = Value { kind: Some(value::Kind::ListValue(list)) };
    let error = error.map(|error| ("error", text(error)));
    Some(object([("count", count), ("items", items)].into_iter().chain(error)))
}

fn object(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Value { kind: Some(value::Kind::StructValue(Struct { fields })) }
}

fn text(text: &str) -> Value {
    Value { kind: Some(value::Kind::StringValue(text.to_owned())) }
}

fn timestamp(at: OffsetDateTime) -> Timestamp {
    Timestamp {
        seconds: at.unix_timestamp(),
        nanos: i32::try_from(at.nanosecond()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
