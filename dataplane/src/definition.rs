//! The proxy's definition: a template in YAML or JSON, rendered and turned into JSON in REST form.

use anyhow::{Context, bail};
use serde_json::{Map, Value};

/// What kind of proxy this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProxyType {
    /// A sidecar or a gateway.
    Dataplane,
    /// A zone ingress.
    Ingress,
    /// A zone egress.
    Egress,
}

impl ProxyType {
    /// Parses the value of `--proxy-type`.
    pub(crate) fn parse(text: &str) -> Option<ProxyType> {
        match text {
            "" | "dataplane" => Some(ProxyType::Dataplane),
            "ingress" => Some(ProxyType::Ingress),
            "egress" => Some(ProxyType::Egress),
            _ => None,
        }
    }

    /// The word on the wire.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            ProxyType::Dataplane => "dataplane",
            ProxyType::Ingress => "ingress",
            ProxyType::Egress => "egress",
        }
    }

    /// The resource type that a definition of such a proxy has.
    pub(crate) fn resource_type(self) -> &'static str {
        match self {
            ProxyType::Dataplane => "Dataplane",
            ProxyType::Ingress => "ZoneIngress",
            ProxyType::Egress => "ZoneEgress",
        }
    }
}

/// A parsed definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Definition {
    /// Mesh, empty for zone proxies.
    pub(crate) mesh: String,
    /// Name of the proxy.
    pub(crate) name: String,
    /// The resource as JSON text in REST form.
    pub(crate) json: String,
}

/// Renders and parses a definition, and checks that it fits the proxy type.
pub(crate) fn parse(
    template: &str,
    proxy_type: ProxyType,
    variable: &dyn Fn(&str) -> Option<String>,
) -> anyhow::Result<Definition> {
    let text = render(template, variable)?;
    let mut resource: Map<String, Value> = serde_saphyr::from_str(&text)
        .context("the definition is neither YAML nor JSON of an object")?;
    let expected = proxy_type.resource_type();
    match resource.get("type").and_then(Value::as_str) {
        Some(found) if found == expected => {}
        Some(found) => bail!(
            "the definition is of type {found:?}, but the proxy type {} needs {expected}",
            proxy_type.as_str()
        ),
        None => bail!("the definition has no type; {expected} is expected"),
    }
    let name = match resource.get("name").and_then(Value::as_str) {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => bail!("the definition has no name"),
    };
    let mesh = match proxy_type {
        ProxyType::Dataplane => {
            let mesh = resource.entry("mesh").or_insert_with(|| "default".into());
            match mesh.as_str() {
                Some(mesh) if !mesh.is_empty() => mesh.to_owned(),
                _ => bail!("the definition's mesh is not a name"),
            }
        }
        ProxyType::Ingress | ProxyType::Egress => String::new(),
    };
    let json = serde_json::to_string(&resource).context("cannot write the definition as JSON")?;
    Ok(Definition { mesh, name, json })
}

/// Replaces `{{ key }}`, `{{{ key }}}` and `{{& key }}` by the variable's value.
///
/// A variable without a value is an error: an empty tag or address would only be refused later, and
/// less clearly.
fn render(template: &str, variable: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<String> {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find("{{") {
        out.push_str(&rest[..start]);
        let inner = &rest[start + 2..];
        let (inner, close) = match inner.strip_prefix('{') {
            Some(inner) => (inner, "}}}"),
            None => (inner, "}}"),
        };
        let Some(end) = inner.find(close) else {
            bail!("the definition has {{{{ without its closing braces");
        };
        let key = inner[..end].trim();
        // A comment in mustache's sense.
        if !key.starts_with('!') {
            let key = key.strip_prefix('&').unwrap_or(key).trim();
            let Some(value) = variable(key) else {
                bail!(
                    "the definition's variable {key:?} has no value; give it with --dataplane-var {key}=... or as an environment variable"
                );
            };
            out.push_str(&value);
        }
        rest = &inner[end + close.len()..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_variables(_: &str) -> Option<String> {
        None
    }

    const GATEWAY: &str = "\
type: Dataplane
mesh: default
name: {{ name }}
networking:
  address: {{{address}}}
  gateway:
    type: BUILTIN
    tags:
      kuma.io/service: \"edge\"
  admin:
    port: 19901
";

    #[test]
    fn a_template_becomes_rest_json() {
        let variables = |key: &str| match key {
            "name" => Some("gw-1".to_owned()),
            "address" => Some("10.0.0.7".to_owned()),
            _ => None,
        };
        let definition = parse(GATEWAY, ProxyType::Dataplane, &variables).unwrap();
        assert_eq!(definition.mesh, "default");
        assert_eq!(definition.name, "gw-1");
        let value: Value = serde_json::from_str(&definition.json).unwrap();
        assert_eq!(value["networking"]["address"], "10.0.0.7");
        assert_eq!(value["networking"]["admin"]["port"], 19901);
        assert_eq!(value["networking"]["gateway"]["tags"]["kuma.io/service"], "edge");
    }

    #[test]
    fn json_is_accepted_and_the_mesh_defaults() {
        let definition =
            parse(r#"{"type":"Dataplane","name":"a"}"#, ProxyType::Dataplane, &no_variables)
                .unwrap();
        assert_eq!(definition.mesh, "default");
        assert!(definition.json.contains(r#""mesh":"default""#));
    }

    #[test]
    fn zone_proxies_have_no_mesh() {
        let definition =
            parse("type: ZoneIngress\nname: in-1\n", ProxyType::Ingress, &no_variables).unwrap();
        assert_eq!(definition.mesh, "");
        assert!(!definition.json.contains("mesh"));
    }

    #[test]
    fn errors_name_the_cause() {
        let cases = [
            ("type: ZoneEgress\nname: a\n", "ZoneEgress"),
            ("name: a\n", "no type"),
            ("type: Dataplane\n", "no name"),
            ("type: Dataplane\nname: {{ who }}\n", "\"who\""),
            ("type: Dataplane\nname: {{ who\n", "closing braces"),
            ("- a\n", "neither YAML nor JSON"),
        ];
        for (text, expected) in cases {
            let error =
                format!("{:#}", parse(text, ProxyType::Dataplane, &no_variables).unwrap_err());
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
