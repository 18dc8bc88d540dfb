//! Certificates of connections on which both ends belong to one control plane: with the admin
//! interfaces of its Envoys (`spec/rest-api.md` 12.1, `spec/dp-server.md` 8.8), and between its replicas
//! (`spec/kds.md` 5.7).
//!
//! Both sides follow from the authority alone. Replicas and restarts have the same, so nothing is
//! stored and no proxy gets a new listener because its control plane was restarted.

use aws_lc_rs::{
    agreement::{ECDH_P256, PrivateKey},
    error::Unspecified,
    hkdf::{HKDF_SHA256, KeyType, Salt},
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::PrivatePkcs8KeyDer;

use crate::{
    ca::{self, CaError},
    certificate::PemPair,
};

/// Name that the certificate of admin interfaces bears.
pub const PROXY_NAME: &str = "kuma-envoy-admin";
/// Name that the control plane's certificate bears. Admin interfaces ask for it.
pub const CONTROL_PLANE_NAME: &str = "kuma-cp";

/// Name that the certificate of a replica of a control plane bears.
pub const REPLICA_NAME: &str = "kuma-inter-cp";

/// What both sides present, and whom they trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MutualCertificates {
    /// The authority, PEM.
    pub ca_pem: String,
    /// Of who is called: [`PROXY_NAME`] or [`REPLICA_NAME`], wherever it is.
    pub server: PemPair,
    /// Of the control plane that calls: [`CONTROL_PLANE_NAME`].
    pub client: PemPair,
}

impl MutualCertificates {
    /// Derives the certificates from the authority: its certificate and its key, PEM, in one text
    /// as the secret holds them. `server` is the name of who is called.
    pub fn of_authority(pem: &[u8], server: &str) -> Result<Self, CaError> {
        let (chain, key) = ca::read_pair(pem, pem)?;
        let first = chain.first().ok_or(CaError::NoCertificate)?;
        let ca_pem = chain.iter().map(|der| ca::to_pem(der)).collect();
        let parsed = ca::parse(first)?;
        let (not_before, not_after) =
            (parsed.validity().not_before.to_datetime(), parsed.validity().not_after.to_datetime());
        let secret = key.serialized_der().to_vec();
        let issuer = Issuer::from_ca_cert_der(first, key)?;
        let make = |name: &str, usage: ExtendedKeyUsagePurpose| {
            let key = key_of(&secret, name).map_err(|Unspecified| CaError::Derive)?;
            let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key))?;
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
            let san = name.try_into().map_err(|_| CaError::Name(name.to_owned()))?;
            params.subject_alt_names = vec![SanType::DnsName(san)];
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![usage];
            params.use_authority_key_identifier_extension = true;
            (params.not_before, params.not_after) = (not_before, not_after);
            params.serial_number = Some(serial(&secret, name).map_err(|_| CaError::Derive)?);
            let certificate = params.signed_by(&key, &issuer)?;
            Ok::<_, CaError>(PemPair {
                cert_pem: ca::to_pem(certificate.der()),
                key_pem: key.serialize_pem(),
            })
        };
        Ok(Self {
            ca_pem,
            server: make(server, ExtendedKeyUsagePurpose::ServerAuth)?,
            client: make(CONTROL_PLANE_NAME, ExtendedKeyUsagePurpose::ClientAuth)?,
        })
    }
}

/// Length of what is derived.
struct Bytes<const N: usize>;

impl<const N: usize> KeyType for Bytes<N> {
    fn len(&self) -> usize {
        N
    }
}

fn derive<const N: usize>(secret: &[u8], name: &str, what: &str) -> Result<[u8; N], Unspecified> {
    let key = Salt::new(HKDF_SHA256, b"sunbear envoy admin").extract(secret);
    let mut bytes = [0; N];
    key.expand(&[what.as_bytes(), b"/", name.as_bytes()], Bytes::<N>)?.fill(&mut bytes)?;
    Ok(bytes)
}

/// An elliptic key, in PKCS#8.
fn key_of(secret: &[u8], name: &str) -> Result<Vec<u8>, Unspecified> {
    // One of 2^32 texts is no key of this curve; the next one is taken then.
    for attempt in 0..8_u8 {
        let private = derive::<32>(secret, name, &format!("key {attempt}"))?;
        let Ok(key) = PrivateKey::from_private_key(&ECDH_P256, &private) else { continue };
        let public = key.compute_public_key()?;
        let pair = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_ASN1_SIGNING,
            &private,
            public.as_ref(),
        );
        let document = pair.map_err(|_| Unspecified)?.to_pkcs8v1()?;
        return Ok(document.as_ref().to_vec());
    }
    Err(Unspecified)
}

/// Positive and not zero.
fn serial(secret: &[u8], name: &str) -> Result<SerialNumber, Unspecified> {
    let mut bytes = derive::<16>(secret, name, "serial")?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _};
    use time::{Duration, OffsetDateTime};
    use uuid::Uuid;

    use super::*;
    use crate::{certificate, trust};

    fn secret() -> String {
        let now = OffsetDateTime::now_utc() - Duration::hours(1);
        let pair = ca::make_envoy_admin(Uuid::new_v4(), now).unwrap();
        format!("{}{}", pair.cert_pem, pair.key_pem)
    }

    #[test]
    fn the_same_authority_gives_the_same_certificates() {
        let (one, other) = (secret(), secret());
        let certificates = MutualCertificates::of_authority(one.as_bytes(), PROXY_NAME).unwrap();
        assert_eq!(
            MutualCertificates::of_authority(one.as_bytes(), PROXY_NAME).unwrap(),
            certificates
        );
        let others = MutualCertificates::of_authority(other.as_bytes(), PROXY_NAME).unwrap();
        assert_ne!(others.server.key_pem, certificates.server.key_pem);
        assert_ne!(certificates.server.key_pem, certificates.client.key_pem);
        assert!(!certificates.ca_pem.contains("PRIVATE"));
        assert!(!format!("{certificates:?}").contains("PRIVATE"));
    }

    #[test]
    fn each_side_accepts_the_other() {
        let certificates =
            MutualCertificates::of_authority(secret().as_bytes(), PROXY_NAME).unwrap();
        for (pair, name) in
            [(&certificates.server, PROXY_NAME), (&certificates.client, CONTROL_PLANE_NAME)]
        {
            certificate::certified_key(pair.cert_pem.as_bytes(), pair.key_pem.as_bytes()).unwrap();
            let names = certificate::alternative_names_of(pair.cert_pem.as_bytes()).unwrap();
            assert_eq!(names, [name]);
        }
        let authorities = trust::ServerTrust::Authorities(certificates.ca_pem.as_bytes());
        let verifier = trust::verifier(authorities).unwrap();
        let check = |pair: &PemPair, name: &str| {
            let der = CertificateDer::from_pem_slice(pair.cert_pem.as_bytes()).unwrap();
            let name = ServerName::try_from(name.to_owned()).unwrap();
            verifier.verify_server_cert(&der, &[], &name, &[], UnixTime::now()).is_ok()
        };
        assert!(check(&certificates.server, PROXY_NAME));
        assert!(!check(&certificates.server, "other"));
        // A control plane's certificate does not make its bearer a proxy, and neither does that of
        // another zone.
        assert!(!check(&certificates.client, CONTROL_PLANE_NAME));
        let strangers = MutualCertificates::of_authority(secret().as_bytes(), PROXY_NAME).unwrap();
        assert!(!check(&strangers.server, PROXY_NAME));
    }

    #[test]
    fn what_is_no_authority_is_refused() {
        for text in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----"]
        {
            assert!(
                MutualCertificates::of_authority(text.as_bytes(), PROXY_NAME).is_err(),
                "{text}"
            );
        }
    }
}
