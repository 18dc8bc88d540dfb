//! The JSON form of whole resources, as REST and files have it: metadata keys, and the spec flat
//! beside them (protobuf types) or under `spec` (`spec/rest-api.md` 6).

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use sunbear_proto::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    kind::{Codec, Kind},
    label,
    resource::{Resource, ResourceKey, Spec},
    validation,
};

/// Keys of the envelope; everything else belongs to the spec of a flat type.
const ENVELOPE: &[&str] =
    &["type", "mesh", "name", "labels", "creationTime", "modificationTime", "kri"];

/// An object that a user wants stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// Type, from the body.
    pub kind: Kind,
    /// Mesh, from the body; empty if not given.
    pub mesh: String,
    /// Name, from the body; empty if not given.
    pub name: String,
    /// Labels, from the body.
    pub labels: BTreeMap<String, String>,
    /// The spec.
    pub spec: Spec,
    /// Fields that the type does not have; accepted, and worth a warning.
    pub unknown: Vec<String>,
}

/// Why a body is not an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Not a JSON object at all.
    #[error("expected an object")]
    NotAnObject,
    /// No type given, or not a text.
    #[error("type: cannot be empty")]
    NoType,
    /// The type is not in the table.
    #[error("type: unknown type {0:?}")]
    UnknownType(String),
    /// A metadata key has the wrong form.
    #[error("{field}: {message}")]
    Metadata {
        /// The key.
        field: String,
        /// What is wrong.
        message: String,
    },
    /// The spec does not decode.
    #[error("{0}")]
    Spec(#[from] json::ReadError),
}

/// Reads an object whose type the body names.
pub fn read(body: &Value) -> Result<Desired, BodyError> {
    let map = body.as_object().ok_or(BodyError::NotAnObject)?;
    let name = map.get("type").and_then(Value::as_str).ok_or(BodyError::NoType)?;
    let kind = Kind::by_name(name).ok_or_else(|| BodyError::UnknownType(name.to_owned()))?;
    read_as(kind, body)
}

/// Reads an object as one of `kind`; the body's `type` is not looked at.
pub fn read_as(kind: Kind, body: &Value) -> Result<Desired, BodyError> {
    let map = body.as_object().ok_or(BodyError::NotAnObject)?;
    let text = |key: &str| match map.get(key) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(s)) => Ok(s.clone()),
        Some(_) => Err(BodyError::Metadata {
            field: key.to_owned(),
            message: "expected a string".to_owned(),
        }),
    };
    let mut labels = BTreeMap::new();
    match map.get("labels") {
        None | Some(Value::Null) => {}
        Some(Value::Object(entries)) => {
            for (key, value) in entries {
                let value = match value {
                    Value::String(s) => s.clone(),
                    Value::Null => String::new(),
                    Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                        return Err(BodyError::Metadata {
                            field: format!("labels[{key:?}]"),
                            message: "expected a string".to_owned(),
                        });
                    }
                };
                labels.insert(key.clone(), value);
            }
        }
        Some(_) => {
            return Err(BodyError::Metadata {
                field: "labels".to_owned(),
                message: "expected an object".to_owned(),
            });
        }
    }
    let (spec, unknown) = match kind.row().codec {
        Codec::Proto(message) => {
            let decoded = json::read(message, body, ENVELOPE)?;
            let mut spec = Spec::from_wire(kind, decoded.wire);
            if kind == Kind::TRAFFIC_ROUTE {
                spec = spec.with_given_empty(validation::traffic_route_given_empty(body));
            }
            (spec, decoded.unknown)
        }
        Codec::Json { .. } => {
            let spec = match map.get("spec") {
                None | Some(Value::Null) => Value::Object(Map::new()),
                Some(Value::Object(m)) => Value::Object(m.clone()),
                Some(_) => {
                    return Err(BodyError::Metadata {
                        field: "spec".to_owned(),
                        message: "expected an object".to_owned(),
                    });
                }
            };
            let unknown = map
                .keys()
                .filter(|k| {
                    !ENVELOPE.contains(&k.as_str())
                        && !matches!(k.as_str(), "spec" | "status" | "snis")
                })
                .cloned()
                .collect();
            (Spec::from_wire(kind, spec.to_string().into_bytes()), unknown)
        }
    };
    Ok(Desired { kind, mesh: text("mesh")?, name: text("name")?, labels, spec, unknown })
}

/// The JSON form of a stored object. A spec that does not decode shows as its metadata alone.
pub fn write(resource: &Resource) -> Value {
    let mut map = envelope(resource);
    match resource.key.kind.row().codec {
        Codec::Proto(message) => {
            if let Ok(Value::Object(spec)) = json::write(message, resource.spec.wire()) {
                for (key, value) in spec {
                    map.entry(key).or_insert(value);
                }
            }
        }
        Codec::Json { status } => {
            let parse = |bytes: &[u8]| {
                serde_json::from_slice(bytes).unwrap_or_else(|_| Value::Object(Map::new()))
            };
            let spec = parse(resource.spec.wire());
            if let Some(snis) = snis(resource, &spec) {
                map.insert("snis".to_owned(), snis);
            }
            map.insert("spec".to_owned(), spec);
            if status {
                let mut status = parse(resource.status.as_deref().unwrap_or(b"{}"));
                fill_status(resource.key.kind, &mut status);
                map.insert("status".to_owned(), status);
            }
        }
    }
    Value::Object(map)
}

/// The metadata keys of a stored object.
pub fn envelope(resource: &Resource) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("type".to_owned(), resource.key.kind.name().into());
    if !resource.key.mesh.is_empty() {
        map.insert("mesh".to_owned(), (&*resource.key.mesh).into());
    }
    map.insert("name".to_owned(), (&*resource.key.name).into());
    map.insert("creationTime".to_owned(), rfc3339(resource.created_at).into());
    map.insert("modificationTime".to_owned(), rfc3339(resource.modified_at).into());
    if !resource.labels.is_empty() {
        let labels: Map<String, Value> =
            resource.labels.iter().map(|(k, v)| (k.clone(), v.as_str().into())).collect();
        map.insert("labels".to_owned(), Value::Object(labels));
    }
    if let Some(kri) = kri(&resource.key, &resource.labels) {
        map.insert("kri".to_owned(), kri.into());
    }
    map
}

/// The resource identifier, for types that have a short name.
pub fn kri(key: &ResourceKey, labels: &BTreeMap<String, String>) -> Option<String> {
    let short = key.kind.row().short;
    if short.is_empty() {
        return None;
    }
    let get = |name: &str| labels.get(name).map_or("", String::as_str);
    let name = labels.get(label::DISPLAY_NAME).map_or(&*key.name, String::as_str);
    Some(format!("kri_{short}_{}_{}_{}_{name}_", key.mesh, get(label::ZONE), get(label::NAMESPACE)))
}

/// Server names by which other zones reach the ports of a service.
fn snis(resource: &Resource, spec: &Value) -> Option<Value> {
    let ports: Vec<&Value> = match resource.key.kind.name() {
        "MeshService" | "MeshMultiZoneService" => {
            spec.get("ports").and_then(Value::as_array).into_iter().flatten().collect()
        }
        "MeshExternalService" => spec.get("match").into_iter().collect(),
        _ => return None,
    };
    let label = |key: &str| resource.label(key).filter(|value| !value.is_empty());
    let zone = label(label::ZONE);
    // What is not from a zone has a name that is its own in all of them.
    let namespace = zone.and_then(|_| label(label::NAMESPACE));
    let short = resource.key.kind.row().short;
    let mut names: Vec<(u64, String)> = ports
        .into_iter()
        .map(|port| {
            let number = port.get("port").and_then(Value::as_u64).unwrap_or_default();
            let section = port.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
            let section = section.map_or_else(|| number.to_string(), str::to_owned);
            let start = ["sni", short, &*resource.key.mesh];
            let end = [resource.display_name(), section.as_str()];
            let parts = start.into_iter().chain(zone).chain(namespace).chain(end);
            (number, parts.collect::<Vec<_>>().join("."))
        })
        .collect();
    names.sort_by_key(|(port, _)| *port);
    let names: Vec<Value> = names
        .into_iter()
        .map(|(port, sni)| serde_json::json!({"port": port, "sni": sni}))
        .collect();
    (!names.is_empty()).then_some(Value::Array(names))
}

/// Parts of a status that are shown even when they are empty.
fn fill_status(kind: Kind, status: &mut Value) {
    let parts: &[&str] = match kind.name() {
        "MeshService" => &["tls", "dataplaneProxies"],
        "MeshExternalService" => &["vip"],
        "Workload" => &["dataplaneProxies"],
        _ => return,
    };
    let Some(status) = status.as_object_mut() else { return };
    for part in parts {
        let part = status.entry(*part).or_insert_with(|| Value::Object(Map::new()));
        if let (Some(part), "Workload") = (part.as_object_mut(), kind.name()) {
            for count in ["connected", "healthy", "total"] {
                part.entry(count).or_insert_with(|| 0.into());
            }
        }
    }
}

/// A time as REST prints it.
pub fn rfc3339(at: OffsetDateTime) -> String {
    at.to_offset(time::UtcOffset::UTC).format(&Rfc3339).unwrap_or_default()
}
