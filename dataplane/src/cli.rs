//! The command line: flags, help and exit codes.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::run::{self, Stop};
use crate::settings::{Settings, SettingsError};

/// Version of Kuma's data plane contract that this program keeps.
pub(crate) const KUMA_CONTRACT: &str = "2.14.3";

const EXIT_ERROR: u8 = 1;
const EXIT_USAGE: u8 = 2;
const EXIT_REFUSED: u8 = 3;

const AFTER_HELP: &str = "\
Every setting may also come from the environment: the names are Kuma's (KUMA_...), and each of them
is accepted with the prefix SUNBEAR_ as well, which wins. Flags win over the environment.

Exit codes:
  0  stopped (signal)
  1  error
  2  usage: flags, environment or the proxy's definition are wrong
  3  the control plane refused this proxy";

#[derive(Debug, Parser)]
#[command(
    name = "sunbear-dp",
    version,
    about = "Runs and supervises Envoy for a zone control plane of Sunbear or Kuma",
    after_help = AFTER_HELP
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetches the bootstrap, starts Envoy and keeps it running.
    #[command(after_help = AFTER_HELP)]
    Run(Box<RunArgs>),
    /// Prints the version.
    Version,
}

/// Flags of `run`; what is absent comes from the environment or the default.
#[derive(Debug, Default, Args)]
pub(crate) struct RunArgs {
    /// Address of the control plane's data plane server [env: KUMA_CONTROL_PLANE_URL] [default: https://localhost:5678]
    #[arg(long, value_name = "URL")]
    pub(crate) cp_address: Option<String>,
    /// File with the CA that the control plane's certificate is verified against [env: KUMA_CONTROL_PLANE_CA_CERT_FILE, or the PEM itself in KUMA_CONTROL_PLANE_CA_CERT]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_cert_file: Option<PathBuf>,
    /// Do not verify the control plane's certificate (insecure) [env: KUMA_CONTROL_PLANE_TLS_SKIP_VERIFY]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub(crate) skip_verify: Option<bool>,
    /// File with the proxy's definition, YAML or JSON; '-' reads standard input [env: KUMA_DATAPLANE_RUNTIME_RESOURCE_PATH]
    #[arg(short = 'd', long, value_name = "FILE")]
    pub(crate) dataplane_file: Option<String>,
    /// The proxy's definition itself, YAML or JSON [env: KUMA_DATAPLANE_RUNTIME_RESOURCE]
    #[arg(long, value_name = "TEXT")]
    pub(crate) dataplane: Option<String>,
    /// Value for a {{ variable }} in the definition; names not given here are looked up in the environment
    #[arg(short = 'v', long = "dataplane-var", value_name = "KEY=VALUE", value_delimiter = ',')]
    pub(crate) dataplane_vars: Vec<String>,
    /// Name of the proxy, when its definition is already in the control plane [env: KUMA_DATAPLANE_NAME]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Mesh of the proxy, likewise [env: KUMA_DATAPLANE_MESH]
    #[arg(long)]
    pub(crate) mesh: Option<String>,
    /// dataplane, ingress or egress [env: KUMA_DATAPLANE_PROXY_TYPE] [default: dataplane]
    #[arg(long, value_name = "TYPE")]
    pub(crate) proxy_type: Option<String>,
    /// File with the proxy's token [env: KUMA_DATAPLANE_RUNTIME_TOKEN_PATH]
    #[arg(long, value_name = "FILE")]
    pub(crate) dataplane_token_file: Option<PathBuf>,
    /// The proxy's token itself; visible in the process list, so prefer the file [env: KUMA_DATAPLANE_RUNTIME_TOKEN]
    #[arg(long, value_name = "TOKEN")]
    pub(crate) dataplane_token: Option<String>,
    /// Folder for sockets and Envoy's configuration [env: KUMA_DATAPLANE_RUNTIME_WORK_DIR] [default: a temporary one, removed at exit]
    #[arg(long, value_name = "DIR")]
    pub(crate) work_dir: Option<PathBuf>,
    /// Folder of the sealed last good configuration; must outlive restarts [env: SUNBEAR_DP_STATE_DIR] [default: the work folder if given, else $XDG_STATE_HOME/sunbear-dp/MESH-NAME, or /var/lib/sunbear-dp/MESH-NAME for root]
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Whether the sealed configuration holds private keys, in a file for its owner alone; without them, what ends TLS or proves an identity is left out of it [env: SUNBEAR_DP_SEAL_SECRETS] [default: true]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub(crate) seal_secrets: Option<bool>,
    /// How long to wait for configuration from the control plane before Envoy is started from the sealed one [env: SUNBEAR_DP_PATIENCE] [default: 2s]
    #[arg(long, value_name = "DURATION")]
    pub(crate) patience: Option<String>,
    /// Envoy's executable [env: KUMA_DATAPLANE_RUNTIME_BINARY_PATH] [default: envoy]
    #[arg(long, value_name = "PATH")]
    pub(crate) binary_path: Option<PathBuf>,
    /// Envoy's worker threads; 0 means as many as the CPU set allows [env: KUMA_DATAPLANE_RUNTIME_CONCURRENCY] [default: 0]
    #[arg(long, value_name = "N")]
    pub(crate) concurrency: Option<u32>,
    /// How long connections may drain at stop [env: KUMA_DATAPLANE_DRAIN_TIME] [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub(crate) drain_time: Option<String>,
    /// Accepted for kuma-dp's sake: sunbear-dp serves no DNS [env: KUMA_DNS_ENABLED]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub(crate) dns_enabled: Option<bool>,
    /// off, error, warn, info, debug or trace [env: SUNBEAR_DP_LOG_LEVEL] [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    /// Envoy's log level; at debug and trace Envoy logs the proxy's token [env: KUMA_DATAPLANE_RUNTIME_ENVOY_LOG_LEVEL] [default: as --log-level, at most info]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) envoy_log_level: Option<String>,
    /// Envoy's --component-log-level [env: KUMA_DATAPLANE_RUNTIME_ENVOY_COMPONENT_LOG_LEVEL]
    #[arg(long, value_name = "LEVELS")]
    pub(crate) envoy_component_log_level: Option<String>,
}

/// Parses the command line, runs, and says how the process should end.
pub(crate) fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Version => {
            println!(
                "sunbear-dp {} (data plane contract of Kuma {KUMA_CONTRACT})",
                env!("CARGO_PKG_VERSION")
            );
            ExitCode::SUCCESS
        }
        Command::Run(args) => run_command(&args),
    }
}

fn run_command(args: &RunArgs) -> ExitCode {
    let environment = |name: &str| std::env::var(name).ok();
    let settings = match Settings::resolve(args, &environment) {
        Ok(settings) => settings,
        Err(SettingsError::Usage(message)) => {
            eprintln!("error: {message}");
            return ExitCode::from(EXIT_USAGE);
        }
        Err(SettingsError::Input(error)) => {
            eprintln!("error: {error:#}");
            return ExitCode::from(EXIT_ERROR);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        // The agent mostly waits; Envoy needs the cores.
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return ExitCode::from(EXIT_ERROR);
        }
    };
    match runtime.block_on(run::run(settings)) {
        Ok(Stop::Signal) => ExitCode::SUCCESS,
        Ok(Stop::Refused(message)) => {
            eprintln!("error: the control plane refused this proxy: {message}");
            ExitCode::from(EXIT_REFUSED)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(EXIT_ERROR)
        }
    }
}
