//! Lists of the API, page by page.

use anyhow::{Context as _, anyhow};
use reqwest::{Method, Url};
use serde_json::{Value, json};

use crate::{
    arguments::Format,
    client::Client,
    failure::Failure,
    output::{self, Output},
};

/// Items per request when all are wanted; the most that Kuma's API gives.
const PAGE: u32 = 1000;

/// What of a list is wanted.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// One page of this many items; all without it.
    pub(crate) size: Option<u32>,
    /// Where it starts.
    pub(crate) offset: Option<String>,
}

/// Items of a list.
#[derive(Debug)]
pub(crate) struct List {
    pub(crate) items: Vec<Value>,
    total: Value,
    /// Where the next page starts.
    next: Option<String>,
}

/// Reads a list.
pub(crate) async fn read(client: &Client, url: &Url, page: Page) -> Result<List, Failure> {
    let mut items = Vec::new();
    let mut offset = page.offset;
    loop {
        let mut url = url.clone();
        url.query_pairs_mut().append_pair("size", &page.size.unwrap_or(PAGE).to_string());
        if let Some(offset) = &offset {
            url.query_pairs_mut().append_pair("offset", offset);
        }
        let page_read = client.send(Method::GET, url, None).await?.success()?.json()?;
        let page_items = page_read["items"].as_array().context("the list has no items")?;
        items.extend(page_items.iter().cloned());
        let next = next_offset(&page_read)?;
        if next.is_some() && next == offset {
            return Err(anyhow!("the control plane repeats a page").into());
        }
        offset = next;
        if offset.is_none() || page.size.is_some() {
            return Ok(List { items, total: page_read["total"].clone(), next: offset });
        }
    }
}

/// Prints a list. The table is made of its items.
pub(crate) fn print(
    list: &List,
    format: Format,
    table: impl FnOnce(&[Value]) -> String,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let whole = || json!({"items": list.items, "next": list.next, "total": list.total});
    let text = match format {
        Format::Json => output::json(&whole())?,
        Format::Yaml => output::yaml(&whole())?,
        Format::Table => table(&list.items),
    };
    output.out.write_all(text.as_bytes())?;
    if let Some(offset) = list.next.as_ref().filter(|_| format == Format::Table) {
        writeln!(
            output.out,
            "\nRerun command with --offset={} argument to retrieve more resources",
            output::printable(offset)
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
