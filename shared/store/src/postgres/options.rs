//! How to reach the database.

use std::{fmt, path::PathBuf, str::FromStr as _, time::Duration};

use sqlx::{
    ConnectOptions as _, Executor as _,
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode},
};

use crate::{error::StoreError, seal::SecretCipher};

/// How to reach the database.
#[derive(Clone)]
pub struct PostgresOptions {
    pub(super) connect: PgConnectOptions,
    /// Keys for the secrets; by default there are none and secrets are stored plain.
    pub secrets: SecretCipher,
    /// Connections that are kept open.
    pub min_connections: u32,
    /// Most connections at once; one more is for notifications.
    pub max_connections: u32,
    /// How long a call waits for a connection.
    pub acquire_timeout: Duration,
    /// How long a statement may take.
    pub statement_timeout: Duration,
}

/// Whether and how the connection is encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PostgresTls {
    /// Never.
    Disable,
    /// If the server can.
    Prefer,
    /// Always, without a look at the server's certificate.
    VerifyNone,
    /// Always; the certificate must come from this CA.
    VerifyCa {
        /// PEM file.
        ca: PathBuf,
    },
    /// Always; the certificate must come from this CA, or a public one, and name the host.
    VerifyFull {
        /// PEM file.
        ca: Option<PathBuf>,
    },
}

/// How statements are planned. A connection keeps its plans, and those that it made while the tables
/// were small would read them whole until the server next counts their rows, a minute or more after
/// a database is filled. All that we ask for has an index, and a write asks for few rows, so neither
/// the size of a table nor a parameter makes another plan better.
const PLANS: &str = "SET plan_cache_mode = force_generic_plan; SET jit = off; \
    SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off";

impl PostgresOptions {
    /// Settings for this database. A host that begins with `/` is the folder of a Unix socket.
    pub fn new(host: &str, port: u16, user: &str, password: &str, database: &str) -> Self {
        let mut connect = PgConnectOptions::new_without_pgpass()
            .port(port)
            .username(user)
            .database(database)
            .ssl_mode(PgSslMode::Prefer);
        connect = if host.starts_with('/') { connect.socket(host) } else { connect.host(host) };
        if !password.is_empty() {
            connect = connect.password(password);
        }
        Self::with(connect)
    }

    /// Settings from a `postgres://` URL.
    pub fn from_url(url: &str) -> Result<Self, StoreError> {
        Ok(Self::with(PgConnectOptions::from_str(url)?))
    }

    fn with(connect: PgConnectOptions) -> Self {
        Self {
            connect: connect.application_name("sunbear").disable_statement_logging(),
            secrets: SecretCipher::default(),
            // A connection that was just released is tested in the background, so two keep a lone
            // writer from waiting for that.
            min_connections: 2,
            max_connections: 10,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
        }
    }

    /// Sets the encryption.
    #[must_use]
    pub fn tls(mut self, tls: PostgresTls) -> Self {
        let (mode, ca) = match tls {
            PostgresTls::Disable => (PgSslMode::Disable, None),
            PostgresTls::Prefer => (PgSslMode::Prefer, None),
            PostgresTls::VerifyNone => (PgSslMode::Require, None),
            PostgresTls::VerifyCa { ca } => (PgSslMode::VerifyCa, Some(ca)),
            PostgresTls::VerifyFull { ca } => (PgSslMode::VerifyFull, ca),
        };
        self.connect = self.connect.ssl_mode(mode);
        if let Some(ca) = ca {
            self.connect = self.connect.ssl_root_cert(ca);
        }
        self
    }

    /// Sets the certificate and key, PEM files, that authenticate us to the server.
    #[must_use]
    pub fn client_certificate(mut self, certificate: PathBuf, key: PathBuf) -> Self {
        self.connect = self.connect.ssl_client_cert(certificate).ssl_client_key(key);
        self
    }

    pub(super) fn pool(&self) -> PgPoolOptions {
        let settings = format!(
            "SET statement_timeout = {0}; SET lock_timeout = {0}; \
             SET idle_in_transaction_session_timeout = {0}; {PLANS}",
            self.statement_timeout.as_millis()
        );
        PgPoolOptions::new()
            .acquire_timeout(self.acquire_timeout)
            // Every call reads before it writes, and repeats the read on another connection if
            // this one turns out to be dead; so no round trip is spent on a test.
            .test_before_acquire(false)
            .after_connect(move |connection, _| {
                let settings = settings.clone();
                Box::pin(async move {
                    connection.execute(sqlx::AssertSqlSafe(settings)).await?;
                    Ok(())
                })
            })
    }
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("host", &self.connect.get_host())
            .field("port", &self.connect.get_port())
            .field("user", &self.connect.get_username())
            .field("database", &self.connect.get_database())
            .field("max_connections", &self.max_connections)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn debug_does_not_show_the_password() {
        let options = super::PostgresOptions::new("localhost", 5432, "u", "s3cret", "d");
        assert!(!format!("{options:?}").contains("s3cret"));
    }
}
