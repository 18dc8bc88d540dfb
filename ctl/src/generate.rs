//! `generate`: tokens.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, IsTerminal as _},
};

use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::{arguments::DataplaneToken, client::Client, failure::Failure, output::Output};

/// Generates a token for a proxy and prints it bare, so that it can be put into a file.
pub(crate) async fn dataplane_token(
    client: &Client,
    arguments: &DataplaneToken,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let url = client.path(&["tokens", "dataplane"]);
    let reply = client.send(Method::POST, url, Some(&request(arguments))).await?;
    let token = reply.success()?.text;
    output.out.write_all(token.trim().as_bytes())?;
    if io::stdout().is_terminal() {
        writeln!(output.out)?;
    }
    Ok(())
}

fn request(arguments: &DataplaneToken) -> Value {
    let mut tags: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (key, values) in &arguments.tags {
        tags.entry(key).or_default().extend(values.split(','));
    }
    let mut body = Map::new();
    body.insert("mesh".to_owned(), json!(arguments.mesh));
    body.insert("validFor".to_owned(), json!(arguments.valid_for));
    for (key, value) in [
        ("name", &arguments.name),
        ("type", &arguments.proxy_type),
        ("workload", &arguments.workload),
    ] {
        if let Some(value) = value {
            body.insert(key.to_owned(), json!(value));
        }
    }
    if !tags.is_empty() {
        body.insert("tags".to_owned(), json!(tags));
    }
    Value::Object(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let mut arguments = DataplaneToken {
            name: None,
            mesh: "default".to_owned(),
            tags: Vec::new(),
            proxy_type: None,
            workload: None,
            valid_for: "24h".to_owned(),
        };
        assert_eq!(request(&arguments), json!({"mesh": "default", "validFor": "24h"}));
        let tag = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        arguments.tags = vec![tag("kuma.io/service", "web,api"), tag("v", "1"), tag("v", "2")];
        arguments.name = Some("dp".to_owned());
        arguments.proxy_type = Some("dataplane".to_owned());
        assert_eq!(
            request(&arguments),
            json!({"mesh": "default", "validFor": "24h", "name": "dp", "type": "dataplane",
                "tags": {"kuma.io/service": ["api", "web"], "v": ["1", "2"]}})
        );
    }
}
