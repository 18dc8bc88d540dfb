//! The certificate authorities of meshes: what users may say about them, and the secrets that come
//! with builtin ones (`spec/resources.md` 3.3, 3.4, 10.4).

use std::{collections::BTreeMap, fs, io::Read as _};

use prost::Message as _;
use serde_json::Value;
use sunbear_model::{
    Kind, ResourceKey,
    validation::{self, Path, Violations},
};
use sunbear_proto::kuma::mesh::v1alpha1::{CertificateAuthorityBackend, Mesh};
use sunbear_security::ca::{self, BuiltinSettings, CaError};
use sunbear_store::{Change, Expect, Operation, OwnerRef, Snapshot, StatusChange};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::defaults::secret_spec;

/// Largest file that a mesh may name as part of its authority.
const MAX_FILE: u64 = 1 << 20;

/// What is wrong with the authorities of a mesh, the content of secrets and files included.
pub(crate) fn check(snapshot: &Snapshot, name: &str, mesh: &Mesh) -> Violations {
    let mut violations = validation::validate_ca_backends(name, mesh);
    let Some(mtls) = &mesh.mtls else { return violations };
    for (i, backend) in mtls.backends.iter().enumerate() {
        let path = Path::at("mtls").field("backends").index(i).field("conf");
        let prefix = path.to_string();
        if violations.iter().any(|v| v.field.starts_with(&prefix)) {
            continue;
        }
        match backend.r#type.as_str() {
            "builtin" if !is_complete(snapshot, name, &backend.name) => {
                check_builtin(&path, backend, &mut violations);
            }
            "provided" if !mtls.skip_validation => {
                check_provided(snapshot, name, &path, backend, &mut violations);
            }
            _ => {}
        }
    }
    violations
}

fn check_builtin(path: &Path, backend: &CertificateAuthorityBackend, violations: &mut Violations) {
    let path = path.field("caCert");
    match settings(backend) {
        None => violations.push(path.field("expiration"), "has to be a valid format"),
        Some(settings) => {
            if let Err(error) = settings.check() {
                violations.push(path.field("RSAbits"), error.to_string());
            }
        }
    }
}

fn check_provided(
    snapshot: &Snapshot,
    mesh: &str,
    path: &Path,
    backend: &CertificateAuthorityBackend,
    violations: &mut Violations,
) {
    let conf = conf(backend);
    let load = |part: &str| load(snapshot, mesh, conf.get(part).unwrap_or(&Value::Null));
    let cert = path.field("cert");
    let (certificate, key) = match (load("cert"), load("key")) {
        (Ok(certificate), Ok(key)) => (certificate, key),
        (Err(why), _) | (_, Err(why)) => {
            let why = format!("could not load data: {why}");
            violations.push(&cert, why.clone());
            violations.push(path.field("key"), why);
            return;
        }
    };
    for violation in ca::check_provided(&certificate, &key) {
        let at = violation.position.map_or_else(|| cert.clone(), |i| cert.index(i));
        violations.push(at, violation.message);
    }
}

/// The content of a data source.
fn load(snapshot: &Snapshot, mesh: &str, source: &Value) -> Result<Vec<u8>, String> {
    let text = |key: &str| source.get(key).and_then(Value::as_str);
    if let Some(name) = text("secret") {
        let key = ResourceKey::new(Kind::SECRET, mesh, name);
        let secret = snapshot.get(&key).ok_or_else(|| format!("resource not found: {key}"))?;
        return Ok(secret.secret_data().unwrap_or_default().to_vec());
    }
    if let Some(path) = text("file") {
        return read_file(path).map_err(|error| format!("open {path}: {error}"));
    }
    if let Some(bytes) = text("inline") {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        return STANDARD.decode(bytes).map_err(|error| error.to_string());
    }
    text("inlineString")
        .map(|text| text.as_bytes().to_vec())
        .ok_or_else(|| "unsupported type of the DataSource".to_owned())
}

/// Reads a plain file that is not too large; other kinds of files could go on for ever.
fn read_file(path: &str) -> std::io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("not a file"));
    }
    let mut content = Vec::new();
    fs::File::open(path)?.take(MAX_FILE).read_to_end(&mut content)?;
    Ok(content)
}

/// The configuration of a backend as JSON: each type of backend has one of its own.
fn conf(backend: &CertificateAuthorityBackend) -> Value {
    let Some(conf) = &backend.conf else { return Value::Null };
    sunbear_proto::json::write("google.protobuf.Struct", &conf.encode_to_vec())
        .unwrap_or(Value::Null)
}

/// What a builtin backend says of its authority; nothing if it cannot be understood.
fn settings(backend: &CertificateAuthorityBackend) -> Option<BuiltinSettings> {
    let conf = conf(backend);
    let bits = conf.pointer("/caCert/RSAbits").and_then(Value::as_f64).unwrap_or_default();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "validation has seen that it is a whole number of 32 bits; casts saturate"
    )]
    let rsa_bits = bits as u32;
    let valid_for = match conf.pointer("/caCert/expiration").and_then(Value::as_str) {
        None | Some("") => ca::AUTHORITY_VALIDITY,
        Some(text) => ca::parse_validity(text)?,
    };
    Some(BuiltinSettings { rsa_bits, valid_for })
}

/// Names of the secrets of a builtin backend.
fn secrets(mesh: &str, backend: &str) -> [ResourceKey; 2] {
    [ca::builtin_cert_secret(mesh, backend), ca::builtin_key_secret(mesh, backend)]
        .map(|name| ResourceKey::new(Kind::SECRET, mesh, &name))
}

fn is_complete(snapshot: &Snapshot, mesh: &str, backend: &str) -> bool {
    secrets(mesh, backend).iter().all(|key| snapshot.get(key).is_some())
}

/// Makes what is missing of the builtin authorities of a mesh. Half a pair is of no use, so the
/// other half is made anew with it. Takes time.
pub(crate) fn missing_secrets(
    snapshot: &Snapshot,
    name: &str,
    mesh: &Mesh,
    now: OffsetDateTime,
) -> Result<Vec<Change>, CaError> {
    let mut changes = Vec::new();
    let backends = mesh.mtls.iter().flat_map(|m| &m.backends).filter(|b| b.r#type == "builtin");
    for backend in backends.filter(|b| !is_complete(snapshot, name, &b.name)) {
        let settings = settings(backend).ok_or(CaError::Validity)?;
        let pair = ca::make_builtin(name, settings, Uuid::new_v4(), now)?;
        let values = [pair.cert_pem, pair.key_pem];
        for (key, value) in secrets(name, &backend.name).into_iter().zip(values) {
            let expect = snapshot.get(&key).map_or(Expect::Absent, |r| Expect::Version(r.version));
            let op = Operation::Put {
                spec: secret_spec(Kind::SECRET, value.into_bytes()),
                // Without labels, as in Kuma.
                labels: BTreeMap::new(),
                status: StatusChange::Keep,
                owner: OwnerRef::Key(ResourceKey::new(Kind::MESH, "", name)),
                expect,
            };
            changes.push(Change { key, op });
        }
    }
    Ok(changes)
}
