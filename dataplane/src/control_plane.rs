//! Asks the control plane for the bootstrap document, and for secrets.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::keys::SecretId;
use crate::request::{self, RequestTemplate};
use crate::settings::{ControlPlaneSettings, Trust};
use crate::trust;

/// Limit of one try; the same as kuma-dp's.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What one try came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The bootstrap document's text.
    Document(String),
    /// No answer, or one that says nothing about this proxy; trying again may help.
    Unreachable(String),
    /// The control plane does not know this proxy (yet).
    NotFound,
    /// The control plane does not want this proxy.
    Refused(String),
}

/// What the control plane said when it was asked for secrets.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Secrets {
    /// What it offers the proxy now.
    Offered(BTreeMap<SecretId, Value>),
    /// It has no such endpoint: it is Kuma's.
    Unknown,
    /// It does not give them to us.
    Refused(String),
    /// No answer, or none that is of use; trying again may help.
    Unreachable(String),
}

#[derive(Deserialize)]
struct Offer {
    secrets: Vec<OfferedSecret>,
}

#[derive(Deserialize)]
struct OfferedSecret {
    name: String,
    version: String,
    secret: Value,
}

/// A client of the data plane server's HTTP endpoints.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    url: reqwest::Url,
    client: reqwest::Client,
    template: RequestTemplate,
}

impl ControlPlane {
    /// Prepares the client.
    pub(crate) fn new(
        settings: &ControlPlaneSettings,
        template: RequestTemplate,
    ) -> anyhow::Result<ControlPlane> {
        let builder = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            // A kept connection would hide a change of the address in DNS.
            .pool_max_idle_per_host(0);
        let builder = match &settings.trust {
            Trust::System => builder,
            Trust::SkipVerify => builder.tls_danger_accept_invalid_certs(true),
            Trust::Ca(pem) => builder.tls_backend_preconfigured(trust::client_config(pem)?),
        };
        Ok(ControlPlane {
            url: settings.bootstrap_url.clone(),
            client: builder.build().context("cannot prepare the HTTP client")?,
            template,
        })
    }

    /// One try.
    pub(crate) async fn fetch(&self) -> Answer {
        match self.try_fetch().await {
            Ok((status, body)) => classify(status, &body),
            Err(error) => Answer::Unreachable(format!("{error:#}")),
        }
    }

    /// The secrets that the proxy is offered. What Envoy keeps to itself is no secret to its agent,
    /// which proves the same identity.
    pub(crate) async fn secrets(&self) -> Secrets {
        match self.try_secrets().await {
            Ok(secrets) => secrets,
            Err(error) => Secrets::Unreachable(format!("{error:#}")),
        }
    }

    async fn try_secrets(&self) -> anyhow::Result<Secrets> {
        let url = self.url.join("/sunbear/secrets")?;
        let (mesh, name) = self.template.proxy();
        let mut request = self
            .client
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .body(json!({"mesh": mesh, "name": name}).to_string());
        if let Some(token) = self.template.token()? {
            request = request.header(AUTHORIZATION, token);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        Ok(match status {
            200 => {
                // Not by way of the error's text, which may quote what it could not read.
                let offer = serde_json::from_slice::<Offer>(&response.bytes().await?)
                    .map_err(|_| anyhow::anyhow!("the control plane's secrets are unreadable"))?;
                let by_id = |s: OfferedSecret| ((s.name, s.version), s.secret);
                Secrets::Offered(offer.secrets.into_iter().map(by_id).collect())
            }
            404 | 405 => Secrets::Unknown,
            401 | 403 => Secrets::Refused(response.text().await?),
            _ => Secrets::Unreachable(format!("status {status}")),
        })
    }

    async fn try_fetch(&self) -> anyhow::Result<(u16, Vec<u8>)> {
        let body = self.template.body()?;
        let response = self
            .client
            .post(self.url.clone())
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json")
            .body(body)
            .send()
            .await?;
        let status = response.status().as_u16();
        Ok((status, response.bytes().await?.to_vec()))
    }
}

/// Sorts an answer as kuma-dp does.
fn classify(status: u16, body: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(body);
    match status {
        200 => match request::bootstrap_text(body) {
            Ok(text) => Answer::Document(text),
            Err(error) => Answer::Unreachable(format!("{error:#}")),
        },
        404 if body.is_empty() => Answer::NotFound,
        // What Kuma's API server says to a path that it does not have.
        404 if text.trim() == "404: Page Not Found" => Answer::Unreachable(
            "there is no /bootstrap at this address; is it the API server's port (5681) instead of the data plane server's (5678)?"
                .into(),
        ),
        408 | 429 => Answer::Unreachable(format!("status {status}")),
        400..=499 => Answer::Refused(if text.is_empty() { format!("status {status}") } else { text.into_owned() }),
        _ => Answer::Unreachable(format!("status {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_sorted_as_kuma_dp_does() {
        let unreachable = |status, body: &str| {
            matches!(classify(status, body.as_bytes()), Answer::Unreachable(_))
        };
        assert_eq!(classify(200, br#"{"bootstrap":"YTogMQ=="}"#), Answer::Document("a: 1".into()));
        assert!(unreachable(200, "<html>"));
        assert_eq!(classify(404, b""), Answer::NotFound);
        assert!(unreachable(404, "404: Page Not Found"));
        assert_eq!(classify(404, b"gone"), Answer::Refused("gone".into()));
        assert_eq!(
            classify(422, b"mesh: does not exist"),
            Answer::Refused("mesh: does not exist".into())
        );
        assert_eq!(classify(400, b""), Answer::Refused("status 400".into()));
        assert!(unreachable(500, ""));
        assert!(unreachable(503, "try later"));
        assert!(unreachable(302, ""));
        assert!(unreachable(429, "slow down"));
    }
}
