//! The states of all meshes, and what has to be written for them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};

use sunbear_model::{Kind, Owner, Resource, ResourceKey, Spec};
use sunbear_store::{Change, Expect, Operation, OwnerRef, Snapshot, StatusChange};

use crate::mesh::MeshState;

#[expect(clippy::expect_used, reason = "the type is in the table; a test would show it")]
static MESH_INSIGHT: LazyLock<Kind> =
    LazyLock::new(|| Kind::by_name("MeshInsight").expect("MeshInsight is a type"));

/// The key of a mesh's MeshInsight.
fn mesh_insight(mesh: &str) -> ResourceKey {
    ResourceKey::new(*MESH_INSIGHT, "", mesh)
}

/// The key of a mesh's ServiceInsight.
fn service_insight(mesh: &str) -> ResourceKey {
    ResourceKey::new(Kind::SERVICE_INSIGHT, mesh, &format!("all-services-{mesh}"))
}

#[derive(Debug, Default)]
struct Entry {
    state: MeshState,
    /// The two specs that the state leads to, once somebody has asked.
    specs: Option<(Spec, Spec)>,
}

/// The states of all meshes, by name. A mesh may have objects before it exists.
#[derive(Debug, Default)]
pub(crate) struct Meshes {
    entries: BTreeMap<Arc<str>, Entry>,
}

impl Meshes {
    /// Counts everything from scratch.
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let mut meshes = Self::default();
        for resource in snapshot.iter() {
            // What insights of proxies say is taken over with their Dataplanes.
            if resource.key.kind != Kind::DATAPLANE_INSIGHT
                && let Some(mesh) = mesh_of(&resource.key)
            {
                meshes.entry(mesh).state.apply(&resource.key, snapshot);
            }
        }
        meshes
    }

    /// The names of all meshes.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.entries.keys()
    }

    /// Takes over changes; returns the meshes whose insights may have to be written.
    pub(crate) fn apply(
        &mut self,
        keys: &[ResourceKey],
        snapshot: &Snapshot,
    ) -> BTreeSet<Arc<str>> {
        let mut touched = BTreeSet::new();
        for key in keys {
            let Some(mesh) = mesh_of(key) else { continue };
            let entry = self.entry(mesh);
            if entry.state.apply(key, snapshot) {
                entry.specs = None;
                touched.insert(Arc::clone(mesh));
            }
            // A new mesh has no insights, a re-created one has lost them, and somebody else may
            // have written them or taken them away.
            if matches!(key.kind, Kind::MESH | Kind::SERVICE_INSIGHT) || key.kind == *MESH_INSIGHT {
                touched.insert(Arc::clone(mesh));
            }
        }
        touched
    }

    /// What has to be written for a mesh: nothing if it does not exist, or if its insights are as
    /// they should be.
    pub(crate) fn changes(&mut self, name: &str, snapshot: &Snapshot) -> Vec<Change> {
        let Some(mesh) = snapshot.mesh(name) else {
            self.forget_if_empty(name);
            return Vec::new();
        };
        let Some(entry) = self.entries.get_mut(name) else { return Vec::new() };
        let state = &entry.state;
        let (of_mesh, of_services) = entry.specs.get_or_insert_with(|| {
            (
                Spec::from_message(*MESH_INSIGHT, &state.mesh_insight()),
                Spec::from_message(Kind::SERVICE_INSIGHT, &state.service_insight()),
            )
        });
        let wanted = [(mesh_insight(name), of_mesh), (service_insight(name), of_services)];
        wanted
            .into_iter()
            .filter(|(key, spec)| !snapshot.get(key).is_some_and(|r| is_as_wanted(r, spec, mesh)))
            .map(|(key, spec)| Change {
                key,
                op: Operation::Put {
                    spec: spec.clone(),
                    labels: BTreeMap::new(),
                    status: StatusChange::Keep,
                    owner: OwnerRef::Key(mesh.key.clone()),
                    expect: Expect::Any,
                },
            })
            .collect()
    }

    fn entry(&mut self, mesh: &Arc<str>) -> &mut Entry {
        self.entries.entry(Arc::clone(mesh)).or_default()
    }

    fn forget_if_empty(&mut self, mesh: &str) {
        if self.entries.get(mesh).is_some_and(|entry| entry.state.is_empty()) {
            self.entries.remove(mesh);
        }
    }
}

/// The mesh whose insights an object concerns.
fn mesh_of(key: &ResourceKey) -> Option<&Arc<str>> {
    if key.kind.is_mesh_scoped() {
        Some(&key.mesh)
    } else {
        (key.kind == Kind::MESH || key.kind == *MESH_INSIGHT).then_some(&key.name)
    }
}

fn is_as_wanted(stored: &Resource, spec: &Spec, mesh: &Resource) -> bool {
    stored.spec == *spec
        && stored.labels.is_empty()
        && stored.owner == Some(Owner { uid: mesh.uid })
}

#[cfg(test)]
mod tests {
    use sunbear_store::{Batch, BatchMode, Sqlite, World, WorldOptions};
    use time::OffsetDateTime;

    use super::*;

    async fn commit(world: &World, changes: Vec<Change>) {
        let batch = Batch {
            changes,
            author: String::new(),
            reason: String::new(),
            mode: BatchMode::AllOrNothing,
            at: OffsetDateTime::UNIX_EPOCH,
        };
        let committed = world.commit(batch).await.unwrap();
        assert!(committed.results.iter().all(Result::is_ok), "{committed:?}");
    }

    fn object(key: &ResourceKey) -> Change {
        Change::put(key.clone(), Spec::from_wire(key.kind, *b""), BTreeMap::new())
    }

    #[tokio::test]
    async fn what_is_stored_already_is_not_asked_for() {
        let store = Arc::new(Sqlite::memory().await.unwrap());
        let (world, _feed) = World::start(store, WorldOptions::default()).await.unwrap();
        let mesh = ResourceKey::new(Kind::MESH, "", "m");
        let timeout = ResourceKey::new(Kind::MESH_TIMEOUT, "m", "t");
        commit(&world, vec![object(&mesh), object(&timeout)]).await;
        let mut meshes = Meshes::of(&world.snapshot());
        assert!(meshes.changes("other", &world.snapshot()).is_empty());

        let changes = meshes.changes("m", &world.snapshot());
        assert_eq!(changes.len(), 2);
        commit(&world, changes).await;
        assert!(meshes.changes("m", &world.snapshot()).is_empty());
        // Nor by somebody who has just started.
        assert!(Meshes::of(&world.snapshot()).changes("m", &world.snapshot()).is_empty());

        // Only what differs.
        let another = ResourceKey::new(Kind::MESH_TIMEOUT, "m", "u");
        commit(&world, vec![object(&another)]).await;
        assert_eq!(meshes.apply(std::slice::from_ref(&another), &world.snapshot()).len(), 1);
        assert!(meshes.apply(&[another], &world.snapshot()).is_empty());
        let changes = meshes.changes("m", &world.snapshot());
        assert_eq!(changes.iter().map(|c| c.key.clone()).collect::<Vec<_>>(), [mesh_insight("m")]);

        // Nothing is left of a mesh that is gone.
        commit(&world, vec![Change::delete(mesh.clone()), Change::delete(timeout.clone())]).await;
        let another = ResourceKey::new(Kind::MESH_TIMEOUT, "m", "u");
        commit(&world, vec![Change::delete(another.clone())]).await;
        meshes.apply(&[mesh, timeout, another], &world.snapshot());
        assert!(meshes.changes("m", &world.snapshot()).is_empty());
        assert_eq!(meshes.names().count(), 0);
    }
}
