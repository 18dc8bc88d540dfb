//! Arguments of `generate`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::{
    pairs::{self, Pairs},
    period::{self, Period},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Generate {
    /// Generate a token that proves the identity of a proxy
    DataplaneToken(DataplaneToken),
    /// Generate a token that proves the identity of a zone's ingress, egress or control plane
    ZoneToken(ZoneToken),
    /// Generate a token that proves the identity of a user
    UserToken(UserToken),
    /// Generate a private key to sign tokens with
    SigningKey(SigningKey),
    /// Print the public half of a private key that signs tokens
    PublicKey(PublicKey),
    /// Generate a self-signed certificate with its key
    TlsCertificate(TlsCertificate),
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
    #[arg(long = "tag", value_name = "TAG=VALUES", value_parser = pairs::parse)]
    pub(crate) tags: Vec<Pairs>,
    /// Type of the proxy
    #[arg(long, alias = "type", value_parser = ["dataplane", "ingress", "egress"])]
    pub(crate) proxy_type: Option<String>,
    /// Workload that the Dataplane must belong to
    #[arg(long)]
    pub(crate) workload: Option<String>,
    #[command(flatten)]
    pub(crate) issue: Issue,
}

#[derive(Debug, Args)]
pub(crate) struct ZoneToken {
    /// Name of the zone
    #[arg(long)]
    pub(crate) zone: String,
    /// What the token is good for; may be given several times
    #[arg(
        long,
        value_delimiter = ',',
        default_values = ["ingress", "egress"],
        value_parser = ["ingress", "egress", "cp"]
    )]
    pub(crate) scope: Vec<String>,
    #[command(flatten)]
    pub(crate) issue: Issue,
}

#[derive(Debug, Args)]
pub(crate) struct UserToken {
    /// Name of the user
    #[arg(long)]
    pub(crate) name: String,
    /// Group of the user; may be given several times
    #[arg(long = "group", value_delimiter = ',')]
    pub(crate) groups: Vec<String>,
    #[command(flatten)]
    pub(crate) issue: Issue,
}

/// What all tokens have in common.
#[derive(Debug, Args)]
pub(crate) struct Issue {
    /// How long the token is valid, such as 24h
    #[arg(long, value_name = "TIME", value_parser = period::parse)]
    pub(crate) valid_for: Period,
    /// File with a private key to sign with here, without a control plane
    #[arg(long, value_name = "FILE", requires = "kid")]
    pub(crate) signing_key_path: Option<PathBuf>,
    /// Id of that key
    #[arg(long, requires = "signing_key_path")]
    pub(crate) kid: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SigningKey {
    /// Form of the key; as pem-base64 it fits into the `data` of a Secret
    #[arg(long, value_enum, default_value_t = KeyFormat::PemBase64)]
    pub(crate) format: KeyFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyFormat {
    Pem,
    PemBase64,
}

#[derive(Debug, Args)]
pub(crate) struct PublicKey {
    /// File with the private key in PEM form
    #[arg(long, value_name = "FILE")]
    pub(crate) signing_key_path: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct TlsCertificate {
    /// What the certificate is shown as
    #[arg(long = "type", value_enum)]
    pub(crate) purpose: Purpose,
    /// Names and addresses that it is valid for; may be given several times
    #[arg(long, required = true, value_delimiter = ',', value_name = "NAME")]
    pub(crate) hostname: Vec<String>,
    /// Kind of the key
    #[arg(long, value_enum, default_value_t = KeyType::Rsa)]
    pub(crate) key_type: KeyType,
    /// File to write the key to; `-`: the standard output
    #[arg(long, default_value = "key.pem", value_name = "FILE")]
    pub(crate) key_file: PathBuf,
    /// File to write the certificate to; `-`: the standard output
    #[arg(long, default_value = "cert.pem", value_name = "FILE")]
    pub(crate) cert_file: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Purpose {
    Server,
    Client,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyType {
    Rsa,
    Ecdsa,
}
