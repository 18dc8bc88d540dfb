//! A proxy's configuration to look at: generated like the one that is served, but for nobody.

use std::sync::Arc;

use serde_json::{Map, Value};
use sunbear_model::{Kind, Resource, ResourceKey};
use sunbear_proto::json::{self, WriteError};
use sunbear_store::Snapshot;
use sunbear_xds::{GenerateError, Proxy, ProxyMetadata, ResourceType, View, generate};

use crate::{server::DpServer, view::SnapshotView};

/// Label of policies that are to be looked at before they act, and its value.
const EFFECT: &str = "kuma.io/effect";
const SHADOW: &str = "shadow";

/// Members of messages that hold what must stay with the proxy.
const HIDDEN: [&str; 4] = ["privateKey", "password", "genericSecret", "sessionTicketKeys"];

/// Why there is nothing to look at.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    /// The proxy has never connected, so what its configuration depends on is not known.
    #[error("dataplane {name:?} of mesh {mesh:?} has not connected yet")]
    NeverConnected {
        /// Mesh.
        mesh: String,
        /// Name.
        name: String,
    },
    /// Nothing was generated.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// A message has no JSON form: a defect.
    #[error("{0} cannot be shown")]
    Show(String, #[source] WriteError),
}

impl DpServer {
    /// The configuration of a Dataplane as these resources make it: the messages in their JSON form,
    /// by type and name. Private keys are left out, and so are the certificates of mTLS, which are
    /// made when they are served. With `shadow`, policies that only pretend to act do.
    pub fn preview(
        &self,
        snapshot: &Arc<Snapshot>,
        mesh: &str,
        name: &str,
        shadow: bool,
    ) -> Result<Value, PreviewError> {
        let insight = snapshot.get(&ResourceKey::new(Kind::DATAPLANE_INSIGHT, mesh, name));
        let insight = insight.and_then(|i| i.as_dataplane_insight());
        let insight = insight.ok_or_else(|| PreviewError::NeverConnected {
            mesh: mesh.to_owned(),
            name: name.to_owned(),
        })?;
        let metadata = insight.metadata.clone().unwrap_or_default();
        let proxy = Proxy {
            mesh: mesh.to_owned(),
            name: name.to_owned(),
            metadata: ProxyMetadata::from_struct(&metadata),
        };
        let view = SnapshotView(Arc::clone(snapshot));
        let generated = if shadow {
            generate(&Unveiled(view), &self.config.xds, &proxy)?
        } else {
            generate(&view, &self.config.xds, &proxy)?
        };
        let mut types = Map::new();
        for resource_type in ResourceType::ALL {
            let mut messages = Map::new();
            for resource in generated.resources.iter(resource_type) {
                messages.insert(resource.name.clone(), show(resource_type, &resource.any.value)?);
            }
            if !messages.is_empty() {
                types.insert(resource_type.type_url().to_owned(), messages.into());
            }
        }
        Ok(types.into())
    }
}

fn show(resource_type: ResourceType, message: &[u8]) -> Result<Value, PreviewError> {
    let url = resource_type.type_url();
    let full_name = url.rsplit('/').next().unwrap_or_default();
    let mut value = json::write(full_name, message)
        .map_err(|error| PreviewError::Show(full_name.to_owned(), error))?;
    hide(&mut value);
    Ok(value)
}

fn hide(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if HIDDEN.contains(&key.as_str()) {
                    *value = serde_json::json!({"inlineString": "[redacted]"});
                } else {
                    hide(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A snapshot in which policies act that only pretend to.
struct Unveiled(SnapshotView);

fn unveil(resource: Arc<Resource>) -> Arc<Resource> {
    if resource.label(EFFECT) != Some(SHADOW) {
        return resource;
    }
    let mut resource = Arc::unwrap_or_clone(resource);
    resource.labels.remove(EFFECT);
    Arc::new(resource)
}

impl View for Unveiled {
    fn get(&self, key: &ResourceKey) -> Option<Arc<Resource>> {
        self.0.get(key).map(unveil)
    }

    fn list_mesh(&self, kind: Kind, mesh: &str) -> Vec<Arc<Resource>> {
        self.0.list_mesh(kind, mesh).into_iter().map(unveil).collect()
    }

    fn list(&self, kind: Kind) -> Vec<Arc<Resource>> {
        self.0.list(kind).into_iter().map(unveil).collect()
    }
}
