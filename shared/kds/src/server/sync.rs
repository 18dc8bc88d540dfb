//! The two streams that resources flow on.

use std::sync::Arc;

use sunbear_model::{Kind, ResourceKey};
use sunbear_proto::{
    envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    kuma::mesh::v1alpha1::kds_sync_service_server::KdsSyncService,
};
use sunbear_store::{Snapshot, World};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};
use tracing::{Instrument as _, info, info_span};
use uuid::Uuid;

use super::{Answers, Caller, GlobalKds, Service, end_with, lock, registry::Registration};
use crate::{
    FEATURE_HASH_SUFFIX,
    mapping::Peer,
    node::{Identity, PeerNode},
    receiver::{Receiver, Side},
    sender::Seen,
    transport::{self, Observer, Outlet, QUEUE},
    zone_insight::{self, ZoneStream},
};

#[tonic::async_trait]
impl KdsSyncService for Service {
    type GlobalToZoneSyncStream = Answers<DeltaDiscoveryResponse>;
    type ZoneToGlobalSyncStream = Answers<DeltaDiscoveryRequest>;

    async fn global_to_zone_sync(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::GlobalToZoneSyncStream>, Status> {
        let caller = self.0.caller(&request)?;
        self.0.ensure_zone(&caller.zone).await?;
        let registration = self.0.register(&caller, "GlobalToZoneSync")?;
        self.0.insights.stream_opened(&caller.zone, ZoneStream::GlobalToZone);
        let (tx, rx) = mpsc::channel(QUEUE);
        let kds = Arc::clone(&self.0);
        let span = info_span!("global_to_zone", zone = caller.zone);
        self.0.streams.spawn(
            send_to_zone(kds, caller, registration, request.into_inner(), tx).instrument(span),
        );
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }

    async fn zone_to_global_sync(
        &self,
        request: Request<Streaming<DeltaDiscoveryResponse>>,
    ) -> Result<Response<Self::ZoneToGlobalSyncStream>, Status> {
        let caller = self.0.caller(&request)?;
        self.0.ensure_zone(&caller.zone).await?;
        let registration = self.0.register(&caller, "ZoneToGlobalSync")?;
        self.0.insights.stream_opened(&caller.zone, ZoneStream::ZoneToGlobal);
        let (tx, rx) = mpsc::channel(QUEUE);
        let kds = Arc::clone(&self.0);
        let span = info_span!("zone_to_global", zone = caller.zone);
        self.0.streams.spawn(
            receive_from_zone(kds, caller, registration, request.into_inner(), tx).instrument(span),
        );
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }
}

async fn send_to_zone(
    kds: Arc<GlobalKds>,
    caller: Caller,
    registration: Registration,
    inbound: Streaming<DeltaDiscoveryRequest>,
    tx: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
) {
    info!("zone connected");
    let id = Uuid::new_v4().to_string();
    let mut observer = ZoneObserver { kds: &kds, caller: &caller, id: &id, subscribed: false };
    let status = tokio::select! {
        status = transport::run_sender(
            inbound,
            Outlet::Server(tx.clone()),
            &kds.world,
            &kds.encoder,
            "global",
            kds.config.max_message,
            &mut observer,
        ) => status,
        () = registration.end.cancelled() => ended(&registration),
        () = kds.heartbeat_lost(&caller.zone, &caller.features) => {
            Status::unavailable("no heartbeat from the zone")
        }
    };
    info!(reason = status.message(), "zone disconnected");
    if observer.subscribed {
        kds.insights.disconnected(&caller.zone, &id);
    }
    end_with(&tx, status).await;
}

async fn receive_from_zone(
    kds: Arc<GlobalKds>,
    caller: Caller,
    registration: Registration,
    mut inbound: Streaming<DeltaDiscoveryResponse>,
    tx: mpsc::Sender<Result<DeltaDiscoveryRequest, Status>>,
) {
    let receiving = async {
        let identity = Identity {
            id: caller.zone.clone(),
            instance_id: kds.config.instance_id.clone(),
            version: kds.config.version.clone(),
            config: String::new(),
        };
        let side = Side::Global {
            zone: caller.zone.clone(),
            hash_suffix: caller.features.contains(FEATURE_HASH_SUFFIX),
        };
        let mut receiver = Receiver::new(side, identity);
        for request in receiver.subscriptions() {
            if tx.send(Ok(request)).await.is_err() {
                return Status::unavailable("the zone closed the stream");
            }
        }
        loop {
            match inbound.next().await {
                Some(Ok(response)) => {
                    let answer = transport::apply(
                        &mut receiver,
                        response,
                        &kds.world,
                        &caller.zone,
                        &registration.end,
                    )
                    .await;
                    let Some(answer) = answer else {
                        return Status::unavailable("control plane is stopping");
                    };
                    if tx.send(Ok(answer)).await.is_err() {
                        return Status::unavailable("the zone closed the stream");
                    }
                }
                Some(Err(status)) => return status,
                None => return Status::unavailable("stream ended"),
            }
        }
    };
    let zone_deleted = zone_deleted(&kds.world, &caller.zone);
    let status = tokio::select! {
        status = receiving => status,
        () = registration.end.cancelled() => ended(&registration),
        () = zone_deleted => Status::unavailable("the zone was deleted"),
        () = kds.heartbeat_lost(&caller.zone, &caller.features) => {
            Status::unavailable("no heartbeat from the zone")
        }
    };
    end_with(&tx, status).await;
}

fn ended(registration: &Registration) -> Status {
    lock(&registration.reason)
        .take()
        .unwrap_or_else(|| Status::unavailable("control plane is stopping"))
}

/// Resolves when the Zone object goes away.
async fn zone_deleted(world: &World, zone: &str) {
    let key = ResourceKey::new(Kind::ZONE, "", zone);
    let mut subscription = world.subscribe();
    loop {
        match subscription.next().await {
            sunbear_store::Update::Changes { snapshot, keys } => {
                if keys.contains(&key) && snapshot.get(&key).is_none() {
                    return;
                }
            }
            sunbear_store::Update::Resync { snapshot } => {
                if snapshot.get(&key).is_none() {
                    return;
                }
            }
            sunbear_store::Update::Closed => std::future::pending().await,
        }
    }
}

/// Counts for the ZoneInsight, and refuses what must not go on.
struct ZoneObserver<'a> {
    kds: &'a GlobalKds,
    caller: &'a Caller,
    id: &'a str,
    subscribed: bool,
}

impl Observer for ZoneObserver<'_> {
    fn first_request(&mut self, node: &PeerNode) -> Result<Peer, Status> {
        let zone = &self.caller.zone;
        // Who the zone is was settled by the call's metadata; the payload may not say otherwise.
        if node.id != *zone {
            return Err(Status::invalid_argument(format!(
                "the node names zone {:?}, the call zone {zone:?}",
                node.id
            )));
        }
        self.kds.insights.subscribed(
            zone,
            self.id,
            node,
            &self.kds.config.version,
            self.caller.token,
        );
        self.subscribed = true;
        Ok(Peer { name: zone.clone(), features: node.features.clone() })
    }

    fn sent(&mut self, type_url: &str) {
        self.kds.counters.sent(type_url);
        self.kds.insights.sent(&self.caller.zone, self.id, type_url);
    }

    fn answered(&mut self, type_url: &str, seen: Seen) {
        self.kds.counters.answered(type_url, seen);
        self.kds.insights.answered(&self.caller.zone, self.id, type_url, seen);
    }

    fn changed(&mut self, snapshot: &Snapshot, key: &ResourceKey) -> Result<(), Status> {
        if *key.name != *self.caller.zone {
            return Ok(());
        }
        if key.kind == Kind::ZONE && snapshot.get(key).is_none() {
            return Err(Status::unavailable("the zone was deleted"));
        }
        if key.kind == Kind::ZONE_INSIGHT
            && let Some(insight) = snapshot.get(key).and_then(|r| r.as_zone_insight())
            && let Some(newer) = zone_insight::taken_over(insight, self.id)
        {
            let message = format!(
                "another connection of zone {:?}, from {} at replica {}, took over",
                self.caller.zone, newer.zone_instance_id, newer.global_instance_id
            );
            self.kds.end_streams(&self.caller.zone, &message);
            return Err(Status::unavailable(message));
        }
        Ok(())
    }
}
