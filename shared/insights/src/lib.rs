//! MeshInsight and ServiceInsight: what a mesh consists of and how its proxies are, one object of
//! each per mesh, computed from the [`World`](sunbear_store::World).
//!
//! The core is pure and incremental: [`MeshState`] remembers what each object of its mesh has
//! counted for, so that a change costs what the changed object weighs and nothing is ever swept.
//! Whatever the order of events, it says the same as [`MeshState::of`], which counts from scratch.
//! [`run`] feeds it and writes: while it holds the lease, at most once per mesh and second, and
//! never what is stored already.
//!
//! The rules are those of `spec/resources.md` 9.5 to 9.7. Objects whose bytes are not what their
//! type says count as objects and are otherwise passed over. This crate knows nothing of REST, KDS
//! or xDS; they read what it writes.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod mesh;
mod meshes;
mod pace;
mod proxy;
mod run;
mod services;
mod stat;

pub use mesh::MeshState;
pub use proxy::{Status, status};
pub use run::{INTERVAL, run};
