//! Builders for unit tests.

use std::collections::BTreeMap;

use time::OffsetDateTime;
use uuid::Uuid;

use crate::{Kind, Resource, ResourceKey, Spec};

/// An object of mesh `default`.
pub(crate) fn resource<M: prost::Message>(kind: Kind, name: &str, message: &M) -> Resource {
    Resource {
        key: ResourceKey::new(kind, "default", name),
        uid: Uuid::nil(),
        version: 1,
        revision: 1,
        labels: BTreeMap::new(),
        spec: Spec::from_message(kind, message),
        status: None,
        owner: None,
        created_at: OffsetDateTime::UNIX_EPOCH,
        modified_at: OffsetDateTime::UNIX_EPOCH,
    }
}
