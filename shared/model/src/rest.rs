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
            map.insert("spec".to_owned(), parse(resource.spec.wire()));
            if status {
                let status = resource.status.as_deref().unwrap_or(b"{}");
                map.insert("status".to_owned(), parse(status));
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

/// A time as REST prints it.
pub fn rfc3339(at: OffsetDateTime) -> String {
    at.to_offset(time::UtcOffset::UTC).format(&Rfc3339).unwrap_or_default()
}
