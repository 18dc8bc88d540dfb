//! Envoy messages as JSON and back. Messages of types that this program has no descriptor of keep
//! their JSON form inside an `xds.type.v3.TypedStruct`, which Envoy reads in place of the message.

use prost::{
    Message,
    encoding::{decode_varint, encode_varint},
};
use prost_reflect::{Kind, MessageDescriptor};
use prost_types::{Any, Struct};
use serde_json::{Map, Value, json};
use sunbear_proto::json::{self, Decoded};

const ANY: &str = "google.protobuf.Any";
const STRUCT_URL: &str = "type.googleapis.com/google.protobuf.Struct";
const TYPED_STRUCT_URL: &str = "type.googleapis.com/xds.type.v3.TypedStruct";

/// Key by which a struct tells that it stands for a message of an unknown type.
const UNKNOWN: &str = "@unknown-type";

/// A message of a type that is known to Envoy alone.
#[derive(Clone, PartialEq, prost::Message)]
struct TypedStruct {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Struct>,
}

/// Reads the JSON form of a message; fields that it does not have are told by their paths and left
/// out.
pub(super) fn read(message: &str, value: &Value) -> Result<Decoded, String> {
    let decoded = json::read(message, &carried(value), &[]).map_err(|e| e.to_string())?;
    let wire = rewritten(message, &decoded.wire, &|any| {
        let carrier =
            Struct::decode(any.value.as_slice()).ok().filter(|_| any.type_url == STRUCT_URL)?;
        let type_url = match carrier.fields.get(UNKNOWN)?.kind.as_ref()? {
            prost_types::value::Kind::StringValue(url) => url.clone(),
            _ => return None,
        };
        let value = match carrier.fields.get("value")?.kind.as_ref()? {
            prost_types::value::Kind::StructValue(value) => value.clone(),
            _ => return None,
        };
        let value = TypedStruct { type_url, value: Some(value) }.encode_to_vec();
        Some(Any { type_url: TYPED_STRUCT_URL.to_owned(), value })
    })?;
    Ok(Decoded { wire, unknown: decoded.unknown })
}

/// The JSON form of a message.
pub(super) fn write(message: &str, wire: &[u8]) -> Result<Value, String> {
    let wire = rewritten(message, wire, &|any| {
        let typed = TypedStruct::decode(any.value.as_slice())
            .ok()
            .filter(|_| any.type_url == TYPED_STRUCT_URL)?;
        let value = json::write("google.protobuf.Struct", &typed.value?.encode_to_vec()).ok()?;
        let carrier = json!({ UNKNOWN: typed.type_url, "value": value });
        let value = json::read("google.protobuf.Struct", &carrier, &[]).ok()?.wire;
        Some(Any { type_url: STRUCT_URL.to_owned(), value })
    })?;
    let mut value = json::write(message, &wire).map_err(|e| e.to_string())?;
    uncarry(&mut value);
    Ok(value)
}

/// Puts messages of unknown types into structs.
fn carried(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let url = map.get("@type").and_then(Value::as_str);
            let known =
                |url: &str| json::descriptor(url.rsplit('/').next().unwrap_or_default()).is_some();
            match url.filter(|url| !known(url)) {
                Some(url) => {
                    let mut fields = map.clone();
                    fields.remove("@type");
                    json!({ "@type": STRUCT_URL, "value": { UNKNOWN: url, "value": fields } })
                }
                None => map.iter().map(|(k, v)| (k.clone(), carried(v))).collect(),
            }
        }
        Value::Array(items) => items.iter().map(carried).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// Takes messages of unknown types out of their structs again.
fn uncarry(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(fields) = uncarried(map) {
                *map = fields;
                return;
            }
            map.values_mut().for_each(uncarry);
        }
        Value::Array(items) => items.iter_mut().for_each(uncarry),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn uncarried(map: &Map<String, Value>) -> Option<Map<String, Value>> {
    let inner = map.get("value").filter(|_| map.get("@type").is_some_and(|t| t == STRUCT_URL))?;
    let url = inner.get(UNKNOWN)?.clone();
    let mut fields = inner.get("value")?.as_object()?.clone();
    fields.insert("@type".to_owned(), url);
    Some(fields)
}

/// A message in which `exchange` puts other `Any`s in the place of some, however deep they are.
fn rewritten(
    message: &str,
    wire: &[u8],
    exchange: &dyn Fn(&Any) -> Option<Any>,
) -> Result<Vec<u8>, String> {
    let descriptor =
        json::descriptor(message).ok_or_else(|| format!("unknown message {message}"))?;
    rewrite(&descriptor, wire, exchange).ok_or_else(|| format!("malformed {message}"))
}

fn rewrite(
    descriptor: &MessageDescriptor,
    mut wire: &[u8],
    exchange: &dyn Fn(&Any) -> Option<Any>,
) -> Option<Vec<u8>> {
    if descriptor.full_name() == ANY {
        let mut any = Any::decode(wire).ok()?;
        if let Some(other) = exchange(&any) {
            return Some(other.encode_to_vec());
        }
        let name = any.type_url.rsplit('/').next().unwrap_or_default();
        if let Some(inner) = json::descriptor(name) {
            any.value = rewrite(&inner, &any.value, exchange)?;
        }
        return Some(any.encode_to_vec());
    }
    let mut out = Vec::with_capacity(wire.len());
    while !wire.is_empty() {
        let key = decode_varint(&mut wire).ok()?;
        encode_varint(key, &mut out);
        let fixed = match key & 7 {
            0 => {
                encode_varint(decode_varint(&mut wire).ok()?, &mut out);
                continue;
            }
            1 => 8,
            5 => 4,
            2 => {
                let length = usize::try_from(decode_varint(&mut wire).ok()?).ok()?;
                let (body, rest) = wire.split_at_checked(length)?;
                wire = rest;
                let field = descriptor.get_field(u32::try_from(key >> 3).ok()?);
                let inner = match field.map(|field| field.kind()) {
                    Some(Kind::Message(inner)) => Some(rewrite(&inner, body, exchange)?),
                    _ => None,
                };
                let body = inner.as_deref().unwrap_or(body);
                encode_varint(body.len() as u64, &mut out);
                out.extend_from_slice(body);
                continue;
            }
            _ => return None,
        };
        let (body, rest) = wire.split_at_checked(fixed)?;
        out.extend_from_slice(body);
        wire = rest;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use serde_json::json;
    use sunbear_proto::envoy::config::listener::v3::{Filter, filter::ConfigType};

    use super::{TYPED_STRUCT_URL, TypedStruct, read, write};

    const FILTER: &str = "envoy.config.listener.v3.Filter";

    #[test]
    fn unknown_types_survive() {
        let value = json!({
            "name": "lua",
            "typedConfig": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
                "defaultSourceCode": {"inlineString": "function f() end"},
            },
        });
        let wire = read(FILTER, &value).unwrap().wire;
        let filter = Filter::decode(wire.as_slice()).unwrap();
        let Some(ConfigType::TypedConfig(any)) = filter.config_type else { panic!() };
        assert_eq!(any.type_url, TYPED_STRUCT_URL);
        let typed = TypedStruct::decode(any.value.as_slice()).unwrap();
        assert!(typed.type_url.ends_with("lua.v3.Lua"));
        assert!(typed.value.unwrap().fields.contains_key("defaultSourceCode"));
        assert_eq!(write(FILTER, &wire).unwrap(), value);
    }

    #[test]
    fn known_types_are_themselves() {
        let value = json!({
            "name": "tcp",
            "typedConfig": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "statPrefix": "a", "cluster": "b",
            },
        });
        let wire = read(FILTER, &value).unwrap().wire;
        assert_eq!(write(FILTER, &wire).unwrap(), value);
        assert_eq!(read(FILTER, &json!({"nane": "x"})).unwrap().unknown, ["nane"]);
        assert!(read(FILTER, &json!({"name": 1})).is_err());
        assert!(write(FILTER, &[0xff]).is_err());
    }
}
