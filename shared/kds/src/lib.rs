//! KDS, the sync between a global control plane and its zones (`spec/kds.md`): the delta protocol
//! as state machines without I/O ([`sender`], [`receiver`]), what each side may see and how names
//! and labels change on the way ([`mapping`], [`wire`]), and the transports around them
//! ([`server`] for the global, [`client`] for a zone).
//!
//! The state machines know no sockets, clocks or stores: they are fed requests, changed keys and
//! the time, and say what to send and what to write.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod admin;
pub mod client;
mod dial;
pub mod forward;
mod installation;
pub mod mapping;
mod metrics;
pub mod node;
pub mod receiver;
pub mod sender;
pub mod server;
mod transport;
pub mod wire;
pub mod zone_insight;

/// Header with the zone's name, on every call.
pub const CLIENT_ID: &str = "client-id";
/// Header with what the zone can do; one entry per feature.
pub const FEATURES: &str = "features";
/// Feature in the header and in the node: names carry a hash suffix.
pub const FEATURE_HASH_SUFFIX: &str = "hash-suffix";
/// Feature in the header: the zone calls `HealthCheck` and its streams may be closed when it
/// stops.
pub const FEATURE_PING_HEALTH: &str = "zone-ping-health";
/// Features in the node's metadata that a zone announces.
pub const NODE_FEATURES: [&str; 5] = [
    "zone-token",
    FEATURE_HASH_SUFFIX,
    "hg-mz-selector",
    "producer-policy-flow",
    "optional-top-level-target-ref",
];

/// Author of what a zone's sync writes on the global, and the global's on a zone.
pub const AUTHOR: &str = "kds";
