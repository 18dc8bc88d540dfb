//! `export`, and `apply` of what it gives.

use std::collections::BTreeMap;

use serde_json::Value;
use sunbear_model::document;

use crate::{api::run, control_plane::Global};

const CONTENT: &str = "
type: Mesh
name: demo
mtls:
  enabledBackend: ca-1
  backends:
  - {name: ca-1, type: builtin}
---
type: MeshGateway
name: edge
mesh: demo
selectors: [{match: {kuma.io/service: edge}}]
conf: {listeners: [{port: 8080, protocol: HTTP}]}
---
type: TrafficRoute
name: all
mesh: demo
sources: [{match: {kuma.io/service: '*'}}]
destinations: [{match: {kuma.io/service: '*'}}]
conf: {destination: {kuma.io/service: '*'}}
---
type: Secret
name: own
mesh: demo
data: YWJj
---
type: Zone
name: east
enabled: false
";

/// What a file says, by type, mesh and name, without what differs from place to place.
fn content(file: &str) -> BTreeMap<String, Value> {
    let (documents, errors) = document::parse("export", file, &BTreeMap::new());
    assert_eq!(errors, vec![]);
    let contents = documents.into_iter().map(|document| {
        let mut value = document.value;
        let fields = value.as_object_mut().unwrap();
        fields.remove("creationTime");
        fields.remove("modificationTime");
        // Written with the object where it is made by a user, not where a control plane makes it.
        if let Some(labels) = fields.get_mut("labels").and_then(Value::as_object_mut) {
            labels.remove("kuma.io/mesh");
        }
        fields.retain(|key, value| key != "labels" || value != &serde_json::json!({}));
        (format!("{}/{}/{}", value["type"], value["mesh"], value["name"]), value)
    });
    contents.collect()
}

/// Exports from one control plane and applies to another, which is empty.
fn moves(from: &Global, to: &Global, profile: &[&str], present: &[&str], absent: &[&str]) {
    let export = [&["export"], profile].concat();
    let file = from.ok(&export);
    assert!(file.starts_with("# Product: Kuma, Version: 2.14.3, Hostname: cp, "));
    let exported = content(&file);
    for key in present {
        assert!(exported.keys().any(|k| k.contains(key)), "{key}: {:?}", exported.keys());
    }
    for key in absent {
        assert!(!exported.keys().any(|k| k.contains(key)), "{key}: {:?}", exported.keys());
    }
    // It is applied as it is, twice, and says the same there.
    for _ in 0..2 {
        let done = run(&to.address, &["apply", "-f", "-"], &[], &file);
        // The policies that every mesh gets are written in the older form, which is told.
        let other: Vec<_> = done.err.lines().filter(|line| !line.contains("deprecated")).collect();
        assert_eq!((done.code, &other[..]), (0, &[][..]), "{}", done.out);
        assert_eq!(done.out.lines().count(), exported.len());
    }
    let again = content(&to.ok(&export));
    for (key, value) in &exported {
        assert!(again.get(key) == Some(value), "{profile:?}: {key} is not the same");
    }
}

#[test]
fn profiles() {
    let from = Global::start();
    from.apply(CONTENT);
    let move_to = |to: &Global, profile: &[&str], present: &[&str], absent: &[&str]| {
        moves(&from, to, profile, present, absent);
    };
    // Here the keys that tokens are signed with change too.
    move_to(
        &Global::with_own_keys(),
        &[],
        &[
            "\"Mesh\"/null/\"demo\"",
            "TrafficRoute",
            "\"own\"",
            "zone-token-signing-key",
            "ca-builtin-key",
        ],
        &["MeshGateway", "MeshRetry", "envoy-admin-ca", "inter-cp-ca", "\"Zone\""],
    );
    move_to(
        &Global::start(),
        &["-p", "federation-with-policies"],
        &["MeshGateway", "MeshRetry", "\"own\""],
        &["\"Zone\""],
    );
    move_to(
        &Global::start(),
        &["-p", "all", "-a"],
        &["\"Zone\"", "MeshGateway", "\"own\"", "HostnameGenerator"],
        &["Insight"],
    );
    move_to(
        &Global::start(),
        &["--profile", "no-dataplanes", "--include-admin"],
        &["\"Zone\"", "\"own\""],
        &["Insight"],
    );

    // With the keys of users the credentials change by which all is applied: they are the last.
    let file = from.ok(&["export"]);
    let types: Vec<_> = file.lines().filter(|line| line.starts_with("type: ")).collect();
    assert_eq!(types[..3], ["type: Mesh", "type: Mesh", "type: Secret"]);
    let last = file.rsplit("---\n").next().unwrap();
    assert!(last.contains("\nname: user-token-signing-key-1\n"));
    assert!(!from.ok(&["export", "-p", "all"]).contains("Secret"));

    let file = from.ok(&["export", "--format", "kubernetes", "-p", "federation-with-policies"]);
    kubernetes(&file);
}

fn kubernetes(file: &str) {
    let (documents, errors) = document::parse("export", file, &BTreeMap::new());
    assert_eq!(errors, vec![]);
    let objects: Vec<_> = documents.into_iter().map(|document| document.value).collect();
    let demo = objects.iter().find(|o| o["kind"] == "Mesh" && o["metadata"]["name"] == "demo");
    let demo = demo.unwrap();
    assert_eq!(demo["apiVersion"], "kuma.io/v1alpha1");
    assert_eq!(demo["spec"]["mtls"]["backends"][0]["type"], "provided");
    assert_eq!(demo["spec"]["skipCreatingInitialPolicies"][0], "*");
    assert!(objects.iter().any(|o| o["kind"] == "MeshGateway"));
    for object in &objects {
        let namespace = object["metadata"].get("namespace");
        assert!(namespace.is_none_or(|n| n == "kuma-system"), "{}", object["metadata"]);
    }
}

#[test]
fn unknown_types_are_left_out_with_a_warning() {
    let api = crate::api::Api::start(|line| match line {
        "GET /_resources" => {
            (200, r#"{"resources": [{"name": "Novelty", "path": "novelties"}]}"#.to_owned())
        }
        _ => (200, r#"{"product": "Kuma"}"#.to_owned()),
    });
    let done = api.run(&["export"]);
    assert_eq!(done.code, 0);
    assert_eq!(done.err, "Warning: types that are unknown here are not exported: Novelty\n");
    assert_eq!(api.lines(), ["GET /", "GET /_resources"]);
}
