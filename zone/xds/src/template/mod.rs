//! ProxyTemplate: what a user adds to a proxy's configuration and changes in it (Kuma:
//! pkg/xds/generator/modifications/v3).

mod codec;
mod listener;
mod merge;

use std::collections::BTreeMap;

use prost_types::Any;
use serde_json::Value;
use sunbear_model::{ResourceKey, document, matching};
use sunbear_proto::kuma::mesh::v1alpha1::{
    ProxyTemplate,
    proxy_template::{Conf, Modifications, modifications::Type},
};

use crate::{
    context::Context,
    issue::Issues,
    resources::{ResourceSet, ResourceType, XdsResource},
};

const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const LISTENER: &str = "envoy.config.listener.v3.Listener";
const ROUTES: &str = "envoy.config.route.v3.RouteConfiguration";
const VIRTUAL_HOST: &str = "envoy.config.route.v3.VirtualHost";
const FILTER: &str = "envoy.config.listener.v3.Filter";
const HTTP_FILTER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter";

/// Where a resource came from, as modifications name it.
pub(crate) mod origin {
    pub(crate) const ADMIN: &str = "admin";
    pub(crate) const GATEWAY: &str = "gateway";
    pub(crate) const TRACING: &str = "tracing";
    pub(super) const RAW: &str = "proxy-template-raw";
    pub(super) const MODIFICATION: &str = "proxy-template-modifications";
}

/// The template of a gateway.
pub(crate) struct Template {
    key: ResourceKey,
    gateway: bool,
    any_profile: bool,
    resources: Vec<(ResourceType, XdsResource)>,
    modifications: Vec<Modification>,
}

/// A modification, with its value read.
struct Modification {
    index: usize,
    kind: Kind,
    operation: Operation,
    /// Name of what is changed, or of what something is put beside.
    name: String,
    origin: String,
    /// Name of the listener or route configuration around it.
    within: String,
    value: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Cluster,
    Listener,
    NetworkFilter,
    HttpFilter,
    VirtualHost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Add,
    AddFirst,
    AddLast,
    AddBefore,
    AddAfter,
    Patch,
    Remove,
}

impl Modification {
    fn fits(&self, name: &str, origin: &str) -> bool {
        (self.name.is_empty() || self.name == name) && self.is_from(origin)
    }

    fn is_from(&self, origin: &str) -> bool {
        self.origin.is_empty() || self.origin == origin
    }

    fn is_within(&self, name: &str) -> bool {
        self.within.is_empty() || self.within == name
    }
}

impl Template {
    /// The template that selects the gateway, if a user made one.
    pub(crate) fn load(ctx: &Context<'_>, issues: &mut Issues) -> Option<Self> {
        let decoded = ctx.decode_all::<ProxyTemplate>("ProxyTemplate", issues);
        let candidates =
            decoded.iter().map(|(r, m)| (&**r, matching::matches_of(&m.selectors), (r, m)));
        let (resource, message) = matching::best(candidates, &ctx.dataplane)?;
        let conf = message.conf.clone().unwrap_or_default();
        Some(Self::read(resource.key.clone(), &conf, issues))
    }

    fn read(key: ResourceKey, conf: &Conf, issues: &mut Issues) -> Self {
        let imports = |name: &str| conf.imports.iter().any(|import| import == name);
        for (index, import) in conf.imports.iter().enumerate() {
            if !["gateway-proxy", "default-proxy"].contains(&import.as_str()) {
                let field = format!("conf.imports[{index}]");
                issues.left_out(&key, field, format!("unknown profile {import:?}"));
            }
        }
        let mut resources = Vec::new();
        for (index, raw) in conf.resources.iter().enumerate() {
            let field = format!("conf.resources[{index}].resource");
            match raw_resource(&raw.name, &raw.resource) {
                Ok((resource, unknown)) => {
                    resources.push(resource);
                    tell_unknown(&key, &field, &unknown, issues);
                }
                Err(reason) => issues.left_out(&key, field, reason),
            }
        }
        let mut modifications = Vec::new();
        for (index, modification) in conf.modifications.iter().enumerate() {
            let field = format!("conf.modifications[{index}]");
            match read_modification(index, modification) {
                Ok((modification, unknown)) => {
                    modifications.push(modification);
                    tell_unknown(&key, &field, &unknown, issues);
                }
                Err(reason) => issues.left_out(&key, field, reason),
            }
        }
        Self {
            gateway: imports("gateway-proxy"),
            any_profile: imports("gateway-proxy") || imports("default-proxy"),
            key,
            resources,
            modifications,
        }
    }

    /// Is the configuration of the gateway part of it? Without, a proxy has no listeners.
    pub(crate) fn has_gateway(&self) -> bool {
        self.gateway
    }

    /// Is the admin interface, and the like, part of it?
    pub(crate) fn has_base(&self) -> bool {
        self.any_profile
    }

    fn modifications(&self, kinds: &'static [Kind]) -> impl Iterator<Item = &Modification> {
        self.modifications.iter().filter(|m| kinds.contains(&m.kind))
    }

    /// Tells of something that the template as a whole led to.
    pub(crate) fn tell(&self, reason: impl Into<String>, issues: &mut Issues) {
        issues.left_out(&self.key, "conf", reason);
    }

    fn refuse(&self, modification: &Modification, reason: impl Into<String>, issues: &mut Issues) {
        let field = format!("conf.modifications[{}]", modification.index);
        issues.left_out(&self.key, field, reason);
    }

    /// Applies the template to what is no listener. `origin` tells where clusters came from. With
    /// `additions` new resources are added too: that is done once for each proxy.
    pub(crate) fn apply(
        &self,
        set: &mut ResourceSet,
        origin: impl Fn(&str) -> &'static str,
        additions: bool,
        issues: &mut Issues,
    ) {
        let mut origins: BTreeMap<String, &'static str> = BTreeMap::new();
        if additions {
            for (resource_type, resource) in &self.resources {
                if *resource_type != ResourceType::Listener {
                    set.insert(*resource_type, resource.clone());
                }
                if *resource_type == ResourceType::Cluster {
                    origins.insert(resource.name.clone(), origin::RAW);
                }
            }
        }
        for modification in self.modifications(&[Kind::Cluster]) {
            if modification.operation == Operation::Add {
                if additions && let Some(name) = self.add(set, modification, issues) {
                    origins.insert(name, origin::MODIFICATION);
                }
                continue;
            }
            let names: Vec<String> = set.names(ResourceType::Cluster).map(str::to_owned).collect();
            for name in names {
                let origin = origins.get(&name).copied().unwrap_or_else(|| origin(&name));
                if modification.fits(&name, origin) {
                    self.change_cluster(set, &name, modification, issues);
                }
            }
        }
        // Gateways have their virtual hosts in route configurations of their own (D-16).
        let names: Vec<String> = set.names(ResourceType::Route).map(str::to_owned).collect();
        for name in names {
            let fitting: Vec<&Modification> = self
                .modifications(&[Kind::VirtualHost])
                .filter(|m| m.is_from(origin::GATEWAY) && m.is_within(&name))
                .collect();
            if !fitting.is_empty() {
                self.change_routes(set, &name, &fitting, issues);
            }
        }
    }

    fn add(
        &self,
        set: &mut ResourceSet,
        modification: &Modification,
        issues: &mut Issues,
    ) -> Option<String> {
        let name = modification.value.get("name").and_then(Value::as_str).unwrap_or_default();
        if name.is_empty() {
            self.refuse(modification, "a cluster needs a name", issues);
            return None;
        }
        match packed(name, ResourceType::Cluster, CLUSTER, &modification.value) {
            Ok(resource) => set.insert(ResourceType::Cluster, resource),
            Err(reason) => self.refuse(modification, reason, issues),
        }
        Some(name.to_owned())
    }

    fn change_cluster(
        &self,
        set: &mut ResourceSet,
        name: &str,
        modification: &Modification,
        issues: &mut Issues,
    ) {
        if modification.operation == Operation::Remove {
            set.remove(ResourceType::Cluster, name);
            return;
        }
        let Some(cluster) = set.get(ResourceType::Cluster, name) else { return };
        let changed = codec::write(CLUSTER, &cluster.any.value).and_then(|mut json| {
            merge::merge(CLUSTER, &mut json, &modification.value);
            packed(name, ResourceType::Cluster, CLUSTER, &json)
        });
        match changed {
            Ok(changed) => set.insert(ResourceType::Cluster, changed),
            Err(reason) => self.refuse(modification, reason, issues),
        }
    }

    fn change_routes(
        &self,
        set: &mut ResourceSet,
        name: &str,
        modifications: &[&Modification],
        issues: &mut Issues,
    ) {
        let Some(config) = set.get(ResourceType::Route, name) else { return };
        let changed = codec::write(ROUTES, &config.any.value).and_then(|mut json| {
            for modification in modifications {
                change_virtual_hosts(&mut json, modification);
            }
            packed(name, ResourceType::Route, ROUTES, &json)
        });
        match changed {
            Ok(changed) => set.insert(ResourceType::Route, changed),
            Err(reason) => self.refuse(modifications[0], reason, issues),
        }
    }
}

/// Changes the virtual hosts of a route configuration in JSON form.
fn change_virtual_hosts(config: &mut Value, modification: &Modification) {
    let Some(config) = config.as_object_mut() else { return };
    let hosts = config.entry("virtualHosts").or_insert_with(|| Value::Array(Vec::new()));
    let Some(hosts) = hosts.as_array_mut() else { return };
    let named = |host: &Value| {
        let name = host.get("name").and_then(Value::as_str).unwrap_or_default();
        modification.name.is_empty() || modification.name == name
    };
    match modification.operation {
        Operation::Add => hosts.push(modification.value.clone()),
        Operation::Remove => hosts.retain(|host| !named(host)),
        Operation::Patch => {
            for host in hosts.iter_mut().filter(|host| named(host)) {
                merge::merge(VIRTUAL_HOST, host, &modification.value);
            }
        }
        Operation::AddFirst | Operation::AddLast | Operation::AddBefore | Operation::AddAfter => {}
    }
}

fn tell_unknown(key: &ResourceKey, field: &str, unknown: &[String], issues: &mut Issues) {
    for path in unknown {
        issues.left_out(key, field, format!("unknown field {path}"));
    }
}

/// Packs the JSON form of a message.
fn packed(
    name: &str,
    resource_type: ResourceType,
    message: &str,
    value: &Value,
) -> Result<XdsResource, String> {
    let wire = codec::read(message, value)?.wire;
    Ok(XdsResource::from_any(
        name,
        Any { type_url: resource_type.type_url().to_owned(), value: wire },
    ))
}

/// Reads the YAML text of a message.
fn parse(text: &str) -> Result<Value, String> {
    if text.trim().is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    let (mut documents, errors) = document::parse("value", text, &BTreeMap::new());
    match (errors.into_iter().next(), documents.pop()) {
        (Some(error), _) => Err(error.message),
        (None, Some(document)) if documents.is_empty() => Ok(document.value),
        (None, Some(_)) => Err("more than one document".to_owned()),
        (None, None) => Ok(Value::Object(serde_json::Map::new())),
    }
}

type RawResource = ((ResourceType, XdsResource), Vec<String>);

fn raw_resource(name: &str, text: &str) -> Result<RawResource, String> {
    let value = parse(text)?;
    let url = value.get("@type").and_then(Value::as_str).ok_or("\"@type\" is missing")?;
    let resource_type =
        ResourceType::from_type_url(url).ok_or_else(|| format!("unknown type {url:?}"))?;
    let message = url.rsplit('/').next().unwrap_or_default().to_owned();
    let mut fields = value.as_object().cloned().unwrap_or_default();
    fields.remove("@type");
    let decoded = codec::read(&message, &Value::Object(fields))?;
    let any = Any { type_url: url.to_owned(), value: decoded.wire };
    Ok(((resource_type, XdsResource::from_any(name, any)), decoded.unknown))
}

fn read_modification(
    index: usize,
    modification: &Modifications,
) -> Result<(Modification, Vec<String>), String> {
    let empty = String::new;
    let (kind, message, operation, text, name, origin, within, tagged) = match modification
        .r#type
        .as_ref()
        .ok_or("nothing is chosen")?
    {
        Type::Cluster(m) => {
            let w = m.r#match.clone().unwrap_or_default();
            (Kind::Cluster, CLUSTER, &m.operation, &m.value, w.name, w.origin, empty(), false)
        }
        Type::Listener(m) => {
            let w = m.r#match.clone().unwrap_or_default();
            let tagged = !w.tags.is_empty();
            (Kind::Listener, LISTENER, &m.operation, &m.value, w.name, w.origin, empty(), tagged)
        }
        Type::NetworkFilter(m) => {
            let w = m.r#match.clone().unwrap_or_default();
            let tagged = !w.listener_tags.is_empty();
            let (operation, value) = (&m.operation, &m.value);
            (
                Kind::NetworkFilter,
                FILTER,
                operation,
                value,
                w.name,
                w.origin,
                w.listener_name,
                tagged,
            )
        }
        Type::HttpFilter(m) => {
            let w = m.r#match.clone().unwrap_or_default();
            let tagged = !w.listener_tags.is_empty();
            let (operation, value) = (&m.operation, &m.value);
            (
                Kind::HttpFilter,
                HTTP_FILTER,
                operation,
                value,
                w.name,
                w.origin,
                w.listener_name,
                tagged,
            )
        }
        Type::VirtualHost(m) => {
            let w = m.r#match.clone().unwrap_or_default();
            let (operation, value) = (&m.operation, &m.value);
            let within = w.route_configuration_name;
            (Kind::VirtualHost, VIRTUAL_HOST, operation, value, w.name, w.origin, within, false)
        }
    };
    if tagged {
        return Err("listeners of gateways have no tags to match".to_owned());
    }
    let operation = operation_of(kind, operation)?;
    // In the form that this program writes, whatever way the user spelled it.
    let decoded = codec::read(message, &parse(text)?)?;
    let value = codec::write(message, &decoded.wire)?;
    let modification = Modification { index, kind, operation, name, origin, within, value };
    Ok((modification, decoded.unknown))
}

fn operation_of(kind: Kind, name: &str) -> Result<Operation, String> {
    let filter = matches!(kind, Kind::NetworkFilter | Kind::HttpFilter);
    Ok(match name {
        "patch" => Operation::Patch,
        "remove" => Operation::Remove,
        "add" if !filter => Operation::Add,
        "addFirst" if filter => Operation::AddFirst,
        "addLast" if filter => Operation::AddLast,
        "addBefore" if filter => Operation::AddBefore,
        "addAfter" if filter => Operation::AddAfter,
        other => return Err(format!("invalid operation {other:?}")),
    })
}
