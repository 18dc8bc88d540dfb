//! The task that owns the writing connection.
//!
//! Commits that wait while another one is written to disk are committed together with one
//! `fsync`. A statement gets all its rows as one JSON array, and the bodies as one blob into which
//! the array points; so a batch of any size is a handful of statements.

use std::{fs::File, sync::Arc, time::Duration};

use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, sqlite::SqliteConnection};
use time::OffsetDateTime;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use uuid::Uuid;

use crate::{
    change::{Batch, Committed, Revision},
    error::StoreError,
    plan::{self, Current, Op, Plan},
    row,
    seal::{Place, Rotated, SecretCipher},
    store::{Fence, Lease, Retention},
};

/// Commits that may share one `fsync`.
const MAX_GROUP: usize = 64;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

pub(super) struct Commit {
    pub(super) batch: Batch,
    pub(super) fence: Option<Fence>,
    pub(super) reply: Reply<Committed>,
}

/// What the writer does.
pub(super) enum Job {
    Commit(Commit),
    Compact { retention: Retention, reply: Reply<u64> },
    Lease { name: String, holder: String, ttl: Duration, reply: Reply<Lease> },
    Release { name: String, holder: String, reply: Reply<()> },
    RotateSecrets { reply: Reply<Rotated> },
}

/// Works until all senders are gone. Keeps the lock on the file until the connection is closed.
pub(super) async fn run(
    connection: Arc<Mutex<Option<SqliteConnection>>>,
    mut queue: mpsc::Receiver<Job>,
    wake: watch::Sender<Revision>,
    lock: Option<File>,
    secrets: SecretCipher,
) {
    let mut put_back = None;
    loop {
        let job = match put_back.take() {
            Some(job) => job,
            None => match queue.recv().await {
                Some(job) => job,
                None => break,
            },
        };
        let mut connection = connection.lock().await;
        let Some(connection) = connection.as_mut() else { break };
        match job {
            Job::Commit(first) => {
                let mut group = vec![first];
                while group.len() < MAX_GROUP && put_back.is_none() {
                    match queue.try_recv() {
                        Ok(Job::Commit(commit)) => group.push(commit),
                        Ok(other) => put_back = Some(other),
                        Err(_) => break,
                    }
                }
                commit(connection, group, &wake, &secrets).await;
            }
            Job::Compact { retention, reply } => {
                let _ = reply.send(compact(connection, &retention).await);
            }
            Job::Lease { name, holder, ttl, reply } => {
                let _ = reply.send(lease(connection, &name, &holder, ttl).await);
            }
            Job::Release { name, holder, reply } => {
                let done = sqlx::query(row::RELEASE).bind(name).bind(holder).execute(connection);
                let _ = reply.send(done.await.map(|_| ()).map_err(StoreError::from));
            }
            Job::RotateSecrets { reply } => {
                let _ = reply.send(rotate_secrets(connection, &secrets).await);
            }
        }
    }
    if let Some(connection) = connection.lock().await.take()
        && let Err(error) = connection.close().await
    {
        tracing::warn!(error = &error as &dyn std::error::Error, "closing the database failed");
    }
    drop(lock);
}

/// Ends a transaction that `BEGIN IMMEDIATE` began. The statements are plain, not a transaction of
/// sqlx: SQLite ends a transaction by itself when the disk is full, and sqlx would go on counting
/// it.
async fn end<T>(
    connection: &mut SqliteConnection,
    result: Result<T, StoreError>,
) -> Result<T, StoreError> {
    let result = match result {
        Ok(value) => match connection.execute("COMMIT").await {
            Ok(_) => return Ok(value),
            Err(error) => Err(error.into()),
        },
        Err(error) => Err(error),
    };
    // Fails if SQLite has done it already.
    let _ = connection.execute("ROLLBACK").await;
    result
}

async fn commit(
    connection: &mut SqliteConnection,
    group: Vec<Commit>,
    wake: &watch::Sender<Revision>,
    secrets: &SecretCipher,
) {
    let all = match begin(connection).await {
        Ok(()) => {
            let done = apply_all(connection, &group, secrets).await;
            end(connection, done).await
        }
        Err(error) => Err(error),
    };
    match all {
        Ok(done) => {
            if let Some(revision) = done.iter().map(|c| c.revision).max() {
                wake.send_if_modified(|known| {
                    let more = revision > *known;
                    *known = revision.max(*known);
                    more
                });
            }
            for (commit, committed) in group.into_iter().zip(done) {
                // A caller that has gone hears of it through the feed.
                let _ = commit.reply.send(Ok(committed));
            }
        }
        Err(error) if group.len() == 1 => {
            if let Some(only) = group.into_iter().next() {
                let _ = only.reply.send(Err(error));
            }
        }
        // Each by itself, so that each gets its own answer.
        Err(_) => {
            for one in group {
                Box::pin(commit(connection, vec![one], wake, secrets)).await;
            }
        }
    }
}

async fn begin(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    connection.execute("BEGIN IMMEDIATE").await?;
    Ok(())
}

async fn apply_all(
    connection: &mut SqliteConnection,
    group: &[Commit],
    secrets: &SecretCipher,
) -> Result<Vec<Committed>, StoreError> {
    let mut done = Vec::with_capacity(group.len());
    for commit in group {
        done.push(apply(connection, commit, secrets).await?);
    }
    Ok(done)
}

async fn apply(
    connection: &mut SqliteConnection,
    Commit { batch, fence, .. }: &Commit,
    secrets: &SecretCipher,
) -> Result<Committed, StoreError> {
    let current = read(connection, batch, secrets).await?;
    let plan = plan::plan(batch, current, Uuid::new_v4);
    if plan.entries.is_empty() {
        return Ok(plan.finish(0));
    }
    if let Some(fence) = fence {
        let held: Option<i64> = sqlx::query_scalar(
            "SELECT 1 FROM leases WHERE name = $1 AND fencing = $2 AND expires_at > $3",
        )
        .bind(&*fence.name)
        .bind(row::to_i64(fence.fencing))
        .bind(row::to_micros(OffsetDateTime::now_utc()))
        .fetch_optional(&mut *connection)
        .await?;
        if held.is_none() {
            return Err(StoreError::Fenced(fence.name.clone()));
        }
    }
    let base = write(connection, batch, &plan, secrets).await?;
    Ok(plan.finish(base))
}

async fn read(
    connection: &mut SqliteConnection,
    batch: &Batch,
    secrets: &SecretCipher,
) -> Result<Current, StoreError> {
    let (keys, deletes) = plan::touched(batch);
    let keys: Value = keys.iter().map(|k| json!([k.kind.name(), *k.mesh, *k.name])).collect();
    let rows = sqlx::query(READ).bind(keys.to_string()).fetch_all(&mut *connection).await?;
    let mut objects = Vec::with_capacity(rows.len());
    for row in &rows {
        objects.extend(row::resource(row, 0, secrets)?);
    }
    let roots = if deletes { plan::doomed(batch, &objects) } else { Vec::new() };
    let mut dependents = Vec::new();
    if !roots.is_empty() {
        let roots: Value = roots.iter().map(hex).collect();
        let rows = sqlx::query(DEPENDENTS).bind(roots.to_string()).fetch_all(connection).await?;
        for row in &rows {
            dependents.push(row::dependent(row)?);
        }
    }
    Ok(Current { objects, dependents })
}

const READ: &str = "\
    SELECT r.uid, r.type, r.mesh, r.name, r.version, r.revision, r.labels, r.spec, r.status, \
    r.owner_uid, r.created_at, r.modified_at \
    FROM json_each($1) k CROSS JOIN resources r \
    WHERE r.type = k.value ->> 0 AND r.mesh = k.value ->> 1 AND r.name = k.value ->> 2";

const DEPENDENTS: &str = "\
    WITH RECURSIVE doomed (uid) AS (SELECT unhex(value) FROM json_each($1) \
        UNION SELECT r.uid FROM doomed d CROSS JOIN resources r WHERE r.owner_uid = d.uid) \
    SELECT r.uid, r.type, r.mesh, r.name, r.version, r.labels, r.owner_uid \
    FROM doomed d CROSS JOIN resources r WHERE r.uid = d.uid";

/// Writes the entries; returns the revision before the first.
async fn write(
    connection: &mut SqliteConnection,
    batch: &Batch,
    plan: &Plan,
    secrets: &SecretCipher,
) -> Result<Revision, StoreError> {
    let count = i64::try_from(plan.entries.len()).unwrap_or(i64::MAX);
    let base: i64 = sqlx::query_scalar(
        "UPDATE counters SET n = n + $1 WHERE name = 'revision' RETURNING n - $1",
    )
    .bind(count)
    .fetch_one(&mut *connection)
    .await?;

    // SQLite takes a part of an empty blob for NULL; the first byte keeps it from being empty.
    let mut bodies = vec![0_u8];
    let mut place = |body: Option<&[u8]>| match body {
        Some(body) => {
            bodies.extend_from_slice(body);
            // Positions begin at 1.
            (Some(bodies.len() - body.len() + 1), Some(body.len()))
        }
        None => (None, None),
    };
    let (mut put, mut delete, mut log) = (Vec::new(), Vec::new(), Vec::new());
    for (entry, revision) in plan.entries.iter().zip(base + 1..) {
        let uid = hex(&entry.uid);
        let labels = row::labels_text(&entry.labels);
        let spec = match &entry.resource {
            Some(r) => Some(secrets.seal(Place::from(&r.key), r.spec.wire())?),
            None => None,
        };
        let spec = place(spec.as_deref());
        let kept = if entry.history { spec } else { (None, None) };
        log.push(json!([
            revision,
            op_code(entry.op),
            uid,
            entry.type_name,
            *entry.mesh,
            *entry.name,
            entry.version,
            labels,
            kept.0,
            kept.1,
        ]));
        match &entry.resource {
            Some(resource) if entry.net => {
                let status = place(resource.status.as_deref());
                put.push(json!([
                    uid,
                    entry.type_name,
                    *entry.mesh,
                    *entry.name,
                    entry.version,
                    revision,
                    labels,
                    spec.0,
                    spec.1,
                    status.0,
                    status.1,
                    resource.owner.as_ref().map(|o| hex(&o.uid)),
                    row::to_micros(resource.created_at),
                ]));
            }
            None if entry.net => delete.push(uid),
            Some(_) | None => {}
        }
    }
    let at = row::to_micros(plan::micros(batch.at));
    if !delete.is_empty() {
        sqlx::query(DELETE)
            .bind(Value::Array(delete).to_string())
            .execute(&mut *connection)
            .await?;
    }
    if !put.is_empty() {
        sqlx::query(PUT)
            .bind(Value::Array(put).to_string())
            .bind(&*bodies)
            .bind(at)
            .execute(&mut *connection)
            .await?;
    }
    sqlx::query(LOG)
        .bind(Value::Array(log).to_string())
        .bind(bodies)
        .bind(at)
        .bind(without_null(&batch.author))
        .bind(without_null(&batch.reason))
        .execute(connection)
        .await?;
    row::to_u64(base)
}

const DELETE: &str = "DELETE FROM resources WHERE uid IN (SELECT unhex(value) FROM json_each($1))";

const PUT: &str = "\
    INSERT INTO resources (uid, type, mesh, name, version, revision, labels, spec, status, \
        owner_uid, created_at, modified_at) \
    SELECT unhex(e.value ->> 0), e.value ->> 1, e.value ->> 2, e.value ->> 3, e.value ->> 4, \
        e.value ->> 5, e.value ->> 6, substr($2, e.value ->> 7, e.value ->> 8), \
        substr($2, e.value ->> 9, e.value ->> 10), unhex(e.value ->> 11), e.value ->> 12, $3 \
    FROM json_each($1) e WHERE true \
    ON CONFLICT (uid) DO UPDATE SET version = excluded.version, revision = excluded.revision, \
        labels = excluded.labels, spec = excluded.spec, status = excluded.status, \
        owner_uid = excluded.owner_uid, modified_at = excluded.modified_at";

const LOG: &str = "\
    INSERT INTO changes (revision, op, uid, type, mesh, name, version, labels, spec, at, author, \
        reason) \
    SELECT e.value ->> 0, e.value ->> 1, unhex(e.value ->> 2), e.value ->> 3, e.value ->> 4, \
        e.value ->> 5, e.value ->> 6, e.value ->> 7, substr($2, e.value ->> 8, e.value ->> 9), \
        $3, $4, $5 \
    FROM json_each($1) e";

async fn compact(connection: &mut SqliteConnection, keep: &Retention) -> Result<u64, StoreError> {
    begin(connection).await?;
    let removed = remove_old(connection, keep).await;
    end(connection, removed).await
}

async fn remove_old(
    connection: &mut SqliteConnection,
    keep: &Retention,
) -> Result<u64, StoreError> {
    let cut: i64 = sqlx::query_scalar(row::COMPACT_TO)
        .bind(row::to_micros(keep.feed_since))
        .bind(row::to_i64(keep.feed_rows))
        .fetch_one(&mut *connection)
        .await?;
    if cut <= 0 {
        return Ok(0);
    }
    sqlx::query(row::COMPACTED).bind(cut).execute(&mut *connection).await?;
    let without_history: Value = row::without_history().into_iter().collect();
    let done = sqlx::query(COMPACT)
        .bind(cut)
        .bind(without_history.to_string())
        .bind(row::to_micros(keep.history_since))
        .bind(i64::from(keep.history_per_object))
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

const COMPACT: &str = "\
    DELETE FROM changes WHERE revision IN (SELECT revision FROM \
    (SELECT revision, type, at, row_number() OVER \
        (PARTITION BY type, mesh, name ORDER BY revision DESC) AS age FROM changes) x \
    WHERE revision <= $1 AND (type IN (SELECT value FROM json_each($2)) OR at < $3 OR age > $4))";

/// Besides the rows, also what SQLite keeps of their former contents is gone afterwards: in unused
/// pages, and in the log of writes.
async fn rotate_secrets(
    connection: &mut SqliteConnection,
    secrets: &SecretCipher,
) -> Result<Rotated, StoreError> {
    begin(connection).await?;
    let rotated = reseal(connection, secrets).await;
    let rotated = end(connection, rotated).await?;
    // Also if nothing was left to seal: an earlier rotation may have come to its end only here.
    connection.execute("VACUUM").await?;
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").await?;
    Ok(rotated)
}

async fn reseal(
    connection: &mut SqliteConnection,
    secrets: &SecretCipher,
) -> Result<Rotated, StoreError> {
    let rows = sqlx::query(row::SECRETS).fetch_all(&mut *connection).await?;
    let (todo, unchanged) = row::to_reseal(&rows, secrets)?;
    let mut rotated = Rotated { sealed: 0, unchanged };
    for row in todo {
        let done = sqlx::query(row::RESEAL)
            .bind(row.new)
            .bind(row.uid)
            .bind(row.old)
            .execute(&mut *connection)
            .await?;
        rotated.sealed += done.rows_affected();
    }
    Ok(rotated)
}

async fn lease(
    connection: &mut SqliteConnection,
    name: &str,
    holder: &str,
    ttl: Duration,
) -> Result<Lease, StoreError> {
    let now = OffsetDateTime::now_utc();
    let taken: Option<i64> = sqlx::query_scalar(LEASE)
        .bind(name)
        .bind(holder)
        .bind(row::to_micros(now + ttl))
        .bind(row::to_micros(now))
        .fetch_optional(&mut *connection)
        .await?;
    if let Some(fencing) = taken {
        return Ok(Lease::Held { fencing: row::to_u64(fencing)? });
    }
    let other: Option<String> = sqlx::query_scalar("SELECT holder FROM leases WHERE name = $1")
        .bind(name)
        .fetch_optional(connection)
        .await?;
    Ok(Lease::Other { holder: other.unwrap_or_default() })
}

const LEASE: &str = "\
    INSERT INTO leases AS l (name, holder, fencing, expires_at) VALUES ($1, $2, 1, $3) \
    ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, \
    fencing = l.fencing + CASE WHEN l.holder = excluded.holder AND l.expires_at > $4 \
        THEN 0 ELSE 1 END, \
    expires_at = excluded.expires_at \
    WHERE l.holder = excluded.holder OR l.expires_at <= $4 \
    RETURNING fencing";

fn op_code(op: Op) -> i64 {
    match op {
        Op::Create => 1,
        Op::Update => 2,
        Op::Delete => 3,
    }
}

fn hex(uid: &Uuid) -> Value {
    uid.simple().to_string().into()
}

fn without_null(text: &str) -> String {
    text.replace('\0', "")
}
