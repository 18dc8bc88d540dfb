//! Configuration: a YAML file and the environment, with Kuma's keys and `KUMA_*` names.
//!
//! One table ([`keys`]) defines every key. Reading is pure: text and an [`Environment`] in, typed
//! configuration or all errors out. The help texts of the programs and `docs/configuration.md`
//! come from the same table ([`reference`]). Order of precedence: `SUNBEAR_*`, `KUMA_*`, file, default.
//!
//! ```no_run
//! use sunbear_runtime::config::{ProcessEnvironment, load_zone};
//!
//! let loaded = load_zone(Some("zone.yaml".as_ref()), &ProcessEnvironment)?;
//! sunbear_runtime::telemetry::init(&loaded.config.common.log)?;
//! loaded.notices.log();
//! assert_eq!(loaded.config.name, "east");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod build;
pub mod duration;
mod environment;
mod error;
mod ignored;
mod keys;
mod reader;
pub mod reference;
mod settings;
#[cfg(test)]
mod tests;
mod typed;

use std::path::Path;

pub use environment::{Environment, ProcessEnvironment};
pub use error::{ConfigError, ConfigErrors, Source};
pub use keys::{Key, Kind, Programs, keys};
pub use settings::{MASK, Notices, Setting, Settings, Value};
pub use typed::*;

/// A configuration that was read and checked.
pub struct Loaded<C> {
    /// The typed configuration.
    pub config: C,
    /// The effective value of every key, for dumps.
    pub settings: Settings,
    /// What to log once logging works.
    pub notices: Notices,
}

/// A configuration of one of the control planes.
pub trait ControlPlaneConfig: Sized {
    /// The role that it is for.
    const MODE: Mode;

    /// Reads it from a file and the environment.
    fn load(
        file: Option<&Path>,
        environment: &dyn Environment,
    ) -> Result<Loaded<Self>, ConfigErrors>;

    /// What all of them have.
    fn common(&self) -> &Common;
}

impl ControlPlaneConfig for GlobalConfig {
    const MODE: Mode = Mode::Global;

    fn load(
        file: Option<&Path>,
        environment: &dyn Environment,
    ) -> Result<Loaded<Self>, ConfigErrors> {
        load_global(file, environment)
    }

    fn common(&self) -> &Common {
        &self.common
    }
}

impl ControlPlaneConfig for ZoneConfig {
    const MODE: Mode = Mode::Zone;

    fn load(
        file: Option<&Path>,
        environment: &dyn Environment,
    ) -> Result<Loaded<Self>, ConfigErrors> {
        load_zone(file, environment)
    }

    fn common(&self) -> &Common {
        &self.common
    }
}

/// Reads the configuration of a global from a file and the environment.
pub fn load_global(
    file: Option<&Path>,
    environment: &dyn Environment,
) -> Result<Loaded<GlobalConfig>, ConfigErrors> {
    parse_global(read_file(file)?.as_deref(), environment)
}

/// Reads the configuration of a zone from a file and the environment.
pub fn load_zone(
    file: Option<&Path>,
    environment: &dyn Environment,
) -> Result<Loaded<ZoneConfig>, ConfigErrors> {
    parse_zone(read_file(file)?.as_deref(), environment)
}

/// As [`load_global`], from the file's text.
pub fn parse_global(
    yaml: Option<&str>,
    environment: &dyn Environment,
) -> Result<Loaded<GlobalConfig>, ConfigErrors> {
    parse(yaml, environment, Mode::Global, build::global)
}

/// As [`load_zone`], from the file's text.
pub fn parse_zone(
    yaml: Option<&str>,
    environment: &dyn Environment,
) -> Result<Loaded<ZoneConfig>, ConfigErrors> {
    parse(yaml, environment, Mode::Zone, build::zone)
}

fn parse<C>(
    yaml: Option<&str>,
    environment: &dyn Environment,
    mode: Mode,
    build: fn(&Settings) -> Result<C, ConfigErrors>,
) -> Result<Loaded<C>, ConfigErrors> {
    let (mut settings, notices) = Settings::read(yaml, environment)?;
    let fits = derive(&mut settings, environment, mode);
    let mut errors: Vec<ConfigError> = fits.err().into_iter().collect();
    match build(&settings) {
        Ok(config) if errors.is_empty() => Ok(Loaded { config, settings, notices }),
        Ok(_) => Err(ConfigErrors(errors)),
        Err(more) => {
            errors.extend(more.0);
            Err(ConfigErrors(errors))
        }
    }
}

fn read_file(file: Option<&Path>) -> Result<Option<String>, ConfigErrors> {
    let Some(path) = file else { return Ok(None) };
    std::fs::read_to_string(path).map(Some).map_err(|error| {
        ConfigError::Unreadable { path: path.display().to_string(), reason: error.to_string() }
            .into()
    })
}

/// Fills in what follows from other values, so that types and dumps agree on it.
fn derive(
    settings: &mut Settings,
    environment: &dyn Environment,
    mode: Mode,
) -> Result<(), ConfigError> {
    let text = |settings: &Settings, path: &str| {
        let value = settings.get(path).map(|setting| &setting.value);
        if let Some(Value::Text(text)) = value { text.clone() } else { String::new() }
    };
    let written_mode = text(settings, "mode");
    let fits = if written_mode.is_empty() || written_mode == mode.as_str() {
        Ok(())
    } else {
        Err(ConfigError::Invalid {
            path: "mode".to_owned(),
            origin: settings.get("mode").map_or(Source::Default, |setting| setting.source.clone()),
            reason: format!("is {written_mode:?}, but this program is {:?}", mode.as_str()),
        })
    };
    settings.derive_text("mode", mode.as_str());

    if text(settings, "general.workDir").is_empty() {
        let home = environment.get("HOME").filter(|home| !home.is_empty());
        let folder = home.map_or("./sunbear-data".to_owned(), |home| format!("{home}/.sunbear"));
        settings.derive_text("general.workDir", folder);
    }
    if text(settings, "store.sqlite.path").is_empty() {
        let folder = text(settings, "general.workDir");
        settings.derive_text("store.sqlite.path", format!("{folder}/sunbear-{}.db", mode.as_str()));
    }
    // The variable that Rust programs are usually debugged with.
    if let Some(filter) = environment.get("RUST_LOG").filter(|filter| !filter.is_empty()) {
        settings.derive_text("log.level", filter);
    }
    let on_kubernetes = text(settings, "environment") == "kubernetes";
    for (path, token) in
        [("dpServer.authn.dpProxy.type", "dpToken"), ("dpServer.authn.zoneProxy.type", "zoneToken")]
    {
        if text(settings, path).is_empty() {
            settings.derive_text(path, if on_kubernetes { "serviceAccountToken" } else { token });
        }
    }
    fits
}
