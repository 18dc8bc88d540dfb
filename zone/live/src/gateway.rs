//! A zone with a gateway.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use sunbear_dp_server::ProxyStatus;
use sunbear_model::ResourceKey;
use sunbear_store::{Change, Revision};

use crate::{
    backend::Backend,
    envoy::{Envoy, EnvoyOptions},
    scene::Scene,
    wait::{eventually, eventually_async},
    zone::Zone,
};

/// The gateway's mesh.
pub const MESH: &str = "default";
/// The gateway's service.
pub const SERVICE: &str = "edge";
/// Name of the gateway's Dataplane.
pub const DATAPLANE: &str = "edge-1";

/// A zone with a gateway, and three services that speak HTTP, `a`, `b` and `c`.
#[derive(Debug)]
pub struct Gateway {
    /// The control plane.
    pub zone: Zone,
    /// The proxy.
    pub envoy: Envoy,
    /// The services.
    pub backends: [Backend; 3],
    /// What scenes have put into the store.
    pub(crate) stored: Mutex<BTreeSet<ResourceKey>>,
    scenes: AtomicU64,
}

impl Gateway {
    /// What [`Self::start`] starts Envoy with.
    pub fn options() -> EnvoyOptions {
        EnvoyOptions {
            name: DATAPLANE.to_owned(),
            mesh: MESH.to_owned(),
            dataplane: json!({
                "type": "Dataplane",
                "mesh": MESH,
                "name": DATAPLANE,
                "networking": {
                    "address": "127.0.0.1",
                    "gateway": {"type": "BUILTIN", "tags": {"kuma.io/service": SERVICE}},
                    // The admin interface is on a socket; the listener for it would be here.
                    "admin": {"port": crate::port::Port::take().number()},
                },
            }),
            features: vec!["feature-delta-grpc"],
            request: Value::Null,
            bootstrap: |_| {},
            concurrency: 1,
        }
    }

    /// Starts everything; none if there is no Envoy here.
    pub async fn start() -> Option<Self> {
        Self::with(Self::options()).await
    }

    /// Starts everything; none if there is no Envoy here.
    pub async fn with(options: EnvoyOptions) -> Option<Self> {
        let program = Envoy::find()?;
        let zone = Zone::start(|config| {
            // Cases that provoke refusals would wait for this.
            config.nack_backoff = Duration::from_millis(200);
        })
        .await;
        let mesh = crate::scene::read(&json!({"type": "Mesh", "name": MESH}));
        zone.commit(vec![Change::put(mesh.0, mesh.1, mesh.2)]).await;
        let envoy = Envoy::start(&program, &zone, &options).await;
        let backends =
            [Backend::http("a").await, Backend::http("b").await, Backend::http("c").await];
        let gateway =
            Self { zone, envoy, backends, stored: Mutex::default(), scenes: AtomicU64::default() };
        eventually_async("Envoy is up", async || {
            gateway.envoy.admin("/ready").await.filter(|answer| answer.contains("LIVE"))
        })
        .await;
        Some(gateway)
    }

    /// One of the services.
    pub fn backend(&self, name: &str) -> &Backend {
        self.backends.iter().find(|b| b.name == name).unwrap()
    }

    /// An empty scene: the mesh, and the three services.
    pub fn scene(&self) -> Scene<'_> {
        Scene::new(self, self.scenes.fetch_add(1, Ordering::Relaxed))
    }

    /// How the proxy does.
    pub fn status(&self) -> ProxyStatus {
        self.zone.status(DATAPLANE).unwrap()
    }

    /// What was left out of the proxy's configuration, as text.
    pub fn issues(&self) -> Vec<String> {
        self.status().issues.iter().map(ToString::to_string).collect()
    }

    /// Waits until the Envoy has acknowledged the revision, and has nothing to warm.
    pub async fn settled(&self, revision: Revision) {
        eventually("Envoy acknowledges", || {
            let status = self.zone.status(DATAPLANE)?;
            for (kind, state) in &status.types {
                let refused = state.rejected.as_ref();
                assert!(refused.is_none(), "Envoy refuses {kind:?}: {refused:?}");
            }
            (status.applied_revision >= Some(revision)).then_some(())
        })
        .await;
        eventually_async("everything is warm", async || {
            let warming =
                "(cluster_manager.warming_clusters|listener_manager.total_listeners_warming)";
            (self.envoy.stat(warming).await == 0).then_some(())
        })
        .await;
    }
}
