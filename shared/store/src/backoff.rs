//! Waiting between tries.

use std::time::Duration;

use rand::Rng as _;

/// Doubles from a base to a cap, and takes between half and all of that.
#[derive(Debug)]
pub(crate) struct Backoff {
    base: Duration,
    cap: Duration,
    step: Duration,
}

impl Backoff {
    pub(crate) fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, step: base }
    }

    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.step.mul_f64(rand::rng().random_range(0.5..=1.0));
        self.step = (self.step * 2).min(self.cap);
        wait
    }

    pub(crate) fn reset(&mut self) {
        self.step = self.base;
    }
}
