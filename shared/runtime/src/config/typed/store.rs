//! Where resources are kept.

use std::path::PathBuf;
use std::time::Duration;

use super::{Secret, TlsFiles};

/// Where resources are kept.
#[derive(Debug, Clone)]
pub struct Store {
    /// Which store.
    pub kind: StoreKind,
    /// Keys that secrets are encrypted with; `None`: they are stored plain.
    pub secrets: Option<SecretKeys>,
    /// Skip the checks before a delete.
    pub unsafe_delete: bool,
    /// Retries of conflicting writes.
    pub upsert: UpsertRetry,
}

/// Which store.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "one value in a process")]
pub enum StoreKind {
    /// Gone when the process ends.
    Memory,
    /// A file.
    Sqlite {
        /// The file.
        path: PathBuf,
    },
    /// A server.
    Postgres(Postgres),
}

/// Where the keys are that secrets are encrypted with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretKeys {
    /// In a file.
    File(PathBuf),
    /// Here.
    Inline(Secret),
}

/// Connection to Postgres.
#[derive(Debug, Clone)]
pub struct Postgres {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User.
    pub user: String,
    /// Password.
    pub password: Secret,
    /// Database.
    pub db_name: String,
    /// TLS toward the server.
    pub tls: PostgresTls,
    /// Client certificate.
    pub client_certificate: Option<TlsFiles>,
    /// Connections that are kept open.
    pub min_connections: u32,
    /// Most connections at once; `None` is unlimited.
    pub max_connections: Option<u32>,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// Age at which a connection is replaced.
    pub max_lifetime: Duration,
    /// Idle time after which a connection is closed.
    pub idle_timeout: Duration,
}

/// TLS toward Postgres.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PostgresTls {
    /// Plain.
    Disable,
    /// TLS, any certificate.
    VerifyNone,
    /// TLS, certificate of a known authority. `None`: the system's.
    VerifyCa(Option<PathBuf>),
    /// TLS, certificate of a known authority with the server's name. `None`: the system's.
    VerifyFull(Option<PathBuf>),
}

/// Retries of conflicting writes.
#[derive(Debug, Clone, Copy)]
pub struct UpsertRetry {
    /// First pause.
    pub base_backoff: Duration,
    /// How often.
    pub max_times: u32,
    /// Random part of a pause, 0 to 100.
    pub jitter_percent: u8,
}
