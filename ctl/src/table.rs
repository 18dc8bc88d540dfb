//! Resources as tables.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sunbear_model::Kind;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::output::printable;

/// A table of resources of one type, with the columns that `kumactl` has.
pub(crate) fn resources(kind: Kind, items: &[Value], now: OffsetDateTime) -> String {
    let headers: &[&str] = match kind {
        Kind::MESH => &["NAME", "mTLS", "LOCALITY", "ZONEEGRESS", "AGE"],
        Kind::DATAPLANE | Kind::EXTERNAL_SERVICE => &["MESH", "NAME", "TAGS", "ADDRESS", "AGE"],
        kind if kind.is_mesh_scoped() => &["MESH", "NAME", "AGE"],
        _ => &["NAME", "AGE"],
    };
    let mut rows = vec![headers.iter().map(|h| (*h).to_owned()).collect()];
    for item in items {
        let (mesh, name) = (text(&item["mesh"]), text(&item["name"]));
        let age = age(&item["modificationTime"], now);
        rows.push(match kind {
            Kind::MESH => {
                let routing = &item["routing"];
                let locality = on_off(&routing["localityAwareLoadBalancing"]);
                vec![name, mtls(&item["mtls"]), locality, on_off(&routing["zoneEgress"]), age]
            }
            Kind::DATAPLANE => {
                let networking = &item["networking"];
                let address = match text(&networking["advertisedAddress"]) {
                    address if address.is_empty() => text(&networking["address"]),
                    address => address,
                };
                let inbounds = networking["inbound"].as_array().into_iter().flatten();
                let all = inbounds.map(|i| &i["tags"]).chain([&networking["gateway"]["tags"]]);
                vec![mesh, name, tags(all), address, age]
            }
            Kind::EXTERNAL_SERVICE => {
                let address = text(&item["networking"]["address"]);
                vec![mesh, name, tags([&item["tags"]]), address, age]
            }
            kind if kind.is_mesh_scoped() => vec![mesh, name, age],
            _ => vec![name, age],
        });
    }
    layout(&rows)
}

/// Columns side by side, three blanks apart.
pub(crate) fn layout(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns)
        .map(|i| rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in rows {
        let line: Vec<_> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        out.push_str(line.join("   ").trim_end());
        out.push('\n');
    }
    out
}

pub(crate) fn text(value: &Value) -> String {
    printable(value.as_str().unwrap_or_default()).replace('\n', " ")
}

fn on_off(value: &Value) -> String {
    if value.as_bool() == Some(true) { "on" } else { "off" }.to_owned()
}

/// Type and name of the backend in use.
fn mtls(mtls: &Value) -> String {
    let enabled = text(&mtls["enabledBackend"]);
    let mut backends = mtls["backends"].as_array().into_iter().flatten();
    match backends.find(|b| text(&b["name"]) == enabled) {
        Some(backend) => format!("{}/{enabled}", text(&backend["type"])),
        None => "off".to_owned(),
    }
}

/// All values of all tags.
pub(crate) fn tags<'a>(sets: impl IntoIterator<Item = &'a Value>) -> String {
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (key, value) in sets.into_iter().filter_map(Value::as_object).flatten() {
        all.entry(printable(key)).or_default().insert(text(value));
    }
    let tags: Vec<_> = all
        .into_iter()
        .map(|(key, values)| format!("{key}={}", Vec::from_iter(values).join(",")))
        .collect();
    tags.join(" ")
}

/// How old something is that was made at that time.
fn age(since: &Value, now: OffsetDateTime) -> String {
    let since = since.as_str().and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
    match since {
        Some(since) => period(since, now),
        None => "unknown".to_owned(),
    }
}

/// How long ago something was.
pub(crate) fn period(since: OffsetDateTime, now: OffsetDateTime) -> String {
    // Clocks differ a little.
    let seconds = (now - since).whole_seconds().max(0);
    let (minute, hour, day) = (60, 60 * 60, 24 * 60 * 60);
    match seconds {
        s if s < minute => format!("{s}s"),
        s if s < hour => format!("{}m", s / minute),
        s if s < day => format!("{}h", s / hour),
        s if s < 365 * day => format!("{}d", s / day),
        s => format!("{}y", s / (365 * day)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);

    #[test]
    fn meshes() {
        let items = [
            json!({"name": "default", "modificationTime": "2026-03-01T11:59:30.5Z"}),
            json!({"name": "m", "modificationTime": "2024-01-01T00:00:00Z",
                "mtls": {"enabledBackend": "b", "backends": [{"name": "b", "type": "builtin"}]},
                "routing": {"zoneEgress": true}}),
        ];
        assert_eq!(
            resources(Kind::MESH, &items, NOW),
            "NAME      mTLS        LOCALITY   ZONEEGRESS   AGE\n\
             default   off         off        off          29s\n\
             m         builtin/b   off        on           2y\n"
        );
    }

    #[test]
    fn dataplanes() {
        let items = [
            json!({"mesh": "default", "name": "dp", "modificationTime": "2026-03-01T09:00:00Z",
            "networking": {"address": "10.0.0.1", "inbound": [
                {"tags": {"kuma.io/service": "web", "v": "1"}}, {"tags": {"kuma.io/service": "api"}}]}}),
        ];
        assert_eq!(
            resources(Kind::DATAPLANE, &items, NOW),
            "MESH      NAME   TAGS                          ADDRESS    AGE\n\
             default   dp     kuma.io/service=api,web v=1   10.0.0.1   3h\n"
        );
    }

    #[test]
    fn others() {
        assert_eq!(resources(Kind::MESH_GATEWAY, &[], NOW), "MESH   NAME   AGE\n");
        let items = [json!({"name": "z\u{1b}[1m\n", "modificationTime": "soon"})];
        assert_eq!(resources(Kind::ZONE, &items, NOW), "NAME     AGE\nz [1m    unknown\n");
    }
}
