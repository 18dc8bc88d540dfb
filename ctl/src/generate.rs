//! `generate`: tokens, keys, certificates. What is printed is printed bare, so that it can be put
//! into a file.

mod certificate;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, IsTerminal as _},
};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::Method;
use serde::Serialize;
use serde_json::{Map, Value, json};
use sunbear_security::{
    signing_key,
    token::{self, DataplaneClaims, UserClaims, ZoneClaims},
};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    arguments::{
        Connection, DataplaneToken, Generate, Issue, KeyFormat, PublicKey, SigningKey, UserToken,
        ZoneToken,
    },
    client::Client,
    failure::Failure,
    output::Output,
    pairs, target,
};

/// Runs one of the commands.
pub(crate) async fn run(
    connection: &Connection,
    what: &Generate,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let text = match what {
        Generate::DataplaneToken(arguments) => {
            let (claims, body) = (dataplane_claims(arguments), dataplane_request(arguments));
            issue(connection, &arguments.issue, "dataplane", &claims, &body).await?
        }
        Generate::ZoneToken(arguments) => {
            let ZoneToken { zone, scope, issue: common } = arguments;
            let claims = ZoneClaims { zone: zone.clone(), scope: scope.clone() };
            let body = json!({"zone": zone, "scope": scope, "validFor": common.valid_for.text});
            issue(connection, common, "zone", &claims, &body).await?
        }
        Generate::UserToken(arguments) => {
            let UserToken { name, groups, issue: common } = arguments;
            let claims = UserClaims { name: name.clone(), groups: groups.clone() };
            let body = json!({"name": name, "groups": groups, "validFor": common.valid_for.text});
            issue(connection, common, "user", &claims, &body).await?
        }
        Generate::SigningKey(SigningKey { format }) => {
            let pem = signing_key::generate().context("generating a key")?;
            match format {
                KeyFormat::Pem => pem,
                KeyFormat::PemBase64 => STANDARD.encode(pem),
            }
        }
        Generate::PublicKey(PublicKey { signing_key_path: path }) => {
            let private = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            signing_key::public_pem(&private).with_context(|| path.display().to_string())?
        }
        Generate::TlsCertificate(arguments) => return certificate::run(arguments, output),
    };
    output.out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') && io::stdout().is_terminal() {
        writeln!(output.out)?;
    }
    Ok(())
}

/// A token, from the control plane or, with a key at hand, from here.
async fn issue(
    connection: &Connection,
    common: &Issue,
    kind: &str,
    claims: &impl Serialize,
    body: &Value,
) -> Result<String, Failure> {
    let Some((path, kid)) = common.signing_key_path.as_ref().zip(common.kid.as_ref()) else {
        let client = Client::new(&target::resolve(connection)?)?;
        let url = client.path(&["tokens", kind]);
        let reply = client.send(Method::POST, url, Some(body)).await?;
        return Ok(reply.success()?.text.trim().to_owned());
    };
    let key = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let key = token::SigningKey { kid, key: &key };
    let valid_for = common.valid_for.length.try_into().context("--valid-for")?;
    let token = token::issue(claims, key, Uuid::new_v4(), OffsetDateTime::now_utc(), valid_for);
    Ok(token.with_context(|| path.display().to_string())?)
}

/// Values that tags may have.
fn tags(arguments: &DataplaneToken) -> BTreeMap<String, BTreeSet<String>> {
    let mut tags: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (key, values) in pairs::all(&arguments.tags) {
        tags.entry(key).or_default().extend(values.split(',').map(str::to_owned));
    }
    tags
}

fn dataplane_claims(arguments: &DataplaneToken) -> DataplaneClaims {
    DataplaneClaims {
        name: arguments.name.clone().unwrap_or_default(),
        mesh: arguments.mesh.clone(),
        tags: tags(arguments),
        proxy_type: arguments.proxy_type.clone().unwrap_or_default(),
        workload: arguments.workload.clone().unwrap_or_default(),
    }
}

fn dataplane_request(arguments: &DataplaneToken) -> Value {
    let mut body = Map::new();
    body.insert("mesh".to_owned(), json!(arguments.mesh));
    body.insert("validFor".to_owned(), json!(arguments.issue.valid_for.text));
    for (key, value) in [
        ("name", &arguments.name),
        ("type", &arguments.proxy_type),
        ("workload", &arguments.workload),
    ] {
        if let Some(value) = value {
            body.insert(key.to_owned(), json!(value));
        }
    }
    let tags = tags(arguments);
    if !tags.is_empty() {
        body.insert("tags".to_owned(), json!(tags));
    }
    Value::Object(body)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::arguments::{Arguments, Command};

    fn arguments(options: &str) -> DataplaneToken {
        let line = format!("sunbearctl generate dataplane-token --valid-for 24h {options}");
        match Arguments::parse_from(line.split_whitespace()).command {
            Command::Generate { what: Generate::DataplaneToken(arguments) } => arguments,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn requests() {
        assert_eq!(
            dataplane_request(&arguments("")),
            json!({"mesh": "default", "validFor": "24h"})
        );
        let arguments = arguments(
            "--tag kuma.io/service=web,api --tag v=1 --tag v=2 --name dp --type dataplane --workload w",
        );
        assert_eq!(
            dataplane_request(&arguments),
            json!({"mesh": "default", "validFor": "24h", "name": "dp", "type": "dataplane",
                "workload": "w", "tags": {"kuma.io/service": ["api", "web"], "v": ["1", "2"]}})
        );
        let claims = dataplane_claims(&arguments);
        assert_eq!((claims.name.as_str(), claims.workload.as_str()), ("dp", "w"));
        assert_eq!(claims.tags.len(), 2);
    }
}
