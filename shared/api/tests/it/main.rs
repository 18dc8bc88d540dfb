//! The API as clients see it, over stores in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod access;
mod authorities;
mod bad_input;
mod defaults;
mod endpoints;
mod inspect;
mod kumactl;
mod lifecycle;
mod lists;
mod notices;
mod openapi;
mod options;
mod read;
mod replay;
mod rules;
mod socket;
mod support;
mod tokens;
mod write;
