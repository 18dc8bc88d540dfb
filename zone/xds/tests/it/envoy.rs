//! A real Envoy takes what is generated. Needs `SUNBEAR_ENVOY` or `ENVOY_BIN`, the path of an Envoy
//! binary.

use std::{ffi::OsString, fs, path::Path, process::Command};

use prost::{Message, Name};
use serde_json::{Map, Value, json};
use sunbear_proto::envoy::{
    config::listener::v3::{Listener, filter},
    extensions::filters::network::http_connection_manager::v3::{
        HttpConnectionManager, http_filter,
    },
};
use sunbear_xds::{
    Generated, ResourceType, SecretRequest, XdsResource, ca_secret, certificate_secret, generate,
};

use crate::{
    build::{gateway, generated, gw, route, settings, to_echo, world},
    certs,
    golden::{generate_cases, to_json},
    random::{self, Material},
};

/// Sets in the random test, unless `SUNBEAR_PROPERTY_SETS` says so.
const SETS: u64 = 25;

/// Sets that one start of Envoy reads.
const BATCH: usize = 40;

fn envoy() -> Option<OsString> {
    let envoy = ["SUNBEAR_ENVOY", "ENVOY_BIN"].into_iter().find_map(std::env::var_os);
    if envoy.is_none() {
        println!(
            "SKIPPED: neither SUNBEAR_ENVOY nor ENVOY_BIN is set, no Envoy has seen the output"
        );
    }
    envoy
}

/// What one proxy gets as the static part of a bootstrap. `number` keeps names and addresses apart
/// from those of other proxies.
fn static_part(generated: &Generated, number: usize) -> Value {
    let mut generated = generated.clone();
    let pair = certs::rsa();
    for request in &generated.secrets {
        let (name, certificate) = (request.name(), pair.certificate.as_bytes());
        let secret = match request {
            SecretRequest::Identity { .. } => {
                certificate_secret(&name, certificate, pair.key.as_bytes())
            }
            SecretRequest::MeshCa { .. } | SecretRequest::AllMeshCas => {
                ca_secret(&name, certificate)
            }
        };
        generated.resources.insert(ResourceType::Secret, secret);
    }
    let all = |resource_type| -> Map<String, Value> {
        let list = generated.resources.iter(resource_type);
        list.map(|r| (r.name.clone(), envoy_json(r))).collect()
    };
    let (routes, endpoints) = (all(ResourceType::Route), all(ResourceType::Endpoint));
    let mut clusters: Vec<Value> = all(ResourceType::Cluster).into_values().collect();
    for cluster in &mut clusters {
        if cluster["type"] == "EDS" {
            cluster["type"] = json!("STATIC");
            cluster["loadAssignment"] = endpoints[cluster["name"].as_str().unwrap()].clone();
            cluster.as_object_mut().unwrap().remove("edsClusterConfig");
        }
    }
    let mut listeners: Vec<Value> = all(ResourceType::Listener).into_values().collect();
    for listener in &mut listeners {
        embed(listener, &routes, number);
    }
    // Envoy refuses static chains without filters; over LDS it takes them.
    listeners.retain(|l| !l["filterChains"].as_array().unwrap().is_empty());
    let mut part = json!({
        "clusters": clusters, "listeners": listeners,
        "secrets": all(ResourceType::Secret).into_values().collect::<Vec<_>>(),
    });
    without_sds(&mut part);
    apart(&part, &generated, number)
}

/// A message of a type that only Envoy knows.
#[derive(Clone, PartialEq, prost::Message)]
struct TypedStruct {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(message, optional, tag = "2")]
    value: Option<prost_types::Struct>,
}

const TYPED_STRUCT: &str = "type.googleapis.com/xds.type.v3.TypedStruct";
const STRUCT: &str = "type.googleapis.com/google.protobuf.Struct";

/// A resource as JSON, with HTTP filters of types that only Envoy knows.
fn envoy_json(resource: &XdsResource) -> Value {
    let mut resource = resource.clone();
    let mut types = Vec::new();
    if resource.any.type_url == ResourceType::Listener.type_url() {
        let mut listener = Listener::decode(resource.any.value.as_slice()).unwrap();
        for filter in listener.filter_chains.iter_mut().flat_map(|c| &mut c.filters) {
            let Some(filter::ConfigType::TypedConfig(config)) = &mut filter.config_type else {
                continue;
            };
            if config.type_url != HttpConnectionManager::type_url() {
                continue;
            }
            let mut manager = HttpConnectionManager::decode(config.value.as_slice()).unwrap();
            for filter in &mut manager.http_filters {
                let Some(http_filter::ConfigType::TypedConfig(config)) = &mut filter.config_type
                else {
                    continue;
                };
                if config.type_url == TYPED_STRUCT {
                    let typed = TypedStruct::decode(config.value.as_slice()).unwrap();
                    types.push(typed.type_url);
                    *config = prost_types::Any {
                        type_url: STRUCT.to_owned(),
                        value: typed.value.unwrap().encode_to_vec(),
                    };
                }
            }
            *config = sunbear_proto::pack(&manager);
        }
        resource.any.value = listener.encode_to_vec();
    }
    let mut json = to_json(&resource);
    name_types(&mut json, &mut types.into_iter());
    json
}

fn name_types(json: &mut Value, types: &mut impl Iterator<Item = String>) {
    match json {
        Value::Object(map) if map.get("@type").is_some_and(|t| t == STRUCT) => {
            map.insert("@type".to_owned(), json!(TYPED_STRUCT));
            map.insert("typeUrl".to_owned(), json!(types.next().unwrap()));
        }
        Value::Object(map) => map.values_mut().for_each(|v| name_types(v, types)),
        Value::Array(list) => list.iter_mut().for_each(|v| name_types(v, types)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Puts routes into their listener, and the listener at an address that is only its own; the check
/// does not bind.
fn embed(listener: &mut Value, routes: &Map<String, Value>, number: usize) {
    let address = format!("127.{}.{}.1", number / 250, number % 250);
    listener["address"]["socketAddress"]["address"] = json!(address);
    let chains = listener["filterChains"].as_array_mut().unwrap();
    chains.retain(|chain| chain.get("filters").is_some());
    for chain in chains {
        for filter in chain["filters"].as_array_mut().unwrap() {
            let config = filter["typedConfig"].as_object_mut().unwrap();
            if let Some(rds) = config.remove("rds") {
                let name = rds["routeConfigName"].as_str().unwrap();
                config.insert("routeConfig".to_owned(), routes[name].clone());
            }
        }
    }
}

/// Secrets come from the bootstrap, too.
fn without_sds(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("sdsConfig");
            map.values_mut().for_each(without_sds);
        }
        Value::Array(list) => list.iter_mut().for_each(without_sds),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Gives all names a prefix, so that several proxies go into one bootstrap.
fn apart(part: &Value, generated: &Generated, number: usize) -> Value {
    let mut text = part.to_string();
    for resource_type in [ResourceType::Cluster, ResourceType::Listener, ResourceType::Secret] {
        for name in generated.resources.names(resource_type) {
            let quoted = Value::from(name).to_string();
            text = text.replace(&quoted, &Value::from(format!("{number}/{name}")).to_string());
        }
    }
    serde_json::from_str(&text).unwrap()
}

fn bootstrap(parts: &[Value]) -> Value {
    let all = |key: &str| -> Vec<Value> {
        parts.iter().flat_map(|part| part[key].as_array().unwrap().clone()).collect()
    };
    json!({
        "node": {"id": "default.gw", "cluster": "gw"},
        "layeredRuntime": {"layers": [{"name": "kuma", "staticLayer": {
            "re2.max_program_size.error_level": 4_294_967_295_u32,
        }}]},
        "staticResources": {
            "clusters": all("clusters"), "listeners": all("listeners"), "secrets": all("secrets"),
        },
    })
}

/// Has Envoy check a bootstrap; what it says if it refuses.
fn validate(envoy: &OsString, parts: &[Value], name: &str) -> Result<(), String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bootstraps");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name.replace('/', "-") + ".json");
    fs::write(&path, bootstrap(parts).to_string()).unwrap();
    let output = Command::new(envoy)
        .args(["--mode", "validate", "--log-level", "error", "-c"])
        .arg(&path)
        .output()
        .unwrap();
    if output.status.success() {
        let _ = fs::remove_file(&path);
        return Ok(());
    }
    // The reason stands at the end, behind the whole configuration.
    let text = String::from_utf8_lossy(&output.stderr);
    let end: Vec<char> = text.trim_end().chars().rev().take(500).collect();
    Err(end.into_iter().rev().collect())
}

/// Has Envoy check parts all at once, and if it refuses, those that it refuses one by one.
fn check(envoy: &OsString, parts: &[(String, Value)]) -> Vec<String> {
    let mut refused = Vec::new();
    for batch in parts.chunks(BATCH) {
        let values: Vec<Value> = batch.iter().map(|(_, part)| part.clone()).collect();
        let Err(whole) = validate(envoy, &values, &batch[0].0) else { continue };
        let before = refused.len();
        for (name, part) in batch {
            if let Err(reason) = validate(envoy, std::slice::from_ref(part), name) {
                refused.push(format!("{name}: {reason}"));
            }
        }
        if refused.len() == before {
            refused.push(format!("together: {whole}"));
        }
    }
    refused
}

/// A gateway with every kind of filter, and with everything that has to be left out.
fn everything() -> Generated {
    let mut world = world();
    world.add(&gateway(&json!([
        {"port": 8080, "protocol": "HTTP"},
        {"port": 8080, "protocol": "HTTP", "hostname": "a.x"},
        {"port": 9090, "protocol": "TCP", "tags": {"t": "tcp"}},
    ])));
    let to = json!([{"destination": {"kuma.io/service": "echo"}}]);
    let exact = |path: &str| json!([{"path": {"value": path}}]);
    let filtered = |path: &str, filters: Value| json!({"matches": exact(path), "filters": filters, "backends": to});
    let header = |name: &str, value: &str| json!([{"name": name, "value": value}]);
    let mut body = route(
        "r",
        &json!([
            to_echo("/api"),
            {
                "matches": [
                    {"path": {"match": "REGEX", "value": "/items/{id}/\\Q(\\E[a[b]"}},
                    {"path": {"match": "REGEX", "value": "/bad("}},
                    {"path": {"match": "REGEX", "value": "/a**"}},
                    {"method": "PUT", "headers": [
                        {"match": "REGEX", "name": "a", "value": ".*"},
                        {"match": "ABSENT", "name": "b"},
                        {"match": "PRESENT", "name": "c"},
                    ], "queryParameters": [{"match": "REGEX", "name": "q", "value": "x+"}]},
                ],
                "backends": to,
            },
            filtered("/1", json!([{"rewrite": {"replaceFull": "/\\1"}}])),
            filtered("/2", json!([{"rewrite": {"replaceFull": "/\\0"}}])),
            filtered("/3", json!([{"rewrite": {"hostToBackendHostname": true}}])),
            filtered("/4", json!([{"requestHeader": {"add": header("Host", "a")}}])),
            filtered("/5", json!([{"requestHeader": {"set": header(":authority", "a")}}])),
            filtered("/6", json!([{"requestHeader": {"add": header("a", "100%")}}])),
            filtered("/7", json!([{"responseHeader": {"remove": [":status", "x"]}}])),
            filtered("/8", json!([{"mirror": {"percentage": 0.5, "backend": {
                "destination": {"kuma.io/service": "mirror"},
            }}}])),
            filtered("/9", json!([{"requestHeader": {"set": header("b", "%PROTOCOL%%%")}}])),
            {"matches": exact("/10"), "filters": [{"redirect": {"statusCode": 304}}]},
            {"matches": exact("/11"), "filters": [{"redirect": {
                "statusCode": 308, "scheme": "https", "hostname": "b.x", "path": {"replaceFull": "/z"},
            }}]},
            {"matches": exact("/12"), "backends": [
                {"weight": 0, "destination": {"kuma.io/service": "echo"}},
                {"weight": 0, "destination": {"kuma.io/service": "other", "kuma.io/protocol": "grpc"}},
            ]},
        ]),
    );
    body["conf"]["http"]["hostnames"] = json!(["a.x", "A.X", "*.x", "*", "w*", "b*c"]);
    world.add(&body);
    for (name, weight) in [("t1", 0), ("t2", 3)] {
        world.add(&json!({
            "type": "MeshGatewayRoute", "mesh": "default", "name": name,
            "selectors": [{"match": {"t": "tcp"}}],
            "conf": {"tcp": {"rules": [
                {"backends": [{"weight": weight, "destination": {"kuma.io/service": name}}]},
            ]}},
        }));
    }
    let all = json!([{"match": {"kuma.io/service": "*"}}]);
    let legacy = |kind: &str, conf: Value| {
        json!({
            "type": kind, "mesh": "default", "name": "l",
            "sources": all, "destinations": all, "conf": conf,
        })
    };
    world.add(&legacy(
        "HealthCheck",
        json!({
            "interval": "10s", "timeout": "2s", "unhealthyThreshold": 3, "healthyThreshold": 1,
            "tcp": {"send": "Zm9v", "receive": ["YmFy"]}, "healthyPanicThreshold": 90,
            "http": {"path": "/health", "expectedStatuses": [200, 201]},
        }),
    ));
    world.add(&legacy(
        "CircuitBreaker",
        json!({
            "interval": "5s", "baseEjectionTime": "30s", "maxEjectionPercent": 20,
            "detectors": {
                "totalErrors": {"consecutive": 20}, "standardDeviation": {"factor": 1.9},
                "failure": {"threshold": 85},
            },
        }),
    ));
    world.add(&legacy(
        "RateLimit",
        json!({"http": {
            "requests": 5, "interval": "10s",
            "onRateLimit": {"status": 423, "headers": [{"key": "x", "value": "y"}]},
        }}),
    ));
    world.add(&json!({
        "type": "MeshRetry", "mesh": "default", "name": "m",
        "spec": {"targetRef": {"kind": "Mesh"}, "to": [{"targetRef": {"kind": "Mesh"}, "default": {
            "http": {
                "numRetries": 2, "retryOn": ["5xx", "429", "HttpMethodGet"],
                "backOff": {"baseInterval": "1s", "maxInterval": "10ms"},
                "rateLimitedBackOff": {"maxInterval": "5s", "resetHeaders": [
                    {"name": "retry-after", "format": "Seconds"},
                ]},
                "retriableResponseHeaders": [{"type": "Prefix", "name": "x", "value": "y"}],
            },
        }}]},
    }));
    let got = generated(&world);
    assert!(!got.issues.is_empty());
    got
}

#[test]
fn snapshots_load() {
    let Some(envoy) = envoy() else { return };
    let mut parts = vec![("everything".to_owned(), static_part(&everything(), 0))];
    for (index, (name, generated)) in generate_cases().into_iter().enumerate() {
        parts.push((name, static_part(&generated, index + 1)));
    }
    let refused = check(&envoy, &parts);
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn random_sets_load() {
    let sets: u64 = std::env::var("SUNBEAR_PROPERTY_SETS").map_or(SETS, |n| n.parse().unwrap());
    let first: u64 = std::env::var("SUNBEAR_PROPERTY_SEED").map_or(0, |n| n.parse().unwrap());
    let material = Material::new();
    let envoy = envoy();
    let mut refused = Vec::new();
    for batch in (first..first + sets).collect::<Vec<_>>().chunks(BATCH) {
        let parts: Vec<(String, Value)> = batch
            .iter()
            .enumerate()
            .map(|(number, seed)| {
                let world = random::world(*seed, &material);
                let generated = generate(&world, &settings(), &gw()).unwrap();
                (format!("seed {seed}"), static_part(&generated, number))
            })
            .collect();
        if let Some(envoy) = &envoy {
            refused.extend(check(envoy, &parts));
        }
    }
    assert!(refused.is_empty(), "{} of {sets}:\n{}", refused.len(), refused.join("\n"));
    println!("{sets} sets generated, Envoy asked: {}", envoy.is_some());
}
