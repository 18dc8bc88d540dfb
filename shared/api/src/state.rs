//! What the handlers know.

use std::{collections::BTreeMap, sync::Arc};

use sunbear_model::{Kind, ResourceKey, Spec, validation::Mode};
use sunbear_store::{Change, Snapshot, World};
use time::OffsetDateTime;

use crate::{
    access::Access,
    inspect::{AdminBackend, ConfigPreview, NoAdmin, NoPreview},
    problem::Problem,
};

/// All that the API needs. Built once, by the binary.
pub struct ApiState {
    /// Where resources are.
    pub world: World,
    /// Which kind of control plane this is.
    pub mode: Mode,
    /// What `/` says.
    pub identity: ControlPlane,
    /// What `/config` says. Secrets are masked already.
    pub config_json: serde_json::Value,
    /// Who is who, and may do what.
    pub access: Access,
    /// Which tokens this control plane issues.
    pub issuers: Issuers,
    /// Refuse all writes.
    pub read_only: bool,
    /// Delete without asking whether the object is in use.
    pub unsafe_delete: bool,
    /// What this control plane adds to writes.
    pub hooks: Arc<dyn Hooks>,
    /// The time.
    pub clock: fn() -> OffsetDateTime,
    /// What most installations leave alone.
    pub options: Options,
}

/// What most installations leave alone.
#[derive(Clone)]
pub struct Options {
    /// Path that all is served under.
    pub base_path: String,
    /// Origins of pages that may call from browsers; each may be a regular expression. None: no page
    /// of another origin may.
    pub cors_allowed_domains: Vec<String>,
    /// Keys that user tokens are checked with.
    pub user_token_keys: UserTokenKeys,
    /// Asks Envoys.
    pub envoy_admin: Arc<dyn AdminBackend>,
    /// Generates configurations to look at.
    pub config_preview: Arc<dyn ConfigPreview>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            base_path: "/".to_owned(),
            cors_allowed_domains: Vec::new(),
            user_token_keys: UserTokenKeys::default(),
            envoy_admin: Arc::new(NoAdmin),
            config_preview: Arc::new(NoPreview),
        }
    }
}

/// Keys that user tokens are checked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserTokenKeys {
    /// Look keys up in secrets.
    pub use_secrets: bool,
    /// Public keys, or private ones, in PEM, by id. They come first.
    pub keys: BTreeMap<String, Vec<u8>>,
}

impl Default for UserTokenKeys {
    fn default() -> Self {
        Self { use_secrets: true, keys: BTreeMap::new() }
    }
}

/// A control plane, as it introduces itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlPlane {
    /// Name of the host.
    pub hostname: String,
    /// Name of this run of the process.
    pub instance_id: String,
    /// What `kumactl` takes us for: `Kuma`.
    pub product: String,
    /// The level of compatibility, which `kumactl` compares with its own version.
    pub version: String,
    /// Our own version.
    pub sunbear_version: String,
    /// Path or address of the web page; empty if there is none.
    pub gui: String,
}

/// Which tokens are issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Issuers {
    /// Dataplane tokens.
    pub dataplane: bool,
    /// Zone tokens.
    pub zone: bool,
    /// User tokens.
    pub user: bool,
}

impl Default for Issuers {
    fn default() -> Self {
        Self { dataplane: true, zone: true, user: true }
    }
}

/// What a control plane adds to writes over REST. The additions are committed in the same
/// transaction, after the object itself.
pub trait Hooks: Send + Sync {
    /// Does anything come with objects of this type? If not, the other methods are not called for
    /// them.
    fn concerns(&self, kind: Kind) -> bool;

    /// Changes that belong to the creation of this object. Runs on a thread that may block.
    fn before_create(
        &self,
        snapshot: &Snapshot,
        key: &ResourceKey,
        spec: &Spec,
        now: OffsetDateTime,
    ) -> Result<Vec<Change>, Problem>;

    /// Changes that belong to the replacement of this object by one with this spec. Runs on a
    /// thread that may block.
    fn before_update(
        &self,
        _snapshot: &Snapshot,
        _key: &ResourceKey,
        _spec: &Spec,
        _now: OffsetDateTime,
    ) -> Result<Vec<Change>, Problem> {
        Ok(Vec::new())
    }
}

/// Adds nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHooks;

impl Hooks for NoHooks {
    fn concerns(&self, _: Kind) -> bool {
        false
    }

    fn before_create(
        &self,
        _: &Snapshot,
        _: &ResourceKey,
        _: &Spec,
        _: OffsetDateTime,
    ) -> Result<Vec<Change>, Problem> {
        Ok(Vec::new())
    }
}
