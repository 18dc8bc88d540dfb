//! What a control plane fills in before it validates and stores (`spec/resources.md` 3.1, 4.2,
//! `spec/rest-api.md` 6.4).

use sunbear_proto::kuma::mesh::v1alpha1::{
    Dataplane, Mesh, PrometheusMetricsBackendConfig, PrometheusTlsConfig, mesh::mesh_services,
    prometheus_tls_config::Mode,
};

use super::{
    mesh::{to_struct, typed},
    schema,
};
use crate::{
    kind::Kind,
    label,
    resource::{Spec, Typed},
};

/// A spec with its defaults. `zone` is the control plane's own zone, if it has one, and `mesh` the
/// mesh that the object is in.
#[must_use]
pub fn apply_defaults(kind: Kind, zone: Option<&str>, mesh: Option<&Mesh>, spec: Spec) -> Spec {
    let changed = match spec.typed() {
        Typed::Mesh(mesh) => default_metrics(mesh).map(|m| Spec::from_message(kind, &m)),
        Typed::Dataplane(dataplane) => zone
            .and_then(|zone| tag_zone(dataplane, zone, mesh))
            .map(|d| Spec::from_message(kind, &d)),
        Typed::Json(value) => schema::completed(kind, value)
            .map(|value| Spec::from_wire(kind, value.to_string().into_bytes())),
        Typed::Config(_)
        | Typed::DataplaneInsight(_)
        | Typed::ExternalService(_)
        | Typed::MeshGateway(_)
        | Typed::MeshGatewayRoute(_)
        | Typed::Secret(_)
        | Typed::Zone(_)
        | Typed::ZoneEgress(_)
        | Typed::ZoneIngress(_)
        | Typed::ZoneInsight(_)
        | Typed::Opaque
        | Typed::Malformed(_) => None,
    };
    changed.unwrap_or(spec)
}

/// The mesh with complete Prometheus backends, or `None` if they are so already. A configuration
/// that does not parse is left to validation.
fn default_metrics(mesh: &Mesh) -> Option<Mesh> {
    let mut mesh = mesh.clone();
    let mut changed = false;
    for backend in mesh.metrics.iter_mut().flat_map(|m| &mut m.backends) {
        if backend.r#type != "prometheus" {
            continue;
        }
        let Ok(mut config) = typed::<PrometheusMetricsBackendConfig, _>(backend.conf.as_ref())
        else {
            continue;
        };
        default_prometheus(&mut config);
        let conf = to_struct(&config);
        if conf.is_some() && conf != backend.conf {
            backend.conf = conf;
            changed = true;
        }
    }
    changed.then_some(mesh)
}

fn default_prometheus(config: &mut PrometheusMetricsBackendConfig) {
    match (&config.tls, config.skip_mtls) {
        (None, skip) => {
            let mode = if skip == Some(true) { Mode::Disabled } else { Mode::ActiveMtlsBackend };
            config.tls = Some(PrometheusTlsConfig { mode: mode.into() });
        }
        (Some(tls), Some(_)) if tls.mode() == Mode::ProvidedTls => config.skip_mtls = None,
        (Some(_), _) => {}
    }
    if config.port == 0 {
        config.port = 5670;
    }
    if config.path.is_empty() {
        config.path = "/metrics".to_owned();
    }
    if config.tags.is_empty() {
        config.tags = [(label::SERVICE_TAG.to_owned(), "dataplane-metrics".to_owned())].into();
    }
}

/// The proxy with the tag of its zone, or `None` if it has it already.
fn tag_zone(dataplane: &Dataplane, zone: &str, mesh: Option<&Mesh>) -> Option<Dataplane> {
    let exclusive = mesh
        .and_then(|m| m.mesh_services.as_ref())
        .is_some_and(|s| s.mode() == mesh_services::Mode::Exclusive);
    let mut tagged = dataplane.clone();
    let networking = tagged.networking.as_mut()?;
    let tag = || (label::ZONE.to_owned(), zone.to_owned());
    for inbound in &mut networking.inbound {
        // Without tags an inbound is named by its MeshService alone; one tag would undo that.
        if !(exclusive && inbound.tags.is_empty()) {
            inbound.tags.extend([tag()]);
        }
    }
    if let Some(gateway) = &mut networking.gateway {
        gateway.tags.extend([tag()]);
    }
    (tagged != *dataplane).then_some(tagged)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::rest;

    fn defaulted(kind: Kind, zone: Option<&str>, mesh: Option<&Mesh>, spec: &Value) -> Value {
        let spec = rest::read_as(kind, spec).unwrap().spec;
        let spec = apply_defaults(kind, zone, mesh, spec);
        let message = if kind == Kind::MESH {
            "kuma.mesh.v1alpha1.Mesh"
        } else {
            "kuma.mesh.v1alpha1.Dataplane"
        };
        sunbear_proto::json::write(message, spec.wire()).unwrap()
    }

    #[test]
    fn metrics() {
        let check = |conf: Value, want: Value| {
            let spec = json!({"metrics": {"backends": [{"name": "p", "type": "prometheus", "conf": conf}]}});
            let got = defaulted(Kind::MESH, None, None, &spec);
            assert_eq!(got["metrics"]["backends"][0]["conf"], want);
        };
        let tags = json!({"kuma.io/service": "dataplane-metrics"});
        check(json!({}), json!({"port": 5670, "path": "/metrics", "tags": tags, "tls": {}}));
        check(
            json!({"skipMTLS": true, "port": 1, "unknown": 1}),
            json!({"port": 1, "path": "/metrics", "tags": tags, "tls": {"mode": "disabled"}, "skipMTLS": true}),
        );
        check(
            json!({"skipMTLS": true, "tls": {"mode": "providedTLS"}, "path": "/x", "tags": {"a": "b"}}),
            json!({"port": 5670, "path": "/x", "tags": {"a": "b"}, "tls": {"mode": "providedTLS"}}),
        );
        check(json!({"port": "nonsense"}), json!({"port": "nonsense"}));
    }

    #[test]
    fn metrics_without_a_conf() {
        let spec = json!({"metrics": {"backends": [{"name": "p", "type": "prometheus"}]}});
        let got = defaulted(Kind::MESH, None, None, &spec);
        assert_eq!(got["metrics"]["backends"][0]["conf"]["port"], 5670);
    }

    #[test]
    fn zone_tags() {
        let spec = json!({"networking": {
            "address": "10.0.0.1",
            "inbound": [{"port": 80, "tags": {"kuma.io/service": "a", "kuma.io/zone": "other"}}, {"port": 81}],
        }});
        let got = defaulted(Kind::DATAPLANE, Some("east"), None, &spec);
        let inbound = &got["networking"]["inbound"];
        assert_eq!(inbound[0]["tags"], json!({"kuma.io/service": "a", "kuma.io/zone": "east"}));
        assert_eq!(inbound[1]["tags"], json!({"kuma.io/zone": "east"}));

        let mut mesh = Mesh::default();
        mesh.mesh_services.get_or_insert_default().set_mode(mesh_services::Mode::Exclusive);
        let got = defaulted(Kind::DATAPLANE, Some("east"), Some(&mesh), &spec);
        assert_eq!(got["networking"]["inbound"][1], json!({"port": 81}));

        assert_eq!(
            defaulted(Kind::DATAPLANE, None, None, &spec)["networking"]["inbound"][1],
            json!({"port": 81})
        );

        let gateway = json!({"networking": {"address": "10.0.0.1", "gateway": {"type": "BUILTIN", "tags": {"kuma.io/service": "g"}}}});
        let got = defaulted(Kind::DATAPLANE, Some("east"), Some(&mesh), &gateway);
        assert_eq!(got["networking"]["gateway"]["tags"]["kuma.io/zone"], "east");
    }
}
