//! Group commit. All commits of a database wait for each other, because the lock on the revision
//! counter lasts until a commit is on the disk. So whatever callers of this process hand in while a
//! commit is under way goes into the next one together: under load a transaction serves many
//! callers, and a lone writer waits for nobody.

use std::collections::HashSet;

use sunbear_model::ResourceKey;
use tokio::sync::{mpsc, oneshot};

use super::commit::{Committer, GroupError};
use crate::{
    change::{Batch, Committed, Operation},
    error::StoreError,
    plan,
};

/// Callers that may wait in the queue; more wait for a place in it.
const QUEUE: usize = 256;
/// Changes of one group: what takes long would make small writes wait.
const MAX_CHANGES: usize = 128;
/// Larger batches are written on a connection of their own.
const MAX_OWN: usize = 16;

/// A batch and who waits for its answer.
type Job = (Batch, oneshot::Sender<Result<Committed, StoreError>>);

/// The queue of the writer.
#[derive(Debug)]
pub(super) struct Group {
    queue: mpsc::Sender<Job>,
}

impl Group {
    /// Starts the writer. It ends when this is dropped and the queue is empty.
    pub(super) fn start(committer: Committer) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE);
        tokio::spawn(write(committer, jobs));
        Self { queue }
    }

    /// True if the batch can share a transaction: small, and its effect is known from the rows that
    /// it names.
    pub(super) fn takes(batch: &Batch) -> bool {
        batch.changes.len() <= MAX_OWN
            && batch.changes.iter().all(|change| matches!(change.op, Operation::Put { .. }))
    }

    /// Writes the batch with others.
    pub(super) async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        let (answer, answered) = oneshot::channel();
        let gone = || StoreError::unavailable("the store is closing");
        self.queue.send((batch, answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

async fn write(committer: Committer, mut jobs: mpsc::Receiver<Job>) {
    let mut next = None;
    loop {
        let first = match next.take() {
            Some(job) => job,
            None => match jobs.recv().await {
                Some(job) => job,
                None => return,
            },
        };
        let mut members = Members::default();
        members.take(&first.0);
        let mut group = vec![first];
        while let Ok(job) = jobs.try_recv() {
            if !members.take(&job.0) {
                next = Some(job);
                break;
            }
            group.push(job);
        }
        commit(&committer, group).await;
    }
}

/// What the batches of a group write and look at.
#[derive(Default)]
struct Members {
    written: HashSet<ResourceKey>,
    touched: HashSet<ResourceKey>,
    changes: usize,
}

impl Members {
    /// Takes a batch in, unless it depends on the outcome of another one or the group is full.
    fn take(&mut self, batch: &Batch) -> bool {
        let (touched, _) = plan::touched(batch);
        let changes = self.changes + batch.changes.len();
        let depends = touched.iter().any(|key| self.written.contains(key))
            || batch.changes.iter().any(|change| self.touched.contains(&change.key));
        if depends || (changes > MAX_CHANGES && self.changes > 0) {
            return false;
        }
        self.changes = changes;
        self.written.extend(batch.changes.iter().map(|change| change.key.clone()));
        self.touched.extend(touched);
        true
    }
}

async fn commit(committer: &Committer, group: Vec<Job>) {
    if group.len() > 1 {
        let batches: Vec<&Batch> = group.iter().map(|(batch, _)| batch).collect();
        match committer.commit_group(&batches).await {
            Ok(committed) => {
                for ((_, answer), committed) in group.into_iter().zip(committed) {
                    // Nobody waits any more: the write stands.
                    let _ = answer.send(Ok(committed));
                }
                return;
            }
            Err(GroupError::Refused) => {}
            Err(GroupError::Unavailable(why)) => {
                for (_, answer) in group {
                    let _ = answer.send(Err(StoreError::unavailable(why.clone())));
                }
                return;
            }
        }
    }
    for (batch, answer) in group {
        let _ = answer.send(committer.commit(&batch, None).await);
    }
}
