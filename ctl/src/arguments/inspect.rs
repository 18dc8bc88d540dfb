//! Arguments of `inspect`. Its commands are those below and one for each type of policy.

use clap::{ArgMatches, Args, Command, Error, FromArgMatches, Subcommand, ValueEnum};
use sunbear_model::Kind;

use super::Format;
use crate::{
    kinds,
    pairs::{self, Pairs},
};

#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Inspect {
    /// Format of tables
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) what: What,
}

/// What is inspected.
#[derive(Debug)]
pub(crate) enum What {
    Known(Known),
    Policy(Kind, Policy),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Known {
    /// Meshes, with what is in them
    Meshes,
    /// Zones, with the state of their control planes
    Zones,
    /// Dataplanes, with the state of their proxies
    Dataplanes(Dataplanes),
    /// Services, with the state of their proxies
    Services(Mesh),
    /// Zone ingresses, with the state of their proxies
    #[command(visible_alias = "zone-ingresses")]
    Zoneingresses,
    /// Zone egresses, with the state of their proxies
    #[command(visible_alias = "zone-egresses")]
    Zoneegresses,
    /// Policies, configuration or statistics of one Dataplane
    Dataplane(Dataplane),
    /// Configuration or statistics of one zone ingress
    #[command(visible_alias = "zone-ingress")]
    Zoneingress(ZoneProxy),
    /// Configuration or statistics of one zone egress
    #[command(visible_alias = "zone-egress")]
    Zoneegress(ZoneProxy),
    /// Dataplanes that a MeshGateway selects
    Meshgateway(Named),
}

#[derive(Debug, Args)]
pub(crate) struct Mesh {
    /// Mesh
    #[arg(short, long, default_value = "default")]
    pub(crate) mesh: String,
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Name
    pub(crate) name: String,
    /// Mesh
    #[arg(short, long, default_value = "default")]
    pub(crate) mesh: String,
}

#[derive(Debug, Args)]
pub(crate) struct Dataplanes {
    #[command(flatten)]
    pub(crate) mesh: Mesh,
    /// Only those with this tag; may be given several times
    #[arg(long = "tag", value_name = "TAG=VALUE", value_parser = pairs::parse)]
    pub(crate) tags: Vec<Pairs>,
    /// Only gateways
    #[arg(long)]
    pub(crate) gateway: bool,
    /// Without effect, for those who are used to it
    #[arg(long, hide = true)]
    pub(crate) ingress: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Dataplane {
    #[command(flatten)]
    pub(crate) named: Named,
    /// What to show
    #[arg(long = "type", value_enum, default_value_t = Part::Policies)]
    pub(crate) part: Part,
    /// The same as --type=config-dump
    #[arg(long, hide = true)]
    pub(crate) config_dump: bool,
    /// With the endpoints of clusters; for --type=config-dump
    #[arg(long)]
    pub(crate) include_eds: bool,
    /// As if policies with the label `kuma.io/effect: shadow` were in force; for --type=config
    #[arg(long)]
    pub(crate) shadow: bool,
    /// Further parts of the answer, such as `diff`; for --type=config
    #[arg(long, value_delimiter = ',')]
    pub(crate) include: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ZoneProxy {
    /// Name
    pub(crate) name: String,
    /// What to show
    #[arg(long = "type", value_enum, default_value_t = ZoneProxyPart::ConfigDump)]
    pub(crate) part: ZoneProxyPart,
    /// The same as --type=config-dump
    #[arg(long, hide = true)]
    pub(crate) config_dump: bool,
    /// With the endpoints of clusters; for --type=config-dump
    #[arg(long)]
    pub(crate) include_eds: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    Policies,
    ConfigDump,
    Stats,
    Clusters,
    Config,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ZoneProxyPart {
    ConfigDump,
    Stats,
    Clusters,
}

#[derive(Debug, Args)]
pub(crate) struct Policy {
    #[command(flatten)]
    pub(crate) named: Named,
    /// Only the list of proxies, without where on them the policy acts
    #[arg(long)]
    pub(crate) new_api: bool,
}

/// Types that have a command of their own here.
fn policies() -> impl Iterator<Item = Kind> {
    Kind::all().filter(|kind| kind.row().policy && !kind.row().singular.is_empty())
}

impl FromArgMatches for What {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let policy = matches.subcommand().and_then(|(name, inner)| {
            policies().find(|kind| kind.row().singular == name).map(|kind| (kind, inner))
        });
        match policy {
            Some((kind, inner)) => Ok(Self::Policy(kind, Policy::from_arg_matches(inner)?)),
            None => Known::from_arg_matches(matches).map(Self::Known),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Subcommand for What {
    fn augment_subcommands(command: Command) -> Command {
        let policy = |kind: Kind| {
            let row = kind.row();
            let about = format!("Proxies that a {} acts on", row.name);
            let command = Command::new(row.singular).about(about);
            // As in `health-check` for `healthcheck`.
            let other = row.plural.strip_suffix('s').filter(|word| {
                *word != row.singular && kinds::normal(word) == kinds::normal(row.singular)
            });
            Policy::augment_args(command.aliases(other))
        };
        Known::augment_subcommands(command).subcommands(policies().map(policy))
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        Known::has_subcommand(name) || policies().any(|kind| kind.row().singular == name)
    }
}
