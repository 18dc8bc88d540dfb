//! Raw Envoy resources inside of policies: YAML or JSON that must be the JSON form of a message and
//! keep Envoy's own rules for it.
//!
//! The descriptors do not carry those rules, so that the ones which get broken in practice are
//! listed here; Envoy checks the rest, and also the types that this release has no descriptor of.

use prost_reflect::{DynamicMessage, MessageDescriptor, ReflectMessage as _, Value};
use serde_json::{Map, json};
use sunbear_proto::json;

use crate::document;

/// What Envoy asks of a field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// A text that is not empty.
    Text,
    /// A list that is not empty.
    Items,
    /// A message that is set, or one of several.
    Required,
    /// A number of 16 bits.
    Port,
}

const RULES: &[(&str, &str, Rule)] = &[
    ("envoy.config.accesslog.v3.AccessLogFilter", "filter_specifier", Rule::Required),
    ("envoy.config.cluster.v3.Cluster", "name", Rule::Text),
    ("envoy.config.core.v3.Address", "address", Rule::Required),
    ("envoy.config.core.v3.DataSource", "specifier", Rule::Required),
    ("envoy.config.core.v3.HeaderValue", "key", Rule::Text),
    ("envoy.config.core.v3.HeaderValueOption", "header", Rule::Required),
    ("envoy.config.core.v3.HealthCheck", "health_checker", Rule::Required),
    ("envoy.config.core.v3.HealthCheck", "healthy_threshold", Rule::Required),
    ("envoy.config.core.v3.HealthCheck", "interval", Rule::Required),
    ("envoy.config.core.v3.HealthCheck", "timeout", Rule::Required),
    ("envoy.config.core.v3.HealthCheck", "unhealthy_threshold", Rule::Required),
    ("envoy.config.core.v3.SocketAddress", "address", Rule::Text),
    ("envoy.config.core.v3.SocketAddress", "port_specifier", Rule::Required),
    ("envoy.config.core.v3.SocketAddress", "port_value", Rule::Port),
    ("envoy.config.core.v3.TransportSocket", "name", Rule::Text),
    ("envoy.config.core.v3.TypedExtensionConfig", "name", Rule::Text),
    ("envoy.config.core.v3.TypedExtensionConfig", "typed_config", Rule::Required),
    ("envoy.config.endpoint.v3.ClusterLoadAssignment", "cluster_name", Rule::Text),
    ("envoy.config.listener.v3.Filter", "name", Rule::Text),
    ("envoy.config.listener.v3.ListenerFilter", "name", Rule::Text),
    ("envoy.config.route.v3.DirectResponseAction", "status", Rule::Required),
    ("envoy.config.route.v3.HeaderMatcher", "name", Rule::Text),
    ("envoy.config.route.v3.Route", "action", Rule::Required),
    ("envoy.config.route.v3.Route", "match", Rule::Required),
    ("envoy.config.route.v3.RouteAction", "cluster_specifier", Rule::Required),
    ("envoy.config.route.v3.RouteAction", "cluster", Rule::Text),
    ("envoy.config.route.v3.RouteMatch", "path_specifier", Rule::Required),
    ("envoy.config.route.v3.VirtualHost", "domains", Rule::Items),
    ("envoy.config.route.v3.VirtualHost", "name", Rule::Text),
    ("envoy.config.route.v3.WeightedCluster", "clusters", Rule::Items),
    (
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "route_specifier",
        Rule::Required,
    ),
    (
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix",
        Rule::Text,
    ),
    ("envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter", "name", Rule::Text),
];

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
            *item =
                json!({"@type": "type.googleapis.com/google.protobuf.Struct", "value": Map::new()});
        } else {
            forget_unknown_types(item);
        }
    }
}

/// Checks the rules of a message and of those inside it, in the order of the fields.
fn keeps_rules(message: &DynamicMessage) -> Result<(), String> {
    let descriptor = message.descriptor();
    let has_rule = |field: &str, rule: Rule| {
        RULES
            .iter()
            .any(|(name, f, r)| *name == descriptor.full_name() && *f == field && *r == rule)
    };
    for field in descriptor.fields() {
        let fail = |what: &str| Err(violation(&descriptor, field.name(), what));
        let value = message.get_field(&field);
        if has_rule(field.name(), Rule::Required) && !message.has_field(&field) {
            return fail("value is required");
        }
        match &*value {
            Value::String(text)
                if text.is_empty()
                    && has_rule(field.name(), Rule::Text)
                    && (message.has_field(&field) || !field.supports_presence()) =>
            {
                return fail("value length must be at least 1 runes");
            }
            Value::U32(port) if *port > 65_535 && has_rule(field.name(), Rule::Port) => {
                return fail("value must be less than or equal to 65535");
            }
            Value::List(items) => {
                if items.is_empty() && has_rule(field.name(), Rule::Items) {
                    return fail("value must contain at least 1 item(s)");
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
            Value::Message(_) if message.has_field(&field) => {
                embedded(&descriptor, &camel(field.name()), &value)?;
            }
            _ => {}
        }
    }
    for oneof in descriptor.oneofs() {
        let chosen = oneof.fields().any(|field| message.has_field(&field));
        if !chosen && has_rule(oneof.name(), Rule::Required) {
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
    fn rules_name_what_there_is() {
        for (message, field, _) in RULES {
            let descriptor = json::descriptor(message).expect(message);
            assert!(
                descriptor.get_field_by_name(field).is_some()
                    || descriptor.oneofs().any(|oneof| oneof.name() == *field),
                "{message}.{field}"
            );
        }
    }

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
