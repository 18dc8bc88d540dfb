//! A view over resources in memory, read from YAML documents.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;
use sunbear_model::{Kind, Resource, ResourceKey, Spec, rest};
use sunbear_xds::View;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// Resources of one moment.
#[derive(Clone, Default)]
pub(crate) struct World(pub(crate) Vec<Arc<Resource>>);

impl World {
    /// Reads documents; each is one second younger than the one before.
    pub(crate) fn read(documents: &str) -> Self {
        let values: Vec<Value> = serde_saphyr::from_multiple(documents).unwrap();
        let mut world = Self::default();
        for value in values {
            world.add(&value);
        }
        world
    }

    pub(crate) fn add(&mut self, body: &Value) {
        let desired = rest::read(body).unwrap_or_else(|e| panic!("{e}: {body}"));
        assert_eq!(desired.unknown, Vec::<String>::new(), "{body}");
        let key = ResourceKey::new(desired.kind, &desired.mesh, &desired.name);
        self.insert(key, desired.labels, desired.spec);
    }

    /// Adds a resource that users do not write.
    pub(crate) fn put(&mut self, key: ResourceKey, spec: Spec) {
        self.insert(key, BTreeMap::new(), spec);
    }

    fn insert(&mut self, key: ResourceKey, labels: BTreeMap<String, String>, spec: Spec) {
        let age = i64::try_from(self.0.len()).unwrap();
        let at = OffsetDateTime::UNIX_EPOCH + Duration::seconds(age);
        self.0.push(Arc::new(Resource {
            key,
            uid: Uuid::nil(),
            version: 1,
            revision: 1,
            labels,
            spec,
            status: None,
            owner: None,
            created_at: at,
            modified_at: at,
        }));
    }

    fn sorted(&self, wanted: impl Fn(&ResourceKey) -> bool) -> Vec<Arc<Resource>> {
        let mut list: Vec<_> = self.0.iter().filter(|r| wanted(&r.key)).cloned().collect();
        list.sort_by(|a, b| a.key.cmp(&b.key));
        list
    }
}

impl View for World {
    fn get(&self, key: &ResourceKey) -> Option<Arc<Resource>> {
        self.0.iter().find(|r| r.key == *key).cloned()
    }

    fn list_mesh(&self, kind: Kind, mesh: &str) -> Vec<Arc<Resource>> {
        self.sorted(|key| key.kind == kind && &*key.mesh == mesh)
    }

    fn list(&self, kind: Kind) -> Vec<Arc<Resource>> {
        self.sorted(|key| key.kind == kind)
    }
}
