//! What to do when: the supervisor's decisions, without processes, clocks or files.
//!
//! At most two Envoys are wanted at a time: a *live* one that talks to the control plane, and a
//! *sealed* one that stands in with the last good configuration. The rules:
//! - A live one that serves is never stopped, whatever the control plane does.
//! - Nothing serves and the control plane cannot be reached, or does not deliver within the
//!   patience: the sealed one starts, at once.
//! - While no live one serves, the control plane is asked again and again; its bootstrap starts a
//!   live one *beside* the sealed one, which retires when the live one serves.

use std::time::Duration;

/// First pause before an Envoy that ended is started again.
const RESTART_FIRST: Duration = Duration::from_millis(200);
/// Longest such pause.
const RESTART_CAP: Duration = Duration::from_secs(5);
/// Pause after a refusal, while something serves.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);
/// How often the bootstrap is asked for anew while a live Envoy gets no configuration.
const RECHECK: Duration = Duration::from_secs(30);

/// One started Envoy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id(pub(crate) u64);

/// What an Envoy is started from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The bootstrap that the control plane just gave.
    Live,
    /// The last bootstrap that the control plane gave, without having asked again.
    Received,
    /// The sealed configuration.
    Sealed,
    /// The sealed configuration before that.
    SealedPrevious,
}

impl Source {
    /// Whether an Envoy from this source talks to the control plane.
    pub(crate) fn is_live(self) -> bool {
        match self {
            Source::Live | Source::Received => true,
            Source::Sealed | Source::SealedPrevious => false,
        }
    }
}

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The process begins.
    Begin,
    /// The control plane gave a bootstrap; `changed` if not the one that the last live Envoy has.
    Document {
        /// Differs from the last one started.
        changed: bool,
    },
    /// No answer, or an unknown proxy.
    Unreachable,
    /// The control plane does not want this proxy.
    Refused,
    /// An Envoy serves.
    Serving(Id),
    /// An Envoy ended.
    Ended(Id),
    /// An Envoy was killed by somebody, which says nothing of its configuration.
    Killed(Id),
    /// The time that was asked for with [`Action::Arm`] is over.
    PatienceOver,
}

/// What is at hand when something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct AtHand {
    /// A sealed configuration.
    pub(crate) sealed: bool,
    /// A bootstrap that was received earlier.
    pub(crate) received: bool,
    /// Time since the begin.
    pub(crate) elapsed: Duration,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Ask the control plane after this pause, instead of any earlier plan to.
    Fetch(Duration),
    /// Do not ask any more.
    StopFetching,
    /// Start an Envoy.
    Start(Id, Source),
    /// Drain an Envoy and stop it.
    Retire(Id),
    /// Stop an Envoy that serves nothing.
    Stop(Id),
    /// Say [`Event::PatienceOver`] after this time, instead of any earlier one.
    Arm(Duration),
    /// End: the control plane did not answer for too long.
    GiveUp,
    /// End: the control plane does not want this proxy.
    GiveIn,
}

/// Times that the user sets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// Pause between tries.
    pub(crate) retry_backoff: Duration,
    /// How long to try when there is nothing else.
    pub(crate) retry_max_duration: Duration,
    /// How long the control plane may take before the sealed configuration is used.
    pub(crate) patience: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Envoy {
    id: Id,
    source: Source,
    serving: bool,
}

/// The state of the decisions.
#[derive(Debug)]
pub(crate) struct Plan {
    times: Times,
    next: u64,
    live: Option<Envoy>,
    sealed: Option<Envoy>,
    ever_started: bool,
    live_restarts: u32,
    sealed_restarts: u32,
    /// The sealed configuration did not come up; try the other generation next.
    try_previous: bool,
}

impl Plan {
    /// Nothing runs yet.
    pub(crate) fn new(times: Times) -> Plan {
        Plan {
            times,
            next: 1,
            live: None,
            sealed: None,
            ever_started: false,
            live_restarts: 0,
            sealed_restarts: 0,
            try_previous: false,
        }
    }

    /// Decides what to do about an event.
    pub(crate) fn on(&mut self, event: &Event, at_hand: AtHand) -> Vec<Action> {
        match event {
            Event::Begin => vec![Action::Fetch(Duration::ZERO), Action::Arm(self.times.patience)],
            Event::Document { changed } => self.on_document(*changed),
            Event::Unreachable => self.on_no_document(at_hand, self.times.retry_backoff),
            Event::Refused if !self.ever_started => vec![Action::GiveIn],
            Event::Refused => {
                self.on_no_document(at_hand, self.times.retry_backoff.max(REFUSED_PAUSE))
            }
            Event::Serving(id) => self.on_serving(*id),
            Event::Ended(id) => self.on_ended(*id, at_hand, true),
            Event::Killed(id) => self.on_ended(*id, at_hand, false),
            Event::PatienceOver => self.stand_in(at_hand),
        }
    }

    fn on_document(&mut self, changed: bool) -> Vec<Action> {
        match self.live {
            Some(live) if live.serving => Vec::new(),
            // Its own connection attempts go on.
            Some(_) if !changed => vec![Action::Fetch(RECHECK)],
            Some(live) => {
                let start = self.start_live(Source::Live);
                vec![Action::Stop(live.id), start, Action::Fetch(RECHECK)]
            }
            None => vec![self.start_live(Source::Live), Action::Fetch(RECHECK)],
        }
    }

    fn on_no_document(&mut self, at_hand: AtHand, pause: Duration) -> Vec<Action> {
        if self.live.is_some_and(|live| live.serving) {
            return Vec::new();
        }
        let mut actions = self.stand_in(at_hand);
        if self.live.is_none() && self.sealed.is_none() {
            if at_hand.received {
                // It knows where to ask, and asks as long as it takes.
                actions.push(self.start_live(Source::Received));
            } else if !self.ever_started && at_hand.elapsed >= self.times.retry_max_duration {
                return vec![Action::GiveUp];
            }
        }
        actions.push(Action::Fetch(pause));
        actions
    }

    fn on_serving(&mut self, id: Id) -> Vec<Action> {
        if let Some(live) = self.live.as_mut().filter(|live| live.id == id) {
            live.serving = true;
            self.live_restarts = 0;
            let mut actions = vec![Action::StopFetching];
            actions.extend(self.sealed.take().map(|sealed| Action::Retire(sealed.id)));
            return actions;
        }
        if let Some(sealed) = self.sealed.as_mut().filter(|sealed| sealed.id == id) {
            sealed.serving = true;
            self.sealed_restarts = 0;
        }
        Vec::new()
    }

    fn on_ended(&mut self, id: Id, at_hand: AtHand, by_itself: bool) -> Vec<Action> {
        if let Some(live) = self.live.take_if(|live| live.id == id) {
            let mut actions = vec![Action::Fetch(backoff(self.live_restarts))];
            self.live_restarts += 1;
            if live.serving {
                actions.push(Action::Arm(self.times.patience));
            } else {
                // What the control plane gives does not start; no use to wait for more of it.
                actions.extend(self.stand_in(at_hand));
            }
            return actions;
        }
        if let Some(sealed) = self.sealed.take_if(|sealed| sealed.id == id) {
            if by_itself && !sealed.serving {
                self.try_previous = sealed.source == Source::Sealed;
            }
            let pause = backoff(self.sealed_restarts);
            self.sealed_restarts += 1;
            return vec![Action::Arm(pause)];
        }
        Vec::new()
    }

    /// Starts the sealed configuration if nothing serves and there is one.
    fn stand_in(&mut self, at_hand: AtHand) -> Vec<Action> {
        if self.live.is_some_and(|live| live.serving) || self.sealed.is_some() || !at_hand.sealed {
            return Vec::new();
        }
        let source = if self.try_previous { Source::SealedPrevious } else { Source::Sealed };
        let envoy = self.next_envoy(source);
        self.sealed = Some(envoy);
        vec![Action::Start(envoy.id, source)]
    }

    fn start_live(&mut self, source: Source) -> Action {
        let envoy = self.next_envoy(source);
        self.live = Some(envoy);
        Action::Start(envoy.id, source)
    }

    fn next_envoy(&mut self, source: Source) -> Envoy {
        let id = Id(self.next);
        self.next += 1;
        self.ever_started = true;
        Envoy { id, source, serving: false }
    }
}

fn backoff(restarts: u32) -> Duration {
    RESTART_FIRST.saturating_mul(1 << restarts.min(10)).min(RESTART_CAP)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
