//! Control planes as processes: how they start, fail, find each other again and say what is wrong.
//! The programs have to be built before: `cargo build --workspace`; `cargo xtask test` does it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod access;
#[cfg(feature = "compose")]
mod containers;
mod control_plane;
mod gateway;
mod leaks;
mod play;
mod postgres;
mod recorded;
mod reload;
mod replicas;
mod scenarios;
mod secrets;
mod start;
mod sync;
mod walk;
