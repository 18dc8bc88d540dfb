//! The feed task: reads what others have committed.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{Inner, WorldState, witness};
use crate::{
    backoff::Backoff,
    change::{Revision, WorldChange},
    error::StoreError,
    store::Changes,
};

/// How long news that a commit of this process may bring by itself is not read from the database.
const OWN_COMMIT: Duration = Duration::from_millis(2);
/// Pages that are read before anything is published, so that readers do not see half a batch. More
/// than this are only waiting if writers are faster than the feed.
const MAX_PAGES: usize = 64;

/// Says that the feed has ended, however it ends.
struct Closing(Arc<Inner>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.set_feed(WorldState::Closed);
        self.0.closed.cancel();
    }
}

pub(super) fn run(inner: Arc<Inner>) -> impl Future<Output = ()> + Send + 'static {
    // Outside of the future, which may be dropped before it is polled.
    let closing = Closing(inner);
    async move { follow(&closing.0).await }
}

async fn follow(inner: &Inner) {
    let mut wake = inner.store.wake();
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    loop {
        // Whatever is known to be committed now is seen by the read that follows.
        let known = *wake.borrow_and_update();
        match catch_up(inner).await {
            Ok(more) => {
                backoff.reset();
                if more {
                    continue;
                }
            }
            Err(StoreError::Regressed { theirs, .. }) => {
                inner.regressed(theirs);
            }
            Err(error) => {
                inner.failures.fetch_add(1, Ordering::Relaxed);
                inner.set_feed(WorldState::Retrying(chain(&error)));
                tokio::time::sleep(backoff.next()).await;
                continue;
            }
        }
        wait_for_news(inner, &mut wake, known).await;
    }
}

/// Returns when more than `known` is committed and not in memory, or when it is time to look.
async fn wait_for_news(inner: &Inner, wake: &mut watch::Receiver<Revision>, known: Revision) {
    let asked = Instant::now();
    loop {
        let news = *wake.borrow_and_update();
        if news > known.max(inner.snapshot.load().revision) {
            if inner.committing.load(Ordering::Relaxed) == 0 {
                return;
            }
            // Probably this is our own commit, whose answer is about to arrive.
            if tokio::time::timeout(OWN_COMMIT, inner.wait_for(news)).await.is_err() {
                return;
            }
            continue;
        }
        // Anew each time: the interval gets shorter when notifications are lost.
        let until = asked + inner.store.poll_interval();
        match tokio::time::timeout_at(until, wake.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => {
                // The store says nothing more.
                tokio::time::sleep_until(until).await;
                return;
            }
            Err(_) => return,
        }
    }
}

/// Reads and applies what is new; true if there is still more.
async fn catch_up(inner: &Inner) -> Result<bool, StoreError> {
    let (revision, witness) = {
        let state = inner.lock();
        (inner.snapshot.load().revision, state.witness)
    };
    // One entry more than needed: the last that we have, to see that it is the same.
    let mut since = if witness.is_some() { revision.saturating_sub(1) } else { revision };
    let page = inner.options.page.max(2);
    let mut changes: Vec<WorldChange> = Vec::new();
    let mut more = false;
    for _ in 0..MAX_PAGES {
        let rows = match inner.store.changes_since(since, page).await? {
            Changes::Rows(rows) => rows,
            Changes::Compacted => return reload(inner).await.map(|()| false),
            Changes::Regressed { head } => return Err(regressed(revision, head)),
        };
        if let (true, Some(witness)) = (changes.is_empty() && since < revision, witness) {
            match rows.first() {
                Some(first) if first.revision == revision => {
                    if (first.uid, first.version) != witness {
                        let head = rows.last().map_or(first.revision, |c| c.revision);
                        return Err(regressed(revision, head));
                    }
                }
                Some(_) => {}
                None => return Err(regressed(revision, since)),
            }
        }
        more = rows.len() >= page as usize;
        since = rows.last().map_or(since, |c| c.revision);
        changes.extend(rows);
        if !more {
            break;
        }
    }
    let mut state = inner.lock();
    inner.apply(&mut state, &changes);
    drop(state);
    inner.set_feed(WorldState::Following);
    Ok(more)
}

async fn reload(inner: &Inner) -> Result<(), StoreError> {
    loop {
        let before = inner.snapshot.load().revision;
        let loaded = inner.store.load().await?;
        if loaded.revision < before {
            return Err(regressed(before, loaded.revision));
        }
        let witness = witness(&*inner.store, loaded.revision).await?;
        let revision = loaded.revision;
        if inner.replace(loaded, witness) {
            tracing::info!(
                revision,
                "loaded everything anew, the log did not reach back far enough"
            );
            inner.set_feed(WorldState::Following);
            return Ok(());
        }
    }
}

fn regressed(ours: Revision, theirs: Revision) -> StoreError {
    StoreError::Regressed { ours, theirs }
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
