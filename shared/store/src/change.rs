//! What callers ask to be written, and what was written.

use std::{collections::BTreeMap, sync::Arc};

use sunbear_model::{Resource, ResourceKey, Spec};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::error::ChangeError;

/// Position in the ordered log of changes. The first change has revision 1; an empty store is at 0.
pub type Revision = u64;

/// One wish: do this to that object.
#[derive(Debug, Clone)]
pub struct Change {
    /// The object.
    pub key: ResourceKey,
    /// What to do.
    pub op: Operation,
}

impl Change {
    /// Creates the object or replaces its spec and labels, whatever is there; status and owner stay.
    pub fn put(key: ResourceKey, spec: Spec, labels: BTreeMap<String, String>) -> Self {
        let op = Operation::Put {
            spec,
            labels,
            status: StatusChange::Keep,
            owner: OwnerRef::Keep,
            expect: Expect::Any,
        };
        Self { key, op }
    }

    /// Deletes the object, if it is there, and all that it owns.
    pub fn delete(key: ResourceKey) -> Self {
        Self { key, op: Operation::Delete { expect: Expect::Any } }
    }
}

/// What to do with an object.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Create or replace. Equal to what is stored, it writes nothing.
    Put {
        /// New spec.
        spec: Spec,
        /// New labels; all of them.
        labels: BTreeMap<String, String>,
        /// New status.
        status: StatusChange,
        /// New owner.
        owner: OwnerRef,
        /// What must be stored now.
        expect: Expect,
    },
    /// Delete, with all that the object owns, owned objects first.
    Delete {
        /// What must be stored now. With [`Expect::Any`], a missing object is no error and gives an
        /// empty [`Outcome::Deleted`].
        expect: Expect,
    },
}

/// What a put does to the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatusChange {
    /// Leave what is there; none on create.
    Keep,
    /// JSON text of the new status, or none.
    Set(Option<Arc<[u8]>>),
}

/// What a put does to the owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnerRef {
    /// Leave what is there; none on create.
    Keep,
    /// No owner.
    None,
    /// This object, which must exist (an earlier change of the same batch may create it).
    Key(ResourceKey),
}

/// A precondition on the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// It does not exist.
    Absent,
    /// It exists in this version.
    Version(u64),
    /// It exists.
    Present,
}

/// Changes that are committed in one transaction, in this order.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The changes. Later ones see what earlier ones did.
    pub changes: Vec<Change>,
    /// Who wrote: user, zone or component; for history.
    pub author: String,
    /// Why: request, sync, job; for history.
    pub reason: String,
    /// What happens to the rest when a change fails.
    pub mode: BatchMode,
    /// Now. Cut to microseconds, which is what both databases hold.
    pub at: OffsetDateTime,
}

/// What happens to the rest of a batch when a change fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchMode {
    /// Nothing is written.
    AllOrNothing,
    /// The failing change is reported and the rest commits.
    Independent,
}

/// The answer to a batch.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The last revision that the batch wrote. If it wrote nothing, the newest revision among the
    /// objects that it looked at; a reader who has that has seen what the answer is based on.
    pub revision: Revision,
    /// One per change, in order.
    pub results: Vec<Result<Outcome, ChangeError>>,
    /// What was written, in revision order and without gaps.
    pub written: Vec<WorldChange>,
}

/// What a change did.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The object is new.
    Created(Arc<Resource>),
    /// The object was replaced.
    Updated(Arc<Resource>),
    /// The object already was as asked; nothing was written.
    Unchanged(Arc<Resource>),
    /// These were deleted, in this order: owned objects before their owner.
    Deleted(Vec<ResourceKey>),
}

impl Outcome {
    /// The object, unless it was deleted.
    pub fn resource(&self) -> Option<&Arc<Resource>> {
        match self {
            Self::Created(r) | Self::Updated(r) | Self::Unchanged(r) => Some(r),
            Self::Deleted(_) => None,
        }
    }
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq)]
pub struct WorldChange {
    /// Its place.
    pub revision: Revision,
    /// The object's id.
    pub uid: Uuid,
    /// The object's version after the change; of a deleted object, its last.
    pub version: u64,
    /// What happened.
    pub event: Event,
}

/// What an entry of the log says.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The object is new.
    Created(Arc<Resource>),
    /// The object was replaced.
    Updated(Arc<Resource>),
    /// The object is gone.
    Deleted(Tombstone),
    /// Nothing to apply: a later entry stands for the object, or its type is unknown to this
    /// release.
    Skipped,
}

/// What is left of a deleted object.
#[derive(Debug, Clone, PartialEq)]
pub struct Tombstone {
    /// Which object.
    pub key: ResourceKey,
    /// Its last labels, which say where it came from and who must hear of its end.
    pub labels: BTreeMap<String, String>,
}

impl WorldChange {
    /// The object, if the entry says anything about it.
    pub fn key(&self) -> Option<&ResourceKey> {
        match &self.event {
            Event::Created(r) | Event::Updated(r) => Some(&r.key),
            Event::Deleted(t) => Some(&t.key),
            Event::Skipped => None,
        }
    }
}
