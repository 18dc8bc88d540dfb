//! What the project's own tasks are made of: a global, zones, services and gateways as real
//! processes on loopback addresses ([`topology`]), and what is needed to run and ask them.
//! `bench` uses it too.
//!
//! Nothing here knows Sunbear's code: the products are started as programs and asked over the
//! network, so that any program with the same flags could take their place.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod document;
pub mod engine;
pub mod envoy;
pub mod http;
pub mod interrupt;
pub mod process;
pub mod project;
pub mod topology;
pub mod traffic;
pub mod wait;
