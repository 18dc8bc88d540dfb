//! Where environment variables come from. Behind a trait, so that reading a configuration is a pure
//! function that tests feed with a map.

use std::collections::BTreeMap;

/// A set of environment variables.
pub trait Environment {
    /// The value of a variable; an empty one counts as set.
    fn get(&self, name: &str) -> Option<String>;

    /// The names of all variables, in any order.
    fn names(&self) -> Vec<String>;
}

/// The environment of this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn get(&self, name: &str) -> Option<String> {
        std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
    }

    fn names(&self) -> Vec<String> {
        std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect()
    }
}

impl Environment for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<String> {
        BTreeMap::get(self, name).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}
