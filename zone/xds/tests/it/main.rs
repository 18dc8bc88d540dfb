//! Generation as a whole: golden cases, properties, and what is left out when something is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod admin;
mod behaviour;
mod build;
mod envoy;
mod golden;
mod issues;
mod properties;
mod world;
