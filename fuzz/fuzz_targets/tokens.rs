//! Tokens: any text, any three parts, and any claims under a good signature.
#![no_main]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use libfuzzer_sys::fuzz_target;
use sunbear_security::{
    signing_key,
    token::{
        self, DataplaneClaims, Revocations, SigningKey, UserClaims, ZoneClaims, check_dataplane,
        check_zone,
    },
};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

struct Keys {
    private: String,
    public: String,
}

// What is found does not depend on the key, so a new one each time will do.
static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let private = signing_key::generate().unwrap();
    let public = signing_key::public_pem(private.as_bytes()).unwrap();
    Keys { private, public }
});

const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

fn verify(text: &str, key: &[u8], revoked: &Revocations) -> bool {
    let kid = token::kid_of(text);
    let dataplane = token::verify::<DataplaneClaims>(text, key, revoked, NOW);
    let zone = token::verify::<ZoneClaims>(text, key, revoked, NOW);
    let user = token::verify::<UserClaims>(text, key, revoked, NOW);
    for error in
        [kid.as_ref().err(), dataplane.as_ref().err(), zone.as_ref().err(), user.as_ref().err()]
    {
        let _ = error.map(ToString::to_string);
    }
    if let Ok(verified) = &dataplane {
        let tags =
            BTreeMap::from([("kuma.io/service".to_owned(), BTreeSet::from(["edge".to_owned()]))]);
        let _ = check_dataplane(&verified.claims, "edge-1", "default", &tags, Some("edge"));
    }
    if let Ok(verified) = &zone {
        let _ = check_zone(&verified.claims, "ingress", "east");
    }
    dataplane.is_ok() || zone.is_ok() || user.is_ok()
}

fuzz_target!(|data: &[u8]| {
    let Some((mode, data)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(data);
    let revoked = Revocations::parse(&text);
    match mode % 4 {
        0 => {
            assert!(!verify(&text, KEYS.public.as_bytes(), &revoked), "nobody signed {text}");
        }
        1 => {
            // Parts, each of which decodes.
            let parts: Vec<String> = text.split('\n').map(|p| URL_SAFE_NO_PAD.encode(p)).collect();
            let token = parts.join(".");
            assert!(!verify(&token, KEYS.public.as_bytes(), &revoked), "nobody signed {token}");
        }
        2 => {
            let Ok(claims) =
                serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text)
            else {
                return;
            };
            let key = SigningKey { kid: "1", key: KEYS.private.as_bytes() };
            if let Ok(token) = token::issue(&claims, key, Uuid::nil(), NOW, Duration::days(1)) {
                verify(&token, KEYS.public.as_bytes(), &Revocations::none());
                verify(&token, KEYS.private.as_bytes(), &revoked);
            }
        }
        _ => {
            // The text as the key.
            let _ = signing_key::public_pem(data);
            verify("eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.e30.AAAA", data, &revoked);
        }
    }
});
