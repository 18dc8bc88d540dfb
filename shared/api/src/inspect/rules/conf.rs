//! What items of policies say, and what they say together.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sunbear_model::{
    Kind, label,
    matching::{self, Item},
    tags::Tags,
};

/// The configuration of an item. Routes have rules instead.
pub(super) fn conf_of(kind: Kind, item: &Item<'_>) -> Value {
    let rules = item.value.get("rules").and_then(Value::as_array);
    match kind.name() {
        "MeshHTTPRoute" => {
            let mut conf = json!({"rules": rules.cloned().unwrap_or_default()});
            if let Some(names) = item.value.get("hostnames").and_then(Value::as_array)
                && !names.is_empty()
            {
                conf["hostnames"] = names.clone().into();
            }
            conf
        }
        "MeshTCPRoute" => match rules.and_then(|r| r.first()) {
            Some(rule) => rule.clone(),
            None => {
                let mut backend = item.value.get("targetRef").cloned().unwrap_or(json!({}));
                backend["weight"] = 1.into();
                json!({"default": {"backendRefs": [backend]}})
            }
        },
        _ => item.conf().clone(),
    }
}

/// Configurations that are laid over each other in order. Those of HTTP routes are one for each set
/// of host names, those with host names first.
pub(super) fn merged_confs(kind: Kind, confs: Vec<Value>) -> Vec<Value> {
    if kind.name() != "MeshHTTPRoute" {
        let mut merged = Value::Null;
        confs.iter().for_each(|conf| matching::merge(&mut merged, conf));
        return if confs.is_empty() { Vec::new() } else { vec![merged] };
    }
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for conf in confs {
        let names = conf.get("hostnames").cloned().unwrap_or(Value::Null);
        let at = groups.iter().position(|(n, _)| *n == names).unwrap_or_else(|| {
            groups.push((names, Vec::new()));
            groups.len() - 1
        });
        // The first rule of a route counts most, and so does the last policy: backwards, both are
        // one order.
        for rule in conf["rules"].as_array().into_iter().flatten().rev() {
            let rules = &mut groups[at].1;
            match rules.iter_mut().find(|r| r["matches"] == rule["matches"]) {
                Some(known) => matching::merge(known, rule),
                None => rules.push(rule.clone()),
            }
        }
    }
    groups.sort_by_key(|(names, _)| names.is_null());
    groups
        .into_iter()
        .map(|(names, mut rules)| {
            rules.reverse();
            let mut conf = json!({"rules": rules});
            if !names.is_null() {
                conf["hostnames"] = names;
            }
            conf
        })
        .collect()
}

/// The name of the conditions of an HTTP rule: a hash of their JSON text with keys in a fixed order.
pub(super) fn hash_matches(matches: &Value) -> String {
    let mut text = String::new();
    write_ordered(matches, &mut text);
    STANDARD.encode(Sha256::digest(text.as_bytes()))
}

/// Keys in the order in which conditions are declared; others follow.
fn write_ordered(value: &Value, out: &mut String) {
    const ORDER: [&str; 7] = ["path", "method", "queryParams", "headers", "type", "name", "value"];
    match value {
        Value::Object(map) => {
            let rank = |key: &str| ORDER.iter().position(|k| *k == key).unwrap_or(ORDER.len());
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_by_key(|key| (rank(key), (*key).clone()));
            out.push('{');
            for (i, key) in keys.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write_ordered(&map[key], out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_ordered(item, out);
            }
            out.push(']');
        }
        Value::Null => out.push_str("null"),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => out.push_str(&value.to_string()),
    }
}

/// The name of the cluster for these tags: the service, with a hash if there are others.
pub(super) fn cluster_name(tags: &Tags) -> String {
    use std::fmt::Write as _;
    let service = tags.get(label::SERVICE_TAG).map_or("", String::as_str);
    if service.is_empty() || tags.len() == 1 {
        return service.to_owned();
    }
    let mut hash = Sha256::new();
    for (key, value) in tags {
        hash.update(key.as_bytes());
        hash.update(value.as_bytes());
    }
    let mut name = format!("{service}-");
    for byte in hash.finalize().iter().take(8) {
        // Writing to a String cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_conditions() {
        let matches = json!([{"headers": [{"name": "foo", "value": "bar", "type": "Exact"}]}]);
        assert_eq!(hash_matches(&matches), "yM0/dbXyGi3nh/16+QCWa0maH7RkPXftZ4fkR+vFOjA=");
    }

    #[test]
    fn http_routes_together() {
        let kind = Kind::by_name("MeshHTTPRoute").unwrap();
        let rule = |path: &str, to: &str| json!({"matches": [path], "default": {"to": to}});
        let confs = vec![
            json!({"rules": [rule("/a", "1"), rule("/b", "1")]}),
            json!({"rules": [rule("/c", "2")], "hostnames": ["x"]}),
            json!({"rules": [rule("/d", "3"), rule("/b", "3")]}),
        ];
        let want = [
            json!({"rules": [rule("/c", "2")], "hostnames": ["x"]}),
            json!({"rules": [rule("/d", "3"), rule("/a", "1"), rule("/b", "3")]}),
        ];
        assert_eq!(merged_confs(kind, confs), want);
    }
}
