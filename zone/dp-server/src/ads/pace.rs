//! One response at a time per type, the pause after a rejection, and when to try again.

use std::time::{Duration, Instant};

/// A response that was not answered for this long holds nothing back any more: neither what
/// depends on it nor one newer response of its own type.
pub(super) const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// Longest time that removals of clusters wait for a stream of other changes to end.
pub(super) const REMOVAL_PATIENCE: Duration = Duration::from_secs(5);

/// Longest pause before what was refused is tried again, in pauses after a rejection.
const LONGEST_RETRY: u32 = 12;

/// The response on its way.
#[derive(Debug, Clone)]
pub(super) struct Outstanding<T> {
    /// Its nonce.
    pub(super) nonce: u64,
    /// When it was handed out.
    pub(super) sent_at: Instant,
    /// Its type version.
    pub(super) version: String,
    /// What was in it.
    pub(super) content: T,
}

/// Pace of one type.
#[derive(Debug, Clone)]
pub(super) struct Pace<T> {
    /// The response whose answer is awaited.
    pub(super) outstanding: Option<Outstanding<T>>,
    /// The one before, if it was not answered in time. There is no third.
    pub(super) overtaken: Option<Outstanding<T>>,
    /// End of the pause.
    pub(super) resting_until: Option<Instant>,
}

impl<T> Default for Pace<T> {
    fn default() -> Self {
        Self { outstanding: None, overtaken: None, resting_until: None }
    }
}

impl<T> Pace<T> {
    pub(super) fn busy(&self, now: Instant) -> bool {
        self.outstanding.as_ref().is_some_and(|o| now < o.sent_at + ANSWER_PATIENCE)
    }

    pub(super) fn resting(&self, now: Instant) -> bool {
        self.resting_until.is_some_and(|until| now < until)
    }

    /// Two responses are on their way.
    pub(super) fn full(&self) -> bool {
        self.overtaken.is_some()
    }

    /// A response goes out.
    pub(super) fn sent(&mut self, outstanding: Outstanding<T>) {
        self.overtaken = self.outstanding.replace(outstanding);
    }

    /// Takes the outstanding response if `nonce` answers it. Answers come in order, so an earlier
    /// one is no longer awaited.
    pub(super) fn answered(&mut self, nonce: &str) -> Option<Outstanding<T>> {
        let nonce: u64 = nonce.parse().ok()?;
        let answered = self.outstanding.take_if(|o| o.nonce == nonce)?;
        self.overtaken = None;
        Some(answered)
    }

    /// Takes the overtaken response if `nonce` answers it after all.
    pub(super) fn answered_late(&mut self, nonce: &str) -> Option<Outstanding<T>> {
        let nonce: u64 = nonce.parse().ok()?;
        self.overtaken.take_if(|o| o.nonce == nonce)
    }

    /// Times at which this type's state changes by itself.
    pub(super) fn deadlines(&self) -> impl Iterator<Item = Instant> {
        self.outstanding
            .as_ref()
            .map(|o| o.sent_at + ANSWER_PATIENCE)
            .into_iter()
            .chain(self.resting_until)
    }
}

/// When to try again what a client refused. The reason may be gone without a change here, such as a
/// port that was taken. Each try waits twice as long as the one before.
#[derive(Debug, Clone, Default)]
pub(super) struct Retry {
    at: Option<Instant>,
    pause: Option<Duration>,
}

impl Retry {
    /// Something was refused. `backoff` is the pause after a rejection.
    pub(super) fn refused(&mut self, now: Instant, backoff: Duration) {
        if self.at.is_none() {
            let pause = (self.pause.unwrap_or(backoff) * 2).min(backoff * LONGEST_RETRY);
            self.pause = Some(pause);
            self.at = Some(now + pause);
        }
    }

    /// Is it time?
    pub(super) fn due(&self, now: Instant) -> bool {
        self.at.is_some_and(|at| at <= now)
    }

    /// Is it time? If so, the next rejection sets the next time.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        self.at.take_if(|at| *at <= now).is_some()
    }

    /// When it is time.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.at
    }
}
