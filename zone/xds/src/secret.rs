//! Names and messages of SDS secrets. The generator only names them; certificates and keys come
//! from whoever issues them.

use sunbear_proto::envoy::{
    config::core::v3::{DataSource, data_source::Specifier},
    extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, SdsSecretConfig, Secret, TlsCertificate, secret::Type,
    },
};

use crate::{envoy::ads, resources::XdsResource};

/// A secret that the generated configuration refers to. A proxy waits for it, so each one has to
/// be delivered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum SecretRequest {
    /// The proxy's own certificate in a mesh.
    Identity {
        /// The mesh.
        mesh: String,
    },
    /// The CA of a mesh.
    MeshCa {
        /// The mesh.
        mesh: String,
    },
    /// The CAs of all meshes.
    AllMeshCas,
}

impl SecretRequest {
    /// Name of the secret.
    pub fn name(&self) -> String {
        match self {
            SecretRequest::Identity { mesh } => format!("identity_cert:secret:{mesh}"),
            SecretRequest::MeshCa { mesh } => format!("mesh_ca:secret:{mesh}"),
            SecretRequest::AllMeshCas => "mesh_ca:secret:all".to_owned(),
        }
    }

    pub(crate) fn reference(&self) -> SdsSecretConfig {
        SdsSecretConfig { name: self.name(), sds_config: Some(ads()) }
    }
}

fn inline(bytes: &[u8]) -> Option<DataSource> {
    Some(DataSource {
        specifier: Some(Specifier::InlineBytes(bytes.to_vec())),
        ..DataSource::default()
    })
}

/// The secret of a certificate with its chain and key, both PEM.
pub fn certificate_secret(name: &str, chain: &[u8], key: &[u8]) -> XdsResource {
    let secret = Secret {
        name: name.to_owned(),
        r#type: Some(Type::TlsCertificate(TlsCertificate {
            certificate_chain: inline(chain),
            private_key: inline(key),
            ..TlsCertificate::default()
        })),
    };
    XdsResource::new(name, &secret)
}

/// The secret of one or more CAs, PEM; empty if they cannot be provided, so that the proxy does not
/// wait.
pub fn ca_secret(name: &str, roots: &[u8]) -> XdsResource {
    let secret = Secret {
        name: name.to_owned(),
        r#type: Some(Type::ValidationContext(CertificateValidationContext {
            trusted_ca: inline(roots),
            ..CertificateValidationContext::default()
        })),
    };
    XdsResource::new(name, &secret)
}
