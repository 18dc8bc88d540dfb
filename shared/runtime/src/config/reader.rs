//! Typed access to settings. Problems are collected, and a stand-in value is returned, so that one run
//! reports all of them.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::error::{ConfigError, ConfigErrors, Source};
use super::settings::{Settings, Value};
use super::typed::{Listen, PublicKey, PublicKeySource, ServerTls, TlsFiles, TlsVersion};

/// Typed access to settings that remembers what is wrong.
pub(super) struct Reader<'a> {
    settings: &'a Settings,
    errors: RefCell<Vec<ConfigError>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(settings: &'a Settings) -> Self {
        Self { settings, errors: RefCell::new(Vec::new()) }
    }

    pub(super) fn finish<C>(self, config: C) -> Result<C, ConfigErrors> {
        let mut errors = self.errors.into_inner();
        // Two components may look at one key.
        let mut seen = BTreeSet::new();
        errors.retain(|error| seen.insert(error.to_string()));
        if errors.is_empty() { Ok(config) } else { Err(ConfigErrors(errors)) }
    }

    pub(super) fn invalid(&self, path: &str, reason: String) {
        let origin =
            self.settings.get(path).map_or(Source::Default, |setting| setting.source.clone());
        self.errors.borrow_mut().push(ConfigError::Invalid {
            path: path.to_owned(),
            origin,
            reason,
        });
    }

    /// The value of a key, taken apart by `take`. A path that is not in the table, or has another
    /// type there, is our own mistake: tests that build both configurations would show it.
    fn value<T>(&self, path: &str, take: impl FnOnce(&'a Value) -> Option<T>) -> Option<T> {
        let value = self.settings.get(path).and_then(|setting| take(&setting.value));
        if value.is_none() {
            self.invalid(path, "is not in the table of keys".to_owned());
        }
        value
    }

    /// Did nobody set this key?
    pub(super) fn is_default(&self, path: &str) -> bool {
        self.settings.get(path).is_some_and(|setting| setting.source == Source::Default)
    }

    pub(super) fn text(&self, path: &str) -> String {
        let text =
            self.value(path, |value| if let Value::Text(text) = value { Some(text) } else { None });
        text.cloned().unwrap_or_default()
    }

    pub(super) fn flag(&self, path: &str) -> bool {
        let flag = self
            .value(path, |value| if let Value::Flag(flag) = value { Some(*flag) } else { None });
        flag.unwrap_or_default()
    }

    pub(super) fn span(&self, path: &str) -> Duration {
        let span = self
            .value(path, |value| if let Value::Span(span) = value { Some(*span) } else { None });
        span.unwrap_or_default()
    }

    pub(super) fn list(&self, path: &str) -> Vec<String> {
        let list =
            self.value(path, |value| if let Value::List(list) = value { Some(list) } else { None });
        list.cloned().unwrap_or_default()
    }

    pub(super) fn set(&self, path: &str) -> BTreeSet<String> {
        self.list(path).into_iter().collect()
    }

    /// A number between `min` and `max`.
    pub(super) fn number<N>(&self, path: &str, min: N, max: N) -> N
    where
        N: TryFrom<i64> + PartialOrd + Copy + std::fmt::Display,
    {
        let number =
            self.value(
                path,
                |value| if let Value::Number(number) = value { Some(*number) } else { None },
            );
        let Some(number) = number else { return min };
        match N::try_from(number) {
            Ok(value) if value >= min && value <= max => value,
            Ok(_) | Err(_) => {
                self.invalid(path, format!("must be between {min} and {max}, not {number}"));
                min
            }
        }
    }

    pub(super) fn message_size(&self, path: &str) -> usize {
        // gRPC frames carry a 32-bit length.
        self.number(path, 1, usize::try_from(u32::MAX).unwrap_or(usize::MAX))
    }

    pub(super) fn positive(&self, path: &str) -> Duration {
        let span = self.span(path);
        if span.is_zero() {
            self.invalid(path, "must be more than 0".to_owned());
        }
        span
    }

    pub(super) fn required(&self, path: &str) -> String {
        let text = self.text(path);
        if text.is_empty() {
            self.invalid(path, "must not be empty".to_owned());
        }
        text
    }

    pub(super) fn path(&self, path: &str) -> Option<PathBuf> {
        let text = self.text(path);
        (!text.is_empty()).then(|| PathBuf::from(text))
    }

    pub(super) fn pair(&self, cert: &str, key: &str) -> Option<TlsFiles> {
        match (self.path(cert), self.path(key)) {
            (Some(cert), Some(key)) => Some(TlsFiles { cert, key }),
            (None, None) => None,
            (Some(_), None) => {
                self.invalid(cert, format!("needs {key} as well"));
                None
            }
            (None, Some(_)) => {
                self.invalid(key, format!("needs {cert} as well"));
                None
            }
        }
    }

    /// `{section}.tlsCertFile`, `tlsKeyFile` and `tlsMinVersion`, each falling back to `general`.
    pub(super) fn server_tls(&self, section: &str) -> ServerTls {
        let own = self.pair(&format!("{section}.tlsCertFile"), &format!("{section}.tlsKeyFile"));
        let files = own.or_else(|| self.pair("general.tlsCertFile", "general.tlsKeyFile"));
        let own_version = format!("{section}.tlsMinVersion");
        let has_own =
            self.settings.get(&own_version).is_some() && !self.text(&own_version).is_empty();
        let version = if has_own { own_version.as_str() } else { "general.tlsMinVersion" };
        let choices = [("TLSv1_2", TlsVersion::V1_2), ("TLSv1_3", TlsVersion::V1_3)];
        ServerTls { files, min_version: self.choice(version, &choices) }
    }

    /// All interfaces and the port of the key.
    pub(super) fn listen(&self, path: &'static str) -> Listen {
        Listen { interface: String::new(), port: self.number(path, 0, u16::MAX), key: path }
    }

    pub(super) fn interface(&self, path: &str) -> String {
        let text = self.text(path);
        if text.is_empty() { text } else { self.address(path).to_string() }
    }

    pub(super) fn address(&self, path: &str) -> IpAddr {
        let text = self.text(path);
        text.parse().unwrap_or_else(|_| {
            self.invalid(path, format!("must be an IP address, not {text:?}"));
            IpAddr::from([127, 0, 0, 1])
        })
    }

    pub(super) fn url_path(&self, path: &str) -> String {
        let text = self.text(path);
        if !text.starts_with('/') {
            self.invalid(path, format!("must begin with '/', not {text:?}"));
        }
        text
    }

    pub(super) fn choice<T: Copy>(&self, path: &str, choices: &[(&str, T)]) -> T {
        let text = self.text(path);
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return *value;
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        self.invalid(path, format!("must be one of {}, not {text:?}", names.join(", ")));
        #[expect(clippy::expect_used, reason = "every caller names its choices")]
        let (_, first) = choices.first().expect("at least one choice");
        *first
    }

    pub(super) fn cidr(&self, path: &str) -> String {
        let text = self.text(path);
        if !is_cidr(&text) {
            self.invalid(
                path,
                format!("must be an address range such as 10.0.0.0/8, not {text:?}"),
            );
        }
        text
    }

    pub(super) fn cidrs(&self, path: &str) -> Vec<String> {
        let list = self.list(path);
        for text in list.iter().filter(|text| !is_cidr(text)) {
            self.invalid(
                path,
                format!("must hold address ranges such as 10.0.0.0/8, not {text:?}"),
            );
        }
        list
    }

    pub(super) fn public_keys(&self, path: &str) -> Vec<PublicKey> {
        let tree =
            self.value(path, |value| if let Value::Tree(tree) = value { Some(tree) } else { None });
        let entries: Vec<PublicKeyEntry> = match tree.map(serde::Deserialize::deserialize) {
            Some(Ok(entries)) => entries,
            Some(Err(error)) => {
                self.invalid(path, format!("must be a list of {{kid, key or keyFile}}: {error}"));
                return Vec::new();
            }
            None => return Vec::new(),
        };
        let mut keys = Vec::with_capacity(entries.len());
        for (index, entry) in entries.into_iter().enumerate() {
            let source = match (entry.key, entry.key_file) {
                (Some(key), None) => PublicKeySource::Inline(key),
                (None, Some(file)) => PublicKeySource::File(PathBuf::from(file)),
                (Some(_), Some(_)) | (None, None) => {
                    self.invalid(path, format!("needs either key or keyFile in entry {index}"));
                    continue;
                }
            };
            if entry.kid.is_empty() {
                self.invalid(path, format!("needs a kid in entry {index}"));
            }
            keys.push(PublicKey {
                kid: entry.kid,
                mesh: entry.mesh.filter(|mesh| !mesh.is_empty()),
                source,
            });
        }
        keys
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PublicKeyEntry {
    kid: String,
    mesh: Option<String>,
    key: Option<String>,
    key_file: Option<String>,
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    let most = if address.is_ipv4() { 32 } else { 128 };
    length.parse::<u8>().is_ok_and(|length| length <= most)
}
