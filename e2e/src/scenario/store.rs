//! The database of the globals fails.

use std::{collections::BTreeSet, time::Instant};

use anyhow::{Context as _, Result, bail, ensure};
use xtask::wait::{Look, until};

use crate::{
    backend::{Backend, Cut},
    lab::{BASE, Lab, PATIENCE},
    party::Party,
    resource,
};

/// Postgres is killed and started under constant writes and requests: writes fail with a clear 503
/// while it is away, none that was acknowledged is lost, nothing needs a restart.
///
/// Guard: `shared/api/src/problem.rs`, `from_store`, and `shared/store/src/postgres/mod.rs`, `call`
/// and the pool's reconnecting.
pub fn postgres_killed<B: Backend>(lab: &mut Lab<B>) -> Result<()> {
    let traffic = lab.base_traffic()?;
    let mut acknowledged = BTreeSet::new();
    let mut attempt = 0;
    let mut write = |lab: &Lab<B>, acknowledged: &mut BTreeSet<String>| -> Result<bool> {
        attempt += 1;
        let name = format!("extra-{attempt:04}");
        let resource = resource::extra_route(&name, &format!("/extra/{attempt}"));
        // Both replicas have to manage.
        let answer = lab.put(&Party::Global(1 + attempt % 2), &resource)?;
        match answer.status {
            200 | 201 => {
                acknowledged.insert(name);
                Ok(true)
            }
            503 => {
                ensure!(
                    answer.header("retry-after").is_some_and(|v| v.parse::<u32>().is_ok()),
                    "503 without Retry-After: {:?}",
                    answer.headers
                );
                ensure!(answer.body.contains("database"), "503 that is not clear: {}", answer.body);
                Ok(false)
            }
            status => bail!("a write was answered {status}: {}", answer.body),
        }
    };
    for _ in 0..10 {
        ensure!(write(lab, &mut acknowledged)?, "503 before the fault");
    }
    lab.kill(&Party::Postgres)?;
    for _ in 0..2 {
        ensure!(!write(lab, &mut acknowledged)?, "a write was acknowledged without Postgres");
    }
    // Reads go on from memory.
    for replica in [1, 2] {
        lab.items(&Party::Global(replica), "meshgatewayroutes")?;
    }
    traffic.await_answers(20, PATIENCE)?;
    lab.start_again(&Party::Postgres)?;
    lab.await_ready(&Party::Postgres)?;
    let start = Instant::now();
    until("writes by both replicas after the return of Postgres", PATIENCE, || {
        let both = write(lab, &mut acknowledged)? & write(lab, &mut acknowledged)?;
        Ok(if both { Look::Done(()) } else { Look::NotYet("503".to_owned()) })
    })?;
    lab.figure("Postgres is back: writes by both replicas", start.elapsed());
    lab.await_sync()?;
    for party in [Party::Global(1), Party::Global(2), Party::zone("east"), Party::zone("west")] {
        let there: BTreeSet<_> = lab.names(&party, "meshgatewayroutes")?.into_iter().collect();
        let lost: Vec<_> = acknowledged.difference(&there).collect();
        ensure!(lost.is_empty(), "{party} lost {lost:?}");
    }
    traffic.finish().map(drop)
}

/// A replica is cut off from Postgres by a black hole: its writes fail with 503, its zones and reads
/// go on, and it catches up.
///
/// Guard: `shared/store/src/postgres/mod.rs`, `call_timeout`: bounds for networks that swallow
/// packets.
pub fn a_replica_without_postgres<B: Backend>(lab: &mut Lab<B>) -> Result<()> {
    let changes: Vec<_> = [BASE, "elsewhere"].map(str::to_owned).to_vec();
    let traffic = lab.traffic(&lab.backend.zones(), &changes)?;
    let lonely = Party::Global(1);
    lab.partition(&lonely, &Party::Postgres, Cut::BlackHole)?;
    // Whoever asks may have less patience than the replica: then it asks again.
    until("a 503 without Postgres", PATIENCE, || {
        let answer = lab.put(&lonely, &resource::extra_route("extra-lonely", "/lonely"));
        match answer {
            Ok(answer) if answer.status == 503 => Ok(Look::Done(())),
            Ok(answer) => bail!("{lonely} answers {}: {}", answer.status, answer.body),
            Err(error) => Ok(Look::NotYet(format!("{error:#}"))),
        }
    })?;
    lab.items(&lonely, "meshgatewayroutes")?;
    crate::lab::succeeded(&lab.put(&Party::Global(2), &resource::route("elsewhere"))?)?;
    lab.heal()?;
    lab.await_change("elsewhere").context("after it was healed")?;
    lab.await_sync()?;
    traffic.finish().map(drop)
}

/// The globals come back with an empty database: the zones say so, keep what they have and serve
/// it. When the globals have their database again, everything goes on.
///
/// Guard: `shared/kds/src/client.rs`, `hold_off`: nothing is taken from a global of another
/// installation.
pub fn an_empty_database<B: Backend>(lab: &mut Lab<B>) -> Result<()> {
    let zones = lab.backend.zones();
    let changes = [BASE, "restored"].map(str::to_owned);
    let traffic = lab.traffic(&zones, &changes)?;
    let copies = |lab: &Lab<B>, zone: &str| lab.items(&Party::zone(zone), "meshgatewayroutes");
    let before = zones.iter().map(|zone| copies(lab, zone)).collect::<Result<Vec<_>>>()?;
    stop_globals(lab)?;
    lab.backend.empty_database()?;
    start_globals(lab)?;
    for (zone, before) in zones.iter().zip(&before) {
        until(&format!("word of {zone} that this is another global"), PATIENCE, || {
            let log = lab.backend.log(&Party::zone(zone));
            Ok(match log.contains("the global is of another installation") {
                true => Look::Done(()),
                false => Look::NotYet("nothing".to_owned()),
            })
        })?;
        let after = copies(lab, zone)?;
        ensure!(after == *before, "the routes of {zone} became {after:?}");
    }
    traffic.await_answers(20, PATIENCE)?;
    traffic.check()?;
    stop_globals(lab)?;
    lab.backend.restore_database()?;
    start_globals(lab)?;
    lab.await_sync()?;
    lab.apply(&resource::route("restored"))?;
    lab.await_change("restored")?;
    traffic.finish().map(drop)
}

fn stop_globals<B: Backend>(lab: &mut Lab<B>) -> Result<()> {
    [1, 2].into_iter().try_for_each(|replica| lab.stop(&Party::Global(replica)))
}

/// The first one makes the schema.
fn start_globals<B: Backend>(lab: &mut Lab<B>) -> Result<()> {
    [1, 2].into_iter().try_for_each(|replica| {
        lab.start_again(&Party::Global(replica))?;
        lab.await_ready(&Party::Global(replica))
    })
}
