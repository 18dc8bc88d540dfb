//! Envoy's admin interface and the readiness of the proxy, for probes and for the control plane
//! (Kuma: pkg/xds/generator/admin_proxy_generator.go).

use sunbear_proto::envoy::{
    config::{
        cluster::v3::{
            Cluster,
            cluster::{ClusterDiscoveryType, DiscoveryType},
        },
        core::v3::{
            Address, DataSource, TrafficDirection, TransportSocket, data_source::Specifier,
        },
        endpoint::v3::{
            ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
            lb_endpoint::HostIdentifier,
        },
        listener::v3::{FilterChain, FilterChainMatch, Listener},
        route::v3::{
            Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route,
            route_action::ClusterSpecifier, route_match::PathSpecifier,
        },
    },
    extensions::{
        filters::network::http_connection_manager::v3::{
            HttpConnectionManager, http_connection_manager::RouteSpecifier,
        },
        transport_sockets::tls::v3::{
            CertificateValidationContext, CommonTlsContext, DownstreamTlsContext,
            SubjectAltNameMatcher, TlsCertificate, common_tls_context::ValidationContextType,
            subject_alt_name_matcher::SanType,
        },
    },
};

use crate::{
    context::Own,
    draft::{ChainDraft, ClusterDraft, ListenerDraft, Terminal},
    envoy::{alt_stat_name, exact, pipe, sanitised, seconds, socket_address, tls_socket},
    gateway::{internal_addresses, router, tls_inspector},
    issue::Issues,
    policy::mesh_circuit_breaker,
    proxy::{AdminTls, is_ip},
};

/// Name of the cluster and of the listener.
pub(crate) const ADMIN: &str = "kuma:envoy:admin";
/// Name of the cluster of the readiness reporter.
const READINESS: &str = "kuma:readiness";
/// Name that the control plane's certificate bears.
const CONTROL_PLANE: &str = "kuma-cp";

/// What a proxy has for its admin interface.
#[derive(Default)]
pub(crate) struct Admin {
    pub(crate) clusters: Vec<ClusterDraft>,
    pub(crate) listener: Option<ListenerDraft>,
}

impl Admin {
    /// The port that is taken on the address of the proxy.
    pub(crate) fn port(&self, own: &Own<'_>) -> Option<u16> {
        self.listener.as_ref().map(|_| own.proxy.metadata.admin_port)
    }
}

/// Generates for proxies that have an admin interface.
pub(crate) fn generate(own: &Own<'_>, issues: &mut Issues) -> Admin {
    let metadata = &own.proxy.metadata;
    let mut admin = Admin::default();
    if metadata.admin_port == 0 {
        return admin;
    }
    let mut refuse = |reason: &str| {
        issues.left_out(&own.dataplane.key, "networking.admin", reason);
        Admin::default()
    };
    // Only loopback is accepted: the address is the proxy's word, and the listener forwards to it.
    let loopback = match metadata.admin_address.as_str() {
        "" | "127.0.0.1" | "0.0.0.0" => "127.0.0.1",
        "::1" | "::" => "::1",
        _ => return refuse("the admin address of a proxy has to be a loopback address"),
    };
    let readiness = if metadata.features.contains("feature-readiness-unix-socket") {
        pipe(&in_work_dir(&metadata.work_dir, "kuma-readiness-reporter.sock"))
    } else if metadata.readiness_port > 0 {
        socket_address(loopback, metadata.readiness_port.into())
    } else {
        return refuse("a proxy with an admin interface has to report readiness");
    };
    let on_socket = !metadata.admin_socket_path.is_empty();
    let interface = if on_socket {
        pipe(&metadata.admin_socket_path)
    } else {
        socket_address(loopback, metadata.admin_port.into())
    };
    for (name, address) in [(ADMIN, interface), (READINESS, readiness)] {
        let mut draft = cluster(name, address);
        mesh_circuit_breaker::track_remaining(&mut draft.cluster);
        admin.clusters.push(draft);
    }
    // On one address the admin interface itself is already there.
    let itself = !on_socket && own.address() == loopback;
    if !itself && is_ip(own.address()) {
        admin.listener = Some(listener(own));
    }
    admin
}

/// The path of a file of the proxy's agent.
pub(crate) fn in_work_dir(work_dir: &str, file: &str) -> String {
    if work_dir.is_empty() {
        file.to_owned()
    } else {
        format!("{}/{file}", work_dir.trim_end_matches('/'))
    }
}

fn cluster(name: &str, address: Address) -> ClusterDraft {
    let endpoint = LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(address),
            ..Endpoint::default()
        })),
        ..LbEndpoint::default()
    };
    let cluster = Cluster {
        name: name.to_owned(),
        alt_stat_name: alt_stat_name(name),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
        connect_timeout: Some(seconds(5)),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            endpoints: vec![LocalityLbEndpoints {
                lb_endpoints: vec![endpoint],
                ..LocalityLbEndpoints::default()
            }],
            ..ClusterLoadAssignment::default()
        }),
        ..Cluster::default()
    };
    ClusterDraft::plain(cluster)
}

/// Plain connections can ask for readiness; the control plane, with its certificate, for all.
fn listener(own: &Own<'_>) -> ListenerDraft {
    let metadata = &own.proxy.metadata;
    let mut chains = vec![ChainDraft {
        terminal: Some(manager(own, &[("/ready", READINESS)])),
        ..ChainDraft::default()
    }];
    if let Some(tls) = &own.settings.admin_tls {
        chains.push(ChainDraft {
            chain: FilterChain {
                filter_chain_match: Some(FilterChainMatch {
                    transport_protocol: "tls".to_owned(),
                    ..FilterChainMatch::default()
                }),
                transport_socket: Some(socket(tls)),
                ..FilterChain::default()
            },
            terminal: Some(manager(own, &[("/ready", READINESS), ("/", ADMIN)])),
        });
    }
    let listener = Listener {
        name: ADMIN.to_owned(),
        address: Some(socket_address(own.address(), metadata.admin_port.into())),
        traffic_direction: TrafficDirection::Inbound.into(),
        enable_reuse_port: Some(metadata.features.contains("feature-reuse-port")),
        listener_filters: vec![tls_inspector()],
        ..Listener::default()
    };
    ListenerDraft { listener, chains }
}

fn manager(own: &Own<'_>, routes: &[(&str, &str)]) -> Terminal {
    let route = |(prefix, cluster): &(&str, &str)| Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix((*prefix).to_owned())),
            ..RouteMatch::default()
        }),
        action: Some(route::Action::Route(RouteAction {
            prefix_rewrite: (*prefix).to_owned(),
            cluster_specifier: Some(ClusterSpecifier::Cluster((*cluster).to_owned())),
            ..RouteAction::default()
        })),
        ..Route::default()
    };
    Terminal::Http(Box::new(HttpConnectionManager {
        stat_prefix: sanitised(ADMIN),
        internal_address_config: Some(internal_addresses(own)),
        route_specifier: Some(RouteSpecifier::RouteConfig(RouteConfiguration {
            virtual_hosts: vec![VirtualHost {
                name: ADMIN.to_owned(),
                domains: vec!["*".to_owned()],
                routes: routes.iter().map(route).collect(),
                ..VirtualHost::default()
            }],
            validate_clusters: Some(false),
            ..RouteConfiguration::default()
        })),
        http_filters: vec![router()],
        ..HttpConnectionManager::default()
    }))
}

fn socket(tls: &AdminTls) -> TransportSocket {
    let inline = |bytes: &[u8]| {
        Some(DataSource {
            specifier: Some(Specifier::InlineBytes(bytes.to_vec())),
            ..DataSource::default()
        })
    };
    tls_socket(&DownstreamTlsContext {
        require_client_certificate: Some(true),
        common_tls_context: Some(CommonTlsContext {
            tls_certificates: vec![TlsCertificate {
                certificate_chain: inline(&tls.certificate),
                private_key: inline(&tls.key),
                ..TlsCertificate::default()
            }],
            validation_context_type: Some(ValidationContextType::ValidationContext(
                CertificateValidationContext {
                    trusted_ca: inline(&tls.ca),
                    match_typed_subject_alt_names: vec![SubjectAltNameMatcher {
                        san_type: SanType::Dns.into(),
                        matcher: Some(exact(CONTROL_PLANE)),
                        ..SubjectAltNameMatcher::default()
                    }],
                    ..CertificateValidationContext::default()
                },
            )),
            ..CommonTlsContext::default()
        }),
        ..DownstreamTlsContext::default()
    })
}
