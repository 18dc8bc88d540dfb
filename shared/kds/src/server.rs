//! The global's end of KDS: the gRPC services that zones call (`spec/kds.md` 1, 5).

mod admin;
mod registry;
mod sync;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus::core::Collector;
use sunbear_model::{Kind, ResourceKey, Spec, validation};
use sunbear_proto::kuma::{
    mesh::v1alpha1::{
        global_kds_service_server::GlobalKdsServiceServer,
        kds_sync_service_server::KdsSyncServiceServer,
    },
    system::v1alpha1::Zone,
};
use sunbear_store::{
    Batch, BatchMode, Change, ChangeError, Expect, Operation, OwnerRef, Snapshot, StatusChange,
    World,
};
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Status, codec::CompressionEncoding, metadata::MetadataMap};

use self::registry::ZoneEntry;
use crate::{
    AUTHOR, CLIENT_ID, FEATURES,
    admin::{AskError, Desk, Question, Target},
    mapping::{Encoder, Role},
    metrics::{Counters, OfGlobal},
    zone_insight::ZoneInsights,
};

/// Header by which a Sunbear zone names its instance on every call.
pub(crate) const INSTANCE_HEADER: &str = "sunbear-instance";

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

/// The caller of one stream.
struct Caller {
    zone: String,
    features: BTreeSet<String>,
    instance: Option<String>,
    address: Option<SocketAddr>,
    token: bool,
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
        let answer = self.desk.ask(zone, target, question).await;
        if let Err(AskError::NotConnected(_)) = answer
            && let Some(replica) = self.insights.holder(zone)
            && replica != self.config.instance_id
        {
            return Err(AskError::Elsewhere { zone: zone.to_owned(), replica });
        }
        answer
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

/// Ends a call with an error; a clean end would leave a Kuma zone waiting for ever.
async fn end_with<T>(tx: &mpsc::Sender<Result<T, Status>>, status: Status) {
    let _ = tokio::time::timeout(Duration::from_secs(1), tx.send(Err(status))).await;
}
