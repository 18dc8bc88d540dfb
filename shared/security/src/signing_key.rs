//! Keys that tokens are signed with: RSA of 2048 bits in PKCS#1 PEM, the only form that Kuma reads
//! and writes, and the names of the secrets that hold them.

use rcgen::{KeyPair, PKCS_RSA_SHA256, PublicKeyData, RsaKeySize};
use rustls_pki_types::PrivateKeyDer;
use x509_parser::asn1_rs::{FromDer, Integer, OctetString, Sequence};

pub(crate) const PRIVATE: &str = "RSA PRIVATE KEY";
const PUBLIC: &str = "RSA PUBLIC KEY";

/// Beginning of the names of zone token keys.
pub const ZONE_TOKEN_KEY: &str = "zone-token-signing-key";
/// Beginning of the names of the public zone token keys that zones get.
pub const ZONE_TOKEN_PUBLIC_KEY: &str = "zone-token-signing-public-key";
/// Beginning of the names of user token keys.
pub const USER_TOKEN_KEY: &str = "user-token-signing-key";

/// Beginning of the names of a mesh's dataplane token keys.
pub fn dataplane_token_key(mesh: &str) -> String {
    format!("dataplane-token-signing-key-{mesh}")
}

/// Name of the secret with the key of an id. The id `0` stands for the name without one, from the
/// time before keys had ids.
pub fn secret_name(prefix: &str, kid: &str) -> String {
    if kid == "0" { prefix.to_owned() } else { format!("{prefix}-{kid}") }
}

/// The serial number in the name of a secret; `None` if the name is of something else. The highest
/// serial signs.
pub fn serial(prefix: &str, secret_name: &str) -> Option<u64> {
    match secret_name.strip_prefix(prefix)? {
        "" => Some(0),
        rest => rest.strip_prefix('-')?.parse().ok(),
    }
}

/// Why a key cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum SigningKeyError {
    /// It cannot be generated.
    #[error("could not generate a signing key")]
    Generate(#[source] rcgen::Error),
    /// Neither a private nor a public RSA key in PKCS#1.
    #[error(
        "not an RSA key in PKCS#1 form, as PEM \"RSA PRIVATE KEY\" or \"RSA PUBLIC KEY\", or as DER"
    )]
    Malformed,
}

/// Makes a private key, as PEM.
pub fn generate() -> Result<String, SigningKeyError> {
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048);
    let key = key.map_err(SigningKeyError::Generate)?;
    let pkcs1 = unwrap_pkcs8(key.serialized_der()).ok_or(SigningKeyError::Malformed)?;
    Ok(to_pem(PRIVATE, pkcs1))
}

/// The public half of a private key, or a public key as it is, as PEM.
pub fn public_pem(key: &[u8]) -> Result<String, SigningKeyError> {
    Ok(to_pem(PUBLIC, public_der(key)?))
}

/// The public key as PKCS#1 DER, of a private or public key in PEM or DER.
pub(crate) fn public_der(key: &[u8]) -> Result<Vec<u8>, SigningKeyError> {
    if let Ok(block) = pem::parse(key) {
        return match block.tag() {
            PRIVATE => public_of_private(block.contents()),
            PUBLIC if is_public(block.contents()) => Some(block.into_contents()),
            _ => None,
        }
        .ok_or(SigningKeyError::Malformed);
    }
    if is_public(key) {
        return Ok(key.to_vec());
    }
    public_of_private(key).ok_or(SigningKeyError::Malformed)
}

/// The private key as PKCS#1 DER, of PEM or DER.
pub(crate) fn private_der(key: &[u8]) -> Result<Vec<u8>, SigningKeyError> {
    let der = match pem::parse(key) {
        Ok(block) if block.tag() == PRIVATE => block.into_contents(),
        Ok(_) => return Err(SigningKeyError::Malformed),
        Err(_) => key.to_vec(),
    };
    // Reading the public half shows that it really is a private key.
    public_of_private(&der).map(|_| der).ok_or(SigningKeyError::Malformed)
}

fn public_of_private(pkcs1: &[u8]) -> Option<Vec<u8>> {
    let key = KeyPair::try_from(&PrivateKeyDer::Pkcs1(pkcs1.into())).ok()?;
    // For RSA this is the PKCS#1 structure itself.
    let der = key.der_bytes().to_vec();
    is_public(&der).then_some(der)
}

/// A sequence of exactly two integers, modulus and exponent.
fn is_public(der: &[u8]) -> bool {
    let two_integers = || {
        let (rest, sequence) = Sequence::from_der(der).ok()?;
        let (after_modulus, _) = Integer::from_der(&sequence.content).ok()?;
        let (after_exponent, _) = Integer::from_der(after_modulus).ok()?;
        Some(rest.is_empty() && after_exponent.is_empty())
    };
    two_integers().unwrap_or(false)
}

/// PKCS#8 is a version, an algorithm and, in an octet string, the PKCS#1 structure.
pub(crate) fn unwrap_pkcs8(der: &[u8]) -> Option<Vec<u8>> {
    let (_, outer) = Sequence::from_der(der).ok()?;
    let (rest, _version) = Integer::from_der(&outer.content).ok()?;
    let (rest, _algorithm) = Sequence::from_der(rest).ok()?;
    let (_, key) = OctetString::from_der(rest).ok()?;
    Some(key.as_ref().to_vec())
}

pub(crate) fn to_pem(tag: &str, der: Vec<u8>) -> String {
    // Go ends lines with a line feed alone.
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(tag, der), config)
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Write};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn forms() {
        let private = generate().unwrap();
        assert!(private.starts_with("-----BEGIN RSA PRIVATE KEY-----\n"));
        assert!(!private.contains('\r'));
        let public = public_pem(private.as_bytes()).unwrap();
        assert!(public.starts_with("-----BEGIN RSA PUBLIC KEY-----\n"));
        // A public key stays what it is, and bare DER is taken as well.
        assert_eq!(public_pem(public.as_bytes()).unwrap(), public);
        for pem in [&private, &public] {
            let der = pem::parse(pem).unwrap().into_contents();
            assert_eq!(public_pem(&der).unwrap(), public);
        }
        for malformed in
            ["", "nonsense", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
        {
            assert!(public_pem(malformed.as_bytes()).is_err(), "{malformed}");
        }
        assert!(private_der(public.as_bytes()).is_err());
    }

    #[test]
    fn openssl_derives_the_same_public_key() {
        let private = generate().unwrap();
        let child = Command::new("openssl")
            .args(["rsa", "-traditional", "-RSAPublicKey_out"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child = match child {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                eprintln!("SKIPPED: openssl is not on the PATH");
                return;
            }
            child => child.unwrap(),
        };
        child.stdin.take().unwrap().write_all(private.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            public_pem(private.as_bytes()).unwrap()
        );
    }

    #[test]
    fn names() {
        let prefix = dataplane_token_key("default");
        assert_eq!(secret_name(&prefix, "1"), "dataplane-token-signing-key-default-1");
        assert_eq!(secret_name(&prefix, "0"), "dataplane-token-signing-key-default");
        assert_eq!(serial(&prefix, "dataplane-token-signing-key-default-12"), Some(12));
        assert_eq!(serial(&prefix, "dataplane-token-signing-key-default"), Some(0));
        // Another mesh.
        assert_eq!(serial(&prefix, "dataplane-token-signing-key-default-east-1"), None);
        assert_eq!(serial(ZONE_TOKEN_KEY, "zone-token-signing-public-key-1"), None);
    }
}
