//! One accept loop for every port: HTTP/1.1, HTTP/2 and gRPC on the same socket, plain or TLS.
//!
//! tonic services are merged into the router by the caller
//! (`tonic::service::Routes::new(..).prepare().into_axum_router()`).
//!
//! # Stopping
//!
//! When the token is cancelled, the listener closes, idle connections close, HTTP/2 clients are told
//! to go away, and requests under way may finish until [`Limits::drain`] is over; then everything
//! left is cut. A long-lived gRPC stream never finishes by itself, so its handler should watch the
//! same token and end the stream with a status; if it does not, it is cut at the deadline.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;
use tracing::Instrument;

use crate::config::Listen;

mod preface;

/// Pause after the operating system refused to accept, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Why a port cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("could not listen on {address} ({key})")]
pub struct BindError {
    /// Address and port.
    pub address: String,
    /// Configuration key of the port.
    pub key: &'static str,
    /// What the operating system says.
    #[source]
    pub source: io::Error,
}

/// Opens a port. An empty interface means all of them, with IPv6 where the host has it.
pub async fn bind(listen: &Listen) -> Result<TcpListener, BindError> {
    let Listen { interface, port, key } = listen;
    let failed = |address: String| move |source| BindError { address, key, source };
    if !interface.is_empty() {
        let bound = TcpListener::bind((interface.as_str(), *port)).await;
        return bound.map_err(failed(format!("{interface}:{port}")));
    }
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, *port)).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(failed(format!("[::]:{port}"))(error))
        }
        // No IPv6 here.
        Err(_) => {
            let bound = TcpListener::bind(("0.0.0.0", *port)).await;
            bound.map_err(failed(format!("0.0.0.0:{port}")))
        }
    }
}

/// Bounds of a server.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Most connections at once; more wait in the listen queue of the operating system.
    pub max_connections: usize,
    /// Time for the TLS handshake, and as much again for the first bytes of the first request.
    pub handshake: Duration,
    /// Time for the header of an HTTP/1 request. hyper counts it from the end of the request before,
    /// so this is also how long an idle HTTP/1 connection is kept.
    pub header_read: Duration,
    /// Most concurrent streams of one HTTP/2 connection.
    pub max_concurrent_streams: u32,
    /// How often an HTTP/2 client is pinged.
    pub keepalive_interval: Duration,
    /// How long an HTTP/2 client may take to answer a ping.
    pub keepalive_timeout: Duration,
    /// How long requests may go on when the server stops.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 20_000,
            handshake: Duration::from_secs(5),
            header_read: Duration::from_secs(30),
            max_concurrent_streams: 1_000,
            keepalive_interval: Duration::from_secs(15),
            keepalive_timeout: Duration::from_secs(15),
            drain: Duration::from_secs(10),
        }
    }
}

/// What lies under HTTP.
#[derive(Debug, Clone)]
pub enum Transport {
    /// TCP.
    Plain,
    /// TLS, see [`crate::tls::server_config`].
    Tls(Arc<ServerConfig>),
}

/// Request extension: the direct peer of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddr(pub SocketAddr);

/// Request extension: certificates of the peer, leaf first; there only if it showed some and they
/// were checked.
#[derive(Debug, Clone)]
pub struct PeerCertificates(pub Arc<[CertificateDer<'static>]>);

/// A server that is about to run.
#[derive(Debug)]
pub struct Server {
    /// Name for logs.
    pub name: &'static str,
    /// From [`bind`].
    pub listener: TcpListener,
    /// Everything that is served.
    pub router: Router,
    /// Plain or TLS.
    pub transport: Transport,
    /// Bounds.
    pub limits: Limits,
}

impl Server {
    /// Serves until the token is cancelled and connections are drained.
    pub async fn run(self, stop: CancellationToken) {
        let Self { name, listener, router, transport, limits } = self;
        let address = listener.local_addr().map(|address| address.to_string()).unwrap_or_default();
        tracing::info!(server = name, address, "listening");

        let permits = Arc::new(Semaphore::new(limits.max_connections));
        let graceful = GracefulShutdown::new();
        let context = Arc::new(Context::new(name, router, transport, &limits, stop.clone()));
        let mut saturated = false;
        loop {
            if permits.available_permits() == 0 && !saturated {
                tracing::warn!(
                    server = name,
                    limit = limits.max_connections,
                    "no more connections are accepted"
                );
            }
            saturated = permits.available_permits() == 0;
            let accepted = async {
                // The semaphore is never closed, so there is always a permit in the end.
                let permit = Arc::clone(&permits).acquire_owned().await.ok();
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                () = stop.cancelled() => break,
                accepted = accepted => accepted,
            };
            match accepted {
                Ok((stream, peer)) => context.spawn(stream, peer, permit, graceful.watcher()),
                Err(error) if of_connection(&error) => {}
                Err(error) => {
                    tracing::error!(server = name, %error, "could not accept a connection");
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                    }
                }
            }
        }
        drop(listener);
        context.drain(graceful, limits.drain).await;
    }
}

/// Errors that concern only the connection that was to be accepted.
fn of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}

/// What all connections of a server share.
struct Context {
    name: &'static str,
    router: Router,
    transport: Transport,
    handshake: Duration,
    http1: auto::Builder<StreamExecutor>,
    http2: auto::Builder<StreamExecutor>,
    /// Connections, and the HTTP/2 streams that hyper spawns.
    tracker: TaskTracker,
    /// Cancelled when the process stops.
    stop: CancellationToken,
    /// Cancelled when the time for draining is over.
    cut: CancellationToken,
}

impl Context {
    fn new(
        name: &'static str,
        router: Router,
        transport: Transport,
        limits: &Limits,
        stop: CancellationToken,
    ) -> Self {
        let (tracker, cut) = (TaskTracker::new(), CancellationToken::new());
        let executor = StreamExecutor { tracker: tracker.clone(), cut: cut.clone() };
        let mut builder = auto::Builder::new(executor);
        builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.header_read);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.max_concurrent_streams)
            .keep_alive_interval(limits.keepalive_interval)
            .keep_alive_timeout(limits.keepalive_timeout);
        Self {
            name,
            router,
            transport,
            handshake: limits.handshake,
            http1: builder.clone().http1_only(),
            http2: builder.http2_only(),
            tracker,
            stop,
            cut,
        }
    }

    fn spawn(
        self: &Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        permit: Option<OwnedSemaphorePermit>,
        watcher: Watcher,
    ) {
        let context = Arc::clone(self);
        let span = tracing::debug_span!("connection", server = self.name, %peer);
        let connection = async move {
            tokio::select! {
                () = context.cut.cancelled() => tracing::debug!("connection cut"),
                () = context.connection(stream, peer, watcher) => {}
            }
            drop(permit);
        };
        self.tracker.spawn(connection.instrument(span));
    }

    async fn connection(&self, stream: TcpStream, peer: SocketAddr, watcher: Watcher) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "could not set TCP_NODELAY");
        }
        match &self.transport {
            Transport::Plain => self.serve(stream, PeerAddr(peer), None, watcher).await,
            Transport::Tls(config) => {
                let accept = TlsAcceptor::from(Arc::clone(config)).accept(stream);
                let Some(stream) = self.in_time(accept).await else { return };
                let certificates = stream.get_ref().1.peer_certificates();
                let certificates =
                    certificates.map(|chain| PeerCertificates(chain.to_vec().into()));
                self.serve(stream, PeerAddr(peer), certificates, watcher).await;
            }
        }
    }

    /// Serves HTTP of the version that the client's first bytes announce. hyper-util would detect it
    /// too, but without a bound on the time.
    async fn serve<S>(
        &self,
        stream: S,
        peer: PeerAddr,
        certificates: Option<PeerCertificates>,
        watcher: Watcher,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some((version, stream)) = self.in_time(preface::detect(stream)).await else { return };
        let builder = match version {
            preface::Version::Http1 => &self.http1,
            preface::Version::Http2 => &self.http2,
        };
        let service = PeerService { router: self.router.clone(), peer, certificates };
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(error, "connection failed");
        }
    }

    /// Runs a step before the first request: bounded in time, and dropped when the server stops.
    async fn in_time<T>(&self, step: impl Future<Output = io::Result<T>>) -> Option<T> {
        let result = tokio::select! {
            () = self.stop.cancelled() => return None,
            result = tokio::time::timeout(self.handshake, step) => result,
        };
        match result {
            Ok(Ok(value)) => Some(value),
            // Port scans and plain connections to a TLS port are not worth more.
            Ok(Err(error)) => {
                tracing::debug!(%error, "no request");
                None
            }
            Err(_) => {
                tracing::debug!("no request in time");
                None
            }
        }
    }

    async fn drain(&self, graceful: GracefulShutdown, deadline: Duration) {
        self.tracker.close();
        // The tracker is what is waited for, as it holds streams too; this only gives the signal.
        let mut signal = std::pin::pin!(graceful.shutdown());
        let drained = async {
            tokio::join!(&mut signal, self.tracker.wait());
        };
        if tokio::time::timeout(deadline, drained).await.is_err() {
            tracing::warn!(
                server = self.name,
                tasks = self.tracker.len(),
                "cutting connections that did not end in time"
            );
            self.cut.cancel();
            self.tracker.wait().await;
        }
        tracing::info!(server = self.name, "stopped");
    }
}

/// Runs the HTTP/2 streams that hyper spawns, so that they can be waited for and cut.
#[derive(Clone)]
struct StreamExecutor {
    tracker: TaskTracker,
    cut: CancellationToken,
}

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        let cut = self.cut.clone();
        let stream = async move {
            tokio::select! {
                () = cut.cancelled() => {}
                _ = stream => {}
            }
        };
        self.tracker.spawn(stream.in_current_span());
    }
}

/// The router with what is known about the peer.
struct PeerService {
    router: Router,
    peer: PeerAddr,
    certificates: Option<PeerCertificates>,
}

impl hyper::service::Service<Request<Incoming>> for PeerService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        if let Some(certificates) = &self.certificates {
            request.extensions_mut().insert(certificates.clone());
        }
        let mut router = self.router.clone();
        let response = async move { router.call(request).await };
        // A panic costs one request, not the connection with all its other streams.
        Box::pin(AssertUnwindSafe(response).catch_unwind().map(|result| {
            result.unwrap_or_else(|_| {
                tracing::error!("request handler panicked");
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                Ok(response)
            })
        }))
    }
}
