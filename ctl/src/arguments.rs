//! The command line.

mod connection;
mod generate;
mod inspect;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use connection::{Connection, SecretPairs, Token};
pub(crate) use generate::{
    DataplaneToken, Generate, Issue, KeyFormat, KeyType, PublicKey, Purpose, SigningKey,
    TlsCertificate, UserToken, ZoneToken,
};
pub(crate) use inspect::{
    Dataplane, Dataplanes, Inspect, Known, Part, Policy, What, ZoneProxy, ZoneProxyPart,
};

use crate::{
    kinds::KindWord,
    pairs::{self, Pairs},
};

/// Command line of Sunbear's control planes.
#[derive(Debug, Parser)]
#[command(name = "sunbearctl", version, about, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  refused by the control plane, or failed
  2  wrong usage
  3  the control plane cannot be reached
  4  what the command is about does not exist";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create or update resources
    Apply(Apply),
    /// Show one resource or all of a type
    Get(Get),
    /// Delete a resource
    Delete(Delete),
    /// Show the state of meshes, zones and proxies, and what acts on them
    Inspect(Inspect),
    /// Generate tokens, keys and certificates
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Generate {
        #[command(subcommand)]
        what: Generate,
    },
    /// Print all resources, to be applied elsewhere
    Export(Export),
    /// Manage the file of known control planes, which is that of kumactl
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Config {
        #[command(subcommand)]
        what: Config,
    },
    /// Print a script that completes commands in a shell
    Completion {
        /// Shell
        shell: CompletionShell,
    },
    /// Show the versions of this program and of the control plane
    Version {
        /// Show all that the control plane says about itself
        #[arg(short = 'a', long)]
        detailed: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// File, folder, URL, or `-` for the standard input; may be given several times. Of a folder,
    /// *.yaml, *.yml and *.json are read in the order of their names
    #[arg(short, long = "file", required = true, value_name = "FILE")]
    pub(crate) files: Vec<String>,
    /// Read folders inside folders too
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// Value for `{{ key }}` in the files; may be given several times
    #[arg(short = 'v', long = "var", value_name = "KEY=VALUE", value_parser = pairs::parse)]
    pub(crate) variables: Vec<Pairs>,
    /// Print what would be applied, and apply nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// Type, such as `meshgateway`, `meshgateways` or `MeshGateway`
    #[arg(value_name = "TYPE", hide_possible_values = true, value_parser = KindWord)]
    pub(crate) kind: String,
    /// Name; all of the type without it
    pub(crate) name: Option<String>,
    /// Mesh
    #[arg(short, long, default_value = "default")]
    pub(crate) mesh: String,
    /// List over all meshes
    #[arg(short = 'A', long, conflicts_with_all = ["mesh", "name"])]
    pub(crate) all_meshes: bool,
    /// Format of the output
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// Show one page of this many items; all items without it
    #[arg(long, conflicts_with = "name", value_name = "COUNT")]
    pub(crate) size: Option<u32>,
    /// Where to start, as a page before said
    #[arg(long, conflicts_with = "name")]
    pub(crate) offset: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Yaml,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Type, such as `meshgateway`, `meshgateways` or `MeshGateway`
    #[arg(value_name = "TYPE", hide_possible_values = true, value_parser = KindWord)]
    pub(crate) kind: String,
    /// Name
    pub(crate) name: String,
    /// Mesh
    #[arg(short, long, default_value = "default")]
    pub(crate) mesh: String,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// What to export
    #[arg(short, long, value_enum, default_value_t = Profile::Federation)]
    pub(crate) profile: Profile,
    /// Form of the resources
    #[arg(short, long, value_enum, default_value_t = ExportFormat::Universal)]
    pub(crate) format: ExportFormat,
    /// Namespace of the control plane on Kubernetes
    #[arg(short = 'n', long, default_value = "kuma-system")]
    pub(crate) system_namespace: String,
    /// With Secrets and GlobalSecrets; the federation profiles have them anyway
    #[arg(short = 'a', long)]
    pub(crate) include_admin: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// What a zone brings along when it joins a global, without policies that the global can be
    /// given later
    Federation,
    /// What a zone brings along when it joins a global
    FederationWithPolicies,
    /// All that can be applied
    All,
    /// All that can be applied, without Dataplanes
    NoDataplanes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// As control planes outside of Kubernetes take it
    Universal,
    /// As Kubernetes takes it
    Kubernetes,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Print the file
    View,
    /// Manage known control planes
    #[command(subcommand_required = true, arg_required_else_help = true)]
    ControlPlanes {
        #[command(subcommand)]
        what: ControlPlanes,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ControlPlanes {
    /// Add a control plane, given by the options below, and use it from now on
    Add {
        /// Name to know it by
        #[arg(long)]
        name: String,
        /// Replace the one of the same name
        #[arg(long)]
        overwrite: bool,
        /// Do not ask it whether it is one
        #[arg(long)]
        skip_check: bool,
    },
    /// List known control planes
    List,
    /// Forget a control plane
    Remove {
        /// Its name
        #[arg(long)]
        name: String,
    },
    /// Use another control plane from now on
    Switch {
        /// Its name
        #[arg(long)]
        name: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompletionShell {
    Bash,
    Zsh,
    Fish,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn options_may_follow_the_command() {
        let arguments = Arguments::parse_from([
            "sunbearctl",
            "get",
            "meshes",
            "--address",
            "http://x:1",
            "-o",
            "json",
        ]);
        assert_eq!(arguments.connection.address.as_deref(), Some("http://x:1"));
        assert!(matches!(arguments.command, Command::Get(Get { output: Format::Json, .. })));
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in [
            "sunbearctl",
            "sunbearctl apply",
            "sunbearctl apply -f a -v b",
            "sunbearctl get",
            "sunbearctl get dataplanes x -A",
            "sunbearctl delete mesh",
            "sunbearctl generate dataplane-token",
            "sunbearctl generate dataplane-token --valid-for 1h --proxy-type x",
            "sunbearctl generate dataplane-token --valid-for 1d",
            "sunbearctl generate user-token --valid-for 1h",
            "sunbearctl generate user-token --name a --valid-for 1h --kid 1",
            "sunbearctl generate user-token --name a --valid-for 1h --signing-key-path k",
            "sunbearctl generate zone-token --zone a --valid-for 1h --scope x",
            "sunbearctl generate tls-certificate --type server",
            "sunbearctl generate tls-certificate --type x --hostname a",
            "sunbearctl inspect",
            "sunbearctl inspect dataplane",
            "sunbearctl inspect dataplane a --type x",
            "sunbearctl inspect zoneingress a --type policies",
            "sunbearctl inspect secret a",
            "sunbearctl inspect meshtimeout",
            "sunbearctl export --profile x",
            "sunbearctl config",
            "sunbearctl config control-planes add",
            "sunbearctl completion",
            "sunbearctl version --skip-verify --ca-cert-file x",
            "sunbearctl version --auth-type x",
        ] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let line = "sunbearctl --token secret --headers a=secret --auth-conf token=secret version";
        let arguments = Arguments::parse_from(line.split(' '));
        assert!(!format!("{arguments:?}").contains("secret"));
    }

    #[test]
    fn policies_are_inspected_by_their_types() {
        for (line, name) in [
            ("sunbearctl inspect meshtimeout a", "MeshTimeout"),
            ("sunbearctl inspect traffic-route a -m m", "TrafficRoute"),
            ("sunbearctl inspect healthcheck a -o json", "HealthCheck"),
            ("sunbearctl inspect health-check a", "HealthCheck"),
        ] {
            let arguments = Arguments::parse_from(line.split(' '));
            let Command::Inspect(Inspect { what: What::Policy(kind, _), .. }) = arguments.command
            else {
                panic!("{line}");
            };
            assert_eq!(kind.name(), name);
        }
    }
}
