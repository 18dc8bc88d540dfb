//! RateLimit: a token bucket per route.

use prost_types::{Any, Duration};
use sunbear_proto::{
    envoy::{
        config::core::v3::{RuntimeFractionalPercent, header_value_option::HeaderAppendAction},
        extensions::filters::http::local_ratelimit::v3::LocalRateLimit,
        r#type::v3::{HttpStatus, StatusCode, TokenBucket},
    },
    kuma::mesh::v1alpha1::rate_limit::conf::Http,
};

use crate::{
    envoy::{fraction, header, is_positive, millis, pack, sane},
    format::check_header,
};

/// Tokens and interval of the same rate that Envoy takes: it does not fill more often than each 50
/// milliseconds.
fn bucket(requests: u32, interval: Duration) -> (u32, Duration) {
    let shortest = millis(50);
    let nanos = u32::try_from(interval.nanos).unwrap_or(0);
    if interval.seconds > 0 || interval.nanos >= shortest.nanos || nanos == 0 {
        return (requests, interval);
    }
    (requests.saturating_mul(50_000_000 / nanos), shortest)
}

/// The filter of a route; none if the bucket would never fill, which Envoy refuses.
pub(super) fn filter(conf: &Http) -> Option<Any> {
    if conf.requests == 0 || !conf.interval.as_ref().is_some_and(is_positive) {
        return None;
    }
    let (tokens, interval) = bucket(conf.requests, conf.interval.map(sane)?);
    let always = |key: &str| {
        Some(RuntimeFractionalPercent {
            default_value: Some(fraction(100.0)),
            runtime_key: key.to_owned(),
        })
    };
    let action = |append: Option<bool>| match append {
        Some(true) => HeaderAppendAction::AppendIfExistsOrAdd,
        Some(false) | None => HeaderAppendAction::OverwriteIfExistsOrAdd,
    };
    let limited = conf.on_rate_limit.as_ref();
    let code = limited
        .and_then(|l| l.status)
        .and_then(|s| i32::try_from(s).ok())
        .filter(|s| StatusCode::try_from(*s).is_ok_and(|code| code != StatusCode::Empty));
    Some(pack(&LocalRateLimit {
        stat_prefix: "rate_limit".to_owned(),
        status: code.map(|code| HttpStatus { code }),
        token_bucket: Some(TokenBucket {
            max_tokens: tokens,
            tokens_per_fill: Some(tokens),
            fill_interval: Some(interval),
        }),
        filter_enabled: always("local_rate_limit_enabled"),
        filter_enforced: always("local_rate_limit_enforced"),
        response_headers_to_add: limited
            .map_or(&[][..], |l| l.headers.as_slice())
            .iter()
            .filter(|h| check_header(&h.key, &h.value).is_ok())
            .map(|h| header(&h.key, &h.value, action(h.append)))
            .collect(),
        ..LocalRateLimit::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::bucket;
    use crate::envoy::{millis, seconds};

    #[test]
    fn short_intervals_keep_their_rate() {
        assert_eq!(bucket(3, millis(10)), (15, millis(50)));
        assert_eq!(bucket(3, millis(50)), (3, millis(50)));
        assert_eq!(bucket(3, seconds(1)), (3, seconds(1)));
        assert_eq!(bucket(u32::MAX, millis(1)), (u32::MAX, millis(50)));
    }
}
