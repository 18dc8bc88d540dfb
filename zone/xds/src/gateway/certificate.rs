//! Certificates of listeners that end TLS (Kuma:
//! pkg/plugins/runtime/gateway/filter_chain_generator.go).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sunbear_model::{
    ResourceKey,
    gateway::{Port, PortListener, keys, listener_field},
    hostname,
};
use sunbear_proto::{
    envoy::{
        config::{
            core::v3::{
                DataSource as EnvoyData, TransportSocket, WatchedDirectory, data_source::Specifier,
            },
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

use super::Refused;
use crate::{
    context::Context,
    envoy::{ads, tls_socket},
    issue::{Effect, Issues},
    last_good::{ChainId, LastGood, Source},
    resources::XdsResource,
    secret::SecretRequest,
    tls::{ServerCertificate, load},
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
            for (key, listener) in keys(port) {
                let place = Place { gateway, port, key, listener };
                match chains.chain(ctx, &place) {
                    Ok(chain) => {
                        chains.by_id.insert((port.number, key.to_owned()), chain);
                    }
                    Err(Refused::Told) => {}
                    Err(refused) => {
                        let field = listener_field(listener.index);
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
        let mut loaded = Vec::new();
        let mut failed = None;
        for (index, source) in sources.iter().enumerate() {
            let id = place.source(source, index);
            match self.read(ctx, source, &id) {
                Read::Fresh(certificate) => loaded.push((id, certificate)),
                Read::Kept(certificate, reason) => {
                    let field = place.certificate(index);
                    self.issues.add(place.gateway, field, reason, Effect::LastGood);
                    loaded.push((id, certificate));
                }
                Read::Failed(failure) => {
                    failed.get_or_insert((index, failure));
                }
            }
        }
        let id = place.chain();
        let mut previous = None;
        if let Some((index, failure)) = failed {
            previous = ctx.last_good.chains.get(&id).filter(|_| failure.about_data);
            let effect = if previous.is_some() { Effect::LastGood } else { Effect::LeftOut };
            self.issues.add(place.gateway, place.certificate(index), failure.reason, effect);
            let previous = previous.ok_or(Refused::Told)?;
            loaded = previous.iter().filter_map(|source| self.again(ctx, source)).collect();
        }
        // What the chain falls back on is kept even if it is of no use now.
        if let Some(previous) = previous {
            self.good.chains.insert(id.clone(), previous.clone());
        }
        let secrets: Vec<_> = loaded
            .iter()
            .map(|(source, certificate)| self.secret(source, certificate, place))
            .collect();
        let mut names: Vec<String> = Vec::new();
        for secret in &secrets {
            if names.contains(&secret.name) {
                let reason = format!("duplicate TLS certificate {:?}", secret.name);
                self.issues.left_out(place.gateway, place.field("tls"), reason);
                return Err(Refused::Told);
            }
            names.push(secret.name.clone());
        }
        self.secrets.extend(secrets.into_iter().map(|secret| (secret.name.clone(), secret)));
        self.good.chains.insert(id, loaded.into_iter().map(|(source, _)| source).collect());
        Ok(names)
    }

    /// Reads a certificate, and keeps it for the next time. Data that is not good now gives way to
    /// data that was.
    fn read(&mut self, ctx: &Context<'_>, source: &DataSource, id: &Source) -> Read {
        match id {
            Source::File(path) => {
                return match Certificate::file(path) {
                    Ok(certificate) => Read::Fresh(certificate),
                    Err(failure) => Read::Failed(failure),
                };
            }
            Source::Secret(name) => {
                self.asked.insert(name.clone());
            }
            Source::Listener { .. } => {}
        }
        let (certificate, reason) = match parse(ctx, source) {
            Ok(certificate) => (Arc::new(certificate), None),
            Err(failure) => match ctx.last_good.certificates.get(id) {
                Some(kept) if failure.about_data => (Arc::clone(kept), Some(failure.reason)),
                Some(_) | None => return Read::Failed(failure),
            },
        };
        self.good.certificates.insert(id.clone(), Arc::clone(&certificate));
        let certificate = Certificate::Data(certificate);
        match reason {
            None => Read::Fresh(certificate),
            Some(reason) => Read::Kept(certificate, reason),
        }
    }

    /// Reads a certificate that a chain had.
    fn again(&mut self, ctx: &Context<'_>, source: &Source) -> Option<(Source, Certificate)> {
        let certificate = match source {
            Source::File(path) => Certificate::file(path).ok()?,
            Source::Secret(name) => {
                let data = DataSource { r#type: Some(data_source::Type::Secret(name.clone())) };
                match self.read(ctx, &data, source) {
                    Read::Fresh(certificate) | Read::Kept(certificate, _) => certificate,
                    Read::Failed(_) => return None,
                }
            }
            // The listener has other data now, or none.
            Source::Listener { .. } => {
                let known = self.good.certificates.get(source);
                let certificate = Arc::clone(known.or(ctx.last_good.certificates.get(source))?);
                self.good.certificates.insert(source.clone(), Arc::clone(&certificate));
                Certificate::Data(certificate)
            }
        };
        Some((source.clone(), certificate))
    }

    /// The secret of a certificate. Its name tells the source; for data in the listener itself that
    /// is the host name, to which the port is added only if a lower port has other data under the
    /// same host name (D-11).
    fn secret(
        &self,
        source: &Source,
        certificate: &Certificate,
        place: &Place<'_>,
    ) -> Arc<XdsResource> {
        let (port, hostname) = (place.port.number, place.key);
        let kind = match certificate {
            Certificate::Data(data) => data.kind.name(),
            // Only the gateway knows.
            Certificate::File(_) => "",
        };
        let name = match source {
            Source::Secret(name) => format!("cert.{kind}:secret:{name}"),
            Source::File(path) => format!("cert:file:{path}"),
            Source::Listener { string: false, .. } => format!("cert.{kind}:inline:{hostname}"),
            Source::Listener { string: true, .. } => format!("cert.{kind}:inlineString:{hostname}"),
        };
        let secret = Arc::new(certificate.secret(&name));
        match self.secrets.get(&name) {
            Some(other) if other.version != secret.version => {
                Arc::new(certificate.secret(&format!("{name}:{port}")))
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
        format!("{}.{below}", listener_field(self.listener.index))
    }

    fn certificate(&self, index: usize) -> String {
        format!("{}[{index}]", self.field("tls.certificates"))
    }

    fn chain(&self) -> ChainId {
        (self.port.number, self.key.to_owned())
    }

    fn source(&self, source: &DataSource, index: usize) -> Source {
        match &source.r#type {
            Some(data_source::Type::Secret(name)) => Source::Secret(name.clone()),
            Some(data_source::Type::File(path)) => Source::File(path.clone()),
            other => Source::Listener {
                chain: self.chain(),
                index,
                string: matches!(other, Some(data_source::Type::InlineString(_))),
            },
        }
    }
}

/// What a listener presents.
enum Certificate {
    /// Certificates and key that the control plane has.
    Data(Arc<ServerCertificate>),
    /// Path of a PEM file with both on the gateway's machine.
    File(String),
}

impl Certificate {
    /// Envoy reads the file itself, so that the key never leaves the gateway; whether it can is told
    /// by its refusal.
    fn file(path: &str) -> Result<Self, Failure> {
        if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
            return Err(Failure {
                reason: format!(
                    "the path of a file with a certificate has to be absolute, not {path:?}"
                ),
                about_data: false,
            });
        }
        Ok(Self::File(path.to_owned()))
    }

    /// As Envoy gets it. It reads a file again whenever something is moved into its folder, as that
    /// is how certificates are renewed without a moment in which half of a file is there.
    fn secret(&self, name: &str) -> XdsResource {
        let (chain, key, watched_directory) = match self {
            Self::Data(data) => (
                Specifier::InlineString(data.chain.clone()),
                Specifier::InlineString(data.key.clone()),
                None,
            ),
            Self::File(path) => {
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                let folder = if folder.is_empty() { "/" } else { folder };
                let file = Specifier::Filename(path.clone());
                let watched =
                    WatchedDirectory { path: folder.to_owned(), ..WatchedDirectory::default() };
                (file.clone(), file, Some(watched))
            }
        };
        let data =
            |specifier| Some(EnvoyData { specifier: Some(specifier), ..EnvoyData::default() });
        let secret = Secret {
            name: name.to_owned(),
            r#type: Some(Type::TlsCertificate(TlsCertificate {
                certificate_chain: data(chain),
                private_key: data(key),
                watched_directory,
                ..TlsCertificate::default()
            })),
        };
        XdsResource::new(name, &secret)
    }
}

/// What came of reading a certificate.
enum Read {
    Fresh(Certificate),
    /// As it was the last time, and why.
    Kept(Certificate, String),
    Failed(Failure),
}

struct Failure {
    reason: String,
    /// The data may be mended without a change of the listener.
    about_data: bool,
}

fn parse(ctx: &Context<'_>, source: &DataSource) -> Result<ServerCertificate, Failure> {
    let bytes = load(source, ctx.secrets).map_err(|error| Failure {
        about_data: error.is_about_data(),
        reason: error.to_string(),
    })?;
    ServerCertificate::parse(&bytes)
        .map_err(|error| Failure { about_data: true, reason: error.to_string() })
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
