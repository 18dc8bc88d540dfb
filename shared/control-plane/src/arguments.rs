//! The command line of a control plane.

use std::path::PathBuf;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use sunbear_runtime::config::{Mode, reference};

/// Arguments of `sunbear-global` and `sunbear-zone`. Everything else is configuration: a file and
/// the environment.
#[derive(Debug, Parser)]
#[command(version, about = "A control plane of Sunbear", long_about = None)]
pub(crate) struct Arguments {
    /// What to do; running is the default.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Configuration file (YAML). The environment, `KUMA_*` or `SUNBEAR_*`, goes before it.
    #[arg(long, short = 'c', global = true)]
    pub config_file: Option<PathBuf>,
}

impl Arguments {
    /// Reads the command line of the program of this role; ends the process if there is something
    /// wrong with it, or help was asked for.
    pub(crate) fn read(mode: Mode) -> Self {
        let mut command = Self::command_of(mode);
        let matches = command.get_matches_mut();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit())
    }

    fn command_of(mode: Mode) -> clap::Command {
        let (name, about) = match mode {
            Mode::Global => ("sunbear-global", "The global control plane of Sunbear"),
            Mode::Zone => ("sunbear-zone", "A zone's control plane of Sunbear"),
        };
        let pointer = format!(
            "`{name} run --help` shows every configuration key, `{name} config` checks and shows \
             a configuration."
        );
        Self::command()
            .name(name)
            .about(about)
            .after_help(pointer)
            .mut_subcommand("run", |run| run.after_long_help(reference::text(mode)))
            .mut_subcommand("accept-global", |command| command.hide(mode == Mode::Global))
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub(crate) enum Command {
    /// Serve until SIGTERM or SIGINT. SIGHUP reads certificates again. `--help` shows every
    /// configuration key.
    Run,
    /// Check or show the configuration, or the keys that there are.
    Config {
        /// What to do with it.
        #[command(subcommand)]
        action: ConfigAction,
    },
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
    /// Let a zone go over to another installation and exit: at its next start it takes everything
    /// from whichever global answers, in place of what it has. With SQLite the control plane must
    /// not run meanwhile.
    AcceptGlobal,
}

/// What to do with the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub(crate) enum ConfigAction {
    /// Say whether file and environment are accepted; exit code 2 if they are not.
    Check,
    /// Print the value of every key as JSON, secrets masked.
    Show,
    /// Print the keys that this program uses.
    Keys {
        /// Those of all programs, as the page `docs/configuration.md`.
        #[arg(long)]
        markdown: bool,
    },
}

/// What to do with the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub(crate) enum Migration {
    /// Bring the schema up to date and exit. Serving does it by itself.
    Up,
}

/// What to do with the secrets in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub(crate) enum SecretsAction {
    /// Encrypt all of them with the first of the configured keys and exit: after a key was added
    /// in front of the old one, or for the first time. Afterwards older keys may be removed. With
    /// SQLite the control plane must not run meanwhile; with Postgres all of its replicas must
    /// know both keys.
    Rotate,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_shows_the_keys_of_the_program() {
        let help = |mode| {
            let mut command = Arguments::command_of(mode);
            command.build();
            command.find_subcommand_mut("run").unwrap().render_long_help().to_string()
        };
        let (global, zone) = (help(Mode::Global), help(Mode::Zone));
        for (key, in_global, in_zone) in [
            ("apiServer.http.port", true, true),
            ("SUNBEAR_API_SERVER_AUTHN_ANONYMOUS_WRITES", true, true),
            ("multizone.global.kds.grpcPort", true, false),
            ("KUMA_MULTIZONE_ZONE_NAME", false, true),
            // Without effect.
            ("runtime.universal.dataplaneCleanupAge", false, false),
        ] {
            assert_eq!((global.contains(key), zone.contains(key)), (in_global, in_zone), "{key}");
        }
        Arguments::command_of(Mode::Global).debug_assert();
    }
}
