//! What Envoys say of themselves (`spec/rest-api.md` 12.1). Asking them is the binary's business.

use std::{future::Future, pin::Pin, sync::Arc};

use axum::response::Response;
use http::StatusCode;
use serde_json::Value;
use sunbear_model::{Kind, Resource, label, rest, validation::Mode};

use super::find;
use crate::{
    access, guard,
    problem::Problem,
    reply,
    service::Call,
    target::{Aspect, Inspect},
};

const TITLE: &str = "Could not execute admin operation";

/// What an Envoy is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminQuestion {
    /// The configuration dump.
    ConfigDump {
        /// With endpoints.
        include_eds: bool,
    },
    /// Statistics.
    Stats {
        /// As JSON instead of text.
        json: bool,
        /// Only those that were ever touched.
        used_only: bool,
    },
    /// Clusters with their endpoints.
    Clusters {
        /// As JSON instead of text.
        json: bool,
    },
}

impl AdminQuestion {
    fn operation(self) -> &'static str {
        match self {
            Self::ConfigDump { .. } => "XDS Config Dump",
            Self::Stats { .. } => "Stats",
            Self::Clusters { .. } => "Clusters",
        }
    }
}

/// Why an Envoy did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// There is no way to it from here at this time.
    #[error("there is no connection over which to ask")]
    NotConnected,
    /// The other side says why; shown to the user.
    #[error("{0}")]
    Refused(String),
    /// It cannot be reached or fails; shown to the user.
    #[error("{0}")]
    Failed(String),
}

/// An answer to come.
pub type AdminFuture<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, AdminError>> + Send + 'a>>;

/// Asks Envoys: in a zone directly, on a global through the zone.
pub trait AdminBackend: Send + Sync {
    /// Asks the Envoy of a Dataplane, ZoneIngress or ZoneEgress.
    fn ask(&self, proxy: Arc<Resource>, question: AdminQuestion) -> AdminFuture<'_>;
}

/// Reaches no Envoy.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoAdmin;

impl AdminBackend for NoAdmin {
    fn ask(&self, _: Arc<Resource>, _: AdminQuestion) -> AdminFuture<'_> {
        Box::pin(std::future::ready(Err(AdminError::NotConnected)))
    }
}

pub(super) async fn ask(call: &Call<'_>, target: &Inspect) -> Result<Response, Problem> {
    let (question, json) = question(call, target.aspect)?;
    let snapshot = call.api.world.snapshot();
    let missing = match target.kind {
        Kind::DATAPLANE => "Could not get dataplane resource",
        // For egresses too, as in Kuma.
        _ => "Could not get zone ingress resource",
    };
    let proxy = Arc::clone(find(&snapshot, target, missing)?);
    match &call.api.mode {
        Mode::Global { .. } => {
            let zone = zone_of(&proxy);
            if zone.is_some_and(|zone| !guard::is_online(&snapshot, &zone)) {
                let operation = question.operation();
                let detail = format!("couldn't execute {operation} operation, zone is offline");
                return Err(Problem::new(StatusCode::BAD_REQUEST, TITLE, detail));
            }
        }
        Mode::FederatedZone { zone, .. } | Mode::StandaloneZone { zone } => {
            if target.kind != Kind::DATAPLANE && zone_of(&proxy).is_some_and(|z| z != *zone) {
                return Err(Problem::new(
                    StatusCode::BAD_REQUEST,
                    "Could not connect to zone ingress that resides in another zone",
                    "Resource is not valid",
                ));
            }
        }
    }
    drop(snapshot);
    match call.api.options.envoy_admin.ask(proxy, question).await {
        Ok(answer) => {
            let answer = match question {
                AdminQuestion::ConfigDump { .. } => redact(answer),
                AdminQuestion::Stats { .. } | AdminQuestion::Clusters { .. } => answer,
            };
            Ok(reply::raw(json, answer))
        }
        Err(error) => Err(problem(call, question, &error)),
    }
}

fn problem(call: &Call<'_>, question: AdminQuestion, error: &AdminError) -> Problem {
    match error {
        AdminError::NotConnected if matches!(call.api.mode, Mode::Global { .. }) => {
            Problem::bad_request(format!(
                "stream to execute {} operations is not yet connected",
                question.operation()
            ))
        }
        AdminError::Refused(detail) => {
            Problem::new(StatusCode::BAD_REQUEST, TITLE, detail.as_str())
        }
        AdminError::Failed(_) => {
            tracing::info!(%error, operation = question.operation(), "proxy could not be asked");
            let status = StatusCode::SERVICE_UNAVAILABLE;
            Problem::new(status, "Service unavailable", format!("{TITLE}: {error}"))
        }
        // Kuma's answer where Envoys cannot be asked at all.
        AdminError::NotConnected => Problem::internal(TITLE),
    }
}

/// The zone of a proxy: by its label, or by what a zone proxy says of itself.
fn zone_of(proxy: &Resource) -> Option<String> {
    let own = || rest::write(proxy).get("zone").and_then(Value::as_str).map(str::to_owned);
    proxy.label(label::ZONE).map(str::to_owned).or_else(own).filter(|zone| !zone.is_empty())
}

/// What is asked, and whether the answer is JSON.
fn question(call: &Call<'_>, aspect: Aspect) -> Result<(AdminQuestion, bool), Problem> {
    let query = call.query();
    let may = |subjects| access::check(subjects, &call.user, || "envoy proxy info".to_owned());
    let json = query.first("format") == "json";
    match aspect {
        Aspect::ConfigDump => {
            may(&call.api.access.view_config_dump)?;
            let include_eds = parse_bool(query.first("include_eds")).unwrap_or(false);
            Ok((AdminQuestion::ConfigDump { include_eds }, true))
        }
        Aspect::Stats => {
            may(&call.api.access.view_stats)?;
            let used_only = parse_bool(query.first("usedonly")).unwrap_or(true);
            Ok((AdminQuestion::Stats { json, used_only }, json))
        }
        Aspect::Clusters => {
            may(&call.api.access.view_clusters)?;
            Ok((AdminQuestion::Clusters { json }, json))
        }
        _ => Err(Problem::not_found(TITLE)),
    }
}

/// As Go reads truth.
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Hides the proxy's token in a configuration dump. What is not JSON stays as it is.
pub fn redact(dump: Vec<u8>) -> Vec<u8> {
    // Most of a dump is of no concern, and parsing it costs.
    if !dump.windows(MARK.len()).any(|window| window == MARK) {
        return dump;
    }
    let Ok(mut value) = serde_json::from_slice::<Value>(&dump) else { return dump };
    hide(&mut value);
    serde_json::to_vec_pretty(&value).unwrap_or_default()
}

const MARK: &[u8] = b"initial_metadata";

fn hide(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::Array(entries)) = map.get_mut("initial_metadata") {
                for entry in entries.iter_mut().filter(|e| e["key"] == "authorization") {
                    entry["value"] = "[redacted]".into();
                }
            }
            map.values_mut().for_each(hide);
        }
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
