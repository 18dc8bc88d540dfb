//! The data-plane server over real sockets, with a real world in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod auth;
mod client;
mod discovery;
mod envoy;
mod fixture;
mod insights;
mod last_good;
mod lifecycle;
mod outage;
mod preview;
mod secrets;
