//! Runtime resources: numbers by key, which Envoy reads while it runs.

use std::collections::BTreeMap;

use prost_types::{Struct, Value, value};
use sunbear_proto::envoy::service::runtime::v3::Runtime;

use crate::resources::XdsResource;

/// A runtime resource.
pub(crate) fn resource(name: &str, layer: &BTreeMap<String, u32>) -> XdsResource {
    let number = |n: &u32| Value { kind: Some(value::Kind::NumberValue((*n).into())) };
    let fields = layer.iter().map(|(key, n)| (key.clone(), number(n))).collect();
    let runtime = Runtime { name: name.to_owned(), layer: Some(Struct { fields }) };
    XdsResource::new(name, &runtime)
}
