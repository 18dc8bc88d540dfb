//! GET of one object, and how objects are shown.

use axum::response::Response;
use http::StatusCode;
use serde_json::{Map, Value};
use sunbear_model::{Codec, Kind, Resource, ResourceKey, rest};
use sunbear_store::Snapshot;

use crate::{
    kubernetes,
    page::Query,
    problem::Problem,
    reply,
    service::Call,
    service_insight,
    target::{Item, View, insight_of},
};

const TITLE: &str = "Could not retrieve a resource";

/// Answers with one object.
pub(crate) fn item(call: &Call<'_>, item: &Item) -> Result<Response, Problem> {
    let snapshot = call.api.world.snapshot();
    require_mesh(&snapshot, item.kind, &item.mesh)?;
    call.api.access.check_kind(&call.user, item.kind)?;
    if item.kind == Kind::SERVICE_INSIGHT {
        return service_insight::item(call, &snapshot, &item.mesh, &item.name);
    }
    let key = ResourceKey::new(item.kind, &item.mesh, &item.name);
    let resource = snapshot.get(&key).ok_or_else(|| Problem::not_found(TITLE))?;
    formatted(call, &snapshot, resource, item.view)
}

/// An object in the format that the query asks for.
pub(crate) fn formatted(
    call: &Call<'_>,
    snapshot: &Snapshot,
    resource: &Resource,
    view: View,
) -> Result<Response, Problem> {
    let query = call.query();
    let format = Format::read(&query, TITLE)?;
    Ok(reply::json(StatusCode::OK, &format.show(snapshot, resource, view)))
}

/// Which form objects are shown in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format<'q> {
    Universal,
    Kubernetes {
        /// Empty for the usual one.
        namespace: &'q str,
    },
}

impl<'q> Format<'q> {
    /// Reads `format`; problems have this title.
    pub(crate) fn read(query: &'q Query, title: &str) -> Result<Self, Problem> {
        match query.first("format") {
            "" | "universal" => Ok(Self::Universal),
            "k8s" | "kubernetes" => Ok(Self::Kubernetes { namespace: query.first("namespace") }),
            _ => {
                let reason = "\"format\" must be one of [\"k8s\", \"kubernetes\", \"universal\"]";
                Err(Problem::invalid_field(title, "", reason))
            }
        }
    }

    /// An object in this form. There are no overviews on Kubernetes.
    pub(crate) fn show(self, snapshot: &Snapshot, resource: &Resource, view: View) -> Value {
        match self {
            Self::Universal => show(snapshot, resource, view),
            Self::Kubernetes { namespace } => kubernetes::show(resource, namespace),
        }
    }
}

/// Objects of mesh scope are only there if their mesh is.
pub(crate) fn require_mesh(snapshot: &Snapshot, kind: Kind, mesh: &str) -> Result<(), Problem> {
    if !kind.is_mesh_scoped() || snapshot.get(&ResourceKey::new(Kind::MESH, "", mesh)).is_some() {
        return Ok(());
    }
    Err(Problem::not_found("Failed to retrieve Mesh"))
}

/// An object as clients see it.
fn show(snapshot: &Snapshot, resource: &Resource, view: View) -> Value {
    match view {
        View::Plain => plain(resource),
        View::Overview => overview(snapshot, resource),
    }
}

/// An object alone. A MeshInsight has numbers of Dataplanes even if there are none: `kumactl` relies
/// on it.
fn plain(resource: &Resource) -> Value {
    let mut value = rest::write(resource);
    if resource.key.kind.name() == "MeshInsight"
        && let Some(map) = value.as_object_mut()
    {
        map.entry("dataplanes").or_insert_with(|| Value::Object(Map::new()));
    }
    value
}

/// An object with its insight beside it. The base is there even if it is empty: `kumactl` relies
/// on it.
fn overview(snapshot: &Snapshot, resource: &Resource) -> Value {
    let kind = resource.key.kind;
    let mut map = rest::envelope(resource);
    map.insert("type".to_owned(), format!("{kind}Overview").into());
    map.insert(member_name(kind), spec(resource));
    if let Some(insight) = insight_of(kind) {
        let key = ResourceKey { kind: insight, ..resource.key.clone() };
        if let Some(found) = snapshot.get(&key) {
            map.insert(member_name(insight), spec(found));
        }
    }
    Value::Object(map)
}

/// A type's name as the name of a member: `zoneIngressInsight`.
fn member_name(kind: Kind) -> String {
    let name = kind.name();
    let mut chars = name.chars();
    chars.next().map_or_else(String::new, |c| c.to_lowercase().chain(chars).collect())
}

/// The JSON form of a spec alone.
pub(crate) fn spec(resource: &Resource) -> Value {
    let wire = resource.spec.wire();
    let value = match resource.key.kind.row().codec {
        Codec::Proto(message) => sunbear_proto::json::write(message, wire).ok(),
        Codec::Json { .. } => serde_json::from_slice(wire).ok(),
    };
    // What does not decode shows as empty.
    value.unwrap_or_else(|| Value::Object(Map::new()))
}
