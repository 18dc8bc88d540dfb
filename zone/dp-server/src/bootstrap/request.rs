//! The body of `POST /bootstrap` (`spec/dp-server.md` 4.1). Missing fields and nulls are zero
//! values, unknown fields are ignored.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

/// What a proxy says when it asks for its bootstrap. No `Debug`: it holds a token.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct BootstrapRequest {
    #[serde(deserialize_with = "nullable")]
    pub(crate) mesh: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) name: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) proxy_type: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) dataplane_token: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) dataplane_token_path: String,
    /// The whole resource, as JSON or YAML text; empty when it is stored already.
    #[serde(deserialize_with = "nullable")]
    pub(crate) dataplane_resource: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) version: Version,
    #[serde(deserialize_with = "nullable")]
    pub(crate) ca_cert: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) dynamic_metadata: BTreeMap<String, String>,
    pub(crate) otel_env: Option<Value>,
    #[serde(deserialize_with = "nullable", rename = "dnsPort")]
    pub(crate) dns_port: u32,
    #[serde(deserialize_with = "nullable")]
    pub(crate) readiness_port: u32,
    /// The wire's name says the opposite of what the field means; it is kept by all versions.
    #[serde(deserialize_with = "nullable", rename = "appProbeProxyDisabled")]
    pub(crate) app_probe_proxy_enabled: bool,
    #[serde(deserialize_with = "nullable")]
    pub(crate) features: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) resources: ProxyResources,
    #[serde(deserialize_with = "nullable")]
    pub(crate) workdir: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) metrics_resources: MetricsResources,
    #[serde(deserialize_with = "nullable")]
    pub(crate) system_ca_path: String,
    /// Settings of transparent proxying, passed through.
    pub(crate) dataplane_config: Option<Value>,
    #[serde(deserialize_with = "nullable", rename = "ipv6Enabled")]
    pub(crate) ipv6_enabled: bool,
    #[serde(deserialize_with = "nullable")]
    pub(crate) spire_resources: SpireResources,
}

/// Versions of the proxy's parts.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Version {
    #[serde(deserialize_with = "nullable")]
    pub(crate) kuma_dp: KumaDpVersion,
    #[serde(deserialize_with = "nullable")]
    pub(crate) envoy: EnvoyVersion,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct KumaDpVersion {
    #[serde(deserialize_with = "nullable")]
    pub(crate) version: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) git_tag: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) git_commit: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) build_date: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct EnvoyVersion {
    #[serde(deserialize_with = "nullable")]
    pub(crate) version: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) build: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) kuma_dp_compatible: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ProxyResources {
    /// 0 when unknown.
    #[serde(deserialize_with = "nullable")]
    pub(crate) max_heap_size_bytes: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct MetricsResources {
    #[serde(deserialize_with = "nullable")]
    pub(crate) cert_path: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) key_path: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct SpireResources {
    #[serde(deserialize_with = "nullable")]
    pub(crate) socket_path: String,
}

impl BootstrapRequest {
    /// Does the proxy redirect traffic transparently?
    pub(crate) fn is_transparent(&self) -> bool {
        self.dataplane_config.as_ref().is_some_and(|config| {
            ["inbound", "outbound"]
                .iter()
                .any(|side| config["redirect"][side]["enabled"] == Value::Bool(true))
        })
    }
}

fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
