//! The store in Postgres.

mod commit;
mod group;
mod listen;
mod options;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use sqlx::{Connection as _, Executor as _, PgPool, pool::PoolConnection, postgres::PgConnection};
use sunbear_model::ResourceKey;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

pub use self::options::{PostgresOptions, PostgresTls};
use self::{commit::Committer, group::Group};
use crate::{
    change::{Batch, Committed, Revision},
    error::StoreError,
    plan, row,
    seal::{Rotated, SecretCipher},
    store::{Changes, Fence, HistoryEntry, Lease, Loaded, Retention, Store},
};

/// The embedded migrations: number, name, text.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "resources", include_str!("../../../../migrations/postgres/0001_resources.sql")),
    (
        2,
        "grouped_commits",
        include_str!("../../../../migrations/postgres/0002_grouped_commits.sql"),
    ),
];

/// Wake-ups are rare when nobody writes; with a working listener they are also reliable.
const POLL_LISTENING: Duration = Duration::from_secs(10);
/// A rotation repeats until all is sealed with the current key; what others write meanwhile is,
/// unless their current key is another one.
const ROTATION_PASSES: u32 = 10;
/// Bounds how late a change of another replica is seen without a listener.
const POLL_DEAF: Duration = Duration::from_secs(1);

/// Where revisions come from; for the test that shows why it must be the counter.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevisionSource {
    Counter,
    PlainSequence,
}

/// Stops commits between their last statement and COMMIT; for tests of interleavings.
#[doc(hidden)]
#[derive(Debug, Clone)]
pub struct Gate {
    /// Gets a permit whenever a commit has arrived.
    pub arrived: Arc<Semaphore>,
    /// A commit takes a permit to go on.
    pub open: Arc<Semaphore>,
}

/// What tests change.
#[doc(hidden)]
#[derive(Debug, Clone)]
pub struct Hooks {
    pub revisions: RevisionSource,
    pub gate: Option<Gate>,
    /// False: no notifications, as behind a transaction pooler.
    pub listen: bool,
}

impl Default for Hooks {
    fn default() -> Self {
        Self { revisions: RevisionSource::Counter, gate: None, listen: true }
    }
}

/// The store in Postgres. Any number of processes may share a database.
#[derive(Debug)]
pub struct Postgres {
    pool: PgPool,
    wake: watch::Sender<Revision>,
    /// Notifications arrive.
    listening: Arc<AtomicBool>,
    listener: std::sync::Mutex<Option<JoinHandle<()>>>,
    stop: CancellationToken,
    /// Bounds a whole attempt, for networks that swallow packets.
    call_timeout: Duration,
    /// Dead connections that one call may meet before it gives up.
    max_connections: u32,
    secrets: SecretCipher,
    committer: Committer,
    group: Group,
}

impl Postgres {
    /// Connects and migrates. Fails at once if the database cannot be reached.
    pub async fn connect(options: PostgresOptions) -> Result<Self, StoreError> {
        Self::connect_with_hooks(options, Hooks::default()).await
    }

    #[doc(hidden)]
    pub async fn connect_with_hooks(
        options: PostgresOptions,
        hooks: Hooks,
    ) -> Result<Self, StoreError> {
        // A connection of its own: waiting for another replica's migration may take longer than a
        // statement may.
        let connecting = PgConnection::connect_with(&options.connect);
        let mut connection = tokio::time::timeout(options.acquire_timeout, connecting)
            .await
            .map_err(StoreError::unavailable)??;
        row::migrator(MIGRATIONS).run(&mut connection).await?;
        if hooks.revisions == RevisionSource::PlainSequence {
            connection.execute(PLAIN_SEQUENCE).await?;
        }
        let head: i64 = sqlx::query_scalar(row::HEAD).fetch_one(&mut connection).await?;
        connection.close().await?;

        let pool = options
            .pool()
            .min_connections(options.min_connections)
            .max_connections(options.max_connections)
            .connect_with(options.connect.clone())
            .await?;
        let (wake, _) = watch::channel(row::to_u64(head)?);
        let listening = Arc::new(AtomicBool::new(false));
        let stop = CancellationToken::new();
        let listener = hooks.listen.then(|| {
            let own = options
                .pool()
                .max_connections(1)
                .max_lifetime(None)
                .idle_timeout(None)
                .connect_lazy_with(options.connect.clone());
            tokio::spawn(listen::run(
                own,
                pool.clone(),
                wake.clone(),
                Arc::clone(&listening),
                stop.clone(),
            ))
        });
        let call_timeout = options.statement_timeout + Duration::from_secs(2);
        let committer = Committer {
            pool: pool.clone(),
            wake: wake.clone(),
            call_timeout,
            max_connections: options.max_connections,
            gate: hooks.gate,
            secrets: options.secrets.clone(),
        };
        Ok(Self {
            pool,
            wake,
            listening,
            listener: std::sync::Mutex::new(listener),
            stop,
            call_timeout,
            max_connections: options.max_connections,
            secrets: options.secrets,
            group: Group::start(committer.clone()),
            committer,
        })
    }

    /// True if notifications arrive. Without them, changes of other replicas are found by polling.
    pub fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Relaxed)
    }

    async fn do_commit(&self, batch: Batch, fence: Option<Fence>) -> Result<Committed, StoreError> {
        if fence.is_none() && self.committer.gate.is_none() && Group::takes(&batch) {
            return self.group.commit(batch).await;
        }
        self.committer.commit(&batch, fence.as_ref()).await
    }

    /// Seals all secrets that are plain, or sealed with another key, with the current key. Their
    /// versions and revisions stay and nobody hears of it, because nothing has changed outside of
    /// the database. Other processes may read and write meanwhile, if they know both keys.
    ///
    /// Postgres keeps former contents until it vacuums, and in its own log as long as that is kept.
    pub async fn rotate_secrets(&self) -> Result<Rotated, StoreError> {
        self.secrets.require_key()?;
        let mut sealed = 0;
        for _ in 0..ROTATION_PASSES {
            let mut connection = self.pool.acquire().await?;
            let rows = sqlx::query(row::SECRETS).fetch_all(&mut *connection).await?;
            let (todo, current) = row::to_reseal(&rows, &self.secrets)?;
            if todo.is_empty() {
                return Ok(Rotated { sealed, unchanged: current.saturating_sub(sealed) });
            }
            for row in todo {
                let done = sqlx::query(row::RESEAL)
                    .bind(row.new)
                    .bind(row.uid)
                    .bind(row.old)
                    .execute(&mut *connection)
                    .await?;
                sealed += done.rows_affected();
            }
        }
        Err(StoreError::unavailable("others go on writing secrets under another key"))
    }

    /// Runs one read or idempotent statement; repeats it when a connection of the pool turns out
    /// to be dead.
    async fn call<T>(
        &self,
        run: impl for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let mut dead = 0;
        loop {
            let mut connection = self.pool.acquire().await?;
            match tokio::time::timeout(self.call_timeout, run(&mut connection)).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => {
                    let lost = is_lost(&error);
                    discard(connection, &error);
                    dead += 1;
                    if !lost || dead > self.max_connections {
                        return Err(error);
                    }
                }
                Err(elapsed) => {
                    connection.close_on_drop();
                    return Err(StoreError::unavailable(elapsed));
                }
            }
        }
    }

    async fn do_load(&self) -> Result<Loaded, StoreError> {
        let rows = self
            .call(|connection| {
                Box::pin(async move { Ok(sqlx::query(row::LOAD).fetch_all(connection).await?) })
            })
            .await?;
        row::loaded(&rows, &self.secrets)
    }

    async fn do_changes(&self, since: Revision, limit: u32) -> Result<Changes, StoreError> {
        let rows = self
            .call(|connection| {
                Box::pin(async move {
                    let query =
                        sqlx::query(row::CHANGES).bind(row::to_i64(since)).bind(i64::from(limit));
                    Ok(query.fetch_all(connection).await?)
                })
            })
            .await?;
        row::changes(since, &rows, &self.secrets)
    }

    async fn do_history(
        &self,
        key: ResourceKey,
        limit: u32,
    ) -> Result<Vec<HistoryEntry>, StoreError> {
        if !plan::storable(&key) {
            return Ok(Vec::new());
        }
        self.call(|connection| {
            let query = sqlx::query(row::HISTORY)
                .bind(key.kind.name())
                .bind(key.mesh.to_string())
                .bind(key.name.to_string())
                .bind(i64::from(limit));
            let kind = key.kind;
            Box::pin(async move {
                let rows = query.fetch_all(connection).await?;
                rows.iter().map(|row| row::history(kind, row)).collect()
            })
        })
        .await
    }

    async fn do_compact(&self, keep: Retention) -> Result<u64, StoreError> {
        self.call(|connection| {
            let keep = keep.clone();
            Box::pin(async move {
                let mut transaction = connection.begin().await?;
                let cut: i64 = sqlx::query_scalar(row::COMPACT_TO)
                    .bind(keep.feed_since)
                    .bind(row::to_i64(keep.feed_rows))
                    .fetch_one(&mut *transaction)
                    .await?;
                if cut <= 0 {
                    return Ok(0);
                }
                // The mark first: a reader who then finds entries missing knows why.
                sqlx::query(row::COMPACTED).bind(cut).execute(&mut *transaction).await?;
                let done = sqlx::query(COMPACT)
                    .bind(cut)
                    .bind(row::without_history())
                    .bind(keep.history_since)
                    .bind(i64::from(keep.history_per_object))
                    .execute(&mut *transaction)
                    .await?;
                transaction.commit().await?;
                Ok(done.rows_affected())
            })
        })
        .await
    }

    async fn do_lease(
        &self,
        name: String,
        holder: String,
        ttl: Duration,
    ) -> Result<Lease, StoreError> {
        self.call(|connection| {
            let (name, holder) = (name.clone(), holder.clone());
            Box::pin(async move {
                let taken: Option<i64> = sqlx::query_scalar(LEASE)
                    .bind(&name)
                    .bind(holder)
                    .bind(ttl.as_secs_f64())
                    .fetch_optional(&mut *connection)
                    .await?;
                if let Some(fencing) = taken {
                    return Ok(Lease::Held { fencing: row::to_u64(fencing)? });
                }
                let other: Option<String> =
                    sqlx::query_scalar("SELECT holder FROM leases WHERE name = $1")
                        .bind(name)
                        .fetch_optional(connection)
                        .await?;
                Ok(Lease::Other { holder: other.unwrap_or_default() })
            })
        })
        .await
    }

    async fn do_release(&self, name: String, holder: String) -> Result<(), StoreError> {
        self.call(|connection| {
            let release = sqlx::query(row::RELEASE).bind(name.clone()).bind(holder.clone());
            Box::pin(async move {
                release.execute(connection).await?;
                Ok(())
            })
        })
        .await
    }
}

/// One fewer round trip than asking first; a lease that lapsed counts as a change of hands even if
/// the same holder takes it again.
const LEASE: &str = "\
    INSERT INTO leases AS l (name, holder, fencing, expires_at) \
    VALUES ($1, $2, 1, clock_timestamp() + make_interval(secs => $3)) \
    ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, \
    fencing = l.fencing + CASE WHEN l.holder = excluded.holder AND l.expires_at > clock_timestamp() \
        THEN 0 ELSE 1 END, \
    expires_at = excluded.expires_at \
    WHERE l.holder = excluded.holder OR l.expires_at <= clock_timestamp() \
    RETURNING fencing";

const COMPACT: &str = "\
    DELETE FROM changes WHERE revision IN (SELECT revision FROM \
    (SELECT revision, type, at, row_number() OVER \
        (PARTITION BY type, mesh, name ORDER BY revision DESC) AS age FROM changes) x \
    WHERE revision <= $1 AND (type = ANY ($2) OR at < $3 OR age > $4))";

const PLAIN_SEQUENCE: &str = "\
    CREATE SEQUENCE IF NOT EXISTS test_revisions; \
    CREATE OR REPLACE FUNCTION sunbear_take_revisions(k bigint) RETURNS bigint LANGUAGE sql AS \
    $$ SELECT min(v) - 1 FROM (SELECT nextval('test_revisions') AS v \
       FROM generate_series(1, k)) s $$";

fn bump(wake: &watch::Sender<Revision>, revision: Revision) {
    wake.send_if_modified(|known| {
        let more = revision > *known;
        if more {
            *known = revision;
        }
        more
    });
}

/// The connection is of no use any more.
fn is_lost(error: &StoreError) -> bool {
    let StoreError::Unavailable(source) = error else { return false };
    match source.downcast_ref::<sqlx::Error>() {
        Some(sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::Tls(_)) => true,
        Some(sqlx::Error::Database(e)) => {
            e.code().is_some_and(|c| c.starts_with("57P") || c.starts_with("08"))
        }
        Some(_) | None => false,
    }
}

/// Does not give a connection back that others should not get: a dead one, or one to a server that
/// has become a standby.
fn discard(mut connection: PoolConnection<sqlx::Postgres>, error: &StoreError) {
    if matches!(error, StoreError::Unavailable(_) | StoreError::ReadOnly(_)) {
        connection.close_on_drop();
    }
}

impl Store for Postgres {
    fn commit_fenced(
        &self,
        batch: Batch,
        fence: Option<Fence>,
    ) -> BoxFuture<'_, Result<Committed, StoreError>> {
        Box::pin(self.do_commit(batch, fence))
    }

    fn load(&self) -> BoxFuture<'_, Result<Loaded, StoreError>> {
        Box::pin(self.do_load())
    }

    fn changes_since(
        &self,
        revision: Revision,
        limit: u32,
    ) -> BoxFuture<'_, Result<Changes, StoreError>> {
        Box::pin(self.do_changes(revision, limit))
    }

    fn history(
        &self,
        key: &ResourceKey,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<HistoryEntry>, StoreError>> {
        Box::pin(self.do_history(key.clone(), limit))
    }

    fn compact(&self, retention: Retention) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(self.do_compact(retention))
    }

    fn wake(&self) -> watch::Receiver<Revision> {
        self.wake.subscribe()
    }

    fn poll_interval(&self) -> Duration {
        if self.is_listening() { POLL_LISTENING } else { POLL_DEAF }
    }

    fn lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Lease, StoreError>> {
        Box::pin(self.do_lease(name.to_owned(), holder.to_owned(), ttl))
    }

    fn release(&self, name: &str, holder: &str) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.do_release(name.to_owned(), holder.to_owned()))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.stop.cancel();
            let listener = self.listener.lock().ok().and_then(|mut l| l.take());
            if let Some(listener) = listener {
                // The only error is that the task panicked or was aborted; it is gone either way.
                let _ = listener.await;
            }
            self.pool.close().await;
        })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn migrations_are_the_files_of_the_folders() {
        let embedded = |list: &[(i64, &str, &str)]| -> Vec<String> {
            list.iter().map(|(n, name, _)| format!("{n:04}_{name}.sql")).collect()
        };
        let folder = |name: &str| -> Vec<String> {
            let path = format!("{}/../../migrations/{name}", env!("CARGO_MANIFEST_DIR"));
            let mut names: Vec<String> = std::fs::read_dir(path)
                .unwrap()
                .map(|f| f.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        assert_eq!(embedded(super::MIGRATIONS), folder("postgres"));
        assert_eq!(embedded(crate::sqlite::MIGRATIONS), folder("sqlite"));
        assert_eq!(folder("postgres"), folder("sqlite"));
    }
}
