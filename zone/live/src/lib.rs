//! Tests of gateways that send requests through a real Envoy, and what they are written with.
//!
//! Nothing here is part of a program. The suite is `tests/it`; its list of features says what it
//! covers, and each feature has a case. This library is the harness, for further suites too:
//!
//! - [`Gateway`] is a zone's control plane for proxies ([`Zone`]: store, World, dp-server on a TLS
//!   port, in this process) and an Envoy ([`Envoy`]) that runs as the gateway `edge` in mesh
//!   `default` with the bootstrap that the control plane gave it.
//! - [`Scene`] is the set of resources of one case. [`Scene::apply`] makes the world exactly that,
//!   in one commit, and returns when the Envoy has acknowledged it and nothing is left to warm.
//!   What earlier scenes put there is gone. Documents are YAML or JSON, with shorthands that
//!   [`Scene::add`] lists, and have to pass the validation that REST does.
//! - [`Backend`] is a server in this process that tells and remembers what it received.
//!   [`Sidecar`] stands before one in a mesh with mTLS.
//!   [`Call`] and [`Connection`] are the client, with any host, server name, ALPN and certificate;
//!   [`Stream`] and [`Frames`] send what no client should.
//! - [`Pair`] and [`Authority`] make certificates.
//! - [`run`] runs the cases of a group, one after the other, against one Envoy.
//!
//! Ports of listeners are taken by [`Scene::listener`], a fresh one for each, so that no case meets
//! connections or configuration of another; names of clusters differ between cases as well,
//! because each scene tags its gateway with a number. What a case changes while its listener stays
//! arrives at Envoy's threads a moment after it was acknowledged: use [`Call::until`] then.
//!
//! Without an Envoy (`SUNBEAR_ENVOY`, `ENVOY_BIN`, the path) the suite is skipped, and says so.
//! `SUNBEAR_LIVE` in the environment names a part of the features to run alone.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "this is test code: what does not go as expected ends the test"
)]

mod backend;
mod certificate;
mod client;
mod envoy;
mod frames;
mod gateway;
mod port;
mod scene;
mod sidecar;
mod stream;
mod suite;
mod wait;
mod zone;

pub use backend::{Backend, Seen, TlsSeen};
pub use certificate::{Authority, Pair, base64};
pub use client::{Answer, Call, Connection, Failure, OUTSIDE, Tls};
pub use envoy::{Envoy, EnvoyOptions};
pub use frames::{Frame, Frames};
pub use gateway::{DATAPLANE, Gateway, MESH, SERVICE};
pub use port::Port;
pub use scene::{Scene, expand, yaml};
pub use sidecar::{Sidecar, SidecarOptions};
pub use stream::{Stream, dial};
pub use suite::{Case, run, run_with};
pub use wait::{PATIENCE, eventually, eventually_async, within};
pub use zone::Zone;
