//! ServiceInsights: stored as one object per mesh, shown as one per service (`spec/rest-api.md`
//! 4.6).

use std::collections::BTreeSet;

use axum::response::Response;
use http::StatusCode;
use serde_json::{Map, Value, json};
use sunbear_model::{Kind, Resource, ResourceKey, label, rest};
use sunbear_store::Snapshot;

use crate::{
    kubernetes,
    list::{self, List},
    page::{self, Page, Query},
    problem::Problem,
    read::{self, Format},
    reply,
    service::Call,
};

const TITLE: &str = "Could not retrieve a resource";

/// Kinds of services, as `type` names them.
const TYPES: [&str; 4] = ["internal", "external", "gateway_delegated", "gateway_builtin"];

/// Answers with one service. One that nobody offers is shown as empty, not as missing.
pub(crate) fn item(
    call: &Call<'_>,
    snapshot: &Snapshot,
    mesh: &str,
    service: &str,
) -> Result<Response, Problem> {
    let query = call.query();
    let format = Format::read(&query, TITLE)?;
    let name = format!("all-services-{mesh}");
    let stored = snapshot
        .get(&ResourceKey::new(Kind::SERVICE_INSIGHT, mesh, &name))
        .ok_or_else(|| Problem::not_found(TITLE))?;
    let entry = services(stored).remove(service).unwrap_or_else(|| json!({}));
    Ok(reply::json(StatusCode::OK, &show(format, stored, service, entry)))
}

/// Answers with a page of services.
pub(crate) fn list(
    call: &Call<'_>,
    mesh: Option<&str>,
    query: &Query,
) -> Result<Response, Problem> {
    let snapshot = call.api.world.snapshot();
    if let Some(mesh) = mesh {
        read::require_mesh(&snapshot, Kind::SERVICE_INSIGHT, mesh)?;
    }
    let types = types(query.first("type"))?;
    let page = Page::parse(query)?;
    let format = Format::read(query, page::TITLE)?;
    let name = query.first("name");

    let stored: Vec<_> = match mesh {
        Some(mesh) => snapshot.list_mesh(Kind::SERVICE_INSIGHT, mesh).collect(),
        None => snapshot.list(Kind::SERVICE_INSIGHT).collect(),
    };
    let mut total = 0;
    let mut items = Vec::new();
    for stored in stored {
        for (service, entry) in services(stored) {
            if !service.contains(name) || !types.is_empty() && !types.contains(kind_of(&entry)) {
                continue;
            }
            if total >= page.offset && items.len() < page.size {
                items.push(show(format, stored, &service, entry));
            }
            total += 1;
        }
    }
    let next = page.next(total).map(|offset| list::next_link(call, query, offset));
    Ok(reply::json(StatusCode::OK, &List { total, items, next }))
}

fn types(text: &str) -> Result<BTreeSet<String>, Problem> {
    if text.is_empty() {
        return Ok(BTreeSet::new());
    }
    let names = text.split(',').map(|t| t.trim().to_lowercase());
    names
        .map(|name| {
            if TYPES.contains(&name.as_str()) {
                Ok(name)
            } else {
                Err(Problem::bad_request("bad request: unsupported service type"))
            }
        })
        .collect()
}

/// The services of a stored object, by name.
fn services(stored: &Resource) -> Map<String, Value> {
    let Value::Object(mut object) = rest::write(stored) else { return Map::new() };
    match object.remove("services") {
        Some(Value::Object(services)) => services,
        _ => Map::new(),
    }
}

fn kind_of(entry: &Value) -> &str {
    entry.get("serviceType").and_then(Value::as_str).unwrap_or("internal")
}

/// One service, in one form or the other.
fn show(format: Format<'_>, stored: &Resource, service: &str, entry: Value) -> Value {
    let fields = fields(service, entry);
    if let Format::Kubernetes { namespace } = format {
        let mut object = kubernetes::show(stored, namespace);
        object["metadata"]["name"] = service.into();
        object["spec"] = fields.into();
        return object;
    }
    let mut map = rest::envelope(stored);
    map.insert("name".to_owned(), service.into());
    // It says `all-services-…`, which is not this entry's name.
    if let Some(Value::Object(labels)) = map.get_mut("labels") {
        labels.remove(label::DISPLAY_NAME);
        if labels.is_empty() {
            map.remove("labels");
        }
    }
    map.extend(fields);
    Value::Object(map)
}

/// What is stored of a service, and what is not: the sum of its proxies, and its address in the mesh.
/// `dataplanes` is always there: `kumactl` relies on it.
fn fields(service: &str, entry: Value) -> Map<String, Value> {
    let internal = kind_of(&entry) == "internal";
    let mut map = match entry {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    if internal {
        map.insert("addressPort".to_owned(), format!("{service}.mesh:80").into());
    }
    let dataplanes = map.entry("dataplanes").or_insert_with(|| json!({}));
    let count = |field: &str| dataplanes.get(field).and_then(Value::as_u64).unwrap_or(0);
    let total = count("online").saturating_add(count("offline"));
    if total > 0
        && let Value::Object(counts) = dataplanes
    {
        counts.insert("total".to_owned(), total.into());
    }
    map
}
