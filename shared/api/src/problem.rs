//! Error bodies (`spec/rest-api.md` 9). The one place where errors of the layers below turn into
//! HTTP.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use sunbear_model::validation::Violations;
use sunbear_store::{ChangeError, StoreError};

use crate::reply;

/// One thing that is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Path of the field, or name of the query parameter.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A failed request as clients of Kuma know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    title: String,
    detail: String,
    parameters: Vec<Parameter>,
}

/// Seconds that a client should wait when the store does not answer; written into `Retry-After`.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

impl Problem {
    /// A problem without parameters.
    pub fn new(status: StatusCode, title: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { status, title: title.into(), detail: detail.into(), parameters: Vec::new() }
    }

    /// Something that must exist does not.
    pub fn not_found(title: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, title, "Not found")
    }

    /// The request cannot be understood.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "Bad Request", detail)
    }

    /// The object breaks rules.
    pub fn invalid(title: &str, violations: &Violations) -> Self {
        let parameters = violations
            .iter()
            .map(|v| Parameter { field: v.field.clone(), reason: v.message.clone() })
            .collect();
        Self { parameters, ..Self::new(StatusCode::BAD_REQUEST, title, "Resource is not valid") }
    }

    /// One field breaks a rule.
    pub fn invalid_field(title: &str, field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, title, "Resource is not valid").with(field, reason)
    }

    /// The caller may not do this.
    pub fn denied(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Access Denied", detail)
    }

    /// The credentials are no good. Why, is not for the caller.
    pub fn unauthenticated() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Invalid authentication data", "Unauthenticated")
    }

    /// The request is right and we failed. The cause is for the log only.
    pub fn internal(title: &str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, title, "Internal Server Error")
    }

    /// The same with one more parameter.
    #[must_use]
    pub fn with(mut self, field: impl Into<String>, reason: impl Into<String>) -> Self {
        self.parameters.push(Parameter { field: field.into(), reason: reason.into() });
        self
    }

    /// A change that the store did not make.
    pub fn from_change(title: &str, error: &ChangeError) -> Self {
        match error {
            ChangeError::AlreadyExists(_) | ChangeError::Conflict(_) => {
                Self::new(StatusCode::CONFLICT, "Conflict", error.to_string())
            }
            ChangeError::NotFound(_) => Self::not_found(title),
            ChangeError::OwnerMissing { owner, .. } => {
                Self::new(StatusCode::BAD_REQUEST, title, "Mesh is not found")
                    .with("mesh", format!("mesh of name {} is not found", owner.name))
            }
            ChangeError::TooLarge { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, title, error.to_string())
            }
            ChangeError::NullCharacter { .. } => {
                Self::new(StatusCode::BAD_REQUEST, title, error.to_string())
            }
            ChangeError::NotApplied(_) => Self::internal(title),
        }
    }

    /// A call that the store could not serve. Logs the cause.
    pub fn from_store(title: &str, error: &StoreError) -> Self {
        let unavailable =
            || Self::new(StatusCode::SERVICE_UNAVAILABLE, "Service unavailable", error.to_string());
        match error {
            StoreError::Unavailable(_)
            | StoreError::Refused(_)
            | StoreError::ReadOnly(_)
            | StoreError::Full(_)
            | StoreError::Fenced(_)
            | StoreError::Regressed { .. } => {
                tracing::warn!(error = %chain(error), "store does not take the write");
                unavailable()
            }
            StoreError::Corrupt(_)
            | StoreError::SecretKeyMissing { .. }
            | StoreError::SecretUnreadable { .. }
            | StoreError::Locked(_)
            | StoreError::Settings(_)
            | StoreError::Other(_) => {
                tracing::error!(error = %chain(error), "store failed");
                Self::internal(title)
            }
        }
    }

    /// HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Title.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Detail.
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

/// The body. Field order is Kuma's; the last two are its older names for the two before.
#[derive(Serialize)]
struct Document<'a> {
    r#type: &'static str,
    status: u16,
    title: &'a str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    invalid_parameters: Vec<InvalidParameter<'a>>,
    details: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    causes: Vec<Cause<'a>>,
}

#[derive(Serialize)]
struct InvalidParameter<'a> {
    field: &'a str,
    reason: &'a str,
}

#[derive(Serialize)]
struct Cause<'a> {
    field: &'a str,
    message: &'a str,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let document = Document {
            r#type: "/std-errors",
            status: self.status.as_u16(),
            title: &self.title,
            detail: &self.detail,
            invalid_parameters: self
                .parameters
                .iter()
                .map(|p| InvalidParameter { field: &p.field, reason: &p.reason })
                .collect(),
            details: &self.detail,
            causes: self
                .parameters
                .iter()
                .map(|p| Cause { field: &p.field, message: &p.reason })
                .collect(),
        };
        let mut response = reply::json(self.status, &document);
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}
