//! `sunbear-dp`: the data plane agent that stands where kuma-dp stands.
//!
//! It fetches Envoy's bootstrap from the zone control plane, starts and supervises Envoy, and keeps
//! the last good configuration sealed on disk so that Envoy restarts without a control plane.
//! It speaks no xDS itself: Envoy does, and what Envoy has accepted is read from its admin
//! interface.
//!
//! Map: [`settings`] and [`definition`] turn flags, environment and files into one [`settings::Settings`];
//! [`control_plane`] asks for the bootstrap; [`plan`] decides (pure), [`supervisor`] does;
//! [`static_config`] turns a configuration dump into a static bootstrap (pure), [`sealer`] runs it
//! and [`sealed`] keeps its result.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod admin;
mod cli;
mod control_plane;
mod definition;
mod document;
mod envoy;
mod keys;
mod lifecycle;
mod orphan;
mod plan;
mod readiness;
mod request;
mod run;
mod sealed;
mod sealer;
mod settings;
mod static_config;
mod supervisor;
mod trust;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
