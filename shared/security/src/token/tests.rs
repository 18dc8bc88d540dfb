use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use time::macros::datetime;

use super::*;
use crate::signing_key;

const NOW: OffsetDateTime = datetime!(2030-05-01 12:00 UTC);
const DAY: Duration = Duration::days(1);

/// Making one takes a while.
static KEY: LazyLock<String> = LazyLock::new(|| signing_key::generate().unwrap());

fn key() -> SigningKey<'static> {
    SigningKey { kid: "1", key: KEY.as_bytes() }
}

fn tags(pairs: &[(&str, &[&str])]) -> BTreeMap<String, BTreeSet<String>> {
    let set = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect();
    pairs.iter().map(|(tag, values)| ((*tag).to_owned(), set(values))).collect()
}

fn dataplane_claims() -> DataplaneClaims {
    DataplaneClaims {
        name: "edge-1".to_owned(),
        mesh: "default".to_owned(),
        tags: tags(&[("kuma.io/service", &["edge", "edge-b"])]),
        proxy_type: "dataplane".to_owned(),
        workload: "edge".to_owned(),
    }
}

fn token() -> String {
    issue(&dataplane_claims(), key(), Uuid::nil(), NOW, DAY).unwrap()
}

fn verify_at(token: &str, now: OffsetDateTime) -> Result<Verified<DataplaneClaims>, TokenError> {
    verify(token, KEY.as_bytes(), &Revocations::none(), now)
}

fn refused(token: &str) -> String {
    verify_at(token, NOW).unwrap_err().to_string()
}

fn part(token: &str, index: usize) -> serde_json::Value {
    let part = token.split('.').nth(index).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// A token with a part replaced and the signature left as it was.
fn with_part(token: &str, index: usize, json: &serde_json::Value) -> String {
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    parts[index] = URL_SAFE_NO_PAD.encode(json.to_string());
    parts.join(".")
}

#[test]
fn round_trip() {
    let token = token();
    assert_eq!(kid_of(&token).unwrap(), "1");
    let expected = Verified {
        claims: dataplane_claims(),
        id: Uuid::nil().to_string(),
        valid_until: Some(NOW + DAY),
    };
    assert_eq!(verify_at(&token, NOW).unwrap(), expected);
    // The public half is enough.
    let public = signing_key::public_pem(KEY.as_bytes()).unwrap();
    assert_eq!(verify(&token, public.as_bytes(), &Revocations::none(), NOW), Ok(expected));

    let zone =
        ZoneClaims { zone: "east".to_owned(), scope: vec!["ingress".to_owned(), "cp".to_owned()] };
    let token = issue(&zone, key(), Uuid::nil(), NOW, DAY).unwrap();
    let verified = verify::<ZoneClaims>(&token, KEY.as_bytes(), &Revocations::none(), NOW).unwrap();
    assert_eq!(verified.claims, zone);

    let user = UserClaims { name: "john".to_owned(), groups: vec!["team".to_owned()] };
    let token = issue(&user, key(), Uuid::nil(), NOW, DAY).unwrap();
    let verified = verify::<UserClaims>(&token, KEY.as_bytes(), &Revocations::none(), NOW).unwrap();
    assert_eq!(verified.claims, user);
}

#[test]
fn wire_form() {
    let token = token();
    assert_eq!(part(&token, 0), serde_json::json!({"alg": "RS256", "typ": "JWT", "kid": "1"}));
    let now = NOW.unix_timestamp();
    let expected = serde_json::json!({
        "Name": "edge-1", "Mesh": "default", "Type": "dataplane", "Workload": "edge",
        "Tags": {"kuma.io/service": ["edge", "edge-b"]},
        "jti": "00000000-0000-0000-0000-000000000000",
        "iat": now - 5, "nbf": now - 5, "exp": now + 86_400,
    });
    assert_eq!(part(&token, 1), expected);
}

/// Tokens of other issuers leave out what is empty, or write null.
#[test]
fn sparse_claims() {
    let sign = |claims: &serde_json::Value| {
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some("1".to_owned());
        let key = EncodingKey::from_rsa_pem(KEY.as_bytes()).unwrap();
        jsonwebtoken::encode(&header, claims, &key).unwrap()
    };
    let until = NOW.unix_timestamp() as f64 + 0.5;
    let token = sign(&serde_json::json!({"Name": "edge-1", "Tags": null, "exp": until}));
    let verified = verify_at(&token, NOW).unwrap();
    assert_eq!((verified.claims.name.as_str(), verified.id.as_str()), ("edge-1", ""));
    assert!(matches!(verify_at(&token, NOW + Duration::SECOND), Err(TokenError::Expired { .. })));
    let forever = sign(&serde_json::json!({"Name": "edge-1"}));
    assert_eq!(verify_at(&forever, NOW).unwrap().valid_until, None);
    let wrong = sign(&serde_json::json!({"Name": ["edge-1"]}));
    assert!(refused(&wrong).starts_with("could not parse token: token has invalid claims: "));
    let null = serde_json::json!({"Zone": "east", "Scope": null});
    let token = issue(&null, key(), Uuid::nil(), NOW, DAY).unwrap();
    let verified = verify::<ZoneClaims>(&token, KEY.as_bytes(), &Revocations::none(), NOW).unwrap();
    assert_eq!(verified.claims.scope, Vec::<String>::new());
}

#[test]
fn times() {
    let token = token();
    verify_at(&token, NOW - BACKDATE).unwrap();
    verify_at(&token, NOW + DAY - Duration::SECOND).unwrap();
    let error = verify_at(&token, NOW + DAY).unwrap_err();
    assert_eq!(
        error.to_string(),
        "could not parse token: token is expired: it was valid until 2030-05-02T12:00:00Z \
         and this control plane's clock says 2030-05-02T12:00:00Z"
    );
    let error = verify_at(&token, NOW - Duration::minutes(1)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "token is not valid yet: it is valid from 2030-05-01T11:59:55Z \
         and this control plane's clock says 2030-05-01T11:59:00Z"
    );
}

#[test]
fn tampered() {
    let token = token();
    let mut claims = part(&token, 1);
    claims["Name"] = "other".into();
    let invalid = "could not parse token: token signature is invalid";
    assert_eq!(refused(&with_part(&token, 1, &claims)), invalid);
    for malformed in ["", "a", "a.b", "a.b.c", &token[..20], "....", &format!("{token}.more")] {
        assert!(refused(malformed).starts_with("could not parse token"), "{malformed}");
    }
}

#[test]
fn another_key() {
    let other = signing_key::generate().unwrap();
    let error = verify::<DataplaneClaims>(&token(), other.as_bytes(), &Revocations::none(), NOW)
        .unwrap_err();
    assert_eq!(error.to_string(), "could not parse token: token signature is invalid");
    let error =
        verify::<DataplaneClaims>(&token(), b"nonsense", &Revocations::none(), NOW).unwrap_err();
    assert_eq!(error.to_string(), "could not parse token: signing key is malformed");
}

#[test]
fn key_ids() {
    let token = token();
    let header = serde_json::json!({"alg": "RS256", "typ": "JWT"});
    assert_eq!(refused(&with_part(&token, 0, &header)), "JWT token must have kid header");
    let header = serde_json::json!({"alg": "RS256", "typ": "JWT", "kid": 1});
    assert_eq!(refused(&with_part(&token, 0, &header)), "JWT token kid header must be a string");

    let not_found = |secret: &str, mesh: Option<&str>| {
        let (kid, secret, mesh) = ("1".to_owned(), secret.to_owned(), mesh.map(str::to_owned));
        TokenError::SigningKeyNotFound { kid, secret, mesh }.to_string()
    };
    assert_eq!(
        not_found("zone-token-signing-key-1", None),
        "there is no signing key with KID 1. GlobalSecret of name \"zone-token-signing-key-1\" is not found. \
         If signing key was rotated, regenerate the token"
    );
    assert_eq!(
        not_found("dataplane-token-signing-key-default-1", Some("default")),
        "there is no signing key with KID 1. Secret of name \"dataplane-token-signing-key-default-1\" in mesh \
         \"default\" is not found. If signing key was rotated, regenerate the token"
    );
}

/// The classic attack: HS256 with the public key as the shared secret.
#[test]
fn other_algorithms() {
    let public = signing_key::public_pem(KEY.as_bytes()).unwrap();
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("1".to_owned());
    let claims = serde_json::json!({"Name": "edge-1", "Mesh": "default"});
    let forged =
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(public.as_bytes()))
            .unwrap();
    let message =
        "could not parse token: unsupported token alg HS256. Allowed algorithms are RS256";
    assert_eq!(refused(&forged), message);
    let header = serde_json::json!({"alg": "none", "kid": "1"});
    let message = "could not parse token: unsupported token alg none. Allowed algorithms are RS256";
    assert_eq!(refused(&with_part(&token(), 0, &header)), message);
}

#[test]
fn revoked() {
    let id = Uuid::nil().to_string();
    let check = |list: &str, revoked: bool| {
        let result =
            verify::<DataplaneClaims>(&token(), KEY.as_bytes(), &Revocations::parse(list), NOW);
        assert_eq!(result.err(), revoked.then_some(TokenError::Revoked), "{list:?}");
    };
    check("", false);
    check("\n", false);
    check("other", false);
    check(&id, true);
    check(&format!("other,{id}\n"), true);
    check(&format!("other, {id}"), false);
    let both = Revocations::parse("a").and(Revocations::parse("b"));
    assert!(both.contains("a") && both.contains("b") && !both.contains(""));
    assert_eq!(TokenError::Revoked.to_string(), "token is revoked");
}

#[test]
fn dataplanes() {
    let good = tags(&[("kuma.io/service", &["edge"]), ("version", &["v1"])]);
    let claims = dataplane_claims();
    let check = |name: &str, mesh: &str, tags: &BTreeMap<_, _>, workload: Option<&str>| {
        check_dataplane(&claims, name, mesh, tags, workload).err().map(|error| error.to_string())
    };
    let message = |text: &str| Some(text.to_owned());
    assert_eq!(check("edge-1", "default", &good, Some("edge")), None);
    assert_eq!(
        check("edge-2", "default", &good, Some("edge")),
        message("proxy name from requestor: edge-2 is different than in token: edge-1")
    );
    assert_eq!(
        check("edge-1", "other", &good, Some("edge")),
        message("proxy mesh from requestor: other is different than in token: default")
    );
    assert_eq!(
        check("edge-1", "default", &tags(&[]), Some("edge")),
        message("dataplane has no tag \"kuma.io/service\" required by the token")
    );
    assert_eq!(
        check("edge-1", "default", &tags(&[("kuma.io/service", &["edge", "web"])]), Some("edge")),
        message(
            "dataplane contains tag \"kuma.io/service\" with value \"web\" which is not allowed with this token. \
             Allowed values in token are [\"edge\" \"edge-b\"]"
        )
    );
    assert_eq!(
        check("edge-1", "default", &good, None),
        message("dataplane has no workload label required by the token")
    );
    assert_eq!(
        check("edge-1", "default", &good, Some("web")),
        message(
            "dataplane workload \"web\" is not allowed with this token. Allowed workload in token is \"edge\""
        )
    );
    // A token that binds nothing allows everything.
    check_dataplane(&DataplaneClaims::default(), "any", "any", &good, Some("any")).unwrap();
}

#[test]
fn zones() {
    let claims = |zone: &str| ZoneClaims {
        zone: zone.to_owned(),
        scope: vec!["ingress".to_owned(), "egress".to_owned()],
    };
    check_zone(&claims("east"), "egress", "east").unwrap();
    check_zone(&claims(""), "egress", "east").unwrap();
    assert_eq!(
        check_zone(&claims("east"), "cp", "east").unwrap_err().to_string(),
        "token cannot be used to authenticate zone entity (cp is out of token's scope: [ingress egress])"
    );
    assert_eq!(
        check_zone(&claims("west"), "ingress", "east").unwrap_err().to_string(),
        "zone from requestor: east is different than in token: west"
    );
}
