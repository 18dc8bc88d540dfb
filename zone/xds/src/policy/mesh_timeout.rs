//! MeshTimeout on a gateway (`spec/gateway-xds.md` 23.2).

use prost_types::Duration;
use serde_json::Value;
use sunbear_proto::envoy::config::route::v3::RouteAction;

use super::{
    duration_at,
    target_ref::{Inbound, ToRules},
};
use crate::{
    draft::{ClusterDraft, Terminal},
    envoy::{millis, seconds},
    protocol::Protocol,
};

/// Values of a listener without any policy.
mod default {
    pub(super) const IDLE_SECONDS: i64 = 300;
    pub(super) const REQUEST_HEADERS_MILLIS: i64 = 500;
    pub(super) const STREAM_IDLE_SECONDS: i64 = 5;
}

/// Applies the part about incoming connections to the filter that takes them.
pub(crate) fn listener(inbound: &Inbound, terminal: &mut Terminal) {
    let none = Value::Null;
    let conf = match inbound {
        Inbound::Nothing => &none,
        Inbound::OnlySome => return,
        Inbound::All(conf) => conf,
    };
    let or = |path: &[&str], default: Duration| Some(duration_at(conf, path).unwrap_or(default));
    let idle = or(&["idleTimeout"], seconds(default::IDLE_SECONDS));
    match terminal {
        Terminal::Http(manager) => {
            manager.common_http_protocol_options.get_or_insert_default().idle_timeout = idle;
            manager.request_headers_timeout =
                or(&["http", "requestHeadersTimeout"], millis(default::REQUEST_HEADERS_MILLIS));
            manager.stream_idle_timeout =
                or(&["http", "streamIdleTimeout"], seconds(default::STREAM_IDLE_SECONDS));
            if let Some(request) = duration_at(conf, &["http", "requestTimeout"]) {
                manager.request_timeout = Some(request);
            }
        }
        Terminal::Tcp(proxy) => proxy.idle_timeout = idle,
    }
}

/// What the policies say about every forwarding route.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RouteTimeouts {
    timeout: Duration,
    idle: Option<Duration>,
}

impl RouteTimeouts {
    pub(crate) fn of(to: &ToRules<'_>) -> Option<Self> {
        let conf = to.mesh()?;
        Some(Self {
            timeout: duration_at(conf, &["http", "requestTimeout"]).unwrap_or(seconds(15)),
            idle: duration_at(conf, &["http", "streamIdleTimeout"]),
        })
    }

    pub(crate) fn apply(&self, action: &mut RouteAction) {
        action.timeout = Some(self.timeout);
        if self.idle.is_some() {
            action.idle_timeout = self.idle;
        }
    }
}

/// Applies the part about a service to a cluster. What speaks gRPC keeps the values of the older
/// Timeout, as in Kuma.
pub(crate) fn cluster(
    to: &ToRules<'_>,
    draft: &mut ClusterDraft,
    service: &str,
    protocol: Option<Protocol>,
) {
    if let Some(conf) = to.service(service) {
        let http = matches!(protocol, Some(Protocol::Http | Protocol::Http2));
        cluster_timeouts(draft, &conf, http);
    }
}

fn cluster_timeouts(draft: &mut ClusterDraft, conf: &Value, http: bool) {
    let or =
        |path: &[&str], default: i64| Some(duration_at(conf, path).unwrap_or(seconds(default)));
    draft.cluster.connect_timeout =
        or(&["connectionTimeout"], 5).filter(crate::envoy::is_positive).or(Some(seconds(5)));
    if let Some(options) = draft.http.as_mut().filter(|_| http) {
        let common = options.common_http_protocol_options.get_or_insert_default();
        common.idle_timeout = or(&["idleTimeout"], 3600);
        common.max_stream_duration = or(&["http", "maxStreamDuration"], 0);
        common.max_connection_duration = or(&["http", "maxConnectionDuration"], 0);
    }
}
