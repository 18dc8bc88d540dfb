//! The JSON form of messages as Kuma reads and writes it (`spec/resources.md` 1.2,
//! `spec/rest-api.md` 6.3): camelCase out, both spellings in, enums by name, Go durations in,
//! unknown fields tolerated but reported.

mod read;

use prost_reflect::{DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::Value;

pub use read::{Decoded, ReadError, read};

/// Why bytes could not be shown as JSON.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// No message of this name is known.
    #[error("unknown message {0}")]
    UnknownMessage(String),
    /// The bytes are not a message of this type.
    #[error("malformed {0}")]
    Malformed(String, #[source] prost::DecodeError),
    /// A nested `Any` holds an unknown type or malformed bytes.
    #[error("{0} cannot be shown as JSON: {1}")]
    Unprintable(String, String),
}

/// The descriptor of a message by its full name.
pub fn descriptor(full_name: &str) -> Option<MessageDescriptor> {
    crate::pool().get_message_by_name(full_name)
}

/// Shows wire bytes of the message `full_name` as JSON. Fields at their default are left out;
/// keys come sorted, because `serde_json`'s map sorts them.
pub fn write(full_name: &str, wire: &[u8]) -> Result<Value, WriteError> {
    let descriptor =
        descriptor(full_name).ok_or_else(|| WriteError::UnknownMessage(full_name.to_owned()))?;
    let message = DynamicMessage::decode(descriptor, wire)
        .map_err(|e| WriteError::Malformed(full_name.to_owned(), e))?;
    let options = SerializeOptions::new().stringify_64_bit_integers(true).skip_default_fields(true);
    let mut value = message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|e| WriteError::Unprintable(full_name.to_owned(), e.to_string()))?;
    whole_numbers(&mut value);
    Ok(value)
}

/// As [`write`], for a message at hand.
pub fn write_message<M: prost::Message + prost::Name>(message: &M) -> Result<Value, WriteError> {
    write(&M::full_name(), &message.encode_to_vec())
}

/// Go prints doubles without a fraction as integers.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(n) if n.is_f64() => {
            if let Some(f) = n.as_f64()
                && f.fract() == 0.0
                && f.abs() < 9.0e15
            {
                #[expect(clippy::cast_possible_truncation, reason = "whole and in range")]
                let whole = f as i64;
                *value = Value::from(whole);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(map) => map.values_mut().for_each(whole_numbers),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
