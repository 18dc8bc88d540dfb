//! Questions to the Envoys of zones, and heartbeats.

use std::{sync::Arc, time::Instant};

use sunbear_proto::kuma::mesh::v1alpha1::{
    ClustersRequest, ClustersResponse, StatsRequest, StatsResponse, XdsConfigRequest,
    XdsConfigResponse, ZoneHealthCheckRequest, ZoneHealthCheckResponse,
    global_kds_service_server::GlobalKdsService,
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};
use tracing::{Instrument as _, info_span};

use super::{Answers, Caller, GlobalKds, Service, end_with, lock, registry::next_id};
use crate::{
    admin::{Clusters, Messages, Stats, XdsConfigs},
    transport::QUEUE,
    zone_insight::ZoneStream,
};

impl Service {
    async fn admin_stream<M: Messages>(
        &self,
        request: Request<Streaming<M::Response>>,
        which: ZoneStream,
    ) -> Result<Response<Answers<M::Request>>, Status> {
        let caller = self.0.caller(&request)?;
        self.0.ensure_zone(&caller.zone).await?;
        let (tx, rx) = mpsc::channel(QUEUE);
        let kds = Arc::clone(&self.0);
        kds.insights.stream_opened(&caller.zone, which);
        let span = info_span!("admin", zone = caller.zone, stream = ?which);
        self.0
            .streams
            .spawn(serve_admin::<M>(kds, caller, request.into_inner(), tx).instrument(span));
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }
}

/// Carries questions to a zone and answers back.
async fn serve_admin<M: Messages>(
    kds: Arc<GlobalKds>,
    caller: Caller,
    mut inbound: Streaming<M::Response>,
    tx: mpsc::Sender<Result<M::Request, Status>>,
) {
    let id = next_id();
    let mut calls = kds.desk.open(&caller.zone, M::STREAM, id);
    let status = loop {
        tokio::select! {
            call = calls.recv() => match call {
                Some(call) => {
                    if tx.send(Ok(M::request(call))).await.is_err() {
                        break Status::unavailable("the zone closed the stream");
                    }
                }
                None => break Status::unavailable("another stream of the zone took over"),
            },
            response = inbound.next() => match response {
                Some(Ok(response)) => {
                    let (id, answer) = M::read_response(response);
                    kds.desk.answered(&id, answer);
                }
                Some(Err(status)) => break Status::unavailable(status.message()),
                None => break Status::unavailable("stream ended"),
            },
            () = kds.cancelled.cancelled() => {
                break Status::unavailable("control plane is stopping");
            }
            () = kds.heartbeat_lost(&caller.zone, &caller.features) => {
                break Status::unavailable("no heartbeat from the zone");
            }
        }
    };
    kds.desk.close(&caller.zone, M::STREAM, id);
    end_with(&tx, status).await;
}

#[tonic::async_trait]
impl GlobalKdsService for Service {
    type StreamXDSConfigsStream = Answers<XdsConfigRequest>;
    type StreamStatsStream = Answers<StatsRequest>;
    type StreamClustersStream = Answers<ClustersRequest>;

    async fn stream_xds_configs(
        &self,
        request: Request<Streaming<XdsConfigResponse>>,
    ) -> Result<Response<Self::StreamXDSConfigsStream>, Status> {
        self.admin_stream::<XdsConfigs>(request, ZoneStream::XdsConfigs).await
    }

    async fn stream_stats(
        &self,
        request: Request<Streaming<StatsResponse>>,
    ) -> Result<Response<Self::StreamStatsStream>, Status> {
        self.admin_stream::<Stats>(request, ZoneStream::Stats).await
    }

    async fn stream_clusters(
        &self,
        request: Request<Streaming<ClustersResponse>>,
    ) -> Result<Response<Self::StreamClustersStream>, Status> {
        self.admin_stream::<Clusters>(request, ZoneStream::Clusters).await
    }

    async fn health_check(
        &self,
        request: Request<ZoneHealthCheckRequest>,
    ) -> Result<Response<ZoneHealthCheckResponse>, Status> {
        let caller = self.0.caller(&request).map_err(|status| {
            if status.code() == tonic::Code::Unknown {
                Status::invalid_argument(status.message())
            } else {
                status
            }
        })?;
        lock(&self.0.registry).entry(caller.zone.clone()).or_default().last_heartbeat =
            Some(Instant::now());
        self.0.insights.health_checked(&caller.zone);
        let interval = self.0.config.health_interval;
        Ok(Response::new(ZoneHealthCheckResponse {
            interval: Some(prost_types::Duration {
                seconds: i64::try_from(interval.as_secs()).unwrap_or(i64::MAX),
                nanos: i32::try_from(interval.subsec_nanos()).unwrap_or(0),
            }),
        }))
    }
}
