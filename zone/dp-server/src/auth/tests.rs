use std::collections::{BTreeMap, BTreeSet};

use sunbear_model::{Kind, ResourceKey, rest};
use sunbear_security::token::{SigningKey, issue};
use time::Duration;
use tonic::{Code, Status, metadata::MetadataMap};
use uuid::Uuid;

use super::{AuthError, Claimed, Credential, DataplaneClaims, ZoneClaims, authenticate, concerns};
use crate::{
    config::{AuthType, DpServerConfig, PublicKey},
    proxy::{ProxyKey, ProxyKind},
    testing::{NOW, Resources},
};

const ID: Uuid = Uuid::from_u128(7);

/// Signing keys take long to make, so they are made once.
fn key(index: usize) -> &'static str {
    static KEYS: std::sync::LazyLock<[String; 2]> = std::sync::LazyLock::new(|| {
        std::array::from_fn(|_| sunbear_security::signing_key::generate().unwrap())
    });
    &KEYS[index]
}

struct Test {
    config: DpServerConfig,
    resources: Resources,
    proxy: ProxyKey,
    dataplane: &'static str,
}

impl Test {
    fn dataplane() -> Self {
        Self {
            config: DpServerConfig::new("east", "cp-1", ""),
            resources: Resources::default().with_secret(
                "default",
                "dataplane-token-signing-key-default-1",
                key(0),
            ),
            proxy: ProxyKey {
                kind: ProxyKind::Dataplane,
                mesh: "default".into(),
                name: "edge-1".into(),
            },
            dataplane: "{networking: {address: 10.0.0.1, gateway: {type: BUILTIN,
                tags: {kuma.io/service: edge, v: '1'}}}}",
        }
    }

    fn zone_proxy(kind: ProxyKind) -> Self {
        Self {
            resources: Resources::default().with_secret("", "zone-token-signing-key-1", key(0)),
            proxy: ProxyKey { kind, mesh: "".into(), name: "zp-1".into() },
            dataplane: "{}",
            ..Self::dataplane()
        }
    }

    fn try_token(&self, token: &str) -> Result<super::ValidUntil, AuthError> {
        let value: serde_json::Value = serde_saphyr::from_str(self.dataplane).unwrap();
        let spec = rest::read_as(self.proxy.kind.resource_kind(), &value).unwrap();
        let claimed = Claimed { key: &self.proxy, spec: &spec.spec, labels: &spec.labels };
        let credential = Credential::new(token);
        authenticate(&self.config, &self.resources, &credential, claimed, NOW)
    }

    fn accepts(&self, token: &str) {
        self.try_token(token).unwrap();
    }

    fn refuses(&self, token: &str, code: Code, text: &str) {
        let status = Status::from(self.try_token(token).unwrap_err());
        assert_eq!((status.code(), status.message()), (code, text));
    }
}

fn claims(claims: DataplaneClaims) -> String {
    sign(&claims, key(0), "1", Duration::HOUR)
}

fn sign<C: serde::Serialize>(claims: &C, key: &str, kid: &str, valid_for: Duration) -> String {
    issue(claims, SigningKey { kid, key: key.as_bytes() }, ID, NOW, valid_for).unwrap()
}

fn tags(pairs: &[(&str, &[&str])]) -> BTreeMap<String, BTreeSet<String>> {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), v.iter().map(|v| (*v).to_owned()).collect()))
        .collect()
}

fn with_tags(pairs: &[(&str, &[&str])]) -> String {
    claims(DataplaneClaims { tags: tags(pairs), ..DataplaneClaims::default() })
}

#[test]
fn dataplane_tokens() {
    let test = Test::dataplane();
    let named = |name: &str, mesh: &str| {
        claims(DataplaneClaims {
            name: name.to_owned(),
            mesh: mesh.to_owned(),
            ..DataplaneClaims::default()
        })
    };
    test.accepts(&named("edge-1", "default"));
    test.accepts(&named("", ""));
    test.accepts(&with_tags(&[("kuma.io/service", &["other", "edge"]), ("v", &["1"])]));
    assert_eq!(test.try_token(&named("", "")), Ok(Some(NOW + Duration::HOUR)));

    use Code::{PermissionDenied, Unauthenticated};
    test.refuses(
        &named("edge-2", "default"),
        PermissionDenied,
        "authentication failed: proxy name from requestor: edge-1 is different than in token: edge-2",
    );
    test.refuses(
        &named("", "other"),
        PermissionDenied,
        "authentication failed: proxy mesh from requestor: default is different than in token: other",
    );
    test.refuses(
        &with_tags(&[("team", &["a"])]),
        PermissionDenied,
        "authentication failed: dataplane has no tag \"team\" required by the token",
    );
    test.refuses(
        &with_tags(&[("kuma.io/service", &["a", "b"])]),
        PermissionDenied,
        "authentication failed: dataplane contains tag \"kuma.io/service\" with value \"edge\" which is \
         not allowed with this token. Allowed values in token are [\"a\" \"b\"]",
    );
    test.refuses(
        &claims(DataplaneClaims { workload: "w".to_owned(), ..DataplaneClaims::default() }),
        PermissionDenied,
        "authentication failed: dataplane has no workload label required by the token",
    );
    let expired = sign(&DataplaneClaims::default(), key(0), "1", Duration::seconds(-1));
    let status = Status::from(test.try_token(&expired).unwrap_err());
    assert_eq!(status.code(), Unauthenticated);
    assert!(
        status
            .message()
            .starts_with("authentication failed: could not parse token: token is expired")
    );
    test.refuses(
        &sign(&DataplaneClaims::default(), key(1), "1", Duration::HOUR),
        Unauthenticated,
        "authentication failed: could not parse token: token signature is invalid",
    );
    test.refuses(
        &sign(&DataplaneClaims::default(), key(0), "2", Duration::HOUR),
        Unauthenticated,
        "authentication failed: there is no signing key with KID 2. Secret of name \
         \"dataplane-token-signing-key-default-2\" in mesh \"default\" is not found. If signing \
         key was rotated, regenerate the token",
    );
    test.refuses(
        "",
        Unauthenticated,
        "authentication failed: could not parse token: token is malformed",
    );
    // {"alg":"RS256"}
    test.refuses(
        "eyJhbGciOiJSUzI1NiJ9.e30.",
        Unauthenticated,
        "authentication failed: JWT token must have kid header",
    );
    // A zone token is no dataplane token, for its key is another.
    let zone = sign(&ZoneClaims::default(), key(1), "1", Duration::HOUR);
    assert!(test.try_token(&zone).is_err());
}

#[test]
fn revoked_dataplane_tokens() {
    let token = claims(DataplaneClaims::default());
    for mesh in ["default", ""] {
        let mut test = Test::dataplane();
        let list = format!("x,{ID}");
        test.resources =
            test.resources.with_secret(mesh, "dataplane-token-revocations-default", &list);
        test.refuses(&token, Code::Unauthenticated, "authentication failed: token is revoked");
    }
}

#[test]
fn configured_keys() {
    let mut test = Test::dataplane();
    let public = sunbear_security::signing_key::public_pem(key(1).as_bytes()).unwrap();
    let configured =
        |mesh: &str| PublicKey { kid: "k".to_owned(), mesh: mesh.to_owned(), pem: public.clone() };
    let token = sign(&DataplaneClaims::default(), key(1), "k", Duration::HOUR);
    for (mesh, accepted) in [("", true), ("default", true), ("other", false)] {
        test.config.dataplane_tokens.public_keys = vec![configured(mesh)];
        assert_eq!(test.try_token(&token).is_ok(), accepted, "{mesh}");
    }
    test.config.dataplane_tokens.use_secrets = false;
    assert!(test.try_token(&claims(DataplaneClaims::default())).is_err());
    test.config.dataplane_tokens.auth = AuthType::None;
    test.accepts("nonsense");
}

#[test]
fn zone_tokens() {
    let scoped = |zone: &str, scope: &[&str]| {
        let scope = scope.iter().map(|s| (*s).to_owned()).collect();
        sign(&ZoneClaims { zone: zone.to_owned(), scope }, key(0), "1", Duration::HOUR)
    };
    let ingress = Test::zone_proxy(ProxyKind::ZoneIngress);
    ingress.accepts(&scoped("east", &["egress", "ingress"]));
    ingress.accepts(&scoped("", &["ingress"]));
    ingress.refuses(
        &scoped("east", &["egress"]),
        Code::PermissionDenied,
        "authentication failed: token cannot be used to authenticate zone entity (ingress is out \
         of token's scope: [egress])",
    );
    ingress.refuses(
        &scoped("west", &["ingress"]),
        Code::PermissionDenied,
        "authentication failed: zone from requestor: east is different than in token: west",
    );
    Test::zone_proxy(ProxyKind::ZoneEgress).accepts(&scoped("east", &["egress"]));

    // A zone with a global has the public keys alone.
    let mut federated = Test::zone_proxy(ProxyKind::ZoneIngress);
    federated.config.federated = true;
    assert!(federated.try_token(&scoped("east", &["ingress"])).is_err());
    let public = sunbear_security::signing_key::public_pem(key(0).as_bytes()).unwrap();
    federated.resources =
        federated.resources.with_secret("", "zone-token-signing-public-key-1", &public);
    federated.accepts(&scoped("east", &["ingress"]));
    federated.resources =
        federated.resources.with_secret("", "zone-token-revocations", &ID.to_string());
    federated.refuses(
        &scoped("east", &["ingress"]),
        Code::Unauthenticated,
        "authentication failed: token is revoked",
    );
}

#[test]
fn one_credential() {
    let mut metadata = MetadataMap::new();
    assert_eq!(Credential::of_call(&metadata), Ok(Credential::new("")));
    metadata.append("authorization", "a".parse().unwrap());
    assert_eq!(Credential::of_call(&metadata), Ok(Credential::new("a")));
    metadata.append("authorization", "b".parse().unwrap());
    assert_eq!(
        Credential::of_call(&metadata).unwrap_err().to_string(),
        "request must have exactly 1 \"authorization\" header, got 2"
    );
    assert_eq!(format!("{:?}", Credential::new("secret")), "Credential(..)");
}

#[test]
fn changes_that_matter() {
    let secret = |mesh: &str, name: &str| ResourceKey::new(Kind::SECRET, mesh, name);
    let global = |name: &str| ResourceKey::new(Kind::GLOBAL_SECRET, "", name);
    let dataplane = Test::dataplane().proxy;
    let ingress = Test::zone_proxy(ProxyKind::ZoneIngress).proxy;
    for (changed, for_dataplane, for_ingress) in [
        (secret("default", "dataplane-token-signing-key-default-2"), true, false),
        (secret("other", "dataplane-token-signing-key-other-2"), false, false),
        (secret("default", "dataplane-token-revocations-default"), true, false),
        (global("dataplane-token-revocations-default"), true, false),
        (global("dataplane-token-revocations-other"), false, false),
        (secret("default", "edge-certificate"), false, false),
        (global("zone-token-revocations"), false, true),
        (global("zone-token-signing-public-key-1"), false, true),
        (global("user-token-revocations"), false, false),
        (ResourceKey::new(Kind::DATAPLANE, "default", "edge-1"), false, false),
    ] {
        assert_eq!(concerns(&dataplane, &changed), for_dataplane, "{changed}");
        assert_eq!(concerns(&ingress, &changed), for_ingress, "{changed}");
    }
}
