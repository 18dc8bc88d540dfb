//! Constant requests to gateways whose answers are judged.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Result, bail};
use xtask::{
    http::{self, Answer, Request},
    wait::{Look, until},
};

use crate::timeline::Timeline;

/// Between two requests of one stream.
const PAUSE: Duration = Duration::from_millis(5);

/// Failures of a stream that the timeline names; the rest is counted.
const NAMED: u64 = 5;

/// Says what is wrong with an answer.
pub type Judge = Box<dyn FnMut(&Answer) -> Result<(), String> + Send>;

/// One stream of requests.
pub struct Stream {
    /// What to call it: `east /api`.
    pub name: String,
    /// The zone.
    pub zone: String,
    /// The service that answers.
    pub service: String,
    /// The gateway, as clients reach it.
    pub address: SocketAddr,
    /// What to ask.
    pub request: Request,
    /// What answers are good.
    pub judge: Judge,
}

/// Streams that run until dropped or [finished](Traffic::finish).
#[derive(Debug)]
pub struct Traffic {
    stop: Arc<AtomicBool>,
    streams: Vec<(Name, Arc<Counts>)>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Name {
    name: String,
    zone: String,
    service: String,
}

#[derive(Debug, Default)]
struct Counts {
    good: AtomicU64,
    forgiven: AtomicU64,
    /// Odd while failures are expected.
    excuses: AtomicU64,
    bad: Mutex<BTreeMap<String, u64>>,
}

impl Traffic {
    /// Starts a thread for each stream.
    pub fn start(timeline: &Timeline, streams: Vec<Stream>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut traffic =
            Self { stop: Arc::clone(&stop), streams: Vec::new(), threads: Vec::new() };
        for mut stream in streams {
            let counts = Arc::new(Counts::default());
            let name = Name {
                name: stream.name.clone(),
                zone: stream.zone.clone(),
                service: stream.service.clone(),
            };
            traffic.streams.push((name, Arc::clone(&counts)));
            let (stop, timeline) = (Arc::clone(&stop), timeline.clone());
            traffic.threads.push(thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    one_request(&mut stream, &counts, &timeline);
                    thread::sleep(PAUSE);
                }
            }));
        }
        traffic
    }

    /// From now on requests to a zone, or only to one service of it, may fail.
    pub fn excuse(&self, zone: &str, service: Option<&str>) {
        self.set_excused(zone, service, true);
    }

    /// From now on they may not, if they are sent from now on.
    pub fn expect(&self, zone: &str, service: Option<&str>) {
        self.set_excused(zone, service, false);
    }

    fn set_excused(&self, zone: &str, service: Option<&str>, excused: bool) {
        for (name, counts) in &self.streams {
            let meant = name.zone == zone && service.is_none_or(|s| s == name.service);
            let is = counts.excuses.load(Ordering::SeqCst) % 2 == 1;
            if meant && is != excused {
                counts.excuses.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    /// Waits until every stream that may not fail got this many further answers, good or bad.
    pub fn await_answers(&self, more: u64, patience: Duration) -> Result<()> {
        let goals: Vec<_> = self
            .streams
            .iter()
            .filter(|(_, counts)| counts.excuses.load(Ordering::SeqCst) % 2 == 0)
            .map(|(name, counts)| (name, counts, counts.total() + more))
            .collect();
        for (name, counts, goal) in goals {
            until(&format!("{more} answers to {}", name.name), patience, || {
                let total = counts.total();
                Ok(if total >= goal { Look::Done(()) } else { Look::NotYet(total.to_string()) })
            })?;
        }
        Ok(())
    }

    /// An error that lists the bad answers so far, if there are any.
    pub fn check(&self) -> Result<()> {
        let mut complaints = Vec::new();
        for (name, counts) in &self.streams {
            let bad = counts.bad.lock().unwrap_or_else(PoisonError::into_inner);
            complaints
                .extend(bad.iter().map(|(what, times)| format!("{}: {times} x {what}", name.name)));
        }
        if !complaints.is_empty() {
            bail!("requests failed: {}", complaints.join("; "));
        }
        Ok(())
    }

    /// Ends the streams. The number of good answers, or an error that lists the bad ones.
    pub fn finish(mut self) -> Result<u64> {
        self.end();
        self.check()?;
        Ok(self.streams.iter().map(|(_, c)| c.good.load(Ordering::Relaxed)).sum())
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.end();
    }
}

impl Counts {
    fn total(&self) -> u64 {
        let bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        self.good.load(Ordering::Relaxed)
            + self.forgiven.load(Ordering::Relaxed)
            + bad.values().sum::<u64>()
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("name", &self.name).finish_non_exhaustive()
    }
}

fn one_request(stream: &mut Stream, counts: &Counts, timeline: &Timeline) {
    let before = counts.excuses.load(Ordering::SeqCst);
    let outcome = match http::send(stream.address, &stream.request) {
        Ok(answer) => (stream.judge)(&answer),
        Err(error) => Err(format!("{error:#}")),
    };
    let after = counts.excuses.load(Ordering::SeqCst);
    let Err(complaint) = outcome else {
        counts.good.fetch_add(1, Ordering::Relaxed);
        return;
    };
    // A request counts as expected to succeed if it was, from its beginning to its end.
    if before != after || before % 2 == 1 {
        counts.forgiven.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let mut bad = counts.bad.lock().unwrap_or_else(PoisonError::into_inner);
    let named: u64 = bad.values().sum();
    if named < NAMED {
        timeline.note(format!("FAILED request {}: {complaint}", stream.name));
    }
    *bad.entry(complaint).or_default() += 1;
}
