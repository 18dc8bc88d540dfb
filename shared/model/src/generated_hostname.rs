//! Host names that HostnameGenerators give to services (Kuma:
//! pkg/core/resources/apis/hostnamegenerator/hostname/generator.go).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{label, resource::Resource};

/// Why a generator gives no name to a service that it selects.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostnameError {
    /// The template is not one.
    #[error("template {0:?} cannot be read")]
    Template(String),
    /// The template asks for something that names are not made of.
    #[error("unknown expression {0:?} in the template")]
    Expression(String),
    /// The template needs a label.
    #[error("label {0} not found")]
    Label(String),
}

/// The name that a generator gives to a service as it is seen under `origin`; none if it does not
/// select it. `zone` stands in where the service does not say which zone it is from.
pub fn generate(
    generator: &Resource,
    service: &Resource,
    origin: Option<&str>,
    zone: &str,
) -> Option<Result<String, HostnameError>> {
    let spec = generator.as_json()?;
    let member = match service.key.kind.name() {
        "MeshService" => "meshService",
        "MeshExternalService" => "meshExternalService",
        "MeshMultiZoneService" => "meshMultiZoneService",
        _ => return None,
    };
    let selector = spec.get("selector")?.get(member).filter(|s| s.is_object())?;
    let label_of = |key: &str| match (key, origin) {
        (label::ORIGIN, Some(origin)) => Some(origin),
        _ => service.label(key),
    };
    let wanted = selector.get("matchLabels").and_then(Value::as_object);
    let selected = wanted.into_iter().flatten().all(|(k, v)| label_of(k) == v.as_str());
    let template = spec.get("template").and_then(Value::as_str).unwrap_or_default();
    selected.then(|| evaluate(template, service, label_of, zone))
}

fn evaluate<'s>(
    template: &str,
    service: &'s Resource,
    label_of: impl Fn(&str) -> Option<&'s str>,
    zone: &'s str,
) -> Result<String, HostnameError> {
    let display = || label_of(label::DISPLAY_NAME).unwrap_or(&service.key.name);
    let own_zone = label_of(label::ZONE).filter(|z| !z.is_empty()).unwrap_or(zone);
    let fields = BTreeMap::from([
        (".Name", &*service.key.name),
        (".DisplayName", display()),
        (".Namespace", label_of(label::NAMESPACE).unwrap_or_default()),
        (".Mesh", &*service.key.mesh),
        (".Zone", own_zone),
    ]);
    let broken = || HostnameError::Template(template.to_owned());
    let mut name = String::new();
    let mut rest = template;
    while let Some((text, tail)) = rest.split_once("{{") {
        let (inner, after) = tail.split_once("}}").ok_or_else(broken)?;
        // A dash inside takes away the space outside.
        let (text, inner) = match inner.strip_prefix("- ") {
            Some(inner) => (text.trim_end(), inner),
            None => (text, inner),
        };
        let (inner, after) = match inner.strip_suffix(" -") {
            Some(inner) => (inner, after.trim_start()),
            None => (inner, after),
        };
        name += text;
        let inner = inner.trim();
        if let Some(value) = fields.get(inner) {
            name += value;
        } else if let Some(key) = inner.strip_prefix("label ").and_then(|key| quoted(key.trim())) {
            let value = label_of(key).ok_or_else(|| HostnameError::Label(key.to_owned()))?;
            name += value;
        } else {
            return Err(HostnameError::Expression(inner.to_owned()));
        }
        rest = after;
    }
    Ok(name + rest)
}

fn quoted(text: &str) -> Option<&str> {
    let inner = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('`')).filter(|key| !key.contains(['"', '`', '\\']))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use time::OffsetDateTime;
    use uuid::Uuid;

    use super::*;
    use crate::{Kind, ResourceKey, rest};

    fn resource(kind: &str, body: &Value) -> Resource {
        let wanted = rest::read_as(Kind::by_name(kind).unwrap(), body).unwrap();
        Resource {
            key: ResourceKey::new(wanted.kind, &wanted.mesh, &wanted.name),
            uid: Uuid::nil(),
            version: 1,
            revision: 1,
            labels: wanted.labels,
            spec: wanted.spec,
            status: None,
            owner: None,
            created_at: OffsetDateTime::UNIX_EPOCH,
            modified_at: OffsetDateTime::UNIX_EPOCH,
        }
    }

    fn check(
        selector: &Value,
        template: &str,
        origin: Option<&str>,
    ) -> Option<Result<String, HostnameError>> {
        let spec = json!({"selector": selector, "template": template});
        let generator = resource("HostnameGenerator", &json!({"name": "g", "spec": spec}));
        let labels = json!({
            "kuma.io/origin": "zone",
            "kuma.io/zone": "east",
            "kuma.io/display-name": "redis",
            "k8s.kuma.io/namespace": "ns",
            "app": "redis",
        });
        let body = json!({"mesh": "m", "name": "redis-x1", "labels": labels, "spec": {}});
        generate(&generator, &resource("MeshService", &body), origin, "here")
    }

    #[test]
    fn names() {
        let all = json!({"meshService": {}});
        for (template, want) in [
            ("plain.mesh", Ok("plain.mesh")),
            (
                "{{ .Name }}.{{.DisplayName}}.{{ .Namespace }}.{{ .Mesh }}.{{ .Zone }}",
                Ok("redis-x1.redis.ns.m.east"),
            ),
            ("{{ label \"app\" }}.mesh", Ok("redis.mesh")),
            ("a {{- .Mesh -}} b", Ok("amb")),
            ("{{ label \"x\" }}", Err(HostnameError::Label("x".to_owned()))),
            ("{{ .Nope }}", Err(HostnameError::Expression(".Nope".to_owned()))),
            ("{{ .Mesh", Err(HostnameError::Template("{{ .Mesh".to_owned()))),
        ] {
            assert_eq!(check(&all, template, None), Some(want.map(str::to_owned)), "{template}");
        }
    }

    #[test]
    fn selection() {
        let by = |labels: Value| json!({"meshService": {"matchLabels": labels}});
        let selected = |selector: &Value, origin| check(selector, "x", origin).is_some();
        assert!(selected(&by(json!({})), None));
        assert!(selected(&by(json!({"app": "redis"})), None));
        assert!(!selected(&by(json!({"app": "other"})), None));
        assert!(!selected(&by(json!({"tier": "x"})), None));
        assert!(!selected(&json!({"meshExternalService": {}}), None));
        assert!(selected(&by(json!({"kuma.io/origin": "zone"})), None));
        assert!(!selected(&by(json!({"kuma.io/origin": "global"})), None));
        assert!(selected(&by(json!({"kuma.io/origin": "global"})), Some("global")));
    }
}
