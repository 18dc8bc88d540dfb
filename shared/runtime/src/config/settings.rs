//! Reading: defaults, then the file, then the environment, into a flat map from path to value.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value as Json;

use super::duration;
use super::environment::Environment;
use super::error::{ConfigError, ConfigErrors, Source};
use super::ignored::{FOREIGN, IGNORED};
use super::keys::{Key, Kind, keys, sunbear_name};

/// What stands in for a secret wherever a configuration is shown.
pub const MASK: &str = "*****";

/// The value of a key.
#[derive(Clone, PartialEq)]
pub enum Value {
    /// See [`Kind::Text`].
    Text(String),
    /// See [`Kind::Flag`].
    Flag(bool),
    /// See [`Kind::Number`].
    Number(i64),
    /// See [`Kind::Span`].
    Span(Duration),
    /// See [`Kind::List`].
    List(Vec<String>),
    /// See [`Kind::Tree`].
    Tree(Json),
}

/// One effective key: definition, value and where the value came from.
#[derive(Clone)]
pub struct Setting {
    /// The definition.
    pub key: &'static Key,
    /// The effective value.
    pub value: Value,
    /// Where it came from.
    pub source: Source,
}

/// The effective value of every key. Holds secrets, and therefore has no `Debug`.
#[derive(Clone)]
pub struct Settings {
    by_path: BTreeMap<&'static str, Setting>,
}

/// What the operator should know about a configuration that is nevertheless valid.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notices {
    /// Keys and variables of Kuma that are set and have no effect here.
    pub ignored: Vec<String>,
    /// `KUMA_*` and `SUNBEAR_*` variables that nobody knows, with the known one most like it.
    pub unknown_variables: Vec<(String, Option<String>)>,
}

impl Notices {
    /// Logs them. Separate from reading, because logging is configured by what was read.
    pub fn log(&self) {
        if !self.ignored.is_empty() {
            tracing::info!(
                keys = self.ignored.join(", "),
                "configuration keys without effect here"
            );
        }
        for (name, nearest) in &self.unknown_variables {
            let nearest = nearest.as_deref().unwrap_or("none");
            tracing::warn!(variable = name, nearest, "unknown environment variable");
        }
    }
}

impl Settings {
    /// Reads a configuration. `yaml` is the text of the file, if there is one.
    pub fn read(
        yaml: Option<&str>,
        environment: &dyn Environment,
    ) -> Result<(Self, Notices), ConfigErrors> {
        let mut reading = Reading {
            settings: Self::defaults(),
            notices: Notices::default(),
            ignored: BTreeSet::new(),
            errors: Vec::new(),
        };
        if let Some(text) = yaml {
            reading.file(text);
        }
        reading.environment(environment);
        let Reading { settings, mut notices, ignored, errors } = reading;
        if !errors.is_empty() {
            return Err(ConfigErrors(errors));
        }
        notices.ignored = ignored.into_iter().collect();
        Ok((settings, notices))
    }

    /// Every key at its default.
    pub fn defaults() -> Self {
        let by_path = keys()
            .map(|key| {
                let value = match key.kind {
                    Kind::Text(text) => Value::Text(text.to_owned()),
                    Kind::Flag(flag) => Value::Flag(flag),
                    Kind::Number(number) => Value::Number(number),
                    Kind::Span(span) => Value::Span(span),
                    Kind::List(items) => {
                        Value::List(items.iter().map(|&item| item.to_owned()).collect())
                    }
                    Kind::Tree => Value::Tree(Json::Array(Vec::new())),
                };
                (key.path, Setting { key, value, source: Source::Default })
            })
            .collect();
        Self { by_path }
    }

    /// The setting of a key.
    pub fn get(&self, path: &str) -> Option<&Setting> {
        self.by_path.get(path)
    }

    /// Replaces the value of a text key and keeps its source; for values that are derived from
    /// others.
    pub(crate) fn derive_text(&mut self, path: &str, text: impl Into<String>) {
        if let Some(setting) = self.by_path.get_mut(path) {
            setting.value = Value::Text(text.into());
        }
    }

    /// The effective configuration as a JSON tree with Kuma's key names; secrets are masked.
    pub fn dump(&self) -> Json {
        let mut root = Json::Object(serde_json::Map::new());
        for (path, setting) in &self.by_path {
            insert(&mut root, path, shown(setting));
        }
        root
    }

    /// As [`Settings::dump`], for the `config` metadata of KDS. Kuma's global knows no SQLite, and
    /// `postgres` is what it takes for a zone with a database of its own.
    pub fn dump_for_kds(&self) -> Json {
        let mut root = self.dump();
        if let Some(kind) = root.pointer_mut("/store/type")
            && kind == "sqlite"
        {
            *kind = Json::from("postgres");
        }
        root
    }
}

struct Reading {
    settings: Settings,
    notices: Notices,
    /// Ordered and without repetition, as a section may be ignored through many of its keys.
    ignored: BTreeSet<String>,
    errors: Vec<ConfigError>,
}

impl Reading {
    fn file(&mut self, text: &str) {
        // An empty or comment-only file is an empty configuration.
        let document = match serde_saphyr::from_str::<Option<Json>>(text) {
            Ok(document) => document.unwrap_or(Json::Null),
            Err(error) => return self.errors.push(ConfigError::Yaml(error.to_string())),
        };
        self.section("", &document);
    }

    /// Walks one mapping. Names are compared without case, as Go's decoder does.
    fn section(&mut self, prefix: &str, value: &Json) {
        let Json::Object(entries) = value else {
            if !value.is_null() {
                let path = if prefix.is_empty() { "the configuration" } else { prefix };
                self.errors.push(ConfigError::NotASection {
                    path: path.to_owned(),
                    found: describe(value).to_owned(),
                });
            }
            return;
        };
        for (name, value) in entries {
            let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            if let Some(key) = keys().find(|key| key.path.eq_ignore_ascii_case(&path)) {
                self.file_value(key, value);
            } else if let Some(ignored) =
                IGNORED.iter().find(|ignored| ignored.path.eq_ignore_ascii_case(&path))
            {
                if !value.is_null() {
                    self.ignored.insert(ignored.path.to_owned());
                }
            } else if is_section(&path) {
                self.section(&path, value);
            } else {
                let known: Vec<&'static str> = keys()
                    .map(|key| key.path)
                    .chain(IGNORED.iter().map(|ignored| ignored.path))
                    .collect();
                let nearest = nearest(&path, &known).or_else(|| same_last_segment(&path, &known));
                self.errors.push(ConfigError::UnknownKey { path, nearest });
            }
        }
    }

    fn file_value(&mut self, key: &'static Key, value: &Json) {
        if value.is_null() {
            return;
        }
        match from_json(key.kind, value) {
            Ok(value) => self.set(key, value, Source::File),
            Err(found) => self.errors.push(ConfigError::WrongType {
                path: key.path.to_owned(),
                origin: Source::File,
                expected: key.kind.expected(),
                found: hide(key, found),
            }),
        }
    }

    fn environment(&mut self, environment: &dyn Environment) {
        for key in keys() {
            let Some(kuma) = key.env else { continue };
            let ours = sunbear_name(kuma);
            // Ours wins, so that a Kuma environment can be overridden without editing it.
            let Some((name, text)) = [ours.as_str(), kuma]
                .into_iter()
                .find_map(|name| Some((name, environment.get(name)?)))
            else {
                continue;
            };
            // An empty variable can only mean something for texts and lists.
            if text.is_empty() && !matches!(key.kind, Kind::Text(_) | Kind::List(_)) {
                continue;
            }
            let source = Source::Environment(name.to_owned());
            match from_text(key.kind, &text) {
                Ok(value) => self.set(key, value, source),
                Err(found) => self.errors.push(ConfigError::WrongType {
                    path: key.path.to_owned(),
                    origin: source,
                    expected: key.kind.expected(),
                    found: hide(key, found),
                }),
            }
        }
        self.other_variables(environment);
    }

    /// Finds variables that look like ours and are not.
    fn other_variables(&mut self, environment: &dyn Environment) {
        let mut names = environment.names();
        names.sort_unstable();
        for name in names {
            let kuma = match name.strip_prefix("SUNBEAR_") {
                Some(rest) => format!("KUMA_{rest}"),
                None if name.starts_with("KUMA_") => name.clone(),
                None => continue,
            };
            let known = keys().any(|key| key.env == Some(&kuma));
            if known
                || FOREIGN.iter().any(|foreign| kuma.starts_with(foreign))
                || of_kubernetes(&name, environment)
            {
                continue;
            }
            let is_ignored = IGNORED.iter().any(|ignored| {
                kuma == ignored.env || (ignored.env.ends_with('_') && kuma.starts_with(ignored.env))
            });
            if is_ignored {
                self.ignored.insert(name);
                continue;
            }
            let known: Vec<&'static str> = keys().filter_map(|key| key.env).collect();
            let nearest = nearest(&kuma, &known)
                .map(|near| if name.starts_with("SUNBEAR_") { sunbear_name(&near) } else { near });
            self.notices.unknown_variables.push((name, nearest));
        }
    }

    fn set(&mut self, key: &'static Key, value: Value, source: Source) {
        if !key.has_effect {
            self.ignored.insert(match &source {
                Source::Environment(name) => name.clone(),
                Source::File | Source::Default => key.path.to_owned(),
            });
        }
        self.settings.by_path.insert(key.path, Setting { key, value, source });
    }
}

/// Kubernetes gives every container variables for each service of its namespace.
fn of_kubernetes(name: &str, environment: &dyn Environment) -> bool {
    let links = |value: String| value.starts_with("tcp://") || value.starts_with("udp://");
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.contains("_PORT_") && (name.contains("_TCP") || name.contains("_UDP")))
        || (name.ends_with("_PORT") && environment.get(name).is_some_and(links))
}

fn is_section(path: &str) -> bool {
    let begins = |known: &str| {
        known.len() > path.len()
            && known.as_bytes().get(path.len()) == Some(&b'.')
            && known.get(..path.len()).is_some_and(|head| head.eq_ignore_ascii_case(path))
    };
    keys().any(|key| begins(key.path)) || IGNORED.iter().any(|ignored| begins(ignored.path))
}

/// Values of secrets must not show up in errors either.
fn hide(key: &Key, found: String) -> String {
    if key.secret { "not something else".to_owned() } else { found }
}

/// Reads a value of the file. The error says what is there.
fn from_json(kind: Kind, value: &Json) -> Result<Value, String> {
    match (kind, value) {
        (Kind::Text(_), Json::String(text)) => Ok(Value::Text(text.clone())),
        (Kind::Text(_), Json::Number(number)) => {
            Err(format!("not the number {number}; put it in quotes"))
        }
        (Kind::Flag(_), Json::Bool(flag)) => Ok(Value::Flag(*flag)),
        (Kind::Number(_), Json::Number(number)) => {
            // YAML readers differ on whether 5681.0 is an integer; take it for what it means.
            let exact =
                number.as_i64().or_else(|| number.to_string().strip_suffix(".0")?.parse().ok());
            exact.map(Value::Number).ok_or_else(|| format!("not {number}"))
        }
        (Kind::Span(_), Json::Number(number)) if number.as_i64() == Some(0) => {
            Ok(Value::Span(Duration::ZERO))
        }
        (Kind::Span(_), Json::Number(number)) => Err(format!("not {number}, which has no unit")),
        (Kind::List(_), Json::Array(items)) => items
            .iter()
            .map(|item| {
                item.as_str()
                    .map(str::to_owned)
                    .ok_or_else(|| format!("not a list with {}", describe(item)))
            })
            .collect::<Result<_, _>>()
            .map(Value::List),
        (Kind::Tree, Json::Array(items)) => {
            Ok(Value::Tree(Json::Array(items.iter().cloned().map(with_textual_kid).collect())))
        }
        // Templates like to quote everything: read quoted numbers as the environment's.
        (Kind::Flag(_) | Kind::Number(_) | Kind::Span(_), Json::String(text)) => {
            from_text(kind, text)
        }
        (_, other) => Err(format!("not {}", describe(other))),
    }
}

/// Key ids are texts, but people write the usual `1` without quotes. Kuma reads our dump, and would
/// refuse all of it for a number here.
fn with_textual_kid(mut entry: Json) -> Json {
    if let Some(kid) = entry.get_mut("kid")
        && kid.is_number()
    {
        *kid = Json::from(kid.to_string());
    }
    entry
}

/// Reads a value of the environment. The error says what is there.
fn from_text(kind: Kind, text: &str) -> Result<Value, String> {
    match kind {
        Kind::Text(_) => Ok(Value::Text(text.to_owned())),
        // The spellings that Go accepts.
        Kind::Flag(_) => match text {
            "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(Value::Flag(true)),
            "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(Value::Flag(false)),
            other => Err(format!("not {other:?}")),
        },
        Kind::Number(_) => text.parse().map(Value::Number).map_err(|_| format!("not {text:?}")),
        Kind::Span(_) => {
            duration::parse(text).map(Value::Span).map_err(|error| format!("but {text:?} {error}"))
        }
        Kind::List(_) => Ok(Value::List(
            text.split(',')
                .filter(|item| !item.is_empty())
                .map(|item| item.trim().to_owned())
                .collect(),
        )),
        Kind::Tree => Err("which only the file can hold".to_owned()),
    }
}

fn describe(value: &Json) -> &'static str {
    match value {
        Json::Null => "nothing",
        Json::Bool(_) => "true or false",
        Json::Number(_) => "a number",
        Json::String(_) => "a text",
        Json::Array(_) => "a list",
        Json::Object(_) => "a section",
    }
}

fn shown(setting: &Setting) -> Json {
    match &setting.value {
        Value::Text(text) if setting.key.secret && !text.is_empty() => Json::from(MASK),
        Value::Text(text) => Json::from(text.as_str()),
        Value::Flag(flag) => Json::from(*flag),
        Value::Number(number) => Json::from(*number),
        Value::Span(span) => Json::from(duration::format(*span)),
        Value::List(items) => Json::from(items.as_slice()),
        Value::Tree(tree) => tree.clone(),
    }
}

fn insert(root: &mut Json, path: &str, value: Json) {
    let mut place = root;
    for segment in path.split('.') {
        if place.is_null() {
            *place = Json::Object(serde_json::Map::new());
        }
        // No key of the table lies below another key, so this is always an object.
        let Json::Object(entries) = place else { return };
        place = entries.entry(segment).or_insert(Json::Null);
    }
    *place = value;
}

/// The known name, or section of known names, with the fewest edits, if they are few.
fn nearest(name: &str, known: &[&'static str]) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    let most = (lower.len() / 5).max(2);
    let sections = known
        .iter()
        .flat_map(|path| path.match_indices('.').filter_map(|(end, _)| path.get(..end)));
    known
        .iter()
        .copied()
        .chain(sections)
        .map(|candidate| (edit_distance(&lower, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(edits, _)| *edits <= most)
        .min()
        .map(|(_, candidate)| candidate.to_owned())
}

/// A known key with the same last segment: catches keys in the wrong section.
fn same_last_segment(name: &str, known: &[&'static str]) -> Option<String> {
    let last = name.rsplit('.').next().unwrap_or(name);
    known
        .iter()
        .filter(|candidate| {
            candidate.rsplit('.').next().is_some_and(|segment| segment.eq_ignore_ascii_case(last))
        })
        .min_by_key(|candidate| edit_distance(name, candidate))
        .map(|candidate| (*candidate).to_owned())
}

/// Levenshtein's distance, over bytes: keys are ASCII.
fn edit_distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(to.bytes()) {
            let substituted = diagonal + usize::from(a != b);
            diagonal = *cell;
            left = substituted.min(left + 1).min(*cell + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}
