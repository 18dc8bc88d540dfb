//! HealthCheck: active checks of clusters.

use std::fmt::Write as _;

use prost_types::Duration;
use sunbear_proto::{
    envoy::{
        config::{
            cluster::v3::{
                Cluster,
                cluster::common_lb_config::{LocalityConfigSpecifier, ZoneAwareLbConfig},
            },
            core::v3::{
                HealthCheck,
                header_value_option::HeaderAppendAction,
                health_check::{HealthChecker, HttpHealthCheck, Payload, TcpHealthCheck, payload},
            },
        },
        r#type::v3::{CodecClientType, Int64Range, Percent},
    },
    kuma::mesh::v1alpha1::health_check::{
        Conf,
        conf::{Http, Tcp},
    },
};

use crate::{
    envoy::{header, is_positive, sane},
    format::check_header,
    protocol::Protocol,
};

pub(super) fn configure(cluster: &mut Cluster, conf: &Conf, protocol: Protocol) {
    if let Some(threshold) = conf.healthy_panic_threshold {
        cluster.common_lb_config.get_or_insert_default().healthy_panic_threshold =
            Some(Percent { value: f64::from(threshold).clamp(0.0, 100.0) });
    }
    if let Some(fail) = conf.fail_traffic_on_panic {
        cluster.common_lb_config.get_or_insert_default().locality_config_specifier =
            Some(LocalityConfigSpecifier::ZoneAwareLbConfig(ZoneAwareLbConfig {
                fail_traffic_on_panic: fail,
                ..ZoneAwareLbConfig::default()
            }));
    }
    let given = |d: &Option<Duration>| d.as_ref().is_some_and(is_positive);
    if !given(&conf.interval) || !given(&conf.timeout) {
        // Validation asks for both, and so does Envoy.
        return;
    }
    // Envoy refuses a cluster with two checks, which Kuma would generate if both kinds are given.
    let checker = match (&conf.http, &conf.tcp) {
        (Some(conf), _) => HealthChecker::HttpHealthCheck(http(conf, protocol)),
        (None, Some(conf)) => HealthChecker::TcpHealthCheck(tcp(conf)),
        (None, None) => HealthChecker::TcpHealthCheck(TcpHealthCheck::default()),
    };
    cluster.health_checks = vec![common(conf, checker)];
}

#[expect(deprecated, reason = "the field that Kuma's policy maps to; Envoy still reads it")]
fn common(conf: &Conf, checker: HealthChecker) -> HealthCheck {
    HealthCheck {
        interval: conf.interval.map(sane),
        timeout: conf.timeout.map(sane),
        unhealthy_threshold: Some(conf.unhealthy_threshold),
        healthy_threshold: Some(conf.healthy_threshold),
        initial_jitter: conf.initial_jitter.map(sane),
        interval_jitter: conf.interval_jitter.map(sane),
        interval_jitter_percent: conf.interval_jitter_percent,
        event_log_path: conf.event_log_path.clone(),
        always_log_health_check_failures: conf.always_log_health_check_failures.unwrap_or_default(),
        no_traffic_interval: conf.no_traffic_interval.map(sane).filter(is_positive),
        reuse_connection: conf.reuse_connection,
        health_checker: Some(checker),
        ..HealthCheck::default()
    }
}

fn tcp(conf: &Tcp) -> TcpHealthCheck {
    TcpHealthCheck {
        // Envoy takes no empty texts.
        send: conf.send.as_deref().filter(|bytes| !bytes.is_empty()).map(hex),
        receive: conf.receive.iter().filter(|b| !b.is_empty()).map(|bytes| hex(bytes)).collect(),
        ..TcpHealthCheck::default()
    }
}

fn hex(bytes: &[u8]) -> Payload {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Payload { payload: Some(payload::Payload::Text(text)) }
}

fn http(conf: &Http, protocol: Protocol) -> HttpHealthCheck {
    let action = |append: Option<bool>| match append {
        Some(false) => HeaderAppendAction::OverwriteIfExistsOrAdd,
        Some(true) | None => HeaderAppendAction::AppendIfExistsOrAdd,
    };
    let codec = match protocol {
        Protocol::Http2 => CodecClientType::Http2,
        Protocol::Grpc | Protocol::Http | Protocol::Kafka | Protocol::Tcp | Protocol::Tls => {
            CodecClientType::Http1
        }
    };
    HttpHealthCheck {
        path: match conf.path.as_str() {
            "" => "/".to_owned(),
            path => path.replace(['\0', '\r', '\n'], ""),
        },
        expected_statuses: conf
            .expected_statuses
            .iter()
            .map(|s| Int64Range { start: i64::from(*s), end: i64::from(*s) + 1 })
            .collect(),
        request_headers_to_add: conf
            .request_headers_to_add
            .iter()
            .filter_map(|o| Some((o.header.as_ref()?, o.append)))
            .filter(|(h, _)| check_header(&h.key, &h.value).is_ok())
            .map(|(h, append)| header(&h.key, &h.value, action(append)))
            .collect(),
        codec_client_type: codec.into(),
        ..HttpHealthCheck::default()
    }
}
