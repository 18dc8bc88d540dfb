//! CircuitBreaker: limits and outlier detection of clusters.

use sunbear_proto::{
    envoy::config::cluster::v3::{Cluster, OutlierDetection, circuit_breakers::Thresholds},
    kuma::mesh::v1alpha1::circuit_breaker::{Conf, conf::detectors::Errors},
};

use crate::envoy::{is_positive, sane};

pub(super) fn configure(cluster: &mut Cluster, conf: &Conf) {
    if let Some(limits) = &conf.thresholds {
        cluster.circuit_breakers.get_or_insert_default().thresholds = vec![Thresholds {
            max_connections: limits.max_connections,
            max_pending_requests: limits.max_pending_requests,
            max_retries: limits.max_retries,
            max_requests: limits.max_requests,
            ..Thresholds::default()
        }];
    }
    cluster.outlier_detection = Some(outlier_detection(conf));
}

fn outlier_detection(conf: &Conf) -> OutlierDetection {
    let detectors = conf.detectors.unwrap_or_default();
    // A detector that is given acts fully, one that is not does not act.
    let enforcing = |given: bool| Some(if given { 100 } else { 0 });
    let consecutive = |errors: &Option<Errors>| errors.as_ref().and_then(|e| e.consecutive);
    let rate = detectors.standard_deviation.as_ref();
    let failure = detectors.failure.as_ref();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "float casts saturate"
    )]
    let factor = rate.and_then(|r| r.factor).map(|f| (f * 1000.0) as u32);
    OutlierDetection {
        // Envoy takes intervals above zero only.
        interval: conf.interval.filter(is_positive).map(sane),
        base_ejection_time: conf.base_ejection_time.filter(is_positive).map(sane),
        max_ejection_percent: conf.max_ejection_percent.map(|p| p.min(100)),
        split_external_local_origin_errors: conf.split_external_and_local_errors,
        consecutive_5xx: consecutive(&detectors.total_errors),
        enforcing_consecutive_5xx: enforcing(detectors.total_errors.is_some()),
        consecutive_gateway_failure: consecutive(&detectors.gateway_errors),
        enforcing_consecutive_gateway_failure: enforcing(detectors.gateway_errors.is_some()),
        consecutive_local_origin_failure: consecutive(&detectors.local_errors),
        enforcing_consecutive_local_origin_failure: enforcing(detectors.local_errors.is_some()),
        success_rate_request_volume: rate.and_then(|r| r.request_volume),
        success_rate_minimum_hosts: rate.and_then(|r| r.minimum_hosts),
        success_rate_stdev_factor: factor,
        enforcing_success_rate: enforcing(rate.is_some()),
        enforcing_local_origin_success_rate: rate.map(|_| 100),
        failure_percentage_request_volume: failure.and_then(|f| f.request_volume),
        failure_percentage_minimum_hosts: failure.and_then(|f| f.minimum_hosts),
        failure_percentage_threshold: failure.and_then(|f| f.threshold).map(|p| p.min(100)),
        enforcing_failure_percentage: enforcing(failure.is_some()),
        enforcing_failure_percentage_local_origin: failure.map(|_| 100),
        ..OutlierDetection::default()
    }
}
