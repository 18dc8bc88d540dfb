use std::process::Command;

use x509_parser::extensions::GeneralName;

use super::*;

const NOW: OffsetDateTime = time::macros::datetime!(2030-05-01 12:00 UTC);

fn tags(pairs: &[(&str, &[&str])]) -> BTreeMap<String, BTreeSet<String>> {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), v.iter().map(|v| (*v).to_owned()).collect()))
        .collect()
}

fn web() -> BTreeMap<String, BTreeSet<String>> {
    tags(&[
        ("kuma.io/zone", &["east"]),
        ("kuma.io/service", &["web-admin", "web"]),
        ("kuma.io/protocol", &["http"]),
    ])
}

fn workload<'a>(tags: &'a BTreeMap<String, BTreeSet<String>>, key: WorkloadKey) -> Workload<'a> {
    Workload { mesh: "demo", tags, valid_for: WORKLOAD_VALIDITY, key }
}

fn builtin(now: OffsetDateTime) -> PemPair {
    make_builtin("demo", BuiltinSettings::default(), Uuid::from_u128(7), now).unwrap()
}

fn authority(pair: &PemPair) -> Authority {
    Authority::load(pair.cert_pem.as_bytes(), pair.key_pem.as_bytes()).unwrap()
}

fn uris(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    names
        .value
        .general_names
        .iter()
        .map(|name| match name {
            GeneralName::URI(uri) => (*uri).to_owned(),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn der(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect()
}

#[test]
fn lengths_of_time() {
    for (text, want) in [
        ("0", Some(Duration::ZERO)),
        ("10ms", Some(Duration::milliseconds(10))),
        ("90s", Some(Duration::seconds(90))),
        ("5m", Some(Duration::minutes(5))),
        ("1h", Some(Duration::hours(1))),
        ("3d", Some(Duration::days(3))),
        ("2w", Some(Duration::days(14))),
        ("10y", Some(Duration::days(3_650))),
        ("", None),
        ("5", None),
        ("s", None),
        ("1h30m", None),
        ("-1h", None),
        ("1µs", None),
        ("999999999999999999y", None),
        ("99999999999999999999s", None),
    ] {
        assert_eq!(parse_validity(text), want, "{text}");
    }
}

#[test]
fn the_authority_of_a_mesh() {
    let pair = builtin(NOW);
    assert!(pair.key_pem.starts_with("-----BEGIN RSA PRIVATE KEY-----\n"));
    let chain = der(&pair.cert_pem);
    let certificate = parse(&chain[0]).unwrap();
    assert_eq!(certificate.subject().to_string(), "O=Kuma, OU=Mesh, CN=demo");
    assert_eq!(uris(&certificate), ["spiffe://demo"]);
    let validity = certificate.validity();
    assert_eq!(validity.not_before.to_datetime(), NOW - BACKDATE);
    assert_eq!(validity.not_after.to_datetime(), NOW + AUTHORITY_VALIDITY);
    assert!(certificate.is_ca());
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert!(usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());
    assert_eq!(certificate.public_key().parsed().unwrap().key_size(), 2048);
    assert_eq!(check_provided(pair.cert_pem.as_bytes(), pair.key_pem.as_bytes()), []);
    let again = authority(&pair);
    assert_eq!(again.root_pem(), pair.cert_pem);
    assert_eq!(again.not_after(), NOW + AUTHORITY_VALIDITY);
    assert!(!format!("{pair:?} {again:?}").contains("PRIVATE"));
}

#[test]
fn the_authority_of_admin_interfaces() {
    let pair = make_envoy_admin(Uuid::from_u128(1), NOW).unwrap();
    let chain = der(&pair.cert_pem);
    let certificate = parse(&chain[0]).unwrap();
    assert_eq!(certificate.subject().to_string(), "O=Kuma, OU=Mesh, CN=Envoy Admin CA");
    assert!(certificate.subject_alternative_name().unwrap().is_none());
    // Both in one text, as the secret has them.
    let both = format!("{}{}", pair.cert_pem, pair.key_pem);
    Authority::load(both.as_bytes(), both.as_bytes()).unwrap();
}

#[test]
fn settings_of_an_authority() {
    let make = |rsa_bits, valid_for| {
        make_builtin("m", BuiltinSettings { rsa_bits, valid_for }, Uuid::from_u128(1), NOW)
    };
    let pair = make(3072, Duration::days(2)).unwrap();
    let chain = der(&pair.cert_pem);
    let certificate = parse(&chain[0]).unwrap();
    assert_eq!(certificate.public_key().parsed().unwrap().key_size(), 3072);
    assert_eq!(certificate.validity().not_after.to_datetime(), NOW + Duration::days(2));
    let error = make(1024, Duration::days(2)).unwrap_err();
    assert_eq!(error.to_string(), "RSA keys have 2048, 3072 or 4096 bits, not 1024");
    let error = make(2048, Duration::days(365 * 8_000)).unwrap_err();
    assert_eq!(error.to_string(), "validity of the certificate is out of range");
}

#[test]
fn certificates_of_workloads() {
    let authority = authority(&builtin(NOW));
    for (key, bits) in [(WorkloadKey::P256, 256), (WorkloadKey::Rsa2048, 2048)] {
        let issued = authority.issue(&workload(&web(), key), Uuid::from_u128(u128::MAX), NOW);
        let issued = issued.unwrap();
        assert_eq!(issued.not_after, NOW + Duration::hours(24));
        assert_eq!(issued.renew_at(), NOW - BACKDATE + (Duration::hours(24) + BACKDATE) * 4 / 5);
        let chain = der(&issued.chain_pem);
        assert_eq!(chain.len(), 1);
        let certificate = parse(&chain[0]).unwrap();
        assert_eq!(certificate.subject().to_string(), "");
        assert_eq!(certificate.issuer().to_string(), "O=Kuma, OU=Mesh, CN=demo");
        assert_eq!(
            uris(&certificate),
            [
                "spiffe://demo/web",
                "spiffe://demo/web-admin",
                "kuma://kuma.io/protocol/http",
                "kuma://kuma.io/service/web",
                "kuma://kuma.io/service/web-admin",
                "kuma://kuma.io/zone/east",
            ]
        );
        assert!(certificate.subject_alternative_name().unwrap().unwrap().critical);
        assert!(!certificate.is_ca());
        let usage = certificate.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && usage.key_encipherment() && usage.key_agreement());
        let extended = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.server_auth && extended.client_auth);
        assert_eq!(certificate.public_key().parsed().unwrap().key_size(), bits);
        crate::certificate::certified_key(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes())
            .unwrap();
        assert!(!format!("{issued:?}").contains("PRIVATE"));
    }
    let bad = tags(&[("kuma.io/service", &["wéb"])]);
    let error = authority.issue(&workload(&bad, WorkloadKey::P256), Uuid::from_u128(1), NOW);
    assert_eq!(
        error.unwrap_err().to_string(),
        "\"spiffe://demo/wéb\" cannot be part of an identity"
    );
}

#[test]
fn provided_pairs() {
    let pair = builtin(NOW);
    let check = |cert: &str, key: &str| -> Vec<(Option<usize>, String)> {
        check_provided(cert.as_bytes(), key.as_bytes())
            .into_iter()
            .map(|v| (v.position, v.message))
            .collect()
    };
    let whole = |text: &str| vec![(None, format!("not a valid TLS key pair: {text}"))];
    assert_eq!(
        check("", &pair.key_pem),
        whole("tls: failed to find any PEM data in certificate input")
    );
    assert_eq!(check(&pair.cert_pem, "x"), whole("tls: failed to find any PEM data in key input"));
    let other = KeyPair::generate().unwrap().serialize_pem();
    assert_eq!(check(&pair.cert_pem, &other), whole("tls: private key does not match public key"));
    // A leaf is no authority, twice and thrice.
    let issued = authority(&pair)
        .issue(&workload(&web(), WorkloadKey::P256), Uuid::from_u128(1), NOW)
        .unwrap();
    let messages = check(&issued.chain_pem, &issued.key_pem);
    let starts: Vec<(Option<usize>, &str)> =
        messages.iter().map(|(i, m)| (*i, m.split(" must").next().unwrap())).collect();
    assert_eq!(
        starts,
        [
            (Some(0), "basic constraint 'CA'"),
            (Some(0), "key usage extension 'keyCertSign'"),
            (Some(0), "key usage extension 'keyAgreement'"),
        ]
    );
}

#[test]
fn an_authority_below_another() {
    let root_key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::default();
    root.distinguished_name.push(DnType::CommonName, "root");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_pem = root.self_signed(&root_key).unwrap().pem();
    let root = Issuer::new(root, root_key);
    let key = KeyPair::generate().unwrap();
    let mut middle = CertificateParams::default();
    middle.distinguished_name = DistinguishedName::new();
    middle.distinguished_name.push(DnType::CommonName, "middle");
    middle.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    middle.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let middle_pem = middle.signed_by(&key, &root).unwrap().pem();
    let both = format!("{middle_pem}{root_pem}");
    let authority = Authority::load(both.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    assert_eq!(der(authority.root_pem()).len(), 2);
    let issued = authority
        .issue(&workload(&web(), WorkloadKey::P256), Uuid::from_u128(1), OffsetDateTime::now_utc())
        .unwrap();
    let chain = der(&issued.chain_pem);
    assert_eq!(chain.len(), 2);
    assert_eq!(chain[1], der(&middle_pem)[0]);
}

/// Says what openssl says of a file of certificates; nothing if there is no openssl.
fn openssl(arguments: &[&str]) -> Option<(bool, String)> {
    match Command::new("openssl").args(arguments).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("SKIPPED: openssl is not on the PATH");
            None
        }
        result => {
            let output = result.unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            Some((output.status.success(), text))
        }
    }
}

#[test]
fn openssl_accepts_authority_and_workload() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    // openssl compares with the real clock.
    let now = OffsetDateTime::now_utc();
    let pair = builtin(now);
    let (ca, ca_key) = (file("ca.pem", &pair.cert_pem), file("ca.key", &pair.key_pem));
    let Some((_, text)) = openssl(&["x509", "-in", &ca, "-noout", "-text"]) else { return };
    assert!(text.contains("URI:spiffe://demo"), "{text}");
    assert!(text.contains("CA:TRUE"), "{text}");
    let (good, text) = openssl(&["rsa", "-in", &ca_key, "-check", "-noout"]).unwrap();
    assert!(good && text.contains("RSA key ok"), "{text}");
    for (i, key) in [WorkloadKey::P256, WorkloadKey::Rsa2048].into_iter().enumerate() {
        let issued =
            authority(&pair).issue(&workload(&web(), key), Uuid::from_u128(99), now).unwrap();
        let leaf = file(&format!("leaf-{i}.pem"), &issued.chain_pem);
        for purpose in ["sslserver", "sslclient"] {
            let (good, text) =
                openssl(&["verify", "-x509_strict", "-purpose", purpose, "-CAfile", &ca, &leaf])
                    .unwrap();
            assert!(good, "{text}");
        }
    }
}
