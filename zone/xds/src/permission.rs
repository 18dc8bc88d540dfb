//! TrafficPermission: which external services a gateway may use (Kuma: pkg/core/permissions).

use std::sync::Arc;

use sunbear_model::{
    Resource,
    tags::{self, Rank, Tags},
};
use sunbear_proto::kuma::mesh::v1alpha1::{Dataplane, TrafficPermission};

use crate::{context::Context, issue::Issues};

/// The permissions of the mesh.
#[derive(Default)]
pub(crate) struct Permissions(Vec<(Arc<Resource>, TrafficPermission)>);

impl Permissions {
    pub(crate) fn load(ctx: &Context<'_>, issues: &mut Issues) -> Self {
        Self(ctx.decode_all("TrafficPermission", issues))
    }

    /// Without any permission in the mesh nothing needs one.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Does the one permission that counts for a service let the Dataplane use it? The one with the
    /// most specific destination counts, then the youngest, then the first by name.
    pub(crate) fn permit(&self, service: &Tags, dataplane: &Dataplane) -> bool {
        let mut best: Option<(&Resource, &TrafficPermission, Rank)> = None;
        for (resource, permission) in &self.0 {
            let ranks = permission
                .destinations
                .iter()
                .filter(|s| tags::matches(&s.r#match, service))
                .map(|s| Rank::of(&s.r#match));
            let Some(rank) = ranks.max() else { continue };
            let better = best.is_none_or(|(chosen, _, highest)| {
                rank > highest || (rank == highest && resource.created_at > chosen.created_at)
            });
            if better {
                best = Some((resource, permission, rank));
            }
        }
        best.is_some_and(|(_, permission, _)| {
            let mut sources = permission.sources.iter();
            sources.any(|s| tags::matches_dataplane(&s.r#match, dataplane))
        })
    }
}
