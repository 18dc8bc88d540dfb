//! Readiness: components name what they still wait for, and the process is ready when nothing is
//! left. Served with liveness and metrics on the diagnostics port.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{Registry, TextEncoder};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What the process still waits for. Clones share one state.
#[derive(Debug, Clone)]
pub struct Readiness {
    /// Blockers by name, with how many of a name there are.
    awaited: watch::Sender<BTreeMap<&'static str, usize>>,
    conditions: Conditions,
}

/// What has to hold for as long as the process runs.
#[derive(Clone, Default)]
struct Conditions(Arc<RwLock<Vec<Condition>>>);

/// A name, and the question whether it holds.
type Condition = (&'static str, Box<dyn Fn() -> bool + Send + Sync>);

impl fmt::Debug for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let conditions = self.0.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_list().entries(conditions.iter().map(|(name, _)| name)).finish()
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// Ready, until somebody asks for a blocker.
    pub fn new() -> Self {
        Self { awaited: watch::Sender::new(BTreeMap::new()), conditions: Conditions::default() }
    }

    /// The process is not ready until [`Blocker::ready`] is called. A blocker that is merely dropped
    /// keeps blocking: a component that died while starting is not ready.
    pub fn blocker(&self, name: &'static str) -> Blocker {
        self.awaited.send_modify(|awaited| *awaited.entry(name).or_default() += 1);
        Blocker { name, readiness: self.clone() }
    }

    /// The process is ready only while `holds` says so, which is asked with every probe: for what
    /// may be lost and found again. It must answer at once.
    pub fn condition(&self, name: &'static str, holds: impl Fn() -> bool + Send + Sync + 'static) {
        let mut conditions = self.conditions.0.write().unwrap_or_else(PoisonError::into_inner);
        conditions.push((name, Box::new(holds)));
    }

    /// Names of what is awaited, in order; empty when ready.
    pub fn awaited(&self) -> Vec<&'static str> {
        let mut awaited: BTreeSet<_> = self.awaited.borrow().keys().copied().collect();
        let conditions = self.conditions.0.read().unwrap_or_else(PoisonError::into_inner);
        awaited.extend(conditions.iter().filter(|(_, holds)| !holds()).map(|(name, _)| *name));
        awaited.into_iter().collect()
    }

    /// Waits until every blocker is released. Conditions do not count: they come and go.
    pub async fn until_ready(&self) {
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.awaited.subscribe().wait_for(BTreeMap::is_empty).await;
    }
}

/// A reason not to be ready, see [`Readiness::blocker`].
#[derive(Debug)]
#[must_use = "the process becomes ready only through `ready`"]
pub struct Blocker {
    name: &'static str,
    readiness: Readiness,
}

impl Blocker {
    /// The component is ready.
    pub fn ready(self) {
        self.readiness.awaited.send_modify(|awaited| {
            if let Some(count) = awaited.get_mut(self.name) {
                *count -= 1;
                if *count == 0 {
                    awaited.remove(self.name);
                }
            }
        });
        let awaited = self.readiness.awaited();
        if awaited.is_empty() {
            tracing::info!(component = self.name, "component is ready, all are");
        } else {
            tracing::info!(
                component = self.name,
                awaited = awaited.join(", "),
                "component is ready"
            );
        }
    }
}

/// `/healthy`: 200 while the process runs. `/ready`: 200 when ready, else 503 with what is awaited;
/// 503 too from the moment the process stops, so that load balancers look elsewhere. `/metrics`: what
/// the registry has, in Prometheus' text form.
pub fn diagnostics_router(
    readiness: Readiness,
    stop: CancellationToken,
    metrics: Registry,
) -> Router {
    Router::new()
        .route("/healthy", get(async || "ok\n"))
        .route("/ready", get(ready))
        .with_state((readiness, stop))
        .route("/metrics", get(move || text(metrics.clone())))
}

async fn text(metrics: Registry) -> Result<impl IntoResponse, (StatusCode, String)> {
    let text = TextEncoder::new()
        .encode_to_string(&metrics.gather())
        .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")))?;
    Ok(([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text))
}

async fn ready(
    State((readiness, stop)): State<(Readiness, CancellationToken)>,
) -> (StatusCode, String) {
    if stop.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned());
    }
    let awaited = readiness.awaited();
    if awaited.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for: {}\n", awaited.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;

    async fn check(router: &Router, path: &str, status: u16, body: &str) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{path}");
        let bytes = to_bytes(response.into_body(), 1024).await.unwrap();
        assert_eq!(bytes, body.as_bytes(), "{path}");
    }

    #[tokio::test]
    async fn not_ready_while_a_condition_does_not_hold() {
        let readiness = Readiness::new();
        let router =
            diagnostics_router(readiness.clone(), CancellationToken::new(), Registry::new());
        let connected = Arc::new(AtomicBool::new(true));
        let asked = Arc::clone(&connected);
        readiness.condition("database", move || asked.load(Ordering::Relaxed));
        check(&router, "/ready", 200, "ok\n").await;
        connected.store(false, Ordering::Relaxed);
        check(&router, "/ready", 503, "waiting for: database\n").await;
        check(&router, "/healthy", 200, "ok\n").await;
        connected.store(true, Ordering::Relaxed);
        check(&router, "/ready", 200, "ok\n").await;
    }

    #[tokio::test]
    async fn ready_when_every_blocker_is_released() {
        let readiness = Readiness::new();
        let stop = CancellationToken::new();
        let metrics = Registry::new();
        let counter = prometheus::IntCounter::new("requests", "Requests").unwrap();
        metrics.register(Box::new(counter.clone())).unwrap();
        let router = diagnostics_router(readiness.clone(), stop.clone(), metrics);
        counter.inc();
        let text = "# HELP requests Requests\n# TYPE requests counter\nrequests 1\n";
        check(&router, "/metrics", 200, text).await;
        let store = readiness.blocker("store");
        let kds = readiness.blocker("kds");
        check(&router, "/ready", 503, "waiting for: kds, store\n").await;
        check(&router, "/healthy", 200, "ok\n").await;
        store.ready();
        check(&router, "/ready", 503, "waiting for: kds\n").await;
        kds.ready();
        readiness.until_ready().await;
        check(&router, "/ready", 200, "ok\n").await;
        stop.cancel();
        check(&router, "/ready", 503, "stopping\n").await;
        check(&router, "/healthy", 200, "ok\n").await;
    }

    #[test]
    fn a_dropped_blocker_keeps_blocking() {
        let readiness = Readiness::new();
        drop(readiness.blocker("store"));
        let second = readiness.blocker("store");
        second.ready();
        assert_eq!(readiness.awaited(), ["store"]);
    }
}
