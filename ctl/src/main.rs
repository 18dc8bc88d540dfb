//! `sunbearctl`: the command line of a global or zone control plane, in the manner of `kumactl`.
//! Everything goes over the REST API; nothing is known of stores or of how control planes talk.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod apply;
mod arguments;
mod client;
mod delete;
mod failure;
mod generate;
mod get;
mod kinds;
mod output;
mod source;
mod table;
mod trust;
mod version;

use std::{io, process::ExitCode};

use anyhow::{Context as _, anyhow};
use clap::Parser as _;

use crate::{
    arguments::{Arguments, Command, Generate},
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
    let client = Client::new(&arguments.connection)?;
    match &arguments.command {
        Command::Apply(apply) => apply::run(&client, apply, output).await,
        Command::Get(get) => get::run(&client, get, output).await,
        Command::Delete(delete) => delete::run(&client, delete, output).await,
        Command::Generate { what: Generate::DataplaneToken(token) } => {
            generate::dataplane_token(&client, token, output).await
        }
        Command::Version => version::run(&client, output).await,
    }
}
