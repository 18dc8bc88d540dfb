//! Everything is stopped and started again.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::{
    backend::Backend,
    lab::{BASE, Lab},
    party::Party,
};

/// What is compared: all types that a restart could lose or double. Not insights, which are about
/// the present.
const PLURALS: [&str; 9] = [
    "meshes",
    "meshgateways",
    "meshgatewayroutes",
    "meshtimeouts",
    "meshretries",
    "meshcircuitbreakers",
    "dataplanes",
    "zones",
    "hostnamegenerators",
];

type Everything = BTreeMap<(Party, &'static str), BTreeMap<String, Value>>;

/// Everything is stopped in order and started again: same answers, no resource lost or doubled.
///
/// Guard: `shared/api/src/defaults.rs`, `ensure_defaults`: what is there is not made again;
/// `shared/store`: what was committed is on disk.
pub fn stopped_and_started<B: Backend>(lab: &mut Lab<B>) -> Result<()> {
    let before = everything(lab)?;
    let mut parties = lab.parties();
    parties.reverse();
    for party in &parties {
        lab.stop(party)?;
    }
    parties.reverse();
    comes_back(lab, &parties, &before)
}

/// The same where everything is killed.
///
/// Guard: the same, and `dataplane/src/sealer.rs`: the last good configuration is never torn.
pub fn killed_and_started<B: Backend>(lab: &mut Lab<B>) -> Result<()> {
    let before = everything(lab)?;
    let parties = lab.parties();
    for party in &parties {
        lab.kill(party)?;
    }
    comes_back(lab, &parties, &before)
}

fn comes_back<B: Backend>(lab: &mut Lab<B>, parties: &[Party], before: &Everything) -> Result<()> {
    for party in parties {
        lab.start_again(party)?;
        // A global needs its database, as in docker-compose.yml.
        if *party == Party::Postgres {
            lab.await_ready(party)?;
        }
    }
    lab.await_all_ready()?;
    lab.await_change(BASE)?;
    lab.await_sync()?;
    let after = everything(lab)?;
    for (place, before) in before {
        let after = after.get(place);
        ensure!(after == Some(before), "{place:?}: {before:#?} became {after:#?}");
    }
    Ok(())
}

fn everything<B: Backend>(lab: &Lab<B>) -> Result<Everything> {
    let mut all = BTreeMap::new();
    for party in [Party::Global(1), Party::Global(2), Party::zone("east"), Party::zone("west")] {
        for plural in PLURALS {
            all.insert((party.clone(), plural), lab.items(&party, plural)?);
        }
    }
    Ok(all)
}
