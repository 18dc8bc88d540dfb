//! The project's own tasks: run `cargo xtask help`.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use xtask::envoy;

mod bench;
#[cfg(feature = "codegen")]
mod codegen;
mod compose;
mod demo;
mod deny;
mod docs;
mod images;
mod suite;

/// The project's own tasks.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run a global control plane and two zones with a gateway each on this machine.
    Demo(Demo),
    /// Run everything that CI runs.
    Test(Test),
    /// Play the scenarios of whole installations that parts of fail.
    E2e(E2e),
    /// Measure: propagate, kds, idle or rest.
    Bench {
        /// Which measurement.
        name: String,
        /// Arguments of `sunbear-bench`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        further: Vec<String>,
    },
    /// Make the images of docker-compose.yml; installs and starts Docker if it has to.
    Images(images::Images),
    /// Try docker-compose.yml.
    Compose(Compose),
    /// Find or fetch an Envoy and print its path.
    Envoy,
    /// Check licences, bans and sources of the dependencies; installs cargo-deny if needed.
    Deny,
    /// Generate the code of shared/proto from its .proto files (`cargo codegen` has the compiler).
    Codegen {
        /// Only compare with what is there.
        #[arg(long)]
        check: bool,
    },
    /// Write the generated pages of docs/: configuration.md.
    Docs {
        /// Only compare with what is there.
        #[arg(long)]
        check: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Demo {
    /// Show everything, faults included, check it, and end.
    #[arg(long)]
    check: bool,
    /// Build with optimisations.
    #[arg(long)]
    release: bool,
    /// The first of the ports of control planes and services.
    #[arg(long, default_value_t = 20_000)]
    port_base: u16,
    /// The port that the gateways listen on.
    #[arg(long, default_value_t = xtask::topology::GATEWAY_PORT)]
    gateway_port: u16,
    /// Build nothing and use the programs in this folder.
    #[arg(long)]
    programs: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Compose {
    /// Start it under a name and on ports of its own, check it, and remove it.
    #[arg(long)]
    check: bool,
    /// Take the images with this tag instead of making some.
    #[arg(long, conflicts_with_all = ["dev", "programs", "base", "postgres"])]
    with: Option<String>,
    #[command(flatten)]
    images: images::Images,
}

#[derive(Debug, clap::Args)]
struct Test {
    /// Only the tests: no formatting, lints, generated code, dependencies or demo.
    #[arg(long)]
    fast: bool,
}

#[derive(Debug, clap::Args)]
struct E2e {
    /// Only scenarios whose name contains this.
    filter: Option<String>,
    /// On the containers of docker-compose.yml instead of processes. Needs root.
    #[arg(long)]
    compose: bool,
    /// Take the images with this tag instead of making some.
    #[arg(long, requires = "compose", conflicts_with_all = ["dev", "programs", "base", "postgres"])]
    with: Option<String>,
    #[command(flatten)]
    images: images::Images,
}

fn main() -> ExitCode {
    let success = |()| ExitCode::SUCCESS;
    let result = match Arguments::parse().task {
        Task::Demo(arguments) => demo::run(arguments).map(success),
        Task::Test(Test { fast }) => suite::run(fast),
        Task::E2e(E2e { filter, compose: false, .. }) => suite::e2e(filter.as_deref()),
        Task::E2e(arguments) => suite::e2e_on_containers(arguments),
        Task::Bench { name, further } => bench::run(&name, &further).map(success),
        Task::Compose(arguments) => compose::run(&arguments).map(success),
        Task::Images(arguments) => images::run(&arguments).map(success),
        Task::Envoy => {
            envoy::find_or_fetch().map(|path| println!("{}", path.display())).map(success)
        }
        Task::Deny => deny::run().map(success),
        Task::Codegen { check } => codegen(check).map(success),
        Task::Docs { check } => docs::run(check).map(success),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(feature = "codegen")]
fn codegen(check: bool) -> anyhow::Result<()> {
    codegen::run(&xtask::project::root()?, check)
}

#[cfg(not(feature = "codegen"))]
fn codegen(check: bool) -> anyhow::Result<()> {
    xtask::project::run(suite::codegen_command(check)?)
}
