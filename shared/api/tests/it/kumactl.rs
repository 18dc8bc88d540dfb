//! Every command of kumactl 2.14.3, as the requests that it makes over a real connection: paths,
//! queries, headers, bodies, their order, the version handshake. Answers equal those of Kuma.

use std::{collections::BTreeSet, fs, sync::Arc};

use serde_json::{Value, json};
use sunbear_api::defaults::{DefaultsSettings, MeshDefaults, ensure_defaults};
use sunbear_model::{Kind, ResourceKey, label, rest};
use sunbear_security::signing_key;
use sunbear_store::{Change, Operation, StatusChange};
use time::OffsetDateTime;

use super::{
    openapi::check_answer,
    replay::{base64, compare, strip},
    socket::{exchange, serve},
    support::{Cp, global, zone},
};

const USER_AGENT: &str = "kumactl/2.14.3 (linux; amd64; Kuma/unknown)";

/// Where answers are not Kuma's, each with the reason. A path matches if it begins so.
const OTHERWISE: &[(&str, &str)] = &[
    (
        "GET global /meshes/demo/meshtimeouts/mt/-resources/dataplanes",
        "kumactl's spelling of a path that Kuma does not serve",
    ),
    (
        "GET zone /meshes/demo/meshtimeouts/mt/-resources/dataplanes",
        "kumactl's spelling of a path that Kuma does not serve",
    ),
    ("DELETE zone /meshes/demo/workloads/wl", "Kuma's own generator had deleted it already"),
];

/// Parts that other components of Kuma compute from Dataplanes. Ours do not do that yet.
fn computed(value: &mut Value) {
    match value {
        Value::Object(map) => {
            let kind = map.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
            if matches!(&*kind, "MeshService" | "Workload") {
                assert!(map.remove("status").is_some_and(|s| s["dataplaneProxies"].is_object()));
            }
            if kind == "MeshService" {
                let spec = map.get_mut("spec").and_then(Value::as_object_mut).unwrap();
                spec.remove("state");
                spec.remove("identities");
            }
            map.remove("availableServices");
            map.values_mut().for_each(computed);
        }
        Value::Array(items) => items.iter_mut().for_each(computed),
        _ => {}
    }
}

fn lines() -> Vec<Value> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/kumactl/commands.jsonl");
    fs::read_to_string(file).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// An answer as it came over the wire.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

/// A request as kumactl writes it.
async fn ask(address: &str, method: &str, path: &str, accept: &str, body: &Value) -> Answer {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n");
    request += &format!("User-Agent: {USER_AGENT}\r\n");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    if !body.is_empty() {
        request += &format!("Content-Length: {}\r\n", body.len());
    }
    if !accept.is_empty() {
        request += &format!("Accept: {accept}\r\n");
    }
    if !body.is_empty() {
        request += "Content-Type: application/json\r\n";
    }
    // The one header that is ours, so that the end of the answer is seen.
    request += "Accept-Encoding: gzip\r\nConnection: close\r\n\r\n";
    let text = exchange(address, format!("{request}{body}").as_bytes()).await;
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

#[tokio::test]
async fn commands() {
    let planes = [new_global().await, new_zone().await];
    let addresses = [serve(&planes[0]).await, serve(&planes[1]).await];
    let index = |name: &Value| usize::from(name == "zone");
    let mut differences = Vec::new();
    let mut verbs = BTreeSet::new();
    let mut number = 0;
    for line in lines() {
        if let Some(to) = line.get("seed") {
            for object in line["objects"].as_array().unwrap() {
                seed(&planes[index(to)], object).await;
            }
            continue;
        }
        if line.get("forget").is_some() {
            forget(&planes[0]).await;
            continue;
        }
        let (to, command) = (&line["to"], line["command"].as_str().unwrap());
        verbs.insert(command.split(' ').next().unwrap().to_owned());
        for wanted in line["exchanges"].as_array().unwrap() {
            number += 1;
            let text = |key: &str| wanted[key].as_str().unwrap_or_default();
            let (method, path) = (text("method"), text("path"));
            let at = format!("{command} [{} {method} {path}]", to.as_str().unwrap());
            let address = &addresses[index(to)];
            let got = ask(address, method, path, text("accept"), &wanted["body"]).await;
            let place = format!("{method} {} {path}", to.as_str().unwrap());
            if OTHERWISE.iter().any(|(start, _)| place.starts_with(start)) {
                continue;
            }
            if u64::from(got.status) != wanted["status"] {
                differences
                    .push(format!("{at}: {}, was {}: {}", got.status, wanted["status"], got.body));
                continue;
            }
            if got.status != 404 || got.head.contains("application/json") {
                let body = serde_json::from_str(&got.body).unwrap_or(Value::from(&*got.body));
                check_answer(method, path, &got.status.to_string(), &body);
            }
            check(&at, path, address, &got, wanted.get("answer"), &mut differences);
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    let all = ["apply", "delete", "export", "generate", "get", "inspect", "version"];
    assert!(verbs.iter().map(String::as_str).eq(all), "{verbs:?}");
    assert!(number > 900, "{number}");
}

/// Is it what kumactl can work with, and what Kuma answered?
fn check(
    at: &str,
    path: &str,
    address: &str,
    got: &Answer,
    wanted: Option<&Value>,
    differences: &mut Vec<String>,
) {
    let json = got.head.contains("content-type: application/json");
    let mut body = if json {
        serde_json::from_str(&got.body.replace(address, "HOST")).unwrap()
    } else {
        Value::from(got.body.as_str())
    };
    if path == "/" {
        // The handshake: the words are compared, and nothing but them.
        assert_eq!(
            (&body["product"], &body["version"]),
            (&json!("Kuma"), &json!("2.14.3")),
            "{at}"
        );
        return;
    }
    if path == "/_resources" || wanted.is_none() {
        assert!(json, "{at}");
    }
    let Some(wanted) = wanted else { return };
    let mut wanted = wanted.clone();
    if wanted == "TOKEN" {
        assert_eq!(got.body.split('.').count(), 3, "{at}");
        return;
    }
    for value in [&mut body, &mut wanted] {
        strip(value);
        computed(value);
        blank_secrets(value);
    }
    compare(&format!("{at} "), &body, &wanted, differences);
}

/// Values of secrets are each control plane's own.
fn blank_secrets(value: &mut Value) {
    let Some(map) = value.as_object_mut() else { return };
    if let Some(items) = map.get_mut("items").and_then(Value::as_array_mut) {
        items.iter_mut().for_each(blank_secrets);
    }
    let secret = matches!(map.get("type").and_then(Value::as_str), Some("Secret" | "GlobalSecret"));
    if secret && map.get("data").and_then(Value::as_str) != Some("aGVsbG8=") {
        map.insert("data".to_owned(), "REMOVED".into());
    }
}

async fn new_global() -> Cp {
    let cp = Cp::empty(global(), |api| api.hooks = Arc::new(MeshDefaults { mode: global() })).await;
    let settings = DefaultsSettings {
        mode: global(),
        skip_mesh_creation: false,
        skip_hostname_generators: false,
        bootstrap_admin_token: true,
        clock: OffsetDateTime::now_utc,
    };
    ensure_defaults(&cp.world, &settings).await.unwrap();
    // Control planes of Kuma talk to one another with it; ours share a database.
    cp.seed(Kind::GLOBAL_SECRET, &json!({"name": "inter-cp-ca", "data": "eA=="})).await;
    cp
}

async fn new_zone() -> Cp {
    Cp::empty(zone("east"), |_| {}).await
}

async fn seed(cp: &Cp, object: &Value) {
    let mut object = object.clone();
    if object["data"] == "REMOVED" {
        let key = signing_key::generate().unwrap();
        object["data"] = base64(key.as_bytes()).into();
    }
    let kind = Kind::by_name(object["type"].as_str().unwrap()).unwrap();
    let wanted = rest::read_as(kind, &object).unwrap();
    let key = ResourceKey::new(kind, &wanted.mesh, &wanted.name);
    let mut change = Change::put(key, wanted.spec, wanted.labels);
    if let (Some(new), Operation::Put { status, .. }) = (object.get("status"), &mut change.op) {
        *status = StatusChange::Set(Some(new.to_string().into_bytes().into()));
    }
    cp.commit(vec![change]).await;
}

/// What the zone has is gone, and so are its proxies' insights.
async fn forget(cp: &Cp) {
    let snapshot = cp.world.snapshot();
    let gone = |r: &sunbear_model::Resource| {
        r.label(label::ORIGIN) == Some(label::ORIGIN_ZONE) || r.key.kind == Kind::DATAPLANE_INSIGHT
    };
    let changes = snapshot.iter().filter(|r| gone(r)).map(|r| Change::delete(r.key.clone()));
    let changes: Vec<Change> = changes.collect();
    assert!(!changes.is_empty());
    cp.commit(changes).await;
}

/// What kumactl dereferences without a look must be there, even where there is nothing.
#[tokio::test]
async fn what_kumactl_panics_without() {
    let cp = Cp::new(global()).await;
    cp.seed(Kind::ZONE, &json!({"name": "east"})).await;
    cp.seed(Kind::by_name("MeshInsight").unwrap(), &json!({"name": "default"})).await;
    let services = json!({"mesh": "default", "name": "all-services-default", "services": {
        "a": {}, "b": {"serviceType": "external"},
    }});
    cp.seed(Kind::SERVICE_INSIGHT, &services).await;
    let address = serve(&cp).await;
    let get = async |path: &str| -> Value {
        let answer = ask(&address, "GET", path, "application/json", &Value::Null).await;
        assert_eq!(answer.status, 200, "{path}");
        serde_json::from_str(&answer.body).unwrap()
    };
    let zones = get("/zones/_overview").await;
    assert!(zones["items"][0]["zone"].is_object(), "{zones}");
    assert!(get("/zones/east/_overview").await["zone"].is_object());
    for path in ["/mesh-insights", "/mesh-insights/default"] {
        let insight = get(path).await;
        let item = insight.pointer("/items/0").unwrap_or(&insight);
        assert!(item["dataplanes"].is_object(), "{insight}");
    }
    for path in ["/service-insights", "/meshes/default/service-insights"] {
        let insights = get(path).await;
        assert_eq!(insights["total"], 2);
        for item in insights["items"].as_array().unwrap() {
            assert!(item["dataplanes"].is_object(), "{item}");
        }
    }
    assert!(get("/meshes/default/service-insights/unknown").await["dataplanes"].is_object());
}
