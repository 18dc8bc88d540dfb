//! `generate tls-certificate`.

use std::{net::IpAddr, path::Path};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize, SanType,
};
use sunbear_security::certificate::PemPair;
use time::{Duration, OffsetDateTime};

use crate::{
    arguments::{KeyType, Purpose, TlsCertificate},
    failure::Failure,
    files,
    output::Output,
};

/// Runs the command.
pub(crate) fn run(arguments: &TlsCertificate, output: &mut Output<'_>) -> Result<(), Failure> {
    let PemPair { cert_pem, key_pem } = make(arguments, OffsetDateTime::now_utc())?;
    let TlsCertificate { key_file, cert_file, .. } = arguments;
    put(key_file, &key_pem, output)?;
    put(cert_file, &cert_pem, output)?;
    if !is_stdout(key_file) && !is_stdout(cert_file) {
        writeln!(output.out, "Private key saved in {}", key_file.display())?;
        writeln!(output.out, "Certificate saved in {}", cert_file.display())?;
    }
    Ok(())
}

fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn put(path: &Path, pem: &str, output: &mut Output<'_>) -> Result<(), Failure> {
    if is_stdout(path) {
        output.out.write_all(pem.as_bytes())?;
        return Ok(());
    }
    Ok(files::write_private(path, pem.as_bytes())?)
}

/// A certificate that is its own authority, valid for ten years.
///
/// Kuma: pkg/tls/cert.go
fn make(arguments: &TlsCertificate, now: OffsetDateTime) -> Result<PemPair, Failure> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyCertSign,
    ];
    params.extended_key_usages = vec![match arguments.purpose {
        Purpose::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Purpose::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    for name in &arguments.hostname {
        let wrong = || Failure::Usage(format!("--hostname: {name:?} is not a name"));
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) if name.is_empty() => return Err(wrong()),
            Err(_) => SanType::DnsName(name.as_str().try_into().map_err(|_| wrong())?),
        });
    }
    // Peers' clocks may be a little behind.
    params.not_before = now - Duration::minutes(5);
    params.not_after = now + Duration::days(3_650);
    let key = match arguments.key_type {
        KeyType::Rsa => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
        KeyType::Ecdsa => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
    };
    let key = key.context("generating a key")?;
    let certificate = params.self_signed(&key).context("generating a certificate")?;
    Ok(PemPair { cert_pem: certificate.pem(), key_pem: key.serialize_pem() })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use sunbear_security::certificate;

    use super::*;

    fn arguments(names: &[&str]) -> TlsCertificate {
        TlsCertificate {
            purpose: Purpose::Server,
            hostname: names.iter().map(|name| (*name).to_owned()).collect(),
            key_type: KeyType::Ecdsa,
            key_file: PathBuf::from("-"),
            cert_file: PathBuf::from("-"),
        }
    }

    #[test]
    fn certificates() {
        let now = OffsetDateTime::now_utc();
        for key_type in [KeyType::Ecdsa, KeyType::Rsa] {
            let arguments = TlsCertificate { key_type, ..arguments(&["cp.example", "10.0.0.7"]) };
            let pair = make(&arguments, now).unwrap();
            certificate::certified_key(pair.cert_pem.as_bytes(), pair.key_pem.as_bytes()).unwrap();
            certificate::require_authority(pair.cert_pem.as_bytes()).unwrap();
            let names = certificate::alternative_names_of(pair.cert_pem.as_bytes()).unwrap();
            assert_eq!(names, ["cp.example", "10.0.0.7"]);
        }
        assert!(matches!(make(&arguments(&[""]), now), Err(Failure::Usage(_))));
        assert!(matches!(make(&arguments(&["é"]), now), Err(Failure::Usage(_))));
    }
}
