//! The gRPC edge: each call becomes a task that drives one stream.

use std::{pin::Pin, sync::Arc};

use futures_util::Stream;
use sunbear_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    aggregated_discovery_service_server::AggregatedDiscoveryService,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;

use crate::{
    ads::{Machine, delta, sotw},
    auth::Credential,
    server::DpServer,
    session,
};

/// Responses between a stream's task and its connection. One: the task makes the next one when the
/// connection takes this one, from what is wanted then.
const RESPONSES: usize = 1;

/// The discovery service.
#[derive(Debug, Clone)]
pub(crate) struct DiscoveryService {
    server: Arc<DpServer>,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl DiscoveryService {
    pub(crate) fn new(server: Arc<DpServer>) -> Self {
        Self { server }
    }

    fn start<M: Machine>(
        &self,
        variant: &'static str,
        request: Request<Streaming<M::Request>>,
    ) -> Result<Response<Responses<M::Response>>, Status> {
        let server = Arc::clone(&self.server);
        if server.stopping.is_cancelled() {
            return Err(session::stopping());
        }
        let credential = Credential::of_call(request.metadata())?;
        let (sender, receiver) = mpsc::channel(RESPONSES);
        let span = tracing::info_span!("ads", variant, proxy = tracing::field::Empty);
        let task = session::run::<M>(server, credential, request.into_inner(), sender);
        self.server.streams.spawn(task.instrument(span));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for DiscoveryService {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        self.start::<sotw::Stream>("sotw", request)
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        self.start::<delta::Stream>("delta", request)
    }
}
