//! Secrets at rest: the specs of Secret, GlobalSecret and GatewayLastGood are sealed in the database
//! and nowhere else. Rows are opened as they are read and sealed as they are written, so plans, the world and
//! everybody above see plain specs, and a put that changes nothing is found by comparing those.
//!
//! # Form of the column `spec`
//!
//! - Bytes that do not begin with [`MAGIC`] are a plain spec.
//! - `MAGIC, 0, spec`: a plain spec that happens to begin with the magic byte.
//! - `MAGIC, 1, length of key id, key id, nonce (12 bytes), ciphertext and tag`: sealed by
//!   AES-256-GCM. The nonce is random. Type, mesh and name are authenticated with it, so that a row
//!   is worth nothing under another name.
//!
//! # Rotation
//!
//! Where several processes share a database, each must have a key before anybody seals with it: a
//! process that meets a row whose key it does not have stops following the database, and says which
//! key it lacks. So a new key first goes behind the old one everywhere, then in front of it
//! everywhere; then one rotation seals all rows with it, and the old one can go. A rotation
//! rewrites the column `spec` and nothing else: the content is the same, hence no new version, no
//! revision and no entry in the log, and nothing for a reader to hear of. The first rotation also
//! seals what was written before there was a key.
//!
//! A random nonce of 96 bits is safe for billions of values under one key.
//!
//! # Limits
//!
//! What this protects is a copy of the database: a backup, a replica, a stolen disk. Whoever can
//! write to the database can still put a plain row or an older sealed one of the same object there.

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use sunbear_model::{Kind, ResourceKey};

use crate::error::StoreError;

/// No message of protobuf begins with this byte: as a tag it means field 0, which does not exist,
/// of wire type 7, which does not exist either.
const MAGIC: u8 = 0x07;
/// Second byte: what follows is plain.
const PLAIN: u8 = 0;
/// Second byte: what follows is sealed by AES-256-GCM.
const SEALED: u8 = 1;

const KEY_LENGTH: usize = 32;
/// Fits into the one byte for its length, with room to spare.
const MAX_ID: usize = 64;

/// The keys that secrets are sealed with in the database. Cheap to clone. The default has no keys:
/// then secrets are stored plain.
#[derive(Clone, Default)]
pub struct SecretCipher {
    ring: Option<Arc<Ring>>,
}

struct Ring {
    /// Seals; all open.
    current: String,
    keys: BTreeMap<String, RandomizedNonceKey>,
}

/// Why a text is no key ring. Never says what is in the text but for ids of keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyRingError {
    /// There is no key in it.
    #[error("no key found, expected lines of the form id:base64")]
    Empty,
    /// An entry is not `id:base64`.
    #[error("entry {entry} is not of the form id:base64")]
    Form {
        /// Its place, from 1.
        entry: usize,
    },
    /// An id has other characters than letters, digits, `.`, `_` and `-`, or is too long.
    #[error(
        "the id of entry {entry} must be 1 to {MAX_ID} letters, digits, dots, underscores and hyphens"
    )]
    Id {
        /// Its place, from 1.
        entry: usize,
    },
    /// An id occurs twice.
    #[error("key {id:?} is there twice")]
    Twice {
        /// The id.
        id: String,
    },
    /// A key is not base64 of 32 bytes.
    #[error("key {id:?} is not 32 bytes in base64")]
    Key {
        /// Its id.
        id: String,
    },
}

/// What a rotation did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rotated {
    /// Secrets that were plain or sealed with another key, and are now sealed with the current one.
    pub sealed: u64,
    /// Secrets that were sealed with the current key already.
    pub unchanged: u64,
}

impl SecretCipher {
    /// Keys from a text of entries `id:base64`, one per line or separated by commas; the first is
    /// the current one. Empty lines and lines that begin with `#` do not count.
    pub fn from_text(text: &str) -> Result<Self, KeyRingError> {
        let mut keys = BTreeMap::new();
        let mut current = None;
        let entries = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .flat_map(|line| line.split(','))
            .map(str::trim)
            .filter(|entry| !entry.is_empty());
        for (entry, text) in (1..).zip(entries) {
            let (id, key) = text.split_once(':').ok_or(KeyRingError::Form { entry })?;
            let id = id.trim();
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            if id.is_empty() || id.len() > MAX_ID || !id.chars().all(fits) {
                return Err(KeyRingError::Id { entry });
            }
            let key = base64::engine::general_purpose::STANDARD
                .decode(key.trim())
                .ok()
                .filter(|key| key.len() == KEY_LENGTH)
                .and_then(|key| RandomizedNonceKey::new(&AES_256_GCM, &key).ok())
                .ok_or_else(|| KeyRingError::Key { id: id.to_owned() })?;
            if keys.insert(id.to_owned(), key).is_some() {
                return Err(KeyRingError::Twice { id: id.to_owned() });
            }
            current.get_or_insert_with(|| id.to_owned());
        }
        let current = current.ok_or(KeyRingError::Empty)?;
        Ok(Self { ring: Some(Arc::new(Ring { current, keys })) })
    }

    /// Id of the key that seals; none if secrets are stored plain.
    pub fn current(&self) -> Option<&str> {
        self.ring.as_ref().map(|ring| &*ring.current)
    }

    /// The form of a spec in the database.
    pub(crate) fn seal<'a>(
        &self,
        place: Place<'_>,
        spec: &'a [u8],
    ) -> Result<Cow<'a, [u8]>, StoreError> {
        if !is_secret(place.kind) {
            return Ok(Cow::Borrowed(spec));
        }
        let Some(ring) = &self.ring else {
            return Ok(match spec.first() {
                Some(&MAGIC) => Cow::Owned([&[MAGIC, PLAIN], spec].concat()),
                Some(_) | None => Cow::Borrowed(spec),
            });
        };
        let failed = || StoreError::Other("sealing a secret failed".into());
        let key = ring.keys.get(&ring.current).ok_or_else(failed)?;
        let length = u8::try_from(ring.current.len()).map_err(|_| failed())?;
        let mut body = spec.to_vec();
        let nonce = key
            .seal_in_place_append_tag(Aad::from(place.authenticated()), &mut body)
            .map_err(|_| failed())?;
        let head = [MAGIC, SEALED, length];
        Ok(Cow::Owned([&head, ring.current.as_bytes(), nonce.as_ref(), &body[..]].concat()))
    }

    /// The spec whose form in the database this is.
    pub(crate) fn open(&self, place: Place<'_>, stored: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        if !is_secret(place.kind) {
            return Ok(stored);
        }
        let envelope = match read(&stored) {
            Ok(Stored::Plain(plain)) if plain.len() == stored.len() => return Ok(stored),
            Ok(Stored::Plain(plain)) => return Ok(plain.to_vec()),
            Ok(Stored::Sealed(envelope)) => envelope,
            Err(Unknown) => {
                return Err(StoreError::corrupt(format!("unknown form: {}", place.key())));
            }
        };
        let key =
            self.ring.as_ref().and_then(|ring| ring.keys.get(envelope.id)).ok_or_else(|| {
                StoreError::SecretKeyMissing { id: envelope.id.to_owned(), object: place.key() }
            })?;
        let mut body = envelope.body.to_vec();
        let opened = key
            .open_in_place(Nonce::from(envelope.nonce), Aad::from(place.authenticated()), &mut body)
            .map(|plain| plain.len());
        let Ok(length) = opened else {
            return Err(StoreError::SecretUnreadable {
                id: envelope.id.to_owned(),
                object: place.key(),
            });
        };
        body.truncate(length);
        Ok(body)
    }

    /// The form that a row of the database should have instead; none if it is sealed with the
    /// current key.
    pub(crate) fn reseal(
        &self,
        place: Place<'_>,
        stored: &[u8],
    ) -> Result<Option<Vec<u8>>, StoreError> {
        // Also what seems to be in order is opened: whoever rotates wants to drop the old key.
        let plain = self.open(place, stored.to_vec())?;
        let current = match read(stored) {
            Ok(Stored::Sealed(envelope)) => Some(envelope.id) == self.current(),
            Ok(Stored::Plain(_)) | Err(Unknown) => false,
        };
        if current { Ok(None) } else { Ok(Some(self.seal(place, &plain)?.into_owned())) }
    }

    /// An error if there is no key to rotate to.
    pub(crate) fn require_key(&self) -> Result<(), StoreError> {
        match &self.ring {
            Some(_) => Ok(()),
            None => Err(StoreError::Settings("no key for secrets is configured".into())),
        }
    }
}

impl fmt::Debug for SecretCipher {
    // Ids only, never keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<&String> = self.ring.iter().flat_map(|ring| ring.keys.keys()).collect();
        f.debug_struct("SecretCipher")
            .field("current", &self.current())
            .field("keys", &ids)
            .finish()
    }
}

/// The types whose specs are sealed.
pub(crate) const SECRET_KINDS: [Kind; 3] =
    [Kind::GATEWAY_LAST_GOOD, Kind::GLOBAL_SECRET, Kind::SECRET];

fn is_secret(kind: Kind) -> bool {
    SECRET_KINDS.contains(&kind)
}

/// Which row a spec belongs to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) kind: Kind,
    pub(crate) mesh: &'a str,
    pub(crate) name: &'a str,
}

impl<'a> Place<'a> {
    fn key(&self) -> ResourceKey {
        ResourceKey { kind: self.kind, mesh: self.mesh.into(), name: self.name.into() }
    }

    /// Names hold no U+0000, so no two places give the same text.
    fn authenticated(&self) -> String {
        format!("sunbear secret 1\0{}\0{}\0{}", self.kind.name(), self.mesh, self.name)
    }
}

impl<'a> From<&'a ResourceKey> for Place<'a> {
    fn from(key: &'a ResourceKey) -> Self {
        Self { kind: key.kind, mesh: &key.mesh, name: &key.name }
    }
}

enum Stored<'a> {
    Plain(&'a [u8]),
    Sealed(Envelope<'a>),
}

struct Envelope<'a> {
    id: &'a str,
    nonce: &'a [u8; NONCE_LEN],
    body: &'a [u8],
}

/// The bytes begin like an envelope and are none that this release knows.
struct Unknown;

fn read(stored: &[u8]) -> Result<Stored<'_>, Unknown> {
    let Some(envelope) = stored.strip_prefix(&[MAGIC]) else { return Ok(Stored::Plain(stored)) };
    match envelope.split_first() {
        Some((&PLAIN, plain)) => Ok(Stored::Plain(plain)),
        Some((&SEALED, rest)) => {
            let (&length, rest) = rest.split_first().ok_or(Unknown)?;
            let (id, rest) = rest.split_at_checked(length.into()).ok_or(Unknown)?;
            let id = std::str::from_utf8(id).map_err(|_| Unknown)?;
            let (nonce, body) = rest.split_first_chunk::<NONCE_LEN>().ok_or(Unknown)?;
            Ok(Stored::Sealed(Envelope { id, nonce, body }))
        }
        Some(_) | None => Err(Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "a:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    const B: &str = "b:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

    fn ring(text: &str) -> SecretCipher {
        SecretCipher::from_text(text).unwrap()
    }

    fn place(name: &str) -> Place<'_> {
        Place { kind: Kind::SECRET, mesh: "m", name }
    }

    #[test]
    fn opens_what_it_sealed_and_nothing_else() {
        let cipher = ring(A);
        for plain in [&b""[..], b"\x0a\x03abc", &[MAGIC], &[MAGIC, SEALED, 1]] {
            let sealed = cipher.seal(place("n"), plain).unwrap().into_owned();
            assert_eq!(sealed[..2], [MAGIC, SEALED]);
            assert_eq!(sealed.len(), plain.len() + 3 + 1 + 12 + 16);
            assert_eq!(cipher.open(place("n"), sealed.clone()).unwrap(), plain);
            // Never the same twice.
            assert_ne!(cipher.seal(place("n"), plain).unwrap(), sealed);
            let elsewhere = [
                place("x"),
                Place { mesh: "x", ..place("n") },
                Place { kind: Kind::GLOBAL_SECRET, ..place("n") },
            ];
            for elsewhere in elsewhere {
                let error = cipher.open(elsewhere, sealed.clone()).unwrap_err();
                assert!(matches!(error, StoreError::SecretUnreadable { .. }), "{error:?}");
            }
            for i in 4..sealed.len() {
                let mut changed = sealed.clone();
                changed[i] ^= 1;
                let error = cipher.open(place("n"), changed).unwrap_err();
                assert!(matches!(error, StoreError::SecretUnreadable { .. }), "{error:?}");
            }
            for length in 0..sealed.len() {
                let cut = sealed[..length].to_vec();
                assert!(length == 0 || cipher.open(place("n"), cut).is_err());
            }
        }
    }

    #[test]
    fn without_a_key_bytes_stay_as_they_are_but_for_the_magic_one() {
        let none = SecretCipher::default();
        for plain in [&b""[..], b"\x0a\x03abc", b"garbage", &[MAGIC], &[MAGIC, SEALED, 9, 9]] {
            let stored = none.seal(place("n"), plain).unwrap().into_owned();
            assert_eq!(stored == plain, plain.first() != Some(&MAGIC));
            assert_eq!(none.open(place("n"), stored.clone()).unwrap(), plain);
            // A key does not hinder.
            assert_eq!(ring(A).open(place("n"), stored).unwrap(), plain);
        }
        let sealed = ring(A).seal(place("n"), b"x").unwrap().into_owned();
        let error = none.open(place("n"), sealed).unwrap_err();
        assert_eq!(
            error.to_string(),
            "key \"a\" is not configured, and type=\"Secret\" name=\"n\" mesh=\"m\" is encrypted with it"
        );
        // Other types are none of its business.
        let other = Place { kind: Kind::MESH, ..place("n") };
        assert_eq!(ring(A).seal(other, &[MAGIC]).unwrap(), &[MAGIC][..]);
        assert_eq!(ring(A).open(other, vec![MAGIC]).unwrap(), [MAGIC]);
    }

    #[test]
    fn reseals_what_is_not_under_the_current_key() {
        let (old, new) = (ring(A), ring(&format!("{B}\n{A}")));
        let sealed = old.seal(place("n"), b"x").unwrap().into_owned();
        assert_eq!(old.reseal(place("n"), &sealed).unwrap(), None);
        for stored in [&sealed[..], b"x"] {
            let renewed = new.reseal(place("n"), stored).unwrap().unwrap();
            assert_eq!(ring(B).open(place("n"), renewed.clone()).unwrap(), b"x");
            assert_eq!(new.reseal(place("n"), &renewed).unwrap(), None);
        }
        assert!(ring(B).reseal(place("n"), &sealed).is_err());
        // The right id and the wrong key.
        let same_id = ring(&B.replace("b:", "a:"));
        assert!(same_id.reseal(place("n"), &sealed).is_err());
    }

    #[test]
    fn reads_key_rings() {
        let cipher = ring(&format!("# keys\n\n {B} , {A}\r\n"));
        assert_eq!(cipher.current(), Some("b"));
        assert_eq!(
            format!("{cipher:?}"),
            r#"SecretCipher { current: Some("b"), keys: ["a", "b"] }"#
        );
        let fails = |text: &str, message: &str| {
            assert_eq!(SecretCipher::from_text(text).unwrap_err().to_string(), message);
        };
        fails("", "no key found, expected lines of the form id:base64");
        fails(&format!("{A}\nAAAA"), "entry 2 is not of the form id:base64");
        let id = "must be 1 to 64 letters, digits, dots, underscores and hyphens";
        fails(":AAAA", &format!("the id of entry 1 {id}"));
        fails("a b:AAAA", &format!("the id of entry 1 {id}"));
        fails("a:AAAA", "key \"a\" is not 32 bytes in base64");
        fails("a:?", "key \"a\" is not 32 bytes in base64");
        fails(&format!("{A}\n{A}"), "key \"a\" is there twice");
    }
}
