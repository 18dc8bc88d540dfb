use serde_json::json;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::*;
use crate::{Kind, ResourceKey};

fn resource(kind: &str, body: &Value) -> Resource {
    let wanted = rest::read_as(Kind::by_name(kind).unwrap(), body).unwrap();
    Resource {
        key: ResourceKey::new(wanted.kind, "m", &wanted.name),
        uid: Uuid::nil(),
        version: 1,
        revision: 1,
        labels: wanted.labels,
        spec: wanted.spec,
        status: None,
        owner: None,
        created_at: OffsetDateTime::UNIX_EPOCH,
        modified_at: OffsetDateTime::UNIX_EPOCH,
    }
}

fn gateway(name: &str, age: i64, selectors: &Value) -> Arc<Resource> {
    let body = json!({"name": name, "selectors": selectors, "conf": {"listeners": [
        {"port": 80, "protocol": "HTTP", "tags": {"port": "http"}},
        {"port": 81, "protocol": "TCP"},
    ]}});
    let mut gateway = resource("MeshGateway", &body);
    gateway.created_at -= Duration::seconds(age);
    Arc::new(gateway)
}

fn edge() -> Resource {
    let tags = json!({"kuma.io/service": "edge", "v": "1"});
    resource(
        "Dataplane",
        &json!({"name": "d", "networking": {"address": "1.1.1.1", "gateway": {"type": "BUILTIN", "tags": tags}}}),
    )
}

fn sidecar() -> Resource {
    resource(
        "Dataplane",
        &json!({"name": "s", "labels": {"app": "web"}, "networking": {"address": "1.1.1.1", "inbound": [
            {"port": 1, "name": "main", "tags": {"kuma.io/service": "web", "v": "1"}},
            {"port": 2, "tags": {"kuma.io/service": "admin"}},
        ]}}),
    )
}

#[test]
fn the_gateway_of_a_dataplane() {
    let edge_only = json!([{"match": {"kuma.io/service": "edge"}}]);
    let both = json!([{"match": {"kuma.io/service": "edge", "v": "*"}}]);
    let other = json!([{"match": {"kuma.io/service": "other"}}]);
    let all = [
        gateway("a", 5, &edge_only),
        gateway("b", 9, &both),
        gateway("c", 9, &both),
        gateway("d", 0, &other),
    ];
    let of =
        |gateways: &[Arc<Resource>]| gateway_of(gateways, &edge()).map(|g| g.key.name.to_string());
    assert_eq!(of(&all).unwrap(), "b");
    assert_eq!(of(&all[..1]).unwrap(), "a");
    assert_eq!(of(&all[3..]), None);
    // One of another zone does not count.
    let mut foreign = (*all[1]).clone();
    foreign.labels = [(label::ORIGIN, "zone"), (label::ZONE, "west")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
    let mut east = edge();
    east.labels.insert(label::ZONE.to_owned(), "east".to_owned());
    assert!(gateway_of(&[Arc::new(foreign)], &east).is_none());
}

/// Ports that a targetRef selects, sidecar then gateway.
fn selected(target: &Value) -> (Vec<u32>, Vec<u32>) {
    let spec = if target.is_null() { json!({}) } else { json!({"targetRef": target}) };
    let policy = resource("MeshTimeout", &json!({"name": "p", "spec": spec}));
    let gateways = [gateway("gw", 0, &json!([{"match": {"kuma.io/service": "edge"}}]))];
    let route = Arc::new(resource(
        "MeshHTTPRoute",
        &json!({"name": "r", "spec": {"targetRef": {"kind": "MeshService", "name": "web"}}}),
    ));
    let ports = |dataplane: &Resource| {
        let proxy = Proxy::of(dataplane, &gateways).unwrap();
        let selection = select(&policy, &proxy, &[Arc::clone(&route)]).unwrap();
        selection.sockets.iter().map(|s| s.port).collect()
    };
    (ports(&sidecar()), ports(&edge()))
}

#[test]
fn what_references_select() {
    for (target, inbounds, listeners) in [
        (json!(null), vec![1, 2], vec![80, 81]),
        (json!({"kind": "Mesh"}), vec![1, 2], vec![80, 81]),
        (json!({"kind": "Mesh", "proxyTypes": ["Gateway"]}), vec![], vec![80, 81]),
        (json!({"kind": "Mesh", "proxyTypes": ["Sidecar"]}), vec![1, 2], vec![]),
        (json!({"kind": "MeshSubset", "tags": {"v": "1"}}), vec![1], vec![80, 81]),
        (json!({"kind": "MeshSubset", "tags": {"port": "http"}}), vec![], vec![80]),
        (json!({"kind": "MeshService", "name": "admin"}), vec![2], vec![]),
        (json!({"kind": "MeshService", "name": "edge"}), vec![], vec![80, 81]),
        (json!({"kind": "MeshServiceSubset", "name": "web", "tags": {"v": "2"}}), vec![], vec![]),
        (json!({"kind": "MeshGateway", "name": "gw"}), vec![], vec![80, 81]),
        (json!({"kind": "MeshGateway", "name": "gw", "tags": {"port": "*"}}), vec![], vec![80]),
        (json!({"kind": "MeshGateway", "name": "x"}), vec![], vec![]),
        (json!({"kind": "Dataplane"}), vec![1, 2], vec![]),
        (json!({"kind": "Dataplane", "name": "s"}), vec![1, 2], vec![]),
        (json!({"kind": "Dataplane", "name": "x"}), vec![], vec![]),
        (
            json!({"kind": "Dataplane", "labels": {"app": "web"}, "sectionName": "main"}),
            vec![1],
            vec![],
        ),
        (json!({"kind": "Dataplane", "sectionName": "2"}), vec![2], vec![]),
        (json!({"kind": "MeshHTTPRoute", "name": "r"}), vec![1], vec![]),
    ] {
        assert_eq!(selected(&target), (inbounds, listeners), "{target}");
    }
}

#[test]
fn references_to_nothing() {
    let dataplane = sidecar();
    let proxy = Proxy::of(&dataplane, []).unwrap();
    let check = |target: Value| {
        let spec = json!({"targetRef": target});
        let policy = resource("MeshTimeout", &json!({"name": "p", "spec": spec}));
        select(&policy, &proxy, &[]).unwrap_err().to_string()
    };
    assert_eq!(
        check(json!({"kind": "MeshHTTPRoute", "name": "x"})),
        "couldn't resolve MeshHTTPRoute targetRef with name 'x'"
    );
    assert_eq!(check(json!({"kind": "Moon"})), "unsupported targetRef kind 'Moon'");
}

#[test]
fn order_of_merging() {
    let policy = |name: &str, target: Value, labels: Value| {
        let body = json!({"name": name, "labels": labels, "spec": {"targetRef": target}});
        Arc::new(resource("MeshTimeout", &body))
    };
    let mesh = || json!({"kind": "Mesh"});
    let mut policies = vec![
        policy("route", json!({"kind": "MeshHTTPRoute", "name": "r"}), json!({})),
        policy("named", json!({"kind": "Dataplane", "name": "d"}), json!({})),
        policy("labelled", json!({"kind": "Dataplane", "labels": {"a": "b"}}), json!({})),
        policy("zone", mesh(), json!({"kuma.io/origin": "zone"})),
        policy("a", mesh(), json!({})),
        policy("b", mesh(), json!({})),
        policy("global", mesh(), json!({"kuma.io/origin": "global"})),
        policy(
            "gw-tags",
            json!({"kind": "MeshGateway", "name": "g", "tags": {"x": "y"}}),
            json!({}),
        ),
        policy("gw", json!({"kind": "MeshGateway", "name": "g"}), json!({})),
    ];
    sort_for_merge(&mut policies);
    let names: Vec<&str> = policies.iter().map(|p| &*p.key.name).collect();
    assert_eq!(names, ["global", "b", "a", "zone", "labelled", "named", "gw", "gw-tags", "route"]);
}

#[test]
fn policies_by_tags() {
    let policy = |name: &str, age: i64, source: &str, destination: &str| {
        let side = |service: &str| json!([{"match": {"kuma.io/service": service}}]);
        let body =
            json!({"name": name, "sources": side(source), "destinations": side(destination)});
        let mut policy = resource("TrafficPermission", &body);
        policy.created_at -= Duration::seconds(age);
        TagPolicy::of(&Arc::new(policy))
    };
    let policies = [
        policy("any", 1, "*", "*"),
        policy("older", 9, "*", "back"),
        policy("to-back", 5, "*", "back"),
        policy("web-only", 9, "web", "*"),
        policy("foreign", 0, "other", "back"),
    ];
    let name = |p: Option<&TagPolicy>| p.map(|p| p.resource.key.name.to_string());
    let tags = |service: &str| Tags::from([(label::SERVICE_TAG.to_owned(), service.to_owned())]);
    let dataplane = sidecar();
    let dataplane = dataplane.as_dataplane().unwrap();
    // Equal ranks: the youngest.
    assert_eq!(name(outbound_policy(&policies, dataplane, "back")).unwrap(), "to-back");
    assert_eq!(name(outbound_policy(&policies, dataplane, "x")).unwrap(), "web-only");
    assert_eq!(name(inbound_policy(&policies, &tags("back"))).unwrap(), "foreign");
    let all: Vec<&str> =
        inbound_policies(&policies, &tags("back")).iter().map(|p| &*p.resource.key.name).collect();
    assert_eq!(all, ["foreign", "web-only", "any", "to-back", "older"]);
    let at = |from: &str, to: &str| name(gateway_policy(&policies, &tags(from), &tags(to)));
    assert_eq!(at("edge", "back").unwrap(), "to-back");
    assert_eq!(at("edge", "x").unwrap(), "any");
    assert!(policies[0].selectors.touches(dataplane));
    assert!(!policies[4].selectors.touches(dataplane));
}

#[test]
fn listeners_of_gateways() {
    let gateway = gateway("edge", 0, &json!([]));
    let listener = Tags::from([
        ("kuma.io/service".to_owned(), "gw".to_owned()),
        ("port".to_owned(), "http".to_owned()),
    ]);
    for (want, target) in [
        (true, json!(null)),
        (true, json!({"kind": "Mesh"})),
        (true, json!({"kind": "Mesh", "proxyTypes": ["Sidecar", "Gateway"]})),
        (false, json!({"kind": "Mesh", "proxyTypes": ["Sidecar"]})),
        (true, json!({"kind": "MeshSubset", "tags": {"port": "http"}})),
        (false, json!({"kind": "MeshSubset", "tags": {"port": "tcp"}})),
        (true, json!({"kind": "MeshGateway", "name": "edge"})),
        (true, json!({"kind": "MeshGateway", "name": "edge", "tags": {"port": "*"}})),
        (false, json!({"kind": "MeshGateway", "name": "edge", "tags": {"x": "*"}})),
        (false, json!({"kind": "MeshGateway", "name": "other"})),
        (true, json!({"kind": "MeshService", "name": "gw"})),
        (false, json!({"kind": "MeshService", "name": "edge"})),
        (false, json!({"kind": "MeshService"})),
        (false, json!({"kind": "Dataplane"})),
    ] {
        let spec = if target.is_null() { json!({}) } else { json!({"targetRef": target}) };
        let selector = TargetRef::of(Some(&spec)).on_listeners_of(&gateway);
        assert_eq!(selector.is_some_and(|s| tags::matches(&s, &listener)), want, "{target:?}");
    }
}

#[test]
fn merging() {
    let mut base = Value::Null;
    for over in [
        json!({"a": 1, "l": [1], "appendX": [1], "o": {"p": 1, "q": 2}}),
        json!({"l": [2], "appendX": [2], "o": {"q": 3}, "a": null}),
    ] {
        merge(&mut base, &over);
    }
    assert_eq!(base, json!({"a": 1, "l": [2], "appendX": [1, 2], "o": {"p": 1, "q": 3}}));
}
