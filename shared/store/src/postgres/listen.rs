//! Wake-ups by LISTEN, on a connection of its own. What is lost here is found by polling; this task
//! only has to know whether it hears anything.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sqlx::{PgPool, postgres::PgListener};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::bump;
use crate::{backoff::Backoff, change::Revision, error::StoreError, row};

const CHANNEL: &str = "sunbear_changes";
/// Payload prefix of the message by which a listener finds out whether it hears.
const PROBE: &str = "probe ";
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// A pooler may be replaced by a direct connection some day.
const RETRY_DEAF: Duration = Duration::from_secs(60);

/// Why listening ended.
enum Ended {
    Lost(StoreError),
    Deaf,
}

pub(super) async fn run(
    own: PgPool,
    pool: PgPool,
    wake: watch::Sender<Revision>,
    listening: Arc<AtomicBool>,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    let mut said_deaf = false;
    loop {
        let session = listen(&own, &pool, &wake, &listening, &mut backoff);
        let Some(ended) = stop.run_until_cancelled(session).await else { break };
        if listening.swap(false, Ordering::Relaxed) {
            said_deaf = false;
            // Readers wait for longer than they now may; let them look at the interval again.
            wake.send_modify(|_| {});
        }
        let wait = match ended {
            Ended::Lost(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "notifications lost, polling"
                );
                backoff.next()
            }
            Ended::Deaf => {
                if !said_deaf {
                    said_deaf = true;
                    tracing::warn!(
                        "notifications do not arrive, is there a transaction pooler in between? \
                         changes of other replicas are found by polling every second"
                    );
                }
                RETRY_DEAF
            }
        };
        if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            break;
        }
    }
    listening.store(false, Ordering::Relaxed);
    own.close().await;
}

async fn listen(
    own: &PgPool,
    pool: &PgPool,
    wake: &watch::Sender<Revision>,
    listening: &AtomicBool,
    backoff: &mut Backoff,
) -> Ended {
    match start(own, pool, wake).await {
        Ok(Some(mut listener)) => {
            if !listening.swap(true, Ordering::Relaxed) {
                tracing::info!("notifications arrive");
            }
            backoff.reset();
            loop {
                match listener.try_recv().await {
                    Ok(Some(message)) => heard(wake, message.payload()),
                    Ok(None) => return Ended::Lost(StoreError::unavailable("connection lost")),
                    Err(error) => return Ended::Lost(error.into()),
                }
            }
        }
        Ok(None) => Ended::Deaf,
        Err(error) => Ended::Lost(error),
    }
}

/// A listener that has heard its own probe.
async fn start(
    own: &PgPool,
    pool: &PgPool,
    wake: &watch::Sender<Revision>,
) -> Result<Option<PgListener>, StoreError> {
    let mut listener = PgListener::connect_with(own).await?;
    listener.eager_reconnect(false);
    listener.listen(CHANNEL).await?;
    let probe = format!("{PROBE}{}", Uuid::new_v4());
    sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(&probe).execute(pool).await?;
    let hears = async {
        loop {
            match listener.try_recv().await? {
                Some(message) if message.payload() == probe => return Ok(()),
                Some(message) => heard(wake, message.payload()),
                None => return Err(StoreError::unavailable("connection lost")),
            }
        }
    };
    let Ok(heard_probe) = tokio::time::timeout(PROBE_TIMEOUT, hears).await else {
        return Ok(None);
    };
    heard_probe?;
    // What was sent before LISTEN.
    let head: i64 = sqlx::query_scalar(row::HEAD).fetch_one(pool).await?;
    bump(wake, row::to_u64(head)?);
    Ok(Some(listener))
}

fn heard(wake: &watch::Sender<Revision>, payload: &str) {
    match payload.parse() {
        Ok(revision) => bump(wake, revision),
        Err(_) if payload.starts_with(PROBE) => {}
        Err(_) => tracing::debug!(payload, "notification not understood"),
    }
}
