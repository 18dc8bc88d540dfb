//! Listeners and the HTTP connection manager with the edge's values (Kuma:
//! pkg/plugins/runtime/gateway/listener_generator.go, filter_chain_generator.go).

use sunbear_model::gateway::Port;
use sunbear_proto::envoy::{
    config::{
        core::v3::{
            Address, CidrRange, Http2ProtocolOptions, HttpProtocolOptions, TrafficDirection,
            TypedExtensionConfig, address, http_protocol_options::HeadersWithUnderscoresAction,
        },
        listener::v3::{Listener, ListenerFilter, listener_filter},
    },
    extensions::{
        compression::gzip::compressor::v3::Gzip,
        filters::{
            http::{
                compressor::v3::{Compressor, compressor::ResponseDirectionConfig},
                fault::v3::HttpFault,
                local_ratelimit::v3::LocalRateLimit,
                router::v3::Router,
            },
            listener::tls_inspector::v3::TlsInspector,
            network::http_connection_manager::v3::{
                HttpConnectionManager, HttpFilter, Rds,
                http_connection_manager::{
                    InternalAddressConfig, PathWithEscapedSlashesAction, RouteSpecifier, Tracing,
                },
                http_filter,
            },
        },
    },
};

use super::Basis;
use crate::{
    access_log::Logs,
    context::{Context, Own},
    draft::{ChainDraft, ListenerDraft, Terminal},
    envoy::{BUFFER_LIMIT, ads, http2_windows, millis, pack, sanitised, seconds, socket_address},
    policy::legacy::fault_injection,
};

/// Name of the listener of a port.
pub(super) fn name(basis: &Basis<'_>, port: &Port<'_>) -> String {
    format!("{}:{}:{}", basis.gateway.key.name, port.protocol.as_str_name(), port.number)
}

/// The listener of a port. It is bound where each proxy has its address.
pub(super) fn draft(name: String, port: &Port<'_>, chains: Vec<ChainDraft>) -> ListenerDraft {
    let listener = Listener {
        name,
        address: Some(socket_address("", port.number.into())),
        traffic_direction: TrafficDirection::Inbound.into(),
        enable_reuse_port: Some(true),
        per_connection_buffer_limit_bytes: Some(BUFFER_LIMIT),
        listener_filters: vec![tls_inspector()],
        ..Listener::default()
    };
    ListenerDraft { listener, chains }
}

/// The listener as one proxy has it.
pub(crate) fn of_proxy(draft: &ListenerDraft, own: &Own<'_>, logs: Option<&Logs>) -> ListenerDraft {
    let mut draft = draft.clone();
    if let Some(Address { address: Some(address::Address::SocketAddress(socket)) }) =
        &mut draft.listener.address
    {
        socket.address = own.address().to_owned();
    }
    for terminal in draft.chains.iter_mut().filter_map(|chain| chain.terminal.as_mut()) {
        match terminal {
            Terminal::Http(manager) => {
                manager.internal_address_config = Some(internal_addresses(own));
                manager.access_log.extend(logs.map(|logs| logs.http(own)));
            }
            Terminal::Tcp(proxy) => {
                proxy.access_log.extend(logs.map(|logs| logs.tcp(own)));
            }
        }
    }
    draft
}

/// The listener filter that looks for TLS; on every listener, as in Kuma.
pub(crate) fn tls_inspector() -> ListenerFilter {
    ListenerFilter {
        name: "envoy.filters.listener.tls_inspector".to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(pack(&TlsInspector::default()))),
        ..ListenerFilter::default()
    }
}

/// Prefix of the statistics of a gateway's connections.
pub(super) fn stat_prefix(ctx: &Context<'_>) -> String {
    sanitised(&ctx.service)
}

/// The connection manager of an HTTP listener, for clients that nobody vouches for. `faults` tells
/// whether some route has faults injected.
pub(super) fn http_manager(
    ctx: &Context<'_>,
    route_config: String,
    tracing: Option<Tracing>,
    faults: bool,
) -> HttpConnectionManager {
    let mut http_filters = http_filters();
    if faults {
        // Before the rate limit, as in sidecars.
        http_filters.insert(0, filter(fault_injection::FILTER, &HttpFault::default()));
    }
    HttpConnectionManager {
        stat_prefix: stat_prefix(ctx),
        server_name: "Kuma Gateway".to_owned(),
        use_remote_address: Some(true),
        normalize_path: Some(true),
        merge_slashes: true,
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::UnescapeAndRedirect.into(),
        request_headers_timeout: Some(millis(500)),
        stream_idle_timeout: Some(seconds(5)),
        common_http_protocol_options: Some(HttpProtocolOptions {
            idle_timeout: Some(seconds(300)),
            headers_with_underscores_action: HeadersWithUnderscoresAction::RejectRequest.into(),
            ..HttpProtocolOptions::default()
        }),
        http2_protocol_options: Some(Http2ProtocolOptions {
            max_concurrent_streams: Some(100),
            allow_connect: true,
            ..http2_windows()
        }),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ads()),
            route_config_name: route_config,
        })),
        tracing,
        http_filters,
        ..HttpConnectionManager::default()
    }
}

/// The filters of every listener. Those that are not configured for a route do nothing.
fn http_filters() -> Vec<HttpFilter> {
    vec![
        filter(
            "envoy.filters.http.local_ratelimit",
            &LocalRateLimit { stat_prefix: "rate_limit".to_owned(), ..LocalRateLimit::default() },
        ),
        filter(
            "gzip-compress",
            &Compressor {
                compressor_library: Some(TypedExtensionConfig {
                    name: "gzip".to_owned(),
                    typed_config: Some(pack(&Gzip::default())),
                }),
                response_direction_config: Some(ResponseDirectionConfig {
                    disable_on_etag_header: true,
                    ..ResponseDirectionConfig::default()
                }),
                ..Compressor::default()
            },
        ),
        router(),
    ]
}

/// The filter that forwards.
pub(crate) fn router() -> HttpFilter {
    filter("envoy.filters.http.router", &Router::default())
}

fn filter<M: prost::Message + prost::Name>(name: &str, config: &M) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack(config))),
        ..HttpFilter::default()
    }
}

/// Which clients count as internal: the zone's setting, or loopback alone.
pub(crate) fn internal_addresses(own: &Own<'_>) -> InternalAddressConfig {
    const LOOPBACK: [&str; 2] = ["127.0.0.1/32", "::1/128"];
    let configured: Vec<&str> = own.settings.internal_cidrs.iter().map(String::as_str).collect();
    let ranges = if configured.is_empty() { LOOPBACK.to_vec() } else { configured };
    InternalAddressConfig {
        cidr_ranges: ranges
            .into_iter()
            .filter(|range| own.proxy.metadata.ipv6_enabled || !range.contains(':'))
            .filter_map(|range| {
                let (prefix, length) = range.split_once('/')?;
                Some(CidrRange {
                    address_prefix: prefix.to_owned(),
                    prefix_len: Some(length.parse().ok()?),
                })
            })
            .collect(),
        ..InternalAddressConfig::default()
    }
}
