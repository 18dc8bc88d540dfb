//! The world: every resource in memory, kept up to date by the log of the store.
//!
//! Snapshots are immutable and O(1) to take. Commits of this process are applied as soon as the
//! database has acknowledged them, without another read; those of others arrive by the feed task.
//! If the database is away, everything that is here goes on being served.
//!
//! All changes of the state are made under one lock that is never held across an await.

mod feed;
mod ring;
mod snapshot;

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
pub use snapshot::Snapshot;
use sunbear_model::ResourceKey;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    change::{Batch, Committed, Revision, WorldChange},
    error::StoreError,
    store::{Changes, Fence, Loaded, Store},
};
use ring::Ring;

/// How long a commit waits until memory has caught up with it.
const READ_YOUR_WRITES: Duration = Duration::from_secs(1);
/// Commits of this process that wait for an earlier one; beyond that the feed reads them.
const MAX_PENDING: usize = 8192;

/// Bounds of a world. The defaults fit production.
#[derive(Debug, Clone)]
pub struct WorldOptions {
    /// Change sets that are kept for subscribers that are behind. Each costs a few words.
    pub ring_sets: usize,
    /// Changed keys that are kept for them.
    pub ring_keys: usize,
    /// Entries of the log that are read at once.
    pub page: u32,
}

impl Default for WorldOptions {
    fn default() -> Self {
        Self { ring_sets: 4096, ring_keys: 65_536, page: 1000 }
    }
}

/// The resources in memory and the way to change them. Cheap to clone.
#[derive(Clone)]
pub struct World {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    options: WorldOptions,
    snapshot: ArcSwap<Snapshot>,
    state: Mutex<State>,
    /// The revision of the snapshot; what sleepers wait on.
    revision: watch::Sender<Revision>,
    /// Cancelled when the feed task has ended.
    closed: CancellationToken,
    /// Commits of this process that are under way.
    committing: AtomicUsize,
    reloads: AtomicU64,
    failures: AtomicU64,
}

/// What changes together with the snapshot.
struct State {
    ring: Ring,
    /// Commits of this process that came back before an earlier one.
    pending: BTreeMap<Revision, WorldChange>,
    /// Id and version of the entry at our revision. If the database says otherwise, it is not the
    /// database that we have read.
    witness: Option<(Uuid, u64)>,
    feed: WorldState,
    last_contact: Instant,
}

/// How the feed is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorldState {
    /// Memory follows the database.
    Following,
    /// The database does not answer; memory is as of the last contact. The text is the error.
    Retrying(String),
    /// The database was restored to an older state. Memory keeps what it has and nothing is
    /// written, until the database is the newer one again or the process is restarted.
    Regressed {
        /// The revision in memory.
        ours: Revision,
        /// The revision of the database.
        theirs: Revision,
    },
    /// The feed task has ended.
    Closed,
}

/// The state of a world, for readiness and metrics.
#[derive(Debug, Clone)]
pub struct WorldHealth {
    /// How the feed is doing.
    pub state: WorldState,
    /// The revision in memory.
    pub revision: Revision,
    /// Revisions that are known to be committed and not yet in memory.
    pub lag: u64,
    /// Time since the database last answered the feed. It is only asked when there is news, or
    /// every ten seconds.
    pub since_contact: Duration,
    /// How often everything was loaded anew.
    pub reloads: u64,
    /// How often the feed failed to read.
    pub failures: u64,
}

impl World {
    /// Loads everything. The returned future is the feed; spawn it: without it, changes of others
    /// do not arrive. It ends only when it is dropped.
    pub async fn start(
        store: Arc<dyn Store>,
        options: WorldOptions,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), StoreError> {
        let Loaded { revision, resources } = store.load().await?;
        let witness = witness(&*store, revision).await?;
        let inner = Arc::new(Inner {
            snapshot: ArcSwap::from_pointee(Snapshot::new(revision, resources)),
            state: Mutex::new(State {
                ring: Ring::new(revision, options.ring_sets, options.ring_keys),
                pending: BTreeMap::new(),
                witness,
                feed: WorldState::Following,
                last_contact: Instant::now(),
            }),
            revision: watch::channel(revision).0,
            closed: CancellationToken::new(),
            committing: AtomicUsize::new(0),
            reloads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            store,
            options,
        });
        let feed = feed::run(Arc::clone(&inner));
        Ok((Self { inner }, feed))
    }

    /// Everything as of now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.inner.snapshot.load_full()
    }

    /// Follows changes from the current snapshot on.
    pub fn subscribe(&self) -> Subscription {
        let revision = self.inner.revision.subscribe();
        let seen = self.snapshot().revision;
        Subscription { inner: Arc::clone(&self.inner), revision, seen }
    }

    /// The store below.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.inner.store
    }

    /// Commits a batch. When this returns, snapshots contain it (unless other writers' changes
    /// before it take more than a second to arrive).
    pub async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        self.commit_fenced(batch, None).await
    }

    /// Commits a batch while the lease is held.
    pub async fn commit_fenced(
        &self,
        batch: Batch,
        fence: Option<Fence>,
    ) -> Result<Committed, StoreError> {
        let inner = &self.inner;
        if let WorldState::Regressed { ours, theirs } = inner.lock().feed {
            return Err(StoreError::Regressed { ours, theirs });
        }
        let known = inner.snapshot.load().revision;
        let committed = {
            let _committing = Committing::new(&inner.committing);
            let committed = inner.store.commit_fenced(batch, fence).await?;
            if committed.written.first().is_some_and(|first| first.revision <= known) {
                return Err(inner.regressed(committed.revision));
            }
            inner.apply_own(&committed.written);
            committed
        };
        if inner.snapshot.load().revision < committed.revision {
            let wait = self.wait_for(committed.revision);
            if tokio::time::timeout(READ_YOUR_WRITES, wait).await.is_err() {
                tracing::warn!(revision = committed.revision, "memory is behind a commit");
            }
        }
        Ok(committed)
    }

    /// Waits until memory contains `revision`; None if the feed has ended before.
    pub async fn wait_for(&self, revision: Revision) -> Option<Arc<Snapshot>> {
        self.inner.wait_for(revision).await
    }

    /// True once everything has been loaded, and so always: a world without its resources does
    /// not exist. For readiness see [`World::health`] too.
    pub fn is_hydrated(&self) -> bool {
        true
    }

    /// How the feed is doing.
    pub fn health(&self) -> WorldHealth {
        let (state, since_contact) = {
            let state = self.inner.lock();
            (state.feed.clone(), state.last_contact.elapsed())
        };
        let revision = self.snapshot().revision;
        let known = *self.inner.store.wake().borrow();
        WorldHealth {
            state,
            revision,
            lag: known.saturating_sub(revision),
            since_contact,
            reloads: self.inner.reloads.load(Ordering::Relaxed),
            failures: self.inner.failures.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("snapshot", &self.inner.snapshot.load())
            .finish_non_exhaustive()
    }
}

/// Counts a commit while it is under way, also if its future is dropped.
struct Committing<'a>(&'a AtomicUsize);

impl<'a> Committing<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Committing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The entry at `revision`, if it is still in the log.
async fn witness(store: &dyn Store, revision: Revision) -> Result<Option<(Uuid, u64)>, StoreError> {
    let Some(before) = revision.checked_sub(1) else { return Ok(None) };
    Ok(match store.changes_since(before, 1).await? {
        Changes::Rows(rows) => {
            rows.first().filter(|c| c.revision == revision).map(|c| (c.uid, c.version))
        }
        Changes::Compacted | Changes::Regressed { .. } => None,
    })
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock; if something did, the state is still the last
        // published one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn wait_for(&self, revision: Revision) -> Option<Arc<Snapshot>> {
        let mut receiver = self.revision.subscribe();
        if *receiver.borrow() >= revision {
            return Some(self.snapshot.load_full());
        }
        let wait = receiver.wait_for(|have| *have >= revision);
        let reached = self.closed.run_until_cancelled(wait).await.is_some_and(|r| r.is_ok());
        reached.then(|| self.snapshot.load_full())
    }

    /// Applies what this process has just committed, or keeps it until what is before it arrives.
    fn apply_own(&self, changes: &[WorldChange]) {
        let mut state = self.lock();
        let revision = self.snapshot.load().revision;
        let first = changes.first().map_or(0, |c| c.revision);
        if first > revision + 1 {
            if state.pending.len() + changes.len() <= MAX_PENDING {
                state.pending.extend(changes.iter().map(|c| (c.revision, c.clone())));
            }
            return;
        }
        self.apply(&mut state, changes);
    }

    /// Applies entries that follow on the snapshot; those that it has already are left out. Then
    /// also the pending ones that follow.
    fn apply(&self, state: &mut State, changes: &[WorldChange]) {
        let old = self.snapshot.load_full();
        let mut next = (*old).clone();
        let mut keys = Vec::new();
        let mut step = |state: &mut State, change: &WorldChange| {
            next.apply(change);
            state.witness = Some((change.uid, change.version));
            keys.extend(change.key().cloned());
            next.revision
        };
        let mut revision = old.revision;
        for change in changes {
            if change.revision > revision {
                revision = step(state, change);
            }
        }
        while let Some(entry) = state.pending.first_entry() {
            if *entry.key() > revision + 1 {
                break;
            }
            let change = entry.remove();
            if change.revision > revision {
                revision = step(state, &change);
            }
        }
        if revision > old.revision {
            keys.sort_unstable();
            keys.dedup();
            state.ring.push(revision, keys.into());
            self.publish(next);
        }
    }

    /// Call with the lock held, so that subscribers see ring and snapshot together.
    fn publish(&self, snapshot: Snapshot) {
        let revision = snapshot.revision;
        self.snapshot.store(Arc::new(snapshot));
        self.revision.send_replace(revision);
    }

    /// Takes over a fresh load. False if memory is newer by now.
    fn replace(&self, loaded: Loaded, witness: Option<(Uuid, u64)>) -> bool {
        let mut snapshot = Snapshot::new(loaded.revision, loaded.resources);
        let mut state = self.lock();
        let old = self.snapshot.load_full();
        if snapshot.revision < old.revision {
            return false;
        }
        snapshot.reuse(&old);
        state.pending = state.pending.split_off(&(snapshot.revision + 1));
        state.witness = witness;
        state.ring.clear(snapshot.revision);
        self.reloads.fetch_add(1, Ordering::Relaxed);
        self.publish(snapshot);
        self.apply(&mut state, &[]);
        true
    }

    fn set_feed(&self, feed: WorldState) {
        let mut state = self.lock();
        if state.feed != feed {
            match (&state.feed, &feed) {
                (_, WorldState::Regressed { ours, theirs }) => tracing::error!(
                    ours,
                    theirs,
                    "the database is older than memory, was it restored from a backup? \
                     memory keeps what it has and nothing is written; restart to accept the database"
                ),
                (WorldState::Following, WorldState::Retrying(error)) => {
                    tracing::warn!(error, "database lost, serving from memory");
                }
                (_, WorldState::Following) => tracing::info!("database back"),
                (_, WorldState::Retrying(_) | WorldState::Closed) => {}
            }
        }
        if feed == WorldState::Following {
            state.last_contact = Instant::now();
        }
        state.feed = feed;
    }

    fn regressed(&self, theirs: Revision) -> StoreError {
        let ours = self.snapshot.load().revision;
        self.set_feed(WorldState::Regressed { ours, theirs });
        StoreError::Regressed { ours, theirs }
    }
}

/// A reader of changes. It may be as slow as it likes: what it misses is merged, and if that is too
/// much, it starts anew.
pub struct Subscription {
    inner: Arc<Inner>,
    revision: watch::Receiver<Revision>,
    seen: Revision,
}

/// What a subscriber has missed since it last asked.
#[derive(Debug, Clone)]
pub enum Update {
    /// These objects changed, came or went.
    Changes {
        /// The state after the changes.
        snapshot: Arc<Snapshot>,
        /// Their keys, sorted, each once.
        keys: Arc<[ResourceKey]>,
    },
    /// Anything may have changed.
    Resync {
        /// The state now.
        snapshot: Arc<Snapshot>,
    },
    /// The feed has ended; nothing more will come.
    Closed,
}

impl Subscription {
    /// Waits for changes. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Update {
        loop {
            if *self.revision.borrow_and_update() > self.seen {
                let state = self.inner.lock();
                let snapshot = self.inner.snapshot.load_full();
                let keys = state.ring.since(self.seen);
                self.seen = snapshot.revision;
                return match keys {
                    Some(keys) => Update::Changes { snapshot, keys },
                    None => Update::Resync { snapshot },
                };
            }
            let changed = self.inner.closed.run_until_cancelled(self.revision.changed()).await;
            if changed.is_none_or(|c| c.is_err()) && *self.revision.borrow() <= self.seen {
                return Update::Closed;
            }
        }
    }

    /// The revision up to which this subscriber has been told.
    pub fn seen(&self) -> Revision {
        self.seen
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("seen", &self.seen).finish_non_exhaustive()
    }
}
