//! Why a change or a whole call failed.

use std::error::Error;

use sunbear_model::ResourceKey;

use crate::change::Revision;

/// Why one change of a batch was not made. The texts of the first three are those that clients of
/// Kuma know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// [`Expect::Absent`](crate::Expect::Absent), but the object exists.
    #[error("resource already exists: {0}")]
    AlreadyExists(ResourceKey),
    /// The object is stored in another version than expected.
    #[error("resource conflict: {0}")]
    Conflict(ResourceKey),
    /// The object must exist, and does not.
    #[error("resource not found: {0}")]
    NotFound(ResourceKey),
    /// The owner does not exist.
    #[error("owner not found: {owner} of {key}")]
    OwnerMissing {
        /// The object.
        key: ResourceKey,
        /// The owner that was named.
        owner: ResourceKey,
    },
    /// A part of the object is larger than the store takes.
    #[error("{what} too large: {size} bytes, at most {limit}: {key}")]
    TooLarge {
        /// The object.
        key: ResourceKey,
        /// Which part.
        what: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A text contains the character U+0000, which Postgres cannot hold.
    #[error("{what} contains a null character: {key}")]
    NullCharacter {
        /// The object.
        key: ResourceKey,
        /// Which part.
        what: &'static str,
    },
    /// Nothing is wrong with this change, but another one of its batch failed.
    #[error("not applied, because another change of the batch failed: {0}")]
    NotApplied(ResourceKey),
}

impl ChangeError {
    /// The object.
    pub fn key(&self) -> &ResourceKey {
        match self {
            Self::AlreadyExists(key)
            | Self::Conflict(key)
            | Self::NotFound(key)
            | Self::NotApplied(key)
            | Self::OwnerMissing { key, .. }
            | Self::TooLarge { key, .. }
            | Self::NullCharacter { key, .. } => key,
        }
    }
}

/// What a database driver said.
pub(crate) type Source = Box<dyn Error + Send + Sync>;

/// Why a whole call failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached, or did not answer in time. Worth a retry. If it happened to
    /// a commit, the commit may or may not have been made.
    #[error("database unavailable")]
    Unavailable(#[source] Source),
    /// The database is there and does not let us in: wrong user or password, no such database, no
    /// right to it. Worth a retry, because the database may be put right without us.
    #[error("database refuses access")]
    Refused(#[source] Source),
    /// The database takes no writes at present: a standby, or a read-only file system.
    #[error("database is read-only")]
    ReadOnly(#[source] Source),
    /// The disk of the database is full.
    #[error("database disk is full")]
    Full(#[source] Source),
    /// The database contains what it must not.
    #[error("database is corrupt")]
    Corrupt(#[source] Source),
    /// Another process has the SQLite file open.
    #[error("database file is in use by another process")]
    Locked(#[source] Source),
    /// The writer no longer holds the lease that it wrote under.
    #[error("lease {0:?} was lost")]
    Fenced(String),
    /// The database is older than what this process has already seen: it was restored from a
    /// backup. Nothing is read or written until an operator has decided.
    #[error("database went back from revision {ours} to {theirs}")]
    Regressed {
        /// What this process has seen.
        ours: Revision,
        /// What the database says.
        theirs: Revision,
    },
    /// The settings do not name a database.
    #[error("invalid database settings")]
    Settings(#[source] Source),
    /// A secret is encrypted with a key that is not configured.
    #[error("key {id:?} is not configured, and {object} is encrypted with it")]
    SecretKeyMissing {
        /// Id of the key.
        id: String,
        /// Which secret.
        object: ResourceKey,
    },
    /// A secret cannot be decrypted: another key has this id, or the row was changed or moved.
    #[error("{object} cannot be decrypted with key {id:?}")]
    SecretUnreadable {
        /// Id of the key.
        id: String,
        /// Which secret.
        object: ResourceKey,
    },
    /// Anything else.
    #[error("database error")]
    Other(#[source] Source),
}

impl StoreError {
    /// The same call may succeed later without anybody's doing.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Refused(_))
    }

    pub(crate) fn unavailable(why: impl Into<Source>) -> Self {
        Self::Unavailable(why.into())
    }

    pub(crate) fn corrupt(why: impl Into<Source>) -> Self {
        Self::Corrupt(why.into())
    }
}
