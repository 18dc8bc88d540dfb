//! Recorded exchanges of a real Kuma, played again: statuses, content types and bodies are equal.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use axum::body::Body;
use http::{Method, Request};
use serde_json::{Value, json};
use sunbear_api::{
    PeerAddr,
    defaults::{DefaultsSettings, ensure_defaults},
};
use sunbear_model::Kind;
use sunbear_security::signing_key;
use time::OffsetDateTime;

use super::support::{Cp, Reply, global, zone};

/// Where we answer otherwise on purpose. All other exchanges are equal but for times, ids, names of
/// instances, versions, tokens and the words of Go's JSON parser. (That we refuse writes of anonymous
/// callers does not show here: all exchanges come from the control plane's own host.)
const DELIBERATE: &[(u32, &str)] = &[
    (1, "one more field, with our own version"),
    (40, "one more field, with our own version"),
    (102, "a warning about a field that the type does not have; Kuma drops it silently"),
];

struct Exchange {
    to: String,
    method: Method,
    path: String,
    body: Value,
    status: u16,
    content_type: String,
    answer: Value,
}

fn recorded() -> BTreeMap<u32, Exchange> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/rest");
    let mut exchanges = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        let number = name.split('-').next().unwrap().parse().unwrap();
        let file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let text = |pointer: &str| file.pointer(pointer).unwrap().as_str().unwrap().to_owned();
        let exchange = Exchange {
            to: text("/to"),
            method: text("/request/method").parse().unwrap(),
            path: text("/request/path"),
            body: file["request"]["body"].clone(),
            status: file["response"]["status"].as_u64().unwrap().try_into().unwrap(),
            content_type: text("/response/content_type"),
            answer: file["response"]["body"].clone(),
        };
        exchanges.insert(number, exchange);
    }
    assert_eq!(exchanges.len(), 117);
    exchanges
}

#[tokio::test]
async fn answers_as_recorded() {
    let recorded = recorded();
    let global = global_as_recorded(&recorded).await;
    let zone = zone_as_recorded(&recorded).await;
    let mut differences = Vec::new();
    for (number, exchange) in &recorded {
        let (cp, port) = if exchange.to == "global" { (&global, 5681) } else { (&zone, 15681) };
        let reply = cp.request(request(exchange, port)).await;
        let got =
            (reply.status.as_u16(), reply.header("content-type").to_owned(), seen(*number, &reply));
        let want =
            (exchange.status, exchange.content_type.clone(), wanted(*number, &exchange.answer));
        if (got.0, &got.1) != (want.0, &want.1) {
            differences.push(format!("{number} {}: {} {}", exchange.path, got.0, got.1));
        }
        compare(&format!("{number} {}: ", exchange.path), &got.2, &want.2, &mut differences);
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Names the places where two bodies differ.
pub(crate) fn compare(at: &str, got: &Value, want: &Value, differences: &mut Vec<String>) {
    match (got, want) {
        (Value::Object(g), Value::Object(w)) => {
            let keys: BTreeSet<&String> = g.keys().chain(w.keys()).collect();
            for key in keys {
                let none = Value::String("(absent)".to_owned());
                let (g, w) = (g.get(key).unwrap_or(&none), w.get(key).unwrap_or(&none));
                compare(&format!("{at}/{key}"), g, w, differences);
            }
        }
        (Value::Array(g), Value::Array(w)) if g.len() == w.len() => {
            for (i, (g, w)) in g.iter().zip(w).enumerate() {
                compare(&format!("{at}/{i}"), g, w, differences);
            }
        }
        _ if got != want => differences.push(format!("{at} is {got}, was {want}")),
        _ => {}
    }
}

fn request(exchange: &Exchange, port: u16) -> Request<Body> {
    let mut request = Request::builder()
        .method(exchange.method.clone())
        .uri(&exchange.path)
        .header("host", format!("127.0.0.1:{port}"))
        .extension(PeerAddr("127.0.0.1:40000".parse().unwrap()));
    let mut body = Body::empty();
    if !exchange.body.is_null() {
        request = request.header("content-type", "application/json");
        body = Body::from(exchange.body.to_string());
    }
    request.body(body).unwrap()
}

/// Our body, without what cannot be equal.
fn seen(number: u32, reply: &Reply) -> Value {
    let json = reply.header("content-type") == "application/json";
    let body = if json { reply.json() } else { reply.text.clone().into() };
    let mut body = normal(number, body);
    if DELIBERATE.iter().any(|(n, _)| *n == number) {
        let more = body.as_object_mut().unwrap();
        let more = more.remove("warnings").or_else(|| more.remove("sunbearVersion"));
        let want = match number {
            102 => json!(["unknown field \"unknown\" was ignored"]),
            _ => json!("0.1.0"),
        };
        assert_eq!(more, Some(want));
    }
    body
}

fn wanted(number: u32, body: &Value) -> Value {
    let mut body = normal(number, body.clone());
    if matches!(number, 33 | 34 | 72 | 73) {
        for item in body["items"].as_array_mut().unwrap() {
            item.as_object_mut().unwrap().remove("data");
        }
    }
    body
}

fn normal(number: u32, mut body: Value) -> Value {
    strip(&mut body);
    match number {
        1 | 40 => {
            for key in ["hostname", "instanceId", "clusterId", "version", "gui"] {
                assert!(body.as_object_mut().unwrap().remove(key).is_some(), "{key}");
            }
        }
        103 => {
            // The words of Go's parser.
            let detail = body["detail"].as_str().unwrap().to_owned();
            assert!(detail.starts_with("invalid MeshGatewayRoute object: \""), "{detail}");
            assert_eq!(body["details"], detail.as_str());
            body["detail"] = "".into();
            body["details"] = "".into();
        }
        113 | 114 | 116 | 117 => {
            let token = body.as_str().unwrap();
            assert!(token == "TOKEN" || token.split('.').count() == 3, "{token}");
            body = "TOKEN".into();
        }
        33 | 34 | 72 | 73 => {
            for item in body["items"].as_array_mut().unwrap() {
                item.as_object_mut().unwrap().remove("data");
            }
        }
        _ => {}
    }
    body
}

/// Removes the times of objects. Those inside of insights were stored as they were recorded.
pub(crate) fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("creationTime");
            map.remove("modificationTime");
            map.remove("createdAt");
            map.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

/// A global in the state in which the recordings were made. What a global makes by itself is made,
/// the rest is put through the API or, where it came over other ways, taken from the recordings.
async fn global_as_recorded(recorded: &BTreeMap<u32, Exchange>) -> Cp {
    let cp = Cp::empty(global(), |_| {}).await;
    let settings = DefaultsSettings {
        mode: global(),
        skip_mesh_creation: false,
        skip_hostname_generators: false,
        bootstrap_admin_token: true,
        clock: OffsetDateTime::now_utc,
    };
    ensure_defaults(&cp.world, &settings).await.unwrap();
    for number in [14, 15] {
        let answer = &recorded[&number].answer;
        let object = answer.pointer("/items/0").unwrap_or(answer);
        let kind = Kind::by_name(object["type"].as_str().unwrap()).unwrap();
        let path =
            format!("/meshes/default/{}/{}", kind.row().plural, object["name"].as_str().unwrap());
        assert_eq!(cp.put(&path, object).await.status, 201);
    }
    seed_overviews(&cp, &recorded[&17].answer, Kind::DATAPLANE, Kind::DATAPLANE_INSIGHT).await;
    seed_overviews(&cp, &recorded[&25].answer, Kind::ZONE, Kind::ZONE_INSIGHT).await;
    seed_services(&cp, &recorded[&12].answer).await;
    seed_list(&cp, &recorded[&9].answer).await;
    // Five are the global's own.
    seed_hostname_generators(&cp, 4).await;
    cp
}

/// A zone as its global has filled it.
async fn zone_as_recorded(recorded: &BTreeMap<u32, Exchange>) -> Cp {
    let cp = Cp::empty(zone("east"), |_| {}).await;
    for number in [45, 52, 54, 68, 69, 70, 72, 73] {
        seed_list(&cp, &recorded[&number].answer).await;
    }
    seed_overviews(&cp, &recorded[&56].answer, Kind::DATAPLANE, Kind::DATAPLANE_INSIGHT).await;
    seed_overviews(&cp, &recorded[&64].answer, Kind::ZONE, Kind::ZONE_INSIGHT).await;
    seed_services(&cp, &recorded[&51].answer).await;
    seed_hostname_generators(&cp, 7).await;
    // The recordings do not tell the key.
    let mut key = recorded[&72].answer["items"][0].clone();
    key["data"] = base64(signing_key::generate().unwrap().as_bytes()).into();
    cp.seed(Kind::SECRET, &key).await;
    cp
}

/// Only their number is in the recordings.
async fn seed_hostname_generators(cp: &Cp, number: usize) {
    let kind = Kind::by_name("HostnameGenerator").unwrap();
    for i in 0..number {
        let spec = json!({"template": "{{ .DisplayName }}.mesh", "selector": {}});
        cp.seed(kind, &json!({"name": format!("g-{i}"), "spec": spec})).await;
    }
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

async fn seed_list(cp: &Cp, list: &Value) {
    for item in list["items"].as_array().unwrap() {
        let mut item = item.clone();
        if item["data"] == "REMOVED" {
            item["data"] = base64(b"x").into();
        }
        let kind = Kind::by_name(item["type"].as_str().unwrap()).unwrap();
        cp.seed(kind, &item).await;
    }
}

/// Takes overviews apart and stores their halves.
async fn seed_overviews(cp: &Cp, list: &Value, base: Kind, insight: Kind) {
    for item in list["items"].as_array().unwrap() {
        for kind in [base, insight] {
            let name = kind.name();
            let member = format!("{}{}", name[..1].to_lowercase(), &name[1..]);
            let Some(spec) = item.get(&member) else { continue };
            let mut object = spec.clone();
            for key in ["mesh", "name", "labels"] {
                if let Some(value) = item.get(key) {
                    object[key] = value.clone();
                }
            }
            cp.seed(kind, &object).await;
        }
    }
}

/// Puts the services of a mesh together again.
async fn seed_services(cp: &Cp, list: &Value) {
    let items = list["items"].as_array().unwrap();
    let mut object = json!({"mesh": "default", "name": "all-services-default", "services": {}});
    for item in items {
        let mut service = item.clone();
        let fields = service.as_object_mut().unwrap();
        for key in ["type", "mesh", "creationTime", "modificationTime", "addressPort"] {
            fields.remove(key);
        }
        if let Some(labels) = fields.remove("labels") {
            object["labels"] = labels;
        }
        let name = fields.remove("name").unwrap();
        object["services"][name.as_str().unwrap()] = service;
    }
    cp.seed(Kind::SERVICE_INSIGHT, &object).await;
}
