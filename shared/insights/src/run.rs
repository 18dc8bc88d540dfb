//! The shell: follows the world and writes.

use std::{sync::Arc, time::Duration};

use rand::Rng as _;
use sunbear_store::{
    Batch, BatchMode, ChangeError, Fence, Lease, Snapshot, StoreError, Subscription, Update, World,
};
use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{meshes::Meshes, pace::Pace};

/// How long a mesh that was written is left alone.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// Lease under which one replica writes.
const LEASE: &str = "insights";
/// Life of the lease. A replica that dies is succeeded after this at the latest.
const TTL: Duration = Duration::from_secs(15);
/// How often the lease is prolonged, or asked for.
const RENEWAL: Duration = Duration::from_secs(5);
/// Meshes that are written at once, to bound the size of a transaction.
const MESHES_PER_BATCH: usize = 64;
/// Longest pause after failed writes.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Keeps the insights of all meshes true while this instance holds the lease, until stopped. The
/// interval is [`INTERVAL`] but for tests.
pub async fn run(world: World, instance: String, stop: CancellationToken, interval: Duration) {
    let work = follow(&world, &instance, interval);
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {
            // The feed has ended, so the process is about to.
            stop.cancelled().await;
        }
    }
    // If it fails, the lease lapses.
    let _ = world.store().release(LEASE, &instance).await;
}

/// Waits for the lease, works while it is held, and so on until the feed of the world ends.
async fn follow(world: &World, instance: &str, interval: Duration) {
    loop {
        match world.store().lease(LEASE, instance, TTL).await {
            Ok(Lease::Held { fencing }) => {
                info!("computing insights");
                let fence = Fence { name: LEASE.to_owned(), fencing };
                match Leader::new(world, instance, fence, interval).work().await {
                    Ended::Lost => info!("another instance computes insights"),
                    Ended::Closed => return,
                }
            }
            Ok(Lease::Other { .. }) => {}
            Err(error) => warn!(%error, "lease of the insights not taken"),
        }
        tokio::time::sleep(RENEWAL).await;
    }
}

/// Why a leader has ended.
enum Ended {
    /// The lease is another's.
    Lost,
    /// The feed of the world has ended.
    Closed,
}

struct Leader<'a> {
    world: &'a World,
    instance: &'a str,
    fence: Fence,
    subscription: Subscription,
    meshes: Meshes,
    pace: Pace,
    /// Failed writes in a row.
    failures: u32,
}

impl<'a> Leader<'a> {
    fn new(world: &'a World, instance: &'a str, fence: Fence, interval: Duration) -> Self {
        // First the subscription: what happens in between is then seen twice, not never.
        let subscription = world.subscribe();
        let mut leader = Self {
            world,
            instance,
            fence,
            subscription,
            meshes: Meshes::default(),
            pace: Pace::new(interval),
            failures: 0,
        };
        leader.start_anew(&world.snapshot());
        leader
    }

    fn start_anew(&mut self, snapshot: &Snapshot) {
        self.meshes = Meshes::of(snapshot);
        for mesh in self.meshes.names() {
            self.pace.mark(Arc::clone(mesh));
        }
    }

    async fn work(mut self) -> Ended {
        let mut renewal = Instant::now() + RENEWAL;
        loop {
            let now = Instant::now();
            let next = self.pace.next(now);
            tokio::select! {
                update = self.subscription.next() => match update {
                    Update::Changes { snapshot, keys } => {
                        for mesh in self.meshes.apply(&keys, &snapshot) {
                            self.pace.mark(mesh);
                        }
                    }
                    Update::Resync { snapshot } => self.start_anew(&snapshot),
                    Update::Closed => return Ended::Closed,
                },
                () = tokio::time::sleep_until(next.unwrap_or(renewal)), if next.is_some() => {
                    if let Some(ended) = self.write().await {
                        return ended;
                    }
                }
                () = tokio::time::sleep_until(renewal) => {
                    renewal = Instant::now() + RENEWAL;
                    match self.world.store().lease(LEASE, self.instance, TTL).await {
                        Ok(Lease::Held { fencing }) => self.fence.fencing = fencing,
                        Ok(Lease::Other { .. }) => return Ended::Lost,
                        // Writes say by themselves whether the lease still holds.
                        Err(error) => warn!(%error, "lease of the insights not prolonged"),
                    }
                }
            }
        }
    }

    /// Writes the insights of the meshes that are due.
    async fn write(&mut self) -> Option<Ended> {
        let due = self.pace.take_due(Instant::now());
        for some in due.chunks(MESHES_PER_BATCH) {
            // Newer than what the states know is no harm: the rest is compared again when it comes.
            let snapshot = self.world.snapshot();
            let mut changes = Vec::new();
            let mut written = Vec::new();
            for mesh in some {
                let wanted = self.meshes.changes(mesh, &snapshot);
                if !wanted.is_empty() {
                    written.push(mesh);
                    changes.extend(wanted);
                }
            }
            if changes.is_empty() {
                continue;
            }
            let batch = Batch {
                changes,
                author: "mesh-system:control-plane".to_owned(),
                reason: "insights".to_owned(),
                mode: BatchMode::Independent,
                at: OffsetDateTime::now_utc(),
            };
            let done = self.world.commit_fenced(batch, Some(self.fence.clone())).await;
            let now = Instant::now();
            match done {
                Ok(committed) => {
                    self.failures = 0;
                    for mesh in written {
                        self.pace.wrote(mesh, now);
                    }
                    committed.results.iter().filter_map(|r| r.as_ref().err()).for_each(report);
                }
                Err(StoreError::Fenced(_)) => return Some(Ended::Lost),
                Err(error) => {
                    self.failures += 1;
                    let pause = pause(self.failures);
                    warn!(%error, meshes = written.len(), "insights not written");
                    for mesh in written {
                        self.pace.failed(Arc::clone(mesh), now, pause);
                    }
                }
            }
        }
        None
    }
}

fn report(error: &ChangeError) {
    match error {
        // The mesh is gone, and its insights with it.
        ChangeError::OwnerMissing { .. } => debug!(%error, "insight not written"),
        ChangeError::AlreadyExists(_)
        | ChangeError::Conflict(_)
        | ChangeError::NotFound(_)
        | ChangeError::TooLarge { .. }
        | ChangeError::NullCharacter { .. }
        | ChangeError::NotApplied(_) => warn!(%error, "insight not written"),
    }
}

/// Grows twofold from one second, with a random part so that replicas of many installations do not
/// come back together.
fn pause(failures: u32) -> Duration {
    let full = INTERVAL.saturating_mul(1 << failures.min(5)).min(MAX_PAUSE);
    full.mul_f64(rand::rng().random_range(0.5..=1.0))
}
