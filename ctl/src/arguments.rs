//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Command line of Sunbear's control planes.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXIT_CODES)]
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
  3  the control plane cannot be reached";

/// How to reach the control plane.
#[derive(Debug, Args)]
#[command(next_help_heading = "Control plane")]
pub(crate) struct Connection {
    /// Address of the control plane's API
    #[arg(
        long,
        global = true,
        env = "SUNBEAR_ADDRESS",
        default_value = "http://localhost:5681",
        value_name = "URL"
    )]
    pub(crate) address: String,
    /// User token
    #[arg(
        long,
        global = true,
        env = "SUNBEAR_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    pub(crate) token: Option<Token>,
    /// File with the user token; is taken if no token is given
    #[arg(long, global = true, env = "SUNBEAR_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// PEM file with the certificate authorities to trust instead of the system's
    #[arg(long, global = true, env = "SUNBEAR_CA_CERT_FILE", value_name = "FILE")]
    pub(crate) ca_cert_file: Option<PathBuf>,
    /// Do not verify the control plane's certificate
    #[arg(long, global = true, conflicts_with = "ca_cert_file")]
    pub(crate) skip_verify: bool,
    /// How long to wait for an answer, in seconds
    #[arg(
        long,
        global = true,
        default_value_t = 60,
        value_parser = clap::value_parser!(u64).range(1..),
        value_name = "SECONDS"
    )]
    pub(crate) timeout: u64,
}

/// A token; never printed.
#[derive(Clone)]
pub(crate) struct Token(pub(crate) String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl From<String> for Token {
    fn from(token: String) -> Self {
        Self(token)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create or update resources
    Apply(Apply),
    /// Show one resource or all of a type
    Get(Get),
    /// Delete a resource
    Delete(Delete),
    /// Generate tokens
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Generate {
        #[command(subcommand)]
        what: Generate,
    },
    /// Show the versions of this program and of the control plane
    Version,
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
    #[arg(short = 'v', long = "var", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) variables: Vec<(String, String)>,
    /// Print what would be applied, and apply nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// Type, such as `meshgateway`, `meshgateways` or `MeshGateway`
    #[arg(value_name = "TYPE")]
    pub(crate) kind: String,
    /// Name; all of the type without it
    pub(crate) name: Option<String>,
    /// Mesh
    #[arg(short, long, default_value = "default")]
    pub(crate) mesh: String,
    /// List over all meshes
    #[arg(short = 'A', long, conflicts_with_all = ["mesh", "name"])]
    pub(crate) all_meshes: bool,
    /// Format of the output; a list in YAML is a file with many documents
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
    #[arg(value_name = "TYPE")]
    pub(crate) kind: String,
    /// Name
    pub(crate) name: String,
    /// Mesh
    #[arg(short, long, default_value = "default")]
    pub(crate) mesh: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Generate {
    /// Generate a token that proves the identity of a proxy
    DataplaneToken(DataplaneToken),
}

#[derive(Debug, Args)]
pub(crate) struct DataplaneToken {
    /// Name of the Dataplane; any without it
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Mesh
    #[arg(short, long, default_value = "default")]
    pub(crate) mesh: String,
    /// Values that a tag may have, separated by commas; may be given several times
    #[arg(long = "tag", value_name = "TAG=VALUES", value_parser = key_value)]
    pub(crate) tags: Vec<(String, String)>,
    /// Type of the proxy
    #[arg(long, value_parser = ["dataplane", "ingress", "egress"])]
    pub(crate) proxy_type: Option<String>,
    /// Workload that the Dataplane must belong to
    #[arg(long)]
    pub(crate) workload: Option<String>,
    /// How long the token is valid, such as `24h`
    #[arg(long, value_name = "DURATION")]
    pub(crate) valid_for: String,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("expected KEY=VALUE".to_owned()),
    }
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
        assert_eq!(arguments.connection.address, "http://x:1");
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
            "sunbearctl version --skip-verify --ca-cert-file x",
        ] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn tokens_are_not_shown() {
        let arguments = Arguments::parse_from(["sunbearctl", "--token", "secret", "version"]);
        assert!(!format!("{arguments:?}").contains("secret"));
    }
}
