//! Lengths of time as Go writes them.

use std::time::Duration;

use sunbear_proto::duration;

/// A length of time that a token is valid; the text goes to the control plane as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Period {
    pub(crate) text: String,
    pub(crate) length: Duration,
}

/// Reads a length of time, such as `24h` or `1h30m`.
pub(crate) fn parse(text: &str) -> Result<Period, String> {
    let nanos = duration::parse_nanos(text).and_then(|nanos| u64::try_from(nanos).ok());
    let nanos = nanos.ok_or("expected a length of time, such as 24h or 1h30m")?;
    Ok(Period { text: text.to_owned(), length: Duration::from_nanos(nanos) })
}

/// Reads how long to wait for answers: a length of time, or a number of seconds. Zero: for ever.
pub(crate) fn parse_timeout(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => parse(text).map(|period| period.length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods() {
        assert_eq!(parse("24h").unwrap().length, Duration::from_secs(86_400));
        assert_eq!(parse("1h30m").unwrap().length, Duration::from_secs(5_400));
        for wrong in ["", "1", "1d", "-1h", "h"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_timeout("5").unwrap(), Duration::from_secs(5));
        assert_eq!(parse_timeout("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(parse_timeout("0").unwrap(), Duration::ZERO);
        assert!(parse_timeout("soon").is_err());
    }
}
