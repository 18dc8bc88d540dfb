//! The server as a whole.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
    routing::{any, post},
};
use http::{HeaderValue, Request, StatusCode, header};
use prometheus::core::Collector;
use sunbear_proto::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use sunbear_security::certificate::CertificateError;
use sunbear_store::World;
use sunbear_xds::Fleet;
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    bootstrap::{self, ServerCertificate},
    config::DpServerConfig,
    insight::Book,
    keeper::Keeper,
    lifecycle,
    metrics::Metrics,
    registry::Registry,
    secrets,
    service::DiscoveryService,
    status::ProxyStatus,
    view::SnapshotView,
};

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> OffsetDateTime + Send + Sync>;

/// How long streams may take to end when the server stops.
const DRAIN: Duration = Duration::from_secs(5);

/// How long the last write of insights may take.
const LAST_WRITE: Duration = Duration::from_secs(5);

/// Why the server cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The server's certificate is no use.
    #[error("server certificate cannot be used")]
    Certificate(#[from] CertificateError),
    /// The metrics cannot be set up: a defect.
    #[error("metrics cannot be set up")]
    Metrics(#[from] prometheus::Error),
    /// The configured host for xDS is not one that the certificate is good for.
    #[error(
        "the server certificate is good for {names:?} and not for the configured xDS host {host:?}"
    )]
    XdsHost {
        /// The host.
        host: String,
        /// Names of the certificate.
        names: Vec<String>,
    },
}

/// Bootstrap, xDS and the bookkeeping around them for the proxies of a zone.
pub struct DpServer {
    pub(crate) config: DpServerConfig,
    pub(crate) world: World,
    clock: Clock,
    certificate: Mutex<Arc<ServerCertificate>>,
    pub(crate) registry: Registry,
    pub(crate) insights: Book,
    /// Cancelled when the server stops; ends all streams.
    pub(crate) stopping: CancellationToken,
    /// The streams.
    pub(crate) streams: TaskTracker,
    /// What generation shares between proxies.
    pub(crate) fleet: Arc<Fleet>,
    /// One permit for each generation that may run at once.
    pub(crate) generations: Arc<Semaphore>,
    /// What gateways fall back on, on its way to the store.
    pub(crate) keeper: Keeper,
    pub(crate) metrics: Metrics,
}

impl fmt::Debug for DpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DpServer").field("zone", &self.config.zone).finish_non_exhaustive()
    }
}

impl DpServer {
    /// Sets the server up. Nothing runs yet.
    pub fn new(
        config: DpServerConfig,
        world: World,
        clock: Clock,
    ) -> Result<Arc<Self>, SetupError> {
        let certificate = usable_certificate(&config, &config.server_certificate)?;
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let fleet = Fleet::new(config.xds.clone());
        Ok(Arc::new(Self {
            config,
            world,
            clock,
            certificate: Mutex::new(Arc::new(certificate)),
            registry: Registry::default(),
            insights: Book::default(),
            stopping: CancellationToken::new(),
            streams: TaskTracker::new(),
            fleet,
            generations: Arc::new(Semaphore::new(cores)),
            keeper: Keeper::default(),
            metrics: Metrics::new()?,
        }))
    }

    /// Replaces the certificate that is handed out, after the served one was.
    pub fn set_server_certificate(&self, pem: &str) -> Result<(), SetupError> {
        let certificate = Arc::new(usable_certificate(&self.config, pem)?);
        *self.certificate.lock().unwrap_or_else(PoisonError::into_inner) = certificate;
        Ok(())
    }

    /// What is served on the port: the bootstrap over HTTP, discovery over gRPC.
    pub fn router(self: &Arc<Self>) -> Router {
        let discovery =
            AggregatedDiscoveryServiceServer::new(DiscoveryService::new(Arc::clone(self)));
        Router::new()
            .route("/bootstrap", any(answer_bootstrap))
            .route("/sunbear/secrets", post(answer_secrets))
            .route_service(
                "/envoy.service.discovery.v3.AggregatedDiscoveryService/{method}",
                discovery,
            )
            .fallback(answer_unknown)
            .with_state(Arc::clone(self))
    }

    /// Runs what goes on in the background, until the token is cancelled; then ends all streams
    /// and writes what is left to write.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        tokio::join!(
            self.insights.run(&self, &stop),
            self.keeper.run(&self, &stop),
            lifecycle::deregister_departed(&self, &stop),
        );
        self.stopping.cancel();
        self.streams.close();
        if tokio::time::timeout(DRAIN, self.streams.wait()).await.is_err() {
            tracing::warn!(streams = self.streams.len(), "discovery streams did not end in time");
        }
        match tokio::time::timeout(LAST_WRITE, self.insights.write(&self, true)).await {
            Ok(Ok(())) => {}
            Ok(Err(())) | Err(_) => {
                tracing::warn!("the end of some streams could not be written to their insights");
            }
        }
    }

    /// What is measured.
    pub fn collector(self: &Arc<Self>) -> Result<Box<dyn Collector>, SetupError> {
        Ok(self.metrics.collector(self)?)
    }

    /// How all connected proxies do.
    pub fn statuses(&self) -> Vec<ProxyStatus> {
        self.registry.statuses()
    }

    pub(crate) fn now(&self) -> OffsetDateTime {
        (self.clock)()
    }

    fn certificate(&self) -> Arc<ServerCertificate> {
        Arc::clone(&self.certificate.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn usable_certificate(config: &DpServerConfig, pem: &str) -> Result<ServerCertificate, SetupError> {
    let certificate = ServerCertificate::new(pem)?;
    let host = config.bootstrap.xds_host.as_str();
    if !host.is_empty() && certificate.check_host(host).is_err() {
        return Err(SetupError::XdsHost {
            host: host.to_owned(),
            names: certificate.names().to_vec(),
        });
    }
    Ok(certificate)
}

async fn answer_bootstrap(State(server): State<Arc<DpServer>>, request: Request<Body>) -> Response {
    let view = SnapshotView(server.world.snapshot());
    let certificate = server.certificate();
    let context =
        bootstrap::Context { config: &server.config, certificate: &certificate, view: &view };
    bootstrap::respond(context, request).await
}

async fn answer_secrets(State(server): State<Arc<DpServer>>, request: Request<Body>) -> Response {
    secrets::respond(&server, request).await
}

/// kuma-dp takes the API server's text for an unknown path as a sign that it has the wrong port,
/// so the text here is another one.
async fn answer_unknown(request: Request<Body>) -> Response {
    let is_grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|t: &HeaderValue| t.as_bytes().starts_with(b"application/grpc"));
    if is_grpc {
        tonic::Status::unimplemented("unknown service").into_http::<Body>().into_response()
    } else {
        (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
    }
}
