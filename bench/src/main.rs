//! Measurements. All but `generate` are of a running system, over the network only, so that the same
//! program measures Kuma. `cargo xtask bench NAME` starts what a measurement needs and runs it; see `--help`.

mod generate;
mod http;
mod idle;
mod kds;
mod process;
mod propagate;
mod rest;
mod stats;
mod zone_client;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measures generation, propagation, sync, idle cost and writes.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What a gateway with many routes costs its zone, without sockets.
    Generate(generate::Arguments),
    /// From a write on the global to the first changed answer of each gateway.
    Propagate(propagate::Arguments),
    /// From a write on the global to each of many bare zones having it.
    Kds(kds::Arguments),
    /// What an idle global costs.
    Idle(idle::Arguments),
    /// Writes, one after the other.
    Rest(rest::Arguments),
}

#[tokio::main]
async fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Generate(arguments) => generate::run(&arguments),
        Command::Propagate(arguments) => propagate::run(arguments).await,
        Command::Kds(arguments) => kds::run(arguments).await,
        Command::Idle(arguments) => idle::run(arguments).await,
        Command::Rest(arguments) => rest::run(arguments).await,
    }
}
