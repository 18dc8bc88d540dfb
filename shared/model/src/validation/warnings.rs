//! What is accepted but worth telling the writer.

use std::collections::BTreeMap;

use sunbear_proto::kuma::mesh::v1alpha1::mesh_gateway;

use super::{deprecations, kubernetes};
use crate::{
    kind::Kind,
    label,
    resource::{ResourceKey, Spec, Typed},
};

/// What is accepted but worth telling the writer.
pub fn warnings(key: &ResourceKey, labels: &BTreeMap<String, String>, spec: &Spec) -> Vec<String> {
    let mut warnings = Vec::new();
    let services = ["MeshService", "MeshExternalService", "MeshMultiZoneService"];
    if matches!(key.kind, Kind::MESH | Kind::ZONE) || services.contains(&key.kind.name()) {
        let name = labels.get(label::DISPLAY_NAME).map_or(&*key.name, String::as_str);
        let errors = kubernetes::label_1035_errors(name);
        if !errors.is_empty() {
            warnings.push(format!(
                "Invalid {} resource name: '{name}'. It does not conform to the DNS format (RFC \
                 1035). This is deprecated. Errors: {}",
                key.kind,
                errors.join("; ")
            ));
        }
    }
    if let Typed::MeshGateway(gateway) = spec.typed() {
        for (i, listener) in gateway.conf.iter().flat_map(|c| &c.listeners).enumerate() {
            if listener.protocol() == mesh_gateway::listener::Protocol::Tls
                && listener.tls.is_none()
            {
                warnings.push(format!(
                    "conf.listeners[{i}]: a TLS listener without tls has no effect and is skipped"
                ));
            }
        }
    }
    if let Typed::Json(spec) = spec.typed() {
        warnings.extend(deprecations::of(key.kind, spec));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rest;

    #[test]
    fn warned() {
        let check = |kind: Kind, name: &str, spec: serde_json::Value| {
            let spec = rest::read_as(kind, &spec).unwrap().spec;
            warnings(&ResourceKey::new(kind, "default", name), &BTreeMap::new(), &spec)
        };
        assert_eq!(check(Kind::MESH, "default", json!({})), Vec::<String>::new());
        assert_eq!(
            check(Kind::MESH, "aa.a", json!({})),
            [
                "Invalid Mesh resource name: 'aa.a'. It does not conform to the DNS format (RFC 1035). \
              This is deprecated. Errors: a DNS-1035 label must consist of lower case alphanumeric \
              characters or '-', start with an alphabetic character, and end with an alphanumeric \
              character (e.g. 'my-name',  or 'abc-123', regex used for validation is \
              '[a-z]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(check(Kind::MESH_GATEWAY, "aa.a", json!({})), Vec::<String>::new());
        let gateway = json!({"conf": {"listeners": [{"port": 443, "protocol": "TLS"}]}});
        assert_eq!(check(Kind::MESH_GATEWAY, "g", gateway).len(), 1);
    }
}
