//! What exists without anybody having asked for it: the policies and the signing key of a new mesh,
//! and the objects of a new installation (`spec/rest-api.md` 14, `spec/policies.md` 9).

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};
use sunbear_model::{
    Kind, ResourceKey, Spec, Typed, label,
    validation::{Mode, compute_labels},
};
use sunbear_proto::kuma::{mesh::v1alpha1::Mesh, system::v1alpha1 as system};
use sunbear_security::{
    ca::{self, CaError},
    certificate::PemPair,
    signing_key::{self, SigningKeyError, USER_TOKEN_KEY, ZONE_TOKEN_KEY, dataplane_token_key},
    token::{self, IssueError, SigningKey, UserClaims},
};
use sunbear_store::{
    Batch, BatchMode, Change, ChangeError, Expect, Operation, OwnerRef, Revision, Snapshot,
    StatusChange, StoreError, World,
};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    authority,
    problem::{Problem, chain},
    state::Hooks,
    tokens::{FIRST_KEY, newest_key},
    user::User,
};

/// Name of the Config that holds the id of the installation.
pub const CLUSTER_ID: &str = "kuma-cluster-id";

/// Name of the GlobalSecret that holds a token of the administrator.
pub const ADMIN_USER_TOKEN: &str = "admin-user-token";

/// Name of the GlobalSecret with the authority of the admin interfaces of a zone's Envoys.
pub const ENVOY_ADMIN_CA: &str = "envoy-admin-ca";

/// Name of the GlobalSecret with the authority of what replicas of a control plane say to each other.
pub const INTER_CP_CA: &str = "inter-cp-ca";

/// Name of the mesh that is there from the start.
const DEFAULT_MESH: &str = "default";

/// How often the objects of a new installation are tried again when another replica makes them at
/// the same time. Each loss means that somebody else has succeeded.
const ATTEMPTS: usize = 5;

/// Adds the default policies and the signing key to new meshes, and builtin certificate authorities
/// to all that name them.
#[derive(Debug, Clone)]
pub struct MeshDefaults {
    /// Which kind of control plane this is.
    pub mode: Mode,
}

impl Hooks for MeshDefaults {
    fn concerns(&self, kind: Kind) -> bool {
        kind == Kind::MESH
    }

    fn before_create(
        &self,
        snapshot: &Snapshot,
        key: &ResourceKey,
        spec: &Spec,
        now: OffsetDateTime,
    ) -> Result<Vec<Change>, Problem> {
        let Typed::Mesh(mesh) = spec.typed() else { return Ok(Vec::new()) };
        new_mesh(&self.mode, snapshot, &key.name, mesh, now).map_err(|error| {
            tracing::error!(error = %chain(&error), mesh = %key.name, "defaults of a mesh failed");
            Problem::internal("Failed to create a resource")
        })
    }

    fn before_update(
        &self,
        snapshot: &Snapshot,
        key: &ResourceKey,
        spec: &Spec,
        now: OffsetDateTime,
    ) -> Result<Vec<Change>, Problem> {
        let Typed::Mesh(mesh) = spec.typed() else { return Ok(Vec::new()) };
        authority::missing_secrets(snapshot, &key.name, mesh, now).map_err(|error| {
            tracing::error!(error = %chain(&error), mesh = %key.name, "authority of a mesh failed");
            Problem::internal("Failed to update a resource")
        })
    }
}

/// What [`ensure_defaults`] makes.
#[derive(Debug, Clone)]
pub struct DefaultsSettings {
    /// Which kind of control plane this is. A federated zone gets most of the objects from its
    /// global and makes only what concerns its own users.
    pub mode: Mode,
    /// Do not make the mesh `default`.
    pub skip_mesh_creation: bool,
    /// Do not make generators of host names.
    pub skip_hostname_generators: bool,
    /// Make a token for the administrator.
    pub bootstrap_admin_token: bool,
    /// The time.
    pub clock: fn() -> OffsetDateTime,
}

/// Why the objects of a new installation could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DefaultsError {
    /// No keys of a mesh.
    #[error("could not make what belongs to a mesh")]
    Mesh(#[from] NewMeshError),
    /// No signing key.
    #[error("could not make a signing key")]
    Key(#[from] SigningKeyError),
    /// No certificate authority.
    #[error("could not make a certificate authority")]
    Authority(#[from] CaError),
    /// No token.
    #[error("could not issue the admin token")]
    Token(#[from] IssueError),
    /// Making keys was aborted.
    #[error("making keys was aborted")]
    Aborted(#[from] tokio::task::JoinError),
    /// The store failed.
    #[error("could not store defaults")]
    Store(#[from] StoreError),
    /// The store refused an object.
    #[error("a default object was refused")]
    Refused(#[source] ChangeError),
}

/// Makes what is missing of a new installation, all of it or nothing. Finding everything in place,
/// it writes nothing. Several replicas may do it at once.
pub async fn ensure_defaults(
    world: &World,
    settings: &DefaultsSettings,
) -> Result<Revision, DefaultsError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let snapshot = world.snapshot();
        let (seen, wanted) = (Arc::clone(&snapshot), settings.clone());
        let changes = tokio::task::spawn_blocking(move || missing(&seen, &wanted)).await??;
        if changes.is_empty() {
            return Ok(snapshot.revision);
        }
        let batch = Batch {
            changes,
            author: "mesh-system:control-plane".to_owned(),
            reason: "defaults".to_owned(),
            mode: BatchMode::AllOrNothing,
            at: (settings.clock)(),
        };
        let committed = world.commit(batch).await?;
        let errors = committed.results.iter().filter_map(|r| r.as_ref().err());
        match errors.clone().find(|e| !matches!(e, ChangeError::NotApplied(_))) {
            None => return Ok(committed.revision),
            // The world has caught up with what was in the way.
            Some(ChangeError::AlreadyExists(_)) if attempt < ATTEMPTS => {}
            Some(error) => return Err(DefaultsError::Refused(error.clone())),
        }
    }
}

fn missing(snapshot: &Snapshot, settings: &DefaultsSettings) -> Result<Vec<Change>, DefaultsError> {
    let mode = &settings.mode;
    let absent = |kind, name: &str| snapshot.get(&ResourceKey::new(kind, "", name)).is_none();
    let mut changes = Vec::new();

    let mut user_key = newest_key(snapshot, USER_TOKEN_KEY, None);
    if user_key.is_none() {
        let key = signing_key::generate()?.into_bytes();
        let name = signing_key::secret_name(USER_TOKEN_KEY, FIRST_KEY);
        changes.push(global_secret(&name, key.clone()));
        user_key = Some((FIRST_KEY.to_owned(), key));
    }
    if let Some((kid, key)) = user_key
        && settings.bootstrap_admin_token
        && absent(Kind::GLOBAL_SECRET, ADMIN_USER_TOKEN)
    {
        let admin = User::admin();
        let claims = UserClaims { name: admin.name.clone(), groups: vec![admin.name] };
        let key = SigningKey { kid: &kid, key: &key };
        let now = (settings.clock)();
        let token = token::issue(&claims, key, Uuid::new_v4(), now, token::DEFAULT_VALIDITY)?;
        changes.push(global_secret(ADMIN_USER_TOKEN, token.into_bytes()));
    }
    if !matches!(mode, Mode::Global { .. }) && absent(Kind::GLOBAL_SECRET, ENVOY_ADMIN_CA) {
        let pair = ca::make_envoy_admin(Uuid::new_v4(), (settings.clock)())?;
        changes.push(authority_secret(ENVOY_ADMIN_CA, &pair));
    }
    if absent(Kind::GLOBAL_SECRET, INTER_CP_CA) {
        let pair = ca::make_inter_cp(Uuid::new_v4(), (settings.clock)())?;
        changes.push(authority_secret(INTER_CP_CA, &pair));
    }
    if !settings.skip_hostname_generators {
        changes.extend(
            hostname_generators(mode).into_iter().filter(|c| snapshot.get(&c.key).is_none()),
        );
    }
    if matches!(mode, Mode::FederatedZone { .. }) {
        return Ok(changes);
    }

    if absent(Kind::CONFIG, CLUSTER_ID) {
        let config = system::Config { config: Uuid::new_v4().to_string() };
        let key = ResourceKey::new(Kind::CONFIG, "", CLUSTER_ID);
        let spec = Spec::from_message(Kind::CONFIG, &config);
        changes.push(create(key, spec, BTreeMap::new(), OwnerRef::None));
    }
    if newest_key(snapshot, ZONE_TOKEN_KEY, None).is_none() {
        let name = signing_key::secret_name(ZONE_TOKEN_KEY, FIRST_KEY);
        changes.push(global_secret(&name, signing_key::generate()?.into_bytes()));
    }
    if !settings.skip_mesh_creation && absent(Kind::MESH, DEFAULT_MESH) {
        let mesh = Mesh::default();
        let key = ResourceKey::new(Kind::MESH, "", DEFAULT_MESH);
        let spec = Spec::from_message(Kind::MESH, &mesh);
        let labels = compute_labels(mode, &key, &spec, BTreeMap::new());
        changes.push(create(key, spec, labels, OwnerRef::None));
        changes.extend(new_mesh(mode, snapshot, DEFAULT_MESH, &mesh, (settings.clock)())?);
    }
    Ok(changes)
}

/// Why what belongs to a mesh could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NewMeshError {
    /// No signing key.
    #[error("could not make a signing key")]
    Key(#[from] SigningKeyError),
    /// No certificate authority.
    #[error("could not make a certificate authority")]
    Authority(#[from] CaError),
}

/// What comes with a new mesh. What is there already, from an earlier mesh of the name, stays.
fn new_mesh(
    mode: &Mode,
    snapshot: &Snapshot,
    name: &str,
    mesh: &Mesh,
    now: OffsetDateTime,
) -> Result<Vec<Change>, NewMeshError> {
    let owner = OwnerRef::Key(ResourceKey::new(Kind::MESH, "", name));
    let mut changes = authority::missing_secrets(snapshot, name, mesh, now)?;
    let prefix = dataplane_token_key(name);
    if newest_key(snapshot, &prefix, Some(name)).is_none() {
        let secret = signing_key::secret_name(&prefix, FIRST_KEY);
        let key = ResourceKey::new(Kind::SECRET, name, &secret);
        let spec = secret_spec(Kind::SECRET, signing_key::generate()?.into_bytes());
        // Without labels, as in Kuma.
        changes.push(create(key, spec, BTreeMap::new(), owner.clone()));
    }
    let skipped = &mesh.skip_creating_initial_policies;
    for (kind, prefix, spec) in policies() {
        let key = ResourceKey::new(kind, name, &format!("{prefix}-{name}"));
        if skipped.iter().any(|s| s == "*" || s == kind.name()) || snapshot.get(&key).is_some() {
            continue;
        }
        let spec = Spec::from_wire(kind, spec.to_string().into_bytes());
        let labels = compute_labels(mode, &key, &spec, BTreeMap::new());
        changes.push(create(key, spec, labels, owner.clone()));
    }
    Ok(changes)
}

fn create(
    key: ResourceKey,
    spec: Spec,
    labels: BTreeMap<String, String>,
    owner: OwnerRef,
) -> Change {
    let status = StatusChange::Keep;
    Change { key, op: Operation::Put { spec, labels, status, owner, expect: Expect::Absent } }
}

/// Certificate and key in one secret.
fn authority_secret(name: &str, pair: &PemPair) -> Change {
    global_secret(name, format!("{}{}", pair.cert_pem, pair.key_pem).into_bytes())
}

fn global_secret(name: &str, value: Vec<u8>) -> Change {
    let key = ResourceKey::new(Kind::GLOBAL_SECRET, "", name);
    create(key, secret_spec(Kind::GLOBAL_SECRET, value), BTreeMap::new(), OwnerRef::None)
}

pub(crate) fn secret_spec(kind: Kind, value: Vec<u8>) -> Spec {
    Spec::from_message(kind, &system::Secret { data: Some(value) })
}

/// The generators of host names: on a global for services that zones share, in a zone for its own.
fn hostname_generators(mode: &Mode) -> Vec<Change> {
    const HEADLESS: &str = "k8s.kuma.io/is-headless-service";
    let Some(kind) = Kind::by_name("HostnameGenerator") else { return Vec::new() };
    let (origin, labels) = match mode {
        Mode::Global { .. } => (label::ORIGIN_GLOBAL, BTreeMap::new()),
        Mode::FederatedZone { .. } | Mode::StandaloneZone { .. } => {
            let origin = (label::ORIGIN.to_owned(), label::ORIGIN_ZONE.to_owned());
            (label::ORIGIN_ZONE, BTreeMap::from([origin]))
        }
    };
    let of = |selected: &str, more: &[(&str, &str)]| {
        let mut wanted = json!({label::ORIGIN: origin});
        for (key, value) in more {
            wanted[*key] = (*value).into();
        }
        json!({selected: {"matchLabels": wanted}})
    };
    let universal = (label::ENV, "universal");
    let kubernetes = (label::ENV, "kubernetes");
    let generators = match mode {
        Mode::Global { .. } => vec![
            (
                "synced-mesh-multi-zone-service",
                of("meshMultiZoneService", &[]),
                "{{ .DisplayName }}.mzsvc.mesh.local",
            ),
            (
                "synced-kube-mesh-service",
                of("meshService", &[kubernetes, (HEADLESS, "false")]),
                "{{ .DisplayName }}.{{ .Namespace }}.svc.{{ .Zone }}.mesh.local",
            ),
            (
                "synced-headless-kube-mesh-service",
                of("meshService", &[kubernetes, (HEADLESS, "true")]),
                "{{ label \"statefulset.kubernetes.io/pod-name\" }}.\
                 {{ label \"k8s.kuma.io/service-name\" }}.{{ .Namespace }}.svc.{{ .Zone }}.\
                 mesh.local",
            ),
            (
                "synced-universal-mesh-service",
                of("meshService", &[universal]),
                "{{ .DisplayName }}.svc.{{ .Zone }}.mesh.local",
            ),
            (
                "synced-mesh-external-service",
                of("meshExternalService", &[]),
                "{{ .DisplayName }}.extsvc.mesh.local",
            ),
        ],
        Mode::FederatedZone { .. } | Mode::StandaloneZone { .. } => vec![
            (
                "local-mesh-external-service",
                of("meshExternalService", &[]),
                "{{ .DisplayName }}.extsvc.mesh.local",
            ),
            (
                "local-universal-mesh-service",
                of("meshService", &[]),
                "{{ .DisplayName }}.svc.mesh.local",
            ),
        ],
    };
    generators
        .into_iter()
        .map(|(name, selector, template)| {
            let spec = json!({"selector": selector, "template": template});
            let spec = Spec::from_wire(kind, spec.to_string().into_bytes());
            create(ResourceKey::new(kind, "", name), spec, labels.clone(), OwnerRef::None)
        })
        .collect()
}

/// The default policies, by type and beginning of the name.
fn policies() -> [(Kind, &'static str, Value); 4] {
    let mesh = json!({"kind": "Mesh"});
    let retries = json!({
        "numRetries": 5,
        "perTryTimeout": "16s",
        "backOff": {"baseInterval": "25ms", "maxInterval": "250ms"},
    });
    [
        (
            Kind::MESH_TIMEOUT,
            "mesh-gateways-timeout-all",
            json!({
                "targetRef": {"kind": "Mesh", "proxyTypes": ["Gateway"]},
                "to": [{"targetRef": mesh, "default": {
                    "idleTimeout": "1h0m0s",
                    "http": {"streamIdleTimeout": "5s"},
                }}],
                "from": [{"targetRef": mesh, "default": {
                    "idleTimeout": "5m0s",
                    "http": {"streamIdleTimeout": "5s", "requestHeadersTimeout": "500ms"},
                }}],
            }),
        ),
        (
            Kind::MESH_TIMEOUT,
            "mesh-timeout-all",
            json!({
                "targetRef": {"kind": "Mesh", "proxyTypes": ["Sidecar"]},
                "to": [{"targetRef": mesh, "default": {
                    "connectionTimeout": "5s",
                    "idleTimeout": "1h0m0s",
                    "http": {"requestTimeout": "15s", "streamIdleTimeout": "30m0s"},
                }}],
                "from": [{"targetRef": mesh, "default": {
                    "connectionTimeout": "10s",
                    "idleTimeout": "2h0m0s",
                    "http": {
                        "requestTimeout": "0s",
                        "streamIdleTimeout": "1h0m0s",
                        "maxStreamDuration": "0s",
                    },
                }}],
            }),
        ),
        (
            Kind::MESH_CIRCUIT_BREAKER,
            "mesh-circuit-breaker-all",
            json!({
                "targetRef": mesh,
                "to": [{"targetRef": mesh, "default": {"connectionLimits": {
                    "maxConnections": 1024,
                    "maxPendingRequests": 1024,
                    "maxRetries": 3,
                    "maxRequests": 1024,
                }}}],
            }),
        ),
        (
            Kind::MESH_RETRY,
            "mesh-retry-all",
            json!({
                "targetRef": mesh,
                "to": [{"targetRef": mesh, "default": {
                    "tcp": {"maxConnectAttempt": 5},
                    "http": retries,
                    "grpc": retries,
                }}],
            }),
        ),
    ]
}
