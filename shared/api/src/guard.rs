//! Rules that need more than the object itself: other objects, or what was stored before
//! (`spec/resources.md` 3.3, 4.2, 12.4).

use serde_json::Value;
use sunbear_model::{
    Kind, Resource, ResourceKey, Spec, Typed, membership, rest,
    validation::{self, Violations},
};
use sunbear_proto::kuma::mesh::v1alpha1::Mesh;
use sunbear_security::ca;
use sunbear_store::Snapshot;

use crate::{authority, problem::Problem, state::ApiState};

/// May the object be stored so?
pub(crate) fn check_put(
    snapshot: &Snapshot,
    title: &str,
    key: &ResourceKey,
    spec: &Spec,
    current: Option<&Resource>,
    mesh: Option<&Resource>,
) -> Result<(), Problem> {
    match spec.typed() {
        Typed::Mesh(new) => {
            let mut violations = Violations::default();
            match current {
                None => violations.extend(validation::validate_new_mesh_name(&key.name)),
                Some(old) => check_backend(old.as_mesh(), new, &mut violations),
            }
            violations.extend(authority::check(snapshot, &key.name, new));
            refuse(title, &violations)
        }
        Typed::Dataplane(dataplane) => {
            let mesh = mesh.and_then(Resource::as_mesh);
            match mesh.and_then(|mesh| membership::violation(&key.mesh, mesh, dataplane)) {
                // Kuma answers 500 here.
                Some(why) => Err(Problem::invalid_field(title, "", why)),
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

fn check_backend(old: Option<&Mesh>, new: &Mesh, violations: &mut Violations) {
    let enabled = |mesh: &Mesh| {
        mesh.mtls.as_ref().map(|m| m.enabled_backend.clone()).filter(|name| !name.is_empty())
    };
    if let (Some(was), Some(is)) = (old.and_then(enabled), enabled(new))
        && was != is
    {
        violations.push(
            "mtls.enabledBackend",
            "Changing CA when mTLS is enabled is forbidden. Disable mTLS first and then change the \
             CA",
        );
    }
}

/// May the stored object be deleted?
pub(crate) fn check_delete(
    api: &ApiState,
    title: &str,
    snapshot: &Snapshot,
    stored: &Resource,
) -> Result<(), Problem> {
    if api.unsafe_delete {
        return Ok(());
    }
    let mut violations = Violations::default();
    match stored.key.kind {
        Kind::MESH if snapshot.list_mesh(Kind::DATAPLANE, &stored.key.name).next().is_some() => {
            violations
                .push("mesh", "unable to delete mesh, there are still some dataplanes attached");
        }
        Kind::ZONE if is_online(snapshot, &stored.key.name) => {
            violations.push(
                "zone",
                "unable to delete Zone, Zone CP is still connected, please shut it down first",
            );
        }
        Kind::SECRET => check_secret(snapshot, &stored.key, &mut violations),
        _ => {}
    }
    refuse(title, &violations)
}

pub(crate) fn is_online(snapshot: &Snapshot, zone: &str) -> bool {
    let insight = snapshot.get(&ResourceKey::new(Kind::ZONE_INSIGHT, "", zone));
    insight.and_then(|i| i.as_zone_insight()).is_some_and(|i| {
        i.subscriptions.iter().any(|s| s.connect_time.is_some() && s.disconnect_time.is_none())
    })
}

/// A secret that a certificate authority of its mesh uses must stay.
fn check_secret(snapshot: &Snapshot, secret: &ResourceKey, violations: &mut Violations) {
    let mesh = ResourceKey::new(Kind::MESH, "", &secret.mesh);
    let Some(stored) = snapshot.get(&mesh) else { return };
    // In its JSON form, because each kind of backend has a configuration of its own.
    let mesh = rest::write(stored);
    let backends = mesh.pointer("/mtls/backends").and_then(Value::as_array);
    for backend in backends.into_iter().flatten() {
        let name = backend.get("name").and_then(Value::as_str).unwrap_or_default();
        let used = match backend.get("type").and_then(Value::as_str) {
            Some("builtin") => {
                *secret.name == *ca::builtin_cert_secret(&secret.mesh, name)
                    || *secret.name == *ca::builtin_key_secret(&secret.mesh, name)
            }
            _ => ["/conf/cert/secret", "/conf/key/secret"]
                .iter()
                .any(|path| backend.pointer(path).and_then(Value::as_str) == Some(&*secret.name)),
        };
        if used {
            violations.push(
                "name",
                format!(
                    "The secret \"{}\" that you are trying to remove is currently in use in Mesh \
                     \"{}\" in mTLS backend \"{name}\". Please remove the reference from the \
                     \"{name}\" backend before removing the secret.",
                    secret.name, secret.mesh
                ),
            );
        }
    }
}

fn refuse(title: &str, violations: &Violations) -> Result<(), Problem> {
    if violations.is_empty() { Ok(()) } else { Err(Problem::invalid(title, violations)) }
}
