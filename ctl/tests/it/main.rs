//! Runs the program against a small API that records what it is asked.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod api;
mod commands;
