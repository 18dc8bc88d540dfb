//! Durations as Go writes and reads them (`1h30m`, `500ms`, `72h0m0s`), because that is what Kuma's
//! configuration files hold.

use std::time::Duration;

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Nothing, or only a sign.
    #[error("is empty")]
    Empty,
    /// A number without one of Go's units behind it.
    #[error("needs a unit (ns, us, ms, s, m, h) after {0:?}")]
    MissingUnit(String),
    /// A unit that Go does not know.
    #[error("has the unknown unit {0:?}, known are ns, us, ms, s, m, h")]
    UnknownUnit(String),
    /// Not a number where one is expected.
    #[error("has no number before {0:?}")]
    MissingNumber(String),
    /// Configuration has no use for a negative time.
    #[error("must not be negative")]
    Negative,
    /// More than a `Duration` of nanoseconds in 64 bits, Go's own limit.
    #[error("is too long")]
    TooLong,
}

/// Parses a Go duration; a bare `0` needs no unit.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    if unsigned == "0" || unsigned == "-0" {
        return Ok(Duration::ZERO);
    }
    if let Some(rest) = unsigned.strip_prefix('-') {
        // Report a malformed text as malformed, not as negative.
        return parse(rest).and_then(|value| {
            if value.is_zero() { Ok(value) } else { Err(DurationError::Negative) }
        });
    }
    if unsigned.is_empty() {
        return Err(DurationError::Empty);
    }
    let mut total: u128 = 0;
    let mut rest = unsigned;
    while !rest.is_empty() {
        let (nanos, tail) = component(rest)?;
        total = total.checked_add(nanos).ok_or(DurationError::TooLong)?;
        rest = tail;
    }
    // Go holds a duration in a signed 64-bit count of nanoseconds.
    let nanos = i64::try_from(total).map_err(|_| DurationError::TooLong)?;
    Ok(Duration::from_nanos(nanos.unsigned_abs()))
}

/// Reads one number with its unit and returns its nanoseconds and what follows.
fn component(text: &str) -> Result<(u128, &str), DurationError> {
    let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(number_end);
    let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
    let (unit, tail) = rest.split_at(unit_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(DurationError::MissingNumber(text.to_owned()));
    }
    let scale: u128 = match unit {
        "ns" => 1,
        // Both code points that keyboards offer for micro, as Go accepts them.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "" => return Err(DurationError::MissingUnit(number.to_owned())),
        other => return Err(DurationError::UnknownUnit(other.to_owned())),
    };
    let whole: u128 =
        if whole.is_empty() { 0 } else { whole.parse().map_err(|_| DurationError::TooLong)? };
    let mut nanos = whole.checked_mul(scale).ok_or(DurationError::TooLong)?;
    let mut place = scale;
    for digit in fraction.bytes() {
        place /= 10;
        nanos += u128::from(digit - b'0') * place;
    }
    Ok((nanos, tail))
}

/// Writes a duration as Go's `Duration.String` does: `1h0m0s`, `1.5s`, `200ms`, `0s`.
pub fn format(value: Duration) -> String {
    let nanos = value.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < 1_000 {
        return format!("{nanos}ns");
    }
    if nanos < 1_000_000 {
        return format!("{}\u{b5}s", decimal(nanos, 1_000));
    }
    if nanos < 1_000_000_000 {
        return format!("{}ms", decimal(nanos, 1_000_000));
    }
    let minute = 60_000_000_000;
    let seconds = format!("{}s", decimal(nanos % minute, 1_000_000_000));
    let minutes = nanos / minute;
    match (minutes / 60, minutes % 60) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

/// `nanos / unit` as a decimal number without trailing zeros.
fn decimal(nanos: u128, unit: u128) -> String {
    let (whole, fraction) = (nanos / unit, nanos % unit);
    if fraction == 0 {
        return whole.to_string();
    }
    let width = unit.ilog10() as usize;
    let digits = format!("{fraction:0width$}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, millis: u64, canonical: &str) {
        let value = parse(text).unwrap();
        assert_eq!(value, Duration::from_millis(millis), "{text}");
        assert_eq!(format(value), canonical, "{text}");
        assert_eq!(parse(canonical).unwrap(), value, "{canonical}");
    }

    #[test]
    fn go_durations() {
        check("1h30m", 5_400_000, "1h30m0s");
        check("72h0m0s", 259_200_000, "72h0m0s");
        check("500ms", 500, "500ms");
        check("5m", 300_000, "5m0s");
        check("1.5h", 5_400_000, "1h30m0s");
        check("1.5s", 1_500, "1.5s");
        check(".5s", 500, "500ms");
        check("0", 0, "0s");
        check("0s", 0, "0s");
        check("-0s", 0, "0s");
        check("+10s", 10_000, "10s");
        check("250000us", 250, "250ms");
        check("250000\u{b5}s", 250, "250ms");
        assert_eq!(format(Duration::from_nanos(1_500)), "1.5\u{b5}s");
        assert_eq!(format(Duration::from_nanos(15)), "15ns");
    }

    #[test]
    fn malformed() {
        let cases = [
            ("", "is empty"),
            ("10", "needs a unit (ns, us, ms, s, m, h) after \"10\""),
            ("10d", "has the unknown unit \"d\", known are ns, us, ms, s, m, h"),
            ("s", "has no number before \"s\""),
            ("1.2.3s", "has no number before \"1.2.3s\""),
            ("-5s", "must not be negative"),
            ("9999999999h", "is too long"),
            ("99999999999999999999999999999999999999999h", "is too long"),
        ];
        for (text, message) in cases {
            assert_eq!(parse(text).unwrap_err().to_string(), message, "{text}");
        }
    }
}
