//! From the command line to an exit code.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use sunbear_runtime::{
    config::{ControlPlaneConfig, Loaded, Mode, ProcessEnvironment, reference},
    telemetry, tls,
};
use tracing::{error, info};

use crate::{
    advice,
    arguments::{Arguments, Command, ConfigAction, SecretsAction},
    storage,
};

/// Something outside is not as it should be, or the program has a fault: a supervisor should start
/// it again.
const FAILED: u8 = 1;
/// The command line or the configuration is wrong: starting again is of no use. The parser of the
/// command line ends with the same code.
const MISCONFIGURED: u8 = 2;

/// Does what the command line asks for. `run` serves until stopped; false if something without
/// which the program is of no use ended.
pub fn main<C, R>(run: impl FnOnce(Loaded<C>) -> R) -> ExitCode
where
    C: ControlPlaneConfig,
    R: Future<Output = Result<bool>>,
{
    use_small_pages();
    let arguments = Arguments::read(C::MODE);
    let name = format!("sunbear-{}", C::MODE.as_str());
    let command = arguments.command.unwrap_or(Command::Run);
    if let Command::Config { action: ConfigAction::Keys { markdown } } = command {
        let text = if markdown { reference::markdown() } else { reference::text(C::MODE) };
        return print(&text);
    }
    tls::install_crypto_provider();
    let loaded = match C::load(arguments.config_file.as_deref(), &ProcessEnvironment) {
        Ok(loaded) => loaded,
        Err(errors) => {
            eprintln!("{name}: {errors}");
            return ExitCode::from(MISCONFIGURED);
        }
    };
    if let Err(error) = telemetry::init(&loaded.config.common().log) {
        eprintln!("{name}: {}", telemetry::chain(&error));
        return ExitCode::from(MISCONFIGURED);
    }
    loaded.notices.log();
    let store = loaded.config.common().store.clone();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{name}: {error}");
            return ExitCode::from(FAILED);
        }
    };
    let result = match command {
        Command::Config { action: ConfigAction::Show } => {
            return print(&format!("{:#}\n", loaded.settings.dump()));
        }
        Command::Config { .. } => return print("the configuration is accepted\n"),
        Command::Run => runtime.block_on(run(loaded)),
        Command::Migrate { .. } => runtime.block_on(async {
            storage::open(&store).await?.close().await;
            info!("schema is up to date");
            Ok(true)
        }),
        Command::AcceptGlobal if C::MODE == Mode::Global => {
            eprintln!("{name}: a global has no global; run this with sunbear-zone");
            return ExitCode::from(MISCONFIGURED);
        }
        Command::AcceptGlobal => runtime.block_on(async {
            storage::forget_installation(&store).await?;
            info!("the next global is accepted, of whichever installation it is");
            Ok(true)
        }),
        Command::Secrets { action: SecretsAction::Rotate } => runtime.block_on(async {
            let rotated = storage::rotate_secrets(&store).await?;
            info!(
                sealed = rotated.sealed,
                unchanged = rotated.unchanged,
                "secrets are encrypted with the first key"
            );
            Ok(true)
        }),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => {
            error!("could not start: {}", advice::line(&error));
            ExitCode::from(FAILED)
        }
    }
}

/// The allocator asks for huge pages, of which a control plane at rest, with its many small objects
/// here and there, fills less than half. Programs that we started would inherit this.
fn use_small_pages() {
    #[cfg(target_os = "linux")]
    // Kernels without huge pages refuse, and that is well.
    let _ = nix::sys::prctl::set_thp_disable(true);
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()).context("standard output") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILED),
    }
}
