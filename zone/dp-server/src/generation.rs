//! When to generate a proxy's configuration, and doing it beside the stream's task: one generation
//! at a time, always from the newest snapshot that the stream was told of.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use sunbear_model::ResourceKey;
use sunbear_store::{Revision, Snapshot};
use sunbear_xds::{Dependencies, Fleet, Generated, Issue, Proxy, ResourceSet, SecretRequest};
use time::OffsetDateTime;
use tokio::task::JoinHandle;

use crate::{
    identity::{self, Provided},
    proxy::{Node, ProxyKind},
    server::DpServer,
    view::SnapshotView,
};

/// Changed keys that are remembered one by one. Beyond that everything counts as changed.
const MAX_KEYS: usize = 1000;

/// Pause before a certificate that could not be renewed is tried again.
const RENEWAL_PAUSE: Duration = Duration::from_secs(30);

/// What a generation gave; nothing if it panicked.
pub(crate) type Finished = Option<Outcome>;

/// The end of a generation.
pub(crate) struct Outcome {
    engine: sunbear_xds::Generator,
    revision: Revision,
    result: Result<Configuration, String>,
}

/// What a proxy gets.
pub(crate) struct Configuration {
    generated: Arc<Generated>,
    /// The messages, secrets among them.
    pub(crate) resources: Arc<ResourceSet>,
    /// The proxy's certificate, if it needs one, and the authorities.
    pub(crate) provided: Provided,
    /// Parts that are not as they are configured, and secrets that could not be provided.
    pub(crate) issues: Vec<Issue>,
}

/// Resources that may differ from those of the snapshot of the last generation.
enum Changed {
    Anything,
    Keys(BTreeSet<ResourceKey>),
}

impl Changed {
    fn add(&mut self, keys: Option<&[ResourceKey]>) {
        match (&mut *self, keys) {
            (Changed::Anything, _) => {}
            (Changed::Keys(known), Some(keys)) if known.len() + keys.len() <= MAX_KEYS => {
                known.extend(keys.iter().cloned());
            }
            (Changed::Keys(_), _) => *self = Changed::Anything,
        }
    }
}

/// Generates for one proxy.
pub(crate) struct Generator {
    fleet: Arc<Fleet>,
    proxy: Proxy,
    kind: ProxyKind,
    /// What remembers between generations; away while one runs.
    engine: Option<sunbear_xds::Generator>,
    running: Option<JoinHandle<Finished>>,
    /// Begin of the last generation.
    started_at: Option<Instant>,
    /// The newest snapshot that was told.
    latest: Arc<Snapshot>,
    changed: Changed,
    /// A change came that was not yet held against the dependencies, which are being made anew.
    unexamined: Changed,
    /// Of the last success, or of a failure.
    dependencies: Dependencies,
    /// Of the last success.
    last: Option<Arc<Generated>>,
    secrets: BTreeSet<SecretRequest>,
    provided: Provided,
    /// Revision of the snapshot of the last result.
    generated: Revision,
}

impl Generator {
    pub(crate) fn new(server: &DpServer, node: &Node, latest: Arc<Snapshot>) -> Self {
        let proxy = Proxy {
            mesh: node.key.mesh.to_string(),
            name: node.key.name.to_string(),
            metadata: node.proxy_metadata(),
        };
        Self {
            fleet: Arc::clone(&server.fleet),
            kind: node.key.kind,
            engine: None,
            running: None,
            started_at: None,
            latest,
            changed: Changed::Anything,
            unexamined: Changed::Keys(BTreeSet::new()),
            dependencies: Dependencies::of_failed(&proxy),
            last: None,
            secrets: BTreeSet::new(),
            provided: Provided::default(),
            generated: 0,
            proxy,
        }
    }

    /// Takes note of changes; none: anything may have changed.
    pub(crate) fn note(&mut self, snapshot: Arc<Snapshot>, keys: Option<&[ResourceKey]>) {
        self.latest = snapshot;
        self.changed.add(keys);
        self.unexamined.add(keys);
    }

    /// Starts a generation if a change calls for one and none is running.
    pub(crate) fn continue_if_needed(&mut self, server: &Arc<DpServer>) {
        if self.running.is_some() {
            return;
        }
        let unexamined = std::mem::replace(&mut self.unexamined, Changed::Keys(BTreeSet::new()));
        let needed = match unexamined {
            Changed::Anything => true,
            Changed::Keys(keys) => keys.iter().any(|key| self.concerns(key)),
        };
        if needed {
            self.start(server);
        }
    }

    fn concerns(&self, key: &ResourceKey) -> bool {
        self.dependencies.concerns(key) || identity::concerns(&self.proxy.mesh, &self.secrets, key)
    }

    pub(crate) fn start(&mut self, server: &Arc<DpServer>) {
        self.started_at = Some(Instant::now());
        let mut engine =
            self.engine.take().unwrap_or_else(|| self.fleet.generator(self.proxy.clone()));
        let changed = std::mem::replace(&mut self.changed, Changed::Keys(BTreeSet::new()));
        let snapshot = Arc::clone(&self.latest);
        let kind = self.kind;
        let proxy = self.proxy.clone();
        let provided = self.provided.clone();
        let streams = server.streams.clone();
        let server = Arc::clone(server);
        self.running = Some(streams.spawn(async move {
            // The semaphore is never closed.
            let permit = Arc::clone(&server.generations).acquire_owned().await;
            let work = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                let revision = snapshot.revision;
                let view = SnapshotView(snapshot);
                let result = match kind {
                    ProxyKind::Dataplane => {
                        configure(&server, &view, &mut engine, &changed, &proxy, &provided)
                    }
                    ProxyKind::ZoneIngress | ProxyKind::ZoneEgress => {
                        Err("zone proxies are not supported yet".to_owned())
                    }
                };
                Outcome { engine, revision, result }
            });
            work.await
                .inspect_err(|error| tracing::error!(%error, "generation failed unexpectedly"))
                .ok()
        }));
    }

    /// Waits for the running generation, if there is one.
    pub(crate) async fn finished(&mut self) -> Finished {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let finished = running.await.ok().flatten();
        self.running = None;
        finished
    }

    /// Takes the result in; nothing if it is the one before.
    pub(crate) fn take(
        &mut self,
        server: &DpServer,
        finished: Finished,
    ) -> Result<Option<Configuration>, String> {
        let result = match finished {
            Some(Outcome { engine, revision, result }) => {
                self.engine = Some(engine);
                self.generated = revision;
                result
            }
            None => {
                self.generated = self.latest.revision;
                Err("internal error".to_owned())
            }
        };
        match result {
            Ok(configuration) => {
                let same = self
                    .last
                    .as_ref()
                    .is_some_and(|last| Arc::ptr_eq(last, &configuration.generated))
                    && configuration.generated.secrets.is_empty();
                let stored = self
                    .last
                    .as_ref()
                    .is_some_and(|last| last.stores_the_same(&configuration.generated));
                if !stored && let Some((key, spec)) = configuration.generated.to_store() {
                    server.keeper.note(key, spec);
                }
                self.dependencies = configuration.generated.depends_on.clone();
                self.secrets.clone_from(&configuration.generated.secrets);
                self.provided = configuration.provided.clone();
                self.last = Some(Arc::clone(&configuration.generated));
                Ok((!same).then_some(configuration))
            }
            Err(error) => {
                // What the engine has seen is not certain.
                self.changed = Changed::Anything;
                self.last = None;
                self.dependencies = Dependencies::of_failed(&self.proxy);
                Err(error)
            }
        }
    }

    /// How long until the proxy's certificate is to be renewed. A renewal that failed is not tried
    /// again at once.
    pub(crate) fn renew_in(&self, now: OffsetDateTime) -> Option<Duration> {
        let due = self.provided.identity.as_ref()?.renew_at();
        let left = Duration::try_from(due - now).unwrap_or_default();
        let pause = match self.started_at {
            Some(at) => RENEWAL_PAUSE.saturating_sub(at.elapsed()),
            None => Duration::ZERO,
        };
        self.running.is_none().then(|| left.max(pause))
    }

    /// Starts a generation if the proxy's certificate is to be renewed.
    pub(crate) fn renew_if_due(&mut self, server: &Arc<DpServer>) {
        if self.renew_in(server.now()) == Some(Duration::ZERO) {
            self.start(server);
        }
    }

    /// The revision up to which changes are taken in.
    pub(crate) fn considered(&self) -> Revision {
        if self.is_idle() { self.latest.revision } else { self.generated }
    }

    pub(crate) fn is_idle(&self) -> bool {
        let examined = matches!(&self.unexamined, Changed::Keys(keys) if keys.is_empty());
        self.running.is_none() && examined
    }
}

/// Generates a proxy's configuration, and adds the secrets that it refers to.
fn configure(
    server: &DpServer,
    view: &SnapshotView,
    engine: &mut sunbear_xds::Generator,
    changed: &Changed,
    proxy: &Proxy,
    provided: &Provided,
) -> Result<Configuration, String> {
    let start = Instant::now();
    let generated = match changed {
        Changed::Anything => engine.update_all(view),
        Changed::Keys(keys) => {
            let keys: Vec<ResourceKey> = keys.iter().cloned().collect();
            engine.update(view, &keys)
        }
    };
    let generated = generated.map_err(|error| chain(&error))?;
    let mut resources = generated.resources.clone();
    let mut issues = generated.issues.clone();
    let request = identity::Request { mesh: &proxy.mesh, name: &proxy.name, now: server.now() };
    let (provided, problems) =
        identity::provide(view, request, &generated.secrets, provided, &mut resources);
    issues.extend(problems);
    server.metrics.generated(start.elapsed());
    Ok(Configuration { generated, resources: Arc::new(resources), provided, issues })
}

/// The error with its sources.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
