//! Runs the program against the real API, and against a small one that records what it is asked.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod api;
mod commands;
mod configuration;
mod control_plane;
mod credentials;
mod documentation;
mod inspection;
mod moving;
mod tls;
mod types;
