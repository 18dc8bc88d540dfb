//! Calls from pages of other origins, for those that are allowed.

use axum::{body::Body, response::Response};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use regex::Regex;

use crate::{reply, state::ApiState};

/// The origin of a request, if it has one that is allowed.
pub(crate) fn origin(api: &ApiState, headers: &HeaderMap) -> Option<HeaderValue> {
    let allowed = &api.options.cors_allowed_domains;
    if allowed.is_empty() {
        return None;
    }
    let origin = headers.get(header::ORIGIN)?;
    let text = origin.to_str().ok()?;
    let is_allowed = |pattern: &String| {
        pattern == "*"
            || pattern.eq_ignore_ascii_case(text)
            || Regex::new(&format!("^(?:{pattern})$")).is_ok_and(|regex| regex.is_match(text))
    };
    allowed.iter().any(is_allowed).then(|| origin.clone())
}

/// The answer to a browser that asks whether it may make a request.
pub(crate) fn preflight(origin: &HeaderValue, request: &Request<Body>) -> Option<Response> {
    let asked = request.headers().get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    if request.method() != Method::OPTIONS {
        return None;
    }
    let mut response = reply::empty(StatusCode::OK);
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, asked.clone());
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("Accept, Authorization, Content-Type"),
    );
    allow(origin.clone(), &mut response);
    Some(response)
}

/// Lets the page read the answer.
pub(crate) fn allow(origin: HeaderValue, response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    headers.insert(
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("X-Sunbear-Revision"),
    );
}
