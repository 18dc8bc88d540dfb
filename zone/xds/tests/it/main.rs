//! Generation as a whole: golden cases, properties, and what is left out when something is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod admin;
mod behaviour;
mod build;
mod certs;
mod cross_mesh;
mod edge;
mod envoy;
mod external;
mod golden;
mod incremental;
mod issues;
mod observe;
mod properties;
mod random;
mod template;
mod tls;
mod world;
