//! Inspection: which policies act on which proxies, and what Envoys say of themselves
//! (`spec/rest-api.md` 3.3, 12).

mod attachment;
mod config;
mod envoy;
mod gateway;
mod hostnames;
mod rules;
mod selected;

use std::sync::Arc;

use axum::response::Response;
use http::StatusCode;
use serde_json::{Map, Value, json};
use sunbear_model::{Kind, Resource, ResourceKey, matching::TagPolicy, rest};
use sunbear_store::Snapshot;
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::{
    problem::Problem,
    read,
    service::Call,
    target::{Aspect, Inspect},
};

pub use config::{ConfigPreview, NoPreview, PreviewError};
pub use envoy::{AdminBackend, AdminError, AdminFuture, AdminQuestion, NoAdmin, redact};

/// Answers a question about one object.
pub(crate) async fn inspect(call: &Call<'_>, target: &Inspect) -> Result<Response, Problem> {
    match target.aspect {
        Aspect::ConfigDump | Aspect::Stats | Aspect::Clusters | Aspect::Unknown => {
            envoy::ask(call, target).await
        }
        // Matching all policies with all proxies of a large mesh takes its time.
        _ => match Handle::current().runtime_flavor() {
            RuntimeFlavor::MultiThread => tokio::task::block_in_place(|| look(call, target)),
            _ => look(call, target),
        },
    }
}

fn look(call: &Call<'_>, target: &Inspect) -> Result<Response, Problem> {
    match target.aspect {
        Aspect::Dataplanes if target.kind == Kind::MESH_GATEWAY => {
            gateway::dataplanes(call, target)
        }
        Aspect::Dataplanes if target.kind == Kind::MESH_GATEWAY_ROUTE => {
            gateway::route_dataplanes(call, target)
        }
        Aspect::Dataplanes => attachment::of_policy(call, target),
        Aspect::Selected => selected::list(call, target),
        Aspect::Policies => attachment::of_dataplane(call, target),
        Aspect::Rules => rules::attachments(call, target),
        Aspect::MergedRules => rules::merged(call, target),
        Aspect::Config => config::show(call, target),
        Aspect::Hostnames => hostnames::list(call, target),
        Aspect::Exclusive(name) => exclusive(call, target, name),
        Aspect::ConfigDump | Aspect::Stats | Aspect::Clusters | Aspect::Unknown => {
            Err(Problem::not_found("Could not execute admin operation"))
        }
    }
}

/// What only exists where all services of a mesh are MeshServices.
fn exclusive(call: &Call<'_>, target: &Inspect, name: &str) -> Result<Response, Problem> {
    let snapshot = call.api.world.snapshot();
    read::require_mesh(&snapshot, target.kind, &target.mesh)?;
    find(&snapshot, target, "Could not retrieve Dataplane")?;
    let mesh = snapshot.mesh(&target.mesh).map(|m| rest::write(m)).unwrap_or_default();
    if mesh.pointer("/meshServices/mode").and_then(Value::as_str) != Some("Exclusive") {
        return Err(Problem::bad_request(format!(
            "bad request: can't use {name} endpoint without meshService enabled"
        )));
    }
    Err(Problem::new(
        StatusCode::NOT_IMPLEMENTED,
        "Not implemented",
        format!("{name} is not available in this version"),
    ))
}

/// The object itself.
fn find<'s>(
    snapshot: &'s Snapshot,
    target: &Inspect,
    title: &str,
) -> Result<&'s Arc<Resource>, Problem> {
    let key = ResourceKey::new(target.kind, &target.mesh, &target.name);
    snapshot.get(&key).ok_or_else(|| Problem::not_found(title))
}

/// Objects are only there if their mesh is.
fn require_mesh(snapshot: &Snapshot, mesh: &str, title: &str) -> Result<(), Problem> {
    if snapshot.mesh(mesh).is_some() { Ok(()) } else { Err(Problem::not_found(title)) }
}

/// All of a type in a mesh.
fn all(snapshot: &Snapshot, kind: Kind, mesh: &str) -> Vec<Arc<Resource>> {
    snapshot.list_mesh(kind, mesh).map(Arc::clone).collect()
}

/// All of a type in a mesh, by the type's name.
fn named(snapshot: &Snapshot, kind: &str, mesh: &str) -> Vec<Arc<Resource>> {
    Kind::by_name(kind).map(|kind| all(snapshot, kind, mesh)).unwrap_or_default()
}

/// All policies of a type in a mesh, with their selectors.
fn tag_policies(snapshot: &Snapshot, kind: &str, mesh: &str) -> Vec<TagPolicy> {
    named(snapshot, kind, mesh).iter().map(TagPolicy::of).collect()
}

/// Types with a targetRef whose matches are looked at, in the order in which they are applied.
const TARGET_REF_KINDS: [&str; 16] = [
    "MeshHTTPRoute",
    "MeshTCPRoute",
    "MeshTLS",
    "MeshLoadBalancingStrategy",
    "MeshPassthrough",
    "MeshAccessLog",
    "MeshTrace",
    "MeshFaultInjection",
    "MeshRateLimit",
    "MeshTimeout",
    "MeshTrafficPermission",
    "MeshHealthCheck",
    "MeshCircuitBreaker",
    "MeshRetry",
    "MeshMetric",
    "MeshProxyPatch",
];

fn key_of(resource: &Resource) -> Value {
    json!({"mesh": &*resource.key.mesh, "name": &*resource.key.name})
}

/// The identity of an object, short.
fn meta(resource: &Resource) -> Value {
    let labels: Map<String, Value> =
        resource.labels.iter().map(|(k, v)| (k.clone(), v.as_str().into())).collect();
    json!({
        "type": resource.key.kind.name(),
        "mesh": &*resource.key.mesh,
        "name": &*resource.key.name,
        "labels": labels,
    })
}
