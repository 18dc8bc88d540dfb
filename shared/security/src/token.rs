//! Tokens of dataplanes, zones and users: JSON Web Tokens as Kuma issues them, RS256 with the key's
//! id as a text in the header and capitalised claims.
//!
//! Checking is in three steps, because only the caller can look up keys:
//!
//! 1. [`kid_of`] tells which key is needed;
//! 2. the caller finds it, or makes [`TokenError::SigningKeyNotFound`];
//! 3. [`verify`] gives typed claims; [`check_dataplane`] and [`check_zone`] say whether they allow
//!    what the peer wants.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::signing_key::{SigningKeyError, private_der, public_der};

mod access;
mod claims;
#[cfg(test)]
mod tests;

pub use access::{AccessError, check_dataplane, check_zone};
pub use claims::{DataplaneClaims, Revocations, UserClaims, ZoneClaims};

/// Issued tokens are valid from this much before they were issued, for peers whose clocks are behind.
pub const BACKDATE: Duration = Duration::seconds(5);

/// How long a token is valid when the request does not say: ten years.
pub const DEFAULT_VALIDITY: Duration = Duration::days(3_650);

/// Why a token is refused. The texts are the ones that users of Kuma know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The header names no key.
    #[error("JWT token must have kid header")]
    MissingKid,
    /// The header's key id is not a text.
    #[error("JWT token kid header must be a string")]
    KidNotText,
    /// The key is not there. Made by whoever looks it up.
    #[error("there is no signing key with KID {kid}. {} is not found. If signing key was rotated, regenerate the token",
        describe_secret(secret, mesh.as_deref()))]
    SigningKeyNotFound {
        /// Id of the key.
        kid: String,
        /// Name of the secret that would hold it.
        secret: String,
        /// Mesh of the secret; `None`: a GlobalSecret.
        mesh: Option<String>,
    },
    /// The token is not well-formed, or its signature is not by the key.
    #[error("could not parse token: {0}")]
    Unparsable(Unparsable),
    /// Its time is over.
    #[error(
        "could not parse token: token is expired: it was valid until {until} and this control plane's clock says {now}"
    )]
    Expired {
        /// End of its validity.
        until: Instant,
        /// Time of the check.
        now: Instant,
    },
    /// Its time has not come; usually the clock of the issuer is ahead of ours.
    #[error(
        "token is not valid yet: it is valid from {from} and this control plane's clock says {now}"
    )]
    NotYetValid {
        /// Begin of its validity.
        from: Instant,
        /// Time of the check.
        now: Instant,
    },
    /// Its id is on the list of revoked tokens.
    #[error("token is revoked")]
    Revoked,
}

/// What is wrong with a token that cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unparsable {
    /// Not three parts of base64 with JSON.
    #[error("token is malformed")]
    Malformed,
    /// Signed in a way that is not accepted. HS256 would let anybody who knows a public key sign.
    #[error("unsupported token alg {0}. Allowed algorithms are RS256")]
    Algorithm(String),
    /// The key found for it is no key.
    #[error("signing key is malformed")]
    Key,
    /// Somebody else signed it, or it was changed.
    #[error("token signature is invalid")]
    Signature,
    /// A claim has the wrong type.
    #[error("token has invalid claims: {0}")]
    Claims(String),
}

/// A point in time as it is shown in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instant(pub OffsetDateTime);

impl std::fmt::Display for Instant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let utc = self.0.to_offset(time::UtcOffset::UTC);
        let (date, time) = (utc.date(), utc.time());
        write!(f, "{date}T{:02}:{:02}:{:02}Z", time.hour(), time.minute(), time.second())
    }
}

fn describe_secret(name: &str, mesh: Option<&str>) -> String {
    match mesh {
        None => format!("GlobalSecret of name {name:?}"),
        Some(mesh) => format!("Secret of name {name:?} in mesh {mesh:?}"),
    }
}

/// Why a token cannot be issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The key cannot be used.
    #[error("could not use the signing key")]
    Key(#[from] SigningKeyError),
    /// The end of the validity cannot be expressed.
    #[error("validity of the token is out of range")]
    Validity,
    /// Signing failed.
    #[error("could not sign a token")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

/// A key to sign with.
#[derive(Clone, Copy)]
pub struct SigningKey<'a> {
    /// Its id.
    pub kid: &'a str,
    /// Private key: PKCS#1, PEM or DER.
    pub key: &'a [u8],
}

/// A token that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<C> {
    /// What it says.
    pub claims: C,
    /// Its id, by which it can be revoked; empty if it has none.
    pub id: String,
    /// End of its validity, if it has one. A long stream can end with it.
    pub valid_until: Option<OffsetDateTime>,
}

/// Issues a token.
pub fn issue<C: Serialize>(
    claims: &C,
    key: SigningKey<'_>,
    id: Uuid,
    now: OffsetDateTime,
    valid_for: Duration,
) -> Result<String, IssueError> {
    #[derive(Serialize)]
    struct Payload<'a, C> {
        #[serde(flatten)]
        claims: &'a C,
        jti: String,
        iat: i64,
        nbf: i64,
        exp: i64,
    }
    let from = now.checked_sub(BACKDATE).ok_or(IssueError::Validity)?.unix_timestamp();
    let until = now.checked_add(valid_for).ok_or(IssueError::Validity)?.unix_timestamp();
    let payload = Payload { claims, jti: id.to_string(), iat: from, nbf: from, exp: until };
    let mut header = Header::new(Algorithm::RS256);
    header.kid = Some(key.kid.to_owned());
    let key = EncodingKey::from_rsa_der(&private_der(key.key)?);
    Ok(jsonwebtoken::encode(&header, &payload, &key)?)
}

/// The id of the key that a token claims to be signed with. Nothing is checked yet.
pub fn kid_of(token: &str) -> Result<String, TokenError> {
    let header = header(token)?;
    match header.get("kid") {
        None => Err(TokenError::MissingKid),
        Some(serde_json::Value::String(kid)) => Ok(kid.clone()),
        Some(_) => Err(TokenError::KidNotText),
    }
}

/// Checks a token: algorithm, signature, time, revocation. `key` is the one that [`kid_of`] asks
/// for, private or public, PEM or DER. There is no leeway; issuing backdates instead.
pub fn verify<C: DeserializeOwned>(
    token: &str,
    key: &[u8],
    revocations: &Revocations,
    now: OffsetDateTime,
) -> Result<Verified<C>, TokenError> {
    kid_of(token)?;
    let algorithm = match header(token)?.get("alg") {
        Some(serde_json::Value::String(algorithm)) => algorithm.clone(),
        Some(_) | None => return Err(TokenError::Unparsable(Unparsable::Malformed)),
    };
    if algorithm != "RS256" {
        return Err(TokenError::Unparsable(Unparsable::Algorithm(algorithm)));
    }
    let key = public_der(key).map_err(|_| TokenError::Unparsable(Unparsable::Key))?;
    // Times are checked below, with our own clock and messages.
    let mut validation = Validation::new(Algorithm::RS256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    let key = DecodingKey::from_rsa_der(&key);
    let payload: serde_json::Value = jsonwebtoken::decode(token, &key, &validation)
        .map(|decoded| decoded.claims)
        .map_err(|error| TokenError::Unparsable(cause(&error)))?;

    let invalid =
        |error: serde_json::Error| TokenError::Unparsable(Unparsable::Claims(error.to_string()));
    let registered = Registered::deserialize(&payload).map_err(invalid)?;
    let claims = C::deserialize(&payload).map_err(invalid)?;
    let valid_until = registered.exp.map(|exp| exp.0);
    if let Some(until) = valid_until
        && now >= until
    {
        return Err(TokenError::Expired { until: Instant(until), now: Instant(now) });
    }
    if let Some(NumericDate(from)) = registered.nbf
        && now < from
    {
        return Err(TokenError::NotYetValid { from: Instant(from), now: Instant(now) });
    }
    if revocations.contains(&registered.jti) {
        return Err(TokenError::Revoked);
    }
    Ok(Verified { claims, id: registered.jti, valid_until })
}

fn header(token: &str) -> Result<serde_json::Map<String, serde_json::Value>, TokenError> {
    let malformed = || TokenError::Unparsable(Unparsable::Malformed);
    let (header, _) = token.split_once('.').ok_or_else(malformed)?;
    let json = URL_SAFE_NO_PAD.decode(header).map_err(|_| malformed())?;
    serde_json::from_slice(&json).map_err(|_| malformed())
}

fn cause(error: &jsonwebtoken::errors::Error) -> Unparsable {
    match error.kind() {
        ErrorKind::InvalidSignature => Unparsable::Signature,
        ErrorKind::InvalidRsaKey(_) | ErrorKind::InvalidKeyFormat => Unparsable::Key,
        // The enum is not ours and open; all that is left is about form.
        _ => Unparsable::Malformed,
    }
}

#[derive(Deserialize)]
struct Registered {
    #[serde(default)]
    jti: String,
    nbf: Option<NumericDate>,
    exp: Option<NumericDate>,
}

/// Seconds since 1970; the standard allows fractions.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "serde_json::Number")]
struct NumericDate(OffsetDateTime);

impl TryFrom<serde_json::Number> for NumericDate {
    type Error = &'static str;

    fn try_from(number: serde_json::Number) -> Result<Self, Self::Error> {
        let error = "time is out of range";
        if let Some(seconds) = number.as_i64() {
            return OffsetDateTime::from_unix_timestamp(seconds).map(Self).map_err(|_| error);
        }
        let seconds = number.as_f64().ok_or(error)?;
        let since = Duration::checked_seconds_f64(seconds).ok_or(error)?;
        OffsetDateTime::UNIX_EPOCH.checked_add(since).map(Self).ok_or(error)
    }
}
