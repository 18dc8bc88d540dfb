//! MeshRetry on a gateway (`spec/gateway-xds.md` 23.3).

use prost_types::Duration;
use serde_json::Value;
use sunbear_proto::envoy::config::route::v3::{
    HeaderMatcher, RetryPolicy, header_matcher::HeaderMatchSpecifier, retry_policy,
};

use super::{at, duration_at, number_at, target_ref::Selected};
use crate::{
    envoy::{exact, is_positive, millis, prefix, regex_string},
    issue::Issues,
    re2,
};

/// When to retry, unless a policy says so.
pub(crate) const RETRY_ON: &str = "gateway-error,connect-failure,refused-stream";

const STATUS_CODES: &str = "retriable-status-codes";

/// What the policies say about a port. Every forwarding route counts as HTTP, whatever its
/// destinations speak; a limit of connection attempts goes to all chains (D-14).
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Retries {
    /// For every forwarding route.
    pub(crate) http: Option<RetryPolicy>,
    /// For TCP proxies.
    pub(crate) attempts: Option<u32>,
}

impl Retries {
    pub(crate) fn of(policies: &Selected<'_>, issues: &mut Issues) -> Self {
        let Some(to) = policies.to() else { return Self::default() };
        let Some(conf) = to.mesh() else { return Self::default() };
        let http = at(conf, &["http"]);
        if http.is_some_and(|http| http.get("hostSelection").is_some()) {
            for policy in policies.resources() {
                if policy.as_json().is_some_and(|s| s.to_string().contains("\"hostSelection\"")) {
                    let reason = "hostSelection is not supported yet";
                    issues.left_out(&policy.key, "spec.to", reason);
                }
            }
        }
        Self {
            http: http.map(retry_policy),
            attempts: number_at(conf, &["tcp", "maxConnectAttempt"]).filter(|n| *n > 0),
        }
    }
}

fn retry_policy(conf: &Value) -> RetryPolicy {
    let mut policy = RetryPolicy {
        retry_on: RETRY_ON.to_owned(),
        num_retries: number_at(conf, &["numRetries"]),
        per_try_timeout: duration_at(conf, &["perTryTimeout"]),
        retry_back_off: at(conf, &["backOff"])
            .map(|b| back_off(duration_at(b, &["baseInterval"]), duration_at(b, &["maxInterval"]))),
        rate_limited_retry_back_off: at(conf, &["rateLimitedBackOff"]).and_then(rate_limited),
        retriable_headers: header_matchers(conf, "retriableResponseHeaders"),
        ..RetryPolicy::default()
    };
    if let Some(conditions) = conf.get("retryOn").and_then(Value::as_array) {
        let mut retry_on = Vec::new();
        for condition in conditions.iter().filter_map(Value::as_str) {
            if let Ok(code) = condition.parse() {
                policy.retriable_status_codes.push(code);
            } else if let Some(method) = condition.strip_prefix("HttpMethod") {
                policy.retriable_request_headers.push(method_matcher(method));
            } else if let Some(word) = retry_word(condition) {
                retry_on.push(word);
            }
        }
        if !policy.retriable_status_codes.is_empty() {
            retry_on.push(STATUS_CODES);
        }
        policy.retry_on = retry_on.join(",");
    }
    policy.retriable_request_headers.extend(header_matchers(conf, "retriableRequestHeaders"));
    policy
}

fn retry_word(condition: &str) -> Option<&'static str> {
    Some(match condition {
        "5xx" | "5XX" => "5xx",
        "GatewayError" => "gateway-error",
        "Reset" => "reset",
        "Retriable4xx" => "retriable-4xx",
        "ConnectFailure" => "connect-failure",
        "EnvoyRatelimited" => "envoy-ratelimited",
        "RefusedStream" => "refused-stream",
        "Http3PostConnectFailure" => "http3-post-connect-failure",
        _ => return None,
    })
}

/// Matches requests of a method.
pub(crate) fn method_matcher(method: &str) -> HeaderMatcher {
    HeaderMatcher {
        name: ":method".to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(exact(
            &method.to_ascii_uppercase(),
        ))),
        ..HeaderMatcher::default()
    }
}

/// A back-off that Envoy takes: with a base, and a maximum not below it.
pub(crate) fn back_off(
    base: Option<Duration>,
    maximum: Option<Duration>,
) -> retry_policy::RetryBackOff {
    let base = base.filter(is_positive).unwrap_or(millis(25));
    let maximum = maximum.filter(|m| (m.seconds, m.nanos) >= (base.seconds, base.nanos));
    retry_policy::RetryBackOff { base_interval: Some(base), max_interval: maximum }
}

fn rate_limited(conf: &Value) -> Option<retry_policy::RateLimitedRetryBackOff> {
    let headers = conf.get("resetHeaders").and_then(Value::as_array)?;
    let reset_headers: Vec<_> = headers
        .iter()
        .filter_map(|h| {
            let format = match h.get("format").and_then(Value::as_str) {
                Some("UnixTimestamp") => retry_policy::ResetHeaderFormat::UnixTimestamp,
                _ => retry_policy::ResetHeaderFormat::Seconds,
            };
            let clean = |n: &&str| !n.is_empty() && !n.contains(['\0', '\r', '\n']);
            let name = h.get("name").and_then(Value::as_str).filter(clean)?.to_owned();
            Some(retry_policy::ResetHeader { name, format: format.into() })
        })
        .collect();
    let max_interval = duration_at(conf, &["maxInterval"]).filter(is_positive);
    // Envoy refuses the message without headers.
    (!reset_headers.is_empty())
        .then_some(retry_policy::RateLimitedRetryBackOff { reset_headers, max_interval })
}

fn header_matchers(conf: &Value, list: &str) -> Vec<HeaderMatcher> {
    let matchers = conf.get(list).and_then(Value::as_array);
    matchers.into_iter().flatten().filter_map(header_matcher).collect()
}

fn header_matcher(matcher: &Value) -> Option<HeaderMatcher> {
    let clean = |text: &&str| !text.contains(['\0', '\r', '\n']);
    let name =
        matcher.get("name").and_then(Value::as_str).filter(clean).filter(|n| !n.is_empty())?;
    let value = matcher.get("value").and_then(Value::as_str).unwrap_or_default();
    let specifier = match matcher.get("type").and_then(Value::as_str).unwrap_or("Exact") {
        "Exact" => HeaderMatchSpecifier::StringMatch(exact(value)),
        "RegularExpression" if !value.is_empty() && re2::check(value).is_ok() => {
            HeaderMatchSpecifier::StringMatch(regex_string(value))
        }
        "Prefix" if !value.is_empty() => HeaderMatchSpecifier::StringMatch(prefix(value)),
        "Present" => HeaderMatchSpecifier::PresentMatch(true),
        "Absent" => HeaderMatchSpecifier::PresentMatch(false),
        _ => return None,
    };
    Some(HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(specifier),
        ..HeaderMatcher::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::retry_policy;

    #[test]
    fn conditions() {
        let policy = retry_policy(&json!({
            "retryOn": ["5xx", "GatewayError", "503", "HttpMethodGet"],
            "backOff": {"maxInterval": "1s"},
        }));
        assert_eq!(policy.retry_on, "5xx,gateway-error,retriable-status-codes");
        assert_eq!(policy.retriable_status_codes, [503]);
        assert_eq!(policy.retriable_request_headers.len(), 1);
        let back_off = policy.retry_back_off.unwrap();
        assert_eq!(back_off.base_interval.unwrap().nanos, 25_000_000);
        assert_eq!(back_off.max_interval.unwrap().seconds, 1);
    }
}
