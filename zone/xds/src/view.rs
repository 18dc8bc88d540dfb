//! What the generator reads from.

use std::sync::Arc;

use sunbear_model::{Kind, Resource, ResourceKey};

/// Read access to the resources of one snapshot. Objects that did not change between two snapshots
/// had better be the same `Arc`s: that is how a [`crate::Generator`] sees what it need not do again.
pub trait View {
    /// The object of this key.
    fn get(&self, key: &ResourceKey) -> Option<Arc<Resource>>;

    /// All of a kind in one mesh, in name order.
    fn list_mesh(&self, kind: Kind, mesh: &str) -> Vec<Arc<Resource>>;

    /// All of a kind, in order of mesh and name.
    fn list(&self, kind: Kind) -> Vec<Arc<Resource>>;

    /// Number of the snapshot, if it has one: views of one number hold the same resources.
    fn revision(&self) -> Option<u64> {
        None
    }
}
