//! Retry: retries of HTTP routes.

use sunbear_proto::{
    envoy::config::route::v3::RetryPolicy,
    kuma::mesh::v1alpha1::{HttpMethod, HttpRetryOn, retry::conf::Http},
};

use crate::{
    envoy::sane,
    policy::mesh_retry::{RETRY_ON, back_off, method_matcher},
};

const STATUS_CODES: &str = "retriable-status-codes";

/// The policy of a route. Kuma always takes the HTTP section, whatever the destinations speak.
pub(super) fn policy(conf: &Http) -> RetryPolicy {
    let mut retry_on: Vec<String> = conf.retry_on().map(word).collect();
    if retry_on.is_empty() {
        retry_on.push(RETRY_ON.to_owned());
    }
    if !conf.retriable_status_codes.is_empty() && !retry_on.iter().any(|w| w == STATUS_CODES) {
        retry_on.push(STATUS_CODES.to_owned());
    }
    RetryPolicy {
        retry_on: retry_on.join(","),
        num_retries: conf.num_retries,
        per_try_timeout: conf.per_try_timeout.map(sane),
        retry_back_off: conf
            .back_off
            .as_ref()
            .map(|b| back_off(b.base_interval.map(sane), b.max_interval.map(sane))),
        retriable_status_codes: conf.retriable_status_codes.clone(),
        retriable_request_headers: conf
            .retriable_methods()
            .filter(|m| *m != HttpMethod::None)
            .map(|m| method_matcher(m.as_str_name()))
            .collect(),
        ..RetryPolicy::default()
    }
}

fn word(condition: HttpRetryOn) -> String {
    match condition.as_str_name() {
        "all_5xx" => "5xx".to_owned(),
        other => other.replace('_', "-"),
    }
}
