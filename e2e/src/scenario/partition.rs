//! A zone that is cut off from the global.

use anyhow::{Result, ensure};
use std::time::{Duration, Instant};
use xtask::wait::{Look, until};

use crate::{
    backend::{Backend, Cut},
    lab::{BASE, Lab, PATIENCE},
    party::Party,
    resource,
};

const CHANGES: usize = 50;

/// Changes over a bad network, each of which takes its time: so many that two heartbeats fall into
/// it.
const SLOW_CHANGES: usize = 25;

fn changes(of: &str) -> Vec<String> {
    let names = (1..=CHANGES).map(|n| format!("{of}-{n}"));
    [BASE.to_owned()].into_iter().chain(names).collect()
}

/// A zone that was cut off during 50 changes, by a black hole, catches up to the last one after it
/// is back, with no answer but old or new meanwhile.
///
/// Guard: `shared/kds/src/client.rs`, `keep`: streams are opened again and again.
pub fn catches_up_after_a_black_hole<B: Backend>(lab: &mut Lab<B>) -> Result<()> {
    catches_up(lab, Cut::BlackHole, "hole")
}

/// The same where connections are reset and refused.
///
/// Guard: the same.
pub fn catches_up_after_resets<B: Backend>(lab: &mut Lab<B>) -> Result<()> {
    catches_up(lab, Cut::Reset, "reset")
}

fn catches_up<B: Backend>(lab: &mut Lab<B>, how: Cut, name: &str) -> Result<()> {
    let zones = lab.backend.zones();
    let changes = changes(name);
    let traffic = lab.traffic(&zones, &changes)?;
    lab.partition(&Party::zone("east"), &Party::Balancer, how)?;
    for change in &changes[1..] {
        lab.apply(&resource::route(change))?;
    }
    let last = &changes[CHANGES];
    lab.await_change_of("west", last)?;
    // East has not moved, and serves.
    lab.await_change_of("east", BASE)?;
    traffic.await_answers(20, PATIENCE)?;
    traffic.check()?;
    let start = Instant::now();
    lab.heal()?;
    lab.await_change(last)?;
    lab.figure(&format!("east caught up with {CHANGES} changes ({how:?})"), start.elapsed());
    lab.await_sync()?;
    traffic.await_answers(20, PATIENCE)?;
    traffic.finish().map(drop)
}

/// A partition of which only one side knows: nothing arrives at the zone, or nothing from it. The
/// zone finds a connection dead of which it hears no more; neither way disturbs requests, and the
/// zone is in sync after it.
///
/// Guard: `shared/kds/src/client.rs`, `heartbeat`, and the keep-alive of `dial.rs`.
pub fn one_way<B: Backend>(lab: &mut Lab<B>) -> Result<()> {
    let (zone, global) = (Party::zone("west"), Party::Balancer);
    let traffic =
        lab.traffic(&lab.backend.zones(), &[BASE.to_owned(), "one".to_owned(), "two".to_owned()])?;
    let before = ended_streams(lab, "west");
    lab.partition_one_way(&global, &zone, Cut::BlackHole)?;
    lab.apply(&resource::route("one"))?;
    lab.await_change_of("east", "one")?;
    lab.await_change_of("west", BASE)?;
    let start = Instant::now();
    until("the end of the zone's dead streams", PATIENCE, || {
        let ended = ended_streams(lab, "west") - before;
        Ok(if ended >= 2 { Look::Done(()) } else { Look::NotYet(format!("{ended} ended")) })
    })?;
    lab.figure("west found its connection dead", start.elapsed());
    lab.heal()?;
    lab.await_change("one")?;
    lab.partition_one_way(&zone, &global, Cut::BlackHole)?;
    lab.apply(&resource::route("two"))?;
    lab.await_change_of("east", "two")?;
    lab.heal()?;
    lab.await_change("two")?;
    lab.await_sync()?;
    traffic.finish().map(drop)
}

/// 250 ms each way and a tenth of everything lost between a zone and the global: changes arrive,
/// the connection holds.
///
/// Guard: the times in `shared/kds/src/client.rs` (`HEARTBEAT_TIMEOUT`) and `dial.rs`
/// (`CONNECT_TIMEOUT`, `PING_TIMEOUT`): long enough for a bad network.
pub fn a_bad_network<B: Backend>(lab: &mut Lab<B>) -> Result<()> {
    let (zone, global) = (Party::zone("east"), Party::Balancer);
    let names = (1..=SLOW_CHANGES).map(|n| format!("slow-{n}"));
    let changes: Vec<_> = [BASE.to_owned()].into_iter().chain(names).collect();
    let traffic = lab.traffic(&lab.backend.zones(), &changes)?;
    lab.delay(&zone, &global, Duration::from_millis(250))?;
    lab.loss(&zone, &global, 0.1)?;
    let before = ended_streams(lab, "east");
    let mut slowest = Duration::ZERO;
    for change in &changes[1..] {
        let start = Instant::now();
        lab.apply(&resource::route(change))?;
        lab.await_change(change)?;
        slowest = slowest.max(start.elapsed());
    }
    lab.figure("the slowest change over a bad network", slowest);
    let after = ended_streams(lab, "east");
    ensure!(before == after, "streams ended: {before} before, {after} after");
    lab.heal()?;
    lab.await_sync()?;
    traffic.finish().map(drop)
}

fn ended_streams<B: Backend>(lab: &Lab<B>, zone: &str) -> usize {
    lab.backend.log(&Party::zone(zone)).matches("stream to the global ended").count()
}
