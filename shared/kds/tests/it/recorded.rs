//! What we send is, byte for byte, what a running Kuma sent.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sunbear_kds::{
    mapping::{Encoder, Peer, Role},
    wire,
};
use sunbear_model::{Kind, Resource, ResourceKey, label};
use sunbear_proto::envoy::service::discovery::v3::Resource as DeltaResource;

struct Recorded {
    kind: Kind,
    resource: DeltaResource,
}

fn recorded(text: &str, direction: &str, stream: Option<&str>) -> Vec<Recorded> {
    let mut out = Vec::new();
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        if line["dir"] != direction || stream.is_some_and(|s| line["stream"] != s) {
            continue;
        }
        let Some(kind) = line["message"]["type_url"].as_str().and_then(Kind::by_name) else {
            continue;
        };
        for r in line["message"]["resources"].as_array().into_iter().flatten() {
            let value = r["any_value_base64"].as_str().unwrap();
            if value == "REMOVED" {
                continue;
            }
            out.push(Recorded {
                kind,
                resource: DeltaResource {
                    name: r["name"].as_str().unwrap().to_owned(),
                    version: r["version"].as_str().unwrap().to_owned(),
                    resource: Some(prost_types::Any {
                        type_url: r["any_type_url"].as_str().unwrap().to_owned(),
                        value: STANDARD.decode(value).unwrap(),
                    }),
                    ..DeltaResource::default()
                },
            });
        }
    }
    out
}

/// The object as the sender had it stored: its own name, and no labels that sending adds.
fn stored(received: &wire::Received, added: &[&str]) -> Resource {
    let name = received.labels.get(label::DISPLAY_NAME).cloned();
    let mut labels: BTreeMap<String, String> = received.labels.clone();
    for l in added {
        labels.remove(*l);
    }
    let name = name.unwrap_or_else(|| received.key.name.to_string());
    let now = time::OffsetDateTime::UNIX_EPOCH;
    Resource {
        key: ResourceKey::new(received.key.kind, &received.key.mesh, &name),
        uid: uuid::Uuid::nil(),
        version: 1,
        revision: 1,
        labels,
        spec: received.spec.clone(),
        status: received.status.clone(),
        owner: None,
        created_at: now,
        modified_at: now,
    }
}

fn check(recorded: &[Recorded], role: &Role, added: &[&str]) {
    assert!(!recorded.is_empty());
    let peer = Peer {
        name: "peer".to_owned(),
        features: sunbear_kds::NODE_FEATURES.iter().map(|f| (*f).to_owned()).collect(),
    };
    for r in recorded {
        let received = wire::decode(r.kind, r.resource.clone()).unwrap();
        let resource = stored(&received, added);
        // One encoder each: it remembers by revision, and these all claim the same.
        let outgoing = Encoder::new(role.clone()).outgoing(&resource);
        let outgoing = outgoing.unwrap_or_else(|| panic!("{} is not sent", r.resource.name));
        let wire = outgoing.for_peer(&peer, |_| true).unwrap();
        assert_eq!(*wire.name, *r.resource.name);
        assert_eq!(wire.to_delta().resource, r.resource.resource, "{}", r.resource.name);
        assert_eq!(*wire.version, *r.resource.version, "{}", r.resource.name);
    }
}

#[test]
fn what_a_global_sends() {
    let text = include_str!("../data/global-to-zone.jsonl");
    check(
        &recorded(text, "global->zone", None),
        &Role::Global,
        &[label::DISPLAY_NAME, label::ORIGIN],
    );
}

#[test]
fn what_a_zone_sends() {
    let text = include_str!("../data/zone-to-global.jsonl");
    check(
        &recorded(text, "zone->global", Some("ZoneToGlobalSync")),
        &Role::Zone("east".to_owned()),
        &[label::DISPLAY_NAME],
    );
}

/// The types that a real zone asks for are those that our table says.
#[test]
fn what_a_zone_subscribes_to() {
    let text = include_str!("../data/zone-to-global.jsonl");
    let mut asked: Vec<String> = text
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap())
        .filter(|l| l["stream"] == "GlobalToZoneSync" && l["dir"] == "zone->global")
        .filter(|l| l["message"]["resource_names_subscribe"].is_array())
        .map(|l| l["message"]["type_url"].as_str().unwrap().to_owned())
        .collect();
    asked.sort();
    asked.dedup();
    let ours: Vec<String> =
        Kind::all().filter(|k| k.sent_to_zones()).map(|k| k.name().to_owned()).collect();
    assert_eq!(asked, ours);
}

/// Our node says what a real zone's does.
#[test]
fn what_a_zone_says_of_itself() {
    let text = include_str!("../data/zone-to-global.jsonl");
    let first = text
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap())
        .find(|l| l["dir"] == "zone->global" && l["message"]["node"]["metadata"].is_object())
        .unwrap();
    let theirs = &first["message"]["node"]["metadata"];
    let ours = sunbear_kds::node::Identity {
        id: "east".to_owned(),
        instance_id: "host-1a2b".to_owned(),
        version: "2.14.3".to_owned(),
        config: "{}".to_owned(),
    };
    let ours = sunbear_proto::json::write_message(&ours.to_node()).unwrap();
    let keys = |v: &serde_json::Value| {
        v.as_object().unwrap().keys().cloned().collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(keys(&ours["metadata"]), keys(theirs));
    assert_eq!(ours["metadata"]["features"], theirs["features"]);
}
