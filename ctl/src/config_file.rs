//! The file of known control planes. It is `kumactl`'s, and both programs may use one together.
//!
//! Kuma: pkg/config/app/kumactl/v1alpha1/config.proto

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{files, output};

/// The address where a control plane on this host serves.
pub(crate) const LOCAL: &str = "http://localhost:5681";

/// Content of the file. Fields are in the order in which `kumactl` writes them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Configuration {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) contexts: Vec<Context>,
    #[serde(alias = "control_planes", skip_serializing_if = "Vec::is_empty")]
    pub(crate) control_planes: Vec<ControlPlane>,
    #[serde(alias = "current_context", skip_serializing_if = "String::is_empty")]
    pub(crate) current_context: String,
}

/// A choice that can be made by its name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Context {
    #[serde(alias = "control_plane", skip_serializing_if = "String::is_empty")]
    pub(crate) control_plane: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) defaults: Option<Defaults>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
}

/// Kept, and without effect, as in `kumactl`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Defaults {
    #[serde(skip_serializing_if = "String::is_empty")]
    mesh: String,
}

/// A control plane.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ControlPlane {
    pub(crate) coordinates: Coordinates,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
}

/// Where it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Coordinates {
    #[serde(alias = "api_server")]
    pub(crate) api_server: ApiServer,
}

/// How to reach its API.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct ApiServer {
    #[serde(alias = "auth_conf", skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) auth_conf: BTreeMap<String, String>,
    #[serde(alias = "auth_type", skip_serializing_if = "String::is_empty")]
    pub(crate) auth_type: String,
    #[serde(alias = "ca_cert_file", skip_serializing_if = "String::is_empty")]
    pub(crate) ca_cert_file: String,
    #[serde(alias = "client_cert_file", skip_serializing_if = "String::is_empty")]
    pub(crate) client_cert_file: String,
    #[serde(alias = "client_key_file", skip_serializing_if = "String::is_empty")]
    pub(crate) client_key_file: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) headers: Vec<Header>,
    #[serde(alias = "skip_verify", skip_serializing_if = "std::ops::Not::not")]
    pub(crate) skip_verify: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) url: String,
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer").field("url", &self.url).finish_non_exhaustive()
    }
}

/// A header of every request.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Header {
    pub(crate) key: String,
    pub(crate) value: String,
}

impl Configuration {
    /// What counts when there is no file.
    pub(crate) fn usual() -> Self {
        let mut configuration = Self::default();
        configuration.put(ControlPlane {
            name: "local".to_owned(),
            coordinates: Coordinates {
                api_server: ApiServer { url: LOCAL.to_owned(), ..ApiServer::default() },
            },
        });
        configuration
    }

    /// Reads the file; one that does not exist says the usual.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::usual()),
            Err(error) => {
                return Err(error).with_context(|| format!("reading {}", path.display()));
            }
        };
        Self::parse(&text).with_context(|| format!("reading {}", path.display()))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let mut value: Value = serde_saphyr::from_str(text)?;
        if value.is_null() {
            return Ok(Self::default());
        }
        without_nulls(&mut value);
        Ok(serde_json::from_value(value)?)
    }

    /// Writes the file, and its folder if that is missing.
    pub(crate) fn save(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        files::write_private(path, self.yaml()?.as_bytes())
    }

    /// The file's text.
    pub(crate) fn yaml(&self) -> anyhow::Result<String> {
        output::yaml(&serde_json::to_value(self)?)
    }

    pub(crate) fn control_plane(&self, name: &str) -> Option<&ControlPlane> {
        self.control_planes.iter().find(|cp| cp.name == name)
    }

    pub(crate) fn context(&self, name: &str) -> Option<&Context> {
        self.contexts.iter().find(|context| context.name == name)
    }

    /// The control plane in use.
    pub(crate) fn current(&self) -> Option<&ControlPlane> {
        self.control_plane(&self.context(&self.current_context)?.control_plane)
    }

    /// The control plane of a context or, as `kumactl` has it, of that name itself.
    pub(crate) fn chosen(&self, name: &str) -> Option<&ControlPlane> {
        let name = self.context(name).map_or(name, |context| &context.control_plane);
        self.control_plane(name)
    }

    /// Adds or replaces a control plane with a context of the same name, and makes it the current one.
    pub(crate) fn put(&mut self, control_plane: ControlPlane) {
        let name = control_plane.name.clone();
        let context = Context { name: name.clone(), control_plane: name.clone(), defaults: None };
        replace(&mut self.control_planes, control_plane, |cp| cp.name == name);
        replace(&mut self.contexts, context, |context| context.name == name);
        self.current_context = name;
    }

    /// Removes a control plane and its contexts. If one of them was current, the first that is left
    /// becomes it.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let before = self.control_planes.len();
        self.control_planes.retain(|cp| cp.name != name);
        self.contexts.retain(|context| context.control_plane != name);
        if self.context(&self.current_context).is_none() {
            self.current_context =
                self.contexts.first().map(|context| context.name.clone()).unwrap_or_default();
        }
        self.control_planes.len() < before
    }
}

fn replace<T>(list: &mut Vec<T>, item: T, same: impl Fn(&T) -> bool) {
    match list.iter_mut().find(|other| same(other)) {
        Some(other) => *other = item,
        None => list.push(item),
    }
}

/// An absent value may be written as null.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(without_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Where the file is: what the user says, else `.kumactl/config` in the home folder.
pub(crate) fn path(given: Option<&Path>, home: Option<&Path>) -> Option<PathBuf> {
    given.map(Path::to_owned).or_else(|| home.map(|home| home.join(".kumactl/config")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control_plane(name: &str) -> ControlPlane {
        ControlPlane { name: name.to_owned(), ..ControlPlane::default() }
    }

    #[test]
    fn both_spellings_are_read_and_one_is_written() {
        let text = "contexts:\n- controlPlane: a\n  defaults:\n    mesh: demo\n  name: a\n\
                    controlPlanes:\n- coordinates:\n    apiServer:\n      authConf:\n        token: t\n      \
                    authType: tokens\n      headers:\n      - key: k\n        value: v\n      skipVerify: true\n      \
                    url: https://a:5682\n  name: a\ncurrentContext: a\n";
        let original = "control_planes:\n- name: a\n  coordinates:\n    api_server:\n      url: https://a:5682\n      \
                        skip_verify: true\n      auth_type: tokens\n      auth_conf: {token: t}\n      \
                        headers: [{key: k, value: v}]\n      ca_cert_file:\n\
                        contexts:\n- {name: a, control_plane: a, defaults: {mesh: demo}}\ncurrent_context: a\n";
        let configuration = Configuration::parse(original).unwrap();
        assert_eq!(Configuration::parse(text).unwrap(), configuration);
        let written = configuration.yaml().unwrap();
        assert_eq!(Configuration::parse(&written).unwrap(), configuration);
        let order = |text: &str| -> Vec<String> {
            text.lines().map(|l| l.trim_start_matches([' ', '-']).to_owned()).collect()
        };
        assert_eq!(order(&written), order(text));
        assert!(!format!("{configuration:?}").contains("token"));
    }

    #[test]
    fn wrong_files() {
        assert_eq!(Configuration::parse("").unwrap(), Configuration::default());
        assert_eq!(Configuration::parse("# nothing\n").unwrap(), Configuration::default());
        for (text, want) in [
            ("contxts: []", "unknown field `contxts`"),
            ("contexts: 1", "invalid type"),
            ("a: [", ""),
        ] {
            let error = Configuration::parse(text).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn life() {
        let mut configuration = Configuration::usual();
        assert_eq!(configuration.current().unwrap().coordinates.api_server.url, LOCAL);
        configuration.put(control_plane("a"));
        configuration.put(control_plane("b"));
        configuration.put(control_plane("a"));
        assert_eq!(configuration.control_planes.len(), 3);
        assert_eq!(configuration.current_context, "a");
        assert!(configuration.remove("a"));
        assert!(!configuration.remove("a"));
        assert_eq!(configuration.current_context, "local");
        assert!(configuration.remove("b"));
        assert_eq!(configuration.current_context, "local");
        assert!(configuration.remove("local"));
        assert!(configuration.current().is_none());
        assert_eq!(configuration, Configuration::default());
    }

    #[test]
    fn a_context_or_a_control_plane_is_chosen() {
        let mut configuration = Configuration::usual();
        configuration.contexts.push(Context {
            name: "here".to_owned(),
            control_plane: "local".to_owned(),
            defaults: None,
        });
        assert_eq!(configuration.chosen("here").unwrap().name, "local");
        assert_eq!(configuration.chosen("local").unwrap().name, "local");
        assert!(configuration.chosen("there").is_none());
    }
}
