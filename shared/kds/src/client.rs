//! A zone's end of KDS: dials its global and keeps both sync streams and the heartbeat going, each
//! restarted by itself (`spec/kds.md` 1).

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus::core::Collector;
use sunbear_model::Kind;
use sunbear_proto::{
    envoy::service::discovery::v3::DeltaDiscoveryResponse,
    kuma::mesh::v1alpha1::{
        ZoneHealthCheckRequest, global_kds_service_client::GlobalKdsServiceClient,
        kds_sync_service_client::KdsSyncServiceClient,
    },
};
use sunbear_store::World;
use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Status,
    codec::CompressionEncoding,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};
use tracing::{Instrument as _, debug, error, info, info_span, warn};
use uuid::Uuid;

pub use crate::dial::{DialError, GlobalAddress, Trust};
use crate::{
    CLIENT_ID, FEATURE_HASH_SUFFIX, FEATURE_PING_HEALTH, FEATURES,
    admin::{self, Clusters, EnvoyAdmin, Messages, Stats, XdsConfigs},
    dial,
    installation::{self, Introduction, Stranger},
    mapping::{Encoder, Peer, Role},
    metrics,
    node::{Identity, PeerNode},
    receiver::{Receiver, Side},
    sender::Seen,
    server::INSTANCE_HEADER,
    transport::{self, Observer, Outlet, QUEUE, SharedEncoder},
    zone_insight::ZoneInsights,
};

/// Longest wait between two tries of a stream: a global that returns is found within five seconds.
const RETRY_MAX: Duration = Duration::from_secs(4);
/// First wait; the real one is half to the whole of it.
const RETRY_FIRST: Duration = Duration::from_millis(250);
/// A stream that lived for this long was healthy: the wait starts anew.
const HEALTHY: Duration = Duration::from_secs(30);
/// A stream without all of its first responses after this time is opened anew.
const FIRST_RESPONSES: Duration = Duration::from_secs(30);
/// How often the zone's own ZoneInsight is written when counters moved; as on the global.
const INSIGHT_INTERVAL: Duration = Duration::from_secs(10);
/// Heartbeats until the global says how often, and how long one may take.
const HEARTBEAT: Duration = Duration::from_secs(10);
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads the zone's token anew for each stream.
pub type TokenSource = Arc<dyn Fn() -> std::io::Result<String> + Send + Sync>;

/// Settings of a zone's end.
pub struct ClientConfig {
    /// Name of the zone.
    pub zone: String,
    /// Where the global is.
    pub global: GlobalAddress,
    /// How its certificate is checked.
    pub trust: Trust,
    /// This control plane, as told to the global.
    pub identity: Identity,
    /// Largest message, both ways, decompressed, in bytes.
    pub max_message: usize,
    /// Token to present, if any.
    pub token: Option<TokenSource>,
    /// Answers questions about proxies, if this zone offers that.
    pub admin: Option<Arc<dyn EnvoyAdmin>>,
    /// Compress what is sent and accept compressed answers.
    pub gzip: bool,
}

/// How the connection stands, for readiness and status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Connection {
    /// The global's resources are coming.
    pub receiving: bool,
    /// All types had their first response on some stream since start.
    pub hydrated: bool,
    /// The global takes ours.
    pub sending: bool,
}

/// A zone's end of KDS.
pub struct ZoneKds {
    world: World,
    encoder: SharedEncoder,
    config: ClientConfig,
    /// What the zone itself tells of its connection.
    insights: ZoneInsights,
    channel: Channel,
    state: watch::Sender<Connection>,
    /// The connection is dead although streams look alive.
    reset: Notify,
    /// The global is of another installation, and held off.
    held_off: AtomicBool,
    /// Since when the global's news have not come; none while they do.
    stale_since: Mutex<Option<Instant>>,
}

impl ZoneKds {
    /// An end that is not connected yet.
    pub fn new(world: World, config: ClientConfig) -> Result<Arc<Self>, DialError> {
        let channel = dial::channel(&config.global, &config.trust)?;
        Ok(Arc::new(Self {
            encoder: Arc::new(Encoder::new(Role::Zone(config.zone.clone()))),
            insights: ZoneInsights::of_zone(
                world.clone(),
                config.identity.instance_id.clone(),
                INSIGHT_INTERVAL,
            ),
            world,
            config,
            channel,
            state: watch::Sender::default(),
            reset: Notify::new(),
            held_off: AtomicBool::new(false),
            stale_since: Mutex::new(Some(Instant::now())),
        }))
    }

    /// The state of the connection.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.state.subscribe()
    }

    /// Whether the global is of another installation than the zone, and nothing is taken from it.
    pub fn is_held_off(&self) -> bool {
        self.held_off.load(Ordering::Relaxed)
    }

    /// How long the global's news have not come.
    pub fn staleness(&self) -> Duration {
        self.stale_since().map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn stale_since(&self) -> MutexGuard<'_, Option<Instant>> {
        // Nothing panics while holding the lock.
        self.stale_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is measured.
    pub fn collector(self: &Arc<Self>) -> Result<Box<dyn Collector>, prometheus::Error> {
        Ok(Box::new(metrics::OfZone::new(self)?))
    }

    /// Runs all streams until cancelled.
    pub async fn run(self: Arc<Self>, cancelled: CancellationToken) {
        let down = self.keep("GlobalToZoneSync", &cancelled, || self.receive(&cancelled));
        let up = self.keep("ZoneToGlobalSync", &cancelled, || self.send());
        tokio::join!(
            down.instrument(info_span!("global_to_zone")),
            up.instrument(info_span!("zone_to_global")),
            self.heartbeat(&cancelled),
            self.answer_questions(&cancelled),
            // The last one, so that it hears of the end of the streams.
            self.insights.run(cancelled.clone()),
        );
    }

    /// Offers the three streams for questions about proxies.
    async fn answer_questions(&self, cancelled: &CancellationToken) {
        let Some(admin) = &self.config.admin else { return };
        tokio::join!(
            self.keep_offering("StreamXDSConfigs", cancelled, || self
                .answer::<XdsConfigs, _, _>(Arc::clone(admin), |mut client, request| async move {
                    client.stream_xds_configs(request).await
                },)),
            self.keep_offering("StreamStats", cancelled, || self
                .answer::<Stats, _, _>(Arc::clone(admin), |mut client, request| async move {
                    client.stream_stats(request).await
                },)),
            self.keep_offering("StreamClusters", cancelled, || self
                .answer::<Clusters, _, _>(Arc::clone(admin), |mut client, request| async move {
                    client.stream_clusters(request).await
                },)),
        );
    }

    /// Opens a stream again and again, unless the global does not know it.
    async fn keep_offering<F: Future<Output = Status>>(
        &self,
        stream: &'static str,
        cancelled: &CancellationToken,
        open: impl Fn() -> F,
    ) {
        let mut wait = RETRY_FIRST;
        loop {
            let opened = Instant::now();
            let status = tokio::select! {
                () = cancelled.cancelled() => return,
                status = open() => status,
            };
            if status.code() == tonic::Code::Unimplemented {
                info!(stream, "the global does not ask about proxies");
                return;
            }
            if opened.elapsed() >= HEALTHY {
                wait = RETRY_FIRST;
            }
            debug!(stream, reason = describe(&status), "stream for questions ended");
            tokio::select! {
                () = cancelled.cancelled() => return,
                () = tokio::time::sleep(transport::jittered(wait)) => {}
            }
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    /// Serves one such stream until it ends. The call may not return for hours: a Go server sends
    /// its headers with the first question.
    async fn answer<M, C, F>(&self, admin: Arc<dyn EnvoyAdmin>, call: C) -> Status
    where
        M: Messages,
        C: Fn(GlobalKdsServiceClient<Channel>, Request<ReceiverStream<M::Response>>) -> F,
        F: Future<Output = Result<tonic::Response<tonic::Streaming<M::Request>>, Status>>,
    {
        let (tx, rx) = mpsc::channel(QUEUE);
        let request = match self.request(ReceiverStream::new(rx)) {
            Ok(request) => request,
            Err(status) => return status,
        };
        let mut inbound = match call(self.global_client(), request).await {
            Ok(response) => response.into_inner(),
            Err(status) => return status,
        };
        // Dropped with the stream: what is still being looked up nobody waits for.
        let mut answers = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                message = inbound.next() => match message {
                    Some(Ok(request)) => {
                        let (admin, tx) = (Arc::clone(&admin), tx.clone());
                        let max = self.config.max_message;
                        answers.spawn(async move {
                            let response =
                                admin::answer::<M>(&*admin, M::read_request(request), max).await;
                            let _ = tx.send(response).await;
                        });
                    }
                    Some(Err(status)) => return status,
                    None => return Status::unavailable("the global ended the stream"),
                },
                Some(_) = answers.join_next() => {}
            }
        }
    }

    fn global_client(&self) -> GlobalKdsServiceClient<Channel> {
        let max = self.config.max_message;
        let client = GlobalKdsServiceClient::new(self.channel.clone())
            .max_decoding_message_size(max)
            .max_encoding_message_size(max);
        if self.config.gzip {
            client
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip)
        } else {
            client
        }
    }

    /// Opens a stream again and again.
    async fn keep<F: Future<Output = Status>>(
        &self,
        stream: &'static str,
        cancelled: &CancellationToken,
        open: impl Fn() -> F,
    ) {
        let mut wait = RETRY_FIRST;
        loop {
            let opened = Instant::now();
            let status = tokio::select! {
                () = cancelled.cancelled() => return,
                status = open() => status,
                () = self.reset.notified() => Status::unavailable("no answer to heartbeats"),
            };
            if opened.elapsed() >= HEALTHY {
                wait = RETRY_FIRST;
            }
            let reason = describe(&status);
            warn!(
                stream,
                global = %self.config.global,
                code = ?status.code(),
                reason,
                advice = advice(status.code(), &reason),
                retry_in_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                "stream to the global ended"
            );
            tokio::select! {
                () = cancelled.cancelled() => return,
                () = tokio::time::sleep(transport::jittered(wait)) => {}
            }
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    fn request<T>(&self, message: T) -> Result<Request<T>, Status> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        let value = |text: &str| {
            MetadataValue::<Ascii>::try_from(text)
                .map_err(|_| Status::invalid_argument("not a header value"))
        };
        metadata.insert(CLIENT_ID, value(&self.config.zone)?);
        metadata.append(FEATURES, MetadataValue::from_static(FEATURE_PING_HEALTH));
        metadata.append(FEATURES, MetadataValue::from_static(FEATURE_HASH_SUFFIX));
        metadata.insert("version", value(&self.config.identity.version)?);
        metadata.insert("kds-version", MetadataValue::from_static("v3"));
        metadata.insert(INSTANCE_HEADER, value(&self.config.identity.instance_id)?);
        if let Some(source) = &self.config.token {
            let token = source()
                .map_err(|e| Status::unauthenticated(format!("zone token not readable: {e}")))?;
            let mut bearer = value(&format!("Bearer {}", token.trim()))?;
            bearer.set_sensitive(true);
            metadata.insert("authorization", bearer);
        }
        Ok(request)
    }

    fn client(&self) -> KdsSyncServiceClient<Channel> {
        let max = self.config.max_message;
        let client = KdsSyncServiceClient::new(self.channel.clone())
            .max_decoding_message_size(max)
            .max_encoding_message_size(max);
        if self.config.gzip {
            client
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip)
        } else {
            client
        }
    }

    async fn receive(&self, cancelled: &CancellationToken) -> Status {
        let status = self.receive_inner(cancelled).await;
        self.state.send_modify(|s| s.receiving = false);
        self.stale_since().get_or_insert_with(Instant::now);
        status.unwrap_or_else(|status| status)
    }

    async fn receive_inner(&self, cancelled: &CancellationToken) -> Result<Status, Status> {
        let (tx, rx) = mpsc::channel(QUEUE);
        let mut receiver = Receiver::new(Side::Zone, self.config.identity.clone());
        // Who it is comes first.
        let is_config = |type_url: &str| type_url == Kind::CONFIG.name();
        let (introduction, mut others): (Vec<_>, Vec<_>) =
            receiver.subscriptions().into_iter().partition(|s| is_config(&s.type_url));
        for subscription in introduction {
            let _ = tx.send(subscription).await;
        }
        let request = self.request(ReceiverStream::new(rx))?;
        let mut inbound = self.client().global_to_zone_sync(request).await?.into_inner();
        info!(global = %self.config.global, "receiving from the global");
        self.state.send_modify(|s| s.receiving = true);
        let opened = tokio::time::Instant::now();
        let mut complete = false;
        loop {
            let response = tokio::select! {
                message = inbound.next() => match message {
                    Some(Ok(response)) => response,
                    Some(Err(status)) => return Err(status),
                    None => return Ok(Status::unavailable("the global ended the stream")),
                },
                () = tokio::time::sleep_until(opened + FIRST_RESPONSES), if !complete => {
                    return Ok(Status::deadline_exceeded("no complete first state in time"));
                }
            };
            if is_config(&response.type_url) {
                let first = !others.is_empty();
                match installation::read(&response, &self.world.snapshot(), first) {
                    Introduction::Own => self.held_off.store(false, Ordering::Relaxed),
                    Introduction::Stranger(stranger) => {
                        let reason = [stranger.to_string()];
                        let refusal =
                            receiver.answer(&response.type_url, &response.nonce, &reason, false);
                        let _ = tx.send(refusal).await;
                        return self.hold_off(stranger, inbound).await;
                    }
                    Introduction::Silent => {
                        return Ok(Status::unavailable(
                            "the global does not say which installation it is",
                        ));
                    }
                }
            }
            let answer =
                transport::apply(&mut receiver, response, &self.world, "global", cancelled).await;
            let Some(answer) = answer else {
                return Ok(Status::cancelled("stopping"));
            };
            // They are not more than the queue takes.
            for request in [answer].into_iter().chain(others.drain(..)) {
                if tx.send(request).await.is_err() {
                    return Ok(Status::unavailable("the global closed the stream"));
                }
            }
            if !complete && receiver.has_all_first_responses() {
                complete = true;
                info!(revision = self.world.snapshot().revision, "in sync with the global");
                *self.stale_since() = None;
                self.state.send_modify(|s| s.hydrated = true);
            }
        }
    }

    /// Takes nothing of this global until its stream ends. It stays, so that the global knows that
    /// the zone is there.
    async fn hold_off(
        &self,
        stranger: Stranger,
        mut inbound: tonic::Streaming<DeltaDiscoveryResponse>,
    ) -> Result<Status, Status> {
        error!(
            global = %self.config.global,
            known = stranger.known,
            offered = stranger.offered,
            advice = "give the global its database again; if the zone shall go over to this global, \
                      and lose what it has: stop it, run `sunbear-zone accept-global`, start it",
            "the global is of another installation, nothing is taken from it"
        );
        self.held_off.store(true, Ordering::Relaxed);
        while let Some(message) = inbound.next().await {
            message?;
        }
        Ok(Status::unavailable("the global ended the stream"))
    }

    async fn send(&self) -> Status {
        let status = self.send_inner().await;
        self.state.send_modify(|s| s.sending = false);
        status.unwrap_or_else(|status| status)
    }

    async fn send_inner(&self) -> Result<Status, Status> {
        let (tx, rx) = mpsc::channel(QUEUE);
        let request = self.request(ReceiverStream::new(rx))?;
        let inbound = self.client().zone_to_global_sync(request).await?.into_inner();
        info!(global = %self.config.global, "sending to the global");
        self.state.send_modify(|s| s.sending = true);
        let mut observer = GlobalObserver { kds: self, id: None };
        let status = transport::run_sender(
            inbound,
            Outlet::Client(tx),
            &self.world,
            &self.encoder,
            &self.config.zone,
            self.config.max_message,
            &mut observer,
        )
        .await;
        Ok(status)
    }

    /// Calls the heartbeat; one that gets no answer means that the connection is half open, for
    /// proxies in between answer pings themselves.
    async fn heartbeat(&self, cancelled: &CancellationToken) {
        let mut interval = HEARTBEAT;
        let mut failed = false;
        loop {
            let mut client = self.global_client();
            let call = async {
                let request = self.request(ZoneHealthCheckRequest {})?;
                client.health_check(request).await
            };
            match tokio::time::timeout(HEARTBEAT_TIMEOUT, call).await {
                Ok(Ok(response)) => {
                    failed = false;
                    if let Some(asked) = response.into_inner().interval
                        && let Ok(asked) = Duration::try_from(asked)
                        && !asked.is_zero()
                    {
                        interval = asked;
                    }
                }
                Ok(Err(status)) if status.code() == tonic::Code::Unimplemented => return,
                Ok(Err(_)) => failed = true,
                Err(_) => {
                    // Two in a row: the streams are as dead as the heartbeat.
                    if failed {
                        self.reset.notify_waiters();
                    }
                    failed = true;
                }
            }
            tokio::select! {
                () = cancelled.cancelled() => return,
                () = tokio::time::sleep(if failed { HEARTBEAT.min(interval) / 5 } else { interval }) => {}
            }
        }
    }
}

/// Counts for the zone's own ZoneInsight what goes to the global.
struct GlobalObserver<'a> {
    kds: &'a ZoneKds,
    /// Of the subscription, from the first request on.
    id: Option<String>,
}

impl Observer for GlobalObserver<'_> {
    fn first_request(&mut self, node: &PeerNode) -> Result<Peer, Status> {
        let ClientConfig { zone, identity, .. } = &self.kds.config;
        let id = self.id.insert(Uuid::new_v4().to_string());
        self.kds.insights.subscribed(zone, id, node, &identity.version, false);
        Ok(Peer { name: "global".to_owned(), features: node.features.clone() })
    }

    fn sent(&mut self, type_url: &str) {
        if let Some(id) = &self.id {
            self.kds.insights.sent(&self.kds.config.zone, id, type_url);
        }
    }

    fn answered(&mut self, type_url: &str, seen: Seen) {
        if let Some(id) = &self.id {
            self.kds.insights.answered(&self.kds.config.zone, id, type_url, seen);
        }
    }
}

impl Drop for GlobalObserver<'_> {
    fn drop(&mut self) {
        if let Some(id) = &self.id {
            self.kds.insights.disconnected(&self.kds.config.zone, id);
        }
    }
}

/// The message of a status with the chain of what caused it: "transport error" alone helps nobody.
fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}

/// What an operator can do about the end of a stream, if it will not mend by itself.
fn advice(code: tonic::Code, reason: &str) -> Option<&'static str> {
    const BY_TEXT: &[(&str, &str)] = &[
        (
            "UnknownIssuer",
            "multizone.zone.kds.rootCaFile must hold the authority of the global's certificate, or \
             that certificate itself if it is self-signed",
        ),
        (
            "not valid for name",
            "the global's certificate must name the host of multizone.zone.globalAddress",
        ),
        ("certificate expired", "the global needs a new certificate"),
        (
            "zone token not readable",
            "multizone.zone.kds.auth.tokenPath must name a file that holds a zone token",
        ),
        ("failed to lookup address", "check the host name in multizone.zone.globalAddress"),
        (
            "Connection refused",
            "see that the global runs; check host and port in multizone.zone.globalAddress",
        ),
        ("InvalidContentType", "no TLS is spoken at that port; check multizone.zone.globalAddress"),
    ];
    if let Some((_, advice)) = BY_TEXT.iter().find(|(text, _)| reason.contains(text)) {
        return Some(advice);
    }
    match code {
        tonic::Code::Unauthenticated | tonic::Code::PermissionDenied => Some(
            "put a zone token of scope cp that the global has issued for this zone into the file \
             of multizone.zone.kds.auth.tokenPath; it is read again at the next try",
        ),
        _ => None,
    }
}
