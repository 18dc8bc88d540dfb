//! Questions about proxies that users ask on the global: passed on to the proxy's zone.

use std::sync::Arc;

use sunbear_api::{AdminBackend, AdminError, AdminFuture, AdminQuestion};
use sunbear_kds::{
    admin::{AskError, Question, Target},
    server::GlobalKds,
};
use sunbear_model::{Resource, label};

/// Asks over the streams that zones hold to this instance.
pub(crate) struct ThroughZones(pub(crate) Arc<GlobalKds>);

impl AdminBackend for ThroughZones {
    fn ask(&self, proxy: Arc<Resource>, question: AdminQuestion) -> AdminFuture<'_> {
        Box::pin(async move {
            let zone = proxy.label(label::ZONE).ok_or(AdminError::NotConnected)?;
            let target = Target {
                kind: proxy.key.kind.name().to_owned(),
                name: proxy.display_name().to_owned(),
                mesh: proxy.key.mesh.to_string(),
            };
            let question = match question {
                AdminQuestion::ConfigDump { include_eds } => Question::XdsConfig { include_eds },
                AdminQuestion::Stats { json, used_only } => Question::Stats { json, used_only },
                AdminQuestion::Clusters { json } => Question::Clusters { json },
            };
            self.0.ask(zone, target, question).await.map_err(|error| match error {
                AskError::NotConnected(_) => AdminError::NotConnected,
                AskError::NotSent { .. } | AskError::Refused { .. } | AskError::Timeout(_) => {
                    AdminError::Refused(error.to_string())
                }
            })
        })
    }
}
