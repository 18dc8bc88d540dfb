//! How our servers decide whether to trust a client's certificate.
//!
//! `kumactl generate tls-certificate --type client` makes certificates that are their own authority,
//! and operators put them into the folder of trusted ones. As with servers (see [`crate::trust`]),
//! webpki refuses an authority that presents itself, so a certificate that is literally among the
//! trusted ones is checked here, and everything else by webpki.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid, version,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::trust::{Purpose, TrustError, check_validity_and_purpose};

/// Rustls for a server that asks clients for certificates: HTTP/2 and HTTP/1.1 over TLS 1.3, and 1.2
/// if `tls12`. `trusted` are PEM certificates of authorities or of clients themselves. A client may
/// come without one unless it is `required`; one that shows a bad one is refused.
pub fn server_config(
    certificate: Arc<dyn ResolvesServerCert>,
    tls12: bool,
    trusted: &[u8],
    required: bool,
) -> Result<Arc<ServerConfig>, TrustError> {
    let versions =
        if tls12 { &[&version::TLS13, &version::TLS12][..] } else { &[&version::TLS13][..] };
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(Arc::new(Verifier::new(trusted, required)?))
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Accepts trusted certificates themselves, and asks webpki about all others.
#[derive(Debug)]
struct Verifier {
    trusted: Vec<CertificateDer<'static>>,
    chains: Arc<dyn ClientCertVerifier>,
}

impl Verifier {
    fn new(pem: &[u8], required: bool) -> Result<Self, TrustError> {
        let trusted: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let trusted = trusted.map_err(|error| TrustError::Malformed(error.to_string()))?;
        let mut roots = RootCertStore::empty();
        if roots.add_parsable_certificates(trusted.iter().cloned()).0 == 0 {
            return Err(TrustError::Empty);
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let builder = if required { builder } else { builder.allow_unauthenticated() };
        Ok(Self { trusted, chains: builder.build()? })
    }
}

impl ClientCertVerifier for Verifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chains.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chains.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if !self.trusted.iter().any(|trusted| trusted == end_entity) {
            return self.chains.verify_client_cert(end_entity, intermediates, now);
        }
        check_validity_and_purpose(end_entity, Purpose::Client, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    };

    use super::*;

    fn params(purpose: ExtendedKeyUsagePurpose, is_ca: IsCa) -> CertificateParams {
        let mut params = CertificateParams::new(["client".to_owned()]).unwrap();
        params.extended_key_usages = vec![purpose];
        params.is_ca = is_ca;
        params
    }

    fn own_authority(purpose: ExtendedKeyUsagePurpose) -> String {
        let params = params(purpose, IsCa::Ca(BasicConstraints::Unconstrained));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    /// What a server that trusts `trusted` says to a client that shows `shown`.
    fn check(trusted: &str, shown: &str) -> Result<(), String> {
        let shown = CertificateDer::from_pem_slice(shown.as_bytes()).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_900_000_000));
        let verifier = Verifier::new(trusted.as_bytes(), false).unwrap();
        verifier.verify_client_cert(&shown, &[], now).map(|_| ()).map_err(|e| e.to_string())
    }

    #[test]
    fn certificates_of_clients() {
        let client = own_authority(ExtendedKeyUsagePurpose::ClientAuth);
        let other = own_authority(ExtendedKeyUsagePurpose::ClientAuth);
        let server = own_authority(ExtendedKeyUsagePurpose::ServerAuth);
        check(&client, &client).unwrap();
        check(&format!("{other}{client}"), &client).unwrap();
        check(&other, &client).unwrap_err();
        // Trusting a certificate does not make it good for another purpose.
        check(&server, &server).unwrap_err();

        let key = KeyPair::generate().unwrap();
        let authority =
            params(ExtendedKeyUsagePurpose::ClientAuth, IsCa::Ca(BasicConstraints::Unconstrained));
        let authority_pem = authority.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(authority, key);
        let leaf = |purpose| {
            let params = params(purpose, IsCa::ExplicitNoCa);
            params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().pem()
        };
        check(&authority_pem, &leaf(ExtendedKeyUsagePurpose::ClientAuth)).unwrap();
        check(&authority_pem, &leaf(ExtendedKeyUsagePurpose::ServerAuth)).unwrap_err();
    }

    #[test]
    fn nothing_to_trust() {
        let error = Verifier::new(b"nothing", true).unwrap_err();
        assert_eq!(error.to_string(), "no usable authority certificate in PEM form found");
        let pem = own_authority(ExtendedKeyUsagePurpose::ClientAuth);
        assert!(Verifier::new(pem.as_bytes(), true).unwrap().client_auth_mandatory());
        assert!(!Verifier::new(pem.as_bytes(), false).unwrap().client_auth_mandatory());
    }
}
