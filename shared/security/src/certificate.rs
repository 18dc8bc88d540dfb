//! Certificates of our own servers: the self-signed pair that serves when none is configured, and
//! what has to be known about configured ones.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256, RsaKeySize, SanType,
};
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// File of the certificate in the work folder; the name that users of Kuma know.
pub const CERT_FILE: &str = "kuma-cp.crt";
/// File of the key in the work folder.
pub const KEY_FILE: &str = "kuma-cp.key";
/// Held while the pair is created, so that two processes with one work folder do not mix their pairs.
const LOCK_FILE: &str = "kuma-cp.lock";

/// Why a certificate cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file or folder cannot be read or written.
    #[error("could not access {}", path.display())]
    Files {
        /// File or folder.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// The certificate cannot be generated.
    #[error("could not generate a certificate")]
    Generate(#[from] rcgen::Error),
    /// No PEM block of a certificate.
    #[error("no certificate in PEM form found")]
    NoCertificate,
    /// A certificate is malformed.
    #[error("malformed certificate: {0}")]
    Malformed(String),
    /// No PEM block of a private key.
    #[error("no private key in PEM form found")]
    NoKey,
    /// The key is of a kind that rustls does not know, or does not belong to the certificate.
    #[error("key and certificate cannot be used together")]
    Unusable(#[from] rustls::Error),
    /// The certificate says of itself that it is no authority.
    #[error("the certificate is not a certificate authority")]
    NotAuthority,
}

/// A certificate and its private key, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct PemPair {
    /// Certificate.
    pub cert_pem: String,
    /// Private key.
    pub key_pem: String,
}

impl fmt::Debug for PemPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PemPair").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// Where the pair of a work folder is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPair {
    /// Certificate file. Users hand it to clients as the authority, so its path belongs in the log.
    pub cert: PathBuf,
    /// Key file, readable by its owner only.
    pub key: PathBuf,
    /// It was created just now.
    pub created: bool,
}

/// Makes the certificate of a server that was given none. It is its own authority, so that its file
/// is also what clients verify it with.
///
/// Kuma: pkg/tls/cert.go
pub fn self_signed(
    host_name: &str,
    ips: &[IpAddr],
    now: OffsetDateTime,
) -> Result<PemPair, CertificateError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "kuma-control-plane");
    params.subject_alt_names = alternative_names(host_name, ips)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyCertSign,
    ];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // Clients' clocks may be a little behind.
    params.not_before = now - Duration::minutes(5);
    params.not_after = now + Duration::days(3_650);
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
    let certificate = params.self_signed(&key)?;
    Ok(PemPair { cert_pem: certificate.pem(), key_pem: key.serialize_pem() })
}

/// Host name, `localhost` and every address, each once.
fn alternative_names(host_name: &str, ips: &[IpAddr]) -> Result<Vec<SanType>, CertificateError> {
    let mut names = Vec::new();
    let mut addresses: BTreeSet<IpAddr> = ips.iter().copied().collect();
    match host_name.parse::<IpAddr>() {
        Ok(address) => {
            addresses.insert(address);
        }
        Err(_) if host_name.is_empty() || host_name == "localhost" => {}
        Err(_) => names.push(SanType::DnsName(host_name.try_into()?)),
    }
    names.push(SanType::DnsName("localhost".try_into()?));
    names.extend(addresses.into_iter().map(SanType::IpAddress));
    Ok(names)
}

/// The pair in a work folder; created, with the folder, if it is not complete. Both files appear
/// whole or not at all.
pub fn load_or_create(
    work_dir: &Path,
    host_name: &str,
    ips: &[IpAddr],
    now: OffsetDateTime,
) -> Result<StoredPair, CertificateError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| CertificateError::Files { path, source }
    };
    std::fs::create_dir_all(work_dir).map_err(at(work_dir))?;
    let lock_path = work_dir.join(LOCK_FILE);
    let lock = File::create(&lock_path).map_err(at(&lock_path))?;
    // Released when the file is closed, at the end of this function.
    lock.lock().map_err(at(&lock_path))?;

    let (cert, key) = (work_dir.join(CERT_FILE), work_dir.join(KEY_FILE));
    if cert.exists() && key.exists() {
        let cert_pem = std::fs::read(&cert).map_err(at(&cert))?;
        let key_pem = std::fs::read(&key).map_err(at(&key))?;
        certified_key(&cert_pem, &key_pem)?;
        return Ok(StoredPair { cert, key, created: false });
    }
    let pair = self_signed(host_name, ips, now)?;
    write_whole(&key, pair.key_pem.as_bytes(), 0o600).map_err(at(&key))?;
    write_whole(&cert, pair.cert_pem.as_bytes(), 0o644).map_err(at(&cert))?;
    Ok(StoredPair { cert, key, created: true })
}

/// Writes a file under another name and renames it when all of it is on the disk.
fn write_whole(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    // One left by a crash may have another mode, which opening would keep.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)
}

/// Certificate chain and key for rustls; an error if they do not belong together.
pub fn certified_key(cert_pem: &[u8], key_pem: &[u8]) -> Result<CertifiedKey, CertificateError> {
    let chain = chain(cert_pem)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| CertificateError::NoKey)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    Ok(CertifiedKey::from_der(chain, key, &provider)?)
}

/// DNS names and IP addresses that a PEM certificate (the first, if there are more) is good for.
pub fn alternative_names_of(cert_pem: &[u8]) -> Result<Vec<String>, CertificateError> {
    let der = first(cert_pem)?;
    let certificate = parse(&der)?;
    let extension = certificate.subject_alternative_name();
    let extension = extension.map_err(|error| CertificateError::Malformed(error.to_string()))?;
    let names =
        extension.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    Ok(names
        .iter()
        .filter_map(|name| {
            if let GeneralName::DNSName(name) = name {
                Some((*name).to_owned())
            } else if let GeneralName::IPAddress(octets) = name {
                address(octets).map(|address| address.to_string())
            } else {
                None
            }
        })
        .collect())
}

/// Refuses a PEM certificate (the first, if there are more) that says of itself that it is no
/// authority. One that says nothing passes, as in Kuma.
pub fn require_authority(cert_pem: &[u8]) -> Result<(), CertificateError> {
    let der = first(cert_pem)?;
    let certificate = parse(&der)?;
    let constraints = certificate.basic_constraints();
    let constraints =
        constraints.map_err(|error| CertificateError::Malformed(error.to_string()))?;
    match constraints {
        Some(constraints) if !constraints.value.ca => Err(CertificateError::NotAuthority),
        Some(_) | None => Ok(()),
    }
}

fn chain(cert_pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert_pem).collect();
    let chain = chain.map_err(|error| CertificateError::Malformed(error.to_string()))?;
    if chain.is_empty() { Err(CertificateError::NoCertificate) } else { Ok(chain) }
}

fn first(cert_pem: &[u8]) -> Result<CertificateDer<'static>, CertificateError> {
    chain(cert_pem)?.into_iter().next().ok_or(CertificateError::NoCertificate)
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CertificateError> {
    let parsed = X509Certificate::from_der(der);
    parsed.map(|(_, parsed)| parsed).map_err(|error| CertificateError::Malformed(error.to_string()))
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    const NOW: OffsetDateTime = time::macros::datetime!(2030-05-01 12:00 UTC);

    fn ips() -> Vec<IpAddr> {
        ["127.0.0.1", "10.0.0.7", "::1", "10.0.0.7"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect()
    }

    #[test]
    fn the_self_signed_pair() {
        let pair = self_signed("cp.example", &ips(), NOW).unwrap();
        let names = alternative_names_of(pair.cert_pem.as_bytes()).unwrap();
        assert_eq!(names, ["cp.example", "localhost", "10.0.0.7", "127.0.0.1", "::1"]);
        require_authority(pair.cert_pem.as_bytes()).unwrap();
        certified_key(pair.cert_pem.as_bytes(), pair.key_pem.as_bytes()).unwrap();

        let der = first(pair.cert_pem.as_bytes()).unwrap();
        let certificate = parse(&der).unwrap();
        let validity = certificate.validity();
        assert_eq!(validity.not_before.timestamp(), (NOW - Duration::minutes(5)).unix_timestamp());
        assert_eq!(validity.not_after.timestamp(), (NOW + Duration::days(3_650)).unix_timestamp());
        let usage = certificate.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && usage.key_encipherment() && usage.key_cert_sign());
        assert!(!usage.crl_sign() && !usage.key_agreement());
        assert!(certificate.extended_key_usage().unwrap().unwrap().value.server_auth);
        assert!(!format!("{pair:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_host_named_by_address_or_localhost() {
        let names = |host: &str| {
            let pair = self_signed(host, &[], NOW).unwrap();
            alternative_names_of(pair.cert_pem.as_bytes()).unwrap()
        };
        assert_eq!(names("10.1.2.3"), ["localhost", "10.1.2.3"]);
        assert_eq!(names("localhost"), ["localhost"]);
    }

    #[test]
    fn openssl_accepts_the_self_signed_pair() {
        let folder = tempfile::tempdir().unwrap();
        // openssl compares with the real clock.
        let stored =
            load_or_create(folder.path(), "cp.example", &ips(), OffsetDateTime::now_utc()).unwrap();
        let verify = |extra: &[&str]| {
            let run = Command::new("openssl")
                .args(["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile"])
                .arg(&stored.cert)
                .args(extra)
                .arg(&stored.cert)
                .output();
            run.map(|output| {
                (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
            })
        };
        match verify(&["-verify_hostname", "cp.example"]) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                eprintln!("SKIPPED: openssl is not on the PATH");
                return;
            }
            result => {
                let (success, message) = result.unwrap();
                assert!(success, "{message}");
            }
        }
        assert!(verify(&["-verify_ip", "10.0.0.7"]).unwrap().0);
        assert!(!verify(&["-verify_hostname", "other.example"]).unwrap().0);
    }

    #[test]
    fn the_pair_of_a_folder_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let work_dir = folder.path().join("not/yet");
        let create = || load_or_create(&work_dir, "cp", &ips(), NOW).unwrap();
        let stored = create();
        assert!(stored.created);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&stored.key), 0o600);
        let before = std::fs::read(&stored.cert).unwrap();

        assert!(!create().created);
        assert_eq!(std::fs::read(&stored.cert).unwrap(), before);

        // A crash between the two files.
        std::fs::remove_file(&stored.cert).unwrap();
        assert!(create().created);
        assert_ne!(std::fs::read(&stored.cert).unwrap(), before);

        // Somebody else's certificate beside our key is not ours to overwrite.
        std::fs::write(&stored.cert, before).unwrap();
        let error = load_or_create(&work_dir, "cp", &ips(), NOW).unwrap_err();
        assert_eq!(error.to_string(), "key and certificate cannot be used together");
    }

    #[test]
    fn authorities() {
        let leaf = |is_ca| {
            let mut params = CertificateParams::new(["leaf".to_owned()]).unwrap();
            params.is_ca = is_ca;
            params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
        };
        let error = require_authority(leaf(IsCa::ExplicitNoCa).as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "the certificate is not a certificate authority");
        require_authority(leaf(IsCa::NoCa).as_bytes()).unwrap();
        let error = require_authority(b"nothing").unwrap_err();
        assert_eq!(error.to_string(), "no certificate in PEM form found");
    }
}
