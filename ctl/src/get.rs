//! `get`: one object, or all of a type.

use anyhow::{Context as _, anyhow};
use reqwest::{Method, Url};
use serde_json::{Value, json};
use sunbear_model::Kind;
use time::OffsetDateTime;

use crate::{
    arguments::{Format, Get},
    client::Client,
    failure::Failure,
    kinds,
    output::{self, Output},
    table,
};

/// Items per request when all are wanted; the most that Kuma's API gives.
const PAGE: u32 = 1000;

/// Runs the command.
pub(crate) async fn run(
    client: &Client,
    arguments: &Get,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let kind = kinds::find(&arguments.kind)?;
    match &arguments.name {
        Some(name) => one(client, arguments, kind, name, output).await,
        None => list(client, arguments, kind, output).await,
    }
}

async fn one(
    client: &Client,
    arguments: &Get,
    kind: Kind,
    name: &str,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let url = client.resource(kind, &arguments.mesh, Some(name))?;
    let reply = client.send(Method::GET, url, None).await?;
    let item = reply.success()?.json()?;
    let text = match arguments.output {
        Format::Json => output::json(&item)?,
        Format::Yaml => output::yaml(&item)?,
        Format::Table => table::resources(kind, &[item], OffsetDateTime::now_utc()),
    };
    output.out.write_all(text.as_bytes())?;
    Ok(())
}

async fn list(
    client: &Client,
    arguments: &Get,
    kind: Kind,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let mesh = if arguments.all_meshes { "" } else { &arguments.mesh };
    let url = client.resource(kind, mesh, None)?;
    let mut items = Vec::new();
    let mut offset = arguments.offset.clone();
    let total = loop {
        let mut url = url.clone();
        url.query_pairs_mut().append_pair("size", &arguments.size.unwrap_or(PAGE).to_string());
        if let Some(offset) = &offset {
            url.query_pairs_mut().append_pair("offset", offset);
        }
        let page = client.send(Method::GET, url, None).await?.success()?.json()?;
        let page_items = page["items"].as_array().context("the list has no items")?;
        items.extend(page_items.iter().cloned());
        let next = next_offset(&page)?;
        let more = next.is_some();
        if more && next == offset {
            return Err(anyhow!("the control plane repeats a page").into());
        }
        offset = next;
        if !more || arguments.size.is_some() {
            break page["total"].clone();
        }
    };
    let text = match arguments.output {
        Format::Json => output::json(&json!({"items": items, "next": offset, "total": total}))?,
        Format::Yaml => {
            let documents: anyhow::Result<Vec<_>> = items.iter().map(output::yaml).collect();
            documents?.join("---\n")
        }
        Format::Table => table::resources(kind, &items, OffsetDateTime::now_utc()),
    };
    output.out.write_all(text.as_bytes())?;
    if let Some(offset) = offset.filter(|_| arguments.output != Format::Json) {
        writeln!(
            output.err,
            "\nRerun command with --offset={offset} argument to retrieve more resources"
        )?;
    }
    Ok(())
}

/// The offset in the address of the next page. Only this is taken from it: behind a proxy the
/// address itself may be wrong, and the token must not go elsewhere.
fn next_offset(page: &Value) -> Result<Option<String>, Failure> {
    let next = match &page["next"] {
        Value::Null => return Ok(None),
        next => next.as_str().unwrap_or_default(),
    };
    let url = Url::parse(next).context("the list's next page has a malformed address")?;
    let offset = url.query_pairs().find(|(key, _)| key == "offset").map(|(_, v)| v.into_owned());
    Ok(Some(offset.context("the list's next page has no offset")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets() {
        assert_eq!(next_offset(&json!({"next": null})).unwrap(), None);
        assert_eq!(next_offset(&json!({})).unwrap(), None);
        assert_eq!(
            next_offset(&json!({"next": "http://x/meshes?offset=a%2Fb&size=1"}))
                .unwrap()
                .as_deref(),
            Some("a/b")
        );
        assert!(next_offset(&json!({"next": "http://x/meshes"})).is_err());
        assert!(next_offset(&json!({"next": "meshes?offset=1"})).is_err());
        assert!(next_offset(&json!({"next": 1})).is_err());
    }
}
