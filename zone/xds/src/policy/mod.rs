//! Policies and what they do to generated resources.

pub(crate) mod legacy;
pub(crate) mod mesh_circuit_breaker;
pub(crate) mod mesh_retry;
pub(crate) mod mesh_timeout;
pub(crate) mod target_ref;

use prost_types::Duration;
use serde_json::Value;
use sunbear_proto::duration;

use crate::envoy::sane;

/// A duration at a path in a policy's JSON. Malformed and negative ones count as not given.
pub(crate) fn duration_at(conf: &Value, path: &[&str]) -> Option<Duration> {
    let text = at(conf, path)?.as_str()?;
    duration::parse(text).filter(|d| d.seconds >= 0 && d.nanos >= 0).map(sane)
}

/// A 32-bit number at a path.
pub(crate) fn number_at(conf: &Value, path: &[&str]) -> Option<u32> {
    at(conf, path)?.as_u64().and_then(|n| u32::try_from(n).ok())
}

/// A decimal number at a path, given as a number or as text.
pub(crate) fn decimal_at(conf: &Value, path: &[&str]) -> Option<f64> {
    match at(conf, path)? {
        Value::Number(n) => n.as_f64(),
        Value::String(s) => s.parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
    .filter(|n| n.is_finite())
}

/// The value at a path.
pub(crate) fn at<'v>(conf: &'v Value, path: &[&str]) -> Option<&'v Value> {
    path.iter().try_fold(conf, |value, key| value.get(key)).filter(|v| !v.is_null())
}
