//! The body of `POST /bootstrap` and the parts of the answer that matter here.

use std::collections::BTreeMap;

use anyhow::Context as _;
use base64::Engine as _;
use serde::{Deserialize, Serialize};

use crate::cli::KUMA_CONTRACT;
use crate::envoy::EnvoyVersion;
use crate::settings::{RequestFacts, Settings, TokenSource, Trust};

/// The request but for the token, which is read anew for each try.
#[derive(Debug, Clone)]
pub(crate) struct RequestTemplate {
    request: BootstrapRequest,
    token: TokenSource,
}

impl RequestTemplate {
    /// Fixes all that does not change while this process runs.
    pub(crate) fn new(
        settings: &Settings,
        envoy: &EnvoyVersion,
        work_dir: &str,
    ) -> RequestTemplate {
        let proxy = &settings.proxy;
        let RequestFacts {
            features,
            max_heap_size_bytes,
            system_ca_path,
            metrics_cert_path,
            metrics_key_path,
            ipv6_enabled,
            dynamic_metadata,
        } = settings.facts.clone();
        let token_path = match &proxy.token {
            TokenSource::File(path) => Some(path.display().to_string()),
            TokenSource::None | TokenSource::Inline(_) => None,
        };
        let ca_cert = match &settings.control_plane.trust {
            Trust::Ca(pem) => pem.clone(),
            Trust::System | Trust::SkipVerify => String::new(),
        };
        RequestTemplate {
            token: proxy.token.clone(),
            request: BootstrapRequest {
                mesh: proxy.mesh.clone(),
                name: proxy.name.clone(),
                proxy_type: proxy.proxy_type.as_str(),
                dataplane_token: None,
                dataplane_token_path: token_path,
                dataplane_resource: proxy.definition.clone(),
                version: Version {
                    kuma_dp: AgentVersion {
                        // The contract that we keep, with our own version as build metadata, which
                        // version constraints ignore.
                        version: format!("{KUMA_CONTRACT}+sunbear.{}", env!("CARGO_PKG_VERSION")),
                        git_tag: "unknown",
                        git_commit: "unknown",
                        build_date: "unknown",
                    },
                    envoy: envoy.clone(),
                },
                ca_cert,
                dynamic_metadata,
                readiness_port: settings.readiness_port,
                operating_system: "linux",
                features,
                resources: Resources { max_heap_size_bytes },
                workdir: work_dir.to_owned(),
                metrics_resources: MetricsResources {
                    cert_path: metrics_cert_path,
                    key_path: metrics_key_path,
                },
                system_ca_path,
                ipv6_enabled,
                spire_resources: SpireResources { socket_path: "" },
            },
        }
    }

    /// Mesh and name of the proxy.
    pub(crate) fn proxy(&self) -> (&str, &str) {
        (&self.request.mesh, &self.request.name)
    }

    /// Reads the token.
    pub(crate) fn token(&self) -> anyhow::Result<Option<String>> {
        self.token.read()
    }

    /// Reads the token and writes the body.
    pub(crate) fn body(&self) -> anyhow::Result<Vec<u8>> {
        let mut request = self.request.clone();
        request.dataplane_token = self.token.read()?;
        serde_json::to_vec(&request).context("cannot write the bootstrap request")
    }
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct BootstrapRequest {
    mesh: String,
    name: String,
    proxy_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dataplane_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dataplane_token_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dataplane_resource: Option<String>,
    version: Version,
    ca_cert: String,
    dynamic_metadata: BTreeMap<String, String>,
    readiness_port: u16,
    operating_system: &'static str,
    features: Vec<String>,
    resources: Resources,
    workdir: String,
    metrics_resources: MetricsResources,
    system_ca_path: String,
    ipv6_enabled: bool,
    spire_resources: SpireResources,
}

impl std::fmt::Debug for BootstrapRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BootstrapRequest")
            .field("mesh", &self.mesh)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    kuma_dp: AgentVersion,
    envoy: EnvoyVersion,
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct AgentVersion {
    version: String,
    git_tag: &'static str,
    git_commit: &'static str,
    build_date: &'static str,
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Resources {
    max_heap_size_bytes: u64,
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct MetricsResources {
    cert_path: String,
    key_path: String,
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct SpireResources {
    socket_path: &'static str,
}

/// Takes the bootstrap document's text out of the answer.
pub(crate) fn bootstrap_text(answer: &[u8]) -> anyhow::Result<String> {
    #[derive(Deserialize)]
    struct Answer {
        bootstrap: String,
    }
    let answer: Answer =
        serde_json::from_slice(answer).context("the answer is not the JSON that was asked for")?;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(answer.bootstrap)
        .context("the answer's bootstrap is not base64")?;
    String::from_utf8(bytes).context("the answer's bootstrap is not text")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::RunArgs;
    use serde_json::Value;

    fn template(variables: &[(&str, &str)]) -> RequestTemplate {
        let args = RunArgs {
            dataplane: Some("{type: Dataplane, mesh: default, name: gw-1}".into()),
            ..RunArgs::default()
        };
        let environment = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        let settings = Settings::resolve(&args, &environment).unwrap();
        let envoy =
            EnvoyVersion::parse("envoy  version: abc/1.38.2/Clean/RELEASE/BoringSSL").unwrap();
        RequestTemplate::new(&settings, &envoy, "/run/gw")
    }

    #[test]
    fn the_body_has_kumas_field_names() {
        let template = template(&[
            ("KUMA_DATAPLANE_RUNTIME_TOKEN", "a.b.c"),
            ("KUMA_CONTROL_PLANE_CA_CERT", "PEM"),
            ("HOST_IP", "10.0.0.1"),
        ]);
        let body: Value = serde_json::from_slice(&template.body().unwrap()).unwrap();
        assert_eq!(body["mesh"], "default");
        assert_eq!(body["proxyType"], "dataplane");
        assert_eq!(body["dataplaneToken"], "a.b.c");
        assert_eq!(
            body["dataplaneResource"],
            r#"{"mesh":"default","name":"gw-1","type":"Dataplane"}"#
        );
        assert_eq!(body["caCert"], "PEM");
        assert_eq!(body["version"]["envoy"]["version"], "1.38.2");
        assert_eq!(body["version"]["envoy"]["build"], "abc/1.38.2/Clean/RELEASE/BoringSSL");
        assert_eq!(body["version"]["envoy"]["kumaDpCompatible"], true);
        assert!(
            body["version"]["kumaDp"]["version"].as_str().unwrap().starts_with("2.14.3+sunbear.")
        );
        assert_eq!(body["readinessPort"], 9902);
        assert_eq!(body["workdir"], "/run/gw");
        assert_eq!(body["dynamicMetadata"]["HOST_IP"], "10.0.0.1");
        assert!(body["resources"]["maxHeapSizeBytes"].is_u64());
        assert!(!format!("{template:?}").contains("a.b.c"));
    }

    #[test]
    fn the_answer_is_decoded() {
        assert_eq!(
            bootstrap_text(br#"{"bootstrap":"YTogMQ==","kumaSidecarConfiguration":{}}"#).unwrap(),
            "a: 1"
        );
        for bad in [&b"a: 1"[..], b"{}", br#"{"bootstrap":"*"}"#] {
            assert!(bootstrap_text(bad).is_err());
        }
    }
}
