//! What is measured of proxies' streams. Counters of the protocol have Kuma's names (Kuma:
//! pkg/util/xds/stats_callbacks.go); gauges are computed when they are asked for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
    time::Duration,
};

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use sunbear_xds::{Issue, ResourceType};

use crate::server::DpServer;

/// Bounds of the time that a generation takes, in seconds.
const GENERATION_BUCKETS: [f64; 10] =
    [0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// Counters of all streams.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    generation: Histogram,
    responses: IntCounterVec,
    requests: IntCounterVec,
    /// By type, in the order of [`ResourceType::ALL`].
    of_type: Vec<OfType>,
}

#[derive(Debug, Clone)]
struct OfType {
    sent: IntCounter,
    acknowledged: IntCounter,
    rejected: IntCounter,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let responses = IntCounterVec::new(
            Opts::new("xds_responses_sent", "Number of responses sent by the server to a client"),
            &["type_url"],
        )?;
        let requests = IntCounterVec::new(
            Opts::new("xds_requests_received", "Number of confirmations requests from a client"),
            &["type_url", "confirmation", "error_type"],
        )?;
        let generation = Histogram::with_opts(
            HistogramOpts::new(
                "sunbear_xds_generation_seconds",
                "Time to bring the configuration of one proxy up to date",
            )
            .buckets(GENERATION_BUCKETS.to_vec()),
        )?;
        let of_type = ResourceType::ALL
            .into_iter()
            .map(|t| {
                let url = t.type_url();
                OfType {
                    sent: responses.with_label_values(&[url]),
                    acknowledged: requests.with_label_values(&[url, "ACK", "no_error"]),
                    rejected: requests.with_label_values(&[url, "NACK", "other"]),
                }
            })
            .collect();
        Ok(Self { generation, responses, requests, of_type })
    }

    pub(crate) fn generated(&self, took: Duration) {
        self.generation.observe(took.as_secs_f64());
    }

    pub(crate) fn sent(&self, resource_type: ResourceType) {
        self.count(resource_type, |counters| &counters.sent);
    }

    pub(crate) fn acknowledged(&self, resource_type: ResourceType) {
        self.count(resource_type, |counters| &counters.acknowledged);
    }

    pub(crate) fn rejected(&self, resource_type: ResourceType) {
        self.count(resource_type, |counters| &counters.rejected);
    }

    fn count(&self, resource_type: ResourceType, which: impl Fn(&OfType) -> &IntCounter) {
        if let Some(counters) = self.of_type.get(resource_type as usize) {
            which(counters).inc();
        }
    }

    /// All of it, with gauges over the proxies of a server.
    pub(crate) fn collector(
        &self,
        server: &Arc<DpServer>,
    ) -> Result<Box<dyn Collector>, prometheus::Error> {
        let by_mesh = |name: &str, help: &str, labels: &[&str]| {
            IntGaugeVec::new(Opts::new(name, help), labels)
        };
        Ok(Box::new(OfServer {
            server: Arc::downgrade(server),
            metrics: self.clone(),
            streams: IntGauge::new(
                "xds_streams_active",
                "Number of active connections between a server and a client",
            )?,
            issues: by_mesh(
                "sunbear_xds_generation_issues",
                "Parts of resources that connected proxies do not get as they are configured",
                &["mesh", "effect"],
            )?,
            affected: by_mesh(
                "sunbear_xds_proxies_with_issues",
                "Connected proxies that get something not as it is configured",
                &["mesh"],
            )?,
            failed: by_mesh(
                "sunbear_xds_proxies_without_generation",
                "Connected proxies for which no new configuration can be generated",
                &["mesh"],
            )?,
            refusing: by_mesh(
                "sunbear_xds_proxies_rejecting",
                "Connected proxies that refuse something that is still wanted",
                &["mesh"],
            )?,
        }))
    }
}

struct OfServer {
    server: Weak<DpServer>,
    metrics: Metrics,
    streams: IntGauge,
    issues: IntGaugeVec,
    affected: IntGaugeVec,
    failed: IntGaugeVec,
    refusing: IntGaugeVec,
}

impl OfServer {
    fn parts(&self) -> [&dyn Collector; 8] {
        let Metrics { generation, responses, requests, of_type: _ } = &self.metrics;
        [
            generation,
            responses,
            requests,
            &self.streams,
            &self.issues,
            &self.affected,
            &self.failed,
            &self.refusing,
        ]
    }

    /// Brings the gauges up to date.
    fn measure(&self) {
        let statuses = self.server.upgrade().map(|server| server.statuses()).unwrap_or_default();
        self.streams.set(count(statuses.len()));
        let mut issues: BTreeMap<&str, BTreeSet<&Issue>> = BTreeMap::new();
        for gauge in [&self.issues, &self.affected, &self.failed, &self.refusing] {
            gauge.reset();
        }
        for status in &statuses {
            let mesh = &*status.proxy.mesh;
            issues.entry(mesh).or_default().extend(&status.issues);
            let refuses = status.types.values().any(|t| t.rejected.is_some());
            for (gauge, counts) in [
                (&self.affected, !status.issues.is_empty()),
                (&self.failed, status.generation_error.is_some()),
                (&self.refusing, refuses),
            ] {
                gauge.with_label_values(&[mesh]).add(i64::from(counts));
            }
        }
        for (mesh, issues) in issues {
            for issue in issues {
                self.issues.with_label_values(&[mesh, issue.effect.name()]).inc();
            }
        }
    }
}

impl Collector for OfServer {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.measure();
        self.parts().into_iter().flat_map(Collector::collect).collect()
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
