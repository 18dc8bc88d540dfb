//! Waiting for a condition with a deadline.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::interrupt;

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(10);

/// What one look gave.
#[derive(Debug)]
pub enum Look<T> {
    /// The condition holds.
    Done(T),
    /// Not yet, and why.
    NotYet(String),
}

/// Looks until the condition holds, an error says that it never will, the patience ends, or
/// somebody asks to stop.
pub fn until<T>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> Result<Look<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if interrupt::requested() {
            bail!("interrupted");
        }
        match look()? {
            Look::Done(value) => return Ok(value),
            Look::NotYet(reason) if start.elapsed() > patience => {
                bail!("{what}: not within {} s: {reason}", patience.as_secs_f32());
            }
            Look::NotYet(_) => thread::sleep(PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_with_the_value_the_error_or_the_last_reason() {
        let mut looks = 0;
        let value = until("three looks", Duration::from_secs(60), || {
            looks += 1;
            Ok(if looks == 3 { Look::Done(looks) } else { Look::NotYet("early".to_owned()) })
        });
        assert_eq!(value.unwrap(), 3);

        let hopeless: Result<()> = until("x", Duration::from_secs(60), || bail!("it died"));
        assert_eq!(hopeless.unwrap_err().to_string(), "it died");

        let late: Result<()> =
            until("the moon", Duration::ZERO, || Ok(Look::NotYet("it is day".to_owned())));
        assert_eq!(late.unwrap_err().to_string(), "the moon: not within 0 s: it is day");
    }
}
