//! Turns what Envoy has accepted from the control plane into a bootstrap that needs no control plane.
//!
//! Pure: the bootstrap as received, a configuration dump and the runtime's values go in, a static
//! bootstrap comes out. Two kinds of trouble are told apart:
//! - what the dump does not hold *yet* (something warms, a route is not there) is an [`Incomplete`],
//!   and the last sealed configuration stays;
//! - what cannot be had makes an [`Omission`]: the resource that needs it is left out, everything else
//!   is kept. Private keys are redacted in a dump and come from [`Held`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::document::{elements, field, field_mut, path, take};
use crate::keys::{Absent, Held, SecretId};

/// A static bootstrap.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StaticConfig {
    /// The document.
    pub(crate) bootstrap: Value,
    /// What had to be left out.
    pub(crate) omissions: Vec<Omission>,
}

/// A resource, or a part of one, that cannot be had from a dump.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Omission {
    /// `listener`, `filter chain of listener` or `cluster`.
    pub(crate) kind: &'static str,
    /// Its name.
    pub(crate) name: String,
    /// Why.
    pub(crate) reason: String,
}

/// The dump is not of a settled configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Incomplete {
    /// The dump has not the form that Envoy writes.
    Malformed(&'static str),
    /// These resources are still warming.
    Warming(String),
    /// A listener names a route configuration that is not there.
    NoRoute(String),
    /// A cluster's endpoints are not there.
    NoEndpoints(String),
    /// A secret is not there.
    NoSecret(String),
    /// The version of a secret that Envoy has could not be had yet.
    NoKey(String),
    /// A runtime layer is not there.
    NoRuntimeLayer(String),
}

impl fmt::Display for Incomplete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Incomplete::Malformed(what) => write!(f, "the dump's {what} has not the expected form"),
            Incomplete::Warming(what) => write!(f, "{what} is still warming"),
            Incomplete::NoRoute(name) => write!(f, "the dump lacks route configuration {name:?}"),
            Incomplete::NoEndpoints(name) => {
                write!(f, "the dump lacks the endpoints of cluster {name:?}")
            }
            Incomplete::NoSecret(name) => write!(f, "the dump lacks secret {name:?}"),
            Incomplete::NoKey(name) => {
                write!(f, "secret {name:?} cannot be had in the version that Envoy has")
            }
            Incomplete::NoRuntimeLayer(name) => write!(f, "the runtime lacks layer {name:?}"),
        }
    }
}

impl std::error::Error for Incomplete {}

/// Makes the static bootstrap.
///
/// `received` is the bootstrap that this Envoy runs with, `dump` the answer of
/// `/config_dump?include_eds`, `runtime` that of `/runtime`; `held` has the secrets of [`redacted`].
pub(crate) fn to_static(
    received: &Value,
    dump: &Value,
    runtime: &Value,
    held: &Held,
) -> Result<StaticConfig, Incomplete> {
    let mut dump = Dump::read(dump)?;
    dump.fill_in(held);
    let mut bootstrap = received.as_object().ok_or(Incomplete::Malformed("bootstrap"))?.clone();
    let control_plane_clusters = remove_control_plane(&mut bootstrap);
    freeze_runtime(&mut bootstrap, runtime)?;

    let mut resources = match take(&mut bootstrap, "static_resources") {
        Some(Value::Object(resources)) => resources,
        _ => Map::new(),
    };
    let mut clusters = list(&mut resources, "clusters");
    clusters.retain(|cluster| {
        !name_of(cluster).is_some_and(|name| control_plane_clusters.contains(name))
    });
    let mut listeners = list(&mut resources, "listeners");
    let mut secrets = list(&mut resources, "secrets");

    let mut omissions = Vec::new();
    let mut needed_secrets = BTreeSet::new();
    for (name, cluster) in &dump.clusters {
        let mut cluster = cluster.clone();
        dump.inline_endpoints(name, &mut cluster)?;
        match dump.settle(&mut cluster, &held.absent, &mut needed_secrets)? {
            Ok(()) => clusters.push(cluster),
            Err(reason) => omissions.push(Omission { kind: "cluster", name: name.clone(), reason }),
        }
    }
    let known: BTreeSet<String> = clusters.iter().filter_map(name_of).map(str::to_owned).collect();
    for (name, listener) in &dump.listeners {
        let mut listener = listener.clone();
        inline_routes(&mut listener, &dump.routes)?;
        match dump.settle_listener(
            name,
            &mut listener,
            &known,
            &held.absent,
            &mut needed_secrets,
            &mut omissions,
        )? {
            Ok(()) => listeners.push(listener),
            Err(reason) => {
                omissions.push(Omission { kind: "listener", name: name.clone(), reason })
            }
        }
    }
    for name in &needed_secrets {
        if let Some(secret) = dump.secrets.get(name) {
            secrets.push(secret.clone());
        }
    }
    for (key, items) in [("clusters", clusters), ("listeners", listeners), ("secrets", secrets)] {
        if !items.is_empty() {
            resources.insert(key.into(), Value::Array(items));
        }
    }
    bootstrap.insert("static_resources".into(), Value::Object(resources));
    omissions.sort();
    Ok(StaticConfig { bootstrap: Value::Object(bootstrap), omissions })
}

/// The secrets of a dump of which it does not show all.
pub(crate) fn redacted(dump: &Value) -> Result<BTreeSet<SecretId>, Incomplete> {
    let dump = Dump::read(dump)?;
    let hidden = dump.secrets.iter().filter(|(_, secret)| has_redaction(secret));
    Ok(hidden.filter_map(|(name, _)| dump.id(name)).collect())
}

/// How many listeners for traffic a static bootstrap has.
pub(crate) fn listener_count(bootstrap: &Value) -> usize {
    let listeners = field(bootstrap, "static_resources")
        .into_iter()
        .flat_map(|resources| elements(resources, "listeners"));
    listeners.filter(|listener| name_of(listener).is_some_and(is_for_traffic)).count()
}

/// Whether a listener of this name serves the proxy's users, and not its operators.
pub(crate) fn is_for_traffic(listener: &str) -> bool {
    !["kuma:", "_kuma:", "system_"].iter().any(|prefix| listener.starts_with(prefix))
}

/// The resources of a dump by name.
#[derive(Debug, Default)]
struct Dump {
    clusters: BTreeMap<String, Value>,
    endpoints: BTreeMap<String, Value>,
    listeners: BTreeMap<String, Value>,
    routes: BTreeMap<String, Value>,
    secrets: BTreeMap<String, Value>,
    /// Of the secrets.
    versions: BTreeMap<String, String>,
}

impl Dump {
    fn read(dump: &Value) -> Result<Dump, Incomplete> {
        let mut out = Dump::default();
        let configs = field(dump, "configs")
            .and_then(Value::as_array)
            .ok_or(Incomplete::Malformed("list of configs"))?;
        for config in configs {
            let section = config
                .get("@type")
                .and_then(Value::as_str)
                .and_then(|kind| kind.rsplit('.').next());
            match section {
                Some("ClustersConfigDump") => {
                    refuse_warming(config, "dynamic_warming_clusters", "cluster")?;
                    collect(
                        config,
                        "dynamic_active_clusters",
                        &["cluster"],
                        "name",
                        &mut out.clusters,
                    )?;
                }
                Some("EndpointsConfigDump") => {
                    collect(
                        config,
                        "dynamic_endpoint_configs",
                        &["endpoint_config"],
                        "cluster_name",
                        &mut out.endpoints,
                    )?;
                }
                Some("ListenersConfigDump") => {
                    for listener in elements(config, "dynamic_listeners") {
                        if field(listener, "warming_state").is_some() {
                            let name = name_of(listener).unwrap_or("?");
                            return Err(Incomplete::Warming(format!("listener {name:?}")));
                        }
                        // One without an active state was never accepted.
                        if field(listener, "active_state").is_some() {
                            insert(
                                listener,
                                &["active_state", "listener"],
                                "name",
                                &mut out.listeners,
                            )?;
                        }
                    }
                }
                Some("RoutesConfigDump") => {
                    collect(
                        config,
                        "dynamic_route_configs",
                        &["route_config"],
                        "name",
                        &mut out.routes,
                    )?;
                }
                Some("SecretsConfigDump") => {
                    collect(
                        config,
                        "dynamic_active_secrets",
                        &["secret"],
                        "name",
                        &mut out.secrets,
                    )?;
                    for entry in elements(config, "dynamic_active_secrets") {
                        let text = |name| field(entry, name)?.as_str().map(str::to_owned);
                        if let (Some(name), Some(version)) = (text("name"), text("version_info")) {
                            out.versions.entry(name).or_insert(version);
                        }
                    }
                }
                // The bootstrap is had from elsewhere, with its field names and token.
                _ => {}
            }
        }
        Ok(out)
    }

    fn id(&self, secret: &str) -> Option<SecretId> {
        Some((secret.to_owned(), self.versions.get(secret)?.clone()))
    }

    /// Puts in what Envoy did not show.
    fn fill_in(&mut self, held: &Held) {
        for ((name, version), secret) in &held.secrets {
            if self.versions.get(name) == Some(version)
                && let Some(shown) = self.secrets.get_mut(name)
            {
                *shown = secret.clone();
            }
        }
    }

    /// Gives an EDS cluster its endpoints.
    fn inline_endpoints(&self, name: &str, cluster: &mut Value) -> Result<(), Incomplete> {
        let object = cluster.as_object_mut().ok_or(Incomplete::Malformed("cluster"))?;
        let mut kind =
            field_mut(object, "type").and_then(|kind| kind.as_str()).unwrap_or("STATIC").to_owned();
        if kind == "EDS" {
            let eds = take(object, "eds_cluster_config").unwrap_or_default();
            let service = field(&eds, "service_name").and_then(Value::as_str).unwrap_or(name);
            let assignment = self
                .endpoints
                .get(service)
                .ok_or_else(|| Incomplete::NoEndpoints(name.to_owned()))?;
            let mut assignment = assignment.clone();
            clean_endpoints(&mut assignment);
            kind = if has_host_names(&assignment) { "STRICT_DNS" } else { "STATIC" }.to_owned();
            if let Some(assignment) = assignment.as_object_mut() {
                assignment.insert("cluster_name".into(), name.into());
            }
            object.insert("type".into(), kind.as_str().into());
            object.insert("load_assignment".into(), assignment);
        }
        if matches!(kind.as_str(), "STRICT_DNS" | "LOGICAL_DNS") {
            // Envoy would not start to serve before a first answer of DNS, and a DNS server that is
            // silent gives none for half a minute and more.
            take(object, "wait_for_warm_on_init");
            object.insert("wait_for_warm_on_init".into(), false.into());
        }
        Ok(())
    }

    /// Makes a resource stand on its own, or says why it cannot.
    fn settle(
        &self,
        resource: &mut Value,
        absent: &Absent,
        needed: &mut BTreeSet<String>,
    ) -> Result<Result<(), String>, Incomplete> {
        let mut secrets = BTreeSet::new();
        localize_secrets(resource, &mut secrets);
        for name in &secrets {
            let secret =
                self.secrets.get(name).ok_or_else(|| Incomplete::NoSecret(name.clone()))?;
            if has_redaction(secret) {
                return match absent {
                    Absent::LeaveOut(reason) => Ok(Err(format!("secret {name:?}: {reason}"))),
                    Absent::Wait => Err(Incomplete::NoKey(name.clone())),
                };
            }
        }
        if has_redaction(resource) {
            return Ok(Err("it holds a secret that is redacted in Envoy's dump".into()));
        }
        if let Some(source) = remote_source(resource) {
            return Ok(Err(format!("its {source} comes from the control plane")));
        }
        needed.extend(secrets);
        Ok(Ok(()))
    }

    /// Likewise for a listener, of which a chain may be dropped alone if that is harmless.
    fn settle_listener(
        &self,
        name: &str,
        listener: &mut Value,
        known_clusters: &BTreeSet<String>,
        absent: &Absent,
        needed: &mut BTreeSet<String>,
        omissions: &mut Vec<Omission>,
    ) -> Result<Result<(), String>, Incomplete> {
        if let Some(cluster) = missing_grpc_cluster(listener, known_clusters) {
            return Ok(Err(format!("it needs cluster {cluster:?}")));
        }
        let mut attempt = listener.clone();
        let reason = match self.settle(&mut attempt, absent, needed)? {
            Ok(()) => {
                *listener = attempt;
                return Ok(Ok(()));
            }
            Err(reason) => reason,
        };
        let Some(chains) = listener
            .as_object_mut()
            .and_then(|listener| field_mut(listener, "filter_chains"))
            .and_then(Value::as_array_mut)
        else {
            return Ok(Err(reason));
        };
        // A TLS connection whose chain is gone falls to a plain chain. That is harmless only where
        // it then fails as what it is not, an HTTP request in the clear; a chain that proxies bytes
        // would send it elsewhere.
        let mut kept = Vec::new();
        let mut dropped = 0;
        for chain in chains.iter() {
            let mut chain = chain.clone();
            match self.settle(&mut chain, absent, &mut BTreeSet::new())? {
                Ok(()) if is_plain_http(&chain) => kept.push(chain),
                Err(_) if matches_tls(&chain) => dropped += 1,
                Ok(()) | Err(_) => return Ok(Err(reason)),
            }
        }
        if kept.is_empty() || dropped == 0 {
            return Ok(Err(reason));
        }
        *chains = kept;
        if let Err(reason) = self.settle(listener, absent, needed)? {
            return Ok(Err(reason));
        }
        omissions.push(Omission {
            kind: "filter chain of listener",
            name: name.to_owned(),
            reason,
        });
        Ok(Ok(()))
    }
}

fn name_of(resource: &Value) -> Option<&str> {
    resource.get("name")?.as_str()
}

fn list(resources: &mut Map<String, Value>, key: &str) -> Vec<Value> {
    match take(resources, key) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

fn refuse_warming(config: &Value, key: &str, what: &str) -> Result<(), Incomplete> {
    match elements(config, key).next() {
        None => Ok(()),
        Some(entry) => {
            let name = field(entry, what).and_then(name_of).unwrap_or("?");
            Err(Incomplete::Warming(format!("{what} {name:?}")))
        }
    }
}

fn collect(
    config: &Value,
    key: &'static str,
    inner: &[&str],
    name: &'static str,
    out: &mut BTreeMap<String, Value>,
) -> Result<(), Incomplete> {
    elements(config, key).try_for_each(|entry| insert(entry, inner, name, out))
}

/// The same resource may be in the dump more than once, once per subscriber.
fn insert(
    entry: &Value,
    inner: &[&str],
    name: &'static str,
    out: &mut BTreeMap<String, Value>,
) -> Result<(), Incomplete> {
    let resource = path(entry, inner).ok_or(Incomplete::Malformed("resource"))?;
    let name = field(resource, name)
        .and_then(Value::as_str)
        .ok_or(Incomplete::Malformed("resource's name"))?;
    if !out.contains_key(name) {
        let mut resource = resource.clone();
        // Resources stand in the dump as `Any`, in a bootstrap as themselves.
        resource.as_object_mut().map(|resource| resource.remove("@type"));
        out.insert(name.to_owned(), resource);
    }
    Ok(())
}

/// Removes all that talks to a control plane, and says which clusters only served for that.
fn remove_control_plane(bootstrap: &mut Map<String, Value>) -> BTreeSet<String> {
    let mut clusters = BTreeSet::new();
    for key in ["dynamic_resources", "hds_config"] {
        if let Some(removed) = take(bootstrap, key) {
            collect_clusters(&removed, &mut clusters);
        }
    }
    clusters
}

/// Names of clusters in the API sources of a discovery configuration.
fn collect_clusters(value: &Value, out: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect_clusters(item, out)),
        Value::Object(fields) => {
            out.extend(field(value, "cluster_name").and_then(Value::as_str).map(str::to_owned));
            out.extend(
                elements(value, "cluster_names").filter_map(Value::as_str).map(str::to_owned),
            );
            fields.values().for_each(|field| collect_clusters(field, out));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Replaces the layers that come from the control plane by what they hold now.
fn freeze_runtime(bootstrap: &mut Map<String, Value>, runtime: &Value) -> Result<(), Incomplete> {
    let Some(layers) = field_mut(bootstrap, "layered_runtime")
        .and_then(Value::as_object_mut)
        .and_then(|runtime| field_mut(runtime, "layers"))
        .and_then(Value::as_array_mut)
    else {
        return Ok(());
    };
    for layer in layers.iter_mut().filter_map(Value::as_object_mut) {
        if take(layer, "rtds_layer").is_none() {
            continue;
        }
        let name = layer.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let index = elements(runtime, "layers")
            .position(|layer| layer.as_str() == Some(&name))
            .ok_or(Incomplete::NoRuntimeLayer(name))?;
        let entries = field(runtime, "entries").and_then(Value::as_object).into_iter().flatten();
        let values: Map<String, Value> = entries
            .filter_map(|(key, entry)| {
                let value = field(entry, "layer_values")?.get(index)?.as_str()?;
                (!value.is_empty()).then(|| (key.clone(), runtime_value(value)))
            })
            .collect();
        layer.insert("static_layer".into(), Value::Object(values));
    }
    Ok(())
}

/// Envoy prints every runtime value as text.
fn runtime_value(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(value @ (Value::Number(_) | Value::Bool(_) | Value::Object(_))) => value,
        Ok(Value::Null | Value::String(_) | Value::Array(_)) | Err(_) => text.into(),
    }
}

/// Undoes what Envoy adds when it writes endpoints from its state.
fn clean_endpoints(assignment: &mut Value) {
    let lists =
        assignment.as_object_mut().and_then(|assignment| field_mut(assignment, "endpoints"));
    for locality in
        lists.and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
    {
        // An absent weight is written as 0, which is not valid to read.
        if field_mut(locality, "load_balancing_weight").is_some_and(|weight| *weight == json!(0)) {
            take(locality, "load_balancing_weight");
        }
        let endpoints = field_mut(locality, "lb_endpoints").and_then(Value::as_array_mut);
        for endpoint in endpoints.into_iter().flatten().filter_map(Value::as_object_mut) {
            // It mixes what was configured with what health checks and outlier detection found,
            // and what they found must not be frozen.
            take(endpoint, "health_status");
            if field_mut(endpoint, "metadata").is_some_and(|metadata| *metadata == json!({})) {
                take(endpoint, "metadata");
            }
            if let Some(endpoint) = field_mut(endpoint, "endpoint").and_then(Value::as_object_mut)
                && field_mut(endpoint, "health_check_config")
                    .is_some_and(|config| *config == json!({}))
            {
                take(endpoint, "health_check_config");
            }
        }
    }
}

fn has_host_names(assignment: &Value) -> bool {
    elements(assignment, "endpoints")
        .flat_map(|locality| elements(locality, "lb_endpoints"))
        .filter_map(|endpoint| {
            path(endpoint, &["endpoint", "address", "socket_address", "address"])?.as_str()
        })
        .any(|address| address.parse::<IpAddr>().is_err())
}

/// Replaces `rds` by the route configuration, wherever a connection manager is.
fn inline_routes(value: &mut Value, routes: &BTreeMap<String, Value>) -> Result<(), Incomplete> {
    match value {
        Value::Array(items) => items.iter_mut().try_for_each(|item| inline_routes(item, routes)),
        Value::Object(fields) => {
            if type_is(fields, "HttpConnectionManager")
                && let Some(rds) = take(fields, "rds")
            {
                let name =
                    field(&rds, "route_config_name").and_then(Value::as_str).unwrap_or_default();
                let mut route = routes
                    .get(name)
                    .cloned()
                    .ok_or_else(|| Incomplete::NoRoute(name.to_owned()))?;
                if let Some(route) = route.as_object_mut() {
                    // As with RDS: a route to a cluster that was left out answers 503 and does not
                    // take the whole configuration down.
                    take(route, "validate_clusters");
                    route.insert("validate_clusters".into(), false.into());
                }
                fields.insert("route_config".into(), route);
            }
            fields.values_mut().try_for_each(|field| inline_routes(field, routes))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

fn type_is(fields: &Map<String, Value>, message: &str) -> bool {
    let name = fields.get("@type").and_then(Value::as_str).and_then(|kind| kind.rsplit('.').next());
    name == Some(message)
}

/// Turns references to secrets of the control plane into references to static secrets, and says
/// which.
fn localize_secrets(value: &mut Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| localize_secrets(item, names)),
        Value::Object(fields) => {
            let remote = field_mut(fields, "sds_config").is_some_and(|source| is_remote(source));
            let name = fields.get("name").and_then(Value::as_str).map(str::to_owned);
            if let (true, Some(name)) = (remote, name) {
                take(fields, "sds_config");
                names.insert(name);
            }
            fields.values_mut().for_each(|field| localize_secrets(field, names));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn is_remote(source: &Value) -> bool {
    field(source, "ads").is_some()
        || field(source, "self").is_some()
        || field(source, "api_config_source").is_some()
}

/// The name of a field whose content would come from the control plane.
fn remote_source(value: &Value) -> Option<String> {
    match value {
        Value::Array(items) => items.iter().find_map(remote_source),
        Value::Object(fields) => fields.iter().find_map(|(key, field)| {
            let is_source = field.get("ads").is_some_and(Value::is_object)
                || self::field(field, "api_config_source").is_some_and(Value::is_object);
            if is_source { Some(key.clone()) } else { remote_source(field) }
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// Envoy writes `[redacted]` for sensitive text, and its base64 for sensitive bytes.
fn has_redaction(value: &Value) -> bool {
    match value {
        Value::String(text) => text == "[redacted]" || text == "W3JlZGFjdGVkXQ==",
        Value::Array(items) => items.iter().any(has_redaction),
        Value::Object(fields) => fields.values().any(has_redaction),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// A cluster that a gRPC client in the resource names and that will not be there; Envoy refuses
/// such a listener.
fn missing_grpc_cluster(value: &Value, known: &BTreeSet<String>) -> Option<String> {
    match value {
        Value::Array(items) => items.iter().find_map(|item| missing_grpc_cluster(item, known)),
        Value::Object(fields) => {
            let name = path(value, &["envoy_grpc", "cluster_name"]).and_then(Value::as_str);
            match name {
                Some(name) if !known.contains(name) => Some(name.to_owned()),
                _ => fields.values().find_map(|field| missing_grpc_cluster(field, known)),
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

fn matches_tls(chain: &Value) -> bool {
    path(chain, &["filter_chain_match", "transport_protocol"]).and_then(Value::as_str)
        == Some("tls")
}

fn is_plain_http(chain: &Value) -> bool {
    let mut filters = elements(chain, "filters").peekable();
    field(chain, "transport_socket").is_none()
        && filters.peek().is_some()
        && filters.all(|filter| {
            field(filter, "typed_config")
                .and_then(Value::as_object)
                .is_some_and(|config| type_is(config, "HttpConnectionManager"))
        })
}

#[cfg(test)]
#[path = "static_config_tests.rs"]
mod tests;
