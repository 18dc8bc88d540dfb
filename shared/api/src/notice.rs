//! What is accepted but, as other objects stand now, does not do what its writer may expect
//! (`spec/policies.md` 4.11, `spec/mesh-dataplane.md` 8.3, `spec/resources.md` 10.1).

use serde_json::Value;
use sunbear_model::{Kind, Resource, ResourceKey, Spec, Typed, label, matching, rest, tags::Tags};
use sunbear_proto::kuma::mesh::v1alpha1::{Dataplane, Mesh, MeshGateway, ProxyTemplate};
use sunbear_store::Snapshot;

/// Profile without which a builtin gateway has no listeners.
const GATEWAY_PROFILE: &str = "gateway-proxy";

/// Notices about an object that is written.
pub(crate) fn of_put(
    snapshot: &Snapshot,
    key: &ResourceKey,
    spec: &Spec,
    mesh: Option<&Mesh>,
) -> Vec<String> {
    match spec.typed() {
        Typed::MeshGateway(gateway) => of_gateway(key, gateway, mesh),
        Typed::Dataplane(dataplane) => of_dataplane(snapshot, key, dataplane, mesh),
        _ if key.kind.name() == "ProxyTemplate" => of_template(snapshot, key, spec),
        _ => Vec::new(),
    }
}

fn has_mtls(mesh: &Mesh) -> bool {
    mesh.mtls.as_ref().is_some_and(|mtls| !mtls.enabled_backend.is_empty())
}

fn of_gateway(key: &ResourceKey, gateway: &MeshGateway, mesh: Option<&Mesh>) -> Vec<String> {
    if mesh.is_none_or(has_mtls) {
        return Vec::new();
    }
    let listeners = gateway.conf.iter().flat_map(|c| &c.listeners);
    let crossing = listeners.filter(|l| l.cross_mesh);
    crossing
        .map(|listener| {
            format!(
                "mesh \"{}\" has no mTLS: crossMesh listener {}:{} is not served",
                key.mesh, key.name, listener.port
            )
        })
        .collect()
}

fn of_dataplane(
    snapshot: &Snapshot,
    key: &ResourceKey,
    dataplane: &Dataplane,
    mesh: Option<&Mesh>,
) -> Vec<String> {
    let outbounds = dataplane.networking.iter().flat_map(|n| &n.outbound).enumerate();
    outbounds
        .filter_map(|(index, outbound)| {
            let other = outbound.tags.get(label::MESH).filter(|m| **m != *key.mesh)?;
            let why = why_not_across(snapshot, &key.mesh, mesh, other, &outbound.tags)?;
            Some(format!("outbound {index}: {why}"))
        })
        .collect()
}

/// Why calls from one mesh to a service of another go nowhere, if they do.
fn why_not_across(
    snapshot: &Snapshot,
    from: &str,
    mesh: Option<&Mesh>,
    to: &str,
    tags: &Tags,
) -> Option<String> {
    let Some(other) = snapshot.mesh(to).and_then(|m| m.as_mesh()) else {
        return Some(format!("mesh \"{to}\" does not exist"));
    };
    if !has_mtls(other) || !mesh.is_some_and(has_mtls) {
        return Some(format!("cross-mesh traffic requires mTLS in meshes \"{from}\" and \"{to}\""));
    }
    let wanted: Tags = tags
        .iter()
        .filter(|(k, _)| *k != label::MESH)
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    let exposed = snapshot.list_mesh(Kind::MESH_GATEWAY, to).filter_map(|g| g.as_mesh_gateway());
    let served = exposed.into_iter().any(|gateway| exposes(gateway, &wanted));
    (!served).then(|| {
        let service = wanted.get(label::SERVICE_TAG).map_or("", String::as_str);
        format!("mesh \"{to}\" exposes no crossMesh listener for service \"{service}\"")
    })
}

/// May a listener for other meshes have these tags? Its Dataplane, which adds its own, can be in any
/// zone, so only what the MeshGateway says is looked at.
fn exposes(gateway: &MeshGateway, wanted: &Tags) -> bool {
    let selectors = gateway.selectors.iter().map(|s| &s.r#match);
    let listeners = || gateway.conf.iter().flat_map(|c| &c.listeners).filter(|l| l.cross_mesh);
    selectors.into_iter().any(|selector| {
        listeners().any(|listener| {
            let layers = [selector, &gateway.tags, &listener.tags];
            wanted.iter().all(|(k, v)| {
                let said = layers.iter().rev().find_map(|tags| tags.get(k));
                said.is_none_or(|said| said == v || said == "*")
            })
        })
    })
}

fn of_template(snapshot: &Snapshot, key: &ResourceKey, spec: &Spec) -> Vec<String> {
    let Ok(template) = <ProxyTemplate as prost::Message>::decode(spec.wire()) else {
        return Vec::new();
    };
    let imports = template.conf.as_ref().map_or(&[][..], |c| &c.imports);
    if imports.iter().any(|profile| profile == GATEWAY_PROFILE) {
        return Vec::new();
    }
    let gateway = snapshot.list_mesh(Kind::DATAPLANE, &key.mesh).find(|dataplane| {
        dataplane.as_dataplane().is_some_and(|d| {
            matching::is_builtin_gateway(d) && matching::selects_dataplane(&template.selectors, d)
        })
    });
    let notice = |dataplane: &Resource| {
        format!(
            "the template selects the builtin gateway \"{}\" but does not import \
             \"{GATEWAY_PROFILE}\": such a gateway has no listeners",
            dataplane.key.name
        )
    };
    gateway.map(|dataplane| notice(dataplane)).into_iter().collect()
}

/// Notices about an object that is deleted.
pub(crate) fn of_delete(snapshot: &Snapshot, key: &ResourceKey) -> Vec<String> {
    if key.kind != Kind::SECRET {
        return Vec::new();
    }
    let kinds = ["MeshGateway", "ExternalService", "MeshExternalService"];
    let users = kinds
        .into_iter()
        .filter_map(Kind::by_name)
        .flat_map(|kind| snapshot.list_mesh(kind, &key.mesh));
    users
        .filter(|user| refers_to(&rest::write(user), &key.name))
        .map(|user| {
            format!(
                "the secret \"{}\" is still used by {} \"{}\"",
                key.name, user.key.kind, user.key.name
            )
        })
        .collect()
}

/// Is there a `secret` of this name anywhere inside?
fn refers_to(value: &Value, secret: &str) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(key, value)| {
            key == "secret" && value.as_str() == Some(secret) || refers_to(value, secret)
        }),
        Value::Array(items) => items.iter().any(|item| refers_to(item, secret)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}
