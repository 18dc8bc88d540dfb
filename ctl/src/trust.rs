//! Which certificates a control plane may show when the user names the authorities.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
    server::ParsedCertificate,
};

/// TLS that trusts the certificates in a PEM text, and nothing else.
pub(crate) fn config(pem: &[u8]) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Verifier::new(pem)?;
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("preparing TLS")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

/// The usual verification, but for one thing: control planes generate certificates that are their
/// own authority, and these are accepted where the user trusts that very certificate. The usual
/// verification refuses any authority as a server.
#[derive(Debug)]
struct Verifier {
    usual: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

impl Verifier {
    fn new(pem: &[u8]) -> anyhow::Result<Self> {
        let trusted: Vec<_> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .context("the PEM text is malformed")?;
        if trusted.is_empty() {
            bail!("there are no certificates");
        }
        let mut roots = RootCertStore::empty();
        for certificate in &trusted {
            roots.add(certificate.clone()).context("a certificate is malformed")?;
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .context("preparing the verification of certificates")?;
        Ok(Self { usual, trusted })
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
    ) -> Result<ServerCertVerified, Error> {
        let result = self.usual.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match result {
            // Wrong times and signatures have errors of their own.
            Err(Error::InvalidCertificate(CertificateError::Other(_)))
                if self.trusted.contains(end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

    use super::*;

    fn params(authority: bool) -> CertificateParams {
        let mut params = CertificateParams::new(["cp.example".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2030, 1, 1);
        if authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params
    }

    fn verify(
        trusted: &str,
        shown: &CertificateDer<'static>,
        name: &'static str,
        year: u64,
    ) -> Result<(), Error> {
        let now = UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) * 31_557_600));
        let name = ServerName::try_from(name).unwrap();
        Verifier::new(trusted.as_bytes())
            .unwrap()
            .verify_server_cert(shown, &[], &name, &[], now)
            .map(|_| ())
    }

    #[test]
    fn self_signed() {
        for authority in [true, false] {
            let key = KeyPair::generate().unwrap();
            let own = params(authority).self_signed(&key).unwrap();
            let other = params(authority).self_signed(&KeyPair::generate().unwrap()).unwrap();
            assert_eq!(verify(&own.pem(), own.der(), "cp.example", 2026), Ok(()));
            assert!(verify(&own.pem(), own.der(), "other.example", 2026).is_err());
            assert!(verify(&own.pem(), own.der(), "cp.example", 2031).is_err());
            assert!(verify(&other.pem(), own.der(), "cp.example", 2026).is_err());
        }
    }

    #[test]
    fn issued() {
        let key = KeyPair::generate().unwrap();
        let authority = params(true).self_signed(&key).unwrap();
        let issuer = Issuer::new(params(true), key);
        let leaf = params(false).signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
        assert_eq!(verify(&authority.pem(), leaf.der(), "cp.example", 2026), Ok(()));
        assert!(verify(&authority.pem(), leaf.der(), "other.example", 2026).is_err());
        // An authority below the trusted one is no server.
        let below = params(true).signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
        assert!(verify(&authority.pem(), below.der(), "cp.example", 2026).is_err());
    }

    #[test]
    fn no_certificates() {
        assert!(Verifier::new(b"").is_err());
        assert!(Verifier::new(KeyPair::generate().unwrap().serialize_pem().as_bytes()).is_err());
    }
}
