//! The tag-selected policies that are stored and synced (`spec/resources.md` 11).

use std::collections::BTreeMap;

use prost::Message;
use prost_types::Duration;
use sunbear_proto::kuma::mesh::v1alpha1::{
    CircuitBreaker, FaultInjection, HealthCheck, HttpMethod, HttpRetryOn, RateLimit, Retry,
    Timeout, TrafficLog, TrafficPermission, TrafficTrace, circuit_breaker, fault_injection,
    health_check, rate_limit, retry, timeout,
};

use super::{
    Path, Violations, proxy_template, quoted,
    tags::{self, ONLY_SERVICE, SERVICE_SELECTOR, TagRules},
    traffic_route, values, virtual_outbound,
};
use crate::{kind::Kind, label, resource::Spec, tags::Tags};

/// Selectors that need no service.
pub(super) const LOOSE: TagRules = TagRules { require_service: false, ..SERVICE_SELECTOR };

/// Checks a policy; types without rules pass.
pub(super) fn validate(kind: Kind, spec: &Spec, profiles: &[&str], violations: &mut Violations) {
    let wire = spec.wire();
    let result = match kind.name() {
        "CircuitBreaker" => with(wire, violations, circuit_breaker),
        "FaultInjection" => with(wire, violations, fault_injection),
        "HealthCheck" => with(wire, violations, health_check),
        "RateLimit" => with(wire, violations, rate_limit),
        "Retry" => with(wire, violations, retry),
        "Timeout" => with(wire, violations, timeout),
        "TrafficLog" => with(wire, violations, |log: &TrafficLog, v| {
            connection(&log.sources, SERVICE_SELECTOR, &log.destinations, ONLY_SERVICE, v);
        }),
        "TrafficPermission" => with(wire, violations, |permission: &TrafficPermission, v| {
            connection(&permission.sources, LOOSE, &permission.destinations, LOOSE, v);
        }),
        "ProxyTemplate" => with(wire, violations, |template, v| {
            proxy_template::validate(template, profiles, v);
        }),
        "TrafficRoute" => with(wire, violations, |route, v| {
            traffic_route::validate(route, spec, v);
        }),
        "VirtualOutbound" => with(wire, violations, virtual_outbound::validate),
        "TrafficTrace" => with(wire, violations, |trace: &TrafficTrace, v| {
            tags::check_selectors(&Path::at("selectors"), &trace.selectors, LOOSE, v);
        }),
        _ => Ok(()),
    };
    if let Err(error) = result {
        violations.push("", format!("the spec does not decode: {error}"));
    }
}

fn with<M: Message + Default>(
    wire: &[u8],
    violations: &mut Violations,
    check: impl FnOnce(&M, &mut Violations),
) -> Result<(), prost::DecodeError> {
    check(&M::decode(wire)?, violations);
    Ok(())
}

type Selectors = [sunbear_proto::kuma::mesh::v1alpha1::Selector];

pub(super) fn connection(
    sources: &Selectors,
    source_rules: TagRules,
    destinations: &Selectors,
    destination_rules: TagRules,
    violations: &mut Violations,
) {
    tags::check_selectors(&Path::at("sources"), sources, source_rules, violations);
    tags::check_selectors(&Path::at("destinations"), destinations, destination_rules, violations);
}

fn is_zero(duration: &Duration) -> bool {
    duration.seconds == 0 && duration.nanos == 0
}

/// A duration that, if given, is not zero.
fn not_zero(path: Path, duration: Option<&Duration>, message: &str, violations: &mut Violations) {
    if duration.is_some_and(is_zero) {
        violations.push(path, message);
    }
}

const WHEN_DEFINED: &str = "has to be greater than 0 when defined";

fn circuit_breaker(policy: &CircuitBreaker, violations: &mut Violations) {
    connection(&policy.sources, SERVICE_SELECTOR, &policy.destinations, ONLY_SERVICE, violations);
    let path = Path::at("conf");
    let conf = policy.conf.unwrap_or_default();
    let no_detector = conf.detectors.as_ref().is_none_or(|d| *d == Default::default());
    let no_threshold =
        conf.thresholds.as_ref().is_none_or(|t| *t == circuit_breaker::conf::Thresholds::default());
    if no_detector && no_threshold {
        violations.push(path, "must have at least one of the detector or threshold configured");
        return;
    }
    let range = "has to be in [0.0 - 100.0] range";
    let detectors = path.field("detectors");
    if conf.detectors.is_some() && no_detector {
        violations.push(&detectors, "can't be empty");
    }
    if conf.max_ejection_percent.is_some_and(|p| p > 100) {
        violations.push(path.field("maxEjectionPercent"), range);
    }
    let failure = conf.detectors.as_ref().and_then(|d| d.failure.as_ref());
    if failure.and_then(|f| f.threshold).is_some_and(|p| p > 100) {
        violations.push(detectors.field("failure").field("threshold"), range);
    }
    if conf.thresholds.is_some() && no_threshold {
        violations.push(path.field("thresholds"), "can't be empty");
    }
}

fn fault_injection(policy: &FaultInjection, violations: &mut Violations) {
    fn http_protocol(path: &Path, tags: &Tags, violations: &mut Violations) {
        match tags.get(label::PROTOCOL_TAG).map(|p| p.to_lowercase()) {
            None => violations.push(path, "protocol must be specified"),
            Some(protocol) if !matches!(protocol.as_str(), "http" | "http2" | "grpc") => {
                violations
                    .push(path.key(label::PROTOCOL_TAG), "must be one of the [http, http2, grpc]");
            }
            Some(_) => {}
        }
    }
    let destinations = TagRules { map_rule: Some(http_protocol), ..LOOSE };
    connection(&policy.sources, LOOSE, &policy.destinations, destinations, violations);
    let path = Path::at("conf");
    let conf = policy.conf.clone().unwrap_or_default();
    // A fault without any field is none.
    let delay = conf.delay.filter(|d| *d != fault_injection::conf::Delay::default());
    let abort = conf.abort.filter(|a| *a != fault_injection::conf::Abort::default());
    let bandwidth = conf
        .response_bandwidth
        .filter(|b| *b != fault_injection::conf::ResponseBandwidth::default());
    if delay.is_none() && abort.is_none() && bandwidth.is_none() {
        violations.push(path, "must have at least one of the faults configured");
        return;
    }
    if let Some(delay) = delay {
        let path = path.field("delay");
        values::percentage(&path, delay.percentage, violations);
        if delay.value.is_none() {
            violations.push(path.field("value"), "cannot be empty");
        }
    }
    if let Some(abort) = abort {
        let path = path.field("abort");
        values::percentage(&path, abort.percentage, violations);
        match abort.http_status {
            None => violations.push(path.field("httpStatus"), "cannot be empty"),
            Some(status) if !values::is_known_status(status) => {
                violations.push(path.field("httpStatus"), "http status code is incorrect");
            }
            Some(_) => {}
        }
    }
    if let Some(bandwidth) = bandwidth {
        let path = path.field("responseBandwidth");
        values::percentage(&path, bandwidth.percentage, violations);
        match bandwidth.limit {
            None => violations.push(path.field("limit"), "cannot be empty"),
            Some(limit) if !["gbps", "mbps", "kbps"].iter().any(|unit| limit.contains(unit)) => {
                violations.push(path.field("limit"), "has to be in kbps/mbps/gbps units");
            }
            Some(_) => {}
        }
    }
}

fn health_check(policy: &HealthCheck, violations: &mut Violations) {
    connection(&policy.sources, SERVICE_SELECTOR, &policy.destinations, ONLY_SERVICE, violations);
    let path = Path::at("conf");
    let Some(conf) = &policy.conf else {
        violations.push(path, "has to be defined");
        return;
    };
    for (field, duration) in [("interval", &conf.interval), ("timeout", &conf.timeout)] {
        match duration {
            None => violations.push(path.field(field), "must have a positive value"),
            Some(d) => values::positive_duration(path.field(field), d.seconds, d.nanos, violations),
        }
    }
    values::threshold(path.field("unhealthyThreshold"), conf.unhealthy_threshold, violations);
    values::threshold(path.field("healthyThreshold"), conf.healthy_threshold, violations);
    for (field, duration) in [
        ("initialJitter", &conf.initial_jitter),
        ("intervalJitter", &conf.interval_jitter),
        ("noTrafficInterval", &conf.no_traffic_interval),
    ] {
        if let Some(d) = duration {
            values::positive_duration(path.field(field), d.seconds, d.nanos, violations);
        }
    }
    if conf.healthy_panic_threshold.is_some_and(|p| !(0.0..=100.0).contains(&p)) {
        violations.push(path.field("healthyPanicThreshold"), "must be in range [0.0 - 100.0]");
    }
    if let Some(http) = &conf.http {
        health_check_http(&path.field("http"), http, violations);
    }
    if conf.tcp.is_some() && conf.http.is_some() {
        violations.push(path, "http and tcp cannot be defined at the same time");
    }
}

fn health_check_http(path: &Path, http: &health_check::conf::Http, violations: &mut Violations) {
    if http.path.is_empty() {
        violations.push(path.field("path"), "has to be defined and cannot be empty");
    }
    for (i, status) in http.expected_statuses.iter().enumerate() {
        if !(100..600).contains(status) {
            violations.push(path.field("expectedStatuses").index(i), "must be in range [100, 600)");
        }
    }
    for (i, option) in http.request_headers_to_add.iter().enumerate() {
        let path = path.field("requestHeadersToAdd").index(i).field("header");
        match &option.header {
            None => violations.push(path, "has to be defined"),
            Some(header) if header.key.is_empty() => {
                violations.push(path.field("key"), "cannot be empty");
            }
            Some(_) => {}
        }
    }
}

fn rate_limit(policy: &RateLimit, violations: &mut Violations) {
    connection(&policy.sources, LOOSE, &policy.destinations, LOOSE, violations);
    let path = Path::at("conf");
    let Some(conf) = &policy.conf else {
        violations.push(path, "must have conf");
        return;
    };
    if let Some(http) = &conf.http {
        rate_limit_http(&path.field("http"), http, violations);
    }
}

fn rate_limit_http(path: &Path, http: &rate_limit::conf::Http, violations: &mut Violations) {
    if http.requests == 0 {
        violations.push(path.field("requests"), "requests must be set");
    }
    if http.interval.is_none() {
        violations.push(path.field("interval"), "interval must be set");
    }
    let headers = http.on_rate_limit.as_ref().map_or(&[][..], |o| &o.headers);
    for (i, header) in headers.iter().enumerate() {
        // Kuma's path: singular, with the index as a key.
        let path = path.field("onRateLimit").field("header").key(&i.to_string());
        if header.key.is_empty() {
            violations.push(&path, "key must be set");
        }
        if header.value.is_empty() {
            violations.push(&path, "value must be set");
        }
    }
}

fn retry(policy: &Retry, violations: &mut Violations) {
    connection(&policy.sources, SERVICE_SELECTOR, &policy.destinations, ONLY_SERVICE, violations);
    let path = Path::at("conf");
    let Some(conf) = &policy.conf else {
        violations.push(path, "has to be defined");
        return;
    };
    if conf.http.is_none() && conf.tcp.is_none() && conf.grpc.is_none() {
        violations.push(path, "missing protocol [grpc|http|tcp] configuration");
        return;
    }
    if let Some(http) = &conf.http {
        retry_http(&path.field("http"), http, violations);
    }
    if let Some(grpc) = &conf.grpc {
        retry_grpc(&path.field("grpc"), grpc, violations);
    }
    if conf.tcp.as_ref().is_some_and(|tcp| tcp.max_connect_attempts == 0) {
        violations.push(path.field("tcp").field("maxConnectAttempts"), "has to be greater than 0");
    }
}

fn retry_http(path: &Path, http: &retry::conf::Http, violations: &mut Violations) {
    if *http == retry::conf::Http::default() {
        violations.push(path, "field cannot be empty");
        return;
    }
    retry_attempts(
        path,
        http.num_retries,
        http.per_try_timeout.as_ref(),
        http.back_off.as_ref(),
        violations,
    );
    for (i, method) in http.retriable_methods.iter().enumerate() {
        if *method == i32::from(HttpMethod::None) {
            violations.push(path.field("retriableMethods").index(i), "field cannot be empty");
        }
    }
    for (i, condition) in http.retry_on.iter().enumerate() {
        if *condition == i32::from(HttpRetryOn::RetriableStatusCodes)
            && http.retriable_status_codes.is_empty()
        {
            violations.push(
                path.field("retryOn").index(i),
                "retriableStatusCodes cannot be empty when this option is specified",
            );
        }
    }
}

fn retry_grpc(path: &Path, grpc: &retry::conf::Grpc, violations: &mut Violations) {
    if *grpc == retry::conf::Grpc::default() {
        violations.push(path, "field cannot be empty");
        return;
    }
    let mut positions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (i, condition) in grpc.retry_on.iter().enumerate() {
        let name = retry::conf::grpc::RetryOn::try_from(*condition)
            .map_or_else(|_| condition.to_string(), |c| c.as_str_name().to_owned());
        positions.entry(name).or_default().push(i.to_string());
    }
    for (name, indexes) in positions.iter().filter(|(_, indexes)| indexes.len() > 1) {
        violations.push(
            path.field("retryOn"),
            format!("repeated value {} at indexes [{}]", quoted(name), indexes.join(", ")),
        );
    }
    retry_attempts(
        path,
        grpc.num_retries,
        grpc.per_try_timeout.as_ref(),
        grpc.back_off.as_ref(),
        violations,
    );
}

fn retry_attempts(
    path: &Path,
    retries: Option<u32>,
    per_try: Option<&Duration>,
    back_off: Option<&retry::conf::BackOff>,
    violations: &mut Violations,
) {
    if retries == Some(0) {
        violations.push(path.field("numRetries"), WHEN_DEFINED);
    }
    not_zero(path.field("perTryTimeout"), per_try, WHEN_DEFINED, violations);
    let Some(back_off) = back_off else {
        return;
    };
    let path = path.field("backOff");
    match &back_off.base_interval {
        None => violations.push(path.field("baseInterval"), "has to be defined"),
        Some(base) if is_zero(base) => {
            violations.push(path.field("baseInterval"), "has to be greater than 0");
        }
        Some(_) => {
            let max = back_off.max_interval.as_ref();
            not_zero(path.field("maxInterval"), max, WHEN_DEFINED, violations);
        }
    }
}

fn timeout(policy: &Timeout, violations: &mut Violations) {
    connection(&policy.sources, SERVICE_SELECTOR, &policy.destinations, ONLY_SERVICE, violations);
    let path = Path::at("conf");
    let Some(conf) = &policy.conf else {
        violations.push(path, "has to be defined");
        return;
    };
    let none = "at least one timeout in section has to be defined";
    let mut section = |name: &str, message: &str, timeouts: &[(&str, Option<&Duration>)]| {
        let path = path.field(name);
        if timeouts.iter().all(|(_, timeout)| timeout.is_none()) {
            violations.push(path, none);
            return;
        }
        for (field, timeout) in timeouts {
            not_zero(path.field(field), *timeout, message, violations);
        }
    };
    if let Some(timeout::conf::Tcp { idle_timeout }) = &conf.tcp {
        section("tcp", "has to be greater than 0", &[("idleTimeout", idle_timeout.as_ref())]);
    }
    if let Some(http) = &conf.http {
        // Settings of streams alone do not count, as in Kuma.
        let timeouts = [
            ("requestTimeout", http.request_timeout.as_ref()),
            ("idleTimeout", http.idle_timeout.as_ref()),
        ];
        section("http", WHEN_DEFINED, &timeouts);
    }
    if let Some(grpc) = &conf.grpc {
        let timeouts = [
            ("streamIdleTimeout", grpc.stream_idle_timeout.as_ref()),
            ("maxStreamDuration", grpc.max_stream_duration.as_ref()),
        ];
        section("grpc", WHEN_DEFINED, &timeouts);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{Kind, rest, validation::validate_spec};

    /// Two specs that are valid, but that Kuma's xDS builder does not survive.
    #[test]
    fn what_crashes_kuma_is_judged_as_kuma_judges_it() {
        for (kind, body, want) in [
            (
                "HealthCheck",
                json!({
                    "sources": [{"match": {"kuma.io/service": "*"}}],
                    "destinations": [{"match": {"kuma.io/service": "*"}}],
                    "conf": {
                        "interval": "5s", "timeout": "1s",
                        "unhealthyThreshold": 3, "healthyThreshold": 1,
                        "http": {"path": "/", "requestHeadersToAdd": [{"header": {"key": "a", "value": "b"}}]},
                    },
                }),
                "",
            ),
            (
                "FaultInjection",
                json!({
                    "sources": [{"match": {"kuma.io/service": "*"}}],
                    "destinations": [{"match": {"kuma.io/service": "*", "kuma.io/protocol": "http"}}],
                    "conf": {"responseBandwidth": {"limit": "50 mbps", "percentage": 10}},
                }),
                "",
            ),
        ] {
            let kind = Kind::by_name(kind).unwrap();
            let spec = rest::read_as(kind, &body).unwrap().spec;
            assert_eq!(validate_spec(kind, "default", "x", &spec).to_string(), want, "{kind}");
        }
    }
}
