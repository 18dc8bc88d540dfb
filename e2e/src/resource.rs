//! The resources that scenarios write, and how two control planes' copies are compared.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use serde_json::{Value, json};

/// The hostname of the gateway.
pub const HOST: &str = "foo.example.com";

/// The header by which a request shows which version of the route sent it.
pub const CHANGE: &str = "x-change";

/// What control planes keep of their own about a copy.
const OWN: [&str; 4] = ["creationTime", "modificationTime", "labels", "kri"];

/// Types whose copies in a zone are the same as on the global, with the plural in their paths.
pub const SYNCED: [(&str, &str); 3] = [
    ("Mesh", "meshes"),
    ("MeshGateway", "meshgateways"),
    ("MeshGatewayRoute", "meshgatewayroutes"),
];

/// The MeshGateway with a listener on that port.
pub fn gateway(port: u16) -> Value {
    json!({
        "type": "MeshGateway", "mesh": "default", "name": "edge-gateway",
        "selectors": [{"match": {"kuma.io/service": "edge-gateway"}}],
        "conf": {"listeners": [{"hostname": HOST, "port": port, "protocol": "HTTP"}]},
    })
}

/// The same with a second listener that ends TLS with the certificate of a Secret.
pub fn gateway_with_tls(port: u16, tls_port: u16, secret: &str) -> Value {
    let mut gateway = gateway(port);
    if let Some(listeners) = gateway["conf"]["listeners"].as_array_mut() {
        listeners.push(json!({
            "hostname": HOST, "port": tls_port, "protocol": "HTTPS",
            "tls": {"mode": "TERMINATE", "certificates": [{"secret": secret}]},
        }));
    }
    gateway
}

/// A Secret of the mesh with that text.
pub fn secret(name: &str, text: &str) -> Value {
    let data = base64::engine::general_purpose::STANDARD.encode(text);
    json!({"type": "Secret", "mesh": "default", "name": name, "data": data})
}

/// A route of everything to `frontend` and of `/api` to `api` that marks requests with `change`.
pub fn route(change: &str) -> Value {
    let rule = |path: &str, service: &str| {
        json!({
            "matches": [{"path": {"match": "PREFIX", "value": path}}],
            "filters": [{"requestHeader": {"set": [{"name": CHANGE, "value": change}]}}],
            "backends": [{"weight": 1, "destination": {"kuma.io/service": service}}],
        })
    };
    route_of("edge-gateway-route", &json!([rule("/", "frontend"), rule("/api", "api")]))
}

/// A route of one more path to `frontend`.
pub fn extra_route(name: &str, path: &str) -> Value {
    route_of(
        name,
        &json!([{
            "matches": [{"path": {"match": "PREFIX", "value": path}}],
            "filters": [{"requestHeader": {"set": [{"name": CHANGE, "value": name}]}}],
            "backends": [{"weight": 1, "destination": {"kuma.io/service": "frontend"}}],
        }]),
    )
}

fn route_of(name: &str, rules: &Value) -> Value {
    json!({
        "type": "MeshGatewayRoute", "mesh": "default", "name": name,
        "selectors": [{"match": {"kuma.io/service": "edge-gateway"}}],
        "conf": {"http": {"rules": rules}},
    })
}

/// Where REST has a resource.
pub fn path(resource: &Value) -> Result<String> {
    let text = |field: &str| resource[field].as_str();
    let (kind, name) = (text("type").context("no type")?, text("name").context("no name")?);
    let plural = match kind {
        "Secret" => "secrets",
        "Zone" => "zones",
        kind => match SYNCED.iter().find(|(k, _)| *k == kind) {
            Some((_, plural)) => plural,
            None => bail!("scenarios do not know the type {kind}"),
        },
    };
    Ok(match text("mesh") {
        Some(mesh) => format!("/meshes/{mesh}/{plural}/{name}"),
        None => format!("/{plural}/{name}"),
    })
}

/// The items of a list by type, mesh and the name that they were written with, without what each control plane keeps of its own.
/// An error if one is there twice.
pub fn items(list: &str) -> Result<BTreeMap<String, Value>> {
    let list: Value = serde_json::from_str(list)?;
    if !list["next"].is_null() {
        bail!("the list goes on");
    }
    let mut items = BTreeMap::new();
    for item in list["items"].as_array().context("no items")? {
        let mut item = item.clone();
        // Copies in a zone have a suffix at their names.
        if let Some(written) = item["labels"]["kuma.io/display-name"].as_str() {
            item["name"] = written.into();
        }
        let mut key =
            format!("{} {}/{}", item["type"], item["mesh"], item["name"]).replace('"', "");
        // Zones send what they have under the same name to the global.
        if let Some(zone) = item["labels"]["kuma.io/zone"].as_str() {
            key.push_str(&format!(" of {zone}"));
        }
        if let Some(fields) = item.as_object_mut() {
            OWN.iter().for_each(|own| drop(fields.remove(*own)));
        }
        if items.insert(key.clone(), item).is_some() {
            bail!("{key} is there twice");
        }
    }
    Ok(items)
}
