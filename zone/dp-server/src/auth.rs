//! Proof of a proxy's identity (`spec/dp-server.md` 7). Functions of a credential, a resource and
//! a snapshot; they are asked again when what they looked at changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use http::HeaderMap;
use sunbear_model::{Kind, ResourceKey, Spec, Typed, label, tags};
use sunbear_security::{
    signing_key::{self, ZONE_TOKEN_KEY, ZONE_TOKEN_PUBLIC_KEY},
    token::{
        AccessError, DataplaneClaims, Revocations, TokenError, ZoneClaims, check_dataplane,
        check_zone, kid_of, verify,
    },
};
use sunbear_xds::View;
use time::OffsetDateTime;
use tonic::{Status, metadata::MetadataMap};

use crate::{
    config::{AuthType, DpServerConfig, TokenSettings},
    proxy::{ProxyKey, ProxyKind},
};

const ZONE_REVOCATIONS: &str = "zone-token-revocations";

/// What a proxy shows: a raw token, maybe empty.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credential(String);

impl Credential {
    /// From the metadata of a call.
    pub(crate) fn of_call(metadata: &MetadataMap) -> Result<Self, AuthError> {
        let values: Vec<_> = metadata.get_all("authorization").iter().collect();
        match values.as_slice() {
            [] => Ok(Self(String::new())),
            [value] => Ok(Self(value.to_str().unwrap_or_default().to_owned())),
            more => Err(AuthError::Headers(more.len())),
        }
    }

    /// From the headers of a request.
    pub(crate) fn of_headers(headers: &HeaderMap) -> Result<Self, AuthError> {
        Self::of_call(&MetadataMap::from_headers(headers.clone()))
    }

    #[cfg(test)]
    pub(crate) fn new(token: &str) -> Self {
        Self(token.to_owned())
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(..)")
    }
}

/// Why a proxy is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AuthError {
    #[error("request must have exactly 1 \"authorization\" header, got {0}")]
    Headers(usize),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Access(#[from] AccessError),
}

impl From<AuthError> for Status {
    fn from(error: AuthError) -> Self {
        let text = format!("authentication failed: {error}");
        match error {
            AuthError::Headers(_) | AuthError::Token(_) => Status::unauthenticated(text),
            AuthError::Access(_) => Status::permission_denied(text),
        }
    }
}

/// The proxy resource that a credential is checked against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claimed<'a> {
    pub(crate) key: &'a ProxyKey,
    pub(crate) spec: &'a Spec,
    pub(crate) labels: &'a BTreeMap<String, String>,
}

/// The time at which a proof loses its force, if it does.
pub(crate) type ValidUntil = Option<OffsetDateTime>;

/// Does the credential prove that its bearer is this proxy?
pub(crate) fn authenticate(
    config: &DpServerConfig,
    view: &dyn View,
    credential: &Credential,
    claimed: Claimed<'_>,
    now: OffsetDateTime,
) -> Result<ValidUntil, AuthError> {
    match claimed.key.kind {
        ProxyKind::Dataplane => authenticate_dataplane(config, view, credential, claimed, now),
        ProxyKind::ZoneIngress | ProxyKind::ZoneEgress => {
            authenticate_zone_proxy(config, view, credential, claimed.key, now)
        }
    }
}

/// Can a change of this key change what [`authenticate`] says about proxies of this kind and mesh?
pub(crate) fn concerns(proxy: &ProxyKey, changed: &ResourceKey) -> bool {
    match proxy.kind {
        ProxyKind::Dataplane => {
            let keys = signing_key::dataplane_token_key(&proxy.mesh);
            let revocations = revocations_of_mesh(&proxy.mesh);
            match changed.kind {
                Kind::SECRET => {
                    *changed.mesh == *proxy.mesh
                        && (changed.name.starts_with(&keys) || *changed.name == *revocations)
                }
                Kind::GLOBAL_SECRET => *changed.name == *revocations,
                _ => false,
            }
        }
        ProxyKind::ZoneIngress | ProxyKind::ZoneEgress => {
            changed.kind == Kind::GLOBAL_SECRET && changed.name.starts_with("zone-token-")
        }
    }
}

fn authenticate_dataplane(
    config: &DpServerConfig,
    view: &dyn View,
    credential: &Credential,
    claimed: Claimed<'_>,
    now: OffsetDateTime,
) -> Result<ValidUntil, AuthError> {
    let settings = &config.dataplane_tokens;
    if settings.auth == AuthType::None {
        return Ok(None);
    }
    let mesh = &*claimed.key.mesh;
    let token = &credential.0;
    let prefix = signing_key::dataplane_token_key(mesh);
    let key = find_key(settings, view, token, &prefix, Some(mesh))?;
    let name = revocations_of_mesh(mesh);
    // Kuma documents the one and reads the other.
    let revocations = revocations(view, &ResourceKey::new(Kind::SECRET, mesh, &name))
        .and(revocations(view, &ResourceKey::new(Kind::GLOBAL_SECRET, "", &name)));
    let verified = verify::<DataplaneClaims>(token, &key, &revocations, now)?;
    let workload = claimed.labels.get(label::WORKLOAD).map(String::as_str);
    check_dataplane(&verified.claims, &claimed.key.name, mesh, &tags_of(claimed.spec), workload)?;
    Ok(verified.valid_until)
}

fn authenticate_zone_proxy(
    config: &DpServerConfig,
    view: &dyn View,
    credential: &Credential,
    proxy: &ProxyKey,
    now: OffsetDateTime,
) -> Result<ValidUntil, AuthError> {
    let settings = &config.zone_tokens;
    if settings.auth == AuthType::None {
        return Ok(None);
    }
    let token = &credential.0;
    let prefix = if config.federated { ZONE_TOKEN_PUBLIC_KEY } else { ZONE_TOKEN_KEY };
    let key = find_key(settings, view, token, prefix, None)?;
    let revocations =
        revocations(view, &ResourceKey::new(Kind::GLOBAL_SECRET, "", ZONE_REVOCATIONS));
    let verified = verify::<ZoneClaims>(token, &key, &revocations, now)?;
    check_zone(&verified.claims, proxy.kind.name(), &config.zone)?;
    Ok(verified.valid_until)
}

/// The key that a token names: a configured one, else that of the Secret of the mesh, or of the
/// GlobalSecret if there is no mesh.
fn find_key(
    settings: &TokenSettings,
    view: &dyn View,
    token: &str,
    prefix: &str,
    mesh: Option<&str>,
) -> Result<Vec<u8>, TokenError> {
    let kid = kid_of(token)?;
    let configured = settings.public_keys.iter().find(|key| {
        key.kid == kid && mesh.is_none_or(|mesh| key.mesh.is_empty() || key.mesh == mesh)
    });
    if let Some(key) = configured {
        return Ok(key.pem.clone().into_bytes());
    }
    let secret = signing_key::secret_name(prefix, &kid);
    let stored = if settings.use_secrets {
        let kind = if mesh.is_some() { Kind::SECRET } else { Kind::GLOBAL_SECRET };
        view.get(&ResourceKey::new(kind, mesh.unwrap_or_default(), &secret))
    } else {
        None
    };
    stored.and_then(|resource| resource.secret_data().map(<[u8]>::to_vec)).ok_or_else(|| {
        TokenError::SigningKeyNotFound { kid, secret, mesh: mesh.map(str::to_owned) }
    })
}

fn revocations(view: &dyn View, key: &ResourceKey) -> Revocations {
    view.get(key)
        .and_then(|resource| {
            resource.secret_data().map(|data| Revocations::parse(&String::from_utf8_lossy(data)))
        })
        .unwrap_or_else(Revocations::none)
}

fn revocations_of_mesh(mesh: &str) -> String {
    format!("dataplane-token-revocations-{mesh}")
}

fn tags_of(spec: &Spec) -> BTreeMap<String, BTreeSet<String>> {
    if let Typed::Dataplane(dataplane) = spec.typed() {
        tags::all_tags(dataplane)
    } else {
        BTreeMap::new()
    }
}

#[cfg(test)]
mod tests;
