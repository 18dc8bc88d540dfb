//! TLS for servers: a certificate that is swapped while it serves, and rustls configured as the
//! rest of Sunbear expects it.

use std::fmt;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, version};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sunbear_security::certificate::{CertificateError, certified_key};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{TlsFiles, TlsVersion};
use crate::telemetry::chain;

/// How often certificate files are looked at. Polling needs no support of the file system, and sees
/// the symbolic links that Kubernetes swaps under mounted secrets.
pub const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("could not read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: std::io::Error,
    },
    /// Certificate and key are malformed or do not fit.
    #[error("could not use certificate {} with key {}", files.cert.display(), files.key.display())]
    Pair {
        /// The files.
        files: TlsFiles,
        /// What is wrong.
        #[source]
        source: CertificateError,
    },
    /// A file of authorities is malformed or empty.
    #[error("{} holds no usable authority", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
    },
    /// Rustls refuses the configuration.
    #[error("could not configure TLS")]
    Rustls(#[from] rustls::Error),
    /// Rustls refuses the authorities.
    #[error("could not configure the check of client certificates")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// Makes aws-lc the process's cryptography; first thing in every `main` and test that uses TLS.
/// Calling it again does nothing.
pub fn install_crypto_provider() {
    let _ = aws_lc_rs::default_provider().install_default();
}

/// A server certificate from files, which follows the files while it serves.
pub struct ReloadableCertificate {
    files: TlsFiles,
    current: ArcSwap<CertifiedKey>,
    /// State of the files when `current` was read.
    stamp: Mutex<Stamp>,
    /// Counts the swaps.
    swaps: watch::Sender<u64>,
}

/// When and how long the files were: enough to notice a change without reading them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    cert: (Option<SystemTime>, u64),
    key: (Option<SystemTime>, u64),
}

impl ReloadableCertificate {
    /// Reads the files.
    pub fn load(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        // The stamp comes first: a change between the two is then seen at the next look.
        let stamp = Stamp::of(&files)?;
        let current = read_pair(&files)?;
        Ok(Arc::new(Self {
            files,
            current: ArcSwap::from_pointee(current),
            stamp: Mutex::new(stamp),
            swaps: watch::Sender::new(0),
        }))
    }

    /// The files.
    pub fn files(&self) -> &TlsFiles {
        &self.files
    }

    /// The certificate that is served, leaf first.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.current.load().cert.clone()
    }

    /// Reads the files again if they changed; true if the certificate was swapped. On an error the
    /// old certificate stays, and the next call tries again: certificate and key are two files, and
    /// a writer may be between them.
    pub fn reload_if_changed(&self) -> Result<bool, TlsError> {
        let mut stamp = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Stamp::of(&self.files)?;
        if now == *stamp {
            return Ok(false);
        }
        self.current.store(Arc::new(read_pair(&self.files)?));
        *stamp = now;
        self.swaps.send_modify(|swaps| *swaps += 1);
        Ok(true)
    }

    /// Changes after each swap of the certificate; for those who hand it to others.
    pub fn swaps(&self) -> watch::Receiver<u64> {
        self.swaps.subscribe()
    }

    /// Follows the files until the token is cancelled, looking at them every `interval`, usually
    /// [`RELOAD_INTERVAL`], and at each SIGHUP.
    pub async fn follow(self: Arc<Self>, interval: Duration, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut hangups = signal(SignalKind::hangup()).ok();
        loop {
            let hangup = async {
                match &mut hangups {
                    Some(hangups) => hangups.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
                _ = hangup => {}
            }
            let certificate = Arc::clone(&self);
            // Files may be on a network.
            match tokio::task::spawn_blocking(move || certificate.reload_if_changed()).await {
                Ok(Ok(true)) => {
                    tracing::info!(file = %self.files.cert.display(), "certificate reloaded")
                }
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    tracing::warn!(
                        error = chain(&error),
                        "could not reload the certificate, serving the old one"
                    );
                }
                Err(error) => tracing::error!(%error, "reload of the certificate did not finish"),
            }
        }
    }
}

impl fmt::Debug for ReloadableCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReloadableCertificate").field("files", &self.files).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for ReloadableCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl Stamp {
    fn of(files: &TlsFiles) -> Result<Self, TlsError> {
        let look = |path: &Path| {
            let metadata: Metadata = std::fs::metadata(path)
                .map_err(|source| TlsError::Unreadable { path: path.to_owned(), source })?;
            Ok::<_, TlsError>((metadata.modified().ok(), metadata.len()))
        };
        Ok(Self { cert: look(&files.cert)?, key: look(&files.key)? })
    }
}

fn read_pair(files: &TlsFiles) -> Result<CertifiedKey, TlsError> {
    let cert = read(&files.cert)?;
    let key = read(&files.key)?;
    certified_key(&cert, &key).map_err(|source| TlsError::Pair { files: files.clone(), source })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Unreadable { path: path.to_owned(), source })
}

/// What a server does about certificates of clients.
#[derive(Debug, Clone)]
pub enum ClientCertificates {
    /// Does not ask for them.
    Ignored,
    /// Checks them if there are any.
    Optional(Arc<RootCertStore>),
    /// Refuses clients without one.
    Required(Arc<RootCertStore>),
}

/// Reads authorities from PEM files.
pub fn read_authorities(paths: &[PathBuf]) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for path in paths {
        let bytes = read(path)?;
        let before = store.len();
        for certificate in CertificateDer::pem_slice_iter(&bytes) {
            let added = certificate.ok().and_then(|certificate| store.add(certificate).ok());
            if added.is_none() {
                return Err(TlsError::Authorities { path: path.clone() });
            }
        }
        if store.len() == before {
            return Err(TlsError::Authorities { path: path.clone() });
        }
    }
    Ok(store)
}

/// The file of authorities that this system trusts, if it is where distributions put it. For clients
/// that were given none (see `sunbear_security::trust`).
pub fn system_authorities() -> Option<PathBuf> {
    // Debian and Alpine; Fedora and RHEL; SUSE; older RHEL.
    const PLACES: [&str; 4] = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    ];
    PLACES.into_iter().map(PathBuf::from).find(|path| path.is_file())
}

/// Rustls for a server that speaks HTTP/2 (gRPC among it) and HTTP/1.1.
pub fn server_config(
    certificate: Arc<ReloadableCertificate>,
    min_version: TlsVersion,
    clients: ClientCertificates,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
    let versions = match min_version {
        TlsVersion::V1_2 => &[&version::TLS13, &version::TLS12][..],
        TlsVersion::V1_3 => &[&version::TLS13][..],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)?;
    let builder = match clients {
        ClientCertificates::Ignored => builder.with_no_client_auth(),
        ClientCertificates::Optional(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            builder.with_client_cert_verifier(verifier.allow_unauthenticated().build()?)
        }
        ClientCertificates::Required(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            builder.with_client_cert_verifier(verifier.build()?)
        }
    };
    let mut config = builder.with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
