//! Clusters of destinations (Kuma: pkg/plugins/runtime/gateway/cluster_generator.go).

use std::fmt::Write as _;

use sha2::{Digest, Sha256};
use sunbear_model::{label, tags::Tags};
use sunbear_proto::envoy::{
    config::{
        cluster::v3::{
            Cluster,
            cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig},
        },
        core::v3::{
            Http1ProtocolOptions, HttpProtocolOptions as CommonHttpOptions, TransportSocket,
        },
    },
    extensions::{
        transport_sockets::tls::v3::{
            CertificateValidationContext, CommonTlsContext, SubjectAltNameMatcher,
            UpstreamTlsContext,
            common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
            subject_alt_name_matcher::SanType,
        },
        upstreams::http::v3::{
            HttpProtocolOptions,
            http_protocol_options::{
                ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
            },
        },
    },
};

use super::target::Target;
use crate::{
    context::Context,
    draft::ClusterDraft,
    envoy::{BUFFER_LIMIT, ads, alt_stat_name, exact, http2_windows, seconds, tls_socket},
    protocol::Protocol,
    secret::SecretRequest,
};

/// Default time to connect.
pub(crate) const CONNECT_TIMEOUT_SECONDS: i64 = 5;

/// The name of the cluster for a destination behind a listener: the service, and a hash of the tags
/// of both.
pub(crate) fn name(service: &str, destination: &Tags, listener: &Tags) -> String {
    if listener.is_empty() && destination.len() == 1 {
        return service.to_owned();
    }
    let mut hash = Sha256::new();
    for (key, value) in destination.iter().chain(listener) {
        hash.update(key);
        hash.update(value);
    }
    let mut name = String::with_capacity(service.len() + 17);
    name.push_str(service);
    name.push('-');
    for byte in &hash.finalize()[..8] {
        // Writing to a String cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// Longest server name.
const MAX_SERVER_NAME: usize = 255;

/// Service that egresses have in their certificates.
pub(crate) const EGRESS: &str = "zone-egress";

/// A cluster of addresses in the mesh. `identity` is the service that the other side has to prove
/// to be.
pub(super) fn in_mesh(
    ctx: &Context<'_>,
    target: &Target,
    protocol: Protocol,
    identity: &str,
) -> Result<ClusterDraft, NameTooLong> {
    let mut draft = base(target, protocol);
    draft.cluster.cluster_discovery_type =
        Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into()));
    draft.cluster.eds_cluster_config =
        Some(EdsClusterConfig { eds_config: Some(ads()), service_name: String::new() });
    if ctx.mtls() {
        let mesh = ctx.mesh_name().to_owned();
        let certificate = SecretRequest::Identity { mesh: mesh.clone() };
        let ca = SecretRequest::MeshCa { mesh };
        let sni = server_name(ctx.mesh_name(), target.service(), &target.destination);
        if sni.len() > MAX_SERVER_NAME {
            return Err(NameTooLong);
        }
        draft.cluster.transport_socket =
            Some(mesh_tls(ctx.mesh_name(), sni, identity, &certificate, &ca));
        draft.secrets = vec![certificate, ca];
    }
    Ok(draft)
}

/// The tags of a destination make a server name that TLS cannot carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the tags of a destination are longer than the 255 bytes that a server name can have")]
pub(super) struct NameTooLong;

/// A cluster that lacks its endpoints.
pub(super) fn without_endpoints(target: &Target, protocol: Protocol) -> ClusterDraft {
    base(target, protocol)
}

fn base(target: &Target, protocol: Protocol) -> ClusterDraft {
    let cluster = Cluster {
        name: target.name.clone(),
        alt_stat_name: alt_stat_name(target.service()),
        connect_timeout: Some(seconds(CONNECT_TIMEOUT_SECONDS)),
        per_connection_buffer_limit_bytes: Some(BUFFER_LIMIT),
        ..Cluster::default()
    };
    ClusterDraft { cluster, http: http_options(protocol), secrets: Vec::new() }
}

/// HTTP options of a protocol, if it is one of the HTTP family. No idle timeout until a policy
/// says otherwise.
fn http_options(protocol: Protocol) -> Option<HttpProtocolOptions> {
    let config = match protocol {
        Protocol::Http => ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default()),
        Protocol::Http2 | Protocol::Grpc => ProtocolConfig::Http2ProtocolOptions(http2_windows()),
        Protocol::Kafka | Protocol::Tcp | Protocol::Tls => return None,
    };
    Some(HttpProtocolOptions {
        common_http_protocol_options: Some(CommonHttpOptions {
            idle_timeout: Some(seconds(0)),
            ..CommonHttpOptions::default()
        }),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(
            ExplicitHttpConfig { protocol_config: Some(config) },
        )),
        ..HttpProtocolOptions::default()
    })
}

/// mTLS to a sidecar of the mesh, possibly through an ingress, which reads the server name.
fn mesh_tls(
    mesh: &str,
    sni: String,
    identity: &str,
    certificate: &SecretRequest,
    ca: &SecretRequest,
) -> TransportSocket {
    tls_socket(&UpstreamTlsContext {
        sni,
        common_tls_context: Some(CommonTlsContext {
            alpn_protocols: vec!["kuma".to_owned()],
            tls_certificate_sds_secret_configs: vec![certificate.reference()],
            validation_context_type: Some(ValidationContextType::CombinedValidationContext(
                CombinedCertificateValidationContext {
                    default_validation_context: Some(CertificateValidationContext {
                        match_typed_subject_alt_names: vec![SubjectAltNameMatcher {
                            san_type: SanType::Uri.into(),
                            matcher: Some(exact(&format!("spiffe://{mesh}/{identity}"))),
                            ..SubjectAltNameMatcher::default()
                        }],
                        ..CertificateValidationContext::default()
                    }),
                    validation_context_sds_secret_config: Some(ca.reference()),
                    ..CombinedCertificateValidationContext::default()
                },
            )),
            ..CommonTlsContext::default()
        }),
        ..UpstreamTlsContext::default()
    })
}

/// The server name by which ingresses and egresses tell destinations apart.
fn server_name(mesh: &str, service: &str, destination: &Tags) -> String {
    let mut tags = destination.clone();
    tags.remove(label::SERVICE_TAG);
    tags.insert("mesh".to_owned(), mesh.to_owned());
    let pairs: Vec<String> = tags.iter().map(|(k, v)| format!("{k}={v}")).collect();
    format!("{service}{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use sunbear_model::tags::Tags;

    use super::{name, server_name};

    fn tags(pairs: &[(&str, &str)]) -> Tags {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn names() {
        let echo = tags(&[("kuma.io/service", "echo-service")]);
        let gateway = tags(&[("kuma.io/service", "gateway-default")]);
        assert_eq!(name("echo-service", &echo, &gateway), "echo-service-bfae5b64a0fe8b74");
        assert_eq!(name("echo-service", &echo, &Tags::new()), "echo-service");
        let backend = tags(&[("kuma.io/service", "backend"), ("region", "us")]);
        assert_eq!(name("backend", &backend, &Tags::new()), "backend-c72efb5be46fae6b");
    }

    #[test]
    fn server_names() {
        let backend = tags(&[("kuma.io/service", "backend"), ("version", "1"), ("env", "x")]);
        assert_eq!(
            server_name("default", "backend", &backend),
            "backend{env=x,mesh=default,version=1}"
        );
    }
}
