//! The core against recordings of Kuma and against counting from scratch; the shell against a store
//! in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod fixture;
mod property;
mod recorded;
mod rules;
mod shell;
