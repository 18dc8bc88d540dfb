//! Data that was good the last time a gateway was generated, for when it is missing or damaged the
//! next time (deviation D-4). A listener then keeps its certificates, and an external service what
//! it is called with; all else is generated as it is configured now.
//!
//! Generating again from the same resources, with what the first time left here, gives the same.
//!
//! It outlives the control plane as the spec of a `GatewayLastGood`, one for each MeshGateway, which
//! whoever generates stores: a generation without another before it begins with that.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use sunbear_model::{Kind, Resource, ResourceKey, Spec};

use crate::{external::Credentials, tls::ServerCertificate};

/// A filter chain of a gateway: port and host name.
pub(crate) type ChainId = (u16, String);

/// Where a certificate comes from, however often it is read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// A secret of the mesh.
    Secret(String),
    /// A file on the gateway's machine, which Envoy reads: there is nothing to keep of it.
    File(String),
    /// The listener itself.
    Listener {
        chain: ChainId,
        /// Which of the certificates of the chain.
        index: usize,
        /// Is it given as a string, rather than as bytes?
        string: bool,
    },
}

/// Everything that is kept for a gateway.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct LastGood {
    pub(crate) certificates: BTreeMap<Source, Arc<ServerCertificate>>,
    /// What a chain used, in order.
    pub(crate) chains: BTreeMap<ChainId, Vec<Source>>,
    /// Credentials by name of the external service.
    pub(crate) credentials: BTreeMap<String, Arc<Credentials>>,
}

/// The stored form. Everything is PEM.
#[derive(Default, Serialize, Deserialize)]
struct Document {
    #[serde(default)]
    certificates: Vec<CertificateDocument>,
    #[serde(default)]
    chains: Vec<ChainDocument>,
    #[serde(default, rename = "externalServices")]
    external_services: Vec<CredentialsDocument>,
}

#[derive(Serialize, Deserialize)]
struct CertificateDocument {
    source: SourceDocument,
    pem: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum SourceDocument {
    Secret(String),
    File(String),
    Listener { port: u16, hostname: String, index: usize, string: bool },
}

#[derive(Serialize, Deserialize)]
struct ChainDocument {
    port: u16,
    hostname: String,
    sources: Vec<SourceDocument>,
}

#[derive(Serialize, Deserialize)]
struct CredentialsDocument {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    authorities: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client: Option<(String, String)>,
}

impl From<&Source> for SourceDocument {
    fn from(source: &Source) -> Self {
        match source {
            Source::Secret(name) => Self::Secret(name.clone()),
            Source::File(path) => Self::File(path.clone()),
            Source::Listener { chain: (port, hostname), index, string } => Self::Listener {
                port: *port,
                hostname: hostname.clone(),
                index: *index,
                string: *string,
            },
        }
    }
}

impl From<SourceDocument> for Source {
    fn from(source: SourceDocument) -> Self {
        match source {
            SourceDocument::Secret(name) => Self::Secret(name),
            SourceDocument::File(path) => Self::File(path),
            SourceDocument::Listener { port, hostname, index, string } => {
                Self::Listener { chain: (port, hostname), index, string }
            }
        }
    }
}

impl LastGood {
    /// Key under which that of a MeshGateway is stored.
    pub(crate) fn key(gateway: &ResourceKey) -> ResourceKey {
        ResourceKey::new(Kind::GATEWAY_LAST_GOOD, &gateway.mesh, &gateway.name)
    }

    /// Reads what was stored. A certificate that cannot be read any more is left out.
    pub(crate) fn read(stored: &Resource) -> Self {
        let document: Document = serde_json::from_slice(stored.spec.wire()).unwrap_or_default();
        let certificates = document.certificates.into_iter().filter_map(|certificate| {
            let parsed = ServerCertificate::parse(certificate.pem.as_bytes()).ok()?;
            Some((certificate.source.into(), Arc::new(parsed)))
        });
        let chains = document.chains.into_iter().map(|chain| {
            let sources = chain.sources.into_iter().map(Source::from).collect();
            ((chain.port, chain.hostname), sources)
        });
        let credentials = document.external_services.into_iter().map(|service| {
            let bytes = String::into_bytes;
            let client = service.client.map(|(chain, key)| (bytes(chain), bytes(key)));
            let credentials = Credentials { authorities: service.authorities.map(bytes), client };
            (service.name, Arc::new(credentials))
        });
        Self {
            certificates: certificates.collect(),
            chains: chains.collect(),
            credentials: credentials.collect(),
        }
    }

    /// What to store; none if there is nothing to keep.
    pub(crate) fn to_spec(&self) -> Option<Spec> {
        // Plaintext listeners and external services leave entries that hold nothing.
        let nothing = |c: &Credentials| *c == Credentials::default();
        let document = Document {
            certificates: self
                .certificates
                .iter()
                .map(|(source, certificate)| CertificateDocument {
                    source: source.into(),
                    pem: format!("{}{}", certificate.chain, certificate.key),
                })
                .collect(),
            chains: self
                .chains
                .iter()
                .map(|((port, hostname), sources)| ChainDocument {
                    port: *port,
                    hostname: hostname.clone(),
                    sources: sources.iter().map(SourceDocument::from).collect(),
                })
                .collect(),
            external_services: self
                .credentials
                .iter()
                .filter(|(_, credentials)| !nothing(credentials))
                .map(|(name, credentials)| CredentialsDocument {
                    name: name.clone(),
                    authorities: credentials.authorities.as_deref().map(text),
                    client: credentials.client.as_ref().map(|(c, k)| (text(c), text(k))),
                })
                .collect(),
        };
        if document.certificates.is_empty() && document.external_services.is_empty() {
            return None;
        }
        let wire = serde_json::to_vec(&document).ok()?;
        Some(Spec::from_wire(Kind::GATEWAY_LAST_GOOD, wire))
    }
}

/// What was checked to be PEM is text, but for what surrounds the blocks.
fn text(pem: impl AsRef<[u8]>) -> String {
    String::from_utf8_lossy(pem.as_ref()).into_owned()
}

impl fmt::Debug for LastGood {
    // Never the content: these are keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LastGood")
            .field("certificates", &self.certificates.keys())
            .field("chains", &self.chains)
            .field("credentials", &self.credentials.keys())
            .finish()
    }
}
