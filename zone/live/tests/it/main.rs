//! Requests through a real Envoy, for every feature of gateways.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod clusters;
mod cross_mesh;
mod edge;
mod failures;
mod features;
mod filters;
mod hostile;
mod listeners;
mod mesh_policies;
mod mtls;
mod observe;
mod policies;
mod routes;
mod tcp;
mod templates;
mod tls;
