//! `/global-insight` and `/global-insights`: sums over the whole installation (`spec/rest-api.md`
//! 4.4).

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use sunbear_model::{Kind, Resource, Scope, Writable, rest};
use sunbear_store::Snapshot;
use time::OffsetDateTime;

/// Answer of `/global-insight`.
#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GlobalInsight {
    created_at: String,
    meshes: Total,
    zones: Zones,
    dataplanes: Dataplanes,
    services: Services,
    policies: Total,
    resources: BTreeMap<String, Total>,
}

#[derive(Serialize, Default, Clone, Copy)]
struct Total {
    total: u64,
}

#[derive(Serialize, Default)]
struct Online {
    online: u64,
    total: u64,
}

#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Status {
    offline: u64,
    online: u64,
    partially_degraded: u64,
    total: u64,
}

#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Zones {
    control_planes: Online,
    zone_egresses: Online,
    zone_ingresses: Online,
}

#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Dataplanes {
    gateway_builtin: Status,
    gateway_delegated: Status,
    standard: Status,
}

#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Services {
    external: Total,
    gateway_builtin: Status,
    gateway_delegated: Status,
    internal: Status,
}

/// Adds up what insights say.
pub(crate) fn global_insight(snapshot: &Snapshot, now: OffsetDateTime) -> GlobalInsight {
    let mut insight = GlobalInsight { created_at: rest::rfc3339(now), ..GlobalInsight::default() };
    for mesh in Kind::by_name("MeshInsight").into_iter().flat_map(|kind| snapshot.list(kind)) {
        insight.add_mesh(&rest::write(mesh));
    }
    for kind in Kind::all().filter(|kind| is_counted(*kind)) {
        let total = snapshot.list(kind).count();
        if total > 0 {
            let total = u64::try_from(total).unwrap_or(u64::MAX);
            insight.resources.insert(kind.name().to_owned(), Total { total });
        }
    }
    for services in snapshot.list(Kind::SERVICE_INSIGHT) {
        let body = rest::write(services);
        for service in body["services"].as_object().into_iter().flat_map(|s| s.values()) {
            insight.services.add(service);
        }
    }
    insight.zones.control_planes = online(snapshot.list(Kind::ZONE_INSIGHT));
    insight.zones.zone_ingresses = online(snapshot.list(Kind::ZONE_INGRESS_INSIGHT));
    insight.zones.zone_egresses = online(snapshot.list(Kind::ZONE_EGRESS_INSIGHT));
    insight
}

impl GlobalInsight {
    fn add_mesh(&mut self, body: &Value) {
        self.meshes.total += 1;
        let by_type = &body["dataplanesByType"];
        self.dataplanes.standard.add_counts(&by_type["standard"]);
        self.dataplanes.gateway_builtin.add_counts(&by_type["gatewayBuiltin"]);
        self.dataplanes.gateway_delegated.add_counts(&by_type["gatewayDelegated"]);
        for policy in body["policies"].as_object().into_iter().flat_map(|p| p.values()) {
            self.policies.total += count(policy, "total");
        }
        for (kind, stat) in body["resources"].as_object().into_iter().flatten() {
            self.resources.entry(kind.clone()).or_default().total += count(stat, "total");
        }
    }
}

impl Status {
    fn add_counts(&mut self, value: &Value) {
        self.offline += count(value, "offline");
        self.online += count(value, "online");
        self.partially_degraded += count(value, "partiallyDegraded");
        self.total += count(value, "total");
    }

    fn add_one(&mut self, status: Option<&str>) {
        self.total += 1;
        match status {
            Some("online") => self.online += 1,
            Some("offline") => self.offline += 1,
            Some("partially_degraded") => self.partially_degraded += 1,
            _ => {}
        }
    }
}

impl Services {
    fn add(&mut self, service: &Value) {
        let status = service["status"].as_str();
        match service["serviceType"].as_str() {
            None | Some("internal") => self.internal.add_one(status),
            Some("external") => self.external.total += 1,
            Some("gateway_builtin") => self.gateway_builtin.add_one(status),
            Some("gateway_delegated") => self.gateway_delegated.add_one(status),
            Some(_) => {}
        }
    }
}

fn count(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_default()
}

/// How many there are, and how many have a connection: the last subscription that was opened is not
/// closed.
fn online<'a>(insights: impl Iterator<Item = &'a std::sync::Arc<Resource>>) -> Online {
    let mut counts = Online::default();
    for insight in insights {
        counts.total += 1;
        let body = rest::write(insight);
        let is_open =
            |s: &Value| s.get("connectTime").is_some() && s.get("disconnectTime").is_none();
        if body["subscriptions"].as_array().is_some_and(|s| s.iter().any(is_open)) {
            counts.online += 1;
        }
    }
    counts
}

fn is_insight(kind: Kind) -> bool {
    kind.name().ends_with("Insight")
}

/// Types of global scope that are counted apart from meshes.
fn is_counted(kind: Kind) -> bool {
    let row = kind.row();
    row.scope == Scope::Global
        && !row.plural.is_empty()
        && row.writable != Writable::Admin
        && !is_insight(kind)
        && !matches!(kind, Kind::MESH | Kind::ZONE | Kind::ZONE_INGRESS | Kind::ZONE_EGRESS)
}

/// Answer of `/global-insights`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GlobalInsights {
    r#type: &'static str,
    creation_time: String,
    resources: BTreeMap<&'static str, Total>,
}

/// Counts all that is of global scope.
pub(crate) fn global_insights(snapshot: &Snapshot, now: OffsetDateTime) -> GlobalInsights {
    let kinds = Kind::all().filter(|kind| {
        kind.row().scope == Scope::Global && *kind != Kind::CONFIG && !is_insight(*kind)
    });
    let total = |kind: Kind| {
        let total = u64::try_from(snapshot.list(kind).count()).unwrap_or(u64::MAX);
        (kind.name(), Total { total })
    };
    GlobalInsights {
        r#type: "GlobalInsights",
        creation_time: rest::rfc3339(now),
        resources: kinds.map(total).collect(),
    }
}
