//! Connections to a global: names resolved anew at each try, TLS checked against a CA bundle.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use sunbear_security::trust::{self, ServerTrust, TrustError};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

/// Where the system keeps its trusted certificates on Debian, Fedora and Alpine.
const SYSTEM_BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// A connection that does not come about in this time has failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A Go server ends connections that ping more often than every 15 s.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Address of a global: `grpcs://host:port`, or `grpc://host:port` without TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlobalAddress {
    /// Host name or IP address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// TLS is spoken.
    pub tls: bool,
}

/// How a global's certificate is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// By the system's bundle.
    System,
    /// By these PEM certificates alone.
    Roots(String),
    /// By the PEM certificates of this file, which is read anew for each connection.
    RootsFile(PathBuf),
    /// Not at all.
    Nothing,
}

/// Why a global cannot be dialled at all.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The address has the wrong form.
    #[error("{0:?} is no address of a global: expected grpcs://HOST:PORT or grpc://HOST:PORT")]
    Address(String),
    /// The bundle cannot be read.
    #[error("CA bundle not readable")]
    Bundle(#[source] std::io::Error),
    /// The file of trusted certificates cannot be read.
    #[error("could not read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: std::io::Error,
    },
    /// The trusted certificates cannot be used.
    #[error("trusted certificates of the global")]
    Trust(#[source] TrustError),
}

impl FromStr for GlobalAddress {
    type Err = DialError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || DialError::Address(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let tls = match uri.scheme_str() {
            Some("grpcs") => true,
            Some("grpc") => false,
            _ => return Err(wrong()),
        };
        if !matches!(uri.path(), "" | "/") {
            return Err(wrong());
        }
        let host = uri.host().ok_or_else(wrong)?.trim_matches(['[', ']']).to_owned();
        Ok(Self { host, port: uri.port_u16().ok_or_else(wrong)?, tls })
    }
}

impl fmt::Display for GlobalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "grpcs" } else { "grpc" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// A channel that connects when first used and again after each loss.
pub(crate) fn channel(address: &GlobalAddress, trust: &Trust) -> Result<Channel, DialError> {
    // Made here in any case, so that what cannot work is said at once.
    let tls = if address.tls { Some(client_config(trust)?) } else { None };
    let reread = match trust {
        Trust::RootsFile(_) if address.tls => Some(trust.clone()),
        Trust::RootsFile(_) | Trust::System | Trust::Roots(_) | Trust::Nothing => None,
    };
    let tls = move || match &reread {
        // A small local file, once per try of a connection.
        Some(trust) => Ok(Some(client_config(trust).map_err(std::io::Error::other)?)),
        None => Ok(tls.clone()),
    };
    lazy(address, tls, address.host.clone())
}

/// A channel to a server whose certificate bears this name, wherever it is.
pub(crate) fn channel_to(
    address: &GlobalAddress,
    tls: Arc<ClientConfig>,
    name: &str,
) -> Result<Channel, DialError> {
    lazy(address, move || Ok(Some(Arc::clone(&tls))), name.to_owned())
}

fn lazy(
    address: &GlobalAddress,
    tls: impl Fn() -> std::io::Result<Option<Arc<ClientConfig>>> + Clone + Send + Sync + 'static,
    name: String,
) -> Result<Channel, DialError> {
    let authority = if address.host.contains(':') {
        format!("[{}]:{}", address.host, address.port)
    } else {
        format!("{}:{}", address.host, address.port)
    };
    let wrong = || DialError::Address(address.to_string());
    // TLS is spoken by the connector, so the endpoint itself must not ask for it.
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))
        .map_err(|_| wrong())?
        .origin(
            format!("{}://{authority}", if address.tls { "https" } else { "http" })
                .parse()
                .map_err(|_| wrong())?,
        )
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(4 * 1024 * 1024)
        .initial_connection_window_size(8 * 1024 * 1024);
    let (host, port) = (address.host.clone(), address.port);
    let connector = tower::service_fn(move |_: Uri| {
        let (host, tls, name) = (host.clone(), tls.clone(), name.clone());
        async move {
            let tls = tls()?;
            let stream = TcpStream::connect((host.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            let Some(tls) = tls else { return Ok(TokioIo::new(Transport::Plain(stream))) };
            let name = ServerName::try_from(name)
                .map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidInput, e))?;
            let stream = TlsConnector::from(tls).connect(name, stream).await?;
            Ok::<_, std::io::Error>(TokioIo::new(Transport::Tls(Box::new(stream))))
        }
    });
    Ok(endpoint.connect_with_connector_lazy(connector))
}

fn client_config(trust: &Trust) -> Result<Arc<ClientConfig>, DialError> {
    let config = match trust {
        Trust::Nothing => trust::client_config(ServerTrust::Anyone, &["h2"]),
        Trust::System => trust::client_config(ServerTrust::Authorities(&system_bundle()?), &["h2"]),
        Trust::Roots(pem) => {
            trust::client_config(ServerTrust::Authorities(pem.as_bytes()), &["h2"])
        }
        Trust::RootsFile(path) => {
            let pem = std::fs::read(path)
                .map_err(|source| DialError::Unreadable { path: path.clone(), source })?;
            trust::client_config(ServerTrust::Authorities(&pem), &["h2"])
        }
    };
    Ok(Arc::new(config.map_err(DialError::Trust)?))
}

fn system_bundle() -> Result<Vec<u8>, DialError> {
    let mut last = std::io::Error::from(std::io::ErrorKind::NotFound);
    for path in SYSTEM_BUNDLES {
        match std::fs::read(path) {
            Ok(pem) => return Ok(pem),
            Err(e) => last = e,
        }
    }
    Err(DialError::Bundle(last))
}

/// A connection with or without TLS.
enum Transport {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

macro_rules! forward {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Transport::Plain($stream) => $call,
            Transport::Tls($stream) => $call,
        }
    };
}

impl tokio::io::AsyncRead for Transport {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        forward!(self, s => std::pin::Pin::new(s).poll_read(cx, buf))
    }
}

impl tokio::io::AsyncWrite for Transport {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        forward!(self, s => std::pin::Pin::new(s).poll_write(cx, buf))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        forward!(self, s => std::pin::Pin::new(s).poll_flush(cx))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        forward!(self, s => std::pin::Pin::new(s).poll_shutdown(cx))
    }
}
