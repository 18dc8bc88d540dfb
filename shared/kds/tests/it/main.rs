//! KDS against recordings of a real Kuma, and both of our ends over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod recorded;
mod sync;
