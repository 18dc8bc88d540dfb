//! Flags and environment resolved into one tree of settings.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use crate::cli::RunArgs;
use crate::definition::{self, Definition, ProxyType};

/// Looks up an environment variable.
pub(crate) type Environment<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Why the settings could not be made.
#[derive(Debug)]
pub(crate) enum SettingsError {
    /// Flags, environment or definition are wrong.
    Usage(String),
    /// A file could not be read.
    Input(anyhow::Error),
}

impl SettingsError {
    fn usage(message: impl Into<String>) -> Self {
        SettingsError::Usage(message.into())
    }
}

/// Where the proxy's token comes from. It is read anew for each request, as files rotate.
#[derive(Clone)]
pub(crate) enum TokenSource {
    /// No token.
    None,
    /// The token itself.
    Inline(String),
    /// An absolute path.
    File(PathBuf),
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenSource::None => f.write_str("None"),
            TokenSource::Inline(_) => f.write_str("Inline(..)"),
            TokenSource::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

impl TokenSource {
    /// Reads the token and checks that it looks like one.
    pub(crate) fn read(&self) -> anyhow::Result<Option<String>> {
        let token = match self {
            TokenSource::None => return Ok(None),
            TokenSource::Inline(token) => token.trim().to_owned(),
            TokenSource::File(path) => std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the token file {}", path.display()))?
                .trim()
                .to_owned(),
        };
        let looks_like_jwt =
            token.split('.').count() == 3 && !token.chars().any(char::is_whitespace);
        anyhow::ensure!(
            looks_like_jwt,
            "the token is not a JWT (three parts joined by dots, without line breaks)"
        );
        Ok(Some(token))
    }
}

/// How the control plane's certificate is verified.
#[derive(Debug, Clone)]
pub(crate) enum Trust {
    /// Not at all.
    SkipVerify,
    /// Against the system's roots.
    System,
    /// Against this CA, as PEM.
    Ca(String),
}

/// The control plane and how to reach it.
#[derive(Debug, Clone)]
pub(crate) struct ControlPlaneSettings {
    /// URL of the bootstrap endpoint.
    pub(crate) bootstrap_url: reqwest::Url,
    /// Certificate verification.
    pub(crate) trust: Trust,
    /// Pause between tries.
    pub(crate) retry_backoff: Duration,
    /// How long to try while there is nothing to serve with.
    pub(crate) retry_max_duration: Duration,
}

/// Who this proxy is.
#[derive(Debug, Clone)]
pub(crate) struct ProxySettings {
    /// Kind.
    pub(crate) proxy_type: ProxyType,
    /// Mesh, empty for zone proxies.
    pub(crate) mesh: String,
    /// Name.
    pub(crate) name: String,
    /// Definition as JSON, absent when the control plane has it already.
    pub(crate) definition: Option<String>,
    /// Token.
    pub(crate) token: TokenSource,
}

/// How Envoy is run.
#[derive(Debug, Clone)]
pub(crate) struct EnvoySettings {
    /// Executable.
    pub(crate) binary: PathBuf,
    /// Worker threads, 0 for as many as the CPU set allows.
    pub(crate) concurrency: u32,
    /// `--log-level`.
    pub(crate) log_level: String,
    /// `--component-log-level`.
    pub(crate) component_log_level: Option<String>,
}

/// Everything that `run` needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The control plane.
    pub(crate) control_plane: ControlPlaneSettings,
    /// The proxy.
    pub(crate) proxy: ProxySettings,
    /// Envoy.
    pub(crate) envoy: EnvoySettings,
    /// Work folder; `None` asks for a temporary one.
    pub(crate) work_dir: Option<PathBuf>,
    /// State folder; `None` means the work folder.
    pub(crate) state_dir: Option<PathBuf>,
    /// Whether the user chose the state folder.
    pub(crate) state_dir_given: bool,
    /// Whether private keys are part of the sealed configuration.
    pub(crate) seal_secrets: bool,
    /// How long the control plane may take before the sealed configuration is used.
    pub(crate) patience: Duration,
    /// Drain time.
    pub(crate) drain_time: Duration,
    /// Address of the readiness reporter.
    pub(crate) readiness_address: IpAddr,
    /// Port of the readiness reporter.
    pub(crate) readiness_port: u16,
    /// Filter of our own log.
    pub(crate) log_level: String,
    /// `--dns-enabled`.
    pub(crate) dns_enabled: bool,
    /// Facts that travel in the bootstrap request.
    pub(crate) facts: RequestFacts,
}

/// Facts about the host and optional features, sent with the bootstrap request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RequestFacts {
    /// Feature names, in Kuma's order.
    pub(crate) features: Vec<String>,
    /// Memory limit in bytes, 0 when unknown.
    pub(crate) max_heap_size_bytes: u64,
    /// Bundle of system CAs.
    pub(crate) system_ca_path: String,
    /// Certificate of the metrics listener.
    pub(crate) metrics_cert_path: String,
    /// Key of the metrics listener.
    pub(crate) metrics_key_path: String,
    /// Whether the host has IPv6.
    pub(crate) ipv6_enabled: bool,
    /// Metadata by name.
    pub(crate) dynamic_metadata: BTreeMap<String, String>,
}

impl Settings {
    /// Resolves flags (first), environment (second) and defaults.
    pub(crate) fn resolve(
        args: &RunArgs,
        environment: &Environment<'_>,
    ) -> Result<Settings, SettingsError> {
        let env = Env(environment);
        let proxy = proxy_settings(args, &env)?;
        let work_dir = args
            .work_dir
            .clone()
            .or(env.path("KUMA_DATAPLANE_RUNTIME_WORK_DIR"))
            .map(absolute)
            .transpose()?;
        let given_state_dir = args.state_dir.clone().or(env.path("KUMA_DP_STATE_DIR"));
        let state_dir_given = given_state_dir.is_some();
        let state_dir = match given_state_dir {
            Some(path) => Some(absolute(path)?),
            None if work_dir.is_some() => None,
            None => default_state_dir(&env, nix::unistd::geteuid().is_root())
                .map(|root| root.join(folder_name(&proxy))),
        };
        let log_level =
            env.or_flag(&args.log_level, "KUMA_DP_LOG_LEVEL").unwrap_or_else(|| "info".into());
        if !["off", "error", "warn", "info", "debug", "trace"].contains(&log_level.as_str()) {
            return Err(SettingsError::usage(format!(
                "log level {log_level:?} is none of off, error, warn, info, debug, trace"
            )));
        }
        let envoy_log_level = env
            .or_flag(&args.envoy_log_level, "KUMA_DATAPLANE_RUNTIME_ENVOY_LOG_LEVEL")
            .unwrap_or_else(|| match log_level.as_str() {
                // At these, Envoy logs the headers of its requests, with the proxy's token.
                "debug" | "trace" => "info".to_owned(),
                level => level.to_owned(),
            });
        let in_kubernetes = env.get("POD_NAME").is_some();
        Ok(Settings {
            control_plane: control_plane_settings(args, &env)?,
            proxy,
            envoy: EnvoySettings {
                binary: args
                    .binary_path
                    .clone()
                    .or(env.path("KUMA_DATAPLANE_RUNTIME_BINARY_PATH"))
                    .unwrap_or_else(|| "envoy".into()),
                concurrency: match args.concurrency {
                    Some(concurrency) => concurrency,
                    None => env.parsed("KUMA_DATAPLANE_RUNTIME_CONCURRENCY")?.unwrap_or(0),
                },
                log_level: envoy_log_level,
                component_log_level: env.or_flag(
                    &args.envoy_component_log_level,
                    "KUMA_DATAPLANE_RUNTIME_ENVOY_COMPONENT_LOG_LEVEL",
                ),
            },
            work_dir,
            state_dir,
            state_dir_given,
            seal_secrets: env.boolean(args.seal_secrets, "KUMA_DP_SEAL_SECRETS", true)?,
            patience: env.duration(&args.patience, "KUMA_DP_PATIENCE", Duration::from_secs(2))?,
            drain_time: env.duration(
                &args.drain_time,
                "KUMA_DATAPLANE_DRAIN_TIME",
                Duration::from_secs(30),
            )?,
            // In a pod the kubelet asks from outside the pod's network namespace.
            readiness_address: if in_kubernetes {
                IpAddr::V4(Ipv4Addr::UNSPECIFIED)
            } else {
                IpAddr::V4(Ipv4Addr::LOCALHOST)
            },
            readiness_port: match env.parsed::<u16>("KUMA_READINESS_PORT")? {
                Some(0) => {
                    return Err(SettingsError::usage(
                        "KUMA_READINESS_PORT must be between 1 and 65535",
                    ));
                }
                Some(port) => port,
                None => 9902,
            },
            log_level,
            dns_enabled: env.boolean(args.dns_enabled, "KUMA_DNS_ENABLED", true)?,
            facts: request_facts(&env)?,
        })
    }
}

/// The environment under both prefixes.
struct Env<'a>(&'a Environment<'a>);

impl Env<'_> {
    /// A `KUMA_` name is looked up as `SUNBEAR_` first. Empty means absent.
    fn get(&self, name: &str) -> Option<String> {
        let ours = name.strip_prefix("KUMA_").map(|rest| format!("SUNBEAR_{rest}"));
        ours.and_then(|ours| (self.0)(&ours))
            .or_else(|| (self.0)(name))
            .filter(|value| !value.is_empty())
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    fn or_flag(&self, flag: &Option<String>, name: &str) -> Option<String> {
        flag.clone().or_else(|| self.get(name))
    }

    fn parsed<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, SettingsError> {
        self.get(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    SettingsError::usage(format!("{name}: {text:?} is not a valid number"))
                })
            })
            .transpose()
    }

    fn boolean(
        &self,
        flag: Option<bool>,
        name: &str,
        default: bool,
    ) -> Result<bool, SettingsError> {
        match (flag, self.get(name).as_deref()) {
            (Some(flag), _) => Ok(flag),
            (None, None) => Ok(default),
            (None, Some("true" | "1" | "t" | "T" | "TRUE" | "True")) => Ok(true),
            (None, Some("false" | "0" | "f" | "F" | "FALSE" | "False")) => Ok(false),
            (None, Some(other)) => {
                Err(SettingsError::usage(format!("{name}: {other:?} is neither true nor false")))
            }
        }
    }

    fn duration(
        &self,
        flag: &Option<String>,
        name: &str,
        default: Duration,
    ) -> Result<Duration, SettingsError> {
        match self.or_flag(flag, name) {
            None => Ok(default),
            Some(text) => parse_duration(&text).ok_or_else(|| {
                SettingsError::usage(format!(
                    "{name}: {text:?} is not a duration like 500ms, 30s or 5m"
                ))
            }),
        }
    }
}

fn control_plane_settings(
    args: &RunArgs,
    env: &Env<'_>,
) -> Result<ControlPlaneSettings, SettingsError> {
    let address = env
        .or_flag(&args.cp_address, "KUMA_CONTROL_PLANE_URL")
        .unwrap_or_else(|| "https://localhost:5678".into());
    let mut bootstrap_url = reqwest::Url::parse(&address).map_err(|error| {
        SettingsError::usage(format!("the control plane's address {address:?} is no URL: {error}"))
    })?;
    if !matches!(bootstrap_url.scheme(), "http" | "https") || !bootstrap_url.has_host() {
        return Err(SettingsError::usage(format!(
            "the control plane's address {address:?} must be https://HOST:PORT"
        )));
    }
    bootstrap_url.set_path("/bootstrap");
    let ca_file = args.ca_cert_file.clone().or(env.path("KUMA_CONTROL_PLANE_CA_CERT_FILE"));
    let trust = if env.boolean(args.skip_verify, "KUMA_CONTROL_PLANE_TLS_SKIP_VERIFY", false)? {
        Trust::SkipVerify
    } else if let Some(pem) = env.get("KUMA_CONTROL_PLANE_CA_CERT") {
        Trust::Ca(pem)
    } else if let Some(path) = ca_file {
        let pem = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read the CA file {}", path.display()))
            .map_err(SettingsError::Input)?;
        Trust::Ca(pem)
    } else {
        Trust::System
    };
    Ok(ControlPlaneSettings {
        bootstrap_url,
        trust,
        retry_backoff: env.duration(
            &None,
            "KUMA_CONTROL_PLANE_RETRY_BACKOFF",
            Duration::from_secs(3),
        )?,
        retry_max_duration: env.duration(
            &None,
            "KUMA_CONTROL_PLANE_RETRY_MAX_DURATION",
            Duration::from_secs(5 * 60),
        )?,
    })
}

fn proxy_settings(args: &RunArgs, env: &Env<'_>) -> Result<ProxySettings, SettingsError> {
    let type_text = env.or_flag(&args.proxy_type, "KUMA_DATAPLANE_PROXY_TYPE").unwrap_or_default();
    let proxy_type = ProxyType::parse(&type_text).ok_or_else(|| {
        SettingsError::usage(format!(
            "proxy type {type_text:?} is none of dataplane, ingress, egress"
        ))
    })?;
    let name = env.or_flag(&args.name, "KUMA_DATAPLANE_NAME");
    let mesh = env.or_flag(&args.mesh, "KUMA_DATAPLANE_MESH");
    let definition = read_definition(args, env, proxy_type)?;
    let token = token_source(args, env)?;
    if let Some(definition) = definition {
        if name.is_some() || mesh.is_some() {
            return Err(SettingsError::usage(
                "--name and --mesh exclude a definition (--dataplane, --dataplane-file): it names both",
            ));
        }
        return Ok(ProxySettings {
            proxy_type,
            mesh: definition.mesh,
            name: definition.name,
            definition: Some(definition.json),
            token,
        });
    }
    let pod_name = || Some(format!("{}.{}", env.get("POD_NAME")?, env.get("POD_NAMESPACE")?));
    let Some(name) = name.or_else(pod_name) else {
        return Err(SettingsError::usage(
            "give a definition (--dataplane-file) or the name of a proxy known to the control plane (--name, --mesh)",
        ));
    };
    let mesh = match (proxy_type, mesh) {
        (ProxyType::Dataplane, Some(mesh)) => mesh,
        (ProxyType::Dataplane, None) => {
            return Err(SettingsError::usage("--mesh is needed beside --name"));
        }
        (ProxyType::Ingress | ProxyType::Egress, _) => String::new(),
    };
    Ok(ProxySettings { proxy_type, mesh, name, definition: None, token })
}

fn read_definition(
    args: &RunArgs,
    env: &Env<'_>,
    proxy_type: ProxyType,
) -> Result<Option<Definition>, SettingsError> {
    let path = env.or_flag(&args.dataplane_file, "KUMA_DATAPLANE_RUNTIME_RESOURCE_PATH");
    let template = match path.as_deref() {
        Some("-") => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("cannot read the definition from standard input")
                .map_err(SettingsError::Input)?;
            text
        }
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the definition {path}"))
            .map_err(SettingsError::Input)?,
        None => match env.or_flag(&args.dataplane, "KUMA_DATAPLANE_RUNTIME_RESOURCE") {
            Some(text) => text,
            None => return Ok(None),
        },
    };
    let mut variables = BTreeMap::new();
    for pair in &args.dataplane_vars {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(SettingsError::usage(format!("--dataplane-var {pair:?} is not KEY=VALUE")));
        };
        variables.insert(key.trim().to_owned(), value.to_owned());
    }
    let lookup = |key: &str| variables.get(key).cloned().or_else(|| (env.0)(key));
    definition::parse(&template, proxy_type, &lookup)
        .map(Some)
        .map_err(|error| SettingsError::usage(format!("{error:#}")))
}

fn token_source(args: &RunArgs, env: &Env<'_>) -> Result<TokenSource, SettingsError> {
    if let Some(token) = env.or_flag(&args.dataplane_token, "KUMA_DATAPLANE_RUNTIME_TOKEN") {
        return Ok(TokenSource::Inline(token));
    }
    match args.dataplane_token_file.clone().or(env.path("KUMA_DATAPLANE_RUNTIME_TOKEN_PATH")) {
        Some(path) => Ok(TokenSource::File(absolute(path)?)),
        None => Ok(TokenSource::None),
    }
}

/// Features of ours that change what the control plane generates. Kuma's access log FIFO and its
/// OpenTelemetry pipe are left out: nobody here reads them.
fn request_facts(env: &Env<'_>) -> Result<RequestFacts, SettingsError> {
    let mut features = Vec::new();
    if env.boolean(None, "KUMA_DATAPLANE_RUNTIME_STRICT_INBOUND_PORTS_ENABLED", true)? {
        features.push("feature-strict-inbound-ports".to_owned());
    }
    if env.boolean(None, "KUMA_DATAPLANE_RUNTIME_REUSE_PORT_ENABLED", true)? {
        features.push("feature-reuse-port".to_owned());
    }
    match env.get("KUMA_DATAPLANE_RUNTIME_ENVOY_XDS_TRANSPORT_PROTOCOL_VARIANT").as_deref() {
        None | Some("DELTA_GRPC") => features.push("feature-delta-grpc".to_owned()),
        Some("GRPC") => {}
        Some(other) => {
            return Err(SettingsError::usage(format!(
                "KUMA_DATAPLANE_RUNTIME_ENVOY_XDS_TRANSPORT_PROTOCOL_VARIANT: {other:?} is neither GRPC nor DELTA_GRPC"
            )));
        }
    }
    let limit = match env.parsed("KUMA_DATAPLANE_RESOURCES_MAX_MEMORY_BYTES")? {
        Some(0) | None => cgroup_memory_limit(),
        Some(bytes) => bytes,
    };
    let ipv6_wanted = env.boolean(None, "KUMA_DATAPLANE_RUNTIME_IPV6_ENABLED", true)?;
    Ok(RequestFacts {
        features,
        max_heap_size_bytes: limit,
        system_ca_path: env
            .get("KUMA_DATAPLANE_RUNTIME_DYNAMIC_SYSTEM_CA_PATH")
            .unwrap_or_else(|| system_ca_bundle().unwrap_or_default().to_owned()),
        metrics_cert_path: env.get("KUMA_DATAPLANE_RUNTIME_METRICS_CERT_PATH").unwrap_or_default(),
        metrics_key_path: env.get("KUMA_DATAPLANE_RUNTIME_METRICS_KEY_PATH").unwrap_or_default(),
        ipv6_enabled: ipv6_wanted
            && std::fs::read_to_string("/proc/net/if_inet6").is_ok_and(|text| !text.is_empty()),
        dynamic_metadata: env
            .get("HOST_IP")
            .map(|ip| ("HOST_IP".to_owned(), ip))
            .into_iter()
            .collect(),
    })
}

fn cgroup_memory_limit() -> u64 {
    // cgroup v1 says "no limit" by a number near 2^63.
    const NO_LIMIT: u64 = 1 << 60;
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok())
        .and_then(|text| text.trim().parse().ok())
        .filter(|&limit| limit < NO_LIMIT)
        .unwrap_or(0)
}

fn system_ca_bundle() -> Option<&'static str> {
    [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/pki/tls/cacert.pem",
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        "/etc/ssl/cert.pem",
    ]
    .into_iter()
    .find(|path| Path::new(path).exists())
}

fn default_state_dir(env: &Env<'_>, root: bool) -> Option<PathBuf> {
    match env.path("XDG_STATE_HOME") {
        Some(home) if home.is_absolute() => Some(home.join("sunbear-dp")),
        _ if root => Some("/var/lib/sunbear-dp".into()),
        _ => env.path("HOME").map(|home| home.join(".local/state/sunbear-dp")),
    }
}

/// One folder per proxy, whatever its name holds.
fn folder_name(proxy: &ProxySettings) -> String {
    let scope = if proxy.mesh.is_empty() { proxy.proxy_type.as_str() } else { &proxy.mesh };
    format!("{scope}-{}", proxy.name)
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' })
        .collect()
}

fn absolute(path: PathBuf) -> Result<PathBuf, SettingsError> {
    std::path::absolute(&path)
        .with_context(|| format!("cannot make {} absolute", path.display()))
        .map_err(SettingsError::Input)
}

/// Parses a duration as Go writes it: numbers with units, e.g. `1m30s` or `1.5s`.
fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .map_or(rest.len(), |end| digits + end);
        let seconds = match &rest[digits..unit_end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += number * seconds;
        rest = &rest[unit_end..];
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(total).ok()).flatten()
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
