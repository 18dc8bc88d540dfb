//! FaultInjection: faults of the requests of a route. Kuma matches these policies on gateways and
//! does nothing with them (deviation D-15).

use prost_types::Any;
use sunbear_proto::{
    envoy::extensions::filters::{
        common::fault::v3::{
            FaultDelay, FaultRateLimit,
            fault_delay::FaultDelaySecifier,
            fault_rate_limit::{FixedLimit, LimitType},
        },
        http::fault::v3::{FaultAbort, HttpFault, fault_abort::ErrorType},
    },
    kuma::mesh::v1alpha1::fault_injection::Conf,
};

use crate::envoy::{fraction, is_positive, pack, sane};

/// Name of the filter, in the connection manager and on routes.
pub(crate) const FILTER: &str = "envoy.filters.http.fault";

/// The filter of a route; none if there is nothing in it that Envoy would take.
pub(super) fn filter(conf: &Conf) -> Option<Any> {
    let percentage = |p: Option<f64>| Some(fraction(p.unwrap_or_default().clamp(0.0, 100.0)));
    let delay = conf.delay.as_ref().and_then(|delay| {
        let fixed = delay.value.map(sane).filter(is_positive)?;
        Some(FaultDelay {
            percentage: percentage(delay.percentage),
            fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(fixed)),
        })
    });
    let abort = conf.abort.as_ref().and_then(|abort| {
        let status = abort.http_status.filter(|s| (200..600).contains(s))?;
        Some(FaultAbort {
            percentage: percentage(abort.percentage),
            error_type: Some(ErrorType::HttpStatus(status)),
            ..FaultAbort::default()
        })
    });
    let response_rate_limit = conf.response_bandwidth.as_ref().and_then(|bandwidth| {
        let limit_kbps = kbps(bandwidth.limit.as_deref()?)?;
        Some(FaultRateLimit {
            percentage: percentage(bandwidth.percentage),
            limit_type: Some(LimitType::FixedLimit(FixedLimit { limit_kbps })),
        })
    });
    let fault = HttpFault { delay, abort, response_rate_limit, ..HttpFault::default() };
    (fault != HttpFault::default()).then(|| pack(&fault))
}

/// A bandwidth such as `50 Mbps` in kilobits per second, above zero.
fn kbps(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim_start().to_ascii_lowercase().as_str() {
        "kbps" => 1,
        "mbps" => 1000,
        "gbps" => 1_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor).filter(|n| *n > 0)
}

#[cfg(test)]
mod tests {
    use super::kbps;

    #[test]
    fn bandwidths() {
        for (text, want) in [
            ("50kbps", Some(50)),
            ("3 Mbps", Some(3000)),
            (" 2 gbps ", Some(2_000_000)),
            ("0 kbps", None),
            ("kbps", None),
            ("1.5 Mbps", None),
            ("10 bps", None),
            ("99999999999999999999 kbps", None),
            ("9999999999999999 gbps", None),
        ] {
            assert_eq!(kbps(text), want, "{text}");
        }
    }
}
