//! All resources as of one revision.

use std::{fmt, sync::Arc};

use imbl::OrdMap;
use sunbear_model::{Kind, Resource, ResourceKey};

use crate::change::{Event, Revision, WorldChange};

/// Mesh and name. Both are shared with the resource.
type Place = (Arc<str>, Arc<str>);
type Objects = OrdMap<Place, Arc<Resource>>;

/// All resources as of one revision. Never changes; clones share everything.
#[derive(Clone)]
pub struct Snapshot {
    /// The revision.
    pub revision: Revision,
    /// By [`Kind::index`].
    kinds: Vec<Objects>,
}

impl Snapshot {
    pub(super) fn new(
        revision: Revision,
        resources: impl IntoIterator<Item = Arc<Resource>>,
    ) -> Self {
        let mut snapshot = Self { revision, kinds: vec![Objects::new(); Kind::COUNT] };
        for resource in resources {
            snapshot.insert(resource);
        }
        snapshot
    }

    /// The object of this key.
    pub fn get(&self, key: &ResourceKey) -> Option<&Arc<Resource>> {
        self.objects(key.kind)?.get(&place(key))
    }

    /// The object of this type, mesh and name. The mesh of a type of global scope is ignored.
    pub fn find(&self, kind: Kind, mesh: &str, name: &str) -> Option<&Arc<Resource>> {
        self.get(&ResourceKey::new(kind, mesh, name))
    }

    /// All objects of a type, by mesh and name.
    pub fn list(&self, kind: Kind) -> impl DoubleEndedIterator<Item = &Arc<Resource>> {
        self.objects(kind).into_iter().flat_map(OrdMap::values)
    }

    /// The objects of a type in a mesh, by name.
    pub fn list_mesh<'a>(
        &'a self,
        kind: Kind,
        mesh: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Resource>> {
        let start: Place = (mesh.into(), "".into());
        self.objects(kind)
            .into_iter()
            .flat_map(move |objects| objects.range(start.clone()..))
            .take_while(move |((m, _), _)| **m == *mesh)
            .map(|(_, resource)| resource)
    }

    /// The objects of a type behind this mesh and name, by mesh and name: the next page of a list.
    pub fn list_after(
        &self,
        kind: Kind,
        mesh: &str,
        name: &str,
    ) -> impl Iterator<Item = &Arc<Resource>> {
        let start: Place = (mesh.into(), name.into());
        let range = (std::ops::Bound::Excluded(start), std::ops::Bound::Unbounded);
        self.objects(kind)
            .into_iter()
            .flat_map(move |objects| objects.range(range.clone()))
            .map(|(_, resource)| resource)
    }

    /// Number of objects of a type.
    pub fn count(&self, kind: Kind) -> usize {
        self.objects(kind).map_or(0, OrdMap::len)
    }

    /// All objects, by type, mesh and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.kinds.iter().flat_map(OrdMap::values)
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.kinds.iter().map(OrdMap::len).sum()
    }

    /// True if there is no object at all.
    pub fn is_empty(&self) -> bool {
        self.kinds.iter().all(OrdMap::is_empty)
    }

    /// All meshes, by name.
    pub fn meshes(&self) -> impl DoubleEndedIterator<Item = &Arc<Resource>> {
        self.list(Kind::MESH)
    }

    /// The mesh of this name.
    pub fn mesh(&self, name: &str) -> Option<&Arc<Resource>> {
        self.find(Kind::MESH, "", name)
    }

    fn objects(&self, kind: Kind) -> Option<&Objects> {
        self.kinds.get(kind.index())
    }

    fn insert(&mut self, resource: Arc<Resource>) {
        if let Some(objects) = self.kinds.get_mut(resource.key.kind.index()) {
            objects.insert(place(&resource.key), resource);
        }
    }

    /// Applies one entry of the log, whose revision becomes that of the snapshot.
    pub(super) fn apply(&mut self, change: &WorldChange) {
        self.revision = change.revision;
        match &change.event {
            Event::Created(resource) | Event::Updated(resource) => {
                self.insert(Arc::clone(resource));
            }
            Event::Deleted(tombstone) => {
                let key = &tombstone.key;
                if let Some(objects) = self.kinds.get_mut(key.kind.index()) {
                    objects.remove(&place(key));
                }
            }
            Event::Skipped => {}
        }
    }

    /// Takes over the objects of `old` that are the same, for they may have been decoded already.
    pub(super) fn reuse(&mut self, old: &Self) {
        for (new, old) in self.kinds.iter_mut().zip(&old.kinds) {
            let same: Vec<_> = old
                .iter()
                .filter(|(place, old)| {
                    new.get(*place).is_some_and(|new| {
                        new.revision == old.revision && new.uid == old.uid && ***old == **new
                    })
                })
                .map(|(place, old)| (place.clone(), Arc::clone(old)))
                .collect();
            for (place, resource) in same {
                new.insert(place, resource);
            }
        }
    }
}

fn place(key: &ResourceKey) -> Place {
    (Arc::clone(&key.mesh), Arc::clone(&key.name))
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("revision", &self.revision)
            .field("objects", &self.len())
            .finish_non_exhaustive()
    }
}
