//! One stream, from its first request to its end. The task owns all of the stream's state; it
//! waits for requests, changes of the world, finished generations and timers.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sunbear_model::Spec;
use sunbear_store::{Snapshot, Subscription as Changes, Update};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::{
    ads::{Answer, Machine, StreamSettings},
    auth::{self, Claimed, Credential},
    generation::{Configuration, Finished, Generator},
    insight::Subscription,
    lifecycle,
    proxy::{Node, NodeError},
    registry::Seat,
    server::DpServer,
    status::ProxyStatus,
    view::SnapshotView,
};

/// How long a fresh stream may be silent.
const FIRST_REQUEST: Duration = Duration::from_secs(15);

/// How long a client may take to take in the reason why its stream ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// Shortest wait for a time that has come already.
const MIN_SLEEP: Duration = Duration::from_millis(200);

/// Clocks are looked at again after this much, whatever is scheduled for later.
const MAX_SLEEP: Duration = Duration::from_secs(60);

/// The status of streams that end because the server does.
pub(crate) fn stopping() -> Status {
    Status::unavailable("the control plane is stopping")
}

/// Drives a stream to its end, and tells the client why it ended.
pub(crate) async fn run<M: Machine>(
    server: Arc<DpServer>,
    credential: Credential,
    requests: Streaming<M::Request>,
    responses: mpsc::Sender<Result<M::Response, Status>>,
) {
    if let Err(status) = serve::<M>(&server, credential, requests, &responses).await {
        tracing::info!(code = ?status.code(), reason = status.message(), "stream ended");
        // A client that does not read finds out by the end of the stream alone.
        let _ = tokio::time::timeout(FAREWELL, responses.send(Err(status))).await;
    } else {
        tracing::info!("stream ended by the proxy");
    }
}

async fn serve<M: Machine>(
    server: &Arc<DpServer>,
    credential: Credential,
    mut requests: Streaming<M::Request>,
    responses: &mpsc::Sender<Result<M::Response, Status>>,
) -> Result<(), Status> {
    let first = tokio::select! {
        () = server.stopping.cancelled() => return Err(stopping()),
        first = tokio::time::timeout(FIRST_REQUEST, requests.message()) => first,
    };
    let first = first.map_err(|_| Status::deadline_exceeded("no request came"))?;
    let Ok(Some(first)) = first else { return Ok(()) };
    let node = Node::parse(M::node(&first).ok_or(NodeError::Missing)?)?;
    tracing::Span::current().record("proxy", tracing::field::display(&node.key));

    let mut session = Session::<M>::begin(server, credential, node).await?;
    tracing::info!("stream opened");
    let result = session.drive(first, requests, responses).await;
    session.end();
    result
}

impl From<NodeError> for Status {
    fn from(error: NodeError) -> Self {
        Status::invalid_argument(error.to_string())
    }
}

/// An authenticated stream.
struct Session<M> {
    server: Arc<DpServer>,
    credential: Credential,
    node: Node,
    seat: Seat,
    insight: Subscription,
    machine: M,
    /// None when nothing more comes; the stream goes on with what it has.
    changes: Option<Changes>,
    generator: Generator,
    valid_until: auth::ValidUntil,
    status: Arc<Mutex<ProxyStatus>>,
}

impl<M: Machine> Session<M> {
    /// Checks who it is, registers the proxy and takes its seat.
    async fn begin(
        server: &Arc<DpServer>,
        credential: Credential,
        node: Node,
    ) -> Result<Self, Status> {
        let mut checked = server.world.snapshot();
        let mut valid_until = check(server, &checked, &credential, &node)?;

        let status = Arc::new(Mutex::new(ProxyStatus::new(node.key.clone(), server.now())));
        let writing = server.registry.writing(&node.key);
        let seat = {
            let _writing = writing.lock().await;
            // What was stored meanwhile is not to be overwritten unasked.
            let now = server.world.snapshot();
            let still = if now.revision == checked.revision {
                Ok(valid_until)
            } else {
                check(server, &now, &credential, &node)
            };
            checked = now;
            let registered = match (still, &node.resource) {
                (Err(status), _) => Err(status),
                (Ok(_), None) => Ok(()),
                (Ok(_), Some(desired)) => {
                    lifecycle::register(server, &node.key, desired).await.map_err(Status::from)
                }
            };
            registered.map(|()| server.registry.take_seat(&node.key, Arc::clone(&status)))
        };
        server.registry.done_writing(&node.key, writing);
        let seat = seat?;

        // From here on no change is missed.
        let changes = server.world.subscribe();
        let now = server.world.snapshot();
        if now.revision != checked.revision {
            valid_until = check(server, &now, &credential, &node)
                .inspect_err(|_| server.registry.leave(&seat, lease(server, &node)))?;
        }
        let insight = Subscription::open(server, &node);
        let machine = M::new(StreamSettings {
            instance_id: server.config.instance_id.clone(),
            nack_backoff: server.config.nack_backoff,
        });
        let generator = Generator::new(server, &node, now);
        Ok(Self {
            server: Arc::clone(server),
            credential,
            node,
            seat,
            insight,
            machine,
            changes: Some(changes),
            generator,
            valid_until,
            status,
        })
    }

    async fn drive(
        &mut self,
        first: M::Request,
        mut requests: Streaming<M::Request>,
        responses: &mpsc::Sender<Result<M::Response, Status>>,
    ) -> Result<(), Status> {
        self.generator.start(&self.server);
        self.take_request(first)?;
        let server = Arc::clone(&self.server);
        let replaced = self.seat.replaced.clone();
        loop {
            let now = Instant::now();
            let wants = self.machine.wants(now);
            let wake = self.wake_at(now);
            tokio::select! {
                () = server.stopping.cancelled() => return Err(stopping()),
                () = replaced.cancelled() => {
                    return Err(Status::aborted("replaced by a newer stream of this proxy"));
                }
                () = responses.closed() => return Ok(()),
                request = requests.message() => match request {
                    Ok(Some(request)) => self.take_request(request)?,
                    Ok(None) => return Ok(()),
                    Err(status) => {
                        tracing::debug!(%status, "connection lost");
                        return Ok(());
                    }
                },
                update = next_update(&mut self.changes) => self.take_update(update)?,
                finished = self.generator.finished() => self.take_generated(finished),
                permit = responses.reserve(), if wants => {
                    let Ok(permit) = permit else { return Ok(()) };
                    if let Some((resource_type, response)) = self.machine.poll(Instant::now()) {
                        permit.send(Ok(response));
                        self.insight.sent(resource_type);
                        server.metrics.sent(resource_type);
                    }
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            self.check_expiry()?;
            self.generator.renew_if_due(&server);
            self.report();
        }
    }

    /// When to look at clocks again.
    fn wake_at(&self, now: Instant) -> Instant {
        let mut wake = now + MAX_SLEEP;
        if let Some(at) = self.machine.next_deadline(now) {
            wake = wake.min(at);
        }
        let today = self.server.now();
        if let Some(until) = self.valid_until {
            let left = Duration::try_from(until - today).unwrap_or_default();
            wake = wake.min(now + left.max(MIN_SLEEP));
        }
        if let Some(left) = self.generator.renew_in(today) {
            wake = wake.min(now + left);
        }
        wake
    }

    fn take_request(&mut self, request: M::Request) -> Result<(), Status> {
        if let Some(node) = M::node(&request).filter(|n| !n.id.is_empty() && n.id != self.node.id) {
            return Err(Status::invalid_argument(format!(
                "stream was authenticated for ID {}. Received request is for node with ID {}. \
                 Node ID cannot be changed after stream is initialized",
                self.node.id, node.id
            )));
        }
        let answer = self
            .machine
            .on_request(Instant::now(), request)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        match answer {
            Answer::None => {}
            Answer::Ack(resource_type) => {
                self.insight.acknowledged(resource_type);
                self.server.metrics.acknowledged(resource_type);
            }
            Answer::Nack { resource_type, message } => {
                tracing::warn!(?resource_type, message, "proxy rejected its configuration");
                self.insight.rejected(resource_type);
                self.server.metrics.rejected(resource_type);
            }
        }
        Ok(())
    }

    fn take_update(&mut self, update: Update) -> Result<(), Status> {
        match update {
            Update::Changes { snapshot, keys } => {
                let key = self.node.key.resource_key();
                // A stored resource counts only for a proxy that brings none.
                let own = self.node.resource.is_none().then_some(key);
                if keys.iter().any(|k| auth::concerns(&self.node.key, k) || own.as_ref() == Some(k))
                {
                    self.check_again(&snapshot)?;
                }
                self.generator.note(snapshot, Some(&keys));
            }
            Update::Resync { snapshot } => {
                self.check_again(&snapshot)?;
                self.generator.note(snapshot, None);
            }
            Update::Closed => {
                tracing::warn!("the store is followed no more, the proxy keeps what it has");
                self.changes = None;
            }
        }
        self.generator.continue_if_needed(&self.server);
        Ok(())
    }

    fn take_generated(&mut self, finished: Finished) {
        let result = self.generator.take(&self.server, finished);
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(configuration) => {
                if status.generation_error.take().is_some() {
                    self.insight.issues(&status.issues, None);
                }
                if let Some(Configuration { resources, provided, issues, .. }) = configuration {
                    if let Some(first) = issues.first().filter(|_| issues != status.issues) {
                        let count = issues.len();
                        tracing::warn!(count, %first, "parts are not as they are configured");
                    }
                    status.issues = issues;
                    self.insight.issues(&status.issues, None);
                    drop(status);
                    if let Some(identity) = provided.identity {
                        self.insight.certificate(&identity);
                    }
                    self.seat.offer(Arc::clone(&resources));
                    self.machine.set_resources(Instant::now(), resources);
                }
            }
            Err(error) => {
                if status.generation_error.as_deref() != Some(error.as_str()) {
                    tracing::warn!(error, "no new configuration for the proxy");
                    self.insight.issues(&status.issues, Some(&error));
                }
                status.generation_error = Some(error);
            }
        }
        self.generator.continue_if_needed(&self.server);
    }

    /// The keys, revocations or the stored resource changed, or the token's time is over.
    fn check_again(&mut self, snapshot: &Arc<Snapshot>) -> Result<(), Status> {
        self.valid_until = recheck(&self.server, snapshot, &self.credential, &self.node)?;
        Ok(())
    }

    fn check_expiry(&mut self) -> Result<(), Status> {
        if self.valid_until.is_some_and(|until| self.server.now() >= until) {
            let snapshot = self.server.world.snapshot();
            self.check_again(&snapshot)?;
        }
        Ok(())
    }

    /// Brings the status up to date.
    fn report(&self) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.types = self.machine.status();
        status.considered_revision = self.generator.considered();
        if self.generator.is_idle()
            && status.generation_error.is_none()
            && self.machine.is_settled()
        {
            status.applied_revision = Some(self.generator.considered());
        }
    }

    /// Leaves the seat. The resource of the direct flow stays for a while, unless the server
    /// stops; then it is for the next instance.
    fn end(self) {
        self.server.registry.leave(&self.seat, lease(&self.server, &self.node));
    }
}

/// When the resource of a proxy that leaves goes away, if it does.
fn lease(server: &DpServer, node: &Node) -> Option<Instant> {
    let leased = node.resource.is_some() && !server.stopping.is_cancelled();
    leased.then(|| Instant::now() + server.config.deregistration_delay)
}

async fn next_update(changes: &mut Option<Changes>) -> Update {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

/// Checks a credential at the beginning of a stream: against the resource that the proxy is, and
/// also against the stored one that it would replace.
fn check(
    server: &DpServer,
    snapshot: &Arc<Snapshot>,
    credential: &Credential,
    node: &Node,
) -> Result<auth::ValidUntil, Status> {
    let view = SnapshotView(Arc::clone(snapshot));
    let stored = snapshot.get(&node.key.resource_key());
    let authenticate = |spec: &Spec, labels| {
        let claimed = Claimed { key: &node.key, spec, labels };
        auth::authenticate(&server.config, &view, credential, claimed, server.now())
    };
    let Some(desired) = &node.resource else {
        let stored = stored.ok_or_else(|| {
            Status::unauthenticated(format!(
                "authentication failed: resource {:?} not found; create a {} in Kuma CP first or \
                 pass it as an argument to kuma-dp",
                node.id,
                node.key.kind.resource_kind()
            ))
        })?;
        return Ok(authenticate(&stored.spec, &stored.labels)?);
    };
    let valid_until = authenticate(&desired.spec, &desired.labels)?;
    if let Some(stored) = stored
        && let Err(error) = authenticate(&stored.spec, &stored.labels)
    {
        return Err(Status::permission_denied(format!(
            "could not register proxy passed in kuma-dp run: you are trying to override existing \
             proxy to which you don't have an access: {error}"
        )));
    }
    Ok(valid_until)
}

/// Checks a credential while the stream is open: against what it was opened for. When a stored
/// resource was deleted meanwhile, there is nothing left to check; its proxy keeps what it has.
fn recheck(
    server: &DpServer,
    snapshot: &Arc<Snapshot>,
    credential: &Credential,
    node: &Node,
) -> Result<auth::ValidUntil, Status> {
    let view = SnapshotView(Arc::clone(snapshot));
    let stored = snapshot.get(&node.key.resource_key());
    let (spec, labels) = match (&node.resource, stored) {
        (Some(desired), _) => (&desired.spec, &desired.labels),
        (None, Some(stored)) => (&stored.spec, &stored.labels),
        (None, None) => return Ok(None),
    };
    let claimed = Claimed { key: &node.key, spec, labels };
    Ok(auth::authenticate(&server.config, &view, credential, claimed, server.now())?)
}
