//! Durations as people write them: Go's syntax (`1h30m`, `500ms`), `spec/resources.md` 1.2.

use prost_types::Duration;

/// Parses Go duration text: a signed sequence of decimal numbers with units, or a bare `0`.
/// Precision below a nanosecond is cut off.
pub fn parse(text: &str) -> Option<Duration> {
    let nanos = parse_nanos(text)?;
    Some(from_nanos(nanos))
}

/// As [`parse`], in nanoseconds.
pub fn parse_nanos(text: &str) -> Option<i128> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let whole: i128 = if digits == 0 { 0 } else { rest[..digits].parse().ok()? };
        rest = &rest[digits..];
        let (mut fraction, mut scale, mut fraction_digits) = (0i128, 1i128, 0usize);
        if let Some(after) = rest.strip_prefix('.') {
            fraction_digits = after.bytes().take_while(u8::is_ascii_digit).count();
            for digit in after.bytes().take(fraction_digits.min(18)) {
                fraction = fraction * 10 + i128::from(digit - b'0');
                scale *= 10;
            }
            rest = &after[fraction_digits..];
        }
        if digits == 0 && fraction_digits == 0 {
            return None;
        }
        let unit_len = rest.bytes().take_while(|b| *b != b'.' && !b.is_ascii_digit()).count();
        let unit: i128 = match &rest[..unit_len] {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        rest = &rest[unit_len..];
        total = total
            .checked_add(whole.checked_mul(unit)?)?
            .checked_add(fraction.checked_mul(unit)? / scale)?;
        // Go's durations are 64 bits of nanoseconds.
        if total > i128::from(i64::MAX) {
            return None;
        }
    }
    Some(if negative { -total } else { total })
}

/// The message for a count of nanoseconds.
pub fn from_nanos(nanos: i128) -> Duration {
    let seconds = nanos / 1_000_000_000;
    Duration {
        seconds: i64::try_from(seconds).unwrap_or(if seconds < 0 { i64::MIN } else { i64::MAX }),
        nanos: i32::try_from(nanos % 1_000_000_000).unwrap_or(0),
    }
}

/// A duration message in nanoseconds.
pub fn to_nanos(duration: &Duration) -> i128 {
    i128::from(duration.seconds) * 1_000_000_000 + i128::from(duration.nanos)
}

#[cfg(test)]
mod tests {
    use super::parse_nanos;

    #[test]
    fn go_syntax() {
        for (text, want) in [
            ("0", Some(0)),
            ("5s", Some(5_000_000_000)),
            ("1h30m", Some(5_400_000_000_000)),
            ("-1.5h", Some(-5_400_000_000_000)),
            ("100ms", Some(100_000_000)),
            ("1.5us", Some(1_500)),
            (".5s", Some(500_000_000)),
            ("1.s", Some(1_000_000_000)),
            ("", None),
            ("-", None),
            ("5", None),
            (".s", None),
            ("s", None),
            ("1d", None),
            ("9999999999h", None),
        ] {
            assert_eq!(parse_nanos(text), want, "{text}");
        }
    }
}
