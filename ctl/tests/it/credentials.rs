//! `generate`, with a control plane and without one.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::json;
use sunbear_security::{
    certificate,
    token::{self, DataplaneClaims, Revocations, UserClaims, Verified, ZoneClaims},
};
use time::OffsetDateTime;

use crate::{
    api::{Api, run_in},
    control_plane::Global,
};

fn verify<C: serde::de::DeserializeOwned>(text: &str, key: &[u8]) -> Verified<C> {
    token::verify(text, key, &Revocations::none(), OffsetDateTime::now_utc()).unwrap()
}

/// The key in a secret of the control plane.
fn key(global: &Global, arguments: &[&str]) -> Vec<u8> {
    use base64::Engine as _;
    let secret = global.ok(&[&["get"], arguments, &["-o", "json"]].concat());
    let secret: serde_json::Value = serde_json::from_str(&secret).unwrap();
    base64::engine::general_purpose::STANDARD.decode(secret["data"].as_str().unwrap()).unwrap()
}

#[test]
fn tokens_of_the_control_plane() {
    let global = Global::start();
    let text = global.ok(&[
        "generate",
        "dataplane-token",
        "--name=dp",
        "--mesh=default",
        "--proxy-type=dataplane",
        "--tag",
        "kuma.io/service=web,api",
        "--workload=w",
        "--valid-for=1h30m",
    ]);
    let secret = key(&global, &["secret", "dataplane-token-signing-key-default-1"]);
    let verified: Verified<DataplaneClaims> = verify(&text, &secret);
    assert_eq!(verified.claims.name, "dp");
    assert_eq!(verified.claims.workload, "w");
    assert_eq!(verified.claims.tags["kuma.io/service"].len(), 2);
    let left = verified.valid_until.unwrap() - OffsetDateTime::now_utc();
    assert!(left <= time::Duration::minutes(90) && left > time::Duration::minutes(80), "{left}");

    let secret = key(&global, &["global-secret", "zone-token-signing-key-1"]);
    let text = global.ok(&["generate", "zone-token", "--zone", "east", "--valid-for", "1h"]);
    let verified: Verified<ZoneClaims> = verify(&text, &secret);
    assert_eq!((verified.claims.zone.as_str(), verified.claims.scope.len()), ("east", 2));
    let text = global.ok(&[
        "generate",
        "zone-token",
        "--zone",
        "east",
        "--valid-for",
        "1h",
        "--scope",
        "cp",
    ]);
    assert_eq!(verify::<ZoneClaims>(&text, &secret).claims.scope, ["cp"]);

    let secret = key(&global, &["global-secret", "user-token-signing-key-1"]);
    let text = global.ok(&[
        "generate",
        "user-token",
        "--name",
        "john",
        "--group",
        "a,b",
        "--group",
        "c",
        "--valid-for",
        "24h",
    ]);
    let verified: Verified<UserClaims> = verify(&text, &secret);
    assert_eq!(
        verified.claims,
        UserClaims { name: "john".to_owned(), groups: ["a", "b", "c"].map(str::to_owned).to_vec() }
    );

    let done = global.run(&["generate", "dataplane-token", "-m", "absent", "--valid-for", "1h"]);
    assert_ne!(done.code, 0);
    assert_eq!(done.out, "");
}

#[test]
fn requests_for_tokens() {
    let api = Api::start(|_| (200, "a.b.c\n".to_owned()));
    for (line, path, body) in [
        (
            "zone-token --zone east --scope egress --valid-for 720h",
            "POST /tokens/zone",
            json!({"zone": "east", "scope": ["egress"], "validFor": "720h"}),
        ),
        (
            "user-token --name john --valid-for 24h",
            "POST /tokens/user",
            json!({"name": "john", "groups": [], "validFor": "24h"}),
        ),
        (
            "dataplane-token --type ingress --valid-for 24h",
            "POST /tokens/dataplane",
            json!({"mesh": "default", "type": "ingress", "validFor": "24h"}),
        ),
    ] {
        let arguments: Vec<_> = ["generate"].into_iter().chain(line.split(' ')).collect();
        let done = api.run(&arguments);
        assert_eq!((done.code, done.out.as_str()), (0, "a.b.c"), "{}", done.err);
        let seen = api.seen().pop().unwrap();
        assert_eq!((seen.line.as_str(), seen.json()), (path, body));
    }
}

#[test]
fn tokens_without_a_control_plane() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let generate = |line: &str| {
        let arguments: Vec<_> = ["generate"].into_iter().chain(line.split(' ')).collect();
        // Nobody listens there.
        run_in(&arguments, &[("SUNBEAR_ADDRESS", "http://127.0.0.1:1")], "")
    };
    let private = generate("signing-key --format pem");
    assert!(private.out.starts_with("-----BEGIN RSA PRIVATE KEY-----\n"));
    fs::write(file("key"), &private.out).unwrap();
    let public = generate(&format!("public-key --signing-key-path {}", file("key"))).out;
    assert!(public.starts_with("-----BEGIN RSA PUBLIC KEY-----\n"), "{public}");

    let offline = format!("--valid-for 1h --kid 7 --signing-key-path {}", file("key"));
    let text = generate(&format!("dataplane-token --name dp --mesh m {offline}"));
    assert_eq!(text.code, 0, "{}", text.err);
    let claims = verify::<DataplaneClaims>(&text.out, public.as_bytes()).claims;
    assert_eq!((claims.name.as_str(), claims.mesh.as_str()), ("dp", "m"));
    assert_eq!(token::kid_of(&text.out).unwrap(), "7");
    let text = generate(&format!("zone-token --zone east {offline}")).out;
    assert_eq!(verify::<ZoneClaims>(&text, public.as_bytes()).claims.scope, ["ingress", "egress"]);
    let text = generate(&format!("user-token --name john --group a {offline}")).out;
    assert_eq!(verify::<UserClaims>(&text, public.as_bytes()).claims.groups, ["a"]);

    fs::write(file("public"), &public).unwrap();
    let wrong = generate(&format!(
        "user-token --name john --valid-for 1h --kid 7 --signing-key-path {}",
        file("public")
    ));
    assert_eq!((wrong.code, wrong.out.as_str()), (1, ""));
    assert!(wrong.err.starts_with(&format!("Error: {}: ", file("public"))), "{}", wrong.err);
    assert_eq!(generate("public-key --signing-key-path /does/not/exist").code, 1);
}

#[test]
fn keys_fit_into_secrets() {
    let global = Global::start();
    let key = global.ok(&["generate", "signing-key"]);
    let variable = format!("key={key}");
    let done = crate::api::run(
        &global.address,
        &["apply", "-v", &variable, "-f", "-"],
        &[],
        "type: GlobalSecret\nname: user-token-signing-key-2\ndata: {{ key }}\n",
    );
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    // From now on it is the one that signs.
    let token = global.ok(&["generate", "user-token", "--name", "a", "--valid-for", "1h"]);
    assert_eq!(token::kid_of(&token).unwrap(), "2");
}

#[test]
fn certificates() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let (key, cert) = (file("key.pem"), file("cert.pem"));
    fs::write(&key, "an older one").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let options = format!("--key-file {} --cert-file {}", key.display(), cert.display());
    let line = format!(
        "generate tls-certificate --type server --hostname cp.example,127.0.0.1 --key-type ecdsa {options}"
    );
    let done = run_in(&line.split(' ').collect::<Vec<_>>(), &[], "");
    assert_eq!(
        (done.code, done.out),
        (
            0,
            format!(
                "Private key saved in {}\nCertificate saved in {}\n",
                key.display(),
                cert.display()
            )
        )
    );
    for path in [&key, &cert] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let (cert, key) = (fs::read(cert).unwrap(), fs::read(key).unwrap());
    certificate::certified_key(&cert, &key).unwrap();
    assert_eq!(certificate::alternative_names_of(&cert).unwrap(), ["cp.example", "127.0.0.1"]);

    let line = "generate tls-certificate --type client --hostname a --key-file - --cert-file -";
    let done = run_in(&line.split(' ').collect::<Vec<_>>(), &[], "");
    certificate::certified_key(done.out.as_bytes(), done.out.as_bytes()).unwrap();
}
