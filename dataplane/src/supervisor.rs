//! Does what the [`Plan`] decides: processes, files, timers and signals.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::admin::Admin;
use crate::control_plane::{Answer, ControlPlane};
use crate::document::{self, AdminAddress};
use crate::envoy::Process;
use crate::keys::Keys;
use crate::lifecycle::{drain, fail_health_checks, serves};
use crate::orphan::{Orphan, ProcessFile};
use crate::plan::{Action, AtHand, Event, Id, Plan, Source, Times};
use crate::readiness::{Readiness, Reporter};
use crate::run::Stop;
use crate::sealed::{Generation, SealedFile, write_private};
use crate::sealer::{self, Seal, SealedDocument};
use crate::settings::Settings;
use crate::static_config::listener_count;

/// Messages of tasks to the loop; each task has few outstanding, and waits when it is full.
const MESSAGES: usize = 64;
/// How long an orphan may go on when nothing takes its place. A control plane may refuse a second
/// stream of the same proxy, so that nothing can before it is gone.
const ORPHAN_LIMIT: Duration = Duration::from_secs(10);
/// Whether the kernel hands connections that a closing listener has not taken to another one on the
/// same port.
const MIGRATE_REQUESTS: &str = "/proc/sys/net/ipv4/tcp_migrate_req";
/// How long an orphan drains that stands in the way.
const ORPHAN_SHORT_DRAIN: Duration = Duration::from_secs(1);

/// What is kept on disk.
#[derive(Debug)]
pub(crate) struct State {
    /// The last bootstrap that the control plane gave.
    pub(crate) received: SealedFile,
    /// The running Envoys.
    pub(crate) processes: ProcessFile,
    /// The last good configuration.
    pub(crate) seal: Arc<Seal>,
}

/// A bootstrap as the control plane gave it. It holds the proxy's token.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReceivedBootstrap {
    work_dir: PathBuf,
    text: String,
}

enum Message {
    Answered(Answer),
    Serving(Id),
    Ended(Id, String),
    PatienceOver,
    OrphansDue,
    OrphanGone(u32),
}

struct Running {
    source: Source,
    process: Process,
    admin: Admin,
    received: Option<Arc<Value>>,
    serving: bool,
    retiring: bool,
    /// Looks whether it serves, then seals.
    watch: AbortHandle,
}

/// The supervisor of one proxy.
pub(crate) struct Supervisor {
    settings: Settings,
    state: State,
    control_plane: Arc<ControlPlane>,
    plan: Plan,
    began: Instant,
    envoys: BTreeMap<Id, Running>,
    orphans: Vec<Orphan>,
    orphans_leaving: bool,
    received: Option<ReceivedBootstrap>,
    /// The bootstrap that the last live Envoy was started with.
    last_live: Option<String>,
    sealed_listeners: Option<usize>,
    last_failure: Option<String>,
    draining: bool,
    fetch: Option<AbortHandle>,
    patience: Option<AbortHandle>,
    leaving: JoinSet<()>,
    sender: mpsc::Sender<Message>,
    messages: mpsc::Receiver<Message>,
    readiness: watch::Sender<Readiness>,
}

impl Supervisor {
    /// Prepares; nothing is started yet.
    pub(crate) fn new(
        settings: Settings,
        state: State,
        control_plane: ControlPlane,
        reporter: Reporter,
    ) -> anyhow::Result<Supervisor> {
        let (sender, messages) = mpsc::channel(MESSAGES);
        let (readiness, readiness_reader) = watch::channel(Readiness::default());
        reporter.spawn(readiness_reader);
        let (received, errors) = state.received.load();
        report_damage(&errors);
        let (sealed, errors) = state.seal.file.load::<SealedDocument>();
        report_damage(&errors);
        let sealed = sealed.filter(|sealed| {
            let ours = sealed.proxy == state.seal.proxy;
            if !ours {
                tracing::warn!(
                    mesh = sealed.proxy.mesh,
                    name = sealed.proxy.name,
                    "the sealed configuration is another proxy's"
                );
            }
            ours
        });
        *state.seal.last() = sealed.as_ref().map(|sealed| sealer::checksum(&sealed.bootstrap));
        if sealed.is_none() {
            // With something to serve from, a token that cannot be read is no reason not to.
            settings.proxy.token.read()?;
        }
        let times = Times {
            retry_backoff: settings.control_plane.retry_backoff,
            retry_max_duration: settings.control_plane.retry_max_duration,
            patience: settings.patience,
        };
        let mut orphans = state.processes.orphans();
        for orphan in &mut orphans {
            orphan.move_aside(&state.seal.work_dir);
            tracing::warn!(
                pid = orphan.pid(),
                "an Envoy of an earlier run is still there; it is stopped when a new one serves"
            );
        }
        Ok(Supervisor {
            settings,
            control_plane: Arc::new(control_plane),
            plan: Plan::new(times),
            began: Instant::now(),
            envoys: BTreeMap::new(),
            orphans,
            orphans_leaving: false,
            received,
            last_live: None,
            sealed_listeners: sealed.map(|sealed| listener_count(&sealed.bootstrap)),
            last_failure: None,
            draining: false,
            fetch: None,
            patience: None,
            leaving: JoinSet::new(),
            sender,
            messages,
            readiness,
            state,
        })
    }

    /// Runs until a signal, a refusal or an error.
    pub(crate) async fn run(mut self) -> anyhow::Result<Stop> {
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
        let mut drain = signal(SignalKind::user_defined2()).context("cannot listen for signals")?;
        if !self.orphans.is_empty() {
            self.write_processes();
            self.later(ORPHAN_LIMIT, Message::OrphansDue);
        }
        let seal = self.state.seal.clone();
        let mut outcome = self.decide(Event::Begin, None).await;
        while outcome.is_none() {
            self.update_readiness();
            tokio::select! {
                Some(message) = self.messages.recv() => outcome = self.handle(message).await,
                () = seal.sealed.notified() => self.reload_sealed(),
                _ = drain.recv() => self.drain_and_go_on().await,
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                Some(_) = self.leaving.join_next() => {}
            }
        }
        match outcome {
            None => {
                self.stop(&mut terminate, &mut interrupt).await;
                Ok(Stop::Signal)
            }
            Some(Outcome::Refused) => Ok(Stop::Refused(self.last_failure.unwrap_or_default())),
            Some(Outcome::Unreachable) => anyhow::bail!(
                "the control plane gave no bootstrap within {:?}: {}",
                self.settings.control_plane.retry_max_duration,
                self.last_failure.unwrap_or_default()
            ),
        }
    }

    async fn handle(&mut self, message: Message) -> Option<Outcome> {
        match message {
            Message::Answered(answer) => self.on_answer(answer).await,
            Message::Serving(id) => self.on_serving(id).await,
            Message::Ended(id, status) => self.on_ended(id, &status).await,
            Message::PatienceOver => self.decide(Event::PatienceOver, None).await,
            Message::OrphansDue => {
                self.retire_orphans();
                None
            }
            Message::OrphanGone(pid) => {
                self.orphans.retain(|orphan| orphan.pid() != pid);
                self.write_processes();
                None
            }
        }
    }

    async fn on_answer(&mut self, answer: Answer) -> Option<Outcome> {
        let (event, failure) = match answer {
            Answer::Document(text) => match document::parse(&text) {
                Ok(document) => {
                    if self.last_failure.take().is_some() {
                        tracing::info!("the control plane answers again");
                    }
                    let changed = self.last_live.as_ref() != Some(&text);
                    self.keep_received(text);
                    return self.decide(Event::Document { changed }, Some(document)).await;
                }
                Err(error) => (Event::Unreachable, format!("{error:#}")),
            },
            Answer::Unreachable(reason) => (Event::Unreachable, reason),
            Answer::NotFound => (
                Event::Unreachable,
                "the control plane does not know this proxy; create its Dataplane first, or give its definition".into(),
            ),
            Answer::Refused(reason) => (Event::Refused, reason),
        };
        // The same failure again and again is said once.
        if self.last_failure.as_ref() != Some(&failure) {
            tracing::warn!(reason = failure, "no bootstrap from the control plane");
            self.last_failure = Some(failure);
        }
        self.decide(event, None).await
    }

    async fn on_serving(&mut self, id: Id) -> Option<Outcome> {
        let running = self.envoys.get_mut(&id)?;
        running.serving = true;
        tracing::info!(pid = running.process.pid(), source = ?running.source, "Envoy serves");
        if let Some(received) = running.received.clone() {
            let ask = self.settings.seal_secrets.then(|| self.control_plane.clone());
            running.watch = tokio::spawn(sealer::watch(
                running.admin.clone(),
                received,
                self.state.seal.clone(),
                Keys::new(ask),
            ))
            .abort_handle();
        }
        if self.draining {
            fail_health_checks(&running.admin).await;
        }
        self.retire_orphans();
        self.decide(Event::Serving(id), None).await
    }

    async fn on_ended(&mut self, id: Id, status: &str) -> Option<Outcome> {
        if let Some(running) = self.envoys.remove(&id) {
            running.watch.abort();
            self.write_processes();
            if running.retiring {
                tracing::info!(pid = running.process.pid(), "the retired Envoy has ended");
                return None;
            }
            tracing::error!(pid = running.process.pid(), source = ?running.source, status, "Envoy has ended, starting it again");
        }
        // SIGKILL and SIGTERM come from outside: from a person, a container's end, the kernel's
        // want of memory.
        let killed = ["signal: 9 ", "signal: 15 "].iter().any(|s| status.starts_with(s));
        let event = if killed { Event::Killed(id) } else { Event::Ended(id) };
        self.decide(event, None).await
    }

    /// Feeds the plan and does what it says. `document` is the bootstrap that came with the event.
    async fn decide(&mut self, event: Event, document: Option<Value>) -> Option<Outcome> {
        let at_hand = AtHand {
            sealed: self.sealed_listeners.is_some(),
            received: self.received.is_some(),
            elapsed: self.began.elapsed(),
        };
        let mut document = document;
        for action in self.plan.on(&event, at_hand) {
            tracing::debug!(?event, ?action, "next");
            match action {
                Action::Fetch(pause) => self.fetch_after(pause),
                Action::StopFetching => {
                    self.fetch.take().inspect(AbortHandle::abort);
                }
                Action::Start(id, source) => {
                    if let Err(error) = self.start(id, source, document.take()).await {
                        tracing::error!(
                            error = format!("{error:#}"),
                            ?source,
                            "cannot start Envoy"
                        );
                        // Goes the way of an Envoy that ended at once.
                        self.later(Duration::ZERO, Message::Ended(id, "not started".into()));
                    }
                }
                Action::Retire(id) => self.retire(id),
                Action::Stop(id) => {
                    if let Some(running) = self.envoys.get_mut(&id) {
                        running.retiring = true;
                        running.watch.abort();
                        running.process.kill().await;
                    }
                }
                Action::Arm(time) => {
                    self.patience.take().inspect(AbortHandle::abort);
                    self.patience = Some(self.later(time, Message::PatienceOver));
                }
                Action::GiveUp => return Some(Outcome::Unreachable),
                Action::GiveIn => return Some(Outcome::Refused),
            }
        }
        None
    }

    fn fetch_after(&mut self, pause: Duration) {
        self.fetch.take().inspect(AbortHandle::abort);
        let pause = pause.mul_f64(rand::random_range(0.8..1.2));
        let (control_plane, sender) = (self.control_plane.clone(), self.sender.clone());
        let task = tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let answer = control_plane.fetch().await;
            // Fails only when the loop has ended.
            let _ = sender.send(Message::Answered(answer)).await;
        });
        self.fetch = Some(task.abort_handle());
    }

    fn later(&self, time: Duration, message: Message) -> AbortHandle {
        let sender = self.sender.clone();
        let task = tokio::spawn(async move {
            tokio::time::sleep(time).await;
            let _ = sender.send(message).await;
        });
        task.abort_handle()
    }

    async fn start(
        &mut self,
        id: Id,
        source: Source,
        document: Option<Value>,
    ) -> anyhow::Result<()> {
        let work_dir = self.state.seal.work_dir.clone();
        let (mut bootstrap, config) = match source {
            Source::Live | Source::Received => {
                (self.live_bootstrap(document)?, work_dir.join("bootstrap.yaml"))
            }
            Source::Sealed => (
                self.sealed_bootstrap(Generation::Current)?,
                work_dir.join("bootstrap-sealed.json"),
            ),
            Source::SealedPrevious => (
                self.sealed_bootstrap(Generation::Previous)?,
                work_dir.join("bootstrap-sealed.json"),
            ),
        };
        let admin = match document::admin_address(&bootstrap) {
            Some(address) if source.is_live() => address,
            // A stand-in has a socket of its own, so that both kinds can run side by side; and an
            // Envoy without admin interface could not be watched.
            _ => {
                let socket = work_dir.join(if source.is_live() {
                    "kuma-envoy-admin.sock"
                } else {
                    "sealed-admin.sock"
                });
                document::set_admin_pipe(&mut bootstrap, &socket);
                AdminAddress::Pipe(socket)
            }
        };
        self.make_way(&admin).await;
        // JSON is YAML too, and Envoy goes by the file's name.
        let text = bootstrap.to_string();
        write_private(&config, text.as_bytes())
            .with_context(|| format!("cannot write {}", config.display()))?;

        let sender = self.sender.clone();
        let on_end = move |status| async move {
            let _ = sender.send(Message::Ended(id, status)).await;
        };
        let process =
            Process::start(&self.settings.envoy, self.settings.drain_time, &config, on_end)?;
        tracing::info!(pid = process.pid(), ?source, admin = %admin, config = %config.display(), "started Envoy");
        let admin = Admin::new(admin);
        let expects_listeners =
            source.is_live() && self.sealed_listeners.is_some_and(|count| count > 0);
        let (starting, sender) = (admin.clone(), self.sender.clone());
        let watch = tokio::spawn(async move {
            serves(&starting, expects_listeners).await;
            let _ = sender.send(Message::Serving(id)).await;
        })
        .abort_handle();
        let received = source.is_live().then(|| Arc::new(bootstrap));
        let running =
            Running { source, process, admin, received, serving: false, retiring: false, watch };
        self.envoys.insert(id, running);
        self.write_processes();
        Ok(())
    }

    fn live_bootstrap(&mut self, document: Option<Value>) -> anyhow::Result<Value> {
        let received = self.received.as_ref().context("no bootstrap was received")?;
        let mut bootstrap = match document {
            Some(document) => document,
            None => document::parse(&received.text)?,
        };
        document::move_paths(&mut bootstrap, &received.work_dir, &self.state.seal.work_dir);
        self.last_live = Some(received.text.clone());
        Ok(bootstrap)
    }

    fn sealed_bootstrap(&self, generation: Generation) -> anyhow::Result<Value> {
        let file = &self.state.seal.file;
        let sealed: Option<SealedDocument> = match generation {
            Generation::Previous => file.load_generation(generation).unwrap_or_default(),
            Generation::Current => None,
        };
        let sealed = match sealed {
            Some(sealed) => sealed,
            None => {
                let (sealed, errors) = file.load();
                report_damage(&errors);
                sealed.context("no sealed configuration is usable")?
            }
        };
        let age = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |now| now.as_secs().saturating_sub(sealed.sealed_at));
        tracing::warn!(
            age_seconds = age,
            "starting from the sealed configuration, without the control plane"
        );
        let mut bootstrap = sealed.bootstrap;
        document::move_paths(&mut bootstrap, &sealed.work_dir, &self.state.seal.work_dir);
        Ok(bootstrap)
    }

    /// Sees to it that orphans do not hold the admin address.
    async fn make_way(&mut self, address: &AdminAddress) {
        let (blocking, others) = std::mem::take(&mut self.orphans)
            .into_iter()
            .partition(|orphan| orphan.admin().as_ref() == Some(address));
        self.orphans = others;
        for orphan in Vec::<Orphan>::into_iter(blocking) {
            tracing::warn!(
                pid = orphan.pid(),
                "stopping the Envoy of an earlier run first, as it holds the admin address"
            );
            orphan.retire(ORPHAN_SHORT_DRAIN).await;
        }
    }

    fn retire(&mut self, id: Id) {
        let Some(running) = self.envoys.get_mut(&id) else { return };
        running.retiring = true;
        running.watch.abort();
        tracing::info!(pid = running.process.pid(), source = ?running.source, "draining Envoy, another one serves");
        if std::fs::read_to_string(MIGRATE_REQUESTS).is_ok_and(|value| value.trim() == "0") {
            tracing::info!(
                "connections that arrive in this moment may be reset; net.ipv4.tcp_migrate_req=1 would prevent it"
            );
        }
        let (admin, process, drain_time) =
            (running.admin.clone(), running.process.clone(), self.settings.drain_time);
        self.leaving.spawn(async move {
            tokio::select! {
                () = drain(&admin, drain_time) => process.stop().await,
                () = process.wait() => {}
            }
        });
    }

    fn retire_orphans(&mut self) {
        if std::mem::replace(&mut self.orphans_leaving, true) {
            return;
        }
        for orphan in self.orphans.clone() {
            tracing::info!(pid = orphan.pid(), "draining the Envoy of an earlier run");
            let (sender, drain_time) = (self.sender.clone(), self.settings.drain_time);
            self.leaving.spawn(async move {
                let pid = orphan.pid();
                orphan.retire(drain_time).await;
                let _ = sender.send(Message::OrphanGone(pid)).await;
            });
        }
    }

    fn keep_received(&mut self, text: String) {
        if self.received.as_ref().is_some_and(|received| received.text == text) {
            return;
        }
        let received = ReceivedBootstrap { work_dir: self.state.seal.work_dir.clone(), text };
        if let Err(error) = self.state.received.store(&received) {
            tracing::error!(error = format!("{error:#}"), "cannot keep the bootstrap");
        }
        self.received = Some(received);
    }

    fn reload_sealed(&mut self) {
        let (sealed, _) = self.state.seal.file.load::<SealedDocument>();
        self.sealed_listeners =
            sealed.map(|sealed| listener_count(&sealed.bootstrap)).or(self.sealed_listeners);
    }

    fn write_processes(&self) {
        let running =
            self.envoys.values().map(|running| (&running.process, Some(running.admin.address())));
        if let Err(error) = self.state.processes.write(running, &self.orphans) {
            tracing::warn!(%error, "cannot write the process file");
        }
    }

    fn update_readiness(&self) {
        // The one that serves; a live one before a stand-in; any before none.
        let best = self
            .envoys
            .values()
            .filter(|running| !running.retiring)
            .max_by_key(|running| (running.serving, running.source.is_live()));
        let serving = match best {
            Some(running) => Some(running.admin.clone()),
            None => self.orphans.iter().find_map(Orphan::admin).map(Admin::new),
        };
        self.readiness.send_modify(|readiness| {
            readiness.serving = serving;
            readiness.terminating = self.draining;
        });
    }

    async fn drain_and_go_on(&mut self) {
        tracing::info!("draining on request, Envoy goes on");
        self.draining = true;
        for running in self.envoys.values() {
            fail_health_checks(&running.admin).await;
        }
    }

    /// Drains and stops everything; a second signal makes short work of it.
    async fn stop(mut self, terminate: &mut Signal, interrupt: &mut Signal) {
        let drain_time = self.settings.drain_time;
        tracing::info!(?drain_time, "stopping: draining Envoy; a second signal stops it at once");
        self.draining = true;
        self.update_readiness();
        self.fetch.take().inspect(AbortHandle::abort);
        self.patience.take().inspect(AbortHandle::abort);
        let envoys: Vec<Running> = std::mem::take(&mut self.envoys).into_values().collect();
        envoys.iter().for_each(|running| running.watch.abort());
        self.retire_orphans();

        let graceful = async {
            let mut all = JoinSet::new();
            for running in &envoys {
                let (admin, process) = (running.admin.clone(), running.process.clone());
                all.spawn(async move {
                    fail_health_checks(&admin).await;
                    // The whole time, and not only until the connections are gone: load balancers
                    // need it to notice.
                    let _ = tokio::time::timeout(drain_time, process.wait()).await;
                    process.stop().await;
                });
            }
            while all.join_next().await.is_some() {}
            while self.leaving.join_next().await.is_some() {}
        };
        // Nobody reads the messages any more, so nobody may wait for them to be read.
        self.messages.close();
        let aborted = tokio::select! {
            () = graceful => false,
            _ = terminate.recv() => true,
            _ = interrupt.recv() => true,
        };
        if aborted {
            tracing::warn!("second signal, stopping at once");
            for running in &envoys {
                running.process.kill().await;
            }
        }
        let _ = self.state.processes.write(std::iter::empty(), &[]);
        tracing::info!("stopped");
    }
}

enum Outcome {
    Refused,
    Unreachable,
}

fn report_damage(errors: &[anyhow::Error]) {
    for error in errors {
        tracing::error!(error = format!("{error:#}"), "a sealed file is damaged and not used");
    }
}
