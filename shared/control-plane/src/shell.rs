//! A running control plane, as far as global and zone are the same.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use prometheus::Registry;
use serde_json::Value;
use sunbear_api::{
    AdminBackend, ApiState, ConfigPreview, Hooks, Options,
    defaults::{DefaultsSettings, ensure_defaults},
};
use sunbear_model::validation::Mode;
use sunbear_runtime::{
    config::{Common, ServerTls, TlsFiles},
    readiness::Readiness,
    serve::Transport,
    tasks::Tasks,
    tls::ReloadableCertificate,
};
use sunbear_store::{Store, World};
use time::OffsetDateTime;
use tracing::info;

use crate::{Instance, metrics, serving, storage};

/// How long open calls may go on after a signal.
const DRAIN: Duration = Duration::from_secs(10);

/// A control plane whose store is open and complete.
pub struct Shell {
    /// Who it is.
    pub instance: Instance,
    /// Its tasks, which end together.
    pub tasks: Tasks,
    /// What it still waits for.
    pub readiness: Readiness,
    /// Its resources.
    pub world: World,
    /// Its role towards resources.
    pub mode: Mode,
    /// Its configuration.
    pub common: Common,
    /// What is measured; served with diagnostics.
    pub metrics: Registry,
    store: Arc<dyn Store>,
    certificates: Mutex<Vec<(Option<TlsFiles>, Arc<ReloadableCertificate>)>>,
}

/// What REST learns of proxies that is in no resource.
pub struct OfProxies {
    /// Asks their Envoys.
    pub envoy_admin: Arc<dyn AdminBackend>,
    /// Generates their configurations.
    pub config_preview: Arc<dyn ConfigPreview>,
}

impl Shell {
    /// Opens the store, makes what a new installation has, and begins the upkeep.
    pub async fn start(common: Common, mode: Mode) -> Result<Self> {
        let instance = Instance::new();
        let tasks = Tasks::new();
        tasks.listen_for_signals()?;
        let readiness = Readiness::new();
        info!(
            version = env!("CARGO_PKG_VERSION"),
            instance = instance.id,
            role = ?mode,
            "control plane starts"
        );
        let store = storage::open(&common.store).await?;
        let world = storage::start_world(&tasks, &readiness, Arc::clone(&store)).await?;
        ensure_defaults(
            &world,
            &DefaultsSettings {
                mode: mode.clone(),
                skip_mesh_creation: common.defaults.skip_mesh_creation,
                skip_hostname_generators: common.defaults.skip_hostname_generators,
                bootstrap_admin_token: common.api.bootstrap_admin_token,
                clock: OffsetDateTime::now_utc,
            },
        )
        .await
        .context("the objects of a new installation")?;
        tasks.spawn("upkeep", storage::maintain(world.clone(), instance.id.clone(), tasks.token()));
        let metrics = metrics::registry(&world, &instance)?;
        let certificates = Mutex::default();
        Ok(Self { instance, tasks, readiness, world, mode, common, metrics, store, certificates })
    }

    /// Keeps MeshInsights and ServiceInsights.
    pub fn keep_insights(&self) {
        self.tasks.spawn(
            "insights",
            sunbear_insights::run(
                self.world.clone(),
                self.instance.id.clone(),
                self.tasks.token(),
                sunbear_insights::INTERVAL,
            ),
        );
    }

    /// The certificate that the settings name, or the one of the work folder. Servers with the same
    /// files share it.
    pub fn certificate(&self, tls: &ServerTls) -> Result<Arc<ReloadableCertificate>> {
        let mut known = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, certificate)) = known.iter().find(|(files, _)| *files == tls.files) {
            return Ok(Arc::clone(certificate));
        }
        let certificate =
            serving::certificate(&self.tasks, tls, &self.common.general, &self.instance)?;
        known.push((tls.files.clone(), Arc::clone(&certificate)));
        Ok(certificate)
    }

    /// A transport with that certificate.
    pub fn transport(&self, tls: &ServerTls) -> Result<Transport> {
        serving::tls_transport(self.certificate(tls)?, tls)
    }

    /// Serves REST and diagnostics. `config` is what `/config` answers.
    pub async fn serve(
        &self,
        hooks: Arc<dyn Hooks>,
        proxies: OfProxies,
        config: Value,
    ) -> Result<()> {
        let api = &self.common.api;
        if api.anonymous_writes {
            info!("callers without credentials may write (apiServer.authn.anonymousWrites)");
        }
        let state = ApiState {
            world: self.world.clone(),
            hooks,
            mode: self.mode.clone(),
            identity: serving::introduction(&self.instance, ""),
            config_json: config,
            access: serving::access(api, &self.common.access),
            issuers: serving::issuers(api, &self.common.proxy_authentication),
            read_only: api.read_only,
            unsafe_delete: self.common.store.unsafe_delete,
            clock: OffsetDateTime::now_utc,
            options: Options {
                envoy_admin: proxies.envoy_admin,
                config_preview: proxies.config_preview,
                ..serving::options(api)?
            },
        };
        serving::api(self, state).await?;
        serving::diagnostics(self).await
    }

    /// Waits for the signal to stop and for everything to end; false if something without which
    /// the control plane is of no use ended before.
    pub async fn until_stopped(self) -> bool {
        self.tasks.stopped().await;
        let _ = self.tasks.shutdown(DRAIN).await;
        self.store.close().await;
        info!("stopped");
        self.tasks.failed().is_none()
    }
}
