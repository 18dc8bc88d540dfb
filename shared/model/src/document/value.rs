//! The text of one document as a JSON value.

use std::{cell::Cell, fmt};

use serde::{
    Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};
use serde_saphyr::{DefaultMessageFormatter, MessageFormatter as _, NonFiniteFloatPolicy};

use super::weight;

/// The most nodes of a document, keys included.
const MAX_NODES: usize = 1_000_000;

/// Why a document has no value.
#[derive(Debug)]
pub(super) struct ValueError {
    /// Line of the document, from 1.
    pub(super) line: Option<usize>,
    /// What is wrong.
    pub(super) message: String,
}

/// Which unquoted words are booleans.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Booleans {
    /// `yes`, `no`, `on`, `off`, `y` and `n`, too, as Kuma reads them.
    Yaml1_1,
    /// `true` and `false` alone.
    Yaml1_2,
}

/// Parses one document, which may be empty (null).
pub(super) fn parse(text: &str, booleans: Booleans) -> Result<Value, ValueError> {
    parse_within(MAX_NODES, text, booleans)
}

/// As [`parse`], with at most so many nodes.
fn parse_within(nodes: usize, text: &str, booleans: Booleans) -> Result<Value, ValueError> {
    if text.trim_start().starts_with('{') {
        // JSON is YAML for nearly all purposes; escapes of characters beyond the basic plane, and
        // long lines before a colon, are not.
        let left = Cell::new(nodes);
        let mut json = serde_json::Deserializer::from_str(text);
        let value = Strict { left: &left }.deserialize(&mut json);
        if let Ok(value) = value.and_then(|value| json.end().map(|()| value)) {
            return Ok(value);
        }
    }
    weight::check(text)?;
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 3 * nodes,
            max_nodes: nodes,
            max_merge_keys: 1_000,
        },
        strict_booleans: booleans == Booleans::Yaml1_2,
        legacy_octal_numbers: true,
        non_finite_float_policy: NonFiniteFloatPolicy::Reject,
        with_snippet: false,
        emit_comments: false,
    };
    let left = Cell::new(nodes);
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |yaml| {
        Strict { left: &left }.deserialize(yaml)
    })
    .map_err(|error| {
        let line = error.location().and_then(|l| usize::try_from(l.line()).ok());
        let message = DefaultMessageFormatter.format_message(error.without_snippet());
        ValueError { line: line.filter(|l| *l > 0), message: one_line(&message) }
    })
}

/// Without control characters, so that a file cannot draw on a terminal through its errors.
pub(super) fn one_line(message: &str) -> String {
    message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Builds a JSON value; refuses duplicate keys, whatever the parser does about them, and too many
/// nodes.
#[derive(Clone, Copy)]
struct Strict<'a> {
    /// Nodes that may still come. Small maps take a hundred times their text.
    left: &'a Cell<usize>,
}

impl Strict<'_> {
    fn count<E: de::Error>(self) -> Result<(), E> {
        match self.left.get().checked_sub(1) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => Err(E::custom("the document is too large")),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.count()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        match serde_json::Number::from_f64(value) {
            Some(number) => Ok(Value::Number(number)),
            None => Err(E::custom("a number must be finite")),
        }
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(de::Error::custom(format_args!("duplicate key {key:?}")));
            }
            self.count()?;
            map.insert(key, access.next_value_seed(self)?);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_counted() {
        // The object, its key, the list, and its elements.
        for text in
            [format!("a: [{}]", "[],".repeat(97)), format!("{{\"a\": [{}0]}}", "[],".repeat(96))]
        {
            assert!(parse_within(100, &text, Booleans::Yaml1_1).is_ok(), "{text}");
            assert!(parse_within(99, &text, Booleans::Yaml1_1).is_err(), "{text}");
        }
    }
}
