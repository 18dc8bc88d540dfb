//! The domain: resource types and their one table, keys, labels, names, specs, validation, tag
//! matching. It does no I/O and knows neither clock nor randomness; times and ids come in as
//! arguments. It knows nothing of stores, sockets or Envoy.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod document;
pub mod gateway;
pub mod generated_hostname;
pub mod hostname;
pub mod kind;
pub mod label;
pub mod matching;
pub mod membership;
pub mod name;
pub mod resource;
pub mod rest;
pub mod tags;
#[cfg(test)]
mod testing;
pub mod validation;

pub use kind::{Codec, Kind, Scope, Writable};
pub use resource::{Owner, Resource, ResourceKey, Spec, Typed};
