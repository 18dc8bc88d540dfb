//! What is measured of the sync, with Kuma's names where it has them (`spec/kds.md` 8.2); gauges are
//! computed when they are asked for.

use std::sync::{Arc, Weak};

use prometheus::{
    Gauge, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::{client::ZoneKds, sender::Seen, server::GlobalKds};

/// Counters of all streams on which a global sends.
#[derive(Clone)]
pub(crate) struct Counters {
    responses: IntCounterVec,
    requests: IntCounterVec,
}

impl Counters {
    pub(crate) fn new() -> Self {
        Self {
            responses: counter(
                "kds_delta_responses_sent",
                "Number of responses sent by the server to a client",
                &["type_url"],
            ),
            requests: counter(
                "kds_delta_requests_received",
                "Number of confirmations requests from a client",
                &["type_url", "confirmation", "error_type"],
            ),
        }
    }

    pub(crate) fn sent(&self, type_url: &str) {
        self.responses.with_label_values(&[type_url]).inc();
    }

    pub(crate) fn answered(&self, type_url: &str, seen: Seen) {
        let labels = match seen {
            Seen::Ack => [type_url, "ACK", "no_error"],
            Seen::Nack => [type_url, "NACK", "other"],
            Seen::Subscribed | Seen::Stale => return,
        };
        self.requests.with_label_values(&labels).inc();
    }
}

#[expect(clippy::expect_used, reason = "names and labels are those above, and well-formed")]
fn counter(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), labels).expect("a counter")
}

/// The global's end.
pub(crate) struct OfGlobal {
    kds: Weak<GlobalKds>,
    counters: Counters,
    streams: IntGauge,
    of_zone: IntGaugeVec,
}

impl OfGlobal {
    pub(crate) fn new(kds: &Arc<GlobalKds>, counters: Counters) -> Result<Self, prometheus::Error> {
        Ok(Self {
            kds: Arc::downgrade(kds),
            counters,
            streams: IntGauge::new(
                "kds_delta_streams_active",
                "Number of active connections between a server and a client",
            )?,
            of_zone: IntGaugeVec::new(
                Opts::new("kds_zone_active_connections", "Number of sync streams of a zone"),
                &["zone_name"],
            )?,
        })
    }

    fn parts(&self) -> [&dyn Collector; 4] {
        [&self.counters.responses, &self.counters.requests, &self.streams, &self.of_zone]
    }
}

impl Collector for OfGlobal {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let zones = self.kds.upgrade().map(|kds| kds.streams()).unwrap_or_default();
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.streams.set(zones.values().map(|streams| count(*streams)).sum());
        for (zone, streams) in &zones {
            self.of_zone.with_label_values(&[zone.as_str()]).set(count(*streams));
        }
        self.parts().into_iter().flat_map(Collector::collect).collect()
    }
}

/// A zone's end.
pub(crate) struct OfZone {
    kds: Weak<ZoneKds>,
    connected: IntGaugeVec,
    staleness: Gauge,
    held_off: IntGauge,
}

impl OfZone {
    pub(crate) fn new(kds: &Arc<ZoneKds>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            kds: Arc::downgrade(kds),
            connected: IntGaugeVec::new(
                Opts::new("sunbear_kds_connected", "1 while the stream to the global is open"),
                &["direction"],
            )?,
            staleness: Gauge::new(
                "sunbear_config_staleness_seconds",
                "How long the zone has been without its global's news; 0 while it has them",
            )?,
            held_off: IntGauge::new(
                "sunbear_kds_global_held_off",
                "1 while the global is of another installation and nothing is taken from it",
            )?,
        })
    }

    fn parts(&self) -> [&dyn Collector; 3] {
        [&self.connected, &self.staleness, &self.held_off]
    }
}

impl Collector for OfZone {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if let Some(kds) = self.kds.upgrade() {
            let connection = *kds.connection().borrow();
            for (direction, open) in [
                ("GlobalToZoneSync", connection.receiving),
                ("ZoneToGlobalSync", connection.sending),
            ] {
                self.connected.with_label_values(&[direction]).set(i64::from(open));
            }
            self.staleness.set(kds.staleness().as_secs_f64());
            self.held_off.set(i64::from(kds.is_held_off()));
        }
        self.parts().into_iter().flat_map(Collector::collect).collect()
    }
}
