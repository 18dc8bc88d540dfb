//! JSON to wire bytes, guided by descriptors. Written by hand instead of through a dynamic message
//! because the bytes must be canonical (fields by number, map entries by key), unknown fields must
//! be named, and errors must say where.

use std::collections::BTreeMap;

use base64::Engine as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value};

/// Nesting beyond this is refused; no resource comes near, and the stack stays bounded.
const MAX_DEPTH: usize = 64;

/// A message read from JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// Canonical wire bytes.
    pub wire: Vec<u8>,
    /// Paths of fields that the message does not have, in reading order.
    pub unknown: Vec<String>,
}

/// Why JSON is not a message, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No message of this name is known.
    #[error("unknown message {0}")]
    UnknownMessage(String),
    /// A value does not fit its field.
    #[error("{}{message}", if path.is_empty() { String::new() } else { format!("{path}: ") })]
    Field {
        /// Path in JSON names, such as `conf.listeners[1].protocol`; empty for the message itself.
        path: String,
        /// What is wrong.
        message: String,
    },
}

/// Reads the JSON form of message `full_name`. `ignored` names top-level keys that are not the
/// message's own (such as `type`, `name`, `labels` next to an inline spec).
pub fn read(full_name: &str, value: &Value, ignored: &[&str]) -> Result<Decoded, ReadError> {
    let descriptor = super::descriptor(full_name)
        .ok_or_else(|| ReadError::UnknownMessage(full_name.to_owned()))?;
    let mut reader = Reader { path: String::new(), unknown: Vec::new(), depth: 0 };
    let mut wire = Vec::new();
    reader.message(&descriptor, value, ignored, &mut wire)?;
    Ok(Decoded { wire, unknown: reader.unknown })
}

struct Reader {
    path: String,
    unknown: Vec<String>,
    depth: usize,
}

type Result<T, E = ReadError> = std::result::Result<T, E>;

impl Reader {
    fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(ReadError::Field { path: self.path.clone(), message: message.into() })
    }

    fn expected<T>(&self, what: &str, got: &Value) -> Result<T> {
        let got = match got {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        self.fail(format!("expected {what}, got {got}"))
    }

    fn at<T>(&mut self, segment: &str, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let length = self.path.len();
        if !self.path.is_empty() && !segment.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(segment);
        let result = f(self);
        if result.is_ok() {
            self.path.truncate(length);
        }
        result
    }

    fn message(
        &mut self,
        descriptor: &MessageDescriptor,
        value: &Value,
        ignored: &[&str],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        if self.depth == MAX_DEPTH {
            return self.fail("nested too deeply");
        }
        self.depth += 1;
        let result = match descriptor.full_name() {
            "google.protobuf.Duration" => self.duration(value, out),
            "google.protobuf.Timestamp" => self.timestamp(value, out),
            "google.protobuf.Struct" => self.structure(value, out),
            "google.protobuf.Value" => self.json_value(value, out),
            "google.protobuf.ListValue" => self.list_value(value, out),
            "google.protobuf.Any" => self.any(value, out),
            name if is_wrapper(name) => match descriptor.get_field(1) {
                Some(field) => self.scalar_field(&field, value, out, false),
                None => self.fail("wrapper without a value"),
            },
            _ => match value {
                Value::Object(map) => self.fields(descriptor, map, ignored, out),
                other => self.expected("an object", other),
            },
        };
        self.depth -= 1;
        result
    }

    fn fields(
        &mut self,
        descriptor: &MessageDescriptor,
        map: &Map<String, Value>,
        ignored: &[&str],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let mut found: BTreeMap<u32, (FieldDescriptor, &Value)> = BTreeMap::new();
        for (key, value) in map {
            if ignored.contains(&key.as_str()) {
                continue;
            }
            let by_json = descriptor.get_field_by_json_name(key);
            let camel = by_json.is_some();
            let Some(field) = by_json.or_else(|| descriptor.get_field_by_name(key)) else {
                let path =
                    if self.path.is_empty() { key.clone() } else { format!("{}.{key}", self.path) };
                self.unknown.push(path);
                continue;
            };
            let null_value = matches!(field.kind(), Kind::Message(m) if m.full_name() == "google.protobuf.Value");
            if value.is_null() && !null_value {
                continue;
            }
            // Both spellings present: the camelCase one wins.
            if camel || !found.contains_key(&field.number()) {
                found.insert(field.number(), (field, value));
            }
        }
        // Several members of a oneof: the one declared last wins, silently, as Go's parser does.
        for oneof in descriptor.oneofs() {
            let mut last = None;
            for field in oneof.fields() {
                if found.contains_key(&field.number())
                    && let Some(previous) = last.replace(field.number())
                {
                    found.remove(&previous);
                }
            }
        }
        for (field, value) in found.into_values() {
            let name = field.json_name().to_owned();
            self.at(&name, |r| r.field(&field, value, out))?;
        }
        Ok(())
    }

    fn field(&mut self, field: &FieldDescriptor, value: &Value, out: &mut Vec<u8>) -> Result<()> {
        if field.is_map() {
            return self.map(field, value, out);
        }
        if field.is_list() {
            let Value::Array(items) = value else {
                return self.expected("a list", value);
            };
            let packed = field.is_packed();
            let mut run = Vec::new();
            for (i, item) in items.iter().enumerate() {
                self.at(&format!("[{i}]"), |r| {
                    if packed {
                        r.scalar_payload(field, item, &mut run)
                    } else {
                        r.single(field, item, out, true)
                    }
                })?;
            }
            if packed && !items.is_empty() {
                length_delimited(field.number(), &run, out);
            }
            return Ok(());
        }
        self.single(field, value, out, field.supports_presence())
    }

    fn single(
        &mut self,
        field: &FieldDescriptor,
        value: &Value,
        out: &mut Vec<u8>,
        presence: bool,
    ) -> Result<()> {
        match field.kind() {
            Kind::Message(message) => {
                let mut body = Vec::new();
                self.message(&message, value, &[], &mut body)?;
                length_delimited(field.number(), &body, out);
                Ok(())
            }
            _ => self.scalar_field(field, value, out, presence),
        }
    }

    /// A scalar with its key. Without presence a default value is not written.
    fn scalar_field(
        &mut self,
        field: &FieldDescriptor,
        value: &Value,
        out: &mut Vec<u8>,
        presence: bool,
    ) -> Result<()> {
        let mut payload = Vec::new();
        self.scalar_payload(field, value, &mut payload)?;
        let kind = field.kind();
        if !presence
            && payload.iter().all(|b| *b == 0)
            && !matches!(kind, Kind::String | Kind::Bytes)
        {
            return Ok(());
        }
        match kind {
            Kind::String | Kind::Bytes => {
                if presence || !payload.is_empty() {
                    length_delimited(field.number(), &payload, out);
                }
            }
            Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => {
                encode_key(field.number(), WireType::SixtyFourBit, out);
                out.extend_from_slice(&payload);
            }
            Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => {
                encode_key(field.number(), WireType::ThirtyTwoBit, out);
                out.extend_from_slice(&payload);
            }
            _ => {
                encode_key(field.number(), WireType::Varint, out);
                out.extend_from_slice(&payload);
            }
        }
        Ok(())
    }

    /// A scalar's bytes without key; strings and bytes without their length.
    fn scalar_payload(
        &mut self,
        field: &FieldDescriptor,
        value: &Value,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        match field.kind() {
            Kind::String => match value {
                Value::String(s) => out.extend_from_slice(s.as_bytes()),
                other => return self.expected("a string", other),
            },
            Kind::Bytes => match value {
                Value::String(s) => {
                    let bytes = base64_any(s);
                    match bytes {
                        Some(bytes) => out.extend_from_slice(&bytes),
                        None => return self.fail("not base64"),
                    }
                }
                other => return self.expected("a base64 string", other),
            },
            Kind::Bool => match value {
                Value::Bool(b) => encode_varint(u64::from(*b), out),
                other => return self.expected("a boolean", other),
            },
            Kind::Double => out.extend_from_slice(&self.float(value)?.to_le_bytes()),
            Kind::Float => {
                #[expect(clippy::cast_possible_truncation, reason = "the field is a float")]
                let narrow = self.float(value)? as f32;
                out.extend_from_slice(&narrow.to_le_bytes());
            }
            Kind::Enum(descriptor) => {
                let number = self.enumeration(&descriptor, value)?;
                encode_varint(i64::from(number).cast_unsigned(), out);
            }
            Kind::Int32 => {
                let n = self.integer(value, i64::from(i32::MIN), i64::from(i32::MAX))?;
                encode_varint(n.cast_unsigned(), out);
            }
            Kind::Sint32 | Kind::Sint64 => {
                let n = self.integer(value, i64::MIN, i64::MAX)?;
                encode_varint(((n << 1) ^ (n >> 63)).cast_unsigned(), out);
            }
            Kind::Int64 => {
                let n = self.integer(value, i64::MIN, i64::MAX)?;
                encode_varint(n.cast_unsigned(), out);
            }
            Kind::Uint32 => encode_varint(self.unsigned(value, u64::from(u32::MAX))?, out),
            Kind::Uint64 => encode_varint(self.unsigned(value, u64::MAX)?, out),
            Kind::Fixed32 => {
                let n = self.unsigned(value, u64::from(u32::MAX))?;
                out.extend_from_slice(&u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes());
            }
            Kind::Fixed64 => {
                out.extend_from_slice(&self.unsigned(value, u64::MAX)?.to_le_bytes());
            }
            Kind::Sfixed32 => {
                let n = self.integer(value, i64::from(i32::MIN), i64::from(i32::MAX))?;
                out.extend_from_slice(&i32::try_from(n).unwrap_or(0).to_le_bytes());
            }
            Kind::Sfixed64 => {
                out.extend_from_slice(&self.integer(value, i64::MIN, i64::MAX)?.to_le_bytes());
            }
            Kind::Message(_) => return self.fail("a message is not a scalar"),
        }
        Ok(())
    }

    fn map(&mut self, field: &FieldDescriptor, value: &Value, out: &mut Vec<u8>) -> Result<()> {
        let Value::Object(entries) = value else {
            return self.expected("an object", value);
        };
        let Kind::Message(entry) = field.kind() else {
            return self.fail("not a map");
        };
        let (key_field, value_field) = (entry.map_entry_key_field(), entry.map_entry_value_field());
        // `serde_json`'s map is sorted, which is the canonical order for string keys, the only
        // kind that our messages and Envoy's have.
        for (key, item) in entries {
            let mut body = Vec::new();
            self.at(&format!("[{}]", quoted(key)), |r| {
                let key_json = match key_field.kind() {
                    Kind::String => Value::String(key.clone()),
                    Kind::Bool => Value::Bool(key == "true"),
                    _ => serde_json::from_str(key).unwrap_or(Value::Null),
                };
                r.scalar_field(&key_field, &key_json, &mut body, false)?;
                match (value_field.kind(), item) {
                    // A null in a map of strings is the empty string, so that the key is kept.
                    (Kind::String, Value::Null) => Ok(()),
                    (Kind::Message(_), _) => r.single(&value_field, item, &mut body, true),
                    _ => r.scalar_field(&value_field, item, &mut body, false),
                }
            })?;
            length_delimited(field.number(), &body, out);
        }
        Ok(())
    }

    fn enumeration(&self, descriptor: &EnumDescriptor, value: &Value) -> Result<i32> {
        match value {
            Value::String(name) => match descriptor.get_value_by_name(name) {
                Some(v) => Ok(v.number()),
                None => {
                    let allowed: Vec<_> =
                        descriptor.values().map(|v| v.name().to_owned()).collect();
                    self.fail(format!(
                        "unknown value {} for enum {}, allowed are {}",
                        quoted(name),
                        descriptor.full_name(),
                        allowed.join(", ")
                    ))
                }
            },
            Value::Number(_) => {
                let n = self.integer(value, i64::from(i32::MIN), i64::from(i32::MAX))?;
                Ok(i32::try_from(n).unwrap_or(0))
            }
            other => self.expected("the name of an enum value", other),
        }
    }

    fn number_text(&self, value: &Value) -> Result<serde_json::Number> {
        match value {
            Value::Number(n) => Ok(n.clone()),
            Value::String(s) => match serde_json::from_str::<serde_json::Number>(s) {
                Ok(n) => Ok(n),
                Err(_) => self.fail(format!("{} is not a number", quoted(s))),
            },
            other => self.expected("a number", other),
        }
    }

    fn integer(&self, value: &Value, min: i64, max: i64) -> Result<i64> {
        let n = self.number_text(value)?;
        #[expect(clippy::cast_possible_truncation, reason = "whole and within 2^53")]
        let whole = n.as_i64().or_else(|| {
            n.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9.0e15).map(|f| f as i64)
        });
        match whole.filter(|w| (min..=max).contains(w)) {
            Some(w) => Ok(w),
            None => self.fail(format!("{n} is not a whole number between {min} and {max}")),
        }
    }

    fn unsigned(&self, value: &Value, max: u64) -> Result<u64> {
        let n = self.number_text(value)?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "whole, not negative and within 2^53"
        )]
        let whole = n.as_u64().or_else(|| {
            n.as_f64().filter(|f| f.fract() == 0.0 && (0.0..9.0e15).contains(f)).map(|f| f as u64)
        });
        match whole.filter(|w| *w <= max) {
            Some(w) => Ok(w),
            None => self.fail(format!("{n} is not a whole number between 0 and {max}")),
        }
    }

    fn float(&self, value: &Value) -> Result<f64> {
        if let Value::String(s) = value {
            match s.as_str() {
                "NaN" => return Ok(f64::NAN),
                "Infinity" => return Ok(f64::INFINITY),
                "-Infinity" => return Ok(f64::NEG_INFINITY),
                _ => {}
            }
        }
        match self.number_text(value)?.as_f64() {
            Some(f) => Ok(f),
            None => self.fail("not a number"),
        }
    }

    fn duration(&self, value: &Value, out: &mut Vec<u8>) -> Result<()> {
        let Value::String(text) = value else {
            return self.expected("a duration such as \"5s\"", value);
        };
        match crate::duration::parse(text) {
            Some(d) => {
                seconds_nanos(d.seconds, d.nanos, out);
                Ok(())
            }
            None => self.fail(format!("invalid duration {}", quoted(text))),
        }
    }

    fn timestamp(&self, value: &Value, out: &mut Vec<u8>) -> Result<()> {
        let Value::String(text) = value else {
            return self.expected("a time such as \"2026-01-31T12:00:00Z\"", value);
        };
        match time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339) {
            Ok(t) => {
                seconds_nanos(t.unix_timestamp(), i32::try_from(t.nanosecond()).unwrap_or(0), out);
                Ok(())
            }
            Err(_) => self.fail(format!("invalid time {}", quoted(text))),
        }
    }

    fn structure(&mut self, value: &Value, out: &mut Vec<u8>) -> Result<()> {
        let Value::Object(map) = value else {
            return self.expected("an object", value);
        };
        for (key, item) in map {
            let mut entry = Vec::new();
            if !key.is_empty() {
                length_delimited(1, key.as_bytes(), &mut entry);
            }
            let mut body = Vec::new();
            self.at(key, |r| r.nested_json_value(item, &mut body))?;
            length_delimited(2, &body, &mut entry);
            length_delimited(1, &entry, out);
        }
        Ok(())
    }

    fn nested_json_value(&mut self, value: &Value, out: &mut Vec<u8>) -> Result<()> {
        if self.depth == MAX_DEPTH {
            return self.fail("nested too deeply");
        }
        self.depth += 1;
        let result = self.json_value(value, out);
        self.depth -= 1;
        result
    }

    fn json_value(&mut self, value: &Value, out: &mut Vec<u8>) -> Result<()> {
        match value {
            Value::Null => {
                encode_key(1, WireType::Varint, out);
                encode_varint(0, out);
            }
            Value::Number(n) => {
                encode_key(2, WireType::SixtyFourBit, out);
                out.extend_from_slice(&n.as_f64().unwrap_or(0.0).to_le_bytes());
            }
            Value::String(s) => length_delimited(3, s.as_bytes(), out),
            Value::Bool(b) => {
                encode_key(4, WireType::Varint, out);
                encode_varint(u64::from(*b), out);
            }
            Value::Object(_) => {
                let mut body = Vec::new();
                self.structure(value, &mut body)?;
                length_delimited(5, &body, out);
            }
            Value::Array(_) => {
                let mut body = Vec::new();
                self.list_value(value, &mut body)?;
                length_delimited(6, &body, out);
            }
        }
        Ok(())
    }

    fn list_value(&mut self, value: &Value, out: &mut Vec<u8>) -> Result<()> {
        let Value::Array(items) = value else {
            return self.expected("a list", value);
        };
        for (i, item) in items.iter().enumerate() {
            let mut body = Vec::new();
            self.at(&format!("[{i}]"), |r| r.nested_json_value(item, &mut body))?;
            length_delimited(1, &body, out);
        }
        Ok(())
    }

    fn any(&mut self, value: &Value, out: &mut Vec<u8>) -> Result<()> {
        let Value::Object(map) = value else {
            return self.expected("an object", value);
        };
        let Some(Value::String(url)) = map.get("@type") else {
            return self.fail("\"@type\" is missing");
        };
        let name = url.rsplit('/').next().unwrap_or_default();
        let Some(descriptor) = super::descriptor(name) else {
            return self.fail(format!("unknown type {}", quoted(url)));
        };
        let mut body = Vec::new();
        if is_well_known(name) {
            let inner = map.get("value").unwrap_or(&Value::Null);
            self.at("value", |r| r.message(&descriptor, inner, &[], &mut body))?;
        } else {
            self.message(&descriptor, value, &["@type"], &mut body)?;
        }
        length_delimited(1, url.as_bytes(), out);
        if !body.is_empty() {
            length_delimited(2, &body, out);
        }
        Ok(())
    }
}

fn length_delimited(number: u32, body: &[u8], out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(body.len() as u64, out);
    out.extend_from_slice(body);
}

fn seconds_nanos(seconds: i64, nanos: i32, out: &mut Vec<u8>) {
    if seconds != 0 {
        encode_key(1, WireType::Varint, out);
        encode_varint(seconds.cast_unsigned(), out);
    }
    if nanos != 0 {
        encode_key(2, WireType::Varint, out);
        encode_varint(i64::from(nanos).cast_unsigned(), out);
    }
}

fn is_wrapper(name: &str) -> bool {
    name.strip_prefix("google.protobuf.").is_some_and(|n| {
        matches!(
            n,
            "BoolValue"
                | "BytesValue"
                | "DoubleValue"
                | "FloatValue"
                | "Int32Value"
                | "Int64Value"
                | "StringValue"
                | "UInt32Value"
                | "UInt64Value"
        )
    })
}

fn is_well_known(name: &str) -> bool {
    is_wrapper(name)
        || matches!(
            name,
            "google.protobuf.Any"
                | "google.protobuf.Duration"
                | "google.protobuf.ListValue"
                | "google.protobuf.Struct"
                | "google.protobuf.Timestamp"
                | "google.protobuf.Value"
        )
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// Standard alphabet, padding optional; the URL alphabet is accepted as well.
fn base64_any(text: &str) -> Option<Vec<u8>> {
    use base64::engine::{
        DecodePaddingMode,
        general_purpose::{GeneralPurpose, GeneralPurposeConfig},
    };
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let standard = GeneralPurpose::new(&base64::alphabet::STANDARD, config);
    let url = GeneralPurpose::new(&base64::alphabet::URL_SAFE, config);
    standard.decode(text).or_else(|_| url.decode(text)).ok()
}
