//! `POST /tokens/…`: issuing tokens, and telling users by theirs (`spec/rest-api.md` 11).

use std::collections::{BTreeMap, BTreeSet};

use axum::{body::Body, response::Response};
use http::StatusCode;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sunbear_model::{Kind, ResourceKey, validation::Violations};
use sunbear_proto::duration;
use sunbear_security::{
    signing_key::{self, USER_TOKEN_KEY, ZONE_TOKEN_KEY, dataplane_token_key},
    token::{
        self, DataplaneClaims, Revocations, SigningKey, TokenError, UserClaims, Verified,
        ZoneClaims,
    },
};
use sunbear_store::Snapshot;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::{
    access, problem::Problem, problem::chain, reply, service::Call, state::UserTokenKeys,
    user::User, write,
};

/// Name of the secret that lists revoked user tokens.
const USER_REVOCATIONS: &str = "user-token-revocations";

const INVALID: &str = "Invalid request";
const NOT_ISSUED: &str = "Could not issue a token";

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[derive(Default)]
struct DataplaneRequest {
    name: Option<String>,
    mesh: Option<String>,
    tags: Option<BTreeMap<String, Option<BTreeSet<String>>>>,
    r#type: Option<String>,
    workload: Option<String>,
    valid_for: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct ZoneRequest {
    zone: Option<String>,
    scope: Option<Vec<String>>,
    valid_for: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct UserRequest {
    name: Option<String>,
    groups: Option<Vec<String>>,
    valid_for: Option<String>,
}

/// Issues a token for a proxy.
pub(crate) async fn dataplane(call: &Call<'_>, body: Body) -> Result<Response, Problem> {
    let Some(request) = read::<DataplaneRequest>(body).await? else { return Ok(unreadable()) };
    let mesh = request.mesh.unwrap_or_default();
    let kind = request.r#type.unwrap_or_default();
    let mut violations = Violations::default();
    if mesh.is_empty() {
        violations.push("mesh", "cannot be empty");
    }
    let valid_for = validity(request.valid_for.as_deref(), &mut violations);
    if !matches!(kind.as_str(), "" | "dataplane" | "ingress" | "egress") {
        violations.push("type", format!("{kind} is not a valid proxy type"));
    }
    let Some(valid_for) = valid_for.filter(|_| violations.is_empty()) else {
        return Err(Problem::invalid(INVALID, &violations));
    };
    let api = call.api;
    let subjects = &api.access.generate_dataplane_token;
    access::check(subjects, &call.user, || "generate dataplane token".to_owned())?;
    require_issuer(api.issuers.dataplane)?;
    let tags = request.tags.unwrap_or_default();
    let claims = DataplaneClaims {
        name: request.name.unwrap_or_default(),
        mesh: mesh.clone(),
        tags: tags.into_iter().map(|(k, v)| (k, v.unwrap_or_default())).collect(),
        proxy_type: kind,
        workload: request.workload.unwrap_or_default(),
    };
    issue(call, Keys::Mesh(&mesh), claims, valid_for).await
}

/// Issues a token for the proxies or the control plane of a zone.
pub(crate) async fn zone(call: &Call<'_>, body: Body) -> Result<Response, Problem> {
    let Some(request) = read::<ZoneRequest>(body).await? else { return Ok(unreadable()) };
    let zone = request.zone.unwrap_or_default();
    let api = call.api;
    let subjects = &api.access.generate_zone_token;
    access::check(subjects, &call.user, || format!("generate zone token for zone '{zone}'"))?;
    let mut violations = Violations::default();
    // Kuma does not ask, and issues a token that is good for every zone.
    if zone.is_empty() {
        violations.push("zone", "cannot be empty");
    }
    if request.scope.is_none() {
        violations.push("scope", "cannot be empty");
    }
    let valid_for = validity(request.valid_for.as_deref(), &mut violations);
    let (Some(valid_for), Some(scope), true) = (valid_for, request.scope, violations.is_empty())
    else {
        return Err(Problem::invalid(INVALID, &violations));
    };
    require_issuer(api.issuers.zone)?;
    issue(call, Keys::Global(ZONE_TOKEN_KEY), ZoneClaims { zone, scope }, valid_for).await
}

/// Issues a token for a user of this API.
pub(crate) async fn user(call: &Call<'_>, body: Body) -> Result<Response, Problem> {
    let api = call.api;
    if !api.access.user_tokens {
        return Ok(reply::page_not_found());
    }
    if !api.access.generate_user_token.contain(&call.user) {
        return Err(Problem::denied("action not allowed"));
    }
    let Some(request) = read::<UserRequest>(body).await? else { return Ok(unreadable()) };
    let name = request.name.unwrap_or_default();
    let mut violations = Violations::default();
    if name.is_empty() {
        violations.push("name", "cannot be empty");
    }
    let valid_for = match request.valid_for.as_deref().unwrap_or_default() {
        "" => {
            violations.push("validFor", "cannot be empty");
            None
        }
        text => validity(Some(text), &mut violations),
    };
    if valid_for == Some(Duration::ZERO) {
        violations.push("validFor", "cannot be empty or nil");
    }
    let Some(valid_for) = valid_for.filter(|_| violations.is_empty()) else {
        return Err(Problem::invalid(INVALID, &violations));
    };
    require_issuer(api.issuers.user)?;
    let claims = UserClaims { name, groups: request.groups.unwrap_or_default() };
    issue(call, Keys::Global(USER_TOKEN_KEY), claims, valid_for).await
}

/// Reads a request; nothing if it is not one.
async fn read<T: DeserializeOwned>(body: Body) -> Result<Option<T>, Problem> {
    let body = write::read_body(body).await?;
    Ok(serde_json::from_slice(&body).ok())
}

/// Clients of Kuma expect no body here.
fn unreadable() -> Response {
    reply::empty(StatusCode::BAD_REQUEST)
}

fn validity(text: Option<&str>, violations: &mut Violations) -> Option<Duration> {
    let text = text.unwrap_or_default();
    if text.is_empty() {
        return Some(token::DEFAULT_VALIDITY);
    }
    let Some(nanos) = duration::parse_nanos(text) else {
        violations.push("validFor", format!("is invalid: time: invalid duration {text:?}"));
        return None;
    };
    if nanos < 0 {
        violations.push("validFor", "is invalid: must not be negative");
        return None;
    }
    // Parsing keeps to 64 bits.
    i64::try_from(nanos).ok().map(Duration::nanoseconds)
}

fn require_issuer(enabled: bool) -> Result<(), Problem> {
    if enabled {
        return Ok(());
    }
    let detail = "issuing tokens using the control plane is disabled.";
    Err(Problem::new(StatusCode::BAD_REQUEST, NOT_ISSUED, detail))
}

/// Where the keys of a kind of token are.
#[derive(Clone, Copy)]
enum Keys<'a> {
    /// GlobalSecrets whose names start so.
    Global(&'a str),
    /// Secrets of a mesh.
    Mesh(&'a str),
}

async fn issue<C: Serialize + Send + 'static>(
    call: &Call<'_>,
    keys: Keys<'_>,
    claims: C,
    valid_for: Duration,
) -> Result<Response, Problem> {
    let snapshot = call.api.world.snapshot();
    let (prefix, mesh) = match keys {
        Keys::Global(prefix) => (prefix.to_owned(), None),
        Keys::Mesh(mesh) => (dataplane_token_key(mesh), Some(mesh)),
    };
    let Some((kid, key)) = newest_key(&snapshot, &prefix, mesh) else {
        let error = TokenError::SigningKeyNotFound {
            kid: FIRST_KEY.to_owned(),
            secret: signing_key::secret_name(&prefix, FIRST_KEY),
            mesh: mesh.map(str::to_owned),
        };
        let title = "Signing Key not found";
        return Err(Problem::new(StatusCode::NOT_FOUND, title, error.to_string()));
    };
    let now = (call.api.clock)();
    // Signing takes a millisecond, longer in debug builds.
    let signed = tokio::task::spawn_blocking(move || {
        token::issue(&claims, SigningKey { kid: &kid, key: &key }, Uuid::new_v4(), now, valid_for)
    })
    .await;
    match signed {
        Ok(Ok(token)) => Ok(reply::token(token)),
        Ok(Err(error)) => {
            tracing::error!(error = %chain(&error), "could not issue a token");
            Err(Problem::internal(NOT_ISSUED))
        }
        Err(error) => {
            tracing::error!(%error, "issuing a token was aborted");
            Err(Problem::internal(NOT_ISSUED))
        }
    }
}

/// Id of the key that is made first.
pub(crate) const FIRST_KEY: &str = "1";

/// Id and value of the key that signs: the one with the highest serial number.
pub(crate) fn newest_key(
    snapshot: &Snapshot,
    prefix: &str,
    mesh: Option<&str>,
) -> Option<(String, Vec<u8>)> {
    let key = |resource: &sunbear_model::Resource| {
        let serial = signing_key::serial(prefix, &resource.key.name)?;
        Some((serial, resource.secret_data()?.to_vec()))
    };
    let newest = match mesh {
        Some(mesh) => {
            snapshot.list_mesh(Kind::SECRET, mesh).filter_map(|r| key(r)).max_by_key(|(s, _)| *s)
        }
        None => snapshot.list(Kind::GLOBAL_SECRET).filter_map(|r| key(r)).max_by_key(|(s, _)| *s),
    };
    newest.map(|(serial, data)| (serial.to_string(), data))
}

/// The user that a token names.
pub(crate) fn user_of(
    snapshot: &Snapshot,
    token: &str,
    keys: &UserTokenKeys,
    now: OffsetDateTime,
) -> Result<User, TokenError> {
    let secret = |name: &str| {
        let key = ResourceKey::new(Kind::GLOBAL_SECRET, "", name);
        snapshot.get(&key).and_then(|r| r.secret_data().map(<[u8]>::to_vec))
    };
    let kid = token::kid_of(token)?;
    let name = signing_key::secret_name(USER_TOKEN_KEY, &kid);
    let stored = || if keys.use_secrets { secret(&name) } else { None };
    let key = keys.keys.get(&kid).cloned().or_else(stored);
    let key = key.ok_or(TokenError::SigningKeyNotFound { kid, secret: name, mesh: None })?;
    let revoked = secret(USER_REVOCATIONS).unwrap_or_default();
    let revoked = Revocations::parse(&String::from_utf8_lossy(&revoked));
    let Verified { claims, .. } = token::verify::<UserClaims>(token, &key, &revoked, now)?;
    Ok(User::of_token(claims.name, claims.groups))
}
