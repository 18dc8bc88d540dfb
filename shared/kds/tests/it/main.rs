//! KDS against recordings of a real Kuma, and both of our ends over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../../../model/tests/it/maker.rs"]
mod maker;
mod recorded;
mod round_trip;
mod sync;
