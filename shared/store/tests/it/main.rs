//! The conformance suite of all stores, and the tests of the world above them.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod conformance;
mod crash;
mod feed;
mod fixture;
mod postgres;
mod property;
mod secrets;
mod world;
