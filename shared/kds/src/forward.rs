//! Questions that a replica of a global passes on to the one that the proxy's zone is connected to
//! (`spec/kds.md` 5.7).

use std::sync::Arc;

use rustls::ClientConfig;
use sunbear_proto::kuma::mesh::v1alpha1::{
    ClustersRequest, ClustersResponse, StatsRequest, StatsResponse, XdsConfigRequest,
    XdsConfigResponse,
    inter_cp_envoy_admin_forward_service_client::InterCpEnvoyAdminForwardServiceClient as Client,
    inter_cp_envoy_admin_forward_service_server::{
        InterCpEnvoyAdminForwardService, InterCpEnvoyAdminForwardServiceServer,
    },
};
use tonic::{Request, Response, Status};

use crate::{
    admin::{
        self, Call, Clusters, DEADLINE, EnvoyAdmin, Messages, Question, Stats, Target, XdsConfigs,
    },
    dial::{self, DialError, GlobalAddress},
};

/// Why a question could not be passed on.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The replica has no usable address.
    #[error("no usable address")]
    Address(#[from] DialError),
    /// It cannot be reached.
    #[error("no answer")]
    Unreachable(#[source] Box<Status>),
    /// It says why there is no answer.
    #[error("{0}")]
    Refused(String),
}

impl From<Status> for ForwardError {
    fn from(status: Status) -> Self {
        Self::Unreachable(Box::new(status))
    }
}

/// The gRPC services of a replica for others. `backend` is asked about proxies by their names on the
/// global, and passes nothing on.
pub fn routes(backend: Arc<dyn EnvoyAdmin>, max_message: usize) -> tonic::service::Routes {
    let service = InterCpEnvoyAdminForwardServiceServer::new(Service { backend, max_message })
        .max_encoding_message_size(max_message);
    tonic::service::Routes::new(service)
}

/// Asks another replica. Its certificate has to bear this name.
pub async fn ask(
    address: &GlobalAddress,
    tls: Arc<ClientConfig>,
    name: &str,
    max_message: usize,
    target: Target,
    question: Question,
) -> Result<Vec<u8>, ForwardError> {
    let channel = dial::channel_to(address, tls, name)?;
    let mut client = Client::new(channel).max_decoding_message_size(max_message);
    let call = Call::new(target, question);
    let asking = async {
        Ok::<_, Status>(match question {
            Question::XdsConfig { .. } => {
                let answer = client.xds_config(XdsConfigs::request(call)).await?;
                XdsConfigs::read_response(answer.into_inner()).1
            }
            Question::Stats { .. } => {
                let answer = client.stats(Stats::request(call)).await?;
                Stats::read_response(answer.into_inner()).1
            }
            Question::Clusters { .. } => {
                let answer = client.clusters(Clusters::request(call)).await?;
                Clusters::read_response(answer.into_inner()).1
            }
        })
    };
    let late = |_| Status::deadline_exceeded("no answer in time");
    // The other replica gives the zone as long.
    let answer = tokio::time::timeout(DEADLINE * 2, asking).await.map_err(late)??;
    answer.map_err(ForwardError::Refused)
}

struct Service {
    backend: Arc<dyn EnvoyAdmin>,
    max_message: usize,
}

impl Service {
    async fn answer<M: Messages>(
        &self,
        request: Request<M::Request>,
    ) -> Result<Response<M::Response>, Status> {
        let call = M::read_request(request.into_inner());
        Ok(Response::new(admin::answer::<M>(&*self.backend, call, self.max_message).await))
    }
}

#[tonic::async_trait]
impl InterCpEnvoyAdminForwardService for Service {
    async fn xds_config(
        &self,
        request: Request<XdsConfigRequest>,
    ) -> Result<Response<XdsConfigResponse>, Status> {
        self.answer::<XdsConfigs>(request).await
    }

    async fn stats(
        &self,
        request: Request<StatsRequest>,
    ) -> Result<Response<StatsResponse>, Status> {
        self.answer::<Stats>(request).await
    }

    async fn clusters(
        &self,
        request: Request<ClustersRequest>,
    ) -> Result<Response<ClustersResponse>, Status> {
        self.answer::<Clusters>(request).await
    }
}
