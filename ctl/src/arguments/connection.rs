//! Options that say how to reach the control plane.

use std::{fmt, path::PathBuf, time::Duration};

use clap::Args;

use crate::{
    pairs::{self, Pairs},
    period,
};

/// How to reach the control plane.
#[derive(Debug, Args)]
#[command(next_help_heading = "Control plane")]
pub(crate) struct Connection {
    /// Address of the control plane's API, such as https://cp:5682; without it, the one that the
    /// configuration file names
    #[arg(long, global = true, env = "SUNBEAR_ADDRESS", value_name = "URL")]
    pub(crate) address: Option<String>,
    /// File of known control planes [default: ~/.kumactl/config]
    #[arg(long, global = true, env = "SUNBEAR_CTL_CONFIG_FILE", value_name = "FILE")]
    pub(crate) config_file: Option<PathBuf>,
    /// Control plane of that file to use instead of its current one
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Leave that file alone; the control plane is the one on this host
    #[arg(long, global = true)]
    pub(crate) no_config: bool,
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
    /// How to authenticate; `tokens` is the one way beside client certificates
    #[arg(long, global = true, value_parser = ["tokens"], value_name = "TYPE")]
    pub(crate) auth_type: Option<String>,
    /// What to authenticate with: `token=TOKEN`
    #[arg(long, global = true, value_parser = secret_pairs, value_name = "KEY=VALUE")]
    pub(crate) auth_conf: Vec<SecretPairs>,
    /// Further header of every request; may be given several times
    #[arg(long, global = true, value_parser = secret_pairs, value_name = "KEY=VALUE")]
    pub(crate) headers: Vec<SecretPairs>,
    /// PEM file with the certificate authorities to trust instead of the system's
    #[arg(long, global = true, env = "SUNBEAR_CA_CERT_FILE", value_name = "FILE")]
    pub(crate) ca_cert_file: Option<PathBuf>,
    /// PEM file with the certificate to authenticate with
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) client_cert_file: Option<PathBuf>,
    /// PEM file with the key of that certificate
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) client_key_file: Option<PathBuf>,
    /// Do not verify the control plane's certificate
    #[arg(long, global = true, conflicts_with = "ca_cert_file")]
    pub(crate) skip_verify: bool,
    /// How long to wait for an answer, in seconds or as 1m30s; 0: for ever
    #[arg(
        long,
        visible_alias = "api-timeout",
        global = true,
        default_value = "60",
        value_parser = period::parse_timeout,
        value_name = "TIME"
    )]
    pub(crate) timeout: Duration,
    /// Where the configuration file is, if not told.
    #[arg(long, hide = true, global = true, env = "HOME", hide_env = true, id = "home_folder")]
    pub(crate) home: Option<PathBuf>,
}

/// A token; never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token(pub(crate) String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl From<String> for Token {
    fn from(token: String) -> Self {
        Self(token)
    }
}

/// Pairs with values that may be secret; never printed.
#[derive(Clone)]
pub(crate) struct SecretPairs(pub(crate) Pairs);

impl fmt::Debug for SecretPairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretPairs(..)")
    }
}

fn secret_pairs(text: &str) -> Result<SecretPairs, String> {
    pairs::parse(text).map(SecretPairs)
}

impl SecretPairs {
    /// The pairs of several options.
    pub(crate) fn all(options: &[Self]) -> impl Iterator<Item = (String, String)> {
        options.iter().flat_map(|secret| secret.0.0.iter().cloned())
    }
}
