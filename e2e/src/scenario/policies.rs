//! What is written where, and how far it gets.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use xtask::http::Request;

use crate::{
    backend::Backend,
    lab::{BASE, Lab},
    party::Party,
    resource::{self, HOST},
};

/// A MeshGateway and a MeshGatewayRoute written on the global only serve in both zones. The route
/// written on a zone is refused and changes nothing, and so is every write to the copies that came
/// from the global. (A zone may have MeshGateways of its own, as in Kuma.)
///
/// Guard: `shared/api/src/write.rs`, `check_mode` and the check of a copy's origin.
pub fn written_on_the_global_only<B: Backend>(lab: &mut Lab<B>) -> Result<()> {
    let port = lab.backend.gateway_ports().0;
    // From nothing: neither gateway has a listener.
    lab.delete(&resource::route(BASE))?;
    lab.delete(&resource::gateway(port))?;
    lab.await_sync()?;
    for zone in lab.backend.zones() {
        lab.await_refused(&zone)?;
        refused(lab, &zone)?;
        let routes = lab.items(&Party::zone(&zone), "meshgatewayroutes")?;
        ensure!(routes.is_empty(), "{zone} has {routes:?}");
    }
    lab.apply(&resource::gateway(port))?;
    lab.apply(&resource::route(BASE))?;
    lab.await_change(BASE)?;
    lab.await_sync()?;
    for zone in lab.backend.zones() {
        // A host that no listener has, reaches no route.
        let answer = lab.ask(&zone, &Request::new("GET", "other.example.com", "/asset"))?;
        ensure!(answer.status == 404, "{zone} answers {} to another host", answer.status);
        refused(lab, &zone)?;
        copies_are_safe(lab, &zone)?;
    }
    lab.await_sync()?;
    lab.await_change(BASE)
}

fn refused<B: Backend>(lab: &Lab<B>, zone: &str) -> Result<()> {
    let party = Party::zone(zone);
    let route = resource::route("zone");
    for answer in [lab.put(&party, &route)?, lab.remove(&party, &route)?] {
        ensure!(answer.status == 405, "{party} answers {} to a write", answer.status);
        ensure!(
            answer.body.contains("On zone control plane you can only modify zone resources"),
            "{party} says {}",
            answer.body
        );
    }
    Ok(())
}

fn copies_are_safe<B: Backend>(lab: &Lab<B>, zone: &str) -> Result<()> {
    let party = Party::zone(zone);
    for plural in ["meshgateways", "meshgatewayroutes"] {
        let list: Value =
            serde_json::from_str(&lab.get(&party, &format!("/meshes/default/{plural}"))?)?;
        let items = list["items"].as_array().context("no items")?;
        ensure!(!items.is_empty(), "{party} has no {plural}");
        for item in items {
            let path =
                format!("/meshes/default/{plural}/{}", item["name"].as_str().context("no name")?);
            let mut changed = item.clone();
            changed["selectors"][0]["match"]["kuma.io/service"] = "nobody".into();
            let put = lab.call(&party, "PUT", &path, changed.to_string())?;
            let delete = lab.call(&party, "DELETE", &path, String::new())?;
            for answer in [put, delete] {
                ensure!(
                    (400..500).contains(&answer.status),
                    "{party} answers {} to a write to {path}",
                    answer.status
                );
            }
        }
    }
    Ok(())
}

/// A change and a deletion reach both zones, without a failed request.
///
/// Guard: `shared/kds/src/transport.rs`, `note_change`: what the feed says is told to each sender.
pub fn changes_and_deletions_arrive<B: Backend>(lab: &mut Lab<B>) -> Result<()> {
    let zones = lab.backend.zones();
    let traffic = lab.traffic(&zones, &[BASE.to_owned(), "second".to_owned()])?;
    lab.apply(&resource::route("second"))?;
    lab.await_change("second")?;
    let extra = resource::extra_route("extra-1", "/extra");
    lab.apply(&extra)?;
    for zone in &zones {
        lab.await_change_at(zone, "/extra/x", "extra-1")?;
    }
    lab.delete(&extra)?;
    for zone in &zones {
        // The base route takes it again.
        lab.await_change_at(zone, "/extra/x", "second")?;
    }
    traffic.await_answers(20, crate::lab::PATIENCE)?;
    traffic.finish()?;
    lab.delete(&resource::route("second"))?;
    for zone in &zones {
        lab.await_status(zone, "/asset", 404)?;
    }
    lab.apply(&resource::route(BASE))?;
    lab.await_change(BASE)?;
    for zone in &zones {
        let answer = lab.ask(zone, &Request::new("GET", HOST, "/extra/x"))?;
        ensure!(answer.status == 200, "{zone} answers {}", answer.status);
    }
    Ok(())
}
