//! What every process of Sunbear needs around its logic: configuration, telemetry, TLS serving,
//! readiness, tasks and shutdown, and what the host says about itself.
//!
//! Only binaries and shells use this crate. It must know nothing of resources, stores, KDS or xDS.
//! A binary reads in this order:
//!
//! 1. [`tls::install_crypto_provider`]
//! 2. [`config::load_global`] or [`config::load_zone`], [`telemetry::init`], `loaded.notices.log()`
//! 3. [`tasks::Tasks::new`] and [`tasks::Tasks::listen_for_signals`]
//! 4. [`serve::bind`] for every port, so that a port in use stops the start
//! 5. [`tasks::Tasks::spawn_essential`] with [`serve::Server::run`] for every listener
//! 6. [`tasks::Tasks::stopped`], then [`tasks::Tasks::shutdown`] with a deadline

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod config;
pub mod host;
pub mod readiness;
pub mod serve;
pub mod tasks;
pub mod telemetry;
pub mod tls;
