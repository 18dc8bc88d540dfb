//! Kuma's own snapshots.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};
use sunbear_proto::json;
use sunbear_xds::{
    Generated, Proxy, ResourceType, SecretRequest, Settings, XdsResource, ca_secret,
    certificate_secret, generate,
};

use crate::world::World;

/// How many cases there are in the copy of this crate.
const COUNT: usize = 70;

#[test]
fn kuma_snapshots() {
    let folder = folder();
    let cases = cases(&folder);
    if std::env::var_os(CASES).is_none() {
        assert_eq!(cases.len(), COUNT);
    }
    assert!(!cases.is_empty(), "no cases in {}", folder.display());
    let failed: Vec<String> = cases
        .iter()
        .filter_map(|(name, path)| Some(format!("{name}: {}", check(path).err()?)))
        .collect();
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), cases.len(), failed.join("\n"));
}

/// Points the suite at another folder of the same form.
const CASES: &str = "SUNBEAR_GATEWAY_CASES";

fn folder() -> PathBuf {
    match std::env::var_os(CASES) {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/gateway"),
    }
}

/// What is generated for all cases, by name; without secrets that others provide.
pub(crate) fn generate_cases() -> BTreeMap<String, Generated> {
    let cases = cases(&folder());
    cases.into_iter().map(|(name, path)| (name, generate_case(&path).unwrap())).collect()
}

/// Case folders by `kind/case`.
fn cases(folder: &Path) -> BTreeMap<String, PathBuf> {
    let mut cases = BTreeMap::new();
    let folders = |path: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        entries.map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect()
    };
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    for kind in folders(folder) {
        for case in folders(&kind) {
            cases.insert(format!("{}/{}", name(&kind), name(&case)), case);
        }
    }
    cases
}

/// Generates for the proxy of a case and compares with its snapshot.
fn check(case: &Path) -> Result<(), String> {
    let mut got = snapshot(&with_secrets(generate_case(case)?));
    let mut want = read_yaml(&case.join("expected.yaml"));
    for snapshot in [&mut got, &mut want] {
        equal_weights(snapshot);
    }
    difference("", &want, &got).map_or(Ok(()), Err)
}

fn read_yaml(path: &Path) -> Value {
    serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn generate_case(case: &Path) -> Result<Generated, String> {
    let about = read_yaml(&case.join("case.yaml"));
    let text = |key: &str| about["proxy"][key].as_str().unwrap().to_owned();
    let world = World::read(&fs::read_to_string(case.join("input.yaml")).unwrap());
    let proxy = Proxy { mesh: text("mesh"), name: text("name"), ..Proxy::default() };
    let settings = Settings { zone: "default".to_owned(), ..Settings::default() };
    generate(&world, &settings, &proxy).map_err(|e| e.to_string())
}

/// Adds the secrets that the cases assume.
fn with_secrets(mut generated: Generated) -> Generated {
    for request in &generated.secrets {
        let name = request.name();
        let secret = match request {
            SecretRequest::Identity { .. } => certificate_secret(&name, b"CERT", b"KEY"),
            SecretRequest::MeshCa { .. } => ca_secret(&name, b"CA"),
            SecretRequest::AllMeshCas => ca_secret(&name, b"combined"),
        };
        generated.resources.insert(ResourceType::Secret, secret);
    }
    generated
}

/// The resources in the form of the snapshots.
pub(crate) fn snapshot(generated: &Generated) -> Value {
    let resources = |resource_type: ResourceType| {
        let list = generated.resources.iter(resource_type);
        let map: Map<String, Value> = list.map(|r| (r.name.clone(), to_json(r))).collect();
        json!({ "Resources": map })
    };
    json!({
        "Clusters": resources(ResourceType::Cluster),
        "Endpoints": resources(ResourceType::Endpoint),
        "Listeners": resources(ResourceType::Listener),
        "Routes": resources(ResourceType::Route),
        "Runtimes": resources(ResourceType::Runtime),
        "Secrets": resources(ResourceType::Secret),
    })
}

/// A resource as protobuf JSON.
pub(crate) fn to_json(resource: &XdsResource) -> Value {
    let name = resource.any.type_url.strip_prefix("type.googleapis.com/").unwrap();
    json::write(name, &resource.any.value).unwrap()
}

/// Weighted clusters without any weight get one each: Envoy refuses what the snapshots have there.
fn equal_weights(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(clusters) =
                map.get_mut("weightedClusters").and_then(|w| w["clusters"].as_array_mut())
                && clusters.iter().all(|c| c.get("weight").is_none())
            {
                for cluster in clusters {
                    cluster["weight"] = json!(1);
                }
            }
            map.values_mut().for_each(equal_weights);
        }
        Value::Array(list) => list.iter_mut().for_each(equal_weights),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The first difference, with its path.
pub(crate) fn difference(path: &str, want: &Value, got: &Value) -> Option<String> {
    match (want, got) {
        (Value::Object(want), Value::Object(got)) => {
            let missing = want.keys().find(|k| !got.contains_key(*k));
            let extra = got.keys().find(|k| !want.contains_key(*k));
            if let Some(key) = missing {
                return Some(format!("{path}.{key} is missing"));
            }
            if let Some(key) = extra {
                return Some(format!("{path}.{key} is too much: {}", got[key]));
            }
            want.iter().find_map(|(k, v)| difference(&format!("{path}.{k}"), v, &got[k]))
        }
        (Value::Array(want), Value::Array(got)) if want.len() == got.len() => want
            .iter()
            .zip(got)
            .enumerate()
            .find_map(|(i, (w, g))| difference(&format!("{path}[{i}]"), w, g)),
        (Value::Number(want), Value::Number(got)) if want.as_f64() == got.as_f64() => None,
        (want, got) if want == got => None,
        (want, got) => Some(format!("{path}: expected {want}, got {got}")),
    }
}
