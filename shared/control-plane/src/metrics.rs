//! What is measured of the process and of its world; computed when it is asked for.

use prometheus::{
    Gauge, IntGauge, IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use sunbear_model::Kind;
use sunbear_store::{World, WorldState};

use crate::{Instance, KUMA_VERSION};

/// A registry with what every control plane has.
pub(crate) fn registry(world: &World, instance: &Instance) -> Result<Registry, prometheus::Error> {
    let registry = Registry::new();
    let info = Opts::new("cp_info", "Static information about the CP instance")
        .const_label("instance_id", &instance.id)
        .const_label("product", "Kuma")
        .const_label("version", KUMA_VERSION)
        .const_label("sunbear_version", env!("CARGO_PKG_VERSION"));
    let info = IntGauge::with_opts(info)?;
    info.set(1);
    registry.register(Box::new(info))?;
    registry.register(Box::new(OfWorld::new(world.clone())?))?;
    Ok(registry)
}

struct OfWorld {
    world: World,
    revision: IntGauge,
    lag: IntGauge,
    silence: Gauge,
    following: IntGauge,
    reloads: IntGauge,
    failures: IntGauge,
    resources: IntGaugeVec,
}

impl OfWorld {
    fn new(world: World) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| IntGauge::new(name, help);
        let resources = Opts::new("resources_count", "Number of resources in the store");
        Ok(Self {
            world,
            revision: gauge("sunbear_store_revision", "Newest revision in memory")?,
            lag: gauge(
                "sunbear_store_lag_revisions",
                "Revisions that are known to be committed and not yet in memory",
            )?,
            silence: Gauge::new(
                "sunbear_store_contact_age_seconds",
                "Time since the database last answered; without news it is asked every 10 s",
            )?,
            following: gauge(
                "sunbear_store_following",
                "1 while memory follows the database, 0 while it is as of the last contact",
            )?,
            reloads: gauge("sunbear_store_reloads", "How often everything was loaded anew")?,
            failures: gauge("sunbear_store_failures", "How often the database failed to answer")?,
            resources: IntGaugeVec::new(resources, &["resource_type"])?,
        })
    }

    fn parts(&self) -> [&dyn Collector; 7] {
        [
            &self.revision,
            &self.lag,
            &self.silence,
            &self.following,
            &self.reloads,
            &self.failures,
            &self.resources,
        ]
    }

    /// Brings the gauges up to date.
    fn measure(&self) {
        let health = self.world.health();
        let snapshot = self.world.snapshot();
        self.revision.set(whole(health.revision));
        self.lag.set(whole(health.lag));
        self.silence.set(health.since_contact.as_secs_f64());
        self.following.set(i64::from(health.state == WorldState::Following));
        self.reloads.set(whole(health.reloads));
        self.failures.set(whole(health.failures));
        self.resources.reset();
        for kind in Kind::all() {
            let count = snapshot.count(kind);
            if count > 0 {
                let gauge = self.resources.with_label_values(&[kind.name()]);
                gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
    }
}

impl Collector for OfWorld {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.measure();
        self.parts().into_iter().flat_map(Collector::collect).collect()
    }
}

fn whole(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
