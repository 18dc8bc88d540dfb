//! The description of the API, and the API held against it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use http::Method;
use serde_json::{Value, json};
use sunbear_api::openapi_document;
use sunbear_model::Kind;

use super::support::{Cp, Reply, global, zone};

const METHODS: [&str; 3] = ["get", "put", "delete"];

fn operations() -> impl Iterator<Item = (&'static String, &'static String, &'static Value)> {
    let paths = openapi_document()["paths"].as_object().unwrap();
    paths.iter().flat_map(|(path, item)| {
        item.as_object().unwrap().iter().map(move |(method, op)| (path, method, op))
    })
}

fn variables(path: &str) -> BTreeSet<&str> {
    path.split('/').filter_map(|s| s.strip_prefix('{')?.strip_suffix('}')).collect()
}

/// Every reference, wherever it is.
fn references<'v>(value: &'v Value, found: &mut BTreeSet<&'v str>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str));
            map.values().for_each(|v| references(v, found));
        }
        Value::Array(items) => items.iter().for_each(|v| references(v, found)),
        _ => {}
    }
}

#[test]
fn the_document_is_well_formed() {
    let document = openapi_document();
    assert_eq!(document["openapi"], "3.1.0");
    for text in ["/info/title", "/info/version"] {
        assert!(!document.pointer(text).unwrap().as_str().unwrap().is_empty());
    }
    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations() {
        let at = format!("{method} {path}");
        assert!(path.starts_with('/'), "{at}");
        assert!(["get", "put", "post", "delete"].contains(&&**method), "{at}");
        assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{at}");
        assert!(operation["summary"].is_string(), "{at}");
        let mut declared = BTreeSet::new();
        let mut names = BTreeSet::new();
        for parameter in operation["parameters"].as_array().unwrap() {
            let name = parameter["name"].as_str().unwrap();
            assert!(parameter["schema"].is_object(), "{at}");
            assert!(names.insert((parameter["in"].as_str().unwrap(), name)), "{at}");
            if parameter["in"] == "path" {
                assert_eq!(parameter["required"], true, "{at}");
                declared.insert(name);
            }
        }
        assert_eq!(declared, variables(path), "{at}");
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.keys().any(|s| s.starts_with('2')), "{at}");
        for (status, response) in responses {
            assert!(status.parse::<u16>().is_ok_and(|s| (200..600).contains(&s)), "{at}");
            assert!(response["description"].is_string(), "{at}");
        }
        let body = operation.get("requestBody").is_some();
        assert_eq!(body, matches!(&**method, "put" | "post"), "{at}");
    }
    let mut found = BTreeSet::new();
    references(document, &mut found);
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some_and(Value::is_object), "{reference}");
    }
}

fn is_routers(reply: &Reply) -> bool {
    reply.text == "404: Page Not Found" || reply.text == "405: Method Not Allowed"
}

#[tokio::test]
async fn every_documented_path_is_served() {
    for mode in [global(), zone("east")] {
        let cp = Cp::new(mode).await;
        let paths = openapi_document()["paths"].as_object().unwrap();
        for (template, item) in paths {
            let path = template.replace("{mesh}", "default").replace("{name}", "x");
            let path = path.replace("{kri}", "kri_m____default_").replace("{route}", "kri_x");
            for method in METHODS {
                let known = item.get(method);
                let method: Method = method.to_uppercase().parse().unwrap();
                let body = (method == Method::PUT).then(|| json!({}));
                let reply = cp.send(method.clone(), &path, body.as_ref()).await;
                let at = format!("{method} {template}: {} {}", reply.status, reply.text);
                match known {
                    None => assert_eq!(reply.text, "405: Method Not Allowed", "{at}"),
                    Some(operation) => {
                        assert!(!is_routers(&reply), "{at}");
                        let status = reply.status.as_str();
                        assert!(operation["responses"].get(status).is_some(), "{at}");
                    }
                }
            }
            if let Some(operation) = item.get("post") {
                let reply = cp.send(Method::POST, &path, Some(&json!({}))).await;
                let status = reply.status.as_str();
                assert!(operation["responses"].get(status).is_some(), "{template} {status}");
            }
        }
    }
    let reply = Cp::new(global()).await.get("/openapi.json").await;
    assert_eq!(&reply.json(), openapi_document());
}

/// The documented path that a path is one of; literal segments win.
pub(crate) fn template(path: &str) -> Option<&'static String> {
    let path = path.split('?').next().unwrap();
    let segments: Vec<&str> = path.split('/').collect();
    let paths = openapi_document()["paths"].as_object().unwrap().keys();
    let fits = |template: &&String| {
        let parts: Vec<&str> = template.split('/').collect();
        parts.len() == segments.len()
            && parts.iter().zip(&segments).all(|(t, s)| t == s || t.starts_with('{'))
    };
    paths.filter(fits).min_by_key(|t| variables(t).len())
}

#[test]
fn recorded_exchanges_are_documented() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/rest");
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let answer = &file["response"];
        if answer["body"] == "404: Page Not Found" {
            continue;
        }
        let path = file["request"]["path"].as_str().unwrap();
        let method = file["request"]["method"].as_str().unwrap().to_lowercase();
        let template = template(path).unwrap_or_else(|| panic!("{path} is not documented"));
        let operation = &openapi_document()["paths"][template][&method];
        let status = answer["status"].to_string();
        assert!(operation["responses"].get(&status).is_some(), "{method} {template} {status}");
        check_answer(&method, path, &status, &answer["body"]);
        *seen.entry(template.clone()).or_default() += 1;
    }
    assert!(seen.len() > 30);
}

#[test]
fn all_types_are_documented() {
    for kind in Kind::all().filter(|kind| !kind.row().plural.is_empty()) {
        let path = format!("/{}", kind.row().plural);
        assert!(openapi_document()["paths"].get(&path).is_some(), "{path}");
        assert!(openapi_document()["components"]["schemas"].get(kind.name()).is_some());
    }
}

/// Does an answer fit its description?
#[track_caller]
pub(crate) fn check_answer(method: &str, path: &str, status: &str, body: &Value) {
    let template = template(path).unwrap_or_else(|| panic!("{path} is not documented"));
    let operation = &openapi_document()["paths"][template][method.to_lowercase()];
    let response = operation["responses"].get(status);
    let response = response.unwrap_or_else(|| panic!("{method} {template}: {status}: {body}"));
    let schema = &response["content"]["application/json"]["schema"];
    if body.is_string() {
        // The router's own words, and answers of Envoys and issuers.
        assert!(schema.is_null() || status == "404", "{method} {path} {status}: {body}");
        return;
    }
    let mut faults = Vec::new();
    validate("", schema, body, &mut faults);
    assert!(faults.is_empty(), "{method} {path} {status}: {faults:?}: {body}");
    // And every item of a list is of the list's type.
    let items = body["items"].as_array().map_or(&[][..], Vec::as_slice);
    for item in items {
        let schemas = &openapi_document()["components"]["schemas"];
        if let Some(schema) = item["type"].as_str().and_then(|name| schemas.get(name)) {
            validate("item", schema, item, &mut faults);
        }
    }
    assert!(faults.is_empty(), "{method} {path} {status}: {faults:?}: {body}");
}

/// The part of JSON Schema that the document is written in.
fn validate(at: &str, schema: &Value, value: &Value, faults: &mut Vec<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = openapi_document().pointer(reference.strip_prefix('#').unwrap()).unwrap();
        return validate(at, target, value, faults);
    }
    if let Some(forms) = schema["anyOf"].as_array() {
        let fits = |form: &Value| {
            let mut faults = Vec::new();
            validate(at, form, value, &mut faults);
            faults.is_empty()
        };
        if !forms.iter().any(fits) {
            faults.push(format!("{at}: is not any of {schema}"));
        }
        return;
    }
    let is = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "null" => value.is_null(),
        other => panic!("type {other} is not looked at"),
    };
    let fits = match &schema["type"] {
        Value::Null => true,
        Value::String(name) => is(name),
        Value::Array(names) => names.iter().any(|name| is(name.as_str().unwrap())),
        other => panic!("{other}"),
    };
    let constant = schema.get("const").is_none_or(|c| c == value);
    let listed = schema["enum"].as_array().is_none_or(|e| e.contains(value));
    let limit = schema["maxLength"].as_u64().map_or(usize::MAX, |l| l.try_into().unwrap());
    let short = value.as_str().is_none_or(|text| text.len() <= limit);
    if !(fits && constant && listed && short) {
        faults.push(format!("{at}: {value} is not {schema}"));
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        if value.get(name.as_str().unwrap()).is_none() {
            faults.push(format!("{at}: {name} is missing"));
        }
    }
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        if let Some(value) = value.get(name) {
            validate(&format!("{at}/{name}"), schema, value, faults);
        }
    }
    if let (Some(schema), Some(items)) = (schema.get("items"), value.as_array()) {
        items.iter().for_each(|item| validate(&format!("{at}[]"), schema, item, faults));
    }
    if let (Some(schema), Some(map)) = (schema.get("additionalProperties"), value.as_object()) {
        map.values().for_each(|value| validate(&format!("{at}{{}}"), schema, value, faults));
    }
}

#[test]
fn answers_that_do_not_fit_are_found() {
    let list = &openapi_document()["components"]["schemas"]["List"];
    let faults = |value: Value| {
        let mut faults = Vec::new();
        validate("", list, &value, &mut faults);
        faults.len()
    };
    assert_eq!(faults(json!({"total": 1, "items": [{}], "next": null})), 0);
    assert_eq!(faults(json!({"items": [{}], "next": null})), 1);
    assert_eq!(faults(json!({"total": "1", "items": ["x"], "next": 1})), 3);
}
