//! The store in SQLite: one process, one connection that writes.

mod write;

use std::{
    fmt,
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use sqlx::{
    ConnectOptions as _, Connection as _,
    sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous},
};
use sunbear_model::ResourceKey;
use tokio::{
    sync::{Mutex, mpsc, oneshot, watch},
    task::JoinHandle,
};
use write::Job;

use crate::{
    change::{Batch, Committed, Revision},
    error::StoreError,
    row,
    seal::{Rotated, SecretCipher},
    store::{Changes, Fence, HistoryEntry, Lease, Loaded, Retention, Store},
};

/// The embedded migrations: number, name, text.
pub(crate) const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "resources", include_str!("../../../../migrations/sqlite/0001_resources.sql")),
    (2, "grouped_commits", include_str!("../../../../migrations/sqlite/0002_grouped_commits.sql")),
];

/// Nobody else writes, so this only guards against mistakes.
const POLL: Duration = Duration::from_secs(10);
/// Jobs that wait for the writer. A full queue makes callers wait, which is what they would do in
/// it anyway.
const QUEUE: usize = 256;
/// Bounds a write, including the wait in the queue.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// The store in SQLite, in a file or in memory.
pub struct Sqlite {
    jobs: std::sync::Mutex<Option<mpsc::Sender<Job>>>,
    writer: std::sync::Mutex<Option<JoinHandle<()>>>,
    /// In memory, this is the connection that writes.
    reader: Arc<Mutex<Option<SqliteConnection>>>,
    wake: watch::Sender<Revision>,
    secrets: SecretCipher,
}

impl Sqlite {
    /// Opens or creates the file, and its folder, and migrates it. Fails with
    /// [`StoreError::Locked`] if another process has it open.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(path.as_ref(), SecretCipher::default(), None).await
    }

    /// As [`Sqlite::open`], with keys for the secrets.
    pub async fn open_with_secrets(
        path: impl AsRef<Path>,
        secrets: SecretCipher,
    ) -> Result<Self, StoreError> {
        Self::open_with(path.as_ref(), secrets, None).await
    }

    /// Seals all secrets that are plain, or sealed with another key, with the current key. Their
    /// versions and revisions stay and nobody hears of it, because nothing has changed outside of
    /// the database.
    pub async fn rotate_secrets(&self) -> Result<Rotated, StoreError> {
        self.secrets.require_key()?;
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.lock().ok().and_then(|jobs| jobs.clone()).ok_or_else(closed)?;
        jobs.send(Job::RotateSecrets { reply }).await.map_err(|_| closed())?;
        // Without a deadline: compacting a large file takes its time.
        answer.await.map_err(|_| closed())?
    }

    /// A database that is full at this many pages.
    #[doc(hidden)]
    pub async fn open_with_page_limit(
        path: impl AsRef<Path>,
        pages: u32,
    ) -> Result<Self, StoreError> {
        Self::open_with(path.as_ref(), SecretCipher::default(), Some(pages)).await
    }

    async fn open_with(
        path: &Path,
        secrets: SecretCipher,
        pages: Option<u32>,
    ) -> Result<Self, StoreError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(file_error)?;
        }
        let lock = lock(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let writer = match pages {
            Some(pages) => options.clone().pragma("max_page_count", pages.to_string()),
            None => options.clone(),
        };
        let writer = connect(writer).await?;
        let reader = connect(options.pragma("query_only", "on"));
        Self::start(writer, Some(reader.await?), Some(lock), secrets).await
    }

    /// A store that is gone when it is dropped.
    pub async fn memory() -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new().in_memory(true);
        Self::start(connect(options).await?, None, None, SecretCipher::default()).await
    }

    async fn start(
        mut writer: SqliteConnection,
        reader: Option<SqliteConnection>,
        lock: Option<File>,
        secrets: SecretCipher,
    ) -> Result<Self, StoreError> {
        row::migrator(MIGRATIONS).run(&mut writer).await?;
        // The lock on the file proves that every holder is gone.
        sqlx::query("UPDATE leases SET expires_at = 0").execute(&mut writer).await?;
        let head: i64 = sqlx::query_scalar(row::HEAD).fetch_one(&mut writer).await?;
        let (wake, _) = watch::channel(row::to_u64(head)?);
        let writer = Arc::new(Mutex::new(Some(writer)));
        let reader = reader.map_or_else(|| Arc::clone(&writer), |r| Arc::new(Mutex::new(Some(r))));
        let (jobs, queue) = mpsc::channel(QUEUE);
        let task = tokio::spawn(write::run(writer, queue, wake.clone(), lock, secrets.clone()));
        Ok(Self {
            jobs: std::sync::Mutex::new(Some(jobs)),
            writer: std::sync::Mutex::new(Some(task)),
            reader,
            wake,
            secrets,
        })
    }

    async fn write<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Job,
    ) -> Result<T, StoreError> {
        let jobs = self.jobs.lock().ok().and_then(|jobs| jobs.clone()).ok_or_else(closed)?;
        let (reply, answer) = oneshot::channel();
        let work = async {
            jobs.send(job(reply)).await.map_err(|_| closed())?;
            answer.await.map_err(|_| closed())?
        };
        tokio::time::timeout(WRITE_TIMEOUT, work).await.map_err(StoreError::unavailable)?
    }

    /// Reads take one statement each, which is consistent by itself, so they need no transaction
    /// and may be dropped at any time.
    async fn do_load(&self) -> Result<Loaded, StoreError> {
        let mut reader = self.reader.lock().await;
        let reader = reader.as_mut().ok_or_else(closed)?;
        let rows = sqlx::query(row::LOAD).fetch_all(reader).await?;
        row::loaded(&rows, &self.secrets)
    }

    async fn do_changes(&self, since: Revision, limit: u32) -> Result<Changes, StoreError> {
        let mut reader = self.reader.lock().await;
        let reader = reader.as_mut().ok_or_else(closed)?;
        let rows = sqlx::query(row::CHANGES)
            .bind(row::to_i64(since))
            .bind(i64::from(limit))
            .fetch_all(reader)
            .await?;
        row::changes(since, &rows, &self.secrets)
    }

    async fn do_history(
        &self,
        key: ResourceKey,
        limit: u32,
    ) -> Result<Vec<HistoryEntry>, StoreError> {
        let mut reader = self.reader.lock().await;
        let reader = reader.as_mut().ok_or_else(closed)?;
        let rows = sqlx::query(row::HISTORY)
            .bind(key.kind.name())
            .bind(&*key.mesh)
            .bind(&*key.name)
            .bind(i64::from(limit))
            .fetch_all(reader)
            .await?;
        rows.iter().map(|row| row::history(key.kind, row)).collect()
    }

    async fn do_close(&self) {
        drop(self.jobs.lock().ok().and_then(|mut jobs| jobs.take()));
        let reader = self.reader.lock().await.take();
        let writer = self.writer.lock().ok().and_then(|mut writer| writer.take());
        if let Some(writer) = writer {
            // In memory the writer's connection has just been taken; then it only ends.
            let _ = writer.await;
        }
        if let Some(reader) = reader
            && let Err(error) = reader.close().await
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "closing the database failed");
        }
    }
}

async fn connect(options: SqliteConnectOptions) -> Result<SqliteConnection, StoreError> {
    let options =
        options.foreign_keys(true).busy_timeout(Duration::from_secs(5)).disable_statement_logging();
    Ok(options.connect().await?)
}

/// Takes the lock that lasts as long as the file is open, and no longer than the process.
fn lock(database: &Path) -> Result<File, StoreError> {
    let mut path = database.as_os_str().to_owned();
    path.push(".lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(PathBuf::from(path))
        .map_err(file_error)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(StoreError::Locked(Box::new(io::Error::from(io::ErrorKind::WouldBlock))))
        }
        Err(TryLockError::Error(error)) => Err(file_error(error)),
    }
}

fn file_error(error: io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            StoreError::ReadOnly(Box::new(error))
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            StoreError::Full(Box::new(error))
        }
        _ => StoreError::Other(Box::new(error)),
    }
}

fn closed() -> StoreError {
    StoreError::unavailable("the store is closed")
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite").field("wake", &*self.wake.borrow()).finish_non_exhaustive()
    }
}

impl Store for Sqlite {
    fn commit_fenced(
        &self,
        batch: Batch,
        fence: Option<Fence>,
    ) -> BoxFuture<'_, Result<Committed, StoreError>> {
        Box::pin(self.write(|reply| Job::Commit(write::Commit { batch, fence, reply })))
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
        Box::pin(self.write(|reply| Job::Compact { retention, reply }))
    }

    fn wake(&self) -> watch::Receiver<Revision> {
        self.wake.subscribe()
    }

    fn poll_interval(&self) -> Duration {
        POLL
    }

    fn lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Lease, StoreError>> {
        let (name, holder) = (name.to_owned(), holder.to_owned());
        Box::pin(self.write(move |reply| Job::Lease { name, holder, ttl, reply }))
    }

    fn release(&self, name: &str, holder: &str) -> BoxFuture<'_, Result<(), StoreError>> {
        let (name, holder) = (name.to_owned(), holder.to_owned());
        Box::pin(self.write(move |reply| Job::Release { name, holder, reply }))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.do_close())
    }
}
