//! Certificates for tests.

use std::{fs, path::Path, sync::LazyLock};

use serde_json::{Value, json};

/// A certificate and its key, PEM.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Pair {
    /// Both in one text.
    pub(crate) fn text(&self) -> String {
        format!("{}{}", self.key, self.certificate)
    }

    /// A Secret with both.
    pub(crate) fn secret(&self, name: &str) -> Value {
        secret(name, &self.text())
    }
}

/// A Secret with a text.
pub(crate) fn secret(name: &str, text: &str) -> Value {
    json!({"type": "Secret", "mesh": "default", "name": name, "data": base64(text)})
}

/// A fresh pair with an ECDSA key.
pub(crate) fn ecdsa(host: &str) -> Pair {
    let key = rcgen::KeyPair::generate().unwrap();
    let parameters = rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    Pair { certificate: certificate.pem(), key: key.serialize_pem() }
}

/// A key on the curve P-256, which comes in PKCS #8, in the format of SEC 1.
pub(crate) fn old_format(key: &str) -> String {
    use base64::Engine as _;
    let lines: Vec<&str> = key.lines().filter(|line| !line.starts_with('-')).collect();
    let new = base64::engine::general_purpose::STANDARD.decode(lines.concat()).unwrap();
    // The old format lies at the end of the new one, but for the name of the curve.
    let curve = [0xa0, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    let (start, public) = (new.len() - 107, new.len() - 70);
    let parts = [&new[start..public], &curve, &new[public..]].concat();
    let mut old = vec![0x30, u8::try_from(parts.len()).unwrap()];
    old.extend(parts);
    let body = base64::engine::general_purpose::STANDARD.encode(old);
    let lines: Vec<&str> = body.as_bytes().chunks(64).map(|l| str::from_utf8(l).unwrap()).collect();
    format!("-----BEGIN EC PRIVATE KEY-----\n{}\n-----END EC PRIVATE KEY-----\n", lines.join("\n"))
}

/// A pair with an Ed25519 key.
pub(crate) fn ed25519(host: &str) -> Pair {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let parameters = rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    Pair { certificate: certificate.pem(), key: key.serialize_pem() }
}

/// The pair with an RSA key that Kuma's snapshots use.
pub(crate) fn rsa() -> Pair {
    static PAIR: LazyLock<Pair> = LazyLock::new(|| {
        let case = "tests/data/gateway/tls/01-clusters-for-tls/expected.yaml";
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(case);
        let snapshot: Value = serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let secrets = &snapshot["Secrets"]["Resources"];
        let secret = &secrets["cert.rsa:secret:echo-example-com-server-cert"]["tlsCertificate"];
        let text = |key: &str| secret[key]["inlineString"].as_str().unwrap().to_owned();
        Pair { certificate: text("certificateChain"), key: text("privateKey") }
    });
    PAIR.clone()
}

/// Standard base64.
pub(crate) fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}
