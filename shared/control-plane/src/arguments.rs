//! The command line of a control plane.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Arguments of `sunbear-global` and `sunbear-zone`. Everything else is configuration: a file and
/// the environment.
#[derive(Debug, Parser)]
#[command(version, about = "A control plane of Sunbear", long_about = None)]
pub struct Arguments {
    /// What to do; running is the default.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Configuration file (YAML). The environment, `KUMA_*` or `SUNBEAR_*`, goes before it.
    #[arg(long, short = 'c', global = true)]
    pub config_file: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Serve until SIGTERM or SIGINT.
    Run,
    /// Look after the database.
    Migrate {
        /// What to do with it.
        #[command(subcommand)]
        direction: Migration,
    },
    /// Look after the secrets in the database.
    Secrets {
        /// What to do with them.
        #[command(subcommand)]
        action: SecretsAction,
    },
}

/// What to do with the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum Migration {
    /// Bring the schema up to date and exit. Serving does it by itself.
    Up,
}

/// What to do with the secrets in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum SecretsAction {
    /// Encrypt all of them with the first of the configured keys and exit: after a key was added
    /// in front of the old one, or for the first time. Afterwards older keys may be removed. With
    /// SQLite the control plane must not run meanwhile; with Postgres all of its replicas must
    /// know both keys.
    Rotate,
}
