//! Secrets of mesh mTLS: the CAs of meshes and the proxy's own certificate
//! (`spec/mesh-dataplane.md` 6.3, `spec/gateway-xds.md` 21). Certificates are made here, per
//! stream, from the CA that the mesh's Secrets hold; they are never stored.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use base64::Engine as _;
use prost_types::{Struct, value};
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_RSA_SHA256, RsaKeySize, SanType, SerialNumber,
};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};
use sunbear_model::{Kind, ResourceKey, label, tags};
use sunbear_proto::kuma::mesh::v1alpha1::{CertificateAuthorityBackend, Mesh};
use sunbear_xds::{
    Effect, Issue, ResourceSet, ResourceType, SecretRequest, View, ca_secret, certificate_secret,
};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// Certificates are valid from this much before they were issued, for clocks that are behind.
const BACKDATE: Duration = Duration::seconds(10);

/// Validity unless the mesh says otherwise.
const DEFAULT_VALIDITY: Duration = Duration::DAY;

/// A proxy's certificate.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Issued {
    /// PEM.
    chain: String,
    /// PEM.
    key: String,
    /// Hash of all that the certificate says and who signed it; another one means a new
    /// certificate.
    fingerprint: [u8; 32],
    pub(crate) issued_at: OffsetDateTime,
    pub(crate) valid_until: OffsetDateTime,
    /// Backend of the mesh that signed it.
    pub(crate) backend: String,
    /// Backends whose roots the proxy trusts.
    pub(crate) supported: Vec<String>,
}

impl Issued {
    /// When to make the next one: after four fifths of its time.
    pub(crate) fn renew_at(&self) -> OffsetDateTime {
        self.issued_at + (self.valid_until - self.issued_at) * 4 / 5
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("valid_until", &self.valid_until).finish_non_exhaustive()
    }
}

/// Why a secret cannot be provided.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("mesh {0:?} has no enabled mTLS backend")]
    NoBackend(String),
    #[error("CA of mesh {mesh:?} cannot be read: {reason}")]
    Ca { mesh: String, reason: String },
    #[error("dataplane has neither a service tag nor a workload label to make an identity from")]
    NoService,
    #[error("certificate cannot be made")]
    Issue(#[from] rcgen::Error),
}

/// For whom secrets are provided, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) mesh: &'a str,
    pub(crate) name: &'a str,
    pub(crate) now: OffsetDateTime,
}

/// What a proxy was given, and what it goes on having if it cannot be made again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Provided {
    /// The certificate in use.
    pub(crate) identity: Option<Arc<Issued>>,
    /// Certificates of authorities by mesh, PEM.
    roots: BTreeMap<String, String>,
}

/// Adds the wanted secrets to the set, and tells what went wrong. A certificate or an authority that
/// cannot be had now stays as it was. If this server never had it, the proxy may: it keeps what it
/// has; one that has nothing gets an empty authority, so that it does not wait.
pub(crate) fn provide(
    view: &dyn View,
    request: Request<'_>,
    wanted: &BTreeSet<SecretRequest>,
    previous: &Provided,
    set: &mut ResourceSet,
) -> (Provided, Vec<Issue>) {
    let mut issues = BTreeSet::new();
    let mut provided = Provided::default();
    for secret in wanted {
        let name = secret.name();
        match secret {
            SecretRequest::MeshCa { mesh } => {
                let known = provided.root(view, mesh, previous, &mut issues);
                if !known {
                    set.keep(ResourceType::Secret, &name);
                }
                let root = provided.roots.get(mesh).map_or("", String::as_str);
                set.insert(ResourceType::Secret, ca_secret(&name, root.as_bytes()));
            }
            SecretRequest::AllMeshCas => {
                let mut roots = Vec::new();
                for mesh in meshes_with_authorities(view, request.mesh) {
                    if !provided.root(view, &mesh, previous, &mut issues) {
                        set.keep(ResourceType::Secret, &name);
                    }
                    roots.extend(provided.roots.get(&mesh).cloned());
                }
                let roots = roots.join("\n");
                set.insert(ResourceType::Secret, ca_secret(&name, roots.as_bytes()));
            }
            SecretRequest::Identity { mesh: _ } => {
                let identity = certificate(view, request, previous.identity.as_ref());
                provided.identity = identity.map(Some).unwrap_or_else(|error| {
                    let kept = previous.identity.is_some();
                    issues.insert(trouble(request.mesh, &error, kept));
                    previous.identity.clone()
                });
                match &provided.identity {
                    Some(i) => {
                        let secret =
                            certificate_secret(&name, i.chain.as_bytes(), i.key.as_bytes());
                        set.insert(ResourceType::Secret, secret);
                    }
                    None => set.keep(ResourceType::Secret, &name),
                }
            }
        }
    }
    (provided, issues.into_iter().collect())
}

impl Provided {
    /// Takes note of the certificate of a mesh's authority, as it is or as it was. False if there is
    /// neither.
    fn root(
        &mut self,
        view: &dyn View,
        mesh: &str,
        previous: &Provided,
        issues: &mut BTreeSet<Issue>,
    ) -> bool {
        let root = match Authority::of(view, mesh) {
            Ok(authority) => Some(authority.certificate),
            Err(error) => {
                let kept = previous.roots.get(mesh).cloned();
                issues.insert(trouble(mesh, &error, kept.is_some()));
                kept
            }
        };
        let known = root.is_some();
        self.roots.extend(root.map(|root| (mesh.to_owned(), root)));
        known
    }
}

fn trouble(mesh: &str, error: &IdentityError, kept: bool) -> Issue {
    Issue {
        resource: ResourceKey::new(Kind::MESH, "", mesh),
        field: "mtls".to_owned(),
        reason: error.to_string(),
        effect: if kept { Effect::LastGood } else { Effect::LeftOut },
    }
}

/// Can a change of this key change what [`provide`] gives?
pub(crate) fn concerns(mesh: &str, wanted: &BTreeSet<SecretRequest>, key: &ResourceKey) -> bool {
    let all = wanted.contains(&SecretRequest::AllMeshCas);
    let is_ca = |of: &str| match key.kind {
        Kind::SECRET => *key.mesh == *of,
        Kind::MESH => *key.name == *of,
        _ => false,
    };
    (all && matches!(key.kind, Kind::SECRET | Kind::MESH))
        || (!wanted.is_empty() && is_ca(mesh))
        || wanted.iter().any(|w| matches!(w, SecretRequest::MeshCa { mesh } if is_ca(mesh)))
}

/// The other meshes with mTLS, then the own one.
fn meshes_with_authorities(view: &dyn View, own: &str) -> Vec<String> {
    let others = view
        .list(Kind::MESH)
        .into_iter()
        .filter(|r| *r.key.name != *own && r.as_mesh().is_some_and(|m| backend(m).is_some()))
        .map(|r| r.key.name.to_string());
    others.chain([own.to_owned()]).collect()
}

/// The enabled backend of a mesh.
fn backend(mesh: &Mesh) -> Option<&CertificateAuthorityBackend> {
    let mtls = mesh.mtls.as_ref().filter(|m| !m.enabled_backend.is_empty())?;
    mtls.backends.iter().find(|b| b.name == mtls.enabled_backend)
}

/// The CA of a mesh.
struct Authority {
    backend: CertificateAuthorityBackend,
    /// PEM.
    certificate: String,
    /// PEM.
    key: String,
}

impl Authority {
    fn of(view: &dyn View, name: &str) -> Result<Self, IdentityError> {
        let mesh = view.get(&ResourceKey::new(Kind::MESH, "", name));
        let backend = mesh
            .as_ref()
            .and_then(|r| r.as_mesh())
            .and_then(backend)
            .ok_or_else(|| IdentityError::NoBackend(name.to_owned()))?
            .clone();
        let failed = |reason: String| IdentityError::Ca { mesh: name.to_owned(), reason };
        let secret = |secret: &str| {
            view.get(&ResourceKey::new(Kind::SECRET, name, secret))
                .and_then(|r| r.secret_data().map(|d| String::from_utf8_lossy(d).into_owned()))
                .ok_or_else(|| failed(format!("there is no secret {secret:?}")))
        };
        let (certificate, key) = match backend.r#type.as_str() {
            "builtin" => {
                let part =
                    |part: &str| secret(&format!("{name}.ca-builtin-{part}-{}", backend.name));
                (part("cert")?, part("key")?)
            }
            "provided" => {
                let part = |part: &str| match source(backend.conf.as_ref(), part) {
                    Some(Source::Secret(name)) => secret(name),
                    Some(Source::Inline(text)) => Ok(text),
                    None => Err(failed(format!("no usable {part} is configured"))),
                };
                (part("cert")?, part("key")?)
            }
            other => return Err(failed(format!("unknown backend type {other:?}"))),
        };
        Ok(Self { backend, certificate, key })
    }

    fn validity(&self) -> Duration {
        let rotation = self.backend.dp_cert.as_ref().and_then(|c| c.rotation.as_ref());
        rotation.and_then(|r| duration(&r.expiration)).unwrap_or(DEFAULT_VALIDITY)
    }
}

/// Where a provided CA's part is.
enum Source<'a> {
    Secret(&'a str),
    Inline(String),
}

fn source<'a>(conf: Option<&'a Struct>, part: &str) -> Option<Source<'a>> {
    let Some(value::Kind::StructValue(part)) = &conf?.fields.get(part)?.kind else { return None };
    let text = |key: &str| match part.fields.get(key).and_then(|v| v.kind.as_ref()) {
        Some(value::Kind::StringValue(text)) if !text.is_empty() => Some(text.as_str()),
        _ => None,
    };
    if let Some(name) = text("secret") {
        return Some(Source::Secret(name));
    }
    if let Some(text) = text("inlineString") {
        return Some(Source::Inline(text.to_owned()));
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(text("inline")?).ok()?;
    String::from_utf8(bytes).ok().map(Source::Inline)
}

/// Text such as `30d`.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let count: i64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "y" => Duration::days(365),
        "w" => Duration::WEEK,
        "d" => Duration::DAY,
        "h" => Duration::HOUR,
        "m" => Duration::MINUTE,
        "s" => Duration::SECOND,
        "ms" => Duration::MILLISECOND,
        _ => return None,
    };
    let seconds = count.checked_mul(unit.whole_milliseconds().try_into().ok()?)?;
    (seconds > 0).then(|| Duration::milliseconds(seconds))
}

/// The certificate in use, or a new one if there is none, its time is mostly over, or it would say
/// something else.
fn certificate(
    view: &dyn View,
    request: Request<'_>,
    previous: Option<&Arc<Issued>>,
) -> Result<Arc<Issued>, IdentityError> {
    let authority = Authority::of(view, request.mesh)?;
    let names = names(view, request)?;
    let mut hash = Sha256::new();
    for part in [&authority.certificate, &authority.backend.name].into_iter().chain(&names) {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hash.update(authority.validity().whole_milliseconds().to_be_bytes());
    let fingerprint = hash.finalize().into();
    if let Some(previous) = previous
        && previous.fingerprint == fingerprint
        && request.now < previous.renew_at()
    {
        return Ok(Arc::clone(previous));
    }
    issue(&authority, request, names, fingerprint).map(Arc::new)
}

/// URIs of the identity: one per service, then one per tag and value.
fn names(view: &dyn View, request: Request<'_>) -> Result<Vec<String>, IdentityError> {
    let key = ResourceKey::new(Kind::DATAPLANE, request.mesh, request.name);
    let resource = view.get(&key).ok_or(IdentityError::NoService)?;
    let all: BTreeMap<String, BTreeSet<String>> =
        resource.as_dataplane().map(tags::all_tags).unwrap_or_default();
    let workload: BTreeSet<String> =
        resource.label(label::WORKLOAD).map(str::to_owned).into_iter().collect();
    let services = all.get(label::SERVICE_TAG).unwrap_or(&workload);
    if services.is_empty() {
        return Err(IdentityError::NoService);
    }
    let services = services.iter().map(|s| format!("spiffe://{}/{s}", request.mesh));
    let tags = all
        .iter()
        .flat_map(|(tag, values)| values.iter().map(move |v| format!("kuma://{tag}/{v}")));
    Ok(services.chain(tags).collect())
}

fn issue(
    authority: &Authority,
    request: Request<'_>,
    names: Vec<String>,
    fingerprint: [u8; 32],
) -> Result<Issued, IdentityError> {
    let unreadable = |reason: String| IdentityError::Ca { mesh: request.mesh.to_owned(), reason };
    let ca_key = PrivateKeyDer::from_pem_slice(authority.key.as_bytes())
        .map_err(|_| unreadable("its key is not PEM".to_owned()))?;
    let ca_key = KeyPair::try_from(&ca_key)?;
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, ca_key)?;

    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names
        .into_iter()
        .map(|name| Ok(SanType::URI(name.try_into()?)))
        .collect::<Result<_, rcgen::Error>>()?;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyAgreement,
    ];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.serial_number = Some(SerialNumber::from_slice(Uuid::new_v4().as_bytes()));
    params.use_authority_key_identifier_extension = true;
    let valid_until = request.now + authority.validity();
    params.not_before = request.now - BACKDATE;
    params.not_after = valid_until;
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(Issued {
        chain: certificate.pem(),
        key: key.serialize_pem(),
        fingerprint,
        issued_at: request.now,
        valid_until,
        backend: authority.backend.name.clone(),
        supported: vec![authority.backend.name.clone()],
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::testing::{NOW, Resources};

    const MESH: &str = "{type: Mesh, name: default, mtls: {enabledBackend: ca-1, backends:
        [{name: ca-1, type: builtin, dpCert: {rotation: {expiration: 10h}}}]}}";
    const DATAPLANE: &str = "{type: Dataplane, mesh: default, name: edge-1, networking: {
        address: 10.0.0.1, gateway: {type: BUILTIN, tags: {kuma.io/service: edge, a: b}}}}";

    /// A CA as meshes have it: certificate, and key in PKCS#1.
    fn authority(mesh: &str) -> (String, String) {
        let key = sunbear_security::signing_key::generate().unwrap();
        let pair =
            KeyPair::try_from(&PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, mesh);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = NOW - Duration::DAY;
        params.not_after = NOW + Duration::days(3650);
        (params.self_signed(&pair).unwrap().pem(), key)
    }

    fn resources(ca: &(String, String)) -> Resources {
        Resources::default()
            .with(MESH)
            .with(DATAPLANE)
            .with_secret("default", "default.ca-builtin-cert-ca-1", &ca.0)
            .with_secret("default", "default.ca-builtin-key-ca-1", &ca.1)
    }

    fn wanted() -> BTreeSet<SecretRequest> {
        [
            SecretRequest::Identity { mesh: "default".to_owned() },
            SecretRequest::MeshCa { mesh: "default".to_owned() },
            SecretRequest::AllMeshCas,
        ]
        .into()
    }

    fn run(
        view: &Resources,
        now: OffsetDateTime,
        previous: &Provided,
    ) -> (ResourceSet, Provided, Vec<Issue>) {
        let mut set = ResourceSet::default();
        let request = Request { mesh: "default", name: "edge-1", now };
        let (provided, issues) = provide(view, request, &wanted(), previous, &mut set);
        (set, provided, issues)
    }

    #[test]
    fn certificates_are_kept_until_they_have_to_be_renewed() {
        let ca = authority("default");
        let view = resources(&ca);
        let (set, first, issues) = run(&view, NOW, &Provided::default());
        assert_eq!(issues, []);
        let names: Vec<&str> = set.names(ResourceType::Secret).collect();
        assert_eq!(
            names,
            ["identity_cert:secret:default", "mesh_ca:secret:all", "mesh_ca:secret:default"]
        );
        let issued = first.identity.clone().unwrap();
        assert_eq!(issued.valid_until, NOW + Duration::hours(10));
        let same = |other: &Provided| other.identity.as_ref() == Some(&issued);

        let (_, later, _) = run(&view, NOW + Duration::minutes(7 * 60 + 59), &first);
        assert!(same(&later));
        let (_, later, _) = run(&view, NOW + Duration::hours(8), &first);
        assert!(!same(&later));
        // Other tags, another CA.
        let tagged = resources(&ca).with(&DATAPLANE.replace("a: b", "a: c"));
        assert!(!same(&run(&tagged, NOW, &first).1));
        let other = resources(&authority("default"));
        assert!(!same(&run(&other, NOW, &first).1));
        // A CA that is gone: all stays as it was, and it is told.
        let without = Resources::default().with(MESH).with(DATAPLANE);
        let (kept, later, issues) = run(&without, NOW, &first);
        assert!(same(&later));
        assert_eq!(kept, set);
        assert_eq!(issues[0].effect, Effect::LastGood);
        assert_eq!(
            issues[0].reason,
            "CA of mesh \"default\" cannot be read: there is no secret \"default.ca-builtin-cert-ca-1\""
        );
        // To a server that never had it, what the proxy has is better than nothing.
        let (makeshift, none, issues) = run(&without, NOW, &Provided::default());
        assert!(none.identity.is_none());
        assert_eq!(makeshift.len(ResourceType::Secret), 2);
        assert!(names.iter().all(|name| makeshift.keeps(ResourceType::Secret, name)));
        assert_eq!(issues[0].effect, Effect::LeftOut);
    }

    #[test]
    fn openssl_accepts_the_certificate() {
        let ca = authority("default");
        let now = OffsetDateTime::now_utc();
        let (_, provided, _) = run(&resources(&ca), now, &Provided::default());
        let issued = provided.identity.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let (ca, leaf) = (path("ca", &ca.0), path("leaf", &issued.chain));
        let verify = Command::new("openssl")
            .args(["verify", "-x509_strict", "-purpose", "sslclient", "-no_check_time", "-CAfile"])
            .arg(ca)
            .arg(&leaf)
            .output();
        let Ok(verify) = verify else {
            eprintln!("SKIPPED: there is no openssl");
            return;
        };
        assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stderr));
        let show = Command::new("openssl")
            .args(["x509", "-noout", "-ext", "subjectAltName", "-in"])
            .arg(leaf)
            .output()
            .unwrap();
        let text = String::from_utf8(show.stdout).unwrap();
        assert!(
            text.contains(
                "URI:spiffe://default/edge, URI:kuma://a/b, URI:kuma://kuma.io/service/edge"
            ),
            "{text}"
        );
    }

    #[test]
    fn provided_authorities_and_other_meshes() {
        let ca = authority("default");
        let other = authority("other");
        let inline = serde_json::json!({
            "type": "Mesh",
            "name": "other",
            "mtls": {"enabledBackend": "p", "backends": [{"name": "p", "type": "provided", "conf": {
                "cert": {"inlineString": other.0},
                "key": {"inline": base64::engine::general_purpose::STANDARD.encode(&other.1)},
            }}]},
        });
        let view = resources(&ca).with(&inline.to_string()).with("{type: Mesh, name: plain}");
        let (set, _, issues) = run(&view, NOW, &Provided::default());
        let all = set.get(ResourceType::Secret, "mesh_ca:secret:all").unwrap();
        let wanted = ca_secret("mesh_ca:secret:all", format!("{}\n{}", other.0, ca.0).as_bytes());
        assert_eq!(**all, wanted);
        assert_eq!(issues, []);
    }

    #[test]
    fn changes_that_matter() {
        let secret = |mesh: &str| ResourceKey::new(Kind::SECRET, mesh, "x");
        let mesh = |name: &str| ResourceKey::new(Kind::MESH, "", name);
        let identity: BTreeSet<_> = [SecretRequest::Identity { mesh: "a".to_owned() }].into();
        for (key, nothing, own, all) in [
            (secret("a"), false, true, true),
            (secret("b"), false, false, true),
            (mesh("a"), false, true, true),
            (mesh("b"), false, false, true),
            (ResourceKey::new(Kind::DATAPLANE, "a", "x"), false, false, false),
        ] {
            assert_eq!(concerns("a", &BTreeSet::new(), &key), nothing, "{key}");
            assert_eq!(concerns("a", &identity, &key), own, "{key}");
            assert_eq!(concerns("a", &[SecretRequest::AllMeshCas].into(), &key), all, "{key}");
        }
    }

    #[test]
    fn durations() {
        for (text, want) in [
            ("24h", Some(Duration::DAY)),
            ("1y", Some(Duration::days(365))),
            ("500ms", Some(Duration::milliseconds(500))),
            ("0s", None),
            ("h", None),
            ("1", None),
            ("99999999999999999y", None),
        ] {
            assert_eq!(duration(text), want, "{text}");
        }
    }
}
