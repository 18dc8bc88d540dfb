//! The store: an ordered log of resource changes with the current state beside it, in Postgres or
//! SQLite, and the [`World`], which holds that state in memory.
//!
//! - [`Store`] is the one interface. A [`Batch`] commits in one transaction; each change of it
//!   takes one [`Revision`], and the order of revisions is the order of commits.
//! - [`World`] is what everything else reads: immutable snapshots, O(1) to take, and a feed of
//!   changed keys. Nobody reads the database on a hot path.
//!
//! This crate does not know what a resource means: no validation, no defaults, no rules about who
//! may write what. It is the only crate that knows sqlx; its public interface shows none of it.
//!
//! # Schema
//!
//! `migrations/postgres` and `migrations/sqlite` hold one logical schema. It follows
//! `spec/resources.md` 13.2 except for the following.
//!
//! - The column `spec` holds the wire bytes, exactly those of `Spec::wire`, and `status` likewise.
//!   There is no JSON copy and no `wire_spec`: one truth, no conversion that could lose fields of a
//!   newer peer. Specs of Secret and GlobalSecret are sealed there if the store has a
//!   [`SecretCipher`]; outside of the database they are plain. [`Sqlite::rotate_secrets`] and
//!   [`Postgres::rotate_secrets`] seal them anew under the current key.
//! - Insights are rows of `resources` like everything else and appear in the same feed, because KDS
//!   must send them up by the same mechanism.
//! - `changes` also carries author, reason and, for history and rollback, labels and spec of the new
//!   state. Secrets and objects that only control planes write leave no spec there.
//! - No column that changes with every update is indexed, and there is no `origin_zone`: all
//!   searches run in memory, and Postgres can then update a row in place.
//! - The foreign key on the owner is deferred to the end of the transaction, so the order of
//!   statements in a batch does not matter.
//! - `leases` has no address; a holder's name may contain one.
//! - SQLite runs with `synchronous=FULL`: an acknowledged write is durable. A second process is
//!   refused by a lock on a file beside the database.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod backoff;
mod change;
mod error;
mod plan;
mod postgres;
mod row;
mod seal;
mod sqlite;
mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod world;

pub use change::{
    Batch, BatchMode, Change, Committed, Event, Expect, Operation, Outcome, OwnerRef, Revision,
    StatusChange, Tombstone, WorldChange,
};
pub use error::{ChangeError, StoreError};
#[doc(hidden)]
pub use postgres::{Gate, Hooks, RevisionSource};
pub use postgres::{Postgres, PostgresOptions, PostgresTls};
pub use seal::{KeyRingError, Rotated, SecretCipher};
pub use sqlite::Sqlite;
pub use store::{Changes, Fence, HistoryEntry, HistoryOp, Lease, Loaded, Retention, Store};
pub use world::{Snapshot, Subscription, Update, World, WorldHealth, WorldOptions, WorldState};
