//! Certificates, signing keys and tokens.
//!
//! Everything here is a function of its arguments: time and ids are passed in, keys are looked up by
//! the caller. The one exception is [`certificate::load_or_create`], which keeps a certificate in a
//! folder. This crate must know nothing of stores, resources, HTTP or gRPC.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod ca;
pub mod certificate;
pub mod client_trust;
pub mod mutual;
pub mod signing_key;
pub mod token;
pub mod trust;
