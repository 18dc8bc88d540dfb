//! Changes of listeners, their network filters and HTTP filters.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Kind, LISTENER, Modification, Operation, Template, change_virtual_hosts, codec, merge, origin,
    packed,
};
use crate::{
    issue::Issues,
    resources::{ResourceSet, ResourceType},
};

const MANAGER: &str = "envoy.filters.network.http_connection_manager";

/// Listeners in JSON form, with their origins.
struct Listeners(BTreeMap<String, (&'static str, Value)>);

impl Template {
    /// Does it change listeners, or add any?
    pub(crate) fn touches_listeners(&self) -> bool {
        self.modifications(&[Kind::Listener, Kind::NetworkFilter, Kind::HttpFilter])
            .next()
            .is_some()
            || self.modifications(&[Kind::VirtualHost]).next().is_some()
            || self.resources.iter().any(|(t, _)| *t == ResourceType::Listener)
    }

    /// Applies the template to the listeners of a set. `origin` tells where they came from.
    pub(crate) fn apply_to_listeners(
        &self,
        set: &mut ResourceSet,
        origin: impl Fn(&str) -> &'static str,
        issues: &mut Issues,
    ) {
        let raw = self.resources.iter().filter(|(t, _)| *t == ResourceType::Listener);
        let raw: Vec<&str> = raw
            .map(|(resource_type, resource)| {
                set.insert(*resource_type, resource.clone());
                resource.name.as_str()
            })
            .collect();
        let origin = |name: &str| if raw.contains(&name) { origin::RAW } else { origin(name) };
        let mut listeners = Listeners::read(set, origin);
        for modification in &self.modifications {
            if let Err(reason) = listeners.apply(modification) {
                self.refuse(modification, reason, issues);
            }
        }
        let names: Vec<String> = set.names(ResourceType::Listener).map(str::to_owned).collect();
        for name in names.iter().filter(|name| !listeners.0.contains_key(*name)) {
            set.remove(ResourceType::Listener, name);
        }
        for (name, (_, value)) in &listeners.0 {
            match packed(name, ResourceType::Listener, LISTENER, value) {
                Ok(listener) => set.insert(ResourceType::Listener, listener),
                Err(reason) => issues.left_out(&self.key, "conf.modifications", reason),
            }
        }
    }
}

impl Listeners {
    fn read(set: &ResourceSet, origin: impl Fn(&str) -> &'static str) -> Self {
        let json = |wire: &[u8]| codec::write(LISTENER, wire).unwrap_or_default();
        let listeners = set.iter(ResourceType::Listener);
        Self(listeners.map(|l| (l.name.clone(), (origin(&l.name), json(&l.any.value)))).collect())
    }

    fn apply(&mut self, modification: &Modification) -> Result<(), String> {
        match modification.kind {
            Kind::Listener => self.apply_to_whole(modification),
            Kind::NetworkFilter => {
                for listener in self.around(modification) {
                    for chain in list(listener, "filterChains") {
                        let filters = list(chain, "filters");
                        change_filters(filters, modification, filters.len())?;
                    }
                }
                Ok(())
            }
            Kind::HttpFilter => {
                for listener in self.around(modification) {
                    for manager in managers(listener) {
                        let filters = list(manager, "httpFilters");
                        // Nothing can stand behind the filter that forwards.
                        let last = filters.iter().rposition(is_router).unwrap_or(filters.len());
                        change_filters(filters, modification, last)?;
                    }
                }
                Ok(())
            }
            Kind::VirtualHost => {
                let listeners =
                    self.0.values_mut().filter(|(origin, _)| modification.is_from(origin));
                for manager in listeners.flat_map(|(_, listener)| managers(listener)) {
                    let Some(config) = manager.get_mut("routeConfig") else { continue };
                    let name = config.get("name").and_then(Value::as_str).unwrap_or_default();
                    if modification.is_within(name) {
                        change_virtual_hosts(config, modification);
                    }
                }
                Ok(())
            }
            Kind::Cluster => Ok(()),
        }
    }

    fn apply_to_whole(&mut self, modification: &Modification) -> Result<(), String> {
        match modification.operation {
            Operation::Add => {
                let name =
                    modification.value.get("name").and_then(Value::as_str).unwrap_or_default();
                if name.is_empty() {
                    return Err("a listener needs a name".to_owned());
                }
                let added = (origin::MODIFICATION, modification.value.clone());
                self.0.insert(name.to_owned(), added);
            }
            Operation::Remove => {
                self.0.retain(|name, (origin, _)| !modification.fits(name, origin));
            }
            Operation::Patch => {
                for (name, (origin, listener)) in &mut self.0 {
                    if modification.fits(name, origin) {
                        merge::merge(LISTENER, listener, &modification.value);
                    }
                }
            }
            Operation::AddFirst
            | Operation::AddLast
            | Operation::AddBefore
            | Operation::AddAfter => {}
        }
        Ok(())
    }

    /// The listeners that the filters of a modification are in.
    fn around(&mut self, modification: &Modification) -> impl Iterator<Item = &mut Value> {
        self.0
            .iter_mut()
            .filter(|(name, (origin, _))| {
                modification.is_from(origin) && modification.is_within(name)
            })
            .map(|(_, (_, listener))| listener)
    }
}

/// A list in an object, which comes into being if it is not there.
fn list<'v>(value: &'v mut Value, key: &str) -> &'v mut Vec<Value> {
    if !value.is_object() {
        *value = Value::Object(serde_json::Map::new());
    }
    let item = &mut value[key];
    if !item.is_array() {
        *item = Value::Array(Vec::new());
    }
    #[expect(clippy::expect_used, reason = "made a list above")]
    item.as_array_mut().expect("a list")
}

/// The connection managers of a listener.
fn managers(listener: &mut Value) -> impl Iterator<Item = &mut Value> {
    list(listener, "filterChains")
        .iter_mut()
        .flat_map(|chain| list(chain, "filters"))
        .filter(|filter| filter["name"] == MANAGER)
        .filter_map(|filter| filter.get_mut("typedConfig"))
}

fn is_router(filter: &Value) -> bool {
    filter["typedConfig"]["@type"]
        .as_str()
        .is_some_and(|url| url.ends_with("envoy.extensions.filters.http.router.v3.Router"))
}

/// Changes a list of filters; `last` is where the last one is to be put.
fn change_filters(
    filters: &mut Vec<Value>,
    modification: &Modification,
    last: usize,
) -> Result<(), String> {
    let name = |filter: &Value| filter["name"].as_str().unwrap_or_default().to_owned();
    let beside = filters.iter().position(|filter| name(filter) == modification.name);
    let fits = |filter: &Value| modification.name.is_empty() || name(filter) == modification.name;
    let added = || modification.value.clone();
    match (modification.operation, beside) {
        (Operation::AddFirst, _) => filters.insert(0, added()),
        (Operation::AddLast, _) => filters.insert(last, added()),
        (Operation::AddBefore, Some(index)) => filters.insert(index, added()),
        (Operation::AddAfter, Some(index)) => filters.insert(index + 1, added()),
        (Operation::Remove, _) => filters.retain(|filter| !fits(filter)),
        (Operation::Patch, _) => {
            let Some(patch) = modification.value.get("typedConfig") else { return Ok(()) };
            for filter in filters.iter_mut().filter(|filter| fits(filter)) {
                merge::merge_any(&mut filter["typedConfig"], patch)?;
            }
        }
        (Operation::AddBefore | Operation::AddAfter, None) | (Operation::Add, _) => {}
    }
    Ok(())
}
