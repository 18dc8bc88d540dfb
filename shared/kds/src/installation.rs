//! Which installation a zone belongs to. A global that came back with an empty database, or another
//! one at the same address, would empty its zones. The id of its installation tells it, and nothing
//! is taken from it until an operator says so.

use std::fmt;

use sunbear_model::{Kind, ResourceKey, Typed, label};
use sunbear_proto::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use sunbear_store::Snapshot;

use crate::wire;

/// Name of the Config that holds the id of an installation.
const ID: &str = "kuma-cluster-id";

/// A global of another installation than the one that a zone has its resources from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stranger {
    /// The zone's installation.
    pub(crate) known: String,
    /// The global's.
    pub(crate) offered: String,
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "this global is of installation {}, the zone belongs to {}",
            self.offered, self.known
        )
    }
}

/// What a response says about the global.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Introduction {
    /// It is the zone's, or the first one that the zone meets.
    Own,
    /// It is another one.
    Stranger(Stranger),
    /// It does not say, but the zone belongs somewhere.
    Silent,
}

/// Reads the first response with Configs of a stream, or a later one, which need not repeat the id.
pub(crate) fn read(
    response: &DeltaDiscoveryResponse,
    stored: &Snapshot,
    first: bool,
) -> Introduction {
    let Some(known) = known(stored) else { return Introduction::Own };
    let offered = response.resources.iter().find_map(|resource| {
        let received = wire::decode(Kind::CONFIG, resource.clone()).ok()?;
        let Typed::Config(config) = received.spec.typed() else { return None };
        (&*received.key.name == ID).then(|| config.config.clone())
    });
    match offered {
        Some(offered) if offered == known => Introduction::Own,
        Some(offered) => Introduction::Stranger(Stranger { known, offered }),
        None if first => Introduction::Silent,
        None => Introduction::Own,
    }
}

/// The installation that the zone has its resources from. What it called itself before it had a
/// global does not count.
fn known(stored: &Snapshot) -> Option<String> {
    let resource = stored.get(&ResourceKey::new(Kind::CONFIG, "", ID))?;
    let from_global = resource.label(label::ORIGIN) == Some(label::ORIGIN_GLOBAL);
    match resource.spec.typed() {
        Typed::Config(config) if from_global => Some(config.config.clone()),
        _ => None,
    }
}
