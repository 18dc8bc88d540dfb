//! The write path: read what the batch touches, plan, write in one call of a function.
//!
//! The first attempt reads without locks, so that a write is two round trips. The function checks
//! that nothing has changed since; if something has, further attempts lock the rows while they
//! read.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use sqlx::{Connection as _, PgPool, postgres::PgConnection};
use sunbear_model::{Resource, ResourceKey};
use time::OffsetDateTime;
use tokio::sync::watch;
use uuid::Uuid;

use super::{Gate, discard, is_lost};
use crate::{
    change::{Batch, Committed, Revision},
    error::StoreError,
    plan::{self, Current, Dependent, Op, Plan},
    row,
    seal::{Place, SecretCipher},
    store::Fence,
};

/// With locks, an attempt fails only if the same key is created or deleted at the same moment.
const MAX_ATTEMPTS: u32 = 20;

const READ: &str = "\
    SELECT r.uid, r.type, r.mesh, r.name, r.version, r.revision, CAST(r.labels AS text), r.spec, \
    r.status, r.owner_uid, r.created_at, r.modified_at \
    FROM unnest($1::text[], $2::text[], $3::text[]) AS k (type, mesh, name) \
    JOIN resources r ON r.type = k.type AND r.mesh = k.mesh AND r.name = k.name";

const READ_LOCKED: &str = "\
    SELECT r.uid, r.type, r.mesh, r.name, r.version, r.revision, CAST(r.labels AS text), r.spec, \
    r.status, r.owner_uid, r.created_at, r.modified_at \
    FROM unnest($1::text[], $2::text[], $3::text[]) AS k (type, mesh, name) \
    JOIN resources r ON r.type = k.type AND r.mesh = k.mesh AND r.name = k.name \
    ORDER BY r.uid FOR UPDATE OF r";

const DEPENDENTS: &str = "\
    WITH RECURSIVE doomed (uid) AS (SELECT unnest($1::uuid[]) \
        UNION SELECT r.uid FROM doomed d JOIN resources r ON r.owner_uid = d.uid) \
    SELECT r.uid, r.type, r.mesh, r.name, r.version, CAST(r.labels AS text), r.owner_uid \
    FROM doomed d JOIN resources r ON r.uid = d.uid";

const WRITE: &str = "\
    SELECT sunbear_commit_v2($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, \
    $17, $18, $19, $20)";

enum Failed {
    /// Something has changed since it was read; nothing was written.
    Stale,
    /// The connection was dead before anything was written.
    Dead(StoreError),
    Store(StoreError),
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Writes batches. A clone writes through the same pool.
#[derive(Debug, Clone)]
pub(super) struct Committer {
    pub(super) pool: PgPool,
    pub(super) wake: watch::Sender<Revision>,
    /// Bounds a whole attempt, for networks that swallow packets.
    pub(super) call_timeout: Duration,
    /// Dead connections that one call may meet before it gives up.
    pub(super) max_connections: u32,
    pub(super) gate: Option<Gate>,
    pub(super) secrets: SecretCipher,
}

/// Why a group was not written.
pub(super) enum GroupError {
    /// Nothing was written, for a reason that may concern one batch alone.
    Refused,
    /// The database is away; something may have been written.
    Unavailable(String),
}

impl From<StoreError> for GroupError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(source) => Self::Unavailable(source.to_string()),
            // The server has rolled back.
            _ => Self::Refused,
        }
    }
}

impl Committer {
    /// Writes one batch.
    pub(super) async fn commit(
        &self,
        batch: &Batch,
        fence: Option<&Fence>,
    ) -> Result<Committed, StoreError> {
        let (mut attempts, mut dead) = (0, 0);
        loop {
            attempts += 1;
            let lock = attempts > 1 || self.gate.is_some();
            let mut connection = self.pool.acquire().await?;
            let attempt = self.attempt(&mut connection, batch, fence, lock);
            let error = match tokio::time::timeout(self.call_timeout, attempt).await {
                Ok(Ok(committed)) => {
                    super::bump(&self.wake, committed.revision);
                    return Ok(committed);
                }
                Ok(Err(Failed::Stale)) if attempts < MAX_ATTEMPTS => continue,
                Ok(Err(Failed::Stale)) => {
                    return Err(StoreError::unavailable("too many writers on the same objects"));
                }
                Ok(Err(Failed::Dead(error))) => {
                    dead += 1;
                    if dead <= self.max_connections {
                        attempts -= 1;
                        discard(connection, &error);
                        continue;
                    }
                    error
                }
                Ok(Err(Failed::Store(error))) => error,
                Err(elapsed) => StoreError::unavailable(elapsed),
            };
            discard(connection, &error);
            return Err(error);
        }
    }

    /// Writes batches, none of which writes what another one touches or deletes anything, in one
    /// transaction; one answer for each.
    pub(super) async fn commit_group(
        &self,
        batches: &[&Batch],
    ) -> Result<Vec<Committed>, GroupError> {
        let mut dead = 0;
        loop {
            let mut connection = self.pool.acquire().await.map_err(StoreError::from)?;
            let attempt = self.attempt_group(&mut connection, batches);
            let error = match tokio::time::timeout(self.call_timeout, attempt).await {
                Ok(Ok(committed)) => {
                    for one in &committed {
                        super::bump(&self.wake, one.revision);
                    }
                    return Ok(committed);
                }
                Ok(Err(Failed::Stale)) => return Err(GroupError::Refused),
                Ok(Err(Failed::Dead(error))) => {
                    dead += 1;
                    if dead <= self.max_connections {
                        discard(connection, &error);
                        continue;
                    }
                    error
                }
                Ok(Err(Failed::Store(error))) => error,
                Err(elapsed) => StoreError::unavailable(elapsed),
            };
            discard(connection, &error);
            return Err(error.into());
        }
    }

    async fn attempt(
        &self,
        connection: &mut PgConnection,
        batch: &Batch,
        fence: Option<&Fence>,
        lock: bool,
    ) -> Result<Committed, Failed> {
        if !lock {
            let plan = match read(connection, batch, &self.secrets, false).await {
                Ok(current) => plan::plan(batch, current, Uuid::new_v4),
                Err(error) if is_lost(&error) => return Err(Failed::Dead(error)),
                Err(error) => return Err(error.into()),
            };
            if plan.entries.is_empty() {
                return Ok(plan.finish(0));
            }
            let base = write(connection, &[(batch, &plan)], &self.secrets, fence).await?;
            return Ok(plan.finish(base));
        }
        let mut transaction = connection.begin().await.map_err(|error| {
            let error = error.into();
            if is_lost(&error) { Failed::Dead(error) } else { Failed::Store(error) }
        })?;
        let current =
            read(&mut transaction, batch, &self.secrets, true).await.map_err(retry_conflicts)?;
        let plan = plan::plan(batch, current, Uuid::new_v4);
        let base = if plan.entries.is_empty() {
            0
        } else {
            write(&mut transaction, &[(batch, &plan)], &self.secrets, fence).await?
        };
        if let Some(gate) = &self.gate {
            gate.arrived.add_permits(1);
            if let Ok(permit) = gate.open.acquire().await {
                permit.forget();
            }
        }
        transaction.commit().await.map_err(|error| retry_conflicts(error.into()))?;
        Ok(plan.finish(base))
    }

    async fn attempt_group(
        &self,
        connection: &mut PgConnection,
        batches: &[&Batch],
    ) -> Result<Vec<Committed>, Failed> {
        let touched: Vec<_> = batches.iter().map(|batch| plan::touched(batch).0).collect();
        let keys: BTreeSet<&ResourceKey> = touched.iter().flatten().collect();
        let objects = match objects(connection, keys.iter().copied(), &self.secrets, false).await {
            Ok(objects) => objects,
            Err(error) if is_lost(&error) => return Err(Failed::Dead(error)),
            Err(error) => return Err(error.into()),
        };
        let objects: HashMap<&ResourceKey, &Resource> =
            objects.iter().map(|object| (&object.key, object)).collect();
        let plans: Vec<Plan> = batches
            .iter()
            .zip(&touched)
            .map(|(batch, keys)| {
                let objects =
                    keys.iter().filter_map(|key| objects.get(key).copied().cloned()).collect();
                let current = Current { objects, dependents: Vec::new() };
                plan::plan(batch, current, Uuid::new_v4)
            })
            .collect();
        let mut base = 0;
        if plans.iter().any(|plan| !plan.entries.is_empty()) {
            let planned: Vec<_> = batches.iter().copied().zip(&plans).collect();
            base = write(connection, &planned, &self.secrets, None).await?;
        }
        let mut committed = Vec::with_capacity(plans.len());
        for plan in plans {
            let entries = plan.entries.len() as u64;
            committed.push(plan.finish(base));
            base += entries;
        }
        Ok(committed)
    }
}

async fn read(
    connection: &mut PgConnection,
    batch: &Batch,
    secrets: &SecretCipher,
    lock: bool,
) -> Result<Current, StoreError> {
    let (keys, deletes) = plan::touched(batch);
    if keys.is_empty() {
        return Ok(Current::default());
    }
    let objects = objects(connection, keys.iter(), secrets, lock).await?;
    let roots = if deletes { plan::doomed(batch, &objects) } else { Vec::new() };
    let dependents = if roots.is_empty() {
        Vec::new()
    } else {
        let rows = sqlx::query(DEPENDENTS).bind(roots).fetch_all(connection).await?;
        rows.iter().map(row::dependent).collect::<Result<Vec<Dependent>, _>>()?
    };
    Ok(Current { objects, dependents })
}

/// The rows of these keys.
async fn objects<'k>(
    connection: &mut PgConnection,
    keys: impl Iterator<Item = &'k ResourceKey> + Clone,
    secrets: &SecretCipher,
    lock: bool,
) -> Result<Vec<Resource>, StoreError> {
    let column = |f: fn(&'k ResourceKey) -> &'k str| keys.clone().map(f).collect::<Vec<&str>>();
    let rows = sqlx::query(if lock { READ_LOCKED } else { READ })
        .bind(column(|k| k.kind.name()))
        .bind(column(|k| &k.mesh))
        .bind(column(|k| &k.name))
        .fetch_all(connection)
        .await?;
    rows.iter().filter_map(|r| row::resource(r, 0, secrets).transpose()).collect()
}

/// Writes the entries of one or several batches, in this order; returns the revision before the first.
async fn write(
    connection: &mut PgConnection,
    planned: &[(&Batch, &Plan)],
    secrets: &SecretCipher,
    fence: Option<&Fence>,
) -> Result<u64, Failed> {
    let (mut entries, mut at, mut authors, mut reasons) = (vec![], vec![], vec![], vec![]);
    for (batch, plan) in planned {
        entries.extend(&plan.entries);
        at.resize(entries.len(), plan::micros(batch.at));
        authors.resize(entries.len(), text(&batch.author));
        reasons.resize(entries.len(), text(&batch.reason));
    }
    let guards: BTreeSet<Uuid> =
        planned.iter().flat_map(|(_, plan)| plan.guards.iter().copied()).collect();
    let labels: Vec<String> = entries.iter().map(|e| row::labels_text(&e.labels)).collect();
    let mut spec: Vec<Option<Cow<'_, [u8]>>> = Vec::with_capacity(entries.len());
    for resource in entries.iter().map(|e| e.resource.as_ref()) {
        spec.push(match resource {
            Some(r) => Some(secrets.seal(Place::from(&r.key), r.spec.wire())?),
            None => None,
        });
    }
    let spec: Vec<Option<&[u8]>> = spec.iter().map(|s| s.as_deref()).collect();
    let status: Vec<Option<&[u8]>> =
        entries.iter().map(|e| e.resource.as_ref().and_then(|r| r.status.as_deref())).collect();
    let owner: Vec<Option<Uuid>> = entries
        .iter()
        .map(|e| e.resource.as_ref().and_then(|r| r.owner.as_ref()).map(|o| o.uid))
        .collect();
    let created: Vec<Option<OffsetDateTime>> =
        entries.iter().map(|e| e.resource.as_ref().map(|r| r.created_at)).collect();
    let base = sqlx::query_scalar::<_, i64>(WRITE)
        .bind(entries.iter().map(|e| op_code(e.op)).collect::<Vec<i16>>())
        .bind(entries.iter().map(|e| e.uid).collect::<Vec<_>>())
        .bind(entries.iter().map(|e| &*e.type_name).collect::<Vec<&str>>())
        .bind(entries.iter().map(|e| &*e.mesh).collect::<Vec<&str>>())
        .bind(entries.iter().map(|e| &*e.name).collect::<Vec<&str>>())
        .bind(entries.iter().map(|e| row::to_i64(e.version)).collect::<Vec<_>>())
        .bind(entries.iter().map(|e| row::to_i64(e.base)).collect::<Vec<_>>())
        .bind(entries.iter().map(|e| e.net).collect::<Vec<_>>())
        .bind(entries.iter().map(|e| e.history).collect::<Vec<_>>())
        .bind(labels)
        .bind(spec)
        .bind(status)
        .bind(owner)
        .bind(created)
        .bind(at)
        .bind(authors)
        .bind(reasons)
        .bind(guards.into_iter().collect::<Vec<_>>())
        .bind(fence.map(|f| &*f.name))
        .bind(fence.map(|f| row::to_i64(f.fencing)))
        .fetch_one(connection)
        .await;
    match base {
        Ok(base) => Ok(row::to_u64(base)?),
        Err(sqlx::Error::Database(e)) if e.code().as_deref() == Some("SB002") => {
            let name = fence.map(|f| f.name.clone()).unwrap_or_default();
            Err(Failed::Store(StoreError::Fenced(name)))
        }
        Err(error) => Err(retry_conflicts(error.into())),
    }
}

/// The text without what Postgres cannot hold.
fn text(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "")) } else { Cow::Borrowed(text) }
}

fn op_code(op: Op) -> i16 {
    match op {
        Op::Create => 1,
        Op::Update => 2,
        Op::Delete => 3,
    }
}

/// Errors that mean that another writer was faster: our own check, unique key, foreign key,
/// deadlock, serialization.
fn retry_conflicts(error: StoreError) -> Failed {
    let code = match &error {
        StoreError::Other(source) => match source.downcast_ref::<sqlx::Error>() {
            Some(sqlx::Error::Database(e)) => e.code().map(|c| c.into_owned()),
            Some(_) | None => None,
        },
        _ => None,
    };
    match code.as_deref() {
        Some("SB001" | "23505" | "23503" | "40P01" | "40001") => Failed::Stale,
        Some(_) | None => Failed::Store(error),
    }
}
