//! What unit tests share.

use std::{collections::BTreeMap, sync::Arc};

use sunbear_model::{Kind, Resource, ResourceKey, Spec, rest};
use sunbear_proto::kuma::system::v1alpha1::Secret;
use sunbear_xds::View;
use time::OffsetDateTime;
use uuid::Uuid;

pub(crate) const NOW: OffsetDateTime = time::macros::datetime!(2030-05-01 12:00 UTC);

/// A handful of resources.
#[derive(Debug, Default)]
pub(crate) struct Resources(BTreeMap<ResourceKey, Arc<Resource>>);

impl Resources {
    /// Adds a resource from JSON or YAML text.
    pub(crate) fn with(mut self, text: &str) -> Self {
        let value: serde_json::Value = serde_saphyr::from_str(text).unwrap();
        let desired = rest::read(&value).unwrap();
        let key = ResourceKey::new(desired.kind, &desired.mesh, &desired.name);
        self.insert(key, desired.spec, desired.labels);
        self
    }

    /// Adds a Secret, or a GlobalSecret if the mesh is empty.
    pub(crate) fn with_secret(mut self, mesh: &str, name: &str, data: &str) -> Self {
        let kind = if mesh.is_empty() { Kind::GLOBAL_SECRET } else { Kind::SECRET };
        let message = Secret { data: Some(data.as_bytes().to_vec()) };
        let key = ResourceKey::new(kind, mesh, name);
        self.insert(key, Spec::from_message(kind, &message), BTreeMap::new());
        self
    }

    fn insert(&mut self, key: ResourceKey, spec: Spec, labels: BTreeMap<String, String>) {
        let resource = Resource {
            key: key.clone(),
            uid: Uuid::nil(),
            version: 1,
            revision: 1,
            labels,
            spec,
            status: None,
            owner: None,
            created_at: NOW,
            modified_at: NOW,
        };
        self.0.insert(key, Arc::new(resource));
    }
}

impl View for Resources {
    fn get(&self, key: &ResourceKey) -> Option<Arc<Resource>> {
        self.0.get(key).cloned()
    }

    fn list_mesh(&self, kind: Kind, mesh: &str) -> Vec<Arc<Resource>> {
        self.list(kind).into_iter().filter(|r| *r.key.mesh == *mesh).collect()
    }

    fn list(&self, kind: Kind) -> Vec<Arc<Resource>> {
        self.0.values().filter(|r| r.key.kind == kind).cloned().collect()
    }
}
