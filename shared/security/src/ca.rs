//! Certificate authorities of meshes, and the certificates that they issue to proxies
//! (`spec/policies.md` 8.2, 8.3).
//!
//! Kuma: pkg/plugins/ca, pkg/core/ca/issuer

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, PublicKeyData,
    RsaKeySize, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::certificate::PemPair;
use crate::signing_key;

/// Certificates are valid from this much before they were made, for peers whose clocks are behind.
pub const BACKDATE: Duration = Duration::seconds(10);
/// How long an authority is valid when its mesh does not say.
pub const AUTHORITY_VALIDITY: Duration = Duration::days(3_650);
/// How long a workload's certificate is valid when its mesh does not say.
pub const WORKLOAD_VALIDITY: Duration = Duration::hours(24);
/// Service that zone egresses are known by.
pub const ZONE_EGRESS_SERVICE: &str = "zone-egress";

const SERVICE_TAG: &str = "kuma.io/service";

/// Name of the secret with the certificate of a mesh's builtin authority.
pub fn builtin_cert_secret(mesh: &str, backend: &str) -> String {
    format!("{mesh}.ca-builtin-cert-{backend}")
}

/// Name of the secret with the key of a mesh's builtin authority.
pub fn builtin_key_secret(mesh: &str, backend: &str) -> String {
    format!("{mesh}.ca-builtin-key-{backend}")
}

/// Why an authority cannot be made or used. The texts of key pairs are the ones that users of Kuma
/// know.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Keys of this size cannot be made.
    #[error("RSA keys have 2048, 3072 or 4096 bits, not {0}")]
    KeySize(u32),
    /// The end of the validity cannot be expressed.
    #[error("validity of the certificate is out of range")]
    Validity,
    /// A name does not fit into a certificate.
    #[error("{0:?} cannot be part of an identity")]
    Name(String),
    /// No PEM block of a certificate.
    #[error("tls: failed to find any PEM data in certificate input")]
    NoCertificate,
    /// No PEM block of a private key.
    #[error("tls: failed to find any PEM data in key input")]
    NoKey,
    /// The certificate cannot be read.
    #[error("malformed certificate: {0}")]
    MalformedCertificate(String),
    /// The key cannot be read, or is of a kind that cannot sign here.
    #[error("tls: failed to parse private key")]
    MalformedKey,
    /// Another certificate's key.
    #[error("tls: private key does not match public key")]
    Mismatch,
    /// Making a key or a certificate failed.
    #[error("could not make a certificate")]
    Generate(#[from] rcgen::Error),
    /// A key cannot be derived from that of the authority.
    #[error("could not derive a key from the key of the authority")]
    Derive,
    /// The new key is not in the form that is expected.
    #[error("could not write the key of an authority")]
    Key(#[from] signing_key::SigningKeyError),
}

/// A length of time as meshes write it: `0`, or a number with one unit of `y`, `w`, `d`, `h`, `m`,
/// `s` and `ms`.
pub fn parse_validity(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit);
    let number: i64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 7 * 86_400_000,
        "y" => 365 * 86_400_000,
        _ => return None,
    };
    // Go's durations end after 292 years; everything below fits into ours.
    number.checked_mul(millis).filter(|ms| *ms <= i64::MAX / 1_000_000).map(Duration::milliseconds)
}

/// What a mesh says about its builtin authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuiltinSettings {
    /// Size of the RSA key; 0 stands for 2048.
    pub rsa_bits: u32,
    /// How long the certificate is valid.
    pub valid_for: Duration,
}

impl Default for BuiltinSettings {
    fn default() -> Self {
        Self { rsa_bits: 0, valid_for: AUTHORITY_VALIDITY }
    }
}

impl BuiltinSettings {
    /// Can keys of this size be made?
    pub fn check(&self) -> Result<(), CaError> {
        key_size(self.rsa_bits).map(|_| ())
    }
}

fn key_size(bits: u32) -> Result<RsaKeySize, CaError> {
    match bits {
        0 | 2048 => Ok(RsaKeySize::_2048),
        3072 => Ok(RsaKeySize::_3072),
        4096 => Ok(RsaKeySize::_4096),
        other => Err(CaError::KeySize(other)),
    }
}

/// Makes the authority of a mesh: a self-signed certificate and its RSA key in PKCS#1, the only
/// form that Kuma writes. Takes time; not for async threads.
pub fn make_builtin(
    mesh: &str,
    settings: BuiltinSettings,
    serial: Uuid,
    now: OffsetDateTime,
) -> Result<PemPair, CaError> {
    make_authority(mesh, vec![uri(&format!("spiffe://{mesh}"))?], settings, serial, now)
}

/// Makes the authority of the admin interfaces of a zone's Envoys: certificate and key, to be kept
/// in one secret. Takes time; not for async threads.
pub fn make_envoy_admin(serial: Uuid, now: OffsetDateTime) -> Result<PemPair, CaError> {
    make_authority("Envoy Admin CA", Vec::new(), BuiltinSettings::default(), serial, now)
}

/// Makes the authority of what control planes of one installation say to each other: certificate and
/// key, to be kept in one secret. Takes time; not for async threads.
pub fn make_inter_cp(serial: Uuid, now: OffsetDateTime) -> Result<PemPair, CaError> {
    let name = "Control Plane Intercommunication CA";
    make_authority(name, Vec::new(), BuiltinSettings::default(), serial, now)
}

fn make_authority(
    name: &str,
    names: Vec<SanType>,
    settings: BuiltinSettings,
    serial: Uuid,
    now: OffsetDateTime,
) -> Result<PemPair, CaError> {
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, key_size(settings.rsa_bits)?)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Kuma");
    params.distinguished_name.push(DnType::OrganizationalUnitName, "Mesh");
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = names;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = period(now, settings.valid_for)?;
    params.serial_number = Some(serial_number(serial));
    let certificate = params.self_signed(&key)?;
    let pkcs1 = signing_key::unwrap_pkcs8(key.serialized_der()).ok_or(CaError::MalformedKey)?;
    Ok(PemPair {
        cert_pem: to_pem(certificate.der()),
        key_pem: signing_key::to_pem(signing_key::PRIVATE, pkcs1),
    })
}

/// What is wrong with the certificate of an authority that users bring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvidedViolation {
    /// Position in the chain; none if it is about all of it.
    pub position: Option<usize>,
    /// What is wrong, in the words of Kuma.
    pub message: String,
}

/// Checks the key pair of an authority that users bring.
///
/// Kuma: pkg/plugins/ca/provided/ca_cert_validator.go
pub fn check_provided(cert_pem: &[u8], key_pem: &[u8]) -> Vec<ProvidedViolation> {
    let chain = match read_pair(cert_pem, key_pem) {
        Ok((chain, _)) => chain,
        Err(error) => {
            let message = format!("not a valid TLS key pair: {error}");
            return vec![ProvidedViolation { position: None, message }];
        }
    };
    let mut violations = Vec::new();
    for (i, der) in chain.iter().enumerate() {
        let mut push = |message: &str| {
            violations.push(ProvidedViolation { position: Some(i), message: message.to_owned() });
        };
        let certificate = match X509Certificate::from_der(der) {
            Ok((_, certificate)) => certificate,
            Err(error) => {
                push(&format!("not a valid x509 certificate: {error}"));
                return violations;
            }
        };
        if !certificate.is_ca() {
            push(
                "basic constraint 'CA' must be set to 'true' (see X509-SVID: 4.1. Basic \
                 Constraints)",
            );
        }
        let usage = certificate.key_usage().ok().flatten().map(|u| u.value);
        if !usage.is_some_and(|u| u.key_cert_sign()) {
            push("key usage extension 'keyCertSign' must be set (see X509-SVID: 4.3. Key Usage)");
        }
        if usage.is_some_and(|u| u.key_agreement()) {
            push(
                "key usage extension 'keyAgreement' must NOT be set (see X509-SVID: Appendix A. \
                 X.509 Field Reference)",
            );
        }
    }
    violations
}

/// Kind of key that a workload gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WorkloadKey {
    /// Elliptic, which is made in no time.
    #[default]
    P256,
    /// RSA of 2048 bits, as Kuma's.
    Rsa2048,
}

/// Whom a certificate is for.
#[derive(Debug, Clone, Copy)]
pub struct Workload<'a> {
    /// Mesh, which is the trust domain.
    pub mesh: &'a str,
    /// All tags with all their values. Those of `kuma.io/service` are the identities.
    pub tags: &'a BTreeMap<String, BTreeSet<String>>,
    /// How long the certificate is valid.
    pub valid_for: Duration,
    /// Kind of key.
    pub key: WorkloadKey,
}

/// A certificate of a workload.
#[derive(Clone, PartialEq, Eq)]
pub struct WorkloadCertificate {
    /// The certificate, then those between it and the root, PEM.
    pub chain_pem: String,
    /// Private key, PKCS#8 PEM.
    pub key_pem: String,
    /// Begin of the validity.
    pub not_before: OffsetDateTime,
    /// End of the validity.
    pub not_after: OffsetDateTime,
}

impl fmt::Debug for WorkloadCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadCertificate")
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl WorkloadCertificate {
    /// When a new one is due: after four fifths of the validity.
    pub fn renew_at(&self) -> OffsetDateTime {
        self.not_before + (self.not_after - self.not_before) * 4 / 5
    }
}

/// An authority that signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root_pem: String,
    between: Vec<CertificateDer<'static>>,
    not_after: OffsetDateTime,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl Authority {
    /// Reads an authority: its certificate, followed by those above it if it is not the root, and
    /// its key in PKCS#1, PKCS#8 or SEC1.
    pub fn load(cert_pem: &[u8], key_pem: &[u8]) -> Result<Self, CaError> {
        let (chain, key) = read_pair(cert_pem, key_pem)?;
        let first = chain.first().ok_or(CaError::NoCertificate)?;
        let not_after = parse(first)?.validity().not_after.to_datetime();
        let issuer = Issuer::from_ca_cert_der(first, key)?;
        let root_pem = chain.iter().map(|der| to_pem(der)).collect();
        let mut between = Vec::new();
        for der in &chain {
            let certificate = parse(der)?;
            if certificate.issuer() != certificate.subject() {
                between.push(der.clone());
            }
        }
        Ok(Self { issuer, root_pem, between, not_after })
    }

    /// What peers verify with: all certificates of the authority, PEM.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// End of the authority's own validity.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// Issues a certificate and its key. The subject is empty; who it is for say the alternative
    /// names, first the identities, then all tags.
    pub fn issue(
        &self,
        workload: &Workload<'_>,
        serial: Uuid,
        now: OffsetDateTime,
    ) -> Result<WorkloadCertificate, CaError> {
        let Workload { mesh, tags, valid_for, key } = *workload;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for service in tags.get(SERVICE_TAG).into_iter().flatten() {
            params.subject_alt_names.push(uri(&format!("spiffe://{mesh}/{service}"))?);
        }
        for (tag, values) in tags {
            for value in values {
                params.subject_alt_names.push(uri(&format!("kuma://{tag}/{value}"))?);
            }
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::KeyAgreement,
        ];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let (not_before, not_after) = period(now, valid_for)?;
        (params.not_before, params.not_after) = (not_before, not_after);
        params.serial_number = Some(serial_number(serial));
        let key = match key {
            WorkloadKey::P256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
            WorkloadKey::Rsa2048 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?,
        };
        let certificate = params.signed_by(&key, &self.issuer)?;
        let mut chain_pem = to_pem(certificate.der());
        chain_pem.extend(self.between.iter().map(|der| to_pem(der)));
        Ok(WorkloadCertificate { chain_pem, key_pem: key.serialize_pem(), not_before, not_after })
    }
}

/// Certificates and the key of the first of them.
pub(crate) fn read_pair(
    cert_pem: &[u8],
    key_pem: &[u8],
) -> Result<(Vec<CertificateDer<'static>>, KeyPair), CaError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert_pem).collect();
    let chain = chain.map_err(|error| CaError::MalformedCertificate(error.to_string()))?;
    let first = chain.first().ok_or(CaError::NoCertificate)?;
    let key = match PrivateKeyDer::from_pem_slice(key_pem) {
        Ok(key) => key,
        Err(rustls_pki_types::pem::Error::NoItemsFound) => return Err(CaError::NoKey),
        Err(_) => return Err(CaError::MalformedKey),
    };
    let key = KeyPair::try_from(&key).map_err(|_| CaError::MalformedKey)?;
    if *parse(first)?.public_key().subject_public_key.data != *key.der_bytes() {
        return Err(CaError::Mismatch);
    }
    Ok((chain, key))
}

pub(crate) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CaError> {
    let parsed = X509Certificate::from_der(der);
    let malformed = |error: x509_parser::nom::Err<_>| {
        let error: x509_parser::nom::Err<x509_parser::error::X509Error> = error;
        CaError::MalformedCertificate(error.to_string())
    };
    parsed.map(|(_, parsed)| parsed).map_err(malformed)
}

fn period(
    now: OffsetDateTime,
    valid_for: Duration,
) -> Result<(OffsetDateTime, OffsetDateTime), CaError> {
    let from = now.checked_sub(BACKDATE).ok_or(CaError::Validity)?;
    // Certificates end with the year 9999 at the latest.
    let until = now.checked_add(valid_for).filter(|t| t.year() <= 9999);
    Ok((from, until.ok_or(CaError::Validity)?))
}

/// Positive and not zero: an id of version 4 always has bits set, and the first one is cleared.
fn serial_number(id: Uuid) -> SerialNumber {
    let mut bytes = id.into_bytes();
    bytes[0] &= 0x7f;
    SerialNumber::from_slice(&bytes)
}

fn uri(text: &str) -> Result<SanType, CaError> {
    let name = || CaError::Name(text.to_owned());
    if text.contains(|c: char| c.is_ascii_control() || c == ' ') {
        return Err(name());
    }
    Ok(SanType::URI(text.try_into().map_err(|_| name())?))
}

pub(crate) fn to_pem(der: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("CERTIFICATE", der), config)
}

#[cfg(test)]
mod tests;
