//! Lists.

use axum::response::Response;
use http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use sunbear_model::Kind;

use crate::{
    page::{self, Filter, Page, Query},
    problem::Problem,
    read::{self, Format},
    reply,
    service::Call,
    service_insight,
    target::Collection,
    user::{OverTls, request_host},
};

/// A page of a list.
#[derive(Serialize)]
pub(crate) struct List {
    pub(crate) total: usize,
    pub(crate) items: Vec<Value>,
    /// Address of the next page.
    pub(crate) next: Option<String>,
}

/// Answers with a page of a list. Snapshots are in the order of lists: mesh, then name.
pub(crate) fn list(call: &Call<'_>, collection: &Collection) -> Result<Response, Problem> {
    let query = call.query();
    let kind = collection.kind;
    if kind == Kind::SERVICE_INSIGHT {
        return service_insight::list(call, collection.mesh.as_deref(), &query);
    }
    let page = Page::parse(&query)?;
    let filter = filter(collection, &query)?;
    let format = Format::read(&query, page::TITLE)?;
    let snapshot = call.api.world.snapshot();
    if let Some(mesh) = &collection.mesh {
        read::require_mesh(&snapshot, kind, mesh)?;
    }
    call.api.access.check_kind(&call.user, kind)?;

    let mut total = 0;
    let mut items = Vec::new();
    let mut visit = |resource: &sunbear_model::Resource| {
        if filter.is_empty() || filter.passes(resource) {
            if total >= page.offset && items.len() < page.size {
                items.push(format.show(&snapshot, resource, collection.view));
            }
            total += 1;
        }
    };
    match &collection.mesh {
        Some(mesh) => snapshot.list_mesh(kind, mesh).for_each(|r| visit(r)),
        None => snapshot.list(kind).for_each(|r| visit(r)),
    }
    let next = page.next(total).map(|offset| next_link(call, &query, offset));
    Ok(reply::json(StatusCode::OK, &List { total, items, next }))
}

fn filter(collection: &Collection, query: &Query) -> Result<Filter, Problem> {
    let template = collection.template();
    let filter = Filter::parse(query, &template)?;
    match collection.kind {
        Kind::DATAPLANE => filter.with_dataplane_filters(query, &template),
        Kind::EXTERNAL_SERVICE => Ok(filter.with_tags(query)),
        _ => Ok(filter),
    }
}

/// The absolute address of the page that starts at `offset`.
pub(crate) fn next_link(call: &Call<'_>, query: &Query, offset: usize) -> String {
    let parts = call.parts;
    let tls = parts.extensions.get::<OverTls>().is_some();
    let scheme = if tls { "https" } else { "http" };
    let host = request_host(&parts.headers, &parts.uri).unwrap_or("localhost");
    page::next_link(&format!("{scheme}://{host}{}", parts.uri.path()), query, offset)
}
