//! TrafficTrace: where a gateway's connection managers report spans to, and the cluster of that
//! place (Kuma: pkg/xds/generator/tracing_proxy_generator.go,
//! pkg/xds/envoy/listeners/v3/tracing_configurer.go).

use sunbear_model::matching;
use sunbear_proto::{
    envoy::{
        config::{
            cluster::v3::{
                Cluster,
                cluster::{ClusterDiscoveryType, DiscoveryType, TransportSocketMatch},
            },
            endpoint::v3::{
                ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
                lb_endpoint::HostIdentifier,
            },
            trace::v3::{
                DatadogConfig, ZipkinConfig, tracing::Http as Provider, tracing::http::ConfigType,
                zipkin_config::CollectorEndpointVersion,
            },
        },
        extensions::{
            filters::network::http_connection_manager::v3::http_connection_manager::Tracing,
            transport_sockets::tls::v3::UpstreamTlsContext,
        },
        r#type::v3::Percent,
    },
    kuma::mesh::v1alpha1::{
        DatadogTracingBackendConfig, TracingBackend, TrafficTrace, ZipkinTracingBackendConfig,
    },
};

use crate::{
    backend,
    context::Context,
    draft::ClusterDraft,
    envoy::{alt_stat_name, pack, seconds, socket_address, tls_socket},
    external::dns_family,
    issue::Issues,
    proxy::is_ip,
};

/// What a gateway needs to report spans.
pub(crate) struct Traces {
    pub(crate) cluster: ClusterDraft,
    /// For every connection manager.
    pub(crate) tracing: Tracing,
}

/// Looks for the policy that selects the gateway, and for its backend.
pub(crate) fn load(ctx: &Context<'_>, issues: &mut Issues) -> Option<Traces> {
    let decoded = ctx.decode_all::<TrafficTrace>("TrafficTrace", issues);
    let candidates = decoded.iter().map(|(r, m)| (&**r, matching::matches_of(&m.selectors), m));
    let trace = matching::best(candidates, &ctx.dataplane)?;
    let tracing = ctx.mesh()?.tracing.as_ref()?;
    let wanted = trace.conf.as_ref().map_or("", |c| &c.backend);
    let wanted = if wanted.is_empty() { &tracing.default_backend } else { wanted };
    let index = tracing.backends.iter().position(|b| b.name == *wanted)?;
    match generate(ctx, &tracing.backends[index]) {
        Ok(traces) => Some(traces),
        Err(reason) => {
            let field = format!("tracing.backends[{index}].conf");
            issues.left_out(&ctx.inputs.mesh.key, field, reason);
            None
        }
    }
}

fn generate(ctx: &Context<'_>, backend: &TracingBackend) -> Result<Traces, String> {
    let name = format!("tracing:{}", backend.name);
    let (place, provider_name, config) = match backend.r#type.as_str() {
        "zipkin" => {
            let conf: ZipkinTracingBackendConfig = backend::typed(backend.conf.as_ref())?;
            let url = Url::parse(&conf.url)
                .ok_or_else(|| "the URL has to have a host and a port".to_owned())?;
            let config = pack(&zipkin(&name, &conf, &url));
            (url.place, "envoy.tracers.zipkin", config)
        }
        "datadog" => {
            let conf: DatadogTracingBackendConfig = backend::typed(backend.conf.as_ref())?;
            let place = Place::of(&conf.address, conf.port, false)
                .ok_or_else(|| "an address and a port from 1 to 65535 are needed".to_owned())?;
            let config = DatadogConfig {
                collector_cluster: name.clone(),
                service_name: ctx.service.clone(),
                ..DatadogConfig::default()
            };
            (place, "envoy.tracers.datadog", pack(&config))
        }
        other => return Err(format!("unknown type {other:?}")),
    };
    let tracing = Tracing {
        spawn_upstream_span: Some(true),
        overall_sampling: backend.sampling.map(|value| Percent {
            value: if value.is_nan() { 0.0 } else { value.clamp(0.0, 100.0) },
        }),
        provider: Some(Provider {
            name: provider_name.to_owned(),
            config_type: Some(ConfigType::TypedConfig(config)),
        }),
        ..Tracing::default()
    };
    let cluster = ClusterDraft::plain(cluster(ctx, name, &place));
    Ok(Traces { cluster, tracing })
}

fn zipkin(name: &str, conf: &ZipkinTracingBackendConfig, url: &Url) -> ZipkinConfig {
    let version = match conf.api_version.as_str() {
        "httpProto" => CollectorEndpointVersion::HttpProto,
        _ => CollectorEndpointVersion::HttpJson,
    };
    ZipkinConfig {
        collector_cluster: name.to_owned(),
        collector_endpoint: url.path.clone(),
        collector_hostname: url.authority.clone(),
        collector_endpoint_version: version.into(),
        trace_id_128bit: conf.trace_id128bit,
        shared_span_context: conf.shared_span_context,
        ..ZipkinConfig::default()
    }
}

fn cluster(ctx: &Context<'_>, name: String, place: &Place) -> Cluster {
    let by_address = is_ip(&place.host);
    let discovery = if by_address { DiscoveryType::Static } else { DiscoveryType::StrictDns };
    let mut cluster = Cluster {
        alt_stat_name: alt_stat_name(&name),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(discovery.into())),
        connect_timeout: Some(seconds(5)),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name.clone(),
            endpoints: vec![LocalityLbEndpoints {
                lb_endpoints: vec![LbEndpoint {
                    host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
                        address: Some(socket_address(&place.host, place.port.into())),
                        ..Endpoint::default()
                    })),
                    ..LbEndpoint::default()
                }],
                ..LocalityLbEndpoints::default()
            }],
            ..ClusterLoadAssignment::default()
        }),
        name,
        ..Cluster::default()
    };
    if !by_address {
        cluster.dns_lookup_family = dns_family(ctx).into();
    }
    if place.tls {
        cluster.transport_socket_matches = vec![TransportSocketMatch {
            name: place.host.clone(),
            r#match: Some(prost_types::Struct::default()),
            transport_socket: Some(tls_socket(&UpstreamTlsContext {
                sni: if by_address { String::new() } else { place.host.clone() },
                allow_renegotiation: true,
                ..UpstreamTlsContext::default()
            })),
        }];
    }
    cluster
}

/// Where a collector listens.
#[derive(Debug, PartialEq)]
struct Place {
    host: String,
    port: u16,
    tls: bool,
}

impl Place {
    fn of(host: &str, port: u32, tls: bool) -> Option<Self> {
        let port = u16::try_from(port).ok().filter(|p| *p > 0)?;
        let usable = !host.is_empty() && host.len() <= 255 && !host.contains('\0');
        usable.then(|| Self { host: host.to_owned(), port, tls })
    }
}

/// The parts of a collector's URL.
#[derive(Debug, PartialEq)]
struct Url {
    place: Place,
    /// Host and port as written.
    authority: String,
    path: String,
}

impl Url {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let (host, port) = crate::external::split_address(authority)?;
        let path = rest.split(['?', '#']).next().unwrap_or_default();
        if path.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return None;
        }
        Some(Self {
            place: Place::of(host, port.into(), scheme.eq_ignore_ascii_case("https"))?,
            authority: authority.to_owned(),
            // Envoy wants a path, and without one the root is meant.
            path: if path.is_empty() { "/".to_owned() } else { path.to_owned() },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Url;

    #[test]
    fn urls() {
        let parts = |text| {
            Url::parse(text).map(|u| {
                format!(
                    "{} {} {} {} {}",
                    u.place.host, u.place.port, u.place.tls, u.authority, u.path
                )
            })
        };
        assert_eq!(
            parts("http://zipkin.local:9411/api/v2/spans").as_deref(),
            Some("zipkin.local 9411 false zipkin.local:9411 /api/v2/spans")
        );
        assert_eq!(parts("HTTPS://u:p@[::1]:80?q#f").as_deref(), Some("::1 80 true [::1]:80 /"));
        for bad in [
            "",
            "zipkin:9411",
            "http://zipkin/",
            "http://zipkin:0/",
            "http://:80/",
            "http://a:80/b c",
        ] {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }
}
