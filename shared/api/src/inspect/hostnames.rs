//! `…/_hostnames`: the names that HostnameGenerators give to a service, and the zone of each.

use std::collections::{BTreeMap, BTreeSet};

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};
use sunbear_model::{
    Kind, Resource, generated_hostname, label,
    validation::{Mode, Violations},
};

use super::find;
use crate::{problem::Problem, reply, service::Call, target::Inspect};

/// Types that get names.
const SERVICES: [&str; 3] = ["meshservices", "meshexternalservices", "meshmultizoneservices"];

pub(super) fn list(call: &Call<'_>, target: &Inspect) -> Result<Response, Problem> {
    if !SERVICES.contains(&target.kind.row().plural) {
        let title = format!("only \"{}\" are available for inspection", SERVICES.join(","));
        return Err(Problem::invalid(&title, &Violations::default()));
    }
    let snapshot = call.api.world.snapshot();
    let service = find(&snapshot, target, "could not retrieve service")?;
    let zone = zone_of(service);
    // A global looks at services as all of its zones may see them.
    let origins: &[Option<&str>] = match call.api.mode {
        Mode::Global { .. } => &[Some(label::ORIGIN_ZONE), Some(label::ORIGIN_GLOBAL)],
        Mode::FederatedZone { .. } | Mode::StandaloneZone { .. } => &[None],
    };
    let mut names: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for generator in Kind::by_name("HostnameGenerator").into_iter().flat_map(|k| snapshot.list(k)) {
        for origin in origins {
            match generated_hostname::generate(generator, service, *origin, zone) {
                Some(Ok(name)) if !name.is_empty() => {
                    names.entry(name).or_default().insert(zone);
                }
                // One bad template does not take the other names away.
                Some(Err(error)) => {
                    tracing::debug!(generator = %generator.key.name, %error, "no host name");
                }
                Some(Ok(_)) | None => {}
            }
        }
    }
    let items: Vec<Value> = names
        .iter()
        .map(|(name, zones)| {
            let zones: Vec<Value> = zones.iter().map(|zone| json!({"name": zone})).collect();
            json!({"hostname": name, "zones": zones})
        })
        .collect();
    Ok(reply::json(StatusCode::OK, &json!({"total": items.len(), "items": items})))
}

/// The zone of a service; by its name if it does not say.
fn zone_of(service: &Resource) -> &str {
    let labelled = service.label(label::ZONE).filter(|zone| !zone.is_empty());
    labelled.unwrap_or_else(|| service.key.name.split('.').next().unwrap_or_default())
}
