//! What a proxy's configuration depends on.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sunbear_model::{Kind, ResourceKey};

use crate::{inputs::Needs, proxy::Proxy};

/// What was looked at to generate for one proxy. Conservative: it may name too much, never too
/// little.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dependencies(Arc<Content>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Content {
    /// Mesh of the proxy.
    mesh: String,
    /// Kinds of that mesh.
    in_mesh: BTreeSet<Kind>,
    /// Kinds of global scope, or of all meshes.
    everywhere: BTreeSet<Kind>,
    /// Secrets of the mesh, those too that are missing.
    secrets: BTreeSet<String>,
}

impl Dependencies {
    /// Of a proxy for which nothing could be generated: whatever could change that.
    pub fn of_failed(proxy: &Proxy) -> Self {
        Self(Arc::new(Content {
            mesh: proxy.mesh.clone(),
            in_mesh: BTreeSet::from([Kind::DATAPLANE]),
            ..Content::default()
        }))
    }

    /// Of a builtin gateway. `all_meshes` tells whether it trusts the CAs of all meshes.
    pub(crate) fn of_gateway<T>(
        mesh: &str,
        needs: Needs,
        secrets: &BTreeMap<String, T>,
        all_meshes: bool,
    ) -> Self {
        let mut everywhere = needs.everywhere();
        if all_meshes {
            everywhere.insert(Kind::MESH);
        }
        Self(Arc::new(Content {
            mesh: mesh.to_owned(),
            in_mesh: needs.in_mesh(),
            everywhere,
            secrets: secrets.keys().cloned().collect(),
        }))
    }

    /// Is a change of this key able to change what the proxy gets?
    pub fn concerns(&self, key: &ResourceKey) -> bool {
        let Content { mesh, in_mesh, everywhere, secrets } = &*self.0;
        if key.kind == Kind::MESH && *key.name == **mesh {
            return true;
        }
        if everywhere.contains(&key.kind) {
            return true;
        }
        let own = *key.mesh == **mesh;
        own && (in_mesh.contains(&key.kind)
            || (key.kind == Kind::SECRET && secrets.contains(&*key.name)))
    }
}
