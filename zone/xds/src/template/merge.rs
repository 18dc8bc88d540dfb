//! Merging of messages, in their JSON form: scalars are replaced, lists appended to, messages
//! merged. Wrapped scalars and durations count as scalars; a message in an `Any` is merged with one
//! of its own type and replaces one of another.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value};
use sunbear_proto::json;

/// Merges a patch into a message. Both are as this program writes JSON.
pub(super) fn merge(message: &str, base: &mut Value, patch: &Value) {
    if let (Some(descriptor), Value::Object(base), Value::Object(patch)) =
        (json::descriptor(message), base, patch)
    {
        merge_message(&descriptor, base, patch);
    }
}

/// Merges messages in `Any`s; an error if they are not of one type.
pub(super) fn merge_any(base: &mut Value, patch: &Value) -> Result<(), String> {
    let url = |value: &Value| value.get("@type").and_then(Value::as_str).map(str::to_owned);
    match (url(base), url(patch)) {
        (_, None) => Ok(()),
        (None, Some(_)) => {
            *base = patch.clone();
            Ok(())
        }
        (Some(old), Some(new)) if old == new => {
            merge_same(base, patch, &new);
            Ok(())
        }
        (Some(old), Some(new)) => Err(format!("type {new:?} does not fit {old:?}")),
    }
}

fn merge_same(base: &mut Value, patch: &Value, url: &str) {
    let name = url.rsplit('/').next().unwrap_or_default();
    match (json::descriptor(name), base, patch) {
        (Some(descriptor), Value::Object(base), Value::Object(patch)) => {
            merge_message(&descriptor, base, patch);
        }
        // Of unknown types the form alone is known.
        (None, Value::Object(base), Value::Object(patch)) => merge_form(base, patch),
        (_, base, patch) => *base = patch.clone(),
    }
}

fn merge_message(
    descriptor: &MessageDescriptor,
    base: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) {
    for (key, value) in patch {
        let field = descriptor.get_field_by_json_name(key);
        if let Some(choice) = field.as_ref().and_then(FieldDescriptor::containing_oneof) {
            // Another choice takes the place of the one that was made.
            for other in choice.fields().filter(|other| other.json_name() != key) {
                base.remove(other.json_name());
            }
        }
        match (base.get_mut(key), &field) {
            (Some(old), Some(field)) => merge_field(field, old, value),
            (Some(old), None) => *old = value.clone(),
            (None, _) => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
}

fn merge_field(field: &FieldDescriptor, base: &mut Value, patch: &Value) {
    match (base, patch) {
        (Value::Array(base), Value::Array(patch)) if field.is_list() => {
            base.extend(patch.iter().cloned());
        }
        (Value::Object(base), Value::Object(patch)) if field.is_map() => {
            let entry = field.kind();
            let value = entry.as_message().and_then(|entry| entry.get_field(2));
            for (key, new) in patch {
                match (base.get_mut(key), &value) {
                    (Some(old), Some(field)) => merge_field(field, old, new),
                    _ => {
                        base.insert(key.clone(), new.clone());
                    }
                }
            }
        }
        (base, patch) => match field.kind() {
            Kind::Message(message) => merge_value(&message, base, patch),
            _ => *base = patch.clone(),
        },
    }
}

fn merge_value(message: &MessageDescriptor, base: &mut Value, patch: &Value) {
    match (message.full_name(), &mut *base, patch) {
        ("google.protobuf.Any", _, _) => {
            if merge_any(base, patch).is_err() {
                *base = patch.clone();
            }
        }
        ("google.protobuf.Struct", Value::Object(base), Value::Object(patch)) => {
            merge_form(base, patch);
        }
        (_, Value::Object(base), Value::Object(patch)) => merge_message(message, base, patch),
        (_, base, patch) => *base = patch.clone(),
    }
}

/// Merges objects without knowing their types.
fn merge_form(base: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        match (base.get_mut(key), value) {
            (Some(Value::Object(base)), Value::Object(patch)) => merge_form(base, patch),
            (Some(Value::Array(base)), Value::Array(patch)) => base.extend(patch.iter().cloned()),
            _ => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{merge, merge_any};

    #[test]
    fn clusters() {
        let mut base = json!({
            "name": "a", "type": "EDS", "connectTimeout": "5s",
            "edsClusterConfig": {"edsConfig": {"ads": {}}},
            "healthChecks": [{"timeout": "1s"}],
            "circuitBreakers": {"thresholds": [{"maxRetries": 3}]},
            "outlierDetection": {"consecutive5xx": 5, "enforcingConsecutive5xx": 100},
            "typedExtensionProtocolOptions": {
                "x": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "commonHttpProtocolOptions": {"idleTimeout": "1s"},
                    "explicitHttpConfig": {"httpProtocolOptions": {}},
                },
            },
        });
        merge(
            "envoy.config.cluster.v3.Cluster",
            &mut base,
            &json!({
                "connectTimeout": "1s",
                "clusterType": {"name": "custom"},
                "healthChecks": [{"timeout": "2s"}],
                "outlierDetection": {"enforcingConsecutive5xx": 0},
                "typedExtensionProtocolOptions": {
                    "x": {
                        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                        "commonHttpProtocolOptions": {"maxStreamDuration": "2s"},
                    },
                },
            }),
        );
        assert_eq!(
            base,
            json!({
                "name": "a", "connectTimeout": "1s", "clusterType": {"name": "custom"},
                "edsClusterConfig": {"edsConfig": {"ads": {}}},
                "healthChecks": [{"timeout": "1s"}, {"timeout": "2s"}],
                "circuitBreakers": {"thresholds": [{"maxRetries": 3}]},
                "outlierDetection": {"consecutive5xx": 5, "enforcingConsecutive5xx": 0},
                "typedExtensionProtocolOptions": {
                    "x": {
                        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                        "commonHttpProtocolOptions": {"idleTimeout": "1s", "maxStreamDuration": "2s"},
                        "explicitHttpConfig": {"httpProtocolOptions": {}},
                    },
                },
            })
        );
    }

    #[test]
    fn messages_of_other_types() {
        let tcp = |cluster: &str| {
            json!({
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "cluster": cluster,
            })
        };
        let mut base = tcp("a");
        merge_any(&mut base, &tcp("b")).unwrap();
        assert_eq!(base, tcp("b"));
        assert!(merge_any(&mut base, &json!({"@type": "x/other.Type"})).is_err());
        let mut unknown = json!({"@type": "x/other.Type", "a": [1], "b": {"c": 1}});
        merge_any(&mut unknown, &json!({"@type": "x/other.Type", "a": [2], "b": {"d": 2}}))
            .unwrap();
        assert_eq!(unknown, json!({"@type": "x/other.Type", "a": [1, 2], "b": {"c": 1, "d": 2}}));
    }
}
