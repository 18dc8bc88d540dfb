//! MeshCircuitBreaker (`spec/gateway-xds.md` 23.4).

use serde_json::Value;
use sunbear_proto::envoy::{
    config::{
        cluster::v3::{Cluster, OutlierDetection, circuit_breakers::Thresholds},
        core::v3::RoutingPriority,
    },
    r#type::v3::Percent,
};

use super::{at, decimal_at, duration_at, number_at, target_ref::ToRules};
use crate::envoy::is_positive;

/// Every cluster counts how far it is from its limits, policy or not.
pub(crate) fn track_remaining(cluster: &mut Cluster) {
    default_thresholds(cluster).track_remaining = true;
}

fn default_thresholds(cluster: &mut Cluster) -> &mut Thresholds {
    let all = &mut cluster.circuit_breakers.get_or_insert_default().thresholds;
    let index = all.iter().position(|t| t.priority() == RoutingPriority::Default);
    let index = index.unwrap_or_else(|| {
        all.push(Thresholds::default());
        all.len() - 1
    });
    &mut all[index]
}

/// Applies the part about a service to a cluster.
pub(crate) fn cluster(to: &ToRules<'_>, cluster: &mut Cluster, service: &str) {
    if let Some(conf) = to.service(service) {
        limits(cluster, &conf);
        outlier_detection(cluster, &conf);
    }
}

fn limits(cluster: &mut Cluster, conf: &Value) {
    let Some(limits) = at(conf, &["connectionLimits"]) else { return };
    let thresholds = default_thresholds(cluster);
    for (field, key) in [
        (&mut thresholds.max_connections, "maxConnections"),
        (&mut thresholds.max_connection_pools, "maxConnectionPools"),
        (&mut thresholds.max_pending_requests, "maxPendingRequests"),
        (&mut thresholds.max_retries, "maxRetries"),
        (&mut thresholds.max_requests, "maxRequests"),
    ] {
        if let Some(limit) = number_at(limits, &[key]) {
            *field = Some(limit);
        }
    }
}

fn outlier_detection(cluster: &mut Cluster, conf: &Value) {
    let Some(outliers) = at(conf, &["outlierDetection"]) else { return };
    if outliers.get("disabled").and_then(Value::as_bool) == Some(true) {
        return;
    }
    let none = Value::Null;
    let detectors = at(outliers, &["detectors"]).unwrap_or(&none);
    let detector = |name: &str| at(detectors, &[name]);
    // A detector that is given acts fully, one that is not does not act.
    let enforcing = |name: &str| Some(if detector(name).is_some() { 100 } else { 0 });
    let number = |name: &str, key: &str| detector(name).and_then(|d| number_at(d, &[key]));
    let given = |name: &str| detector(name).map(|_| 100);
    // Envoy takes intervals above zero only.
    let interval = |key: &str| duration_at(outliers, &[key]).filter(is_positive);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "float casts saturate"
    )]
    let factor = detector("successRate")
        .and_then(|d| decimal_at(d, &["standardDeviationFactor"]))
        .map(|f| (f * 1000.0) as u32);
    cluster.outlier_detection = Some(OutlierDetection {
        interval: interval("interval"),
        base_ejection_time: interval("baseEjectionTime"),
        max_ejection_percent: number_at(outliers, &["maxEjectionPercent"]).map(|p| p.min(100)),
        split_external_local_origin_errors: outliers
            .get("splitExternalAndLocalErrors")
            .and_then(Value::as_bool)
            .unwrap_or_default(),
        consecutive_5xx: number("totalFailures", "consecutive"),
        enforcing_consecutive_5xx: enforcing("totalFailures"),
        consecutive_gateway_failure: number("gatewayFailures", "consecutive"),
        enforcing_consecutive_gateway_failure: enforcing("gatewayFailures"),
        consecutive_local_origin_failure: number("localOriginFailures", "consecutive"),
        enforcing_consecutive_local_origin_failure: enforcing("localOriginFailures"),
        success_rate_minimum_hosts: number("successRate", "minimumHosts"),
        success_rate_request_volume: number("successRate", "requestVolume"),
        success_rate_stdev_factor: factor,
        enforcing_success_rate: enforcing("successRate"),
        enforcing_local_origin_success_rate: given("successRate"),
        failure_percentage_minimum_hosts: number("failurePercentage", "minimumHosts"),
        failure_percentage_request_volume: number("failurePercentage", "requestVolume"),
        failure_percentage_threshold: number("failurePercentage", "threshold").map(|p| p.min(100)),
        enforcing_failure_percentage: enforcing("failurePercentage"),
        enforcing_failure_percentage_local_origin: given("failurePercentage"),
        ..OutlierDetection::default()
    });
    if let Some(percent) = decimal_at(outliers, &["healthyPanicThreshold"]) {
        cluster.common_lb_config.get_or_insert_default().healthy_panic_threshold =
            Some(Percent { value: percent.clamp(0.0, 100.0) });
    }
}
