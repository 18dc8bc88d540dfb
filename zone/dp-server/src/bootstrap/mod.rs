//! `POST /bootstrap`: from what a proxy says about itself to the file that its Envoy starts with
//! (`spec/dp-server.md` 4, 5). Nothing is stored and no signature is checked here; both happen
//! when the proxy connects for its configuration.

mod document;
mod host;
mod request;

use std::net::IpAddr;

use axum::{
    body::{Body, to_bytes},
    response::{IntoResponse, Response},
};
use base64::Engine as _;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use serde::Deserialize as _;
use serde_json::{Map, Value, json};
use sunbear_model::{Kind, Resource, ResourceKey, Spec, Typed, tags, validation::validate_spec};
use sunbear_proto::kuma::mesh::v1alpha1::{Dataplane, dataplane::networking::gateway::GatewayType};
use sunbear_xds::View;

use crate::{
    config::{AuthType, DpServerConfig},
    proxy::{ProxyKind, read_resource},
};

pub(crate) use host::{ServerCertificate, without_port};

use document::{Parameters, document};
use request::BootstrapRequest;

/// Longest body that is read. A Dataplane with a thousand inbounds is far from it.
const MAX_BODY: usize = 1024 * 1024;

/// Why a proxy gets no bootstrap. `Display` is the body of the answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BootstrapError {
    #[error(
        "Dataplane Token is required. Generate token using 'kumactl generate dataplane-token > \
         /path/file' and provide it via --dataplane-token-file=/path/file argument to Kuma DP"
    )]
    TokenRequired,
    #[error(
        "A data plane proxy is trying to connect to the control plane using {host:?} address, but \
         the certificate in the control plane has the following SANs {names:?}. Let the proxy use \
         one of these (--cp-address), or give the control plane a certificate that names {host} \
         (KUMA_GENERAL_TLS_CERT_FILE and KUMA_GENERAL_TLS_KEY_FILE) and restart it."
    )]
    Host { host: String, names: Vec<String> },
    #[error("{0}")]
    Invalid(String),
    #[error("")]
    NotFound,
    #[error(
        "A data plane proxy is trying to verify the control plane using the certificate which is \
         not a certificate authority (its basic constraints say so). Give the proxy the \
         certificate of the authority that signed the control plane's (--ca-cert-file or \
         KUMA_CONTROL_PLANE_CA_CERT_FILE)."
    )]
    NotAuthority,
    #[error("caCert: {0}")]
    Authority(String),
}

impl BootstrapError {
    fn status(&self) -> StatusCode {
        match self {
            Self::TokenRequired | Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Host { .. } | Self::NotAuthority | Self::Authority(_) => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
        }
    }
}

impl IntoResponse for BootstrapError {
    fn into_response(self) -> Response {
        (self.status(), self.to_string()).into_response()
    }
}

/// What the answer depends on besides the request.
pub(crate) struct Context<'a> {
    pub(crate) config: &'a DpServerConfig,
    pub(crate) certificate: &'a ServerCertificate,
    pub(crate) view: &'a (dyn View + Sync),
}

/// Answers a request.
pub(crate) async fn respond(context: Context<'_>, request: Request<Body>) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    // By way of a map, because a list would pass for an object.
    let parsed = serde_json::from_slice(&body).and_then(|object: Map<String, Value>| {
        BootstrapRequest::deserialize(Value::Object(object))
    });
    let request = match parsed {
        Ok(request) => request,
        Err(error) => {
            tracing::info!(%error, "unreadable bootstrap request");
            return StatusCode::BAD_REQUEST.into_response();
        }
    };
    let host = requested_host(&head.headers, &head.uri).to_owned();
    let resolved = match resolve(&context, &request, &host) {
        Ok(resolved) => resolved,
        Err(error) => {
            tracing::info!(
                mesh = request.mesh,
                name = request.name,
                status = error.status().as_u16(),
                reason = %error,
                "bootstrap refused"
            );
            return error.into_response();
        }
    };
    let params = &context.config.bootstrap;
    let bootstrap = document(&Parameters {
        request: &request,
        params,
        kind: resolved.kind,
        service: &resolved.service,
        is_builtin_gateway: resolved.is_builtin_gateway,
        admin_port: resolved.admin_port,
        xds_host: &resolved.xds_host,
        ipv4_only: is_ipv4_only(&resolved.xds_host, params.xds_port).await,
        ca: resolved.ca,
    });
    let yaml = match to_yaml(&bootstrap) {
        Ok(yaml) => yaml,
        Err(error) => {
            tracing::error!(%error, "could not write a bootstrap");
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
    };
    answer(&head.headers, &yaml, &resolved.address)
}

/// What of the answer had to be looked up or checked.
#[derive(Debug, PartialEq, Eq)]
struct Resolved<'a> {
    kind: ProxyKind,
    service: String,
    is_builtin_gateway: bool,
    admin_port: u32,
    /// The Dataplane's; empty for zone proxies.
    address: String,
    xds_host: String,
    ca: &'a str,
}

/// The checks of `spec/dp-server.md` 4.2, in their order.
fn resolve<'a>(
    context: &Context<'a>,
    request: &'a BootstrapRequest,
    host: &str,
) -> Result<Resolved<'a>, BootstrapError> {
    let config = context.config;
    let kind = ProxyKind::from_name(&request.proxy_type).ok_or_else(|| {
        BootstrapError::Invalid(format!("proxyType: unknown proxy type {:?}", request.proxy_type))
    })?;
    let tokens = match kind {
        ProxyKind::Dataplane => &config.dataplane_tokens,
        ProxyKind::ZoneIngress | ProxyKind::ZoneEgress => &config.zone_tokens,
    };
    if tokens.auth == AuthType::Token
        && request.dataplane_token.is_empty()
        && request.dataplane_token_path.is_empty()
    {
        return Err(BootstrapError::TokenRequired);
    }
    let configured = config.bootstrap.xds_host.as_str();
    // A configured host was checked when the certificate was loaded.
    if configured.is_empty() {
        context.certificate.check_host(host)?;
    }
    let xds_host = if configured.is_empty() { host } else { configured };

    let spec = if request.dataplane_resource.is_empty() {
        stored(context, kind, request)?.spec.clone()
    } else {
        brought(context, kind, request)?
    };
    let mut resolved = Resolved {
        kind,
        service: kind.name().to_owned(),
        is_builtin_gateway: false,
        admin_port: 0,
        address: String::new(),
        xds_host: xds_host.to_owned(),
        ca: "",
    };
    let admin = if let Typed::Dataplane(dataplane) = spec.typed() {
        resolved.service = tags::identifying_service(dataplane);
        resolved.is_builtin_gateway = is_builtin_gateway(dataplane);
        let networking = dataplane.networking.as_ref();
        resolved.address = networking.map(|n| n.address.clone()).unwrap_or_default();
        networking.and_then(|n| n.admin.as_ref())
    } else if let Typed::ZoneIngress(ingress) = spec.typed() {
        ingress.networking.as_ref().and_then(|n| n.admin.as_ref())
    } else if let Typed::ZoneEgress(egress) = spec.typed() {
        egress.networking.as_ref().and_then(|n| n.admin.as_ref())
    } else {
        None
    };
    resolved.admin_port = match admin.map_or(0, |a| a.port) {
        0 => u32::from(config.bootstrap.admin_port),
        port => port,
    };
    resolved.ca = context.certificate.authority(&request.ca_cert)?;
    Ok(resolved)
}

/// The spec that the proxy brought along.
fn brought(
    context: &Context<'_>,
    kind: ProxyKind,
    request: &BootstrapRequest,
) -> Result<Spec, BootstrapError> {
    let desired = read_resource(&request.dataplane_resource).map_err(BootstrapError::Invalid)?;
    if desired.kind != kind.resource_kind() {
        return Err(BootstrapError::Invalid(format!(
            "dataplaneResource: a proxy of type {:?} needs a {}, not a {}",
            kind.name(),
            kind.resource_kind(),
            desired.kind
        )));
    }
    let violations = validate_spec(desired.kind, &desired.mesh, &desired.name, &desired.spec);
    if !violations.is_empty() {
        return Err(BootstrapError::Invalid(violations.to_string()));
    }
    if let Typed::Dataplane(dataplane) = desired.spec.typed() {
        let has_outbound = dataplane.networking.as_ref().is_some_and(|n| !n.outbound.is_empty());
        if request.is_transparent() && has_outbound {
            return Err(BootstrapError::Invalid(
                "outbound: should be empty since dataplane is in Transparent Proxying mode"
                    .to_owned(),
            ));
        }
        if context.view.get(&ResourceKey::new(Kind::MESH, "", &desired.mesh)).is_none() {
            return Err(BootstrapError::Invalid(format!(
                "mesh: mesh {:?} does not exist",
                desired.mesh
            )));
        }
    }
    Ok(desired.spec)
}

/// The resource that a proxy without one of its own refers to.
fn stored(
    context: &Context<'_>,
    kind: ProxyKind,
    request: &BootstrapRequest,
) -> Result<std::sync::Arc<Resource>, BootstrapError> {
    let key = ResourceKey::new(kind.resource_kind(), &request.mesh, &request.name);
    context.view.get(&key).ok_or(BootstrapError::NotFound)
}

fn is_builtin_gateway(dataplane: &Dataplane) -> bool {
    dataplane
        .networking
        .as_ref()
        .and_then(|n| n.gateway.as_ref())
        .is_some_and(|g| g.r#type() == GatewayType::Builtin)
}

fn requested_host<'a>(headers: &'a HeaderMap, uri: &'a http::Uri) -> &'a str {
    headers
        .get(header::HOST)
        .and_then(|h| h.to_str().ok())
        .or_else(|| uri.authority().map(http::uri::Authority::as_str))
        .map_or("", without_port)
}

/// Envoy tries IPv6 first unless told otherwise, so it is told when there is none.
async fn is_ipv4_only(host: &str, port: u16) -> bool {
    if host == "localhost" || host.parse::<IpAddr>().is_ok() {
        return false;
    }
    match tokio::net::lookup_host((host, port)).await {
        Ok(addresses) => {
            let (v4, v6): (Vec<_>, Vec<_>) = addresses.partition(std::net::SocketAddr::is_ipv4);
            !v4.is_empty() && v6.is_empty()
        }
        Err(error) => {
            tracing::warn!(host, %error, "could not look up the host for xDS");
            false
        }
    }
}

/// Every text is quoted, so that no reader takes one for a number or a truth value.
fn to_yaml(bootstrap: &Value) -> Result<String, serde_saphyr::ser::Error> {
    let options = serde_saphyr::ser_options! { quote_all: true };
    serde_saphyr::to_string_with_options(bootstrap, options)
}

fn answer(headers: &HeaderMap, yaml: &str, address: &str) -> Response {
    const JSON: HeaderValue = HeaderValue::from_static("application/json");

    if headers.get(header::ACCEPT) == Some(&JSON) {
        let body = json!({
            "bootstrap": base64::engine::general_purpose::STANDARD.encode(yaml),
            "kumaSidecarConfiguration": {
                "networking": {"corefileTemplate": null, "address": address},
                "metrics": {"aggregate": []},
            },
        });
        ([(header::CONTENT_TYPE, JSON)], body.to_string()).into_response()
    } else {
        let yaml_type = HeaderValue::from_static("text/x-yaml");
        ([(header::CONTENT_TYPE, yaml_type)], yaml.to_owned()).into_response()
    }
}

#[cfg(test)]
mod tests;
