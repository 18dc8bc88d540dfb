//! The resources of a case.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use sunbear_model::{Kind, ResourceKey, Spec, rest, validation::validate_spec};
use sunbear_store::{Change, Revision};

use crate::{
    backend::Backend,
    gateway::{Gateway, MESH, SERVICE},
    port::Port,
};

/// All resources that there shall be, but for the gateway's Dataplane.
#[derive(Debug)]
pub struct Scene<'g> {
    gateway: &'g Gateway,
    number: u64,
    listeners: Vec<Value>,
    ports: Vec<Port>,
    mesh: Value,
    documents: Vec<Value>,
}

impl<'g> Scene<'g> {
    pub(crate) fn new(gateway: &'g Gateway, number: u64) -> Self {
        let documents = gateway.backends.iter().map(Backend::dataplane).collect();
        let mesh = json!({"type": "Mesh", "name": MESH});
        Self { gateway, number, listeners: vec![], ports: vec![], mesh, documents }
    }

    /// Adds a listener, on a port of its own unless it names one; gives the port.
    pub fn listener(&mut self, text: &str) -> u16 {
        let mut listener = yaml(text);
        if let Some(port) = listener["port"].as_u64() {
            self.listeners.push(listener);
            return u16::try_from(port).unwrap();
        }
        let port = Port::take();
        let number = port.number();
        self.ports.push(port);
        listener["port"] = json!(number);
        self.listeners.push(listener);
        number
    }

    /// Changes the listeners.
    pub fn listeners(&mut self) -> &mut Vec<Value> {
        &mut self.listeners
    }

    /// An HTTP listener for all hosts, and a route with these rules.
    pub fn http(&mut self, rules: &str) -> u16 {
        let port = self.listener("{protocol: HTTP}");
        self.route("route", &format!("http: {{rules: {rules}}}"));
        port
    }

    /// Adds or replaces a route with this `conf`, on all listeners.
    pub fn route(&mut self, name: &str, conf: &str) {
        self.add(&format!(
            "{{type: MeshGatewayRoute, name: {name}, \
             selectors: [{{match: {{kuma.io/service: {SERVICE}}}}}], conf: {{{conf}}}}}"
        ));
    }

    /// Adds or replaces a resource, from YAML. Beside what the format has, there is
    /// - a mesh if none is named, and as the name the type in lower case;
    /// - `exact`, `prefix` and `regex` in a match, in place of `path`;
    /// - `to: SERVICE` in a rule, in place of `backends`;
    /// - for connection policies `sources` and `destinations` for everything if they are missing.
    pub fn add(&mut self, text: &str) {
        self.put(yaml(text));
    }

    /// Adds or replaces a resource.
    pub fn put(&mut self, document: Value) {
        let document = complete(document);
        let same = |other: &Value| {
            ["type", "mesh", "name"].iter().all(|key| other[*key] == document[*key])
        };
        match self.documents.iter_mut().find(|other| same(other)) {
            Some(other) => *other = document,
            None => self.documents.push(document),
        }
    }

    /// Adds a Secret of the mesh.
    pub fn secret(&mut self, name: &str, data: &str) {
        self.secret_of(MESH, name, data);
    }

    /// Adds a Secret of a mesh.
    pub fn secret_of(&mut self, mesh: &str, name: &str, data: &str) {
        let data = crate::certificate::base64(data);
        self.put(json!({"type": "Secret", "mesh": mesh, "name": name, "data": data}));
    }

    /// Takes a resource away.
    pub fn remove(&mut self, kind: &str, name: &str) {
        self.documents.retain(|d| d["type"] != kind || d["name"] != name);
    }

    /// Sets fields of the gateway's mesh.
    pub fn mesh(&mut self, fields: &str) {
        for (key, value) in yaml(fields).as_object().unwrap() {
            self.mesh[key] = value.clone();
        }
    }

    /// Turns mesh mTLS on, with this authority.
    pub fn mtls(&mut self, authority: &crate::Authority) {
        self.mesh("{mtls: {enabledBackend: ca-1, backends: [{name: ca-1, type: builtin}]}}");
        self.authority(MESH, authority);
    }

    /// Adds the secrets of a mesh's builtin authority `ca-1`.
    pub fn authority(&mut self, mesh: &str, authority: &crate::Authority) {
        use sunbear_security::ca::{builtin_cert_secret, builtin_key_secret};
        let pair = authority.pair();
        self.secret_of(mesh, &builtin_cert_secret(mesh, "ca-1"), &pair.certificate);
        self.secret_of(mesh, &builtin_key_secret(mesh, "ca-1"), &pair.key);
    }

    /// Makes the world exactly this, and waits until the Envoy has it.
    pub async fn apply(&self) {
        let revision = self.commit().await;
        self.gateway.settled(revision).await;
    }

    /// Makes the world exactly this; gives the revision.
    pub async fn commit(&self) -> Revision {
        let mut all = vec![self.mesh.clone()];
        all.extend(self.documents.iter().cloned());
        if !self.listeners.is_empty() {
            all.push(json!({
                "type": "MeshGateway", "mesh": MESH, "name": "edge",
                "selectors": [{"match": {"kuma.io/service": SERVICE}}],
                "tags": {"scene": self.number.to_string()},
                "conf": {"listeners": self.listeners},
            }));
        }
        // Meshes before what is in them.
        all.sort_by_key(|document| document["type"] != "Mesh");
        let mut keys = BTreeSet::new();
        let mut changes = Vec::new();
        for document in &all {
            let (key, spec, labels) = read(document);
            keys.insert(key.clone());
            changes.push(Change::put(key, spec, labels));
        }
        let gone: Vec<ResourceKey> = {
            let mut stored = self.gateway.stored.lock().unwrap();
            let old = std::mem::replace(&mut *stored, keys);
            old.difference(&stored).cloned().collect()
        };
        changes.extend(gone.into_iter().map(Change::delete));
        self.gateway.zone.commit(changes).await
    }
}

/// Reads YAML.
pub fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// What is to be stored for a document; it has to pass validation.
pub(crate) fn read(document: &Value) -> (ResourceKey, Spec, BTreeMap<String, String>) {
    let desired = rest::read(document).unwrap_or_else(|error| panic!("{error}\n{document}"));
    assert!(desired.unknown.is_empty(), "unknown fields {:?}\n{document}", desired.unknown);
    let violations = validate_spec(desired.kind, &desired.mesh, &desired.name, &desired.spec);
    assert!(violations.is_empty(), "{violations}\n{document}");
    let key = ResourceKey::new(desired.kind, &desired.mesh, &desired.name);
    (key, desired.spec, desired.labels)
}

/// Policies between sources and destinations.
const CONNECTION_POLICIES: [&str; 9] = [
    "CircuitBreaker",
    "FaultInjection",
    "HealthCheck",
    "RateLimit",
    "Retry",
    "Timeout",
    "TrafficLog",
    "TrafficPermission",
    "TrafficRoute",
];

fn complete(mut document: Value) -> Value {
    let kind = document["type"].as_str().unwrap().to_owned();
    let map = document.as_object_mut().unwrap();
    let scoped = Kind::by_name(&kind).unwrap().is_mesh_scoped();
    if scoped {
        map.entry("mesh").or_insert(json!(MESH));
    }
    map.entry("name").or_insert(json!(kind.to_lowercase()));
    if CONNECTION_POLICIES.contains(&&*kind) {
        for side in ["sources", "destinations"] {
            map.entry(side).or_insert(json!([{"match": {"kuma.io/service": "*"}}]));
        }
    }
    if kind == "MeshGatewayRoute" {
        expand(&mut document);
    }
    document
}

/// Replaces the shorthands of routes.
pub fn expand(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(expand),
        Value::Object(map) => {
            shorthands(map);
            map.values_mut().for_each(expand);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn shorthands(map: &mut Map<String, Value>) {
    if map.get("to").is_some_and(Value::is_string) {
        let service = map.remove("to");
        let backend = json!({"weight": 1, "destination": {"kuma.io/service": service}});
        map.insert("backends".to_owned(), json!([backend]));
    }
    for kind in ["exact", "prefix", "regex"] {
        if let Some(value) = map.remove(kind) {
            let path = json!({"match": kind.to_uppercase(), "value": value});
            map.insert("path".to_owned(), path);
        }
    }
}
