//! How our clients decide whether to trust a server.
//!
//! The certificate that a control plane makes for itself (ours and Kuma's alike) is its own
//! authority: `CA:TRUE`, self-signed, and handed to clients as the file to verify with. OpenSSL,
//! BoringSSL and Go accept such a certificate from a server; webpki, which rustls uses, refuses every
//! authority that presents itself. Therefore a certificate that is literally among the trusted ones
//! is checked here, and everything else by webpki.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WantsClientCert, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Which servers are trusted.
#[derive(Debug, Clone, Copy)]
pub enum ServerTrust<'a> {
    /// Those with a certificate of one of these authorities, or with one of these certificates
    /// itself; PEM.
    Authorities(&'a [u8]),
    /// All. For operators who said so.
    Anyone,
}

/// Why a client cannot be configured.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The PEM text of the authorities is malformed.
    #[error("malformed authority certificate: {0}")]
    Malformed(String),
    /// There is no usable one in it.
    #[error("no usable authority certificate in PEM form found")]
    Empty,
    /// Rustls refuses the configuration.
    #[error("could not configure TLS")]
    Rustls(#[from] rustls::Error),
    /// Rustls refuses the authorities.
    #[error("could not configure the check of server certificates")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
}

/// Rustls for a client without a certificate of its own: TLS 1.2 or 1.3, and the given ALPN names
/// (`h2` for gRPC).
pub fn client_config(trust: ServerTrust<'_>, alpn: &[&str]) -> Result<ClientConfig, TrustError> {
    Ok(with_alpn(builder(trust)?.with_no_client_auth(), alpn))
}

/// The same for a client that shows this certificate.
pub fn client_config_showing(
    trust: ServerTrust<'_>,
    certificate: CertifiedKey,
    alpn: &[&str],
) -> Result<ClientConfig, TrustError> {
    let resolver = Arc::new(SingleCertAndKey::from(certificate));
    Ok(with_alpn(builder(trust)?.with_client_cert_resolver(resolver), alpn))
}

fn builder(
    trust: ServerTrust<'_>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, TrustError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier(trust)?))
}

fn with_alpn(mut config: ClientConfig, alpn: &[&str]) -> ClientConfig {
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

/// What checks the certificates of servers.
pub(crate) fn verifier(trust: ServerTrust<'_>) -> Result<Arc<dyn ServerCertVerifier>, TrustError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    Ok(match trust {
        ServerTrust::Authorities(pem) => Arc::new(Verifier::new(pem, provider)?),
        ServerTrust::Anyone => Arc::new(NoVerifier(provider)),
    })
}

/// Accepts trusted certificates themselves, and asks webpki about all others.
#[derive(Debug)]
struct Verifier {
    trusted: Vec<CertificateDer<'static>>,
    chains: Arc<WebPkiServerVerifier>,
}

impl Verifier {
    fn new(pem: &[u8], provider: Arc<CryptoProvider>) -> Result<Self, TrustError> {
        let trusted: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let trusted = trusted.map_err(|error| TrustError::Malformed(error.to_string()))?;
        if trusted.is_empty() {
            return Err(TrustError::Empty);
        }
        // Old systems hold authorities that webpki cannot read; one of them must not cost the others.
        let mut roots = RootCertStore::empty();
        if roots.add_parsable_certificates(trusted.iter().cloned()).0 == 0 {
            return Err(TrustError::Empty);
        }
        let chains =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        Ok(Self { trusted, chains })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !self.trusted.iter().any(|trusted| trusted == end_entity) {
            let verified = self.chains.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            );
            return verified.map_err(|error| match error {
                // A control plane's own certificate that is not the one we were given. Whoever reads
                // this wants to hear that, and not that it is an authority.
                rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other))
                    if other.to_string().contains("CaUsedAsEndEntity") =>
                {
                    rustls::CertificateError::UnknownIssuer.into()
                }
                error => error,
            });
        }
        check_validity_and_purpose(end_entity, Purpose::Server, now)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        Ok(ServerCertVerified::assertion())
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

/// What a certificate is shown for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Server,
    Client,
}

/// What webpki would check beside the chain and the name.
pub(crate) fn check_validity_and_purpose(
    certificate: &CertificateDer<'_>,
    purpose: Purpose,
    now: UnixTime,
) -> Result<(), rustls::Error> {
    use rustls::CertificateError as Error;
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| Error::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < parsed.validity().not_before.timestamp() {
        return Err(Error::NotValidYet.into());
    }
    if now > parsed.validity().not_after.timestamp() {
        return Err(Error::Expired.into());
    }
    let purposes = parsed.extended_key_usage().map_err(|_| Error::BadEncoding)?;
    match purposes {
        None => Ok(()),
        Some(purposes) => {
            let good = match purpose {
                Purpose::Server => purposes.value.server_auth,
                Purpose::Client => purposes.value.client_auth,
            };
            if good || purposes.value.any { Ok(()) } else { Err(Error::InvalidPurpose.into()) }
        }
    }
}

/// Accepts every certificate; the peer must still hold its key.
#[derive(Debug)]
struct NoVerifier(Arc<CryptoProvider>);

impl ServerCertVerifier for NoVerifier {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    };
    use time::OffsetDateTime;

    use super::*;
    use crate::certificate::self_signed;

    const NOW: OffsetDateTime = time::macros::datetime!(2030-05-01 12:00 UTC);

    fn unix(time: OffsetDateTime) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(time.unix_timestamp().unsigned_abs()))
    }

    /// What a client that trusts `trusted` says to a server that shows `shown`.
    fn check(trusted: &str, shown: &str, name: &str, now: OffsetDateTime) -> Result<(), String> {
        let verifier =
            Verifier::new(trusted.as_bytes(), Arc::new(aws_lc_rs::default_provider())).unwrap();
        let shown = CertificateDer::from_pem_slice(shown.as_bytes()).unwrap();
        let name = ServerName::try_from(name).unwrap();
        let verified = verifier.verify_server_cert(&shown, &[], &name, &[], unix(now));
        verified.map(|_| ()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_self_signed_authority_that_is_trusted_itself() {
        let ips = ["10.0.0.7".parse().unwrap()];
        let pem = self_signed("cp.example", &ips, NOW).unwrap().cert_pem;
        check(&pem, &pem, "cp.example", NOW).unwrap();
        check(&pem, &pem, "10.0.0.7", NOW).unwrap();
        assert!(
            check(&pem, &pem, "other.example", NOW).unwrap_err().contains("not valid for name")
        );
        let later = NOW + time::Duration::days(4_000);
        assert_eq!(
            check(&pem, &pem, "cp.example", later).unwrap_err(),
            "invalid peer certificate: Expired"
        );
        let earlier = NOW - time::Duration::days(1);
        assert_eq!(
            check(&pem, &pem, "cp.example", earlier).unwrap_err(),
            "invalid peer certificate: NotValidYet"
        );
        // The same names, another key.
        let other = self_signed("cp.example", &ips, NOW).unwrap().cert_pem;
        assert_eq!(
            check(&pem, &other, "cp.example", NOW).unwrap_err(),
            "invalid peer certificate: UnknownIssuer"
        );
    }

    #[test]
    fn certificates_of_a_trusted_authority() {
        let authority_key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
        let issuer = Issuer::new(authority, authority_key);
        let leaf = |purpose| {
            let mut params = CertificateParams::new(["cp.example".to_owned()]).unwrap();
            params.extended_key_usages = vec![purpose];
            params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().pem()
        };
        let server = leaf(ExtendedKeyUsagePurpose::ServerAuth);
        let client = leaf(ExtendedKeyUsagePurpose::ClientAuth);
        check(&authority_pem, &server, "cp.example", NOW).unwrap();
        check(&authority_pem, &client, "cp.example", NOW).unwrap_err();
        // Trusting a certificate does not make it good for another purpose.
        check(&client, &client, "cp.example", NOW).unwrap_err();
        check(&server, &server, "cp.example", NOW).unwrap();
        check(&server, &client, "cp.example", NOW).unwrap_err();
    }

    #[test]
    fn configurations() {
        let pem = self_signed("cp", &[], NOW).unwrap().cert_pem;
        let config = client_config(ServerTrust::Authorities(pem.as_bytes()), &["h2"]).unwrap();
        assert_eq!(config.alpn_protocols, [b"h2"]);
        client_config(ServerTrust::Anyone, &[]).unwrap();
        let error = client_config(ServerTrust::Authorities(b"nothing"), &[]).unwrap_err();
        assert_eq!(error.to_string(), "no usable authority certificate in PEM form found");
    }
}
