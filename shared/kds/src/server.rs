//! The global's end of KDS: the gRPC services that zones call (`spec/kds.md` 1, 5).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus::core::Collector;
use sunbear_model::{Kind, ResourceKey, Spec, validation};
use sunbear_proto::{
    envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    kuma::{
        mesh::v1alpha1::{
            ClustersRequest, ClustersResponse, StatsRequest, StatsResponse, XdsConfigRequest,
            XdsConfigResponse, ZoneHealthCheckRequest, ZoneHealthCheckResponse,
            global_kds_service_server::{GlobalKdsService, GlobalKdsServiceServer},
            kds_sync_service_server::{KdsSyncService, KdsSyncServiceServer},
        },
        system::v1alpha1::Zone,
    },
};
use sunbear_store::{
    Batch, BatchMode, Change, ChangeError, Expect, Operation, OwnerRef, Snapshot, StatusChange,
    World,
};
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    Request, Response, Status, Streaming, codec::CompressionEncoding, metadata::MetadataMap,
};
use tracing::{Instrument as _, info, info_span, warn};
use uuid::Uuid;

use crate::{
    AUTHOR, CLIENT_ID, FEATURE_HASH_SUFFIX, FEATURE_PING_HEALTH, FEATURES,
    admin::{AskError, Clusters, Desk, Messages, Question, Stats, Target, XdsConfigs},
    mapping::{Encoder, Peer, Role},
    metrics::{Counters, OfGlobal},
    node::{Identity, PeerNode},
    receiver::{Receiver, Side},
    sender::Seen,
    transport::{self, Observer, Outlet, QUEUE},
    zone_insight::{ZoneInsights, ZoneStream},
};

/// Header by which a Sunbear zone names its instance on every call.
pub(crate) const INSTANCE_HEADER: &str = "sunbear-instance";

/// Take-overs of a zone's name within a minute after which two control planes are told apart.
const TAKEOVERS: usize = 3;
const TAKEOVER_WINDOW: Duration = Duration::from_secs(60);

/// Checks that a caller may speak for a zone.
pub trait ZoneAuthenticator: Send + Sync + 'static {
    /// `authorization` is the one header value, if there is exactly one.
    fn authenticate(
        &self,
        snapshot: &Snapshot,
        zone: &str,
        authorization: Option<&str>,
    ) -> Result<(), Status>;
}

/// Settings of the global's end.
pub struct ServerConfig {
    /// This instance.
    pub instance_id: String,
    /// Version that zones are told and compared with.
    pub version: String,
    /// Largest message, both ways, decompressed, in bytes.
    pub max_message: usize,
    /// How often zones are asked to call `HealthCheck`.
    pub health_interval: Duration,
    /// A zone that announced heartbeats and is silent for this long loses its streams.
    pub health_timeout: Duration,
    /// How often ZoneInsights are written when counters moved.
    pub insight_interval: Duration,
    /// Whether zones have to prove who they are.
    pub authenticator: Option<Box<dyn ZoneAuthenticator>>,
}

/// The global's end of KDS.
pub struct GlobalKds {
    world: World,
    encoder: Encoder,
    insights: ZoneInsights,
    config: ServerConfig,
    registry: Mutex<HashMap<String, ZoneEntry>>,
    desk: Desk,
    cancelled: CancellationToken,
    streams: TaskTracker,
    counters: Counters,
}

#[derive(Default)]
struct ZoneEntry {
    last_heartbeat: Option<Instant>,
    streams: HashMap<&'static str, LiveStream>,
    takeovers: VecDeque<Instant>,
    /// Who held the name before the take-overs began.
    first_holder: Option<String>,
}

struct LiveStream {
    id: u64,
    instance: Option<String>,
    address: Option<SocketAddr>,
    end: CancellationToken,
    reason: Arc<Mutex<Option<Status>>>,
}

/// The caller of one stream.
struct Caller {
    zone: String,
    features: BTreeSet<String>,
    instance: Option<String>,
    address: Option<SocketAddr>,
    token: bool,
}

/// A stream's place in the registry; gives it up when dropped.
struct Registration {
    kds: Arc<GlobalKds>,
    zone: String,
    direction: &'static str,
    id: u64,
    end: CancellationToken,
    reason: Arc<Mutex<Option<Status>>>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut registry = lock(&self.kds.registry);
        if let Some(entry) = registry.get_mut(&self.zone)
            && entry.streams.get(self.direction).is_some_and(|s| s.id == self.id)
        {
            entry.streams.remove(self.direction);
        }
    }
}

impl GlobalKds {
    /// The services over one world.
    pub fn new(world: World, config: ServerConfig) -> Arc<Self> {
        Arc::new(Self {
            insights: ZoneInsights::new(
                world.clone(),
                config.instance_id.clone(),
                config.insight_interval,
            ),
            encoder: Encoder::new(Role::Global),
            registry: Mutex::default(),
            desk: Desk::default(),
            cancelled: CancellationToken::new(),
            streams: TaskTracker::new(),
            counters: Counters::new(),
            world,
            config,
        })
    }

    /// What is measured.
    pub fn collector(self: &Arc<Self>) -> Result<Box<dyn Collector>, prometheus::Error> {
        Ok(Box::new(OfGlobal::new(self, self.counters.clone())?))
    }

    /// How many streams each zone has that ever had one.
    pub(crate) fn streams(&self) -> BTreeMap<String, usize> {
        let registry = lock(&self.registry);
        registry.iter().map(|(zone, entry)| (zone.clone(), entry.streams.len())).collect()
    }

    /// The gRPC services, to be served on the KDS port.
    pub fn routes(self: &Arc<Self>) -> tonic::service::Routes {
        let max = self.config.max_message;
        let sync = KdsSyncServiceServer::new(Service(Arc::clone(self)))
            .accept_compressed(CompressionEncoding::Gzip)
            .send_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(max)
            .max_encoding_message_size(max);
        let global = GlobalKdsServiceServer::new(Service(Arc::clone(self)))
            .accept_compressed(CompressionEncoding::Gzip)
            .send_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(max);
        tonic::service::Routes::new(sync).add_service(global)
    }

    /// Background work. When `cancelled`, ends all streams, so that zones turn to another
    /// instance, and writes the last insights.
    pub async fn run(self: Arc<Self>, cancelled: CancellationToken) {
        let insights_end = CancellationToken::new();
        let flusher = self.insights.run(insights_end.clone());
        let watch = async {
            cancelled.cancelled().await;
            self.cancelled.cancel();
            self.streams.close();
            let _ = tokio::time::timeout(Duration::from_secs(3), self.streams.wait()).await;
            insights_end.cancel();
        };
        tokio::join!(flusher, watch);
    }

    /// Asks the Envoy of a proxy of this zone, over a stream that the zone holds to this instance.
    pub async fn ask(
        &self,
        zone: &str,
        target: Target,
        question: Question,
    ) -> Result<Vec<u8>, AskError> {
        self.desk.ask(zone, target, question).await
    }

    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let metadata = request.metadata();
        let zone = metadata
            .get(CLIENT_ID)
            .and_then(|v| v.to_str().ok())
            .ok_or_else(|| Status::unknown("\"client-id\" is not present in metadata"))?
            .to_owned();
        if !validation::zone_name_is_valid(&zone) {
            return Err(Status::invalid_argument(format!(
                "{zone:?} is no zone name: a lower-case DNS label of at most 63 characters"
            )));
        }
        let tokens: Vec<_> = metadata.get_all("authorization").iter().collect();
        let authorization = match tokens.as_slice() {
            [one] => one.to_str().ok(),
            _ => None,
        };
        if let Some(authenticator) = &self.config.authenticator {
            authenticator.authenticate(&self.world.snapshot(), &zone, authorization)?;
        }
        Ok(Caller {
            features: header_features(metadata),
            instance: metadata
                .get(INSTANCE_HEADER)
                .and_then(|v| v.to_str().ok())
                .map(str::to_owned),
            address: request.extensions().get::<SocketAddr>().copied(),
            token: tokens.len() == 1,
            zone,
        })
    }

    /// Creates the Zone of a new zone.
    async fn ensure_zone(&self, zone: &str) -> Result<(), Status> {
        let key = ResourceKey::new(Kind::ZONE, "", zone);
        if self.world.snapshot().get(&key).is_some() {
            return Ok(());
        }
        let batch = Batch {
            changes: vec![Change {
                key,
                op: Operation::Put {
                    spec: Spec::from_message(Kind::ZONE, &Zone { enabled: Some(true) }),
                    labels: std::collections::BTreeMap::new(),
                    status: StatusChange::Keep,
                    owner: OwnerRef::None,
                    expect: Expect::Absent,
                },
            }],
            author: AUTHOR.to_owned(),
            reason: "a zone connected".to_owned(),
            mode: BatchMode::Independent,
            at: OffsetDateTime::now_utc(),
        };
        let committed = self
            .world
            .commit(batch)
            .await
            .map_err(|e| Status::unavailable(format!("could not store the zone: {e}")))?;
        match committed.results.into_iter().next() {
            // Another stream of the zone may have been first.
            None | Some(Ok(_) | Err(ChangeError::AlreadyExists(_))) => Ok(()),
            Some(Err(error)) => Err(Status::internal(error.to_string())),
        }
    }

    /// Enters a stream in the registry; the newest of a zone and direction wins, unless two
    /// control planes fight for one name.
    fn register(
        self: &Arc<Self>,
        caller: &Caller,
        direction: &'static str,
    ) -> Result<Registration, Status> {
        let id = next_id();
        let end = self.cancelled.child_token();
        let reason = Arc::new(Mutex::new(None));
        let mut registry = lock(&self.registry);
        let entry = registry.entry(caller.zone.clone()).or_default();
        entry.last_heartbeat.get_or_insert_with(Instant::now);
        entry.claim(caller)?;
        if let Some(old) = entry.streams.insert(
            direction,
            LiveStream {
                id,
                instance: caller.instance.clone(),
                address: caller.address,
                end: end.clone(),
                reason: Arc::clone(&reason),
            },
        ) {
            *lock(&old.reason) = Some(Status::unavailable(format!(
                "another connection of zone {:?}, from {}, took over",
                caller.zone,
                show(caller.address, caller.instance.as_deref()),
            )));
            old.end.cancel();
        }
        Ok(Registration {
            kds: Arc::clone(self),
            zone: caller.zone.clone(),
            direction,
            id,
            end,
            reason,
        })
    }

    /// A stream that announced heartbeats ends when they stop.
    async fn heartbeat_lost(&self, zone: &str, features: &BTreeSet<String>) {
        if !features.contains(FEATURE_PING_HEALTH) || self.config.health_timeout.is_zero() {
            return std::future::pending().await;
        }
        let opened = Instant::now();
        loop {
            let last = lock(&self.registry)
                .get(zone)
                .and_then(|e| e.last_heartbeat)
                .map_or(opened, |h| h.max(opened));
            match self.config.health_timeout.checked_sub(last.elapsed()) {
                Some(rest) if !rest.is_zero() => tokio::time::sleep(rest).await,
                _ => return,
            }
        }
    }
}

impl ZoneEntry {
    fn claim(&mut self, caller: &Caller) -> Result<(), Status> {
        let Some(instance) = &caller.instance else { return Ok(()) };
        let rival = self
            .streams
            .values()
            .find(|s| s.instance.as_ref().is_some_and(|i| i != instance) && !s.end.is_cancelled());
        let Some(rival) = rival else { return Ok(()) };
        let rival_instance = rival.instance.clone();
        while self.takeovers.front().is_some_and(|t| t.elapsed() > TAKEOVER_WINDOW) {
            self.takeovers.pop_front();
        }
        if self.takeovers.is_empty() {
            self.first_holder.clone_from(&rival_instance);
        }
        if self.takeovers.len() >= TAKEOVERS && self.first_holder.as_ref() != Some(instance) {
            let message = format!(
                "two control planes use zone name {:?}: {} holds it, {} is refused; \
                 give one of them another name",
                caller.zone,
                show(rival.address, rival_instance.as_deref()),
                show(caller.address, Some(instance)),
            );
            warn!(zone = caller.zone, "{message}");
            return Err(Status::failed_precondition(message));
        }
        self.takeovers.push_back(Instant::now());
        Ok(())
    }
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn show(address: Option<SocketAddr>, instance: Option<&str>) -> String {
    let address = address.map_or_else(|| "an unknown address".to_owned(), |a| a.to_string());
    match instance {
        Some(instance) => format!("{address} ({instance})"),
        None => address,
    }
}

/// Each feature is a header of its own; proxies may have joined them with commas.
fn header_features(metadata: &MetadataMap) -> BTreeSet<String> {
    metadata
        .get_all(FEATURES)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|f| f.trim().to_owned())
        .collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The services' handle; a type of ours because the traits are not.
struct Service(Arc<GlobalKds>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

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
        self.kds.insights.count(&self.caller.zone, self.id, type_url, |s| s.responses_sent += 1);
    }

    fn answered(&mut self, type_url: &str, seen: Seen) {
        self.kds.counters.answered(type_url, seen);
        match seen {
            Seen::Ack => self
                .kds
                .insights
                .count(&self.caller.zone, self.id, type_url, |s| s.responses_acknowledged += 1),
            Seen::Nack => self
                .kds
                .insights
                .count(&self.caller.zone, self.id, type_url, |s| s.responses_rejected += 1),
            Seen::Subscribed | Seen::Stale => {}
        }
    }

    fn changed(&mut self, snapshot: &Snapshot, key: &ResourceKey) -> Result<(), Status> {
        if key.kind == Kind::ZONE && *key.name == *self.caller.zone && snapshot.get(key).is_none() {
            return Err(Status::unavailable("the zone was deleted"));
        }
        Ok(())
    }
}

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

/// Ends a call with an error; a clean end would leave a Kuma zone waiting for ever.
async fn end_with<T>(tx: &mpsc::Sender<Result<T, Status>>, status: Status) {
    let _ = tokio::time::timeout(Duration::from_secs(1), tx.send(Err(status))).await;
}
