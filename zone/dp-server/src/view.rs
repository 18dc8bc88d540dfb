//! The world as the generator reads it.

use std::sync::Arc;

use sunbear_model::{Kind, Resource, ResourceKey};
use sunbear_store::Snapshot;
use sunbear_xds::View;

/// A snapshot of the world.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotView(pub(crate) Arc<Snapshot>);

impl View for SnapshotView {
    fn get(&self, key: &ResourceKey) -> Option<Arc<Resource>> {
        self.0.get(key).cloned()
    }

    fn list_mesh(&self, kind: Kind, mesh: &str) -> Vec<Arc<Resource>> {
        self.0.list_mesh(kind, mesh).cloned().collect()
    }

    fn list(&self, kind: Kind) -> Vec<Arc<Resource>> {
        self.0.list(kind).cloned().collect()
    }

    fn revision(&self) -> Option<u64> {
        Some(self.0.revision)
    }
}
