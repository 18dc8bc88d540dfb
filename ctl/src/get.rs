//! `get`: one object, or all of a type.

use reqwest::Method;
use sunbear_model::Kind;
use time::OffsetDateTime;

use crate::{
    arguments::{Format, Get},
    client::Client,
    failure::Failure,
    kinds,
    list::{self, Page},
    output::{self, Output},
    table,
};

/// Runs the command.
pub(crate) async fn run(
    client: &Client,
    arguments: &Get,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let kind = kinds::find(&arguments.kind)?;
    if let Some(name) = &arguments.name {
        return one(client, arguments, kind, name, output).await;
    }
    let mesh = if arguments.all_meshes { "" } else { &arguments.mesh };
    let url = client.resource(kind, mesh, None)?;
    let page = Page { size: arguments.size, offset: arguments.offset.clone() };
    let list = list::read(client, &url, page).await?;
    let table = |items: &[_]| table::resources(kind, items, OffsetDateTime::now_utc());
    list::print(&list, arguments.output, table, output)
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
        Format::Yaml => output::resource_yaml(kind, &item)?,
        Format::Table => table::resources(kind, &[item], OffsetDateTime::now_utc()),
    };
    output.out.write_all(text.as_bytes())?;
    Ok(())
}
