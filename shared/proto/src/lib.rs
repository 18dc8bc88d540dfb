//! The messages of Kuma's wires and of Envoy's v3 API, generated from `.proto` files by
//! `cargo codegen` and committed, and the JSON form of both.
//!
//! Maps are ordered (`BTreeMap`), so that encoding the same message always gives the same bytes:
//! content hashes, KDS versions and xDS versions rely on it. Nothing else in the project generates
//! code or names the descriptor pool.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::expect_used, clippy::unwrap_used, rustdoc::all)]
#[rustfmt::skip]
#[path = "generated/mod.rs"]
mod generated;

pub mod duration;
pub mod json;

use std::sync::LazyLock;

pub use generated::{envoy, google, kuma, xds};
pub use prost_reflect::DescriptorPool;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "the generator refuses descriptors that do not link")]
    let mut pool = DescriptorPool::decode(include_bytes!("generated/descriptors.bin").as_slice())
        .expect("committed descriptors link");
    // The well-known types (`google.protobuf.*`) are part of the set; nothing else is needed.
    let _ = &mut pool;
    pool
});

/// Descriptors of every message in this crate. Decoding them takes tens of milliseconds, once;
/// servers touch it while starting.
pub fn pool() -> &'static DescriptorPool {
    &POOL
}

/// Packs a message for a `google.protobuf.Any`. The bytes are canonical because all maps are
/// ordered, also inside nested `Any`s, which were packed here too.
pub fn pack<M: prost::Message + prost::Name>(message: &M) -> prost_types::Any {
    prost_types::Any { type_url: M::type_url(), value: message.encode_to_vec() }
}
