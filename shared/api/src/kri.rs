//! `/_kri/…`: an object by its resource identifier.

use axum::response::Response;
use sunbear_model::{Kind, ResourceKey, rest};

use crate::{problem::Problem, read, service::Call, target::View};

const TITLE: &str = "Could not retrieve a resource";

/// Answers with the object that an identifier names. Its section does not matter.
pub(crate) fn item(call: &Call<'_>, text: &str) -> Result<Response, Problem> {
    let bad = |why: String| Problem::bad_request(format!("bad request: {why}"));
    let parts: Vec<&str> = text.split('_').collect();
    let [start, short, mesh, _zone, _namespace, name, _section, ..] = parts.as_slice() else {
        return Err(bad(format!("invalid identifier string: {text:?}")));
    };
    if *start != "kri" {
        return Err(bad(format!("identifier must start with 'kri': {text:?}")));
    }
    let kind = Kind::all().find(|k| !short.is_empty() && k.row().short == *short);
    let Some(kind) = kind else {
        return Err(bad(format!("unknown short name of resource type: {short:?}")));
    };
    call.api.access.check_kind(&call.user, kind)?;
    let snapshot = call.api.world.snapshot();
    let wanted = format!("{}_", parts.iter().take(6).copied().collect::<Vec<_>>().join("_"));
    let is_it =
        |r: &sunbear_model::Resource| rest::kri(&r.key, &r.labels).is_some_and(|kri| kri == wanted);
    // Objects of this control plane are stored under their own name, copies under another.
    let own = snapshot.get(&ResourceKey::new(kind, mesh, name)).filter(|r| is_it(r));
    let found = match own {
        Some(own) => Some(own),
        None if kind.is_mesh_scoped() => snapshot.list_mesh(kind, mesh).find(|r| is_it(r)),
        None => snapshot.list(kind).find(|r| is_it(r)),
    };
    let resource = found.ok_or_else(|| Problem::not_found(TITLE))?;
    read::formatted(call, &snapshot, resource, View::Plain)
}
