//! Zones that prove who they are with a zone token of scope `cp` (`spec/kds.md` 1.4).

use anyhow::{Context as _, Result};
use sunbear_kds::server::ZoneAuthenticator;
use sunbear_model::{Kind, ResourceKey};
use sunbear_runtime::config::{KdsAuthentication, PublicKeySource};
use sunbear_security::{
    signing_key,
    token::{self, Revocations, ZoneClaims},
};
use sunbear_store::Snapshot;
use time::OffsetDateTime;
use tonic::Status;

/// Prefix of the secrets with signing keys.
const KEYS: &str = "zone-token-signing-key";
/// Secret with the ids of revoked tokens.
const REVOCATIONS: &str = "zone-token-revocations";
/// Scope of tokens for control planes.
const SCOPE: &str = "cp";

struct Tokens {
    use_secrets: bool,
    /// Key id and PEM.
    public_keys: Vec<(String, Vec<u8>)>,
}

/// The check that the configuration asks for, if any.
pub(crate) fn authenticator(
    settings: &KdsAuthentication,
) -> Result<Option<Box<dyn ZoneAuthenticator>>> {
    let KdsAuthentication::ZoneToken { use_secrets, public_keys } = settings else {
        return Ok(None);
    };
    let mut keys = Vec::new();
    for key in public_keys {
        let pem = match &key.source {
            PublicKeySource::Inline(text) => text.clone().into_bytes(),
            PublicKeySource::File(path) => std::fs::read(path)
                .with_context(|| format!("reading the public key {}", path.display()))?,
        };
        keys.push((key.kid.clone(), pem));
    }
    Ok(Some(Box::new(Tokens { use_secrets: *use_secrets, public_keys: keys })))
}

impl ZoneAuthenticator for Tokens {
    fn authenticate(
        &self,
        snapshot: &Snapshot,
        zone: &str,
        authorization: Option<&str>,
    ) -> Result<(), Status> {
        let credential =
            authorization.ok_or_else(|| Status::unauthenticated("zone token is missing"))?;
        let credential = credential.strip_prefix("Bearer ").unwrap_or(credential);
        let refused = |e: token::TokenError| Status::unauthenticated(e.to_string());
        let kid = token::kid_of(credential).map_err(refused)?;
        let secret = |name: &str| {
            snapshot
                .get(&ResourceKey::new(Kind::GLOBAL_SECRET, "", name))
                .and_then(|r| r.secret_data().map(<[u8]>::to_vec))
        };
        let fixed = self.public_keys.iter().find(|(k, _)| *k == kid).map(|(_, pem)| pem.clone());
        let name = signing_key::secret_name(KEYS, &kid);
        let key = fixed
            .or_else(|| if self.use_secrets { secret(&name) } else { None })
            .ok_or_else(|| {
                Status::unauthenticated(format!(
                    "there is no signing key with KID {kid}. GlobalSecret of name {name:?} is not \
                     found. If signing key was rotated, regenerate the token"
                ))
            })?;
        let revoked = secret(REVOCATIONS).unwrap_or_default();
        let revoked = Revocations::parse(&String::from_utf8_lossy(&revoked));
        let verified =
            token::verify::<ZoneClaims>(credential, &key, &revoked, OffsetDateTime::now_utc())
                .map_err(refused)?;
        token::check_zone(&verified.claims, SCOPE, zone)
            .map_err(|e| Status::permission_denied(e.to_string()))
    }
}
