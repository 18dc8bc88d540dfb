//! Certificates.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, LazyLock},
};

use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use sunbear_security::ca::{self, BuiltinSettings, Workload, WorkloadKey};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::{
    backend::Backend,
    sidecar::{Sidecar, SidecarOptions},
};

/// A certificate and its key, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate, and those that signed it.
    pub certificate: String,
    /// The key.
    pub key: String,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pair(..)")
    }
}

impl Pair {
    /// A fresh one with an ECDSA key.
    pub fn ecdsa(host: &str) -> Self {
        Self::signed_with(host, &KeyPair::generate().unwrap())
    }

    /// A fresh one with an RSA key.
    pub fn rsa(host: &str) -> Self {
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        Self::signed_with(host, &key)
    }

    fn signed_with(host: &str, key: &KeyPair) -> Self {
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let certificate = params.self_signed(key).unwrap();
        Self { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// Both in one text, as Secrets of listeners have it.
    pub fn text(&self) -> String {
        format!("{}{}", self.key, self.certificate)
    }

    /// The certificates, DER.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.certificate.as_bytes()).map(Result::unwrap).collect()
    }

    /// The first certificate, DER.
    pub fn leaf(&self) -> Vec<u8> {
        self.chain()[0].to_vec()
    }

    /// The key, DER.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }

    /// A TLS server with this certificate.
    pub fn server(&self) -> Arc<ServerConfig> {
        self.server_with(None)
    }

    /// A TLS server that demands certificates which one of these authorities (PEM) signed.
    pub fn server_for(&self, authorities: &str) -> Arc<ServerConfig> {
        self.server_with(Some(authorities))
    }

    fn server_with(&self, authorities: Option<&str>) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match authorities {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for der in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                    roots.add(der.unwrap()).unwrap();
                }
                builder.with_client_cert_verifier(
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .build()
                        .unwrap(),
                )
            }
        };
        let mut config = builder.with_single_cert(self.chain(), self.private_key()).unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

/// The authority of a mesh.
#[derive(Clone)]
pub struct Authority {
    mesh: String,
    pair: Pair,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Authority").field(&self.mesh).finish()
    }
}

impl Authority {
    /// A fresh one.
    pub fn of(mesh: &str) -> Self {
        let now = OffsetDateTime::now_utc();
        let pair = ca::make_builtin(mesh, BuiltinSettings::default(), Uuid::new_v4(), now).unwrap();
        let pair = Pair { certificate: pair.cert_pem, key: pair.key_pem };
        Self { mesh: mesh.to_owned(), pair }
    }

    /// The one of mesh `default`; making one takes long.
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<Authority> = LazyLock::new(|| Authority::of("default"));
        &SHARED
    }

    /// Its own certificate and key.
    pub fn pair(&self) -> &Pair {
        &self.pair
    }

    /// A certificate for a workload with this service and no other tags.
    pub fn issue(&self, service: &str) -> Pair {
        self.issue_at(service, OffsetDateTime::now_utc())
    }

    /// The same, but it was good a day ago, for an hour.
    pub fn issue_expired(&self, service: &str) -> Pair {
        self.issue_at(service, OffsetDateTime::now_utc() - Duration::DAY)
    }

    fn issue_at(&self, service: &str, now: OffsetDateTime) -> Pair {
        let (certificate, key) = (self.pair.certificate.as_bytes(), self.pair.key.as_bytes());
        let authority = ca::Authority::load(certificate, key).unwrap();
        let tags =
            BTreeMap::from([("kuma.io/service".to_owned(), BTreeSet::from([service.to_owned()]))]);
        let workload = Workload {
            mesh: &self.mesh,
            tags: &tags,
            valid_for: Duration::HOUR,
            key: WorkloadKey::P256,
        };
        let issued = authority.issue(&workload, Uuid::new_v4(), now).unwrap();
        Pair { certificate: issued.chain_pem, key: issued.key_pem }
    }

    /// What the sidecar of this service before a backend is started with.
    pub fn sidecar_options<'a>(&self, service: &str, backend: &'a Backend) -> SidecarOptions<'a> {
        SidecarOptions {
            pair: self.issue(service),
            authority: self.pair.certificate.clone(),
            backend,
            allowed: Vec::new(),
            server_names: Vec::new(),
        }
    }

    /// A sidecar of this service before a backend.
    pub async fn sidecar(&self, service: &str, backend: &Backend) -> Sidecar {
        Sidecar::start(&self.sidecar_options(service, backend)).await
    }
}

/// Standard base64.
pub fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}
