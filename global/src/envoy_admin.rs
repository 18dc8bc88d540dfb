//! Questions about proxies that users ask on the global: passed on to the proxy's zone.

use std::sync::Arc;

use sunbear_api::{AdminBackend, AdminError, AdminFuture, AdminQuestion};
use sunbear_kds::{
    admin::{AskError, Question, Target},
    server::GlobalKds,
};
use sunbear_model::{Resource, label};

use crate::replicas::Replicas;

/// Asks over the streams that zones hold to this instance, or to another replica.
pub(crate) struct ThroughZones {
    pub(crate) kds: Arc<GlobalKds>,
    pub(crate) replicas: Option<Arc<Replicas>>,
}

impl AdminBackend for ThroughZones {
    fn ask(&self, proxy: Arc<Resource>, question: AdminQuestion) -> AdminFuture<'_> {
        Box::pin(async move {
            let question = match question {
                AdminQuestion::ConfigDump { include_eds } => Question::XdsConfig { include_eds },
                AdminQuestion::Stats { json, used_only } => Question::Stats { json, used_only },
                AdminQuestion::Clusters { json } => Question::Clusters { json },
            };
            let error = match ask(&self.kds, &proxy, question).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if let (AskError::Elsewhere { replica, .. }, Some(replicas)) = (&error, &self.replicas)
                && let Some(answer) = replicas.ask(replica, &proxy, question).await
            {
                return answer;
            }
            Err(match error {
                AskError::NotConnected(_) => AdminError::NotConnected,
                AskError::Elsewhere { .. }
                | AskError::NotSent { .. }
                | AskError::Refused { .. }
                | AskError::Timeout(_) => AdminError::Refused(error.to_string()),
            })
        })
    }
}

/// Asks over the streams that zones hold to this instance.
pub(crate) async fn ask(
    kds: &GlobalKds,
    proxy: &Resource,
    question: Question,
) -> Result<Vec<u8>, AskError> {
    let zone = proxy.label(label::ZONE);
    let zone = zone.ok_or(AskError::NotConnected(question.operation()))?;
    let target = Target {
        kind: proxy.key.kind.name().to_owned(),
        name: proxy.display_name().to_owned(),
        mesh: proxy.key.mesh.to_string(),
    };
    kds.ask(zone, target, question).await
}
