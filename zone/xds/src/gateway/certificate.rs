//! Certificates of listeners that end TLS (Kuma:
//! pkg/plugins/runtime/gateway/filter_chain_generator.go).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sunbear_model::ResourceKey;
use sunbear_proto::{
    envoy::{
        config::{
            core::v3::{DataSource as EnvoyData, TransportSocket, data_source::Specifier},
            listener::v3::{FilterChain, FilterChainMatch},
        },
        extensions::transport_sockets::tls::v3::{
            CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig,
            Secret, TlsCertificate, TlsParameters,
            common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
            secret::Type,
            tls_parameters::TlsProtocol,
        },
    },
    kuma::{
        mesh::v1alpha1::mesh_gateway::{listener::Protocol, tls},
        system::v1alpha1::{DataSource, data_source},
    },
};

use super::{
    Refused, host,
    port::{self, Port, PortListener},
};
use crate::{
    context::Context,
    envoy::{ads, tls_socket},
    hostname,
    issue::{Effect, Issues},
    last_good::{ChainId, Kept, LastGood},
    resources::XdsResource,
    secret::SecretRequest,
    tls::{ServerCertificate, load, secret_name},
};

/// The filter chains of all ports that look at TLS, without what is behind them, and what they need.
#[derive(Default)]
pub(super) struct Chains {
    by_id: BTreeMap<ChainId, FilterChain>,
    /// Certificates as Envoy gets them, by name.
    secrets: BTreeMap<String, Arc<XdsResource>>,
    /// What there is to keep for the next time.
    pub(super) good: LastGood,
    /// Secrets of the mesh that were asked for.
    pub(super) asked: BTreeSet<String>,
    pub(super) issues: Issues,
}

impl Chains {
    /// Ports come in ascending order.
    pub(super) fn of(ctx: &Context<'_>, gateway: &ResourceKey, ports: &[Port<'_>]) -> Self {
        let mut chains = Self::default();
        for port in ports.iter().filter(|port| port.by_hostname() && !port.cross_mesh) {
            for (key, listener) in host::keys(port) {
                let place = Place { gateway, port, key, listener };
                match chains.chain(ctx, &place) {
                    Ok(chain) => {
                        chains.by_id.insert((port.number, key.to_owned()), chain);
                    }
                    Err(Refused::Told) => {}
                    Err(refused) => {
                        let field = port::field(listener.index);
                        chains.issues.left_out(gateway, field, refused.to_string());
                    }
                }
            }
        }
        chains
    }

    /// The secrets.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &Arc<XdsResource>> {
        self.secrets.values()
    }

    /// The chain of a group of hosts; none if it had to be left out.
    pub(super) fn get(&self, port: u16, key: &str) -> Option<&FilterChain> {
        self.by_id.get(&(port, key.to_owned()))
    }

    fn chain(&mut self, ctx: &Context<'_>, place: &Place<'_>) -> Result<FilterChain, Refused> {
        if !is_server_name(place.key) {
            return Err(Refused::Hostname);
        }
        let conf = place.listener.spec.tls.as_ref();
        let protocol = place.port.protocol;
        let transport_socket = match conf.map(tls::Conf::mode) {
            Some(tls::Mode::Passthrough) if protocol == Protocol::Tls => None,
            Some(tls::Mode::Terminate) => {
                let certificates = conf.map_or(&[][..], |c| &c.certificates);
                let names = self.load(ctx, place, certificates)?;
                Some(terminate(names, protocol == Protocol::Https))
            }
            Some(tls::Mode::Passthrough | tls::Mode::None) | None => return Err(Refused::TlsMode),
        };
        let any = place.key == hostname::ANY;
        Ok(FilterChain {
            filter_chain_match: Some(FilterChainMatch {
                server_names: if any { Vec::new() } else { vec![place.key.to_owned()] },
                transport_protocol: "tls".to_owned(),
                ..FilterChainMatch::default()
            }),
            transport_socket,
            ..FilterChain::default()
        })
    }

    /// Names of the secrets of a chain. If data is missing or damaged, the chain keeps what it had:
    /// that one certificate if its source had one, else all of its certificates.
    fn load(
        &mut self,
        ctx: &Context<'_>,
        place: &Place<'_>,
        sources: &[DataSource],
    ) -> Result<Vec<String>, Refused> {
        if sources.is_empty() {
            return Err(Refused::NoCertificate);
        }
        self.asked.extend(sources.iter().filter_map(secret_name).map(str::to_owned));
        let field = |index| format!("{}[{index}]", place.field("tls.certificates"));
        let mut loaded = Vec::new();
        let mut failed = None;
        for (index, source) in sources.iter().enumerate() {
            let id = source_id(source, place, index);
            match read(ctx, source) {
                Ok(certificate) => {
                    loaded.push(Kept {
                        secret: self.secret(source, &certificate, place),
                        source: id,
                    });
                }
                Err(failure) => {
                    let kept = ctx.last_good.certificate(&id).filter(|_| failure.about_data);
                    if let Some(secret) = kept {
                        let reason = failure.reason;
                        self.issues.add(place.gateway, field(index), reason, Effect::LastGood);
                        loaded.push(Kept { secret: Arc::clone(secret), source: id });
                    } else {
                        failed.get_or_insert((index, failure));
                    }
                }
            }
        }
        let id = (place.port.number, place.key.to_owned());
        if let Some((index, failure)) = failed {
            let kept = ctx.last_good.certificates.get(&id).filter(|_| failure.about_data);
            let effect = if kept.is_some() { Effect::LastGood } else { Effect::LeftOut };
            self.issues.add(place.gateway, field(index), failure.reason, effect);
            let kept = kept.ok_or(Refused::Told)?;
            let kept_names = kept.iter().filter_map(Kept::secret_name);
            self.asked.extend(kept_names.map(str::to_owned));
            loaded = kept.iter().map(|kept| self.refreshed(ctx, kept, place)).collect();
        }
        let mut names: Vec<String> = Vec::new();
        for kept in &loaded {
            if names.contains(&kept.secret.name) {
                let reason = format!("duplicate TLS certificate {:?}", kept.secret.name);
                self.issues.left_out(place.gateway, place.field("tls"), reason);
                return Err(Refused::Told);
            }
            names.push(kept.secret.name.clone());
        }
        for kept in &loaded {
            self.secrets.insert(kept.secret.name.clone(), Arc::clone(&kept.secret));
        }
        self.good.certificates.insert(id, loaded);
        Ok(names)
    }

    /// A certificate that a chain had, in its newest version if that is good.
    fn refreshed(&self, ctx: &Context<'_>, kept: &Kept, place: &Place<'_>) -> Kept {
        let name = kept.secret_name();
        let source =
            name.map(|n| DataSource { r#type: Some(data_source::Type::Secret(n.to_owned())) });
        let fresh = source.and_then(|source| {
            let certificate = read(ctx, &source).ok()?;
            Some(self.secret(&source, &certificate, place))
        });
        let secret = fresh.unwrap_or_else(|| Arc::clone(&kept.secret));
        Kept { source: kept.source.clone(), secret }
    }

    /// The secret of a certificate. Its name tells the source; for data in the listener itself that
    /// is the host name, to which the port is added only if a lower port has other data under the
    /// same host name (D-11).
    fn secret(
        &self,
        source: &DataSource,
        certificate: &ServerCertificate,
        place: &Place<'_>,
    ) -> Arc<XdsResource> {
        let (port, hostname) = (place.port.number, place.key);
        let kind = certificate.kind.name();
        let name = match &source.r#type {
            Some(data_source::Type::Secret(name)) => format!("cert.{kind}:secret:{name}"),
            Some(data_source::Type::Inline(_)) => format!("cert.{kind}:inline:{hostname}"),
            Some(data_source::Type::InlineString(_)) => {
                format!("cert.{kind}:inlineString:{hostname}")
            }
            // Not loaded.
            Some(data_source::Type::File(_)) | None => String::new(),
        };
        let secret = Arc::new(message(&name, certificate));
        match self.secrets.get(&name) {
            Some(other) if other.version != secret.version => {
                Arc::new(message(&format!("{name}:{port}"), certificate))
            }
            Some(other) => Arc::clone(other),
            None => secret,
        }
    }
}

/// Where a chain belongs.
struct Place<'p> {
    gateway: &'p ResourceKey,
    port: &'p Port<'p>,
    /// Host name of the chain.
    key: &'p str,
    /// Its first listener.
    listener: &'p PortListener<'p>,
}

impl Place<'_> {
    fn field(&self, below: &str) -> String {
        format!("{}.{below}", port::field(self.listener.index))
    }
}

/// Tells sources of data apart, however often they are read.
fn source_id(source: &DataSource, place: &Place<'_>, index: usize) -> String {
    match &source.r#type {
        Some(data_source::Type::Secret(name)) => format!("secret:{name}"),
        _ => format!("inline:{}:{}:{index}", place.port.number, place.key),
    }
}

struct Failure {
    reason: String,
    /// The data may be mended without a change of the listener.
    about_data: bool,
}

fn read(ctx: &Context<'_>, source: &DataSource) -> Result<ServerCertificate, Failure> {
    let bytes = load(source, ctx.secrets).map_err(|error| Failure {
        about_data: error.is_about_data(),
        reason: error.to_string(),
    })?;
    ServerCertificate::parse(&bytes)
        .map_err(|error| Failure { about_data: true, reason: error.to_string() })
}

fn message(name: &str, certificate: &ServerCertificate) -> XdsResource {
    let inline = |text: &str| {
        Some(EnvoyData {
            specifier: Some(Specifier::InlineString(text.to_owned())),
            ..EnvoyData::default()
        })
    };
    let secret = Secret {
        name: name.to_owned(),
        r#type: Some(Type::TlsCertificate(TlsCertificate {
            certificate_chain: inline(&certificate.chain),
            private_key: inline(&certificate.key),
            ..TlsCertificate::default()
        })),
    };
    XdsResource::new(name, &secret)
}

/// Can Envoy compare a host name with that of a handshake? It takes no wildcard but a first label.
fn is_server_name(name: &str) -> bool {
    name == hostname::ANY
        || !name.strip_prefix("*.").unwrap_or(name).is_empty()
            && !name.strip_prefix("*.").unwrap_or(name).contains(['*', '\0'])
}

fn terminate(secrets: Vec<String>, http: bool) -> TransportSocket {
    let alpn: &[&str] = if http { &["h2", "http/1.1"] } else { &[] };
    tls_socket(&DownstreamTlsContext {
        require_client_certificate: Some(false),
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(TlsParameters {
                tls_minimum_protocol_version: TlsProtocol::TlSv12.into(),
                ..TlsParameters::default()
            }),
            alpn_protocols: alpn.iter().map(|p| (*p).to_owned()).collect(),
            tls_certificate_sds_secret_configs: secrets
                .into_iter()
                .map(|name| SdsSecretConfig { name, sds_config: Some(ads()) })
                .collect(),
            ..CommonTlsContext::default()
        }),
        ..DownstreamTlsContext::default()
    })
}

/// The filter chain of a cross-mesh listener, without what is behind it, and the secrets that it
/// needs. Whoever has a certificate of some mesh may come in.
pub(super) fn cross_mesh(mesh: &str) -> (FilterChain, [SecretRequest; 2]) {
    let identity = SecretRequest::Identity { mesh: mesh.to_owned() };
    let authorities = SecretRequest::AllMeshCas;
    let socket = tls_socket(&DownstreamTlsContext {
        require_client_certificate: Some(true),
        common_tls_context: Some(CommonTlsContext {
            tls_certificate_sds_secret_configs: vec![identity.reference()],
            validation_context_type: Some(ValidationContextType::CombinedValidationContext(
                CombinedCertificateValidationContext {
                    default_validation_context: Some(CertificateValidationContext::default()),
                    validation_context_sds_secret_config: Some(authorities.reference()),
                    ..CombinedCertificateValidationContext::default()
                },
            )),
            ..CommonTlsContext::default()
        }),
        ..DownstreamTlsContext::default()
    });
    let chain = FilterChain {
        filter_chain_match: Some(FilterChainMatch {
            transport_protocol: "tls".to_owned(),
            application_protocols: vec!["kuma".to_owned()],
            ..FilterChainMatch::default()
        }),
        transport_socket: Some(socket),
        ..FilterChain::default()
    };
    (chain, [identity, authorities])
}
