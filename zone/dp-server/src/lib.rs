//! The data-plane server of a zone: bootstrap documents over HTTP, discovery (ADS) over gRPC, and
//! the bookkeeping around them: identity, registration and insights of proxies
//! (`spec/dp-server.md`).
//!
//! - [`ads`] holds the protocol, as state machines without I/O.
//! - `session` drives one stream: it feeds requests, changes of the world and the time to a state
//!   machine and sends what comes out; `generation` makes what it sends.
//! - `auth`, `lifecycle` and `insight` are what surrounds a stream; none of them can hold it up
//!   once it is open. `identity` makes the certificates of mesh mTLS.
//!
//! What a proxy's configuration is made of is not known here: that is `sunbear-xds`. Ports, TLS
//! and configuration files are the binary's.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod ads;
mod auth;
mod bootstrap;
mod config;
mod generation;
mod identity;
mod insight;
mod keeper;
mod lifecycle;
mod metrics;
mod preview;
mod proxy;
mod registry;
mod secrets;
mod server;
mod service;
mod session;
mod status;
#[cfg(test)]
mod testing;
mod view;

pub use config::{AuthType, BootstrapParams, DpServerConfig, PublicKey, TokenSettings};
pub use preview::PreviewError;
pub use proxy::{ProxyKey, ProxyKind};
pub use server::{Clock, DpServer, SetupError};
pub use status::ProxyStatus;
