//! Configurations to look at, from the server of proxies.

use std::sync::Arc;

use serde_json::Value;
use sunbear_api::{ConfigPreview, PreviewError};
use sunbear_dp_server::DpServer;
use sunbear_store::Snapshot;
use sunbear_xds::GenerateError;

/// What this zone's proxies would get.
pub(crate) struct Preview(pub(crate) Arc<DpServer>);

impl ConfigPreview for Preview {
    fn config(
        &self,
        snapshot: &Arc<Snapshot>,
        mesh: &str,
        name: &str,
        shadow: bool,
    ) -> Result<Value, PreviewError> {
        use sunbear_dp_server::PreviewError as Error;
        self.0.preview(snapshot, mesh, name, shadow).map_err(|error| match error {
            Error::NeverConnected { .. }
            | Error::Generate(GenerateError::NoDataplane { .. } | GenerateError::NoMesh(_)) => {
                PreviewError::NotFound(error.to_string())
            }
            Error::Generate(GenerateError::NotAGateway { .. }) => {
                PreviewError::NotGenerated(error.to_string())
            }
            Error::Generate(GenerateError::Inconsistent(_)) | Error::Show(..) => {
                PreviewError::Failed(format!("{:#}", anyhow::Error::new(error)))
            }
        })
    }
}
