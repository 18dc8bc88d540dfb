//! Zones come and go.

use anyhow::Result;
use serde_json::json;
use xtask::wait::{Look, until};

use crate::{
    backend::Backend,
    lab::{BASE, Lab, PATIENCE},
    party::Party,
    resource,
};

/// A third zone is added while it all runs, and removed again, without a failed request elsewhere.
///
/// Guard: `shared/kds/src/receiver.rs`, `put`: what a zone sent belongs to its Zone and goes with
/// it.
pub fn a_third_zone<B: Backend>(lab: &mut Lab<B>) -> Result<()> {
    let others = lab.backend.zones();
    let traffic = lab.traffic(&others, &[BASE.to_owned(), "three".to_owned()])?;
    let dataplanes = |lab: &Lab<B>| lab.names(&Party::Balancer, "dataplanes");
    let before = dataplanes(lab)?;

    lab.timeline.note("zone north is added");
    lab.backend.add_zone("north")?;
    lab.await_sync_of("north")?;
    lab.await_change_of("north", BASE)?;
    lab.apply(&resource::route("three"))?;
    lab.await_change("three")?;
    until("the proxies of north on the global", PATIENCE, || {
        let now = dataplanes(lab)?;
        Ok(if now.len() == before.len() + 3 {
            Look::Done(())
        } else {
            Look::NotYet(format!("{now:?}"))
        })
    })?;

    lab.timeline.note("zone north is removed");
    lab.backend.remove_zone("north")?;
    let zone = json!({"type": "Zone", "name": "north"});
    until("the deletion of the zone", PATIENCE, || {
        let answer = lab.remove(&Party::Balancer, &zone)?;
        Ok(match answer.status {
            200 => Look::Done(()),
            // Until the global knows that it is offline.
            _ => Look::NotYet(format!("{}: {}", answer.status, answer.body)),
        })
    })?;
    until("the end of the zone and its proxies on both replicas", PATIENCE, || {
        for replica in [Party::Global(1), Party::Global(2)] {
            let zones = lab.names(&replica, "zones")?;
            let proxies = lab.names(&replica, "dataplanes")?;
            if zones != ["east", "west"] || proxies != before {
                return Ok(Look::NotYet(format!("{replica}: {zones:?}, {proxies:?}")));
            }
        }
        Ok(Look::Done(()))
    })?;
    traffic.await_answers(20, PATIENCE)?;
    traffic.finish().map(drop)
}
