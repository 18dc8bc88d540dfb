//! Timeout: connections and idle times of clusters, request times of routes.

use prost_types::Duration;
use sunbear_proto::kuma::mesh::v1alpha1::timeout::Conf;

use crate::{
    draft::ClusterDraft,
    envoy::{is_positive, sane},
    protocol::Protocol,
};

pub(super) fn configure(draft: &mut ClusterDraft, conf: &Conf, protocol: Protocol) {
    if let Some(timeout) = conf.connect_timeout.map(sane).filter(is_positive) {
        draft.cluster.connect_timeout = Some(timeout);
    }
    let Some(options) = &mut draft.http else { return };
    let common = options.common_http_protocol_options.get_or_insert_default();
    let http = conf.http.as_ref();
    if let Some(idle) = http.and_then(|h| h.idle_timeout).map(sane) {
        common.idle_timeout = Some(idle);
    }
    let grpc = conf.grpc.as_ref().filter(|_| protocol == Protocol::Grpc);
    common.max_stream_duration = http
        .and_then(|h| h.max_stream_duration)
        .filter(is_positive)
        .or_else(|| grpc.and_then(|g| g.max_stream_duration).filter(is_positive))
        .map(sane);
}

pub(super) fn request(conf: &Conf) -> Option<Duration> {
    conf.http.as_ref()?.request_timeout.filter(is_positive).map(sane)
}
