//! Mesh (`spec/resources.md` 3.2), and the part of 3.3 that needs no store.

use std::collections::BTreeSet;

use prost::Message;
use serde_json::Value;
use sunbear_proto::{
    json,
    kuma::mesh::v1alpha1::{
        DatadogTracingBackendConfig, FileLoggingBackendConfig, Logging, LoggingBackend, Mesh,
        Metrics, MetricsBackend, PrometheusMetricsBackendConfig, PrometheusTlsConfig,
        TcpLoggingBackendConfig, Tracing, TracingBackend, ZipkinTracingBackendConfig,
        mesh::{Constraints, Mtls},
        prometheus_tls_config::Mode,
    },
};

use super::{
    Path, Violations, quoted,
    tags::{self, TagRules, Values},
    values,
};

pub(super) fn validate(mesh: &Mesh, violations: &mut Violations) {
    if let Some(mtls) = &mesh.mtls {
        validate_mtls(&Path::at("mtls"), mtls, violations);
    }
    if let Some(logging) = &mesh.logging {
        validate_logging(&Path::at("logging"), logging, violations);
    }
    if let Some(tracing) = &mesh.tracing {
        validate_tracing(&Path::at("tracing"), tracing, violations);
    }
    if let Some(metrics) = &mesh.metrics {
        validate_metrics(&Path::at("metrics"), metrics, violations);
    }
    if let Some(constraints) = &mesh.constraints {
        validate_constraints(&Path::at("constraints"), constraints, violations);
    }
    let egress = mesh.routing.as_ref().is_some_and(|r| r.zone_egress);
    if egress && mesh.mtls.as_ref().is_none_or(|m| m.enabled_backend.is_empty()) {
        violations.push("mtls", "has to be set when zoneEgress enabled");
    }
}

/// Names of backends so far.
#[derive(Default)]
struct Names<'a>(BTreeSet<&'a str>);

impl<'a> Names<'a> {
    fn add(&mut self, path: &Path, name: &'a str, violations: &mut Violations) {
        if !self.0.insert(name) {
            violations.push(
                path.field("name"),
                format!("{} name is already used for another backend", quoted(name)),
            );
        }
    }

    /// A choice is one of them, or none.
    fn choice(&self, path: Path, name: &str, message: &str, violations: &mut Violations) {
        if !name.is_empty() && !self.0.contains(name) {
            violations.push(path, message);
        }
    }
}

fn validate_mtls(path: &Path, mtls: &Mtls, violations: &mut Violations) {
    if mtls.backends.len() > 1 {
        violations.push(path.field("backends"), "cannot have more than 1 backends");
    }
    let mut names = Names::default();
    for (i, backend) in mtls.backends.iter().enumerate() {
        names.add(&path.field("backends").index(i), &backend.name, violations);
        if let Some(cert) = &backend.dp_cert {
            let expiration = cert.rotation.as_ref().map_or("", |r| &r.expiration);
            if !values::is_mesh_duration(expiration) {
                // In lower case and without the backend's index in Kuma.
                violations.push(
                    path.field("dpcert").field("rotation").field("expiration"),
                    "has to be a valid format",
                );
            }
        }
    }
    names.choice(
        path.field("enabledBackend"),
        &mtls.enabled_backend,
        "has to be set to one of the backends in the mesh",
        violations,
    );
}

fn validate_logging(path: &Path, logging: &Logging, violations: &mut Violations) {
    let mut names = Names::default();
    for (i, backend) in logging.backends.iter().enumerate() {
        let path = path.field("backends").index(i);
        validate_logging_backend(&path, backend, violations);
        names.add(&path, &backend.name, violations);
    }
    names.choice(
        path.field("defaultBackend"),
        &logging.default_backend,
        "has to be set to one of the logging backend in mesh",
        violations,
    );
}

fn validate_logging_backend(path: &Path, backend: &LoggingBackend, violations: &mut Violations) {
    if backend.name.is_empty() {
        violations.push(path.field("name"), "cannot be empty");
    }
    // The field is `conf`; for logging and tracing Kuma reports `config`.
    let config = path.field("config");
    match backend.r#type.as_str() {
        "file" => match typed::<FileLoggingBackendConfig, _>(backend.conf.as_ref()) {
            Err(error) => unparsed(&config, &error, violations),
            Ok(file) if file.path.is_empty() => {
                violations.push(config.field("path"), "cannot be empty");
            }
            Ok(_) => {}
        },
        "tcp" => match typed::<TcpLoggingBackendConfig, _>(backend.conf.as_ref()) {
            Err(error) => unparsed(&config, &error, violations),
            Ok(tcp) if tcp.address.is_empty() => {
                violations.push(config.field("address"), "cannot be empty");
            }
            Ok(tcp) if !values::is_host_port(&tcp.address) => {
                violations.push(config.field("address"), "has to be in format of HOST:PORT");
            }
            Ok(_) => {}
        },
        _ => violations.push(
            path.field("type"),
            "unknown backend type. Available backends: \"tcp\", \"file\"",
        ),
    }
}

fn validate_tracing(path: &Path, tracing: &Tracing, violations: &mut Violations) {
    let mut names = Names::default();
    for (i, backend) in tracing.backends.iter().enumerate() {
        let path = path.field("backends").index(i);
        validate_tracing_backend(&path, backend, violations);
        names.add(&path, &backend.name, violations);
    }
    names.choice(
        path.field("defaultBackend"),
        &tracing.default_backend,
        "has to be set to one of the tracing backend in mesh",
        violations,
    );
}

fn validate_tracing_backend(path: &Path, backend: &TracingBackend, violations: &mut Violations) {
    if backend.name.is_empty() {
        violations.push(path.field("name"), "cannot be empty");
    }
    if backend.sampling.is_some_and(|s| !(0.0..=100.0).contains(&s)) {
        violations.push(path.field("sampling"), "has to be in [0.0 - 100.0] range");
    }
    let config = path.field("config");
    match backend.r#type.as_str() {
        "zipkin" => match typed::<ZipkinTracingBackendConfig, _>(backend.conf.as_ref()) {
            Err(error) => unparsed(&config, &error, violations),
            Ok(zipkin) => validate_zipkin(&config, &zipkin, violations),
        },
        "datadog" => match typed::<DatadogTracingBackendConfig, _>(backend.conf.as_ref()) {
            Err(error) => unparsed(&config, &error, violations),
            Ok(datadog) => {
                if datadog.address.is_empty() {
                    violations.push(config.field("address"), "cannot be empty");
                }
                values::port(config.field("port"), datadog.port, violations);
            }
        },
        _ => violations.push(
            path.field("type"),
            "unknown backend type. Available backends: \"zipkin\", \"datadog\"",
        ),
    }
}

fn validate_zipkin(path: &Path, zipkin: &ZipkinTracingBackendConfig, violations: &mut Violations) {
    if !matches!(zipkin.api_version.as_str(), "" | "httpJsonV1" | "httpJson" | "httpProto") {
        violations.push(
            path.field("apiVersion"),
            "has invalid value. Allowed values: httpJsonV1, httpJson, httpProto",
        );
    }
    let url = path.field("url");
    if zipkin.url.is_empty() {
        violations.push(url, "cannot be empty");
        return;
    }
    match values::RequestUri::parse(&zipkin.url) {
        None => violations.push(url, "invalid URL"),
        Some(uri) if uri.port.is_none_or(str::is_empty) => {
            violations.push(url, "port has to be explicitly specified");
        }
        Some(_) => {}
    }
}

fn validate_metrics(path: &Path, metrics: &Metrics, violations: &mut Violations) {
    let mut names = Names::default();
    for (i, backend) in metrics.backends.iter().enumerate() {
        let path = path.field("backends").index(i);
        names.add(&path, &backend.name, violations);
        validate_metrics_backend(&path, backend, violations);
    }
    names.choice(
        path.field("enabledBackend"),
        &metrics.enabled_backend,
        "has to be set to one of the backends in the mesh",
        violations,
    );
}

/// Type and configuration of a metrics backend, of a Mesh or a Dataplane.
pub(super) fn validate_metrics_backend(
    path: &Path,
    backend: &MetricsBackend,
    violations: &mut Violations,
) {
    if backend.r#type != "prometheus" {
        violations
            .push(path.field("type"), "unknown backend type. Available backends: \"prometheus\"");
        return;
    }
    let path = path.field("conf");
    let config = match typed::<PrometheusMetricsBackendConfig, _>(backend.conf.as_ref()) {
        Ok(config) => config,
        Err(error) => {
            unparsed(&path, &error, violations);
            return;
        }
    };
    if let (Some(skip), Some(tls)) = (config.skip_mtls, &config.tls)
        && !same_meaning(skip, tls)
    {
        violations.push(path, "skipMTLS and tls configuration cannot be defined together");
        return;
    }
    let filter = config.envoy.as_ref().map_or("", |e| &e.filter_regex);
    if let Err(error) = regex::Regex::new(filter) {
        let error = error.to_string();
        let reason = error.lines().last().unwrap_or_default();
        violations.push(
            path.field("envoy").field("filterRegex"),
            format!("provided regexp isn't correct: {}", reason.trim_start_matches("error: ")),
        );
        return;
    }
    let mut names = BTreeSet::new();
    for (i, endpoint) in config.aggregate.iter().enumerate() {
        if !names.insert(&endpoint.name) {
            violations.push(
                path.field("aggregate").index(i).field("name"),
                format!("duplicate entry: {}, values have to be unique", endpoint.name),
            );
        }
    }
}

fn same_meaning(skip: bool, tls: &PrometheusTlsConfig) -> bool {
    if skip { tls.mode() == Mode::Disabled } else { tls.mode() == Mode::ActiveMtlsBackend }
}

fn validate_constraints(path: &Path, constraints: &Constraints, violations: &mut Violations) {
    let Some(proxy) = &constraints.dataplane_proxy else {
        return;
    };
    let rules = TagRules { at_least_one: true, ..TagRules::of(Values::Selectors) };
    let path = path.field("dataplaneProxy");
    for (field, list) in
        [("requirements", &proxy.requirements), ("restrictions", &proxy.restrictions)]
    {
        for (i, rule) in list.iter().enumerate() {
            tags::check(&path.field(field).index(i).field("tags"), &rule.tags, rules, violations);
        }
    }
}

fn unparsed(path: &Path, error: &str, violations: &mut Violations) {
    violations.push(path, format!("could not parse config: {error}"));
}

/// A `conf` struct as the message it stands for; an absent one is the empty message.
pub(super) fn typed<M, S>(conf: Option<&S>) -> Result<M, String>
where
    M: Message + prost::Name + Default,
    S: Message,
{
    let Some(conf) = conf else {
        return Ok(M::default());
    };
    let value = json::write(STRUCT, &conf.encode_to_vec()).map_err(|e| e.to_string())?;
    let decoded = json::read(&M::full_name(), &value, &[]).map_err(|e| e.to_string())?;
    M::decode(decoded.wire.as_slice()).map_err(|e| e.to_string())
}

/// A message as a `conf` struct.
pub(super) fn to_struct<M, S>(message: &M) -> Option<S>
where
    M: Message + prost::Name,
    S: Message + Default,
{
    let value = json::write_message(message).ok()?;
    let decoded = json::read(STRUCT, &value, &[]).ok()?;
    S::decode(decoded.wire.as_slice()).ok()
}

const STRUCT: &str = "google.protobuf.Struct";

/// The rule for names of meshes that do not exist yet.
pub fn validate_new_mesh_name(name: &str) -> Violations {
    let mut violations = Violations::default();
    if name.len() > 63 {
        violations.push("name", "cannot be longer than 63 characters");
    }
    violations
}

/// The rules for mTLS backends that hold on create and update, as far as they need neither secrets
/// nor files: types, configurations and the names that secrets will get. `name` is the mesh's.
pub fn validate_ca_backends(name: &str, mesh: &Mesh) -> Violations {
    let mut violations = Violations::default();
    let Some(mtls) = &mesh.mtls else {
        return violations;
    };
    for (i, backend) in mtls.backends.iter().enumerate() {
        let path = Path::at("mtls").field("backends").index(i);
        if !matches!(backend.r#type.as_str(), "builtin" | "provided") {
            violations.push(path.field("type"), "could not find installed plugin for this type");
            return violations;
        }
        if mtls.skip_validation {
            continue;
        }
        let path = path.field("conf");
        let conf = match &backend.conf {
            None => Value::Null,
            Some(conf) => json::write(STRUCT, &conf.encode_to_vec()).unwrap_or(Value::Null),
        };
        let result = if backend.r#type == "builtin" {
            validate_builtin(name, &backend.name, &path, &conf, &mut violations)
        } else {
            validate_provided(&path, &conf, &mut violations)
        };
        if let Err(error) = result {
            violations.push(path, format!("could not convert backend config: {error}"));
        }
    }
    violations
}

fn validate_builtin(
    mesh: &str,
    backend: &str,
    path: &Path,
    conf: &Value,
    violations: &mut Violations,
) -> Result<(), String> {
    let cert = conf.get("caCert").unwrap_or(&Value::Null);
    for (parent, key) in [(conf, "caCert"), (cert, "RSAbits"), (cert, "expiration")] {
        let fits = match (key, parent.get(key)) {
            (_, None | Some(Value::Null)) => true,
            ("caCert", Some(value)) => value.is_object(),
            ("RSAbits", Some(value)) => value.as_u64().is_some_and(|n| u32::try_from(n).is_ok()),
            (_, Some(value)) => value.is_string(),
        };
        if !fits {
            return Err(format!("{key} has the wrong type"));
        }
    }
    // The path repeats itself in Kuma.
    let path = path.field("mtls").field("backends").field("name");
    let secret = format!("{mesh}.ca-builtin-cert-{backend}");
    if secret.len() > 255 {
        violations.push(&path, "Backend name is too long. Max length: 255");
    }
    if !super::kubernetes::is_subdomain_1123(&secret) {
        violations.push(path, format!("{} name must be valid dns name", quoted(&secret)));
    }
    Ok(())
}

fn validate_provided(path: &Path, conf: &Value, violations: &mut Violations) -> Result<(), String> {
    for key in ["cert", "key"] {
        let path = path.field(key);
        let source = match conf.get(key) {
            None | Some(Value::Null) => {
                violations.push(path, "has to be defined");
                continue;
            }
            Some(Value::Object(source)) => source,
            Some(_) => return Err(format!("{key} has the wrong type")),
        };
        let chosen = ["secret", "file", "inline", "inlineString"]
            .into_iter()
            .find_map(|variant| Some((variant, source.get(variant)?)));
        match chosen {
            None => violations.push(
                path,
                "data source has to be chosen. Available sources: secret, file, inline",
            ),
            Some((variant, Value::String(text))) => {
                if text.is_empty() && variant != "inlineString" {
                    violations.push(path.field(variant), "cannot be empty");
                }
            }
            Some((variant, _)) => return Err(format!("{key}.{variant} has the wrong type")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, Typed, rest};

    fn mesh(spec: Value) -> Mesh {
        match rest::read_as(Kind::MESH, &spec).unwrap().spec.typed() {
            Typed::Mesh(mesh) => (**mesh).clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ca_backends() {
        let check = |mesh_name: &str, backend: Value| {
            let spec = serde_json::json!({"mtls": {"backends": [backend]}});
            validate_ca_backends(mesh_name, &mesh(spec)).to_string()
        };
        let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(check("m", json(r#"{"name": "ca-1", "type": "builtin"}"#)), "");
        assert_eq!(
            check(
                "m",
                json(
                    r#"{"name": "ca", "type": "builtin", "conf": {"caCert": {"RSAbits": 4096, "expiration": "1y"}}}"#
                )
            ),
            ""
        );
        assert_eq!(
            check(
                "m",
                json(r#"{"name": "ca", "type": "builtin", "conf": {"caCert": {"RSAbits": "x"}}}"#)
            ),
            "mtls.backends[0].conf: could not convert backend config: RSAbits has the wrong type"
        );
        assert_eq!(
            check("m", json(r#"{"name": "CA", "type": "builtin"}"#)),
            "mtls.backends[0].conf.mtls.backends.name: \"m.ca-builtin-cert-CA\" name must be valid dns name"
        );
        assert_eq!(
            check("m", json(r#"{"name": "ca", "type": "vault"}"#)),
            "mtls.backends[0].type: could not find installed plugin for this type"
        );
        assert_eq!(
            check("m", json(r#"{"name": "ca", "type": "provided", "conf": {"cert": {}}}"#)),
            "mtls.backends[0].conf.cert: data source has to be chosen. Available sources: secret, file, inline; \
             mtls.backends[0].conf.key: has to be defined"
        );
        assert_eq!(
            check(
                "m",
                json(
                    r#"{"name": "ca", "type": "provided", "conf": {"cert": {"secret": ""}, "key": {"inline": "YQ=="}}}"#
                )
            ),
            "mtls.backends[0].conf.cert.secret: cannot be empty"
        );
    }

    #[test]
    fn new_names() {
        assert!(validate_new_mesh_name(&"a".repeat(63)).is_empty());
        assert_eq!(validate_new_mesh_name(&"a".repeat(64)).0.len(), 1);
    }
}
