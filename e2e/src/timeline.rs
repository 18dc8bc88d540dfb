//! What happened, in order: what a failing test shows first.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// A list of events, shared by all that have something to say.
#[derive(Debug, Clone)]
pub struct Timeline {
    start: Instant,
    events: Arc<Mutex<Vec<(Duration, String)>>>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { start: Instant::now(), events: Arc::default() }
    }
}

impl Timeline {
    /// Adds an event of now.
    pub fn note(&self, what: impl Into<String>) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that the order is that of the times.
        events.push((self.start.elapsed(), what.into()));
    }

    /// All events, a line each, with the seconds since the start.
    pub fn text(&self) -> String {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().fold(String::new(), |mut text, (at, what)| {
            let _ = writeln!(text, "{:>9.3}  {what}", at.as_secs_f64());
            text
        })
    }
}
