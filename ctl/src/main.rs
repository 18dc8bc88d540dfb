//! `sunbearctl`: the command line of a global or zone control plane, in the manner of `kumactl`.
//! Everything goes over the REST API; nothing is known of stores or of how control planes talk.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod apply;
mod arguments;
mod client;
mod completion;
mod config;
mod config_file;
mod delete;
mod export;
mod failure;
mod files;
mod generate;
mod get;
mod inspect;
mod kinds;
mod list;
mod output;
mod pairs;
mod period;
mod source;
mod table;
mod target;
mod version;

use std::{io, process::ExitCode};

use anyhow::{Context as _, anyhow};
use clap::Parser as _;

use crate::{
    arguments::{Arguments, Command},
    client::Client,
    failure::Failure,
    output::Output,
};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (mut stdout, mut stderr) = (io::stdout(), io::stderr());
    let mut output = Output { out: &mut stdout, err: &mut stderr };
    let result = run(&arguments, &mut output)
        .and_then(|()| output.out.flush().context("writing the output").map_err(Failure::from));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(text) = failure.text() {
                // There is no one left to tell if this fails.
                let _ = writeln!(output.err, "Error: {text}");
            }
            failure.exit_code()
        }
    }
}

fn run(arguments: &Arguments, output: &mut Output<'_>) -> Result<(), Failure> {
    // The HTTP client has no cryptography of its own.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow!("a cryptography provider is installed already"))?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(dispatch(arguments, output))
}

async fn dispatch(arguments: &Arguments, output: &mut Output<'_>) -> Result<(), Failure> {
    let connection = &arguments.connection;
    let client = || Client::new(&target::resolve(connection)?);
    match &arguments.command {
        // These work without a control plane, or find it themselves.
        Command::Completion { shell } => completion::run(*shell, output),
        Command::Config { what } => config::run(connection, what, output).await,
        Command::Generate { what } => generate::run(connection, what, output).await,
        Command::Apply(arguments) if arguments.dry_run => apply::run(None, arguments, output).await,
        Command::Apply(arguments) => apply::run(Some(&client()?), arguments, output).await,
        Command::Get(get) => get::run(&client()?, get, output).await,
        Command::Delete(delete) => delete::run(&client()?, delete, output).await,
        Command::Inspect(inspect) => inspect::run(&client()?, inspect, output).await,
        Command::Export(export) => export::run(&client()?, export, output).await,
        Command::Version { detailed } => version::run(&client()?, *detailed, output).await,
    }
}
