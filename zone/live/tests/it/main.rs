//! Requests through a real Envoy, for every feature of gateways.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod cross_mesh;
mod failures;
mod features;
mod filters;
mod listeners;
mod mtls;
mod routes;
mod tcp;
mod tls;
