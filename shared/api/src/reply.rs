//! Bodies: JSON as Kuma prints it, and the plain texts of its router.

use axum::{body::Body, response::Response};
use http::{HeaderValue, Method, StatusCode, header};
use serde::Serialize;
use serde_json::ser::PrettyFormatter;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const ROUTER_TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const TOKEN_TEXT: HeaderValue = HeaderValue::from_static("text/plain");

/// A JSON body: indented by one space, with a newline at the end.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let mut bytes = Vec::with_capacity(512);
    let mut serializer =
        serde_json::Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b" "));
    if let Err(error) = value.serialize(&mut serializer) {
        tracing::error!(%error, "reply could not be written as JSON");
        return with_body(StatusCode::INTERNAL_SERVER_ERROR, ROUTER_TEXT, Body::empty());
    }
    bytes.push(b'\n');
    with_body(status, JSON, Body::from(bytes))
}

/// A token, bare.
pub(crate) fn token(token: String) -> Response {
    with_body(StatusCode::OK, TOKEN_TEXT, Body::from(token))
}

/// A body as it is: JSON or plain text.
pub(crate) fn raw(json: bool, body: impl Into<Body>) -> Response {
    with_body(StatusCode::OK, if json { JSON } else { TOKEN_TEXT }, body.into())
}

/// Nothing but a status.
pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// No such path. `kuma-dp` recognises this very text.
pub(crate) fn page_not_found() -> Response {
    text(StatusCode::NOT_FOUND, "404: Page Not Found")
}

/// The path is known, the method is not.
pub(crate) fn method_not_allowed(allowed: &[Method]) -> Response {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
    let names: Vec<&str> = allowed.iter().map(Method::as_str).collect();
    if let Ok(value) = HeaderValue::from_str(&names.join(", ")) {
        response.headers_mut().insert(header::ALLOW, value);
    }
    response
}

/// The request body is not JSON.
pub(crate) fn unsupported_media_type() -> Response {
    text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "415: Unsupported Media Type")
}

/// The client takes nothing that we have.
pub(crate) fn not_acceptable() -> Response {
    text(
        StatusCode::NOT_ACCEPTABLE,
        "406: Not Acceptable\n\nAvailable representations: application/json",
    )
}

fn text(status: StatusCode, body: &'static str) -> Response {
    with_body(status, ROUTER_TEXT, Body::from(body))
}

fn with_body(status: StatusCode, content_type: HeaderValue, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}
