//! Tasks and shutdown. Every background task is spawned here with a name, and all stop together.
//!
//! A shutdown begins with a signal, with [`Tasks::stop`], or with the end of an essential task: the
//! token is cancelled, tasks finish what they do, and [`Tasks::shutdown`] waits for them until a
//! deadline. A second signal ends the process at once.

use std::collections::BTreeMap;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// The tasks of a process. Clones share one state.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    tracker: TaskTracker,
    stop: CancellationToken,
    /// Who still runs, by a serial number, so that a slow shutdown can name them.
    running: Mutex<Running>,
    /// The essential task that began the shutdown.
    failed: OnceLock<&'static str>,
}

#[derive(Debug, Default)]
struct Running {
    next: u64,
    names: BTreeMap<u64, &'static str>,
}

/// What the end of a task means while the process is not stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Expected.
    Job,
    /// A fault to be logged.
    Service,
    /// A fault that ends the process.
    Essential,
}

/// How a shutdown went.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Drained {
    /// All tasks ended.
    Completely,
    /// These were still running at the deadline; they end with the process.
    Unfinished(Vec<&'static str>),
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Spawns a task that runs until the token is cancelled. Ending earlier, and a panic, are logged
    /// as errors; the process goes on.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.start(name, Role::Service, task);
    }

    /// As [`Tasks::spawn`], for tasks without which the process is of no use, such as listeners: if
    /// one ends early or panics, the process stops. See [`Tasks::failed`].
    pub fn spawn_essential(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.start(name, Role::Essential, task);
    }

    /// Spawns a task that may end at any time; only a panic is logged.
    pub fn spawn_job(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.start(name, Role::Job, task);
    }

    /// The token that is cancelled when the process stops.
    pub fn token(&self) -> CancellationToken {
        self.inner.stop.clone()
    }

    /// Begins the shutdown.
    pub fn stop(&self) {
        self.inner.stop.cancel();
    }

    /// Waits until a shutdown begins.
    pub async fn stopped(&self) {
        self.inner.stop.cancelled().await;
    }

    /// The essential task whose end began the shutdown, if one did: the process should then exit
    /// with an error.
    pub fn failed(&self) -> Option<&'static str> {
        self.inner.failed.get().copied()
    }

    /// Begins the shutdown if it has not begun, and waits for all tasks until the deadline.
    pub async fn shutdown(&self, deadline: Duration) -> Drained {
        self.stop();
        self.inner.tracker.close();
        if tokio::time::timeout(deadline, self.inner.tracker.wait()).await.is_ok() {
            return Drained::Completely;
        }
        let running = self.inner.running.lock().unwrap_or_else(PoisonError::into_inner);
        let names: Vec<&'static str> = running.names.values().copied().collect();
        tracing::warn!(tasks = names.join(", "), "tasks did not end in time");
        Drained::Unfinished(names)
    }

    /// Begins the shutdown at the first SIGTERM or SIGINT, and ends the process at the second.
    /// SIGHUP no longer ends it: certificates are read again then.
    pub fn listen_for_signals(&self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        // Whoever listens once has replaced the default, which is to die.
        drop(signal(SignalKind::hangup())?);
        let stop = self.token();
        // Not tracked: it must outlive all others to see the second signal.
        tokio::spawn(async move {
            let name = either(&mut terminate, &mut interrupt).await;
            tracing::info!(signal = name, "stopping");
            stop.cancel();
            let name = either(&mut terminate, &mut interrupt).await;
            tracing::warn!(signal = name, "stopping at once");
            std::process::exit(1);
        });
        Ok(())
    }

    fn start(
        &self,
        name: &'static str,
        role: Role,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let id = {
            let mut running = self.inner.running.lock().unwrap_or_else(PoisonError::into_inner);
            let id = running.next;
            running.next += 1;
            running.names.insert(id, name);
            id
        };
        let tasks = self.clone();
        let task = async move {
            let panicked = AssertUnwindSafe(task).catch_unwind().await.is_err();
            tasks.ended(id, name, role, panicked);
        };
        let span = tracing::info_span!("task", name);
        self.inner.tracker.spawn(task.instrument(span));
    }

    fn ended(&self, id: u64, name: &'static str, role: Role, panicked: bool) {
        let mut running = self.inner.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.names.remove(&id);
        drop(running);
        if panicked {
            tracing::error!(task = name, "task panicked");
        }
        if self.inner.stop.is_cancelled() || (role == Role::Job && !panicked) {
            return;
        }
        match role {
            Role::Job => {}
            Role::Service => tracing::error!(task = name, "task ended unexpectedly"),
            Role::Essential => {
                tracing::error!(task = name, "essential task ended unexpectedly, stopping");
                let _ = self.inner.failed.set(name);
                self.stop();
            }
        }
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn tasks_end_with_the_token() {
        let tasks = Tasks::new();
        let stop = tasks.token();
        tasks.spawn("waits", async move { stop.cancelled().await });
        tasks.spawn_job("ends", async {});
        assert_eq!(tasks.shutdown(PATIENCE).await, Drained::Completely);
        assert_eq!(tasks.failed(), None);
    }

    #[tokio::test]
    async fn stragglers_are_named() {
        let tasks = Tasks::new();
        tasks.spawn("deaf", std::future::pending());
        assert_eq!(tasks.shutdown(Duration::ZERO).await, Drained::Unfinished(vec!["deaf"]));
    }

    #[tokio::test]
    async fn a_panic_leaves_the_others_running() {
        let tasks = Tasks::new();
        let (done, finished) = tokio::sync::oneshot::channel();
        tasks.spawn("panics", async { panic!("on purpose") });
        tasks.spawn_job("works", async move { done.send(()).unwrap() });
        finished.await.unwrap();
        assert!(!tasks.token().is_cancelled());
        assert_eq!(tasks.shutdown(PATIENCE).await, Drained::Completely);
    }

    #[tokio::test]
    async fn the_end_of_an_essential_task_stops_the_process() {
        let tasks = Tasks::new();
        tasks.spawn_essential("listener", async {});
        tokio::time::timeout(PATIENCE, tasks.stopped()).await.unwrap();
        assert_eq!(tasks.failed(), Some("listener"));
        assert_eq!(tasks.shutdown(PATIENCE).await, Drained::Completely);
    }

    #[tokio::test]
    async fn a_signal_begins_the_shutdown() {
        let tasks = Tasks::new();
        tasks.listen_for_signals().unwrap();
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).unwrap();
        tokio::time::timeout(PATIENCE, tasks.stopped()).await.unwrap();
        assert_eq!(tasks.shutdown(PATIENCE).await, Drained::Completely);
    }
}
