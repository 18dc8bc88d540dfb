//! `delete`.

use reqwest::{Method, StatusCode};

use crate::{
    arguments::Delete,
    client::{Client, Problem},
    failure::Failure,
    kinds,
    output::Output,
};

/// Runs the command.
pub(crate) async fn run(
    client: &Client,
    arguments: &Delete,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let kind = kinds::find_writable(&arguments.kind)?;
    let name = &arguments.name;
    let url = client.resource(kind, &arguments.mesh, Some(name))?;
    let reply = client.send(Method::DELETE, url, None).await?;
    if reply.status == StatusCode::NOT_FOUND {
        let place = if kind.is_mesh_scoped() {
            format!(" in mesh {:?}", arguments.mesh)
        } else {
            String::new()
        };
        return Err(Failure::NotFound(format!(
            "there is no {kind} with name {name:?}{place}: {}",
            Problem::of(&reply)
        )));
    }
    reply.success()?;
    writeln!(output.out, "deleted {kind} {name:?}")?;
    Ok(())
}
