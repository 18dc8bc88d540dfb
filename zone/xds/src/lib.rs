//! The generator: from a read view of resources to what one proxy's Envoy gets, as Envoy v3
//! messages (`spec/gateway-xds.md`).
//!
//! It is a function. It does no I/O, reads no clock and no random numbers, knows no store, socket
//! or stream; the same resources in any order give the same bytes. One bad listener, route or
//! backend costs itself alone and is told in [`Generated::issues`].
//!
//! [`generate`] makes everything from nothing. A [`Fleet`] does it for many proxies time and again:
//! it remembers what came out, does again only what a change concerns, and lets proxies of one
//! gateway share the result.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod access_log;
mod admin;
mod backend;
mod class;
mod context;
mod cross_mesh;
mod dependencies;
mod draft;
mod endpoint;
mod envoy;
mod external;
mod format;
mod gateway;
mod generate;
mod generator;
mod inputs;
mod issue;
mod last_good;
mod permission;
mod policy;
mod protocol;
mod proxy;
mod re2;
mod resources;
mod runtime;
mod secret;
mod template;
#[cfg(test)]
mod testing;
mod tls;
mod tracing;
mod view;

pub use cross_mesh::{CrossMeshEndpoint, cross_mesh_endpoints};
pub use dependencies::Dependencies;
pub use generate::{GenerateError, Generated, generate, generate_after};
pub use generator::{Fleet, Generator};
pub use issue::{Effect, Issue};
pub use proxy::{AdminTls, Proxy, ProxyMetadata, Settings};
pub use resources::{ConsistencyError, Diff, ResourceSet, ResourceType, XdsResource};
pub use secret::{SecretRequest, ca_secret, certificate_secret};
pub use view::View;
