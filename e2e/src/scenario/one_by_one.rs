//! Each party fails by itself, one after the other.

use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::{
    backend::Backend,
    lab::{BASE, Lab, PATIENCE},
    party::Party,
    resource,
    traffic::Traffic,
};

/// Answers that every stream gives during a fault.
const ANSWERS: u64 = 25;

/// And while somebody is frozen: so many that a balancer notices it.
const LONG: u64 = 300;

/// Each party is killed, and started: only requests to a killed gateway or service fail.
///
/// Guard: `shared/control-plane/src/storage.rs`, `open`: a zone's control plane begins with what it
/// had, so that gateways which come back to it are told nothing less.
pub fn killed<B: Backend>(lab: &mut Lab<B>) -> Result<()> {
    each(lab, |lab, party, traffic| {
        lab.kill(party)?;
        traffic.await_answers(ANSWERS, PATIENCE)?;
        lab.start_again(party)
    })
}

/// Each party is frozen for a while: only requests to a frozen gateway or service wait.
///
/// Guard: `shared/kds/src/client.rs`, `keep`: a zone whose stream was ended, because its replica is
/// frozen, opens another one.
pub fn paused<B: Backend>(lab: &mut Lab<B>) -> Result<()> {
    each(lab, |lab, party, traffic| {
        lab.pause(party)?;
        traffic.await_answers(LONG, PATIENCE)?;
        lab.resume(party)
    })
}

/// Each party is restarted in order: only requests to a restarted gateway or service fail.
///
/// Guard: as for [`killed`].
pub fn restarted<B: Backend>(lab: &mut Lab<B>) -> Result<()> {
    each(lab, |lab, party, traffic| {
        lab.stop(party)?;
        traffic.await_answers(ANSWERS, PATIENCE)?;
        lab.start_again(party)
    })
}

fn each<B: Backend>(
    lab: &mut Lab<B>,
    fail: fn(&mut Lab<B>, &Party, &Traffic) -> Result<()>,
) -> Result<()> {
    let traffic = lab.base_traffic()?;
    for party in lab.parties() {
        let start = Instant::now();
        let affected = match &party {
            Party::Gateway(zone) => Some((zone.clone(), None)),
            Party::Service { service, zone } => Some((zone.clone(), Some(service.clone()))),
            Party::Postgres
            | Party::Global(_)
            | Party::Balancer
            | Party::Zone(_)
            | Party::Client => None,
        };
        if let Some((zone, service)) = &affected {
            traffic.excuse(zone, service.as_deref());
        }
        fail(lab, &party, &traffic).with_context(|| party.to_string())?;
        lab.await_ready(&party)?;
        if let Some((zone, service)) = &affected {
            lab.await_change_of(zone, BASE)?;
            traffic.expect(zone, service.as_deref());
        }
        traffic.await_answers(ANSWERS, PATIENCE)?;
        traffic.check().with_context(|| format!("while {party} failed"))?;
        lab.timeline.note(format!("{party} is back after {} ms", start.elapsed().as_millis()));
    }
    traffic.finish()?;
    // All are still connected: a change gets everywhere.
    lab.apply(&resource::route("after"))?;
    lab.await_change("after")
}

/// A replica of the global is killed: the zones go on through the other.
///
/// Guard: `shared/kds/src/client.rs`, `keep`: a stream that ended is opened again at once, and
/// the waits grow only while nothing comes of it.
pub fn a_replica_killed<B: Backend>(lab: &mut Lab<B>) -> Result<()> {
    let changes: Vec<_> = [BASE, "without-1", "without-2"].map(str::to_owned).to_vec();
    let traffic = lab.traffic(&lab.backend.zones(), &changes)?;
    // Whichever a zone is connected to, one of the two is it.
    for (replica, change) in [(1, "without-1"), (2, "without-2")] {
        let killed = Party::Global(replica);
        lab.kill(&killed)?;
        let start = Instant::now();
        // At the other one itself: this is not about the balancer.
        crate::lab::succeeded(&lab.put(&Party::Global(3 - replica), &resource::route(change))?)?;
        lab.await_change(change)?;
        lab.figure(&format!("{killed} killed: a change is in all zones"), start.elapsed());
        lab.start_again(&killed)?;
        lab.await_ready(&killed)?;
    }
    traffic.finish().map(drop)
}
