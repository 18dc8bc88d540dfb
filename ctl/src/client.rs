//! The control plane's API over HTTP.

use std::{error::Error as _, fs, net::IpAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use reqwest::{
    Identity, Method, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue},
    redirect,
};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, sign::SingleCertAndKey};
use serde_json::Value;
use sunbear_model::Kind;
use sunbear_security::{
    certificate,
    trust::{self, ServerTrust},
};

use crate::{failure::Failure, output::printable, target::Target};

/// How long the control plane has to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to a control plane.
pub(crate) struct Client {
    http: reqwest::Client,
    address: Url,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
}

impl Reply {
    /// The answer if all went well, else what the control plane says.
    pub(crate) fn success(self) -> Result<Self, Failure> {
        let problem = || Problem::of(&self).to_string();
        match self.status {
            status if status.is_success() => Ok(self),
            StatusCode::NOT_FOUND => Err(Failure::NotFound(problem())),
            _ => Err(Failure::Refused(problem())),
        }
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Result<Value, Failure> {
        let value = serde_json::from_str(&self.text)
            .context("the answer of the control plane is not JSON")?;
        Ok(value)
    }
}

/// What a control plane says when it refuses.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// In one line.
    pub(crate) summary: String,
    /// Fields that are wrong, with reasons.
    pub(crate) fields: Vec<(String, String)>,
}

impl Problem {
    /// Reads a refusal; one that is no problem body is shown as it is.
    pub(crate) fn of(reply: &Reply) -> Self {
        let body: Value = serde_json::from_str(&reply.text).unwrap_or(Value::Null);
        let text = |value: &Value, key: &str| {
            printable(value.get(key).and_then(Value::as_str).unwrap_or_default().trim())
        };
        let title = text(&body, "title");
        if title.is_empty() {
            let raw = printable(reply.text.trim());
            let summary = if raw.is_empty() { reply.status.to_string() } else { raw };
            return Self { summary, fields: Vec::new() };
        }
        let detail = match text(&body, "detail") {
            detail if detail.is_empty() => text(&body, "details"),
            detail => detail,
        };
        let fields = |list: &str, reason: &str| -> Vec<_> {
            let items = body.get(list).and_then(Value::as_array);
            items.into_iter().flatten().map(|i| (text(i, "field"), text(i, reason))).collect()
        };
        Self {
            summary: if detail.is_empty() { title } else { format!("{title} ({detail})") },
            fields: match fields("invalid_parameters", "reason") {
                list if list.is_empty() => fields("causes", "message"),
                list => list,
            },
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.summary)?;
        self.fields.iter().try_for_each(|(field, reason)| write!(f, "\n* {field}: {reason}"))
    }
}

impl Client {
    /// A client; nothing is connected yet.
    pub(crate) fn new(target: &Target) -> Result<Self, Failure> {
        let address = Url::parse(&target.url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| {
                Failure::Usage(format!("--address: {:?} is not an http or https URL", target.url))
            })?;
        let mut builder = builder(target.timeout)
            .default_headers(headers(target)?)
            // The token is for this control plane alone.
            .redirect(redirect::Policy::none());
        if is_loopback(&address) {
            builder = builder.no_proxy();
        }
        let client_cert = match &target.client_cert {
            Some((certificate, key)) => Some((read(certificate)?, read(key)?)),
            None => None,
        };
        if address.scheme() == "http" {
            // Reading the system's authorities would be most of the work of a command.
            builder = builder.tls_backend_preconfigured(without_authorities()?);
        } else if let Some(path) = &target.ca_cert {
            let authorities = ServerTrust::Authorities(&read(path)?);
            let mut tls = trust::client_config(authorities, &["h2", "http/1.1"])
                .with_context(|| path.display().to_string())?;
            if let Some((certificate, key)) = &client_cert {
                let own = certificate::certified_key(certificate, key)
                    .context("the client certificate")?;
                tls.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(own));
            }
            builder = builder.tls_backend_preconfigured(tls);
        } else {
            if let Some((mut certificate, key)) = client_cert {
                certificate.push(b'\n');
                certificate.extend(key);
                let own = Identity::from_pem(&certificate).context("the client certificate")?;
                builder = builder.identity(own);
            }
            builder = builder.tls_danger_accept_invalid_certs(target.skip_verify);
        }
        let http = builder.build().context("preparing the HTTP client")?;
        Ok(Self { http, address })
    }

    /// The address of one object, or of a collection without a name. An empty mesh means all.
    pub(crate) fn resource(
        &self,
        kind: Kind,
        mesh: &str,
        name: Option<&str>,
    ) -> Result<Url, Failure> {
        let mut segments = Vec::new();
        if kind.is_mesh_scoped() && !mesh.is_empty() {
            segments.extend(["meshes", mesh]);
        }
        segments.push(kind.row().plural);
        segments.extend(name);
        // These would vanish from the path, and the request would go to another object.
        if let Some(bad) = segments.iter().find(|s| matches!(**s, "" | "." | "..")) {
            return Err(Failure::Usage(format!("{bad:?} cannot be the name of anything")));
        }
        Ok(self.path(&segments))
    }

    /// An address below that of the control plane.
    pub(crate) fn path(&self, segments: &[&str]) -> Url {
        let mut url = self.address.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// Sends a request, with a JSON body if there is one.
    pub(crate) async fn send(
        &self,
        method: Method,
        url: Url,
        body: Option<&Value>,
    ) -> Result<Reply, Failure> {
        let mut request = self.http.request(method, url);
        if let Some(body) = body {
            request = request.json(body);
        }
        let unreachable = |error: &reqwest::Error| {
            Failure::Unreachable(format!("cannot reach {}: {}", self.address, reason(error)))
        };
        let response = request.send().await.map_err(|e| unreachable(&e))?;
        let status = response.status();
        let text = response.text().await.map_err(|e| unreachable(&e))?;
        Ok(Reply { status, text })
    }
}

/// Settings of every HTTP client.
pub(crate) fn builder(timeout: Option<Duration>) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder()
        .user_agent(concat!("sunbearctl/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT);
    match timeout {
        Some(timeout) => builder.timeout(timeout),
        None => builder,
    }
}

/// The innermost cause says what happened; those around it repeat the address.
pub(crate) fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "timed out".to_owned();
    }
    let mut cause = error.source();
    let mut text = error.to_string();
    while let Some(inner) = cause {
        text = inner.to_string();
        cause = inner.source();
    }
    printable(&text)
}

/// TLS that trusts nobody, for where there is none.
fn without_authorities() -> anyhow::Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .context("preparing TLS")?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// Headers of every request.
fn headers(target: &Target) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    for header in &target.headers {
        let malformed = || Failure::Usage(format!("the header {:?} is malformed", header.key));
        let name = HeaderName::try_from(&header.key).map_err(|_| malformed())?;
        let mut value = HeaderValue::try_from(&header.value).map_err(|_| malformed())?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    if let Some(token) = &target.token {
        let mut value = HeaderValue::try_from(format!("Bearer {}", token.0))
            .map_err(|_| Failure::Usage("the token is malformed".to_owned()))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    Ok(fs::read(path).with_context(|| format!("reading {}", path.display()))?)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(status: u16, text: &str) -> String {
        let status = StatusCode::from_u16(status).unwrap();
        Problem::of(&Reply { status, text: text.to_owned() }).to_string()
    }

    #[test]
    fn problems() {
        assert_eq!(
            problem(
                400,
                r#"{"title":"Could not process a resource","detail":"Resource is not valid",
                    "invalid_parameters":[{"field":"a.b","reason":"cannot be empty"},{"field":"c","reason":"is bad"}],
                    "causes":[{"field":"a.b","message":"cannot be empty"}]}"#
            ),
            "Could not process a resource (Resource is not valid)\n* a.b: cannot be empty\n* c: is bad"
        );
        assert_eq!(
            problem(400, r#"{"title":"T","details":"D","causes":[{"field":"f","message":"m"}]}"#),
            "T (D)\n* f: m"
        );
        assert_eq!(problem(404, r#"{"title":"T","detail":"D\n"}"#), "T (D)");
        assert_eq!(problem(409, r#"{"title":"Conflict"}"#), "Conflict");
        assert_eq!(problem(404, "404: Page Not Found"), "404: Page Not Found");
        assert_eq!(problem(502, "<html>\u{1b}[2J"), "<html> [2J");
        assert_eq!(problem(502, ""), "502 Bad Gateway");
        assert_eq!(problem(400, "[]"), "[]");
    }

    #[test]
    fn loopback() {
        for (url, want) in [
            ("http://localhost:5681", true),
            ("http://127.0.0.1:1", true),
            ("http://[::1]:1", true),
            ("http://example.com", false),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), want, "{url}");
        }
    }
}
