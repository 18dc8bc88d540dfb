//! Integration tests of the model.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod maker;
mod round_trip;
mod validation;
