//! The documentation's commands.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod deploy;
