//! Words that YAML 1.1 took for booleans, such as `no` and `y`. They stay text where the resource
//! has a text: a name, a label, a tag.

use prost_reflect::{FieldDescriptor, Kind as Form, MessageDescriptor};
use serde_json::Value;

use super::value::{self, Booleans};
use crate::kind::{Codec, Kind};

/// Puts the words back. Texts in quotes are no booleans to begin with.
pub(super) fn settle(value: &mut Value, text: &str) {
    if !has_boolean(value) {
        return;
    }
    let Ok(strict) = value::parse(text, Booleans::Yaml1_2) else {
        return;
    };
    let kind = value["type"].as_str().and_then(Kind::by_name);
    settle_at(&Place::Resource(kind), value, &strict);
}

fn has_boolean(value: &Value) -> bool {
    match value {
        Value::Bool(_) => true,
        Value::Array(items) => items.iter().any(has_boolean),
        Value::Object(entries) => entries.values().any(has_boolean),
        Value::Null | Value::Number(_) | Value::String(_) => false,
    }
}

/// What is expected at a place.
enum Place {
    Resource(Option<Kind>),
    Message(MessageDescriptor),
    /// A list or map of this field's elements, or one of them.
    Field(FieldDescriptor),
    /// Inside of a spec whose fields are not known.
    Json,
    Text,
    Texts,
    Other,
}

impl Place {
    fn at(&self, key: &str) -> Place {
        match self {
            Place::Resource(kind) => match (key, kind.map(|kind| kind.row().codec)) {
                ("type" | "name" | "mesh", _) => Place::Text,
                ("labels", _) => Place::Texts,
                (_, Some(Codec::Proto(message))) => sunbear_proto::json::descriptor(message)
                    .map_or(Place::Other, |message| Place::Message(message).at(key)),
                ("spec", Some(Codec::Json { .. })) => Place::Json,
                (_, Some(Codec::Json { .. }) | None) => Place::Other,
            },
            Place::Message(message) => message
                .get_field_by_json_name(key)
                .or_else(|| message.get_field_by_name(key))
                .map_or(Place::Other, Place::Field),
            Place::Field(field) => match field.kind() {
                Form::Message(entry) if field.is_map() => Place::of(&entry.map_entry_value_field()),
                Form::Message(message) => Place::Message(message).at(key),
                _ => Place::Other,
            },
            Place::Json => match key {
                "kind" | "mesh" | "name" | "namespace" | "sectionName" | "value" => Place::Text,
                "labels" | "tags" => Place::Texts,
                _ => Place::Json,
            },
            Place::Texts => Place::Text,
            Place::Text | Place::Other => Place::Other,
        }
    }

    /// One element of a field.
    fn of(field: &FieldDescriptor) -> Place {
        match field.kind() {
            Form::String => Place::Text,
            Form::Message(message) if message.full_name() == "google.protobuf.StringValue" => {
                Place::Text
            }
            Form::Message(message) => Place::Message(message),
            _ => Place::Other,
        }
    }

    fn is_text(&self) -> bool {
        match self {
            Place::Text => true,
            Place::Field(field) => !field.is_map() && matches!(Place::of(field), Place::Text),
            Place::Resource(_) | Place::Message(_) | Place::Json | Place::Texts | Place::Other => {
                false
            }
        }
    }
}

fn settle_at(place: &Place, value: &mut Value, strict: &Value) {
    match (value, strict) {
        (value @ Value::Bool(_), Value::String(word)) if place.is_text() => {
            *value = Value::String(word.clone());
        }
        (Value::Array(items), Value::Array(strict)) => {
            for (item, strict) in items.iter_mut().zip(strict) {
                settle_at(place, item, strict);
            }
        }
        (Value::Object(entries), Value::Object(strict)) => {
            for (key, value) in entries {
                if let Some(strict) = strict.get(key) {
                    settle_at(&place.at(key), value, strict);
                }
            }
        }
        _ => {}
    }
}
