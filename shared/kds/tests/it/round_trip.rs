//! Whatever is accepted survives the way from JSON through a store, the bytes of KDS and another
//! store back to JSON: resources of every type, made at random or known to be valid, on real control
//! planes. So do fields that only a newer release knows, at any depth.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use proptest::test_runner::{RngAlgorithm, TestRng};
use prost_reflect::{DynamicMessage, ReflectMessage as _, Value as Field, prost::Message as _};
use serde_json::{Value, json};
use sunbear_model::{
    Kind, Resource, ResourceKey, Spec, document, kind::Codec, label, name, rest,
    validation::validate_spec,
};
use sunbear_store::{Change, World};

use super::{
    maker::Maker,
    sync::{Global, labelled, until, world, write},
};

/// Random specs that are tried for each type. Most are refused.
const TRIES: u8 = 40;
/// Accepted specs of each type that are sent.
const SENT: usize = 8;

/// What is known only to newer releases has this number, or this name in JSON.
const UNKNOWN: u32 = 5_000;
const SOMEDAY: &str = "someday";

/// Specs of a type that a control plane accepts.
fn accepted(kind: Kind) -> Vec<Spec> {
    let mut specs: Vec<Spec> = match kind.row().codec {
        Codec::Proto(message) => {
            let descriptor = sunbear_proto::pool().get_message_by_name(message).unwrap();
            let index = u8::try_from(kind.index()).unwrap();
            let made = (0..TRIES).map(|try_| {
                let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[[index, try_]; 16].concat());
                let depth = u32::from(try_ % 5);
                Maker::new(rng).message(&descriptor, depth).encode_to_vec()
            });
            let made = made.map(|wire| rest::write(&bare(kind, Spec::from_wire(kind, wire))));
            cases(kind)
                .into_iter()
                .chain(example(kind))
                .chain(made)
                .filter_map(|body| read(kind, &body))
                .collect()
        }
        Codec::Json { .. } => json_specs()
            .iter()
            .filter_map(|spec| {
                let body =
                    json!({"type": kind.name(), "name": "x", "mesh": "default", "spec": spec});
                read(kind, &body)
            })
            .collect(),
    };
    specs.truncate(SENT);
    assert!(!specs.is_empty(), "nothing of type {kind} is accepted");
    let newer: Vec<Spec> = specs.iter().map(|spec| of_newer_release(kind, spec)).collect();
    specs.extend(newer);
    specs
}

fn read(kind: Kind, body: &Value) -> Option<Spec> {
    let spec = rest::read_as(kind, body).ok()?.spec;
    is_accepted(kind, &spec).then_some(spec)
}

fn is_accepted(kind: Kind, spec: &Spec) -> bool {
    validate_spec(kind, "default", "x", spec).is_empty()
}

/// The valid ones of the validation cases.
fn cases(kind: Kind) -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/data/validation");
    let Ok(text) = fs::read_to_string(folder.join(format!("{kind}.yaml"))) else {
        return Vec::new();
    };
    let (documents, errors) =
        document::parse("cases", &format!("cases:\n{text}"), &BTreeMap::new());
    assert!(errors.is_empty(), "{errors:?}");
    let cases = documents[0].value["cases"].as_array().unwrap().clone();
    let valid = cases.iter().filter(|case| case["expected"] == json!([]));
    valid.map(|case| case["resource"].clone()).collect()
}

/// For types whose validation cases hold no valid one.
fn example(kind: Kind) -> Option<Value> {
    let any = json!([{"match": {"kuma.io/service": "*"}}]);
    let mut spec = match kind.name() {
        "HealthCheck" => {
            json!({"conf": {"interval": "1s", "timeout": "1s", "unhealthyThreshold": 3,
            "healthyThreshold": 1, "tcp": {"send": "Zm9v", "receive": ["YmFy"]}}})
        }
        "TrafficLog" => json!({"conf": {"backend": "file"}}),
        "Timeout" => json!({"conf": {"connectTimeout": "1s", "http": {"idleTimeout": "2s"}}}),
        "TrafficPermission" => json!({}),
        _ => return None,
    };
    spec["sources"] = any.clone();
    spec["destinations"] = any;
    Some(spec)
}

/// Specs of which every JSON type accepts one.
fn json_specs() -> Vec<Value> {
    let mesh = json!({"kind": "Mesh"});
    let to = |default: Value| json!({"targetRef": mesh, "to": [{"targetRef": mesh, "default": default}]});
    vec![
        json!({}),
        json!({"targetRef": mesh}),
        to(json!({"http": {"requestTimeout": "2s"}})),
        to(json!({"connectionLimits": {"maxConnections": 7}})),
        to(json!({"http": {"numRetries": 3}})),
        json!({"selector": {}, "template": "{{ .DisplayName }}.mesh"}),
    ]
}

/// The same with fields that this release does not know, wherever there can be some.
fn of_newer_release(kind: Kind, spec: &Spec) -> Spec {
    let newer = match kind.row().codec {
        Codec::Proto(name) => {
            let descriptor = sunbear_proto::pool().get_message_by_name(name).unwrap();
            let mut message = DynamicMessage::decode(descriptor, spec.wire()).unwrap();
            extend(&mut message);
            Spec::from_wire(kind, message.encode_to_vec())
        }
        Codec::Json { .. } => {
            let mut value: Value = serde_json::from_slice(spec.wire()).unwrap();
            extend_json(&mut value);
            let body = json!({"type": kind.name(), "name": "x", "mesh": "default", "spec": value});
            rest::read_as(kind, &body).unwrap().spec
        }
    };
    assert!(unknown(&newer) > 0, "{kind}");
    assert!(is_accepted(kind, &newer), "{kind}: {:#}", shown(&bare(kind, newer.clone())));
    newer
}

fn extend(message: &mut DynamicMessage) {
    if message.descriptor().full_name().starts_with("google.protobuf.") {
        return;
    }
    for (_, field) in message.fields_mut() {
        match field {
            Field::Message(message) => extend(message),
            Field::List(items) => items.iter_mut().for_each(extend_value),
            Field::Map(entries) => entries.values_mut().for_each(extend_value),
            _ => {}
        }
    }
    let mut field = Vec::new();
    prost::encoding::string::encode(UNKNOWN, &SOMEDAY.to_owned(), &mut field);
    message.merge(field.as_slice()).unwrap();
}

fn extend_value(value: &mut Field) {
    if let Field::Message(message) = value {
        extend(message);
    }
}

/// Numbers, too, that a double cannot hold.
fn extend_json(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(extend_json);
            let number = 9_007_199_254_740_993_u64;
            map.insert(SOMEDAY.to_owned(), json!({"a": [1, {"b": null}], "c": number}));
        }
        Value::Array(items) => items.iter_mut().for_each(extend_json),
        _ => {}
    }
}

fn bare(kind: Kind, spec: Spec) -> Resource {
    Resource {
        key: ResourceKey::new(kind, "default", "x"),
        uid: uuid::Uuid::nil(),
        version: 1,
        revision: 1,
        labels: BTreeMap::new(),
        spec,
        status: None,
        owner: None,
        created_at: time::OffsetDateTime::UNIX_EPOCH,
        modified_at: time::OffsetDateTime::UNIX_EPOCH,
    }
}

/// What clients see of the spec.
fn shown(resource: &Resource) -> Value {
    rest::write(&bare(resource.key.kind, resource.spec.clone()))
}

/// How many fields of newer releases are anywhere in a spec.
fn unknown(spec: &Spec) -> usize {
    spec.wire().windows(SOMEDAY.len()).filter(|bytes| *bytes == SOMEDAY.as_bytes()).count()
}

async fn arrived(world: &World, key: &ResourceKey) -> Arc<Resource> {
    until(world, &key.to_string(), |w| w.snapshot().get(key).is_some()).await;
    world.snapshot().get(key).cloned().unwrap()
}

fn key(kind: Kind, name: &str) -> ResourceKey {
    ResourceKey::new(kind, if kind.is_mesh_scoped() { "default" } else { "" }, name)
}

async fn global_with_mesh() -> Global {
    let global = Global::start(world().await, 0).await;
    let mesh = ResourceKey::new(Kind::MESH, "", "default");
    write(&global.world, vec![labelled(mesh, Spec::from_wire(Kind::MESH, Vec::new()), &[])]).await;
    global
}

#[tokio::test]
async fn from_a_global_to_its_zones() {
    let global = global_with_mesh().await;
    let east = world().await;
    let (_kds, _stop) = global.zone(&east, "east", "east-1");
    let kinds: Vec<Kind> =
        Kind::all().filter(|k| k.row().global_to_zone && *k != Kind::CONFIG).collect();
    assert!(kinds.len() > 35, "{}", kinds.len());
    let mut changes = Vec::new();
    let mut wanted = Vec::new();
    for kind in kinds {
        for (i, spec) in accepted(kind).into_iter().enumerate() {
            let key = key(kind, &format!("r{i}"));
            let hashed = name::hashed(&key.mesh, &key.name, &[]);
            let copy = if kind.row().hashed { &hashed } else { &*key.name };
            wanted.push((spec.clone(), key.clone(), ResourceKey::new(kind, &key.mesh, copy)));
            changes.push(Change::put(key, spec, BTreeMap::new()));
        }
    }
    write(&global.world, changes).await;
    let mut from_newer_peers = 0;
    for (accepted, key, copy) in wanted {
        let got = arrived(&east, &copy).await;
        let sent = global.world.snapshot().get(&key).cloned().unwrap();
        assert_eq!(sent.spec.wire(), accepted.wire(), "{key}");
        assert_eq!(got.spec.wire(), accepted.wire(), "{key}");
        assert_eq!(shown(&got), shown(&sent), "{key}");
        from_newer_peers += unknown(&got.spec);
    }
    assert!(from_newer_peers > 500, "{from_newer_peers}");
}

/// What the global makes of what a zone says: which zone that is, and no counters of heartbeats.
fn as_attributed(kind: Kind, mut shown: Value) -> Value {
    if matches!(kind, Kind::ZONE_INGRESS | Kind::ZONE_EGRESS) {
        shown["zone"] = "east".into();
    }
    if kind.name().ends_with("Insight") {
        let subscriptions = shown.get_mut("subscriptions").and_then(Value::as_array_mut);
        for subscription in subscriptions.into_iter().flatten() {
            subscription.as_object_mut().unwrap().remove("generation");
        }
    }
    shown
}

#[tokio::test]
async fn from_a_zone_to_its_global_and_to_other_zones() {
    let global = global_with_mesh().await;
    let (east, west) = (world().await, world().await);
    let (_east, _stop_east) = global.zone(&east, "east", "east-1");
    let (_west, _stop_west) = global.zone(&west, "west", "west-1");
    until(&east, "mesh", |w| w.snapshot().mesh("default").is_some()).await;
    let own = [(label::ORIGIN, "zone"), (label::ZONE, "east")];
    let mut changes = Vec::new();
    let mut wanted = Vec::new();
    for kind in Kind::all().filter(|k| k.sent_to_global()) {
        for (i, spec) in accepted(kind).into_iter().enumerate() {
            let key = key(kind, &format!("r{i}"));
            let copy = name::hashed(&key.mesh, &key.name, &["east"]);
            wanted.push((spec.clone(), ResourceKey::new(kind, &key.mesh, &copy)));
            changes.push(labelled(key, spec, &own));
        }
    }
    write(&east, changes).await;
    let (mut from_newer_peers, mut shared) = (0, 0);
    for (spec, copy) in wanted {
        let kind = copy.kind;
        let got = arrived(&global.world, &copy).await;
        assert_eq!(shown(&got), as_attributed(kind, shown(&bare(kind, spec.clone()))), "{copy}");
        // Counters are written anew, and with them the whole message.
        if !kind.name().ends_with("Insight") {
            assert_eq!(unknown(&got.spec), unknown(&spec), "{copy}");
            if !matches!(kind, Kind::ZONE_INGRESS | Kind::ZONE_EGRESS) {
                assert_eq!(got.spec.wire(), spec.wire(), "{copy}");
            }
        }
        from_newer_peers += unknown(&got.spec);
        // What other zones see too; policies only go there for a reason.
        if kind.row().across_zones && !kind.row().policy {
            assert_eq!(arrived(&west, &copy).await.spec.wire(), got.spec.wire(), "{copy}");
            shared += 1;
        }
    }
    assert!(from_newer_peers > 200 && shared > 20, "{from_newer_peers} {shared}");
}
