//! Stores what gateways fall back on (deviation D-4), so that a control plane that restarts while a
//! certificate is missing gives them what they had. One task writes; streams never wait for it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::Rng as _;
use sunbear_model::{Kind, ResourceKey, Spec};
use sunbear_store::{
    Batch, BatchMode, Change, Expect, Operation, OwnerRef, Snapshot, StatusChange,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::server::DpServer;

/// First pause after the store failed.
const MIN_PAUSE: Duration = Duration::from_millis(500);

/// Longest pause after the store failed.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// What is to be stored, by key: one entry for each MeshGateway at most. No spec means that there is
/// nothing to keep any more.
#[derive(Default)]
pub(crate) struct Keeper {
    pending: Mutex<BTreeMap<ResourceKey, Option<Spec>>>,
    woken: Notify,
}

impl Keeper {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ResourceKey, Option<Spec>>> {
        // Nothing panics while holding the lock.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of what a gateway has now.
    pub(crate) fn note(&self, key: ResourceKey, spec: Option<Spec>) {
        self.lock().insert(key, spec);
        self.woken.notify_one();
    }

    /// Writes until told to stop, and then once more.
    pub(crate) async fn run(&self, server: &DpServer, stop: &CancellationToken) {
        let mut pause = None;
        loop {
            let failed = self.write(server).await.is_err();
            let next = if failed {
                let next = pause.map_or(MIN_PAUSE, |p: Duration| (p * 2).min(MAX_PAUSE));
                pause = Some(next);
                next.mul_f64(rand::rng().random_range(0.75..1.25))
            } else {
                pause = None;
                Duration::MAX
            };
            let woken = async {
                if failed { std::future::pending().await } else { self.woken.notified().await }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = woken => {}
                () = tokio::time::sleep(next) => {}
            }
        }
        let _ = self.write(server).await;
    }

    async fn write(&self, server: &DpServer) -> Result<(), ()> {
        let pending = std::mem::take(&mut *self.lock());
        let snapshot = server.world.snapshot();
        let changes: Vec<Change> = pending
            .iter()
            .filter_map(|(key, spec)| change(&snapshot, key, spec.as_ref()))
            .collect();
        if changes.is_empty() {
            return Ok(());
        }
        let batch = Batch {
            changes,
            author: "dp-server".to_owned(),
            reason: "what gateways fall back on".to_owned(),
            mode: BatchMode::Independent,
            at: server.now(),
        };
        match server.world.commit(batch).await {
            // Single failures are of MeshGateways that have just gone.
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::warn!(%error, "could not store what gateways fall back on, trying again");
                let mut now_pending = self.lock();
                for (key, spec) in pending {
                    now_pending.entry(key).or_insert(spec);
                }
                Err(())
            }
        }
    }
}

fn change(snapshot: &Snapshot, key: &ResourceKey, spec: Option<&Spec>) -> Option<Change> {
    let stored = snapshot.get(key);
    match (spec, stored) {
        (None, None) => None,
        (Some(spec), Some(stored)) if stored.spec == *spec => None,
        (None, Some(_)) => Some(Change::delete(key.clone())),
        (Some(spec), _) => {
            let gateway = ResourceKey::new(Kind::MESH_GATEWAY, &key.mesh, &key.name);
            let op = Operation::Put {
                spec: spec.clone(),
                labels: BTreeMap::new(),
                status: StatusChange::Keep,
                owner: OwnerRef::Key(gateway),
                expect: Expect::Any,
            };
            Some(Change { key: key.clone(), op })
        }
    }
}
