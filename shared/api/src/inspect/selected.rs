//! `…/_resources/dataplanes`: a page of the Dataplanes that a policy or a service selects.

use std::sync::Arc;

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};
use sunbear_model::{
    Kind, Resource,
    matching::{self, Proxy, Selectors},
    tags::{self, Tags},
};

use super::{all, find, meta, named};
use crate::{list, page::Page, problem::Problem, read, reply, service::Call, target::Inspect};

const TITLE: &str = "Could not retrieve policy";

pub(super) fn list(call: &Call<'_>, target: &Inspect) -> Result<Response, Problem> {
    let snapshot = call.api.world.snapshot();
    read::require_mesh(&snapshot, target.kind, &target.mesh)?;
    let query = call.query();
    let page = Page::parse_titled(&query, TITLE)?;
    let name = query.first("name");
    call.api.access.check_kind(&call.user, target.kind)?;
    let subject = find(&snapshot, target, TITLE)?;

    let gateways = all(&snapshot, Kind::MESH_GATEWAY, &target.mesh);
    let routes = named(&snapshot, "MeshHTTPRoute", &target.mesh);
    let selects = selector(subject, &gateways, &routes);
    let (mut total, mut items) = (0, Vec::new());
    for dataplane in snapshot.list_mesh(Kind::DATAPLANE, &target.mesh) {
        if !dataplane.key.name.contains(name) || !selects(dataplane) {
            continue;
        }
        if total >= page.offset && items.len() < page.size {
            items.push(meta(dataplane));
        }
        total += 1;
    }
    let mut body = json!({"total": total, "items": items});
    // Left out where there is none, unlike in other lists.
    if let Some(offset) = page.next(total) {
        body["next"] = list::next_link(call, &query, offset).into();
    }
    Ok(reply::json(StatusCode::OK, &body))
}

/// Tells which Dataplanes the object selects.
fn selector<'a>(
    subject: &'a Resource,
    gateways: &'a [Arc<Resource>],
    routes: &'a [Arc<Resource>],
) -> Box<dyn Fn(&Resource) -> bool + 'a> {
    let kind = subject.key.kind;
    if kind.name() == "MeshService" {
        return Box::new(|dataplane| is_behind(subject, dataplane));
    }
    if kind.is_json() {
        return Box::new(move |dataplane| {
            let selected = Proxy::of(dataplane, gateways)
                .and_then(|proxy| matching::select(subject, &proxy, routes).ok());
            selected.is_some_and(|s| !s.is_empty())
        });
    }
    let selectors = Selectors::of(subject);
    Box::new(move |dataplane| dataplane.as_dataplane().is_some_and(|d| selectors.touches(d)))
}

/// Does the Dataplane stand behind the MeshService?
fn is_behind(service: &Resource, dataplane: &Resource) -> bool {
    let Some(selector) = service.as_json().and_then(|spec| spec.get("selector")) else {
        return false;
    };
    let map = |value: &Value| -> Tags {
        let map = value.as_object().into_iter().flatten();
        map.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
    };
    if let Some(name) = selector.pointer("/dataplaneRef/name").and_then(Value::as_str) {
        return *dataplane.key.name == *name;
    }
    if let Some(labels) = selector.pointer("/dataplaneLabels/matchLabels").map(map) {
        return labels.iter().all(|(k, v)| dataplane.label(k) == Some(v));
    }
    match (selector.get("dataplaneTags").map(map), dataplane.as_dataplane()) {
        (Some(wanted), Some(message)) if !wanted.is_empty() => {
            tags::matches_dataplane(&wanted, message)
        }
        _ => false,
    }
}
