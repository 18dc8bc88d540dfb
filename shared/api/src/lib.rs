//! The REST API of global and zone control planes, as `kumactl` knows it (`spec/rest-api.md`).
//!
//! Every type of the table in `sunbear-model` is served by the same handlers. Reads come from
//! snapshots of the [`World`](sunbear_store::World), writes are batches that go through it. This
//! crate is the one place that turns errors into HTTP problem bodies. It knows neither sockets nor
//! TLS nor databases; whoever accepts connections tells it the peer with [`PeerAddr`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod access;
mod authority;
mod catalogue;
mod cors;
mod dataplane;
pub mod defaults;
mod global_insight;
mod guard;
mod index;
mod inspect;
mod kri;
mod kubernetes;
mod list;
mod notice;
mod openapi;
mod page;
mod problem;
mod read;
mod reply;
mod service;
mod service_insight;
mod state;
mod target;
mod tokens;
mod user;
mod write;

pub use access::{Access, Subjects};
pub use inspect::{
    AdminBackend, AdminError, AdminFuture, AdminQuestion, ConfigPreview, NoAdmin, NoPreview,
    PreviewError, redact,
};
pub use openapi::document as openapi_document;
pub use problem::{Parameter, Problem};
pub use service::{REVISION_HEADER, authenticate, router};
pub use state::{ApiState, ControlPlane, Hooks, Issuers, NoHooks, Options, UserTokenKeys};
pub use user::{ClientCertificate, OverTls, PeerAddr, User};
