//! Tables of objects with their state. The columns are those of `kumactl`.

use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

use crate::table::{layout, period, tags, text};

/// Types of policies that have a column in the table of meshes, with its title.
const POLICIES: [(&str, &str); 10] = [
    ("TRAFFIC PERMISSIONS", "TrafficPermission"),
    ("TRAFFIC ROUTES", "TrafficRoute"),
    ("CIRCUIT BREAKERS", "CircuitBreaker"),
    ("HEALTH CHECKS", "HealthCheck"),
    ("FAULT INJECTIONS", "FaultInjection"),
    ("EXTERNAL SERVICES", "ExternalService"),
    ("TRAFFIC TRACES", "TrafficTrace"),
    ("TRAFFIC LOGS", "TrafficLog"),
    ("PROXY TEMPLATES", "ProxyTemplate"),
    ("RATE LIMITS", "RateLimit"),
];

/// MeshInsights.
pub(crate) fn meshes(items: &[Value]) -> String {
    let headers =
        ["MESH", "DATAPLANES"].into_iter().chain(POLICIES.iter().map(|(title, _)| *title));
    rows(&Vec::from_iter(headers), items, |item| {
        let mut row = vec![text(&item["name"]), online_of_total(&item["dataplanes"])];
        row.extend(POLICIES.iter().map(|(_, kind)| number(&item["policies"][kind]["total"])));
        row
    })
}

/// Services of a mesh.
pub(crate) fn services(items: &[Value]) -> String {
    rows(&["SERVICE", "STATUS", "DATAPLANES"], items, |item| {
        let status = match text(&item["status"]).as_str() {
            "online" => "Online",
            "partially_degraded" => "Partially degraded",
            _ => "Offline",
        };
        vec![text(&item["name"]), status.to_owned(), online_of_total(&item["dataplanes"])]
    })
}

/// Proxies that a policy acts on.
pub(crate) fn proxies(items: &[Value]) -> String {
    let table = rows(&["Type", "Mesh", "Name"], items, |item| {
        vec![text(&item["type"]), text(&item["mesh"]), text(&item["name"])]
    });
    format!("{table}\nTotal: {}\n", items.len())
}

/// ZoneOverviews.
pub(crate) fn zones(items: &[Value], now: OffsetDateTime) -> String {
    let headers = [
        "NAME",
        "STATUS",
        "LAST CONNECTED AGO",
        "LAST UPDATED AGO",
        "TOTAL UPDATES",
        "TOTAL ERRORS",
        "ZONE-CP VERSION",
        "BACKEND",
    ];
    rows(&headers, items, |item| {
        let insight = Insight(&item["zoneInsight"]);
        // A zone is enabled until somebody disables it.
        let enabled = item["zone"]["enabled"].as_bool() != Some(false);
        let last = insight.last();
        let config = last["config"].as_str().unwrap_or_default();
        let config: Value = serde_json::from_str(config).unwrap_or_default();
        let mut row = vec![text(&item["name"]), status(enabled && insight.is_online())];
        row.extend(insight.activity(now));
        row.push(text(&last["version"]["kumaCp"]["version"]));
        row.push(text(&config["store"]["type"]));
        row
    })
}

/// ZoneIngressOverviews or ZoneEgressOverviews; their insight is in a field of its own name.
pub(crate) fn zone_proxies(items: &[Value], insight: &str, now: OffsetDateTime) -> String {
    let headers = [
        "NAME",
        "STATUS",
        "LAST CONNECTED AGO",
        "LAST UPDATED AGO",
        "TOTAL UPDATES",
        "TOTAL ERRORS",
        "KUMA-DP VERSION",
        "ENVOY VERSION",
    ];
    rows(&headers, items, |item| {
        let insight = Insight(&item[insight]);
        let mut row = vec![text(&item["name"]), status(insight.is_online())];
        row.extend(insight.activity(now));
        row.extend(insight.versions());
        row
    })
}

/// DataplaneOverviews.
pub(crate) fn dataplanes(items: &[Value], now: OffsetDateTime) -> String {
    let headers = [
        "MESH",
        "NAME",
        "TAGS",
        "STATUS",
        "LAST CONNECTED AGO",
        "LAST UPDATED AGO",
        "TOTAL UPDATES",
        "TOTAL ERRORS",
        "CERT REGENERATED AGO",
        "CERT EXPIRATION",
        "CERT REGENERATIONS",
        "CERT BACKEND",
        "SUPPORTED CERT BACKENDS",
        "KUMA-DP VERSION",
        "ENVOY VERSION",
        "DEPENDENCIES VERSIONS",
        "NOTES",
    ];
    rows(&headers, items, |item| {
        let networking = &item["dataplane"]["networking"];
        let insight = Insight(&item["dataplaneInsight"]);
        let sets = list(&networking["inbound"]).map(|inbound| &inbound["tags"]);
        let sets = sets.chain([&networking["gateway"]["tags"]]);
        let (status, notes) = dataplane_status(networking, insight.is_online());
        let mut row = vec![text(&item["mesh"]), text(&item["name"]), tags(sets), status.to_owned()];
        row.extend(insight.activity(now));

        let mtls = &insight.0["mTLS"];
        let supported: Vec<_> = list(&mtls["supportedBackends"]).map(text).collect();
        row.push(ago(&mtls["lastCertificateRegeneration"], now));
        row.push(date(&mtls["certificateExpirationTime"]));
        row.push(number(&mtls["certificateRegenerations"]));
        row.push(if mtls.is_null() { "-".to_owned() } else { text(&mtls["issuedBackend"]) });
        row.push(supported.join(","));

        row.extend(insight.versions());
        let dependencies = insight.last()["version"]["dependencies"].as_object();
        let dependencies: Vec<_> = dependencies
            .into_iter()
            .flatten()
            .map(|(name, version)| format!("{name}: {}", text(version)))
            .collect();
        row.push(if dependencies.is_empty() { "-".to_owned() } else { dependencies.join(", ") });
        row.push(notes.join(";"));
        row
    })
}

/// The state of a Dataplane and what is wrong with it.
///
/// Kuma: pkg/core/resources/apis/mesh/dataplane_overview_helpers.go
fn dataplane_status(networking: &Value, online: bool) -> (&'static str, Vec<String>) {
    if networking["gateway"].is_object() {
        return (if online { "Online" } else { "Offline" }, Vec::new());
    }
    let inbounds = list(&networking["inbound"]).filter(|inbound| {
        let health = &inbound["health"];
        let unhealthy = health.is_object() && health["ready"].as_bool() != Some(true);
        unhealthy || text(&inbound["state"]) == "NotReady"
    });
    let mut notes: Vec<_> = inbounds
        .map(|inbound| {
            let service = text(&inbound["tags"]["kuma.io/service"]);
            format!("inbound[port={},svc={service}] is not ready", number(&inbound["port"]))
        })
        .collect();
    // `Ready` is the state that is not written.
    let listeners = list(&networking["listeners"])
        .filter(|listener| !matches!(text(&listener["state"]).as_str(), "" | "Ready"));
    notes.extend(listeners.map(|listener| {
        let kind = text(&listener["type"]);
        format!("listener[port={},type={kind}] is not ready", number(&listener["port"]))
    }));
    let total = list(&networking["inbound"]).count() + list(&networking["listeners"]).count();
    let ready = total - notes.len();
    let status = match () {
        () if !online || ready == 0 => "Offline",
        () if ready < total => "Partially degraded",
        () => return ("Online", Vec::new()),
    };
    (status, notes)
}

/// An insight with subscriptions.
struct Insight<'a>(&'a Value);

impl Insight<'_> {
    /// Is a connection open?
    fn is_online(&self) -> bool {
        list(&self.0["subscriptions"])
            .any(|s| !s["connectTime"].is_null() && s["disconnectTime"].is_null())
    }

    /// The latest subscription; null without one.
    fn last(&self) -> &Value {
        list(&self.0["subscriptions"]).last().unwrap_or(&Value::Null)
    }

    /// When it was connected and updated, how much was sent and refused.
    fn activity(&self, now: OffsetDateTime) -> [String; 4] {
        let last = self.last();
        let sum = |field: &str| {
            let counts =
                list(&self.0["subscriptions"]).map(|s| count(&s["status"]["total"][field]));
            counts.fold(0, u64::saturating_add).to_string()
        };
        [
            ago(&last["connectTime"], now),
            ago(&last["status"]["lastUpdateTime"], now),
            sum("responsesSent"),
            sum("responsesRejected"),
        ]
    }

    /// Versions of the proxy's two programs.
    fn versions(&self) -> [String; 2] {
        let version = &self.last()["version"];
        [text(&version["kumaDp"]["version"]), text(&version["envoy"]["version"])]
    }
}

fn rows(headers: &[&str], items: &[Value], row: impl Fn(&Value) -> Vec<String>) -> String {
    let mut rows = vec![headers.iter().map(|header| (*header).to_owned()).collect()];
    rows.extend(items.iter().map(row));
    layout(&rows)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn status(online: bool) -> String {
    if online { "Online" } else { "Offline" }.to_owned()
}

/// A number; one of 64 bits is written as a text, and zero is not written.
fn count(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0)
}

fn number(value: &Value) -> String {
    count(value).to_string()
}

fn online_of_total(counts: &Value) -> String {
    format!("{}/{}", count(&counts["online"]), count(&counts["total"]))
}

fn time(value: &Value) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(value.as_str()?, &Rfc3339).ok()
}

fn ago(value: &Value, now: OffsetDateTime) -> String {
    time(value).map_or_else(|| "never".to_owned(), |time| period(time, now))
}

fn date(value: &Value) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    let date =
        time(value).and_then(|time| time.to_offset(time::UtcOffset::UTC).format(&format).ok());
    date.unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);

    /// The columns of a row.
    fn cells(table: &str, row: usize) -> Vec<String> {
        let line = table.lines().nth(row).unwrap();
        line.split("   ").map(str::trim).filter(|c| !c.is_empty()).map(str::to_owned).collect()
    }

    fn subscriptions() -> Value {
        json!([
            {"connectTime": "2026-03-01T10:00:00Z", "disconnectTime": "2026-03-01T10:30:00Z",
                "status": {"total": {"responsesSent": "10", "responsesRejected": "1"}}},
            {"connectTime": "2026-03-01T11:00:00Z",
                "status": {"lastUpdateTime": "2026-03-01T11:59:00Z", "total": {"responsesSent": "5"}},
                "version": {"kumaDp": {"version": "2.14.3"}, "envoy": {"version": "1.38.2"},
                    "kumaCp": {"version": "2.14.3"}, "dependencies": {"coredns": "1.8.3"}},
                "config": "{\"store\": {\"type\": \"postgres\"}}"},
        ])
    }

    #[test]
    fn a_mesh() {
        let items = [json!({"name": "default", "dataplanes": {"total": 3, "online": 2},
            "policies": {"TrafficRoute": {"total": 4}, "RateLimit": {"total": 1}}})];
        assert_eq!(
            cells(&meshes(&items), 1),
            ["default", "2/3", "0", "4", "0", "0", "0", "0", "0", "0", "0", "1"]
        );
        // An empty one is complete too.
        assert_eq!(cells(&meshes(&[json!({"name": "m"})]), 1)[1], "0/0");
    }

    #[test]
    fn states_of_services() {
        let items = [
            json!({"name": "a", "status": "online", "dataplanes": {"online": 1, "total": 1}}),
            json!({"name": "b", "status": "partially_degraded", "dataplanes": {"total": 2}}),
            json!({"name": "c"}),
        ];
        assert_eq!(
            services(&items),
            "SERVICE   STATUS               DATAPLANES\n\
             a         Online               1/1\n\
             b         Partially degraded   0/2\n\
             c         Offline              0/0\n"
        );
    }

    #[test]
    fn a_zone() {
        let insight = json!({"subscriptions": subscriptions()});
        let items = [
            json!({"name": "east", "zone": {}, "zoneInsight": insight}),
            json!({"name": "off", "zone": {"enabled": false}, "zoneInsight": insight}),
            json!({"name": "new", "zone": {}}),
        ];
        let table = zones(&items, NOW);
        assert_eq!(
            cells(&table, 1),
            ["east", "Online", "1h", "1m", "15", "1", "2.14.3", "postgres"]
        );
        assert_eq!(cells(&table, 2)[1], "Offline");
        assert_eq!(cells(&table, 3), ["new", "Offline", "never", "never", "0", "0"]);
    }

    #[test]
    fn a_zone_proxy() {
        let items = [json!({"name": "i", "x": {"subscriptions": subscriptions()}})];
        assert_eq!(
            cells(&zone_proxies(&items, "x", NOW), 1),
            ["i", "Online", "1h", "1m", "15", "1", "2.14.3", "1.38.2"]
        );
    }

    #[test]
    fn a_dataplane() {
        let items = [json!({"mesh": "default", "name": "dp",
            "dataplane": {"networking": {"inbound": [
                {"port": 80, "tags": {"kuma.io/service": "web"}},
                {"port": 81, "tags": {"kuma.io/service": "api"}, "state": "NotReady"}]}},
            "dataplaneInsight": {"subscriptions": subscriptions(), "mTLS": {
                "certificateExpirationTime": "2026-03-02T12:00:00Z",
                "lastCertificateRegeneration": "2026-03-01T09:00:00Z",
                "certificateRegenerations": 2, "issuedBackend": "ca-1",
                "supportedBackends": ["ca-1", "ca-2"]}}})];
        assert_eq!(
            cells(&dataplanes(&items, NOW), 1),
            [
                "default",
                "dp",
                "kuma.io/service=api,web",
                "Partially degraded",
                "1h",
                "1m",
                "15",
                "1",
                "3h",
                "2026-03-02 12:00:00",
                "2",
                "ca-1",
                "ca-1,ca-2",
                "2.14.3",
                "1.38.2",
                "coredns: 1.8.3",
                "inbound[port=81,svc=api] is not ready",
            ]
        );
    }

    #[test]
    fn states_of_dataplanes() {
        let check = |networking: Value, online, want: &str| {
            assert_eq!(dataplane_status(&networking, online).0, want, "{networking}");
        };
        check(json!({"gateway": {}}), true, "Online");
        check(json!({"gateway": {}}), false, "Offline");
        check(json!({"inbound": [{"port": 1}]}), true, "Online");
        check(json!({"inbound": [{"port": 1, "health": {"ready": true}}]}), true, "Online");
        check(json!({"inbound": [{"port": 1, "health": {}}]}), true, "Offline");
        check(json!({"inbound": [{"port": 1}]}), false, "Offline");
        check(json!({"listeners": [{"port": 1}]}), true, "Online");
        check(json!({"listeners": [{"port": 1, "state": "NotReady"}]}), true, "Offline");
        check(json!({}), true, "Offline");
    }

    #[test]
    fn proxies_are_counted() {
        let items = [json!({"type": "Dataplane", "mesh": "m", "name": "a"})];
        assert_eq!(proxies(&items), "Type        Mesh   Name\nDataplane   m      a\n\nTotal: 1\n");
    }
}
