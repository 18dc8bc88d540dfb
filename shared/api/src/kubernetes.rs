//! `?format=kubernetes`: an object as it would be on Kubernetes, for moving there
//! (`spec/rest-api.md` 6.5).

use serde_json::{Map, Value, json};
use sunbear_model::{Kind, Resource, label};
use time::UtcOffset;

use crate::read;

/// Where Kuma lives if it is not told otherwise.
const SYSTEM_NAMESPACE: &str = "kuma-system";

/// The object. Names and labels that only mean something here are left out.
pub(crate) fn show(resource: &Resource, namespace: &str) -> Value {
    let kind = resource.key.kind;
    let mesh = &*resource.key.mesh;
    let namespace = if namespace.is_empty() { SYSTEM_NAMESPACE } else { namespace };
    let created = resource.created_at.to_offset(UtcOffset::UTC);
    let (date, time) = (created.date(), created.time());
    let mut metadata = json!({
        "name": &*resource.key.name,
        "creationTimestamp":
            format!("{date}T{:02}:{:02}:{:02}Z", time.hour(), time.minute(), time.second()),
    });
    let secret = matches!(kind, Kind::SECRET | Kind::GLOBAL_SECRET);
    if is_namespaced(kind) {
        metadata["namespace"] = namespace.into();
    }
    if (kind.is_json() || secret) && !mesh.is_empty() {
        metadata["labels"] = Map::from_iter([(label::MESH.to_owned(), mesh.into())]).into();
    }
    let spec = read::spec(resource);
    if secret {
        let r#type = if kind == Kind::SECRET { "secret" } else { "global-secret" };
        return json!({
            "kind": "Secret",
            "apiVersion": "v1",
            "metadata": metadata,
            "data": {"value": spec.get("data").cloned().unwrap_or_else(|| "".into())},
            "type": format!("system.kuma.io/{}", r#type),
        });
    }
    let mut object = json!({
        "kind": kind.name(),
        "apiVersion": "kuma.io/v1alpha1",
        "metadata": metadata,
        "spec": spec,
    });
    if !kind.is_json() && !mesh.is_empty() {
        object["mesh"] = mesh.into();
    }
    if kind.has_status() {
        let status = resource.status.as_deref().and_then(|s| serde_json::from_slice(s).ok());
        object["status"] = status.unwrap_or_else(|| json!({}));
    }
    object
}

fn is_namespaced(kind: Kind) -> bool {
    kind.is_json()
        || matches!(
            kind,
            Kind::SECRET
                | Kind::GLOBAL_SECRET
                | Kind::DATAPLANE
                | Kind::DATAPLANE_INSIGHT
                | Kind::ZONE_INGRESS
                | Kind::ZONE_INGRESS_INSIGHT
                | Kind::ZONE_EGRESS
                | Kind::ZONE_EGRESS_INSIGHT
        )
}
