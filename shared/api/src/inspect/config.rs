//! `…/_config`: what a proxy would get, and what policies would change that only pretend to act.

mod patch;

use std::sync::Arc;

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};
use sunbear_model::{Kind, ResourceKey, validation::Mode};
use sunbear_store::Snapshot;

use super::envoy::parse_bool;
use crate::{access, page::Query, problem::Problem, read, reply, service::Call, target::Inspect};

const FAILED: &str = "Failed to inspect proxy config";

/// Why there is no configuration to look at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PreviewError {
    /// There is no such Dataplane, or it has never connected.
    #[error("{0}")]
    NotFound(String),
    /// Proxies of this kind get none from here.
    #[error("{0}")]
    NotGenerated(String),
    /// A defect; for the log only.
    #[error("{0}")]
    Failed(String),
}

/// Generates configurations that nobody is served.
pub trait ConfigPreview: Send + Sync {
    /// The messages that a Dataplane would get, in their JSON form, by type and name; with `shadow`,
    /// if policies that only pretend to act did. May take its time. Holds no secrets.
    fn config(
        &self,
        snapshot: &Arc<Snapshot>,
        mesh: &str,
        name: &str,
        shadow: bool,
    ) -> Result<Value, PreviewError>;
}

/// Generates nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPreview;

impl ConfigPreview for NoPreview {
    fn config(&self, _: &Arc<Snapshot>, _: &str, _: &str, _: bool) -> Result<Value, PreviewError> {
        Err(PreviewError::NotGenerated("this control plane generates no configuration".to_owned()))
    }
}

/// What is asked for.
struct Wanted {
    shadow: bool,
    diff: bool,
}

impl Wanted {
    fn read(query: &Query) -> Result<Self, Problem> {
        let bad = |name: &str| {
            let detail = format!("bad request: unsupported value for query parameter '{name}'");
            Problem::bad_request(detail)
        };
        let shadow = match query.first("shadow") {
            "" => false,
            text => parse_bool(text).ok_or_else(|| bad("shadow"))?,
        };
        let diff = match query.first("include") {
            "" => false,
            text if text.split(',').all(|part| part == "diff") => true,
            _ => return Err(bad("include")),
        };
        Ok(Self { shadow, diff })
    }
}

pub(super) fn show(call: &Call<'_>, target: &Inspect) -> Result<Response, Problem> {
    if let Mode::Global { .. } = call.api.mode {
        return Err(Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "Method not allowed",
            "Not allowed on global CP",
        ));
    }
    let snapshot = call.api.world.snapshot();
    read::require_mesh(&snapshot, target.kind, &target.mesh)?;
    let subjects = &call.api.access.view_config_dump;
    access::check(subjects, &call.user, || "envoy proxy info".to_owned())?;
    let wanted = Wanted::read(&call.query())?;
    let insight = ResourceKey::new(Kind::DATAPLANE_INSIGHT, &target.mesh, &target.name);
    if snapshot.get(&insight).is_none() {
        return Err(Problem::not_found("Failed to fetch dataplane insight"));
    }
    let generate = |shadow| {
        let preview = &call.api.options.config_preview;
        preview.config(&snapshot, &target.mesh, &target.name, shadow).map_err(problem)
    };
    let config = generate(wanted.shadow)?;
    if !wanted.diff {
        return Ok(reply::json(StatusCode::OK, &json!({"xds": config})));
    }
    let current = if wanted.shadow { generate(false)? } else { config.clone() };
    let diff = patch::between(&current, &config);
    Ok(reply::json(StatusCode::OK, &json!({"xds": config, "diff": diff})))
}

fn problem(error: PreviewError) -> Problem {
    match error {
        PreviewError::NotFound(detail) => Problem::new(StatusCode::NOT_FOUND, FAILED, detail),
        PreviewError::NotGenerated(detail) => {
            Problem::new(StatusCode::NOT_IMPLEMENTED, "Not implemented", detail)
        }
        PreviewError::Failed(why) => {
            tracing::error!(why, "configuration not shown");
            Problem::internal(FAILED)
        }
    }
}
