//! What can be wrong with a configuration. All errors are collected, so that one run shows them all.

use std::fmt;

/// Where a value came from, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The key's default.
    Default,
    /// The configuration file.
    File,
    /// The named environment variable.
    Environment(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File => f.write_str("configuration file"),
            Source::Environment(name) => write!(f, "environment variable {name}"),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("could not read the configuration file {path}: {reason}")]
    Unreadable {
        /// Path of the file.
        path: String,
        /// What the operating system says.
        reason: String,
    },
    /// The file is not YAML.
    #[error("the configuration file is not valid YAML: {0}")]
    Yaml(String),
    /// The file has a key that does not exist.
    #[error("unknown key {path}{}", nearest.as_ref().map(|near| format!(", did you mean {near}?")).unwrap_or_default())]
    UnknownKey {
        /// The key as written.
        path: String,
        /// The known key most like it.
        nearest: Option<String>,
    },
    /// The file has something else where a section is expected.
    #[error("{path} must be a section with keys, not {found}")]
    NotASection {
        /// The section.
        path: String,
        /// What is there.
        found: String,
    },
    /// A value has the wrong type.
    #[error("{path} ({origin}) must be {expected}, {found}")]
    WrongType {
        /// The key.
        path: String,
        /// Where the value was given.
        origin: Source,
        /// What is expected.
        expected: &'static str,
        /// What is there, or why that does not fit.
        found: String,
    },
    /// A value has the right type and makes no sense.
    #[error("{path} ({origin}) {reason}")]
    Invalid {
        /// The key.
        path: String,
        /// Where the value was given.
        origin: Source,
        /// Why it makes no sense; follows the key's name in a sentence.
        reason: String,
    },
}

/// Everything that is wrong, never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub(crate) Vec<ConfigError>);

impl ConfigErrors {
    /// The single errors, in the order of the file and the table.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => write!(f, "invalid configuration: {one}"),
            many => {
                write!(f, "invalid configuration, {} errors:", many.len())?;
                many.iter().try_for_each(|error| write!(f, "\n  - {error}"))
            }
        }
    }
}

impl std::error::Error for ConfigErrors {}
