//! Checks of certificates and keys: what Envoy would refuse is refused here, where it can be told
//! (Kuma: pkg/plugins/runtime/gateway/filter_chain_generator.go).

use rustls::{SignatureAlgorithm, crypto::aws_lc_rs::sign::any_supported_type, sign::SigningKey};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use std::sync::Arc;
use x509_parser::{
    asn1_rs::{Class, Tag},
    der_parser::parse_der,
    parse_x509_certificate,
};

use super::pem::{self, Block};

/// What a key signs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    Rsa,
    Ecdsa,
}

impl KeyKind {
    /// As it is part of names.
    pub(crate) fn name(self) -> &'static str {
        match self {
            KeyKind::Rsa => "rsa",
            KeyKind::Ecdsa => "ecdsa",
        }
    }
}

/// The certificate of a listener with its chain and key, as Envoy gets it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ServerCertificate {
    pub(crate) kind: KeyKind,
    pub(crate) chain: String,
    pub(crate) key: String,
}

/// What is wrong with a certificate, its key, or the text that holds them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PairError {
    #[error("secret[{0}]: secret contains multiple private keys")]
    SeveralKeys(usize),
    #[error("secret[{0}]: failed to parse private key")]
    BadKey(usize),
    #[error("secret[{0}]: unsupported private key type")]
    KeyType(usize),
    #[error("secret[{0}]: failed to parse certificate")]
    BadCertificate(usize),
    #[error("secret[{0}]: unsupported PEM block {1:?}")]
    Block(usize, String),
    #[error("missing server certificate")]
    NoCertificate,
    #[error("missing private key")]
    NoKey,
    #[error("the private key is not that of the certificate")]
    Mismatch,
}

impl ServerCertificate {
    /// Reads one key and at least one certificate from PEM text.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, PairError> {
        let mut certificates = Vec::new();
        let mut key = None;
        for (index, block) in pem::blocks(text).into_iter().enumerate() {
            if block.label.ends_with("PRIVATE KEY") {
                if key.is_some() {
                    return Err(PairError::SeveralKeys(index));
                }
                key = Some(read_key(&block, index)?);
            } else if block.label.ends_with("CERTIFICATE") {
                certificates.push(read_certificate(block, index)?);
            } else {
                return Err(PairError::Block(index, block.label));
            }
        }
        let first = certificates.first().ok_or(PairError::NoCertificate)?;
        let key = key.ok_or(PairError::NoKey)?;
        check_match(first, &key)?;
        let mut chain = String::new();
        for certificate in &certificates {
            chain.push_str(&certificate.encode());
            chain.push('\n');
        }
        Ok(Self { kind: key.kind, chain, key: key.block.encode() })
    }
}

/// Checks a client certificate and its key, which come apart.
pub(crate) fn check_pair(certificate: &[u8], key: &[u8]) -> Result<(), PairError> {
    let mut first = None;
    for (index, block) in pem::blocks(certificate).into_iter().enumerate() {
        if block.label.ends_with("CERTIFICATE") {
            let certificate = read_certificate(block, index)?;
            first.get_or_insert(certificate);
        }
    }
    let first = first.ok_or(PairError::NoCertificate)?;
    let blocks = pem::blocks(key);
    let (index, block) = blocks
        .iter()
        .enumerate()
        .find(|(_, block)| block.label.ends_with("PRIVATE KEY"))
        .ok_or(PairError::NoKey)?;
    let key = read_key(block, index)?;
    if key.block != *block {
        // Envoy goes by the label.
        return Err(PairError::BadKey(index));
    }
    check_match(&first, &key)
}

/// Checks certificates of authorities: there has to be at least one.
pub(crate) fn check_authorities(text: &[u8]) -> Result<(), PairError> {
    let mut found = false;
    for (index, block) in pem::blocks(text).into_iter().enumerate() {
        if block.label.ends_with("CERTIFICATE") {
            read_certificate(block, index)?;
            found = true;
        }
    }
    if found { Ok(()) } else { Err(PairError::NoCertificate) }
}

struct Key {
    kind: KeyKind,
    signing: Arc<dyn SigningKey>,
    block: Block,
}

/// Reads a key in whatever of the three formats it is; the label does not matter to Kuma. It does
/// to Envoy, so the block gets the label of its format.
fn read_key(block: &Block, index: usize) -> Result<Key, PairError> {
    let der = || block.der.clone();
    let formats = [
        ("PRIVATE KEY", PrivateKeyDer::from(PrivatePkcs8KeyDer::from(der()))),
        ("RSA PRIVATE KEY", PrivateKeyDer::from(PrivatePkcs1KeyDer::from(der()))),
        // The last one, since what reads it would take a key of the first format, too.
        ("EC PRIVATE KEY", PrivateKeyDer::from(PrivateSec1KeyDer::from(der()))),
    ];
    for (label, der) in formats {
        let Ok(signing) = any_supported_type(&der) else { continue };
        if matches!(der, PrivateKeyDer::Sec1(_)) && !names_curve(&block.der) {
            continue;
        }
        let kind = match signing.algorithm() {
            SignatureAlgorithm::RSA => KeyKind::Rsa,
            SignatureAlgorithm::ECDSA => KeyKind::Ecdsa,
            _ => return Err(PairError::KeyType(index)),
        };
        let block = if block.label == label { block.clone() } else { block.relabelled(label) };
        return Ok(Key { kind, signing, block });
    }
    Err(PairError::BadKey(index))
}

/// Does a key in the older format of elliptic curves tell its curve? Elsewhere it may be known, but
/// neither Kuma nor Envoy would guess.
fn names_curve(der: &[u8]) -> bool {
    let Ok((_, key)) = parse_der(der) else { return false };
    let Ok(parts) = key.as_sequence() else { return false };
    parts.get(2).is_some_and(|part| part.class() == Class::ContextSpecific && part.tag() == Tag(0))
}

/// Checks a certificate; labels that only some programs know become the usual one.
fn read_certificate(block: Block, index: usize) -> Result<Block, PairError> {
    match parse_x509_certificate(&block.der) {
        Ok(([], _)) => {}
        _ => return Err(PairError::BadCertificate(index)),
    }
    Ok(if block.label == "CERTIFICATE" { block } else { block.relabelled("CERTIFICATE") })
}

fn check_match(certificate: &Block, key: &Key) -> Result<(), PairError> {
    let Ok((_, parsed)) = parse_x509_certificate(&certificate.der) else {
        return Err(PairError::BadCertificate(0));
    };
    let of_certificate = parsed.tbs_certificate.subject_pki.raw;
    match key.signing.public_key() {
        Some(of_key) if of_key.as_ref() != of_certificate => Err(PairError::Mismatch),
        Some(_) | None => Ok(()),
    }
}
