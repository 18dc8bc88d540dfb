//! The interface of every store.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use sunbear_model::{Resource, ResourceKey, Spec};
use time::OffsetDateTime;
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    change::{Batch, Committed, Revision, WorldChange},
    error::StoreError,
};

/// A database of resources. Implementations are cheap to share behind an `Arc`; dropping a future
/// of a commit does not tell whether the commit is made.
pub trait Store: Send + Sync + 'static {
    /// Commits a batch while the writer holds the lease, if one is named; otherwise
    /// [`StoreError::Fenced`].
    fn commit_fenced(
        &self,
        batch: Batch,
        fence: Option<Fence>,
    ) -> BoxFuture<'_, Result<Committed, StoreError>>;

    /// Commits a batch.
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Committed, StoreError>> {
        self.commit_fenced(batch, None)
    }

    /// Everything, as of one revision.
    fn load(&self) -> BoxFuture<'_, Result<Loaded, StoreError>>;

    /// The entries of the log after `revision`, at most `limit`, in order.
    fn changes_since(
        &self,
        revision: Revision,
        limit: u32,
    ) -> BoxFuture<'_, Result<Changes, StoreError>>;

    /// The newest entries about one object, newest first.
    fn history(
        &self,
        key: &ResourceKey,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<HistoryEntry>, StoreError>>;

    /// Removes old entries of the log; returns how many.
    fn compact(&self, retention: Retention) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// A revision that is known to be committed; changes when more is. Only a wake-up: it may be
    /// late, and then [`Store::poll_interval`] bounds how late.
    fn wake(&self) -> watch::Receiver<Revision>;

    /// How long a reader may rely on [`Store::wake`] before it looks by itself.
    fn poll_interval(&self) -> Duration;

    /// Takes the lease `name` for `holder`, or prolongs it. Time is the database's.
    fn lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Lease, StoreError>>;

    /// Gives up a lease, if `holder` has it.
    fn release(&self, name: &str, holder: &str) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Finishes what is under way and closes all connections. Later calls fail.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// Everything, as of one revision.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The revision.
    pub revision: Revision,
    /// All resources, in no particular order.
    pub resources: Vec<Arc<Resource>>,
}

/// What a reader of the log gets.
#[derive(Debug, Clone, PartialEq)]
pub enum Changes {
    /// The entries; fewer than asked for means that there were no more.
    Rows(Vec<WorldChange>),
    /// Some of the entries were compacted away; load everything.
    Compacted,
    /// The reader has seen more than the database has: it was restored to an older state.
    Regressed {
        /// The newest revision of the database.
        head: Revision,
    },
}

/// The lease that a writer must hold at the moment of its commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// Name of the lease.
    pub name: String,
    /// The number that came with it.
    pub fencing: u64,
}

/// Who has a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lease {
    /// The caller.
    Held {
        /// Grows with each change of hands, and when a holder let the lease lapse.
        fencing: u64,
    },
    /// Somebody else.
    Other {
        /// Who.
        holder: String,
    },
}

/// What compaction keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// The feed keeps entries that are not older than this. A reader further behind loads everything.
    pub feed_since: OffsetDateTime,
    /// The feed keeps at most this many entries.
    pub feed_rows: u64,
    /// History keeps at least this many entries of each object that has history,
    pub history_per_object: u32,
    /// unless they are older than this.
    pub history_since: OffsetDateTime,
}

impl Retention {
    /// One hour and 100,000 entries for the feed; 20 entries an object and 90 days for history.
    pub fn standard(now: OffsetDateTime) -> Self {
        Self {
            feed_since: now - time::Duration::HOUR,
            feed_rows: 100_000,
            history_per_object: 20,
            history_since: now - time::Duration::days(90),
        }
    }
}

/// One entry of an object's history.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryEntry {
    /// Its place in the log.
    pub revision: Revision,
    /// What happened.
    pub op: HistoryOp,
    /// The object's id: another one after it was deleted and created again.
    pub uid: Uuid,
    /// The object's version after the change.
    pub version: u64,
    /// Labels after the change; of a deleted object, its last.
    pub labels: BTreeMap<String, String>,
    /// Spec after the change. None for deletions and for types without history.
    pub spec: Option<Spec>,
    /// When.
    pub at: OffsetDateTime,
    /// Who.
    pub author: String,
    /// Why.
    pub reason: String,
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryOp {
    /// It came into being.
    Created,
    /// It was replaced.
    Updated,
    /// It was deleted.
    Deleted,
}
