//! `version`.

use reqwest::Method;

use crate::{
    client::Client,
    failure::Failure,
    output::{Output, printable},
};

/// Prints our version, then the control plane's.
pub(crate) async fn run(client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
    writeln!(output.out, "Client: sunbearctl {}", env!("CARGO_PKG_VERSION"))?;
    let reply = client.send(Method::GET, client.path(&[""]), None).await?;
    let index = reply.success()?.json()?;
    let field = |key: &str| printable(index[key].as_str().unwrap_or("unknown"));
    writeln!(output.out, "Server: {} {}", field("product"), field("version"))?;
    Ok(())
}
