//! External services: which destinations are some, and the clusters that lead there directly (Kuma:
//! pkg/plugins/runtime/gateway/cluster_generator.go, pkg/xds/envoy/clusters/v3).

use std::{cell::OnceCell, collections::BTreeSet, fmt, sync::Arc};

use sunbear_model::{
    Kind, Resource, Typed, label,
    tags::{self, Tags},
};
use sunbear_proto::{
    envoy::{
        config::{
            cluster::v3::{
                Cluster,
                cluster::{
                    ClusterDiscoveryType, DiscoveryType, DnsLookupFamily, TransportSocketMatch,
                },
            },
            core::v3::{DataSource as EnvoyData, TransportSocket, data_source::Specifier},
            endpoint::v3::ClusterLoadAssignment,
        },
        extensions::transport_sockets::tls::v3::{
            CertificateValidationContext, CommonTlsContext, SubjectAltNameMatcher, TlsCertificate,
            UpstreamTlsContext, common_tls_context::ValidationContextType,
            subject_alt_name_matcher::SanType,
        },
    },
    kuma::{
        mesh::v1alpha1::{ExternalService, external_service::networking::Tls},
        system::v1alpha1::DataSource,
    },
};

use crate::{
    context::Context,
    endpoint::{self, Endpoints, Localities, lb_endpoint, tag_struct},
    envoy::{exact, tls_socket},
    issue::{Effect, Issues},
    last_good::LastGood,
    permission::Permissions,
    protocol::Protocol,
    proxy::is_ip,
    tls,
};

/// Tag that tells the endpoints of one service apart.
const NAME_TAG: &str = "kuma.io/external-service-name";

/// What a service is called with: the authorities that its certificate has to come from, and the
/// client certificate with its key. All PEM.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Credentials {
    pub(crate) authorities: Option<Vec<u8>>,
    pub(crate) client: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// How a destination is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// It is in the mesh, or nothing is known of it.
    Mesh,
    /// It is outside, and the zone's egress leads there.
    Egress,
    /// It is outside, and the gateway goes there itself.
    Direct,
}

/// The external services of the mesh.
pub(crate) struct ExternalServices<'a> {
    list: Vec<External<'a>>,
    /// Permissions play a part.
    restricted: bool,
    through_egress: bool,
}

/// An external service.
pub(crate) struct External<'a> {
    resource: &'a Arc<Resource>,
    spec: &'a ExternalService,
    host: &'a str,
    port: u32,
    permitted: bool,
    /// Loaded when a destination needs them.
    loaded: OnceCell<Loaded>,
}

/// Credentials, and what there is to tell of them: field, reason, and what is used instead.
struct Loaded {
    credentials: Option<Arc<Credentials>>,
    issue: Option<(&'static str, String, Effect)>,
}

impl<'a> ExternalServices<'a> {
    pub(crate) fn load(ctx: &Context<'a>, issues: &mut Issues) -> Self {
        let permissions = Permissions::load(ctx, issues);
        let mut list = Vec::new();
        for resource in ctx.list(Kind::EXTERNAL_SERVICE) {
            let Typed::ExternalService(spec) = resource.spec.typed() else { continue };
            let address = spec.networking.as_ref().map_or("", |n| &n.address);
            let Some((host, port)) = split_address(address) else {
                issues.left_out(&resource.key, "networking.address", "expected host:port");
                continue;
            };
            list.push(External {
                resource,
                spec,
                host,
                port: port.into(),
                permitted: permissions.is_empty() || permissions.permit(&spec.tags, &ctx.dataplane),
                loaded: OnceCell::new(),
            });
        }
        Self { list, restricted: !permissions.is_empty(), through_egress: ctx.through_egress() }
    }

    fn of_service(&self, service: &str) -> impl Iterator<Item = &External<'a>> {
        self.list
            .iter()
            .filter(move |e| e.tags().get(label::SERVICE_TAG).is_some_and(|s| s == service))
    }

    /// How a destination is reached. Of a Dataplane and an external service of one name the
    /// Dataplane counts; with permissions in the mesh it is the external service, if permitted.
    pub(crate) fn reach(&self, endpoints: &Endpoints, service: &str, destination: &Tags) -> Reach {
        if self.through_egress {
            return if endpoints.is_external(service) { Reach::Egress } else { Reach::Mesh };
        }
        let external = if self.restricted {
            self.of_service(service).any(|e| e.permitted)
        } else {
            !endpoints.is_known(service) && self.of_service(service).next().is_some()
        };
        if external && self.matching(destination).next().is_some() {
            Reach::Direct
        } else {
            Reach::Mesh
        }
    }

    /// Those whose tags a destination selects, and which the gateway may use.
    pub(crate) fn matching(&self, destination: &Tags) -> impl Iterator<Item = &External<'a>> {
        self.list.iter().filter(|e| e.permitted && tags::matches(destination, e.tags()))
    }

    /// Names of the secrets that a destination needs.
    pub(crate) fn secrets(&self, destination: &Tags) -> BTreeSet<String> {
        let tls = self.matching(destination).filter_map(External::tls);
        let sources = tls.flat_map(|tls| [&tls.ca_cert, &tls.client_cert, &tls.client_key]);
        sources.flatten().filter_map(tls::secret_name).map(str::to_owned).collect()
    }

    /// What all external services of a name speak.
    pub(crate) fn protocol(&self, service: &str) -> Option<Protocol> {
        if self.through_egress {
            return None;
        }
        Protocol::common_of(self.of_service(service).map(|e| {
            e.tags().get(label::PROTOCOL_TAG).and_then(|protocol| Protocol::parse(protocol))
        }))
    }

    /// Takes note of the credentials that were used, and forgets those of services that are gone.
    pub(crate) fn note(&self, last_good: &mut LastGood) {
        let names: BTreeSet<&str> = self.list.iter().map(|e| &*e.resource.key.name).collect();
        last_good.credentials.retain(|name, _| names.contains(name.as_str()));
        for external in &self.list {
            let credentials = external.loaded.get().and_then(|loaded| loaded.credentials.as_ref());
            if let Some(credentials) = credentials {
                let name = external.resource.key.name.to_string();
                last_good.credentials.insert(name, Arc::clone(credentials));
            }
        }
    }

    /// The parts of a cluster that are peculiar to external services: type, endpoints, TLS.
    pub(crate) fn configure(
        &self,
        ctx: &Context<'_>,
        cluster: &mut Cluster,
        service: &str,
        destination: &Tags,
        issues: &mut Issues,
    ) {
        let usable: Vec<_> =
            self.matching(destination).filter(|e| e.is_usable(ctx, issues)).collect();
        let by_name = usable.iter().filter(|e| !is_ip(e.host)).count();
        let mixed = by_name > 0 && by_name < usable.len();
        if mixed {
            let reason = "addresses and host names cannot be mixed in one external service";
            issues.left_out(&usable[0].resource.key, "networking.address", reason);
        }
        let usable = if mixed { Vec::new() } else { usable };
        if by_name > 0 && !mixed {
            set_type(cluster, DiscoveryType::StrictDns);
            cluster.dns_lookup_family = dns_family(ctx).into();
        } else {
            set_type(cluster, DiscoveryType::Static);
        }
        cluster.load_assignment = Some(load_assignment(ctx, service, &usable));
        cluster.transport_socket_matches = usable.iter().filter_map(|e| e.socket_match()).collect();
    }
}

fn set_type(cluster: &mut Cluster, discovery: DiscoveryType) {
    cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(discovery.into()));
}

/// Which addresses of a name are used.
pub(crate) fn dns_family(ctx: &Context<'_>) -> DnsLookupFamily {
    if ctx.identity.ipv6 { DnsLookupFamily::Auto } else { DnsLookupFamily::V4Only }
}

fn load_assignment(
    ctx: &Context<'_>,
    service: &str,
    usable: &[&External<'_>],
) -> ClusterLoadAssignment {
    let localities = Localities::of(ctx);
    let mut sorted = usable.to_vec();
    sorted.sort_by_key(|e| (e.host, e.port));
    let endpoints = sorted.into_iter().map(|external| {
        let zone = external.tags().get(label::ZONE).map(String::as_str);
        let tags = external.endpoint_tags();
        let endpoint = lb_endpoint(external.host, external.port, 1, &tags, None);
        (zone, localities.priority(zone), endpoint)
    });
    endpoint::assignment(service, endpoints.collect())
}

impl External<'_> {
    fn tags(&self) -> &Tags {
        &self.spec.tags
    }

    fn tls(&self) -> Option<&Tls> {
        self.spec.networking.as_ref()?.tls.as_ref().filter(|tls| tls.enabled)
    }

    fn endpoint_tags(&self) -> Tags {
        let mut tags = self.tags().clone();
        if self.tls().is_some() {
            tags.insert(NAME_TAG.to_owned(), self.resource.key.name.to_string());
        }
        tags
    }

    /// Has it what it needs to be called? Tells of it if not.
    fn is_usable(&self, ctx: &Context<'_>, issues: &mut Issues) -> bool {
        let Some(tls) = self.tls() else { return true };
        let loaded = self.loaded.get_or_init(|| self.load(ctx, tls));
        if let Some((field, reason, effect)) = &loaded.issue {
            let field = format!("networking.tls.{field}");
            issues.add(&self.resource.key, field, reason, *effect);
        }
        loaded.credentials.is_some()
    }

    fn load(&self, ctx: &Context<'_>, tls: &Tls) -> Loaded {
        let sni = self.server_name(tls);
        if sni.len() > 255 || sni.contains('\0') {
            let reason = "no server name can be made of this".to_owned();
            let issue = Some(("serverName", reason, Effect::LeftOut));
            return Loaded { credentials: None, issue };
        }
        let (field, reason, about_data) = match read_credentials(ctx, tls) {
            Ok(credentials) => {
                return Loaded { credentials: Some(Arc::new(credentials)), issue: None };
            }
            Err(failure) => failure,
        };
        let kept = ctx.last_good.credentials.get(&*self.resource.key.name).filter(|_| about_data);
        let effect = if kept.is_some() { Effect::LastGood } else { Effect::LeftOut };
        Loaded { credentials: kept.cloned(), issue: Some((field, reason, effect)) }
    }

    /// The name in the TLS handshake: an address is none.
    fn server_name<'t>(&'t self, tls: &'t Tls) -> &'t str {
        match &tls.server_name {
            Some(name) if !name.is_empty() => name,
            Some(_) | None if is_ip(self.host) => "",
            Some(_) | None => self.host,
        }
    }

    fn socket_match(&self) -> Option<TransportSocketMatch> {
        let tls = self.tls()?;
        let credentials = self.loaded.get()?.credentials.clone()?;
        Some(TransportSocketMatch {
            name: self.host.to_owned(),
            r#match: tag_struct(&self.endpoint_tags()),
            transport_socket: Some(self.socket(tls, &credentials)),
        })
    }

    /// Without authorities nothing is verified, as ever with external services of this kind.
    fn socket(&self, tls: &Tls, credentials: &Credentials) -> TransportSocket {
        let sni = self.server_name(tls);
        let mut common = CommonTlsContext::default();
        if let Some((certificate, key)) = &credentials.client {
            common.tls_certificates.push(TlsCertificate {
                certificate_chain: inline(certificate),
                private_key: inline(key),
                ..TlsCertificate::default()
            });
        }
        if let Some(authorities) = &credentials.authorities {
            let expected = if sni.is_empty() { self.host } else { sni };
            let verified = !tls.skip_hostname_verification.unwrap_or_default();
            let matchers = [SanType::Dns, SanType::IpAddress].into_iter().filter(|_| verified);
            common.validation_context_type =
                Some(ValidationContextType::ValidationContext(CertificateValidationContext {
                    trusted_ca: inline(authorities),
                    match_typed_subject_alt_names: matchers
                        .map(|san_type| SubjectAltNameMatcher {
                            san_type: san_type.into(),
                            matcher: Some(exact(expected)),
                            ..SubjectAltNameMatcher::default()
                        })
                        .collect(),
                    ..CertificateValidationContext::default()
                }));
        }
        tls_socket(&UpstreamTlsContext {
            sni: sni.to_owned(),
            allow_renegotiation: tls.allow_renegotiation.unwrap_or_default(),
            common_tls_context: (common != CommonTlsContext::default()).then_some(common),
            ..UpstreamTlsContext::default()
        })
    }
}

/// Field, reason, and whether it is about data.
type Failure = (&'static str, String, bool);

fn read_credentials(ctx: &Context<'_>, tls: &Tls) -> Result<Credentials, Failure> {
    let load = |field, source: &Option<DataSource>| -> Result<Option<Vec<u8>>, Failure> {
        let Some(source) = source else { return Ok(None) };
        match tls::load(source, ctx.secrets) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) => Err((field, error.to_string(), error.is_about_data())),
        }
    };
    let authorities = load("caCert", &tls.ca_cert)?;
    if let Some(authorities) = &authorities {
        tls::check_authorities(authorities).map_err(|e| ("caCert", e.to_string(), true))?;
    }
    let certificate = load("clientCert", &tls.client_cert)?;
    let client = certificate.zip(load("clientKey", &tls.client_key)?);
    if let Some((certificate, key)) = &client {
        tls::check_pair(certificate, key).map_err(|e| ("clientCert", e.to_string(), true))?;
    }
    Ok(Credentials { authorities, client })
}

fn inline(bytes: &[u8]) -> Option<EnvoyData> {
    Some(EnvoyData {
        specifier: Some(Specifier::InlineBytes(bytes.to_vec())),
        ..EnvoyData::default()
    })
}

/// Host and port of `host:port`; an IPv6 address is in brackets.
pub(crate) fn split_address(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    let port = port.parse().ok().filter(|p| *p > 0)?;
    (!host.is_empty() && !host.contains(['[', ']', '\0'])).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::split_address;

    #[test]
    fn addresses() {
        for (text, want) in [
            ("example.com:443", Some(("example.com", 443))),
            ("[::1]:80", Some(("::1", 80))),
            ("1.2.3.4:65535", Some(("1.2.3.4", 65535))),
            ("::1:80", None),
            ("example.com", None),
            (":80", None),
            ("a:0", None),
            ("a:65536", None),
            ("a:http", None),
        ] {
            assert_eq!(split_address(text), want, "{text}");
        }
    }
}
