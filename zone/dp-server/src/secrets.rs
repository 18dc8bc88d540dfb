//! `POST /sunbear/secrets`: the secrets that a connected proxy is offered, for its agent. Envoy leaves
//! keys out of its own dump, so without this a gateway that starts while no control plane is there
//! would have to leave out each listener that ends TLS. The proof of identity is that of a stream;
//! who has it could open one and be offered the same.

use std::sync::Arc;

use axum::{
    Json,
    body::{Body, to_bytes},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, Request, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use sunbear_proto::json as protobuf;
use sunbear_xds::{ResourceType, XdsResource};
use tonic::{Code, Status};

use crate::{
    auth::{self, Claimed, Credential},
    proxy::{ProxyKey, ProxyKind},
    server::DpServer,
    view::SnapshotView,
};

/// Longest body that is read.
const MAX_BODY: usize = 16 * 1024;

const MESSAGE: &str = "envoy.extensions.transport_sockets.tls.v3.Secret";

/// Whose secrets.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    mesh: String,
    name: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the body has to be an object with mesh and name")]
    Body,
    #[error(transparent)]
    Credential(#[from] auth::AuthError),
    #[error("proxy {0} is not connected to this control plane")]
    NotConnected(ProxyKey),
    #[error("secret {0:?} cannot be written")]
    Unwritable(String),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let text = self.to_string();
        let status = match self {
            Refusal::Body => StatusCode::BAD_REQUEST,
            Refusal::Credential(error) => match Status::from(error).code() {
                Code::PermissionDenied => StatusCode::FORBIDDEN,
                _ => StatusCode::UNAUTHORIZED,
            },
            // Another status than that of a control plane that does not have this endpoint.
            Refusal::NotConnected(_) => StatusCode::CONFLICT,
            Refusal::Unwritable(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, text).into_response()
    }
}

/// Answers a request.
pub(crate) async fn respond(server: &Arc<DpServer>, request: Request<Body>) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let answer = Credential::of_headers(&head.headers)
        .map_err(Refusal::from)
        .and_then(|credential| secrets(server, &credential, &body));
    match answer {
        Ok(secrets) => {
            let mut response = Json(json!({ "secrets": secrets })).into_response();
            let never = HeaderValue::from_static("no-store");
            response.headers_mut().insert(header::CACHE_CONTROL, never);
            response
        }
        Err(refusal) => {
            tracing::info!(reason = %refusal, "secrets refused to an agent");
            refusal.into_response()
        }
    }
}

fn secrets(
    server: &Arc<DpServer>,
    credential: &Credential,
    body: &[u8],
) -> Result<Vec<Value>, Refusal> {
    let wanted: Wanted = serde_json::from_slice(body).map_err(|_| Refusal::Body)?;
    let key =
        ProxyKey { kind: ProxyKind::Dataplane, mesh: wanted.mesh.into(), name: wanted.name.into() };
    let snapshot = server.world.snapshot();
    // A proxy that is connected is stored. Who names another learns nothing about it.
    let Some(stored) = snapshot.get(&key.resource_key()).cloned() else {
        return Err(Refusal::NotConnected(key));
    };
    let claimed = Claimed { key: &key, spec: &stored.spec, labels: &stored.labels };
    let view = SnapshotView(snapshot);
    auth::authenticate(&server.config, &view, credential, claimed, server.now())?;
    let offered = server.registry.offered(&key).ok_or(Refusal::NotConnected(key))?;
    offered.iter(ResourceType::Secret).map(|secret| write(secret)).collect()
}

fn write(secret: &XdsResource) -> Result<Value, Refusal> {
    let message = protobuf::write(MESSAGE, &secret.any.value)
        .map_err(|_| Refusal::Unwritable(secret.name.clone()))?;
    Ok(json!({"name": secret.name, "version": secret.version, "secret": message}))
}
