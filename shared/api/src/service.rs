//! From request to handler: path, method, media types, caller.

use std::sync::Arc;

use axum::{Router, body::Body, extract::State, response::IntoResponse, response::Response};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header, request::Parts,
};
use sunbear_store::Revision;

use crate::{
    access, catalogue, cors, global_insight, index, inspect, kri, list, openapi,
    page::Query,
    problem::Problem,
    read, reply,
    state::ApiState,
    target::{Target, Token},
    tokens,
    user::{self, ClientCertificate, User},
    write,
};

/// Response header of every write: the revision that contains it.
pub const REVISION_HEADER: HeaderName = HeaderName::from_static("x-sunbear-revision");

/// The API as a router. All paths go to one handler, as the fallback; routes that a binary adds win
/// over it.
pub fn router(state: ApiState) -> Router {
    Router::new().fallback(serve).with_state(Arc::new(state))
}

/// One request, with what its handler needs.
pub(crate) struct Call<'a> {
    pub(crate) api: &'a ApiState,
    pub(crate) user: User,
    pub(crate) parts: &'a Parts,
}

impl Call<'_> {
    pub(crate) fn query(&self) -> Query {
        Query::parse(self.parts.uri.query().unwrap_or_default())
    }
}

async fn serve(State(api): State<Arc<ApiState>>, request: Request<Body>) -> Response {
    let origin = cors::origin(&api, request.headers());
    if let Some(origin) = &origin
        && let Some(reply) = cors::preflight(origin, &request)
    {
        return reply;
    }
    let mut response = answer(&api, request).await;
    if let Some(origin) = origin {
        cors::allow(origin, &mut response);
    }
    response
}

async fn answer(api: &ApiState, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let Some(target) = path(api, parts.uri.path()).and_then(Target::parse) else {
        return reply::page_not_found();
    };
    let method = if parts.method == Method::HEAD { &Method::GET } else { &parts.method };
    if !target.methods().contains(method) {
        return reply::method_not_allowed(target.methods());
    }
    if matches!(*method, Method::PUT | Method::POST) && !is_json(&parts.headers) {
        return reply::unsupported_media_type();
    }
    if !accepts(&parts.headers, target.is_text()) {
        return reply::not_acceptable();
    }
    handle(api, target, &parts, body).await.unwrap_or_else(IntoResponse::into_response)
}

/// A path without the base path. The issuer of user tokens is not below it.
fn path<'p>(api: &ApiState, path: &'p str) -> Option<&'p str> {
    let base = api.options.base_path.trim_end_matches('/');
    if path == "/tokens/user" {
        return Some(path);
    }
    match path.strip_prefix(base)? {
        "" => Some("/"),
        rest => rest.starts_with('/').then_some(rest),
    }
}

async fn handle(
    api: &ApiState,
    target: Target,
    parts: &Parts,
    body: Body,
) -> Result<Response, Problem> {
    // The index is for everybody, whatever they say of themselves, and so is the description.
    let user = if matches!(target, Target::Index | Target::OpenApi) {
        User::anonymous()
    } else {
        authenticate(api, parts)?
    };
    let call = Call { api, user, parts };
    match target {
        Target::Index => Ok(reply::json(StatusCode::OK, &index::index(api))),
        Target::Config => {
            let subjects = &api.access.control_plane_metadata;
            access::check(subjects, &call.user, || "control-plane metadata".to_owned())?;
            Ok(reply::json(StatusCode::OK, &api.config_json))
        }
        Target::WhoAmI => Ok(reply::json(StatusCode::OK, &index::who_am_i(&call.user))),
        Target::Policies => {
            Ok(reply::json(StatusCode::OK, &catalogue::policies(&api.mode, api.read_only)))
        }
        Target::Resources => {
            Ok(reply::json(StatusCode::OK, &catalogue::resources(&api.mode, api.read_only)))
        }
        Target::GlobalInsight => {
            let insight = global_insight::global_insight(&api.world.snapshot(), (api.clock)());
            Ok(reply::json(StatusCode::OK, &insight))
        }
        Target::GlobalInsights => {
            let insights = global_insight::global_insights(&api.world.snapshot(), (api.clock)());
            Ok(reply::json(StatusCode::OK, &insights))
        }
        Target::OpenApi => Ok(reply::raw(true, openapi::body())),
        Target::Kri(kri) => kri::item(&call, &kri),
        Target::Inspect(target) => inspect::inspect(&call, &target).await,
        Target::Token(Token::Dataplane) => tokens::dataplane(&call, body).await,
        Target::Token(Token::Zone) => tokens::zone(&call, body).await,
        Target::Token(Token::User) => tokens::user(&call, body).await,
        Target::Collection(collection) => list::list(&call, &collection),
        Target::Item(item) if parts.method == Method::PUT => write::put(&call, item, body).await,
        Target::Item(item) if parts.method == Method::DELETE => write::delete(&call, item).await,
        Target::Item(item) => read::item(&call, &item),
    }
}

/// Who makes a request, by where it comes from or by its token.
pub fn authenticate(api: &ApiState, parts: &Parts) -> Result<User, Problem> {
    if api.access.localhost_is_admin && user::is_direct_and_local(parts) {
        return Ok(User::admin());
    }
    if api.access.admin_client_certificates {
        let shown = parts.extensions.get::<ClientCertificate>().is_some();
        return Ok(if shown { User::admin() } else { User::anonymous() });
    }
    let bearer = parts
        .headers
        .get(header::AUTHORIZATION)
        .filter(|_| api.access.user_tokens)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    match bearer {
        None => Ok(User::anonymous()),
        Some(token) => {
            let keys = &api.options.user_token_keys;
            tokens::user_of(&api.world.snapshot(), token, keys, (api.clock)()).map_err(|error| {
                tracing::info!(%error, "user token refused");
                Problem::unauthenticated()
            })
        }
    }
}

/// Marks an answer with the revision that it is about.
pub(crate) fn with_revision(mut response: Response, revision: Revision) -> Response {
    response.headers_mut().insert(REVISION_HEADER, HeaderValue::from(revision));
    response
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()) else {
        return false;
    };
    media_type(value).eq_ignore_ascii_case("application/json")
}

/// Does the client take what we send? Tokens are plain text, but clients that only name JSON get
/// them all the same.
fn accepts(headers: &HeaderMap, token: bool) -> bool {
    let mut ranges = headers.get_all(header::ACCEPT).iter().peekable();
    if ranges.peek().is_none() {
        return true;
    }
    ranges.filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(media_type).any(|range| {
        matches!(range, "" | "*/*" | "application/*")
            || range.eq_ignore_ascii_case("application/json")
            || token && (range == "text/*" || range.eq_ignore_ascii_case("text/plain"))
    })
}

/// A media type without its parameters.
fn media_type(value: &str) -> &str {
    value.split(';').next().unwrap_or_default().trim()
}
