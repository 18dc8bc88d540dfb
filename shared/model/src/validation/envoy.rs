//! Raw Envoy resources inside of policies: YAML or JSON that must be the JSON form of a message and
//! keep the rules that Envoy's messages carry as options.
//!
//! Only the rules that occur in practice are checked; a type that this release has no descriptor of
//! is left to Envoy.

use std::borrow::Cow;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value};
use serde_json::{Map, json};
use sunbear_proto::json;

use crate::document;

/// Checks a resource that names its type by `@type`.
pub(super) fn check_typed(text: &str) -> Result<(), String> {
    let value = parse(text)?;
    let url = value.get("@type").and_then(serde_json::Value::as_str).unwrap_or_default();
    if url.is_empty() {
        return Err("\"@type\" is missing".to_owned());
    }
    let name = message_name(url).to_owned();
    if !name.starts_with("envoy.") {
        return Err(format!("unknown type {url:?}"));
    }
    if json::descriptor(&name).is_none() {
        return Ok(());
    }
    read(&name, &value, &["@type"])
}

/// Checks a whole resource of the type `message`.
pub(super) fn check(message: &str, text: &str) -> Result<(), String> {
    read(message, &parse(text)?, &[])
}

/// Checks the form of a part of a resource.
pub(super) fn check_patch(message: &str, text: &str) -> Result<(), String> {
    json::read(message, &parse(text)?, &[]).map(|_| ()).map_err(|error| error.to_string())
}

fn read(message: &str, value: &serde_json::Value, ignored: &[&str]) -> Result<(), String> {
    let decoded = json::read(message, value, ignored).map_err(|error| error.to_string())?;
    let Some(descriptor) = json::descriptor(message) else {
        return Ok(());
    };
    match DynamicMessage::decode(descriptor, decoded.wire.as_slice()) {
        Ok(message) => keeps_rules(&message),
        Err(error) => Err(error.to_string()),
    }
}

fn parse(text: &str) -> Result<serde_json::Value, String> {
    match document::parse_value(text) {
        Ok(serde_json::Value::Null) => Ok(json!({})),
        Ok(mut value) => {
            forget_unknown_types(&mut value);
            Ok(value)
        }
        Err(error) => match serde_json::from_str::<serde::de::IgnoredAny>(text) {
            // What is no YAML is told of as JSON.
            Err(json) if json.is_eof() => Err("unexpected EOF".to_owned()),
            Ok(_) | Err(_) => Err(error),
        },
    }
}

fn message_name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or_default()
}

/// Puts an empty message in place of each nested one whose type is not known here.
fn forget_unknown_types(value: &mut serde_json::Value) {
    let serde_json::Value::Object(map) = value else {
        if let serde_json::Value::Array(items) = value {
            items.iter_mut().for_each(forget_unknown_types);
        }
        return;
    };
    for item in map.values_mut() {
        let unknown = item.get("@type").and_then(serde_json::Value::as_str).is_some_and(|url| {
            let name = message_name(url);
            let family = ["envoy.", "udpa.", "xds."].iter().any(|family| name.starts_with(family));
            family && json::descriptor(name).is_none()
        });
        if unknown {
            *item = json!({"@type": "type.googleapis.com/google.protobuf.Struct", "value": Map::new()});
        } else {
            forget_unknown_types(item);
        }
    }
}

/// Checks the rules of a message and of those inside it, in the order of the fields.
fn keeps_rules(message: &DynamicMessage) -> Result<(), String> {
    let descriptor = message.descriptor();
    for field in descriptor.fields() {
        let fail = |message: &str| Err(violation(&descriptor, field.name(), message));
        let rules = rules(&field);
        let has = message.has_field(&field);
        if !has && required(rules.as_ref()) {
            return fail("value is required");
        }
        let value = message.get_field(&field);
        let rule = |kind: &str| rules.as_ref().and_then(|rules| submessage(rules, kind));
        match &*value {
            Value::List(items) => {
                let least = rule("repeated").and_then(|r| number(&r, "min_items")).unwrap_or(0.0);
                if (items.len() as f64) < least {
                    return fail(&format!("value must contain at least {least} item(s)"));
                }
                for (i, item) in items.iter().enumerate() {
                    embedded(&descriptor, &format!("{}[{i}]", camel(field.name())), item)?;
                }
            }
            Value::Map(entries) => {
                for (key, item) in entries {
                    let key = format!("{}[{key:?}]", camel(field.name()));
                    embedded(&descriptor, &key, item)?;
                }
            }
            Value::Message(inner) if has => {
                match inner.get_field_by_name("value").filter(|_| is_wrapper(&inner.descriptor())) {
                    Some(value) => scalar(&value, rules.as_ref()).or_else(|m| fail(&m))?,
                    None => embedded(&descriptor, &camel(field.name()), &value)?,
                }
            }
            Value::Message(_) => {}
            value if has || !field.supports_presence() => {
                if let (Value::EnumNumber(n), Kind::Enum(kind)) = (value, field.kind())
                    && rule("enum").is_some_and(|r| flag(&r, "defined_only"))
                    && kind.get_value(*n).is_none()
                {
                    return fail("value must be one of the defined enum values");
                }
                scalar(value, rules.as_ref()).or_else(|m| fail(&m))?;
            }
            _ => {}
        }
    }
    for oneof in descriptor.oneofs() {
        let required = extension(&oneof.options(), "validate.required")
            .is_some_and(|value| value.as_bool() == Some(true));
        if required && !oneof.fields().any(|field| message.has_field(&field)) {
            return Err(violation(&descriptor, oneof.name(), "value is required"));
        }
    }
    Ok(())
}

fn embedded(outer: &MessageDescriptor, field: &str, value: &Value) -> Result<(), String> {
    let Value::Message(message) = value else {
        return Ok(());
    };
    keeps_rules(message).map_err(|cause| {
        format!(
            "invalid {}.{field}: embedded message failed validation | caused by: {cause}",
            go_name(outer)
        )
    })
}

fn scalar(value: &Value, rules: Option<&DynamicMessage>) -> Result<(), String> {
    let Some(rules) = rules else {
        return Ok(());
    };
    if let Value::String(text) = value {
        let Some(rule) = submessage(rules, "string") else {
            return Ok(());
        };
        if text.is_empty() && flag(&rule, "ignore_empty") {
            return Ok(());
        }
        for (limit, length, unit) in
            [("min_len", text.chars().count(), "runes"), ("min_bytes", text.len(), "bytes")]
        {
            let least = number(&rule, limit).unwrap_or(0.0);
            if (length as f64) < least {
                return Err(format!("value length must be at least {least} {unit}"));
            }
        }
        if number(&rule, "max_bytes").is_some_and(|most| text.len() as f64 > most) {
            return Err("value length is too long".to_owned());
        }
        return Ok(());
    }
    let (kind, n) = match value {
        Value::I32(n) => ("int32", f64::from(*n)),
        Value::I64(n) => ("int64", *n as f64),
        Value::U32(n) => ("uint32", f64::from(*n)),
        Value::U64(n) => ("uint64", *n as f64),
        Value::F32(n) => ("float", f64::from(*n)),
        Value::F64(n) => ("double", *n),
        _ => return Ok(()),
    };
    let Some(rule) = submessage(rules, kind) else {
        return Ok(());
    };
    if n == 0.0 && flag(&rule, "ignore_empty") {
        return Ok(());
    }
    let limits: [(&str, &str, fn(f64, f64) -> bool); 4] = [
        ("gt", "greater than", |n, limit| n > limit),
        ("gte", "greater than or equal to", |n, limit| n >= limit),
        ("lt", "less than", |n, limit| n < limit),
        ("lte", "less than or equal to", |n, limit| n <= limit),
    ];
    for (name, text, keeps) in limits {
        if let Some(limit) = number(&rule, name)
            && !keeps(n, limit)
        {
            return Err(format!("value must be {text} {limit}"));
        }
    }
    Ok(())
}

fn rules(field: &FieldDescriptor) -> Option<DynamicMessage> {
    match extension(&field.options(), "validate.rules")? {
        Value::Message(rules) => Some(rules),
        _ => None,
    }
}

fn required(rules: Option<&DynamicMessage>) -> bool {
    ["message", "duration", "timestamp", "any"].iter().any(|kind| {
        rules.and_then(|rules| submessage(rules, kind)).is_some_and(|rule| flag(&rule, "required"))
    })
}

fn extension(options: &DynamicMessage, name: &str) -> Option<Value> {
    let extension = sunbear_proto::pool().get_extension_by_name(name)?;
    // The options hold only extensions of their own kind.
    let fits = extension.containing_message() == options.descriptor();
    (fits && options.has_extension(&extension))
        .then(|| options.get_extension(&extension).into_owned())
}

fn set_field<'a>(message: &'a DynamicMessage, name: &str) -> Option<Cow<'a, Value>> {
    message.has_field_by_name(name).then(|| message.get_field_by_name(name))?
}

fn submessage(message: &DynamicMessage, name: &str) -> Option<DynamicMessage> {
    match set_field(message, name)?.into_owned() {
        Value::Message(inner) => Some(inner),
        _ => None,
    }
}

fn flag(message: &DynamicMessage, name: &str) -> bool {
    set_field(message, name).is_some_and(|value| value.as_bool() == Some(true))
}

fn number(message: &DynamicMessage, name: &str) -> Option<f64> {
    match &*set_field(message, name)? {
        Value::I32(n) => Some(f64::from(*n)),
        Value::I64(n) => Some(*n as f64),
        Value::U32(n) => Some(f64::from(*n)),
        Value::U64(n) => Some(*n as f64),
        Value::F32(n) => Some(f64::from(*n)),
        Value::F64(n) => Some(*n),
        _ => None,
    }
}

fn is_wrapper(descriptor: &MessageDescriptor) -> bool {
    descriptor
        .full_name()
        .strip_prefix("google.protobuf.")
        .is_some_and(|name| name.len() > "Value".len() && name.ends_with("Value") && name != "ListValue")
}

fn violation(message: &MessageDescriptor, field: &str, what: &str) -> String {
    format!("invalid {}.{}: {what}", go_name(message), camel(field))
}

/// The name that generated Go code has for a message.
fn go_name(message: &MessageDescriptor) -> String {
    let mut name = message.name().to_owned();
    let mut parent = message.parent_message();
    while let Some(outer) = parent {
        name = format!("{}_{name}", outer.name());
        parent = outer.parent_message();
    }
    name
}

/// `a_b` as `AB`.
fn camel(name: &str) -> String {
    name.split('_')
        .map(|word| {
            let mut letters = word.chars();
            letters.next().map_or_else(String::new, |first| {
                first.to_ascii_uppercase().to_string() + letters.as_str()
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
    const LISTENER: &str = "envoy.config.listener.v3.Listener";

    #[test]
    fn rules() {
        for (message, text, want) in [
            (CLUSTER, "name: a", ""),
            (CLUSTER, "", "invalid Cluster.Name: value length must be at least 1 runes"),
            (
                CLUSTER,
                "name: a\nloadAssignment: {}",
                "invalid Cluster.LoadAssignment: embedded message failed validation | caused by: \
                 invalid ClusterLoadAssignment.ClusterName: value length must be at least 1 runes",
            ),
            (
                "envoy.config.route.v3.VirtualHost",
                "name: a",
                "invalid VirtualHost.Domains: value must contain at least 1 item(s)",
            ),
            (
                LISTENER,
                "name: a\naddress: {}",
                "invalid Listener.Address: embedded message failed validation | caused by: \
                 invalid Address.Address: value is required",
            ),
            (
                LISTENER,
                "address: {socketAddress: {address: a, portValue: 70000}}",
                "invalid Listener.Address: embedded message failed validation | caused by: \
                 invalid Address.SocketAddress: embedded message failed validation | caused by: \
                 invalid SocketAddress.PortValue: value must be less than or equal to 65535",
            ),
        ] {
            assert_eq!(check(message, text).err().unwrap_or_default(), want, "{text}");
        }
    }

    #[test]
    fn forms() {
        assert_eq!(check(CLUSTER, "{"), Err("unexpected EOF".to_owned()));
        assert_eq!(check_patch(CLUSTER, ""), Ok(()));
        assert_eq!(check_patch(CLUSTER, "connect_timeout: 5s"), Ok(()));
        assert!(check_patch(CLUSTER, "connect_timeout: 5").is_err());
        assert!(check_patch(CLUSTER, "- a").is_err());
        assert!(check_patch(CLUSTER, "a: [").is_err());
        assert_eq!(check_patch(CLUSTER, "unknown: 5"), Ok(()));
    }

    #[test]
    fn types() {
        assert_eq!(check_typed("name: a"), Err("\"@type\" is missing".to_owned()));
        assert!(check_typed("'@type': type.googleapis.com/google.protobuf.Struct").is_err());
        assert_eq!(check_typed("'@type': type.googleapis.com/envoy.later.v9.Thing\nx: 1"), Ok(()));
        let filter = "name: lua\ntyped_config:\n  '@type': type.googleapis.com/";
        let http = "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter";
        let lua = "envoy.extensions.filters.http.lua.v3.Lua\n  inlineCode: x";
        assert_eq!(check(http, &format!("{filter}{lua}")), Ok(()));
        assert!(check(http, &format!("{filter}example.Thing")).is_err());
    }
}
