//! The beginning and the end of an Envoy's service, as seen through its admin interface.

use std::time::Duration;

use tokio::time::Instant;

use crate::admin::Admin;

/// Pause between looks whether a starting Envoy serves.
const LIVE_LOOK: Duration = Duration::from_millis(50);
/// How long a live Envoy without listeners is mistrusted while the sealed configuration has some.
const EMPTY_LIMIT: Duration = Duration::from_secs(30);
/// Pause between looks whether a draining Envoy still has connections.
const DRAIN_LOOK: Duration = Duration::from_millis(250);

/// Waits until an Envoy serves.
pub(crate) async fn serves(admin: &Admin, expects_listeners: bool) {
    let mut live_since: Option<Instant> = None;
    loop {
        if admin.is_live().await {
            let since = *live_since.get_or_insert_with(Instant::now);
            // A control plane that has just come up may not know its configuration yet. What it
            // says stands in the end, but it gets the time to think twice.
            let empty = expects_listeners && admin.listeners().await.is_ok_and(|count| count == 0);
            if !empty {
                return;
            }
            if since.elapsed() > EMPTY_LIMIT {
                tracing::warn!(
                    "the control plane gives no listeners, where the sealed configuration has some"
                );
                return;
            }
        }
        tokio::time::sleep(LIVE_LOOK).await;
    }
}

/// Stops taking connections, asks clients to close theirs, and waits until they have.
pub(crate) async fn drain(admin: &Admin, limit: Duration) {
    let drained = async {
        admin.stop_listeners().await?;
        admin.fail_health_checks().await?;
        loop {
            // Pause first: workers may just have accepted connections that are not counted yet.
            tokio::time::sleep(DRAIN_LOOK).await;
            if admin.connections().await? == 0 {
                return anyhow::Ok(());
            }
        }
    };
    if let Ok(Err(error)) = tokio::time::timeout(limit, drained).await {
        tracing::debug!(error = format!("{error:#}"), "cannot drain Envoy");
    }
}

/// Lets health checks fail and asks clients to leave; what cannot be reached needs no draining.
pub(crate) async fn fail_health_checks(admin: &Admin) {
    if let Err(error) = admin.fail_health_checks().await {
        tracing::warn!(error = format!("{error:#}"), "cannot tell Envoy to drain");
    }
}
