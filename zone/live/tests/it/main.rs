//! Requests through a real Envoy, for every feature of gateways.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod features;
mod filters;
mod routes;
