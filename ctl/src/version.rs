//! `version`, and what a control plane says about itself.

use reqwest::Method;
use serde_json::Value;

use crate::{
    client::Client,
    failure::Failure,
    output::{self, Output, printable},
};

/// The product that control planes say they are, and the version of its API that is spoken here.
pub(crate) const PRODUCT: &str = "Kuma";
pub(crate) const API_VERSION: &str = "2.14.3";

/// What a control plane says about itself.
pub(crate) async fn index(client: &Client) -> Result<Value, Failure> {
    let reply = client.send(Method::GET, client.path(&[""]), None).await?;
    reply.success()?.json()
}

/// Prints our version, then the control plane's.
pub(crate) async fn run(
    client: &Client,
    detailed: bool,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    writeln!(output.out, "Client: sunbearctl {}", env!("CARGO_PKG_VERSION"))?;
    let index = index(client).await?;
    if detailed {
        write!(output.out, "Server: {}", output::json(&index)?)?;
    } else {
        let own = match field(&index, "sunbearVersion") {
            own if own.is_empty() => own,
            own => format!(" (Sunbear {own})"),
        };
        let (product, version) = (field(&index, "product"), field(&index, "version"));
        writeln!(output.out, "Server: {product} {version}{own}")?;
    }
    if let Some(warning) = mismatch(&index) {
        writeln!(output.err, "Warning: {warning}")?;
    }
    Ok(())
}

/// What may go wrong between this program and such a control plane. Versions of a preview say
/// nothing about what they are.
fn mismatch(index: &Value) -> Option<String> {
    let (product, version) = (field(index, "product"), field(index, "version"));
    let same = product == PRODUCT && version == API_VERSION;
    (!same && !version.contains("preview")).then(|| {
        format!(
            "this program speaks the API of {PRODUCT} {API_VERSION}, the control plane that of \
             {product} {version}"
        )
    })
}

/// A text of the answer.
pub(crate) fn field(index: &Value, key: &str) -> String {
    printable(index[key].as_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn versions_are_compared() {
        let check = |product, version| mismatch(&json!({"product": product, "version": version}));
        assert_eq!(check("Kuma", "2.14.3"), None);
        assert_eq!(check("Kuma", "0.0.0-preview.v123"), None);
        assert_eq!(
            check("Kong Mesh", "2.13.0").unwrap(),
            "this program speaks the API of Kuma 2.14.3, the control plane that of Kong Mesh 2.13.0"
        );
    }
}
