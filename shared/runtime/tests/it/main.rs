//! Serving over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod fixture;
mod serve;
mod tls;
