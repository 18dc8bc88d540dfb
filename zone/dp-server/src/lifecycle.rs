//! Proxy resources of the direct flow: written when their proxy connects, taken away some time
//! after it has gone (`spec/dp-server.md` 9).

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use prost::Message as _;
use sunbear_model::{
    Kind, Resource, ResourceKey, Spec, Typed, membership,
    rest::Desired,
    validation::{Mode, Violations, apply_defaults, compute_labels, validate_spec},
};
use sunbear_proto::kuma::mesh::v1alpha1::ZoneIngress;
use sunbear_store::{Batch, BatchMode, Change, ChangeError, Snapshot, StoreError};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{config::DpServerConfig, insight, proxy::ProxyKey, server::DpServer};

/// Pause before a removal that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Why a proxy's resource cannot be registered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegisterError {
    #[error("mesh of name {0} is not found")]
    NoMesh(String),
    #[error("{0}")]
    Invalid(Violations),
    #[error("{0}")]
    Membership(String),
    #[error("its insight cannot be written")]
    Insight,
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<RegisterError> for Status {
    fn from(error: RegisterError) -> Self {
        let text = format!("could not register proxy passed in kuma-dp run: {error}");
        match error {
            RegisterError::NoMesh(_) => Status::failed_precondition(text),
            RegisterError::Invalid(_) => Status::invalid_argument(text),
            RegisterError::Membership(_) => Status::permission_denied(text),
            RegisterError::Change(_) => Status::aborted(text),
            RegisterError::Insight | RegisterError::Store(_) => Status::unavailable(text),
        }
    }
}

/// Stores what the proxy brought along, unless it is stored already; then the store is not asked.
pub(crate) async fn register(
    server: &DpServer,
    proxy: &ProxyKey,
    desired: &Desired,
) -> Result<(), RegisterError> {
    let snapshot = server.world.snapshot();
    let key = proxy.resource_key();
    let stored = snapshot.get(&key);
    let (spec, labels) = prepare(&server.config, &snapshot, desired, stored)?;
    if stored.is_some_and(|r| r.spec == spec && r.labels == labels) {
        return Ok(());
    }
    let committed = server
        .world
        .commit(Batch {
            changes: vec![Change::put(key, spec, labels)],
            author: proxy.author(),
            reason: "proxy connected".to_owned(),
            mode: BatchMode::AllOrNothing,
            at: server.now(),
        })
        .await?;
    for result in committed.results {
        result?;
    }
    tracing::info!(%proxy, "proxy registered");
    Ok(())
}

type Labels = BTreeMap<String, String>;

/// The spec and labels to store.
fn prepare(
    config: &DpServerConfig,
    snapshot: &Snapshot,
    desired: &Desired,
    stored: Option<&Arc<Resource>>,
) -> Result<(Spec, Labels), RegisterError> {
    let violations = validate_spec(desired.kind, &desired.mesh, &desired.name, &desired.spec);
    if !violations.is_empty() {
        return Err(RegisterError::Invalid(violations));
    }
    let mesh = if desired.kind.is_mesh_scoped() {
        let mesh = snapshot.mesh(&desired.mesh).and_then(|r| r.as_mesh());
        Some(mesh.ok_or_else(|| RegisterError::NoMesh(desired.mesh.clone()))?)
    } else {
        None
    };
    let spec = apply_defaults(desired.kind, Some(&config.zone), mesh, desired.spec.clone());
    let spec = keep_computed(spec, stored);
    if let (Some(mesh), Typed::Dataplane(dataplane)) = (mesh, spec.typed())
        && let Some(reason) = membership::violation(&desired.mesh, mesh, dataplane)
    {
        return Err(RegisterError::Membership(reason));
    }
    let key = ResourceKey::new(desired.kind, &desired.mesh, &desired.name);
    let labels = compute_labels(&mode(config), &key, &spec, desired.labels.clone());
    Ok((spec, labels))
}

/// How this control plane computes labels.
pub(crate) fn mode(config: &DpServerConfig) -> Mode {
    let zone = config.zone.clone();
    if config.federated {
        Mode::FederatedZone { zone, disable_origin_label_validation: false }
    } else {
        Mode::StandaloneZone { zone }
    }
}

/// The services of an ingress are computed here, not by the proxy; a return must not blank them.
fn keep_computed(spec: Spec, stored: Option<&Arc<Resource>>) -> Spec {
    let Some(stored) = stored.filter(|r| r.key.kind == Kind::ZONE_INGRESS) else { return spec };
    let (Ok(mut new), Ok(old)) =
        (ZoneIngress::decode(spec.wire()), ZoneIngress::decode(stored.spec.wire()))
    else {
        return spec;
    };
    if !new.available_services.is_empty() || old.available_services.is_empty() {
        return spec;
    }
    new.available_services = old.available_services;
    Spec::from_message(Kind::ZONE_INGRESS, &new)
}

/// Takes away the resources of proxies that have gone, until told to stop. What is pending then
/// stays: the proxies go to another instance.
pub(crate) async fn deregister_departed(server: &DpServer, stop: &CancellationToken) {
    loop {
        let (expired, next) = server.registry.expired(Instant::now());
        if !expired.is_empty() {
            for key in expired {
                deregister(server, &key).await;
            }
            continue;
        }
        let timer = async {
            match next {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = server.registry.departure() => {}
            () = timer => {}
        }
    }
}

async fn deregister(server: &DpServer, proxy: &ProxyKey) {
    let writing = server.registry.writing(proxy);
    {
        let _writing = writing.lock().await;
        if server.registry.is_expired(proxy, Instant::now()) {
            let expiry = match remove(server, proxy).await {
                Ok(()) => None,
                Err(error) => {
                    tracing::warn!(%proxy, error = %error, "could not deregister a proxy, trying again");
                    Some(Instant::now() + RETRY)
                }
            };
            server.registry.set_expiry(proxy, expiry);
        }
    }
    server.registry.done_writing(proxy, writing);
}

async fn remove(server: &DpServer, proxy: &ProxyKey) -> Result<(), RegisterError> {
    let snapshot = server.world.snapshot();
    if snapshot.get(&proxy.resource_key()).is_none() {
        return Ok(());
    }
    // Who had the proxy last is known when our own part is written.
    server.insights.write_one(server, proxy).await.map_err(|()| RegisterError::Insight)?;
    let snapshot = server.world.snapshot();
    let last = snapshot.get(&proxy.insight_key()).and_then(|r| insight::last_instance(r));
    if last.is_some_and(|instance| instance != server.config.instance_id) {
        tracing::info!(%proxy, "proxy has gone to another instance");
        return Ok(());
    }
    let committed = server
        .world
        .commit(Batch {
            changes: vec![Change::delete(proxy.resource_key())],
            author: proxy.author(),
            reason: "proxy disconnected".to_owned(),
            mode: BatchMode::AllOrNothing,
            at: server.now(),
        })
        .await?;
    for result in committed.results {
        result?;
    }
    tracing::info!(%proxy, "proxy deregistered");
    Ok(())
}
