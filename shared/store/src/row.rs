//! Rows of both databases to values. The statements here are the ones that both understand.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use sqlx::{
    Row as _, SqlSafeStr as _, SqlStr,
    migrate::{Migration, MigrationType, Migrator},
    postgres::PgRow,
    sqlite::SqliteRow,
};
use sunbear_model::{Kind, Owner, Resource, ResourceKey, Spec};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    change::{Event, Revision, Tombstone, WorldChange},
    error::StoreError,
    plan::Dependent,
    seal::{Place, SecretCipher},
    store::{Changes, HistoryEntry, HistoryOp, Loaded},
};

/// Everything with the revision, in one statement and so of one moment.
pub(crate) const LOAD: &str = "\
    SELECT s.head, r.uid, r.type, r.mesh, r.name, r.version, r.revision, CAST(r.labels AS text), \
    r.spec, r.status, r.owner_uid, r.created_at, r.modified_at \
    FROM (SELECT (SELECT coalesce(max(revision), 0) FROM changes) AS head) s \
    LEFT JOIN resources r ON 1 = 1";

/// The newest revision.
pub(crate) const HEAD: &str = "SELECT coalesce(max(revision), 0) FROM changes";

/// A page of the log with the rows as they are at the same moment; an entry whose row has moved on
/// comes without it.
pub(crate) const CHANGES: &str = "\
    SELECT s.head, s.compacted, c.revision, c.op, c.uid, c.type, c.mesh, c.name, c.version, \
    CASE WHEN c.op = 3 THEN CAST(c.labels AS text) END, \
    r.uid, r.type, r.mesh, r.name, r.version, r.revision, CAST(r.labels AS text), \
    r.spec, r.status, r.owner_uid, r.created_at, r.modified_at \
    FROM (SELECT (SELECT coalesce(max(revision), 0) FROM changes) AS head, \
                 (SELECT n FROM counters WHERE name = 'compacted') AS compacted) s \
    LEFT JOIN (SELECT revision, op, uid, type, mesh, name, version, labels FROM changes \
               WHERE revision > $1 ORDER BY revision LIMIT $2) c ON 1 = 1 \
    LEFT JOIN resources r ON r.uid = c.uid AND r.revision = c.revision \
    ORDER BY c.revision";

/// The newest entries about one object.
pub(crate) const HISTORY: &str = "\
    SELECT revision, op, uid, version, CAST(labels AS text), spec, at, author, reason \
    FROM changes WHERE type = $1 AND mesh = $2 AND name = $3 ORDER BY revision DESC LIMIT $4";

/// How far the feed may be compacted: entries older than $1 or beyond the newest $2, but never the
/// newest entry, by which a reader tells whether this is still the database that it read before.
pub(crate) const COMPACT_TO: &str = "\
    SELECT CASE WHEN t.cut < s.head - 1 THEN t.cut ELSE s.head - 1 END FROM \
    (SELECT coalesce(max(revision), 0) AS head FROM changes) s, \
    (SELECT max(x.v) AS cut FROM \
        (SELECT coalesce(max(revision), 0) AS v FROM changes WHERE at < $1 \
         UNION ALL SELECT coalesce(max(revision), 0) - $2 FROM changes) x) t";

/// Raises the mark of compaction.
pub(crate) const COMPACTED: &str = "UPDATE counters SET n = $1 WHERE name = 'compacted' AND n < $1";

/// What a rotation looks at.
pub(crate) const SECRETS: &str =
    "SELECT uid, type, mesh, name, spec FROM resources WHERE type IN ('GlobalSecret', 'Secret')";

/// Writes another form of the same spec, unless somebody has written to the row meanwhile. Version,
/// revision and log stay: nothing has changed for anybody outside of the database.
pub(crate) const RESEAL: &str = "UPDATE resources SET spec = $1 WHERE uid = $2 AND spec = $3";

/// Gives up a lease.
pub(crate) const RELEASE: &str = "DELETE FROM leases WHERE name = $1 AND holder = $2";

/// The columns of either database, by position.
pub(crate) trait Columns {
    fn uuid(&self, i: usize) -> Result<Option<Uuid>, sqlx::Error>;
    fn text(&self, i: usize) -> Result<Option<String>, sqlx::Error>;
    fn int(&self, i: usize) -> Result<Option<i64>, sqlx::Error>;
    fn op(&self, i: usize) -> Result<Option<i64>, sqlx::Error>;
    fn bytes(&self, i: usize) -> Result<Option<Vec<u8>>, sqlx::Error>;
    fn time(&self, i: usize) -> Result<Option<OffsetDateTime>, sqlx::Error>;
}

impl Columns for PgRow {
    fn uuid(&self, i: usize) -> Result<Option<Uuid>, sqlx::Error> {
        self.try_get(i)
    }
    fn text(&self, i: usize) -> Result<Option<String>, sqlx::Error> {
        self.try_get(i)
    }
    fn int(&self, i: usize) -> Result<Option<i64>, sqlx::Error> {
        self.try_get(i)
    }
    fn op(&self, i: usize) -> Result<Option<i64>, sqlx::Error> {
        Ok(self.try_get::<Option<i16>, _>(i)?.map(i64::from))
    }
    fn bytes(&self, i: usize) -> Result<Option<Vec<u8>>, sqlx::Error> {
        self.try_get(i)
    }
    fn time(&self, i: usize) -> Result<Option<OffsetDateTime>, sqlx::Error> {
        self.try_get(i)
    }
}

impl Columns for SqliteRow {
    fn uuid(&self, i: usize) -> Result<Option<Uuid>, sqlx::Error> {
        self.try_get(i)
    }
    fn text(&self, i: usize) -> Result<Option<String>, sqlx::Error> {
        self.try_get(i)
    }
    fn int(&self, i: usize) -> Result<Option<i64>, sqlx::Error> {
        self.try_get(i)
    }
    fn op(&self, i: usize) -> Result<Option<i64>, sqlx::Error> {
        self.try_get(i)
    }
    fn bytes(&self, i: usize) -> Result<Option<Vec<u8>>, sqlx::Error> {
        self.try_get(i)
    }
    fn time(&self, i: usize) -> Result<Option<OffsetDateTime>, sqlx::Error> {
        let Some(micros) = self.try_get::<Option<i64>, _>(i)? else { return Ok(None) };
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000)
            .map(Some)
            .map_err(|e| sqlx::Error::Decode(Box::new(e)))
    }
}

/// Microseconds since 1970.
pub(crate) fn to_micros(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX)
}

/// A number of ours as the databases hold it.
pub(crate) fn to_i64(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A number of the databases as we hold it.
pub(crate) fn to_u64(n: i64) -> Result<u64, StoreError> {
    u64::try_from(n).map_err(|_| StoreError::corrupt(format!("negative number {n}")))
}

pub(crate) fn labels_text(labels: &BTreeMap<String, String>) -> String {
    let map: serde_json::Map<String, serde_json::Value> =
        labels.iter().map(|(k, v)| (k.clone(), v.as_str().into())).collect();
    serde_json::Value::Object(map).to_string()
}

fn labels(text: &str) -> Result<BTreeMap<String, String>, StoreError> {
    serde_json::from_str(text).map_err(|e| StoreError::corrupt(e.to_string()))
}

/// A value that the schema says is there.
pub(crate) fn required<T>(value: Result<Option<T>, sqlx::Error>) -> Result<T, StoreError> {
    value?.ok_or_else(|| StoreError::corrupt("a column is null that must not be"))
}

/// The resource whose columns begin at `i`, in the order of [`LOAD`]. None for a type that this
/// release does not know. Secrets are opened.
pub(crate) fn resource(
    row: &impl Columns,
    i: usize,
    secrets: &SecretCipher,
) -> Result<Option<Resource>, StoreError> {
    let Some(kind) = Kind::by_name(&required(row.text(i + 1))?) else {
        return Ok(None);
    };
    let key = ResourceKey {
        kind,
        mesh: required(row.text(i + 2))?.into(),
        name: required(row.text(i + 3))?.into(),
    };
    let spec = secrets.open(Place::from(&key), required(row.bytes(i + 7))?)?;
    Ok(Some(Resource {
        uid: required(row.uuid(i))?,
        key,
        version: to_u64(required(row.int(i + 4))?)?,
        revision: to_u64(required(row.int(i + 5))?)?,
        labels: labels(&required(row.text(i + 6))?)?,
        spec: Spec::from_wire(kind, spec),
        status: row.bytes(i + 8)?.map(Into::into),
        owner: row.uuid(i + 9)?.map(|uid| Owner { uid }),
        created_at: required(row.time(i + 10))?,
        modified_at: required(row.time(i + 11))?,
    }))
}

/// A row of [`SECRETS`] that must get another form of its spec.
pub(crate) struct Resealed {
    pub(crate) uid: Uuid,
    pub(crate) old: Vec<u8>,
    pub(crate) new: Vec<u8>,
}

/// The rows of [`SECRETS`] that are not sealed with the current key, and how many are.
pub(crate) fn to_reseal(
    rows: &[impl Columns],
    secrets: &SecretCipher,
) -> Result<(Vec<Resealed>, u64), StoreError> {
    let mut todo = Vec::new();
    let mut done = 0;
    for row in rows {
        let Some(kind) = Kind::by_name(&required(row.text(1))?) else { continue };
        let (mesh, name) = (required(row.text(2))?, required(row.text(3))?);
        let old = required(row.bytes(4))?;
        match secrets.reseal(Place { kind, mesh: &mesh, name: &name }, &old)? {
            Some(new) => todo.push(Resealed { uid: required(row.uuid(0))?, old, new }),
            None => done += 1,
        }
    }
    Ok((todo, done))
}

/// uid, type, mesh, name, version, labels, owner.
pub(crate) fn dependent(row: &impl Columns) -> Result<Dependent, StoreError> {
    Ok(Dependent {
        uid: required(row.uuid(0))?,
        type_name: required(row.text(1))?,
        mesh: required(row.text(2))?.into(),
        name: required(row.text(3))?.into(),
        version: to_u64(required(row.int(4))?)?,
        labels: labels(&required(row.text(5))?)?,
        owner: row.uuid(6)?,
    })
}

/// The rows of [`LOAD`].
pub(crate) fn loaded<R: Columns>(rows: &[R], secrets: &SecretCipher) -> Result<Loaded, StoreError> {
    let first = rows.first().ok_or_else(|| StoreError::corrupt("the revision is missing"))?;
    let revision = to_u64(required(first.int(0))?)?;
    let mut resources = Vec::with_capacity(rows.len());
    let mut unknown = 0_usize;
    for row in rows {
        if row.uuid(1)?.is_none() {
            continue;
        }
        match resource(row, 1, secrets)? {
            Some(resource) => resources.push(Arc::new(resource)),
            None => unknown += 1,
        }
    }
    if unknown > 0 {
        tracing::warn!(
            unknown,
            "resources of types that this release does not know are left alone"
        );
    }
    Ok(Loaded { revision, resources })
}

/// The rows of [`CHANGES`].
pub(crate) fn changes<R: Columns>(
    since: Revision,
    rows: &[R],
    secrets: &SecretCipher,
) -> Result<Changes, StoreError> {
    let first = rows.first().ok_or_else(|| StoreError::corrupt("the counters are missing"))?;
    let head = to_u64(required(first.int(0))?)?;
    if head < since {
        return Ok(Changes::Regressed { head });
    }
    if since < to_u64(required(first.int(1))?)? {
        return Ok(Changes::Compacted);
    }
    let mut changes = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(revision) = row.int(2)? else { continue };
        let op = op(required(row.op(3))?)?;
        let event = match op {
            HistoryOp::Deleted => match Kind::by_name(&required(row.text(5))?) {
                Some(kind) => Event::Deleted(Tombstone {
                    key: ResourceKey {
                        kind,
                        mesh: required(row.text(6))?.into(),
                        name: required(row.text(7))?.into(),
                    },
                    labels: labels(&required(row.text(9))?)?,
                }),
                None => Event::Skipped,
            },
            HistoryOp::Created | HistoryOp::Updated => {
                let resource =
                    if row.uuid(10)?.is_some() { resource(row, 10, secrets)? } else { None };
                match resource {
                    None => Event::Skipped,
                    Some(r) if op == HistoryOp::Created => Event::Created(Arc::new(r)),
                    Some(r) => Event::Updated(Arc::new(r)),
                }
            }
        };
        changes.push(WorldChange {
            revision: to_u64(revision)?,
            uid: required(row.uuid(4))?,
            version: to_u64(required(row.int(8))?)?,
            event,
        });
    }
    Ok(Changes::Rows(changes))
}

/// A row of [`HISTORY`].
pub(crate) fn history(kind: Kind, row: &impl Columns) -> Result<HistoryEntry, StoreError> {
    Ok(HistoryEntry {
        revision: to_u64(required(row.int(0))?)?,
        op: op(required(row.op(1))?)?,
        uid: required(row.uuid(2))?,
        version: to_u64(required(row.int(3))?)?,
        labels: labels(&required(row.text(4))?)?,
        spec: row.bytes(5)?.map(|wire| Spec::from_wire(kind, wire)),
        at: required(row.time(6))?,
        author: required(row.text(7))?,
        reason: required(row.text(8))?,
    })
}

fn op(n: i64) -> Result<HistoryOp, StoreError> {
    match n {
        1 => Ok(HistoryOp::Created),
        2 => Ok(HistoryOp::Updated),
        3 => Ok(HistoryOp::Deleted),
        _ => Err(StoreError::corrupt(format!("unknown operation {n}"))),
    }
}

/// The names of the types that leave no history.
pub(crate) fn without_history() -> Vec<&'static str> {
    Kind::all().filter(|k| !crate::plan::has_history(*k)).map(Kind::name).collect()
}

/// A migrator over embedded files. Migrations of newer releases are ignored: an old replica must be
/// able to restart during an upgrade, so a migration may not break the release before it.
pub(crate) fn migrator(files: &[(i64, &'static str, &'static str)]) -> Migrator {
    let migrations: Vec<Migration> = files
        .iter()
        .map(|(version, description, sql)| {
            let sql: SqlStr = (*sql).into_sql_str();
            let description = Cow::Borrowed(*description);
            Migration::new(*version, description, MigrationType::Simple, sql, false)
        })
        .collect();
    let mut migrator = Migrator::with_migrations(migrations);
    migrator.set_ignore_missing(true);
    migrator
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        if let E::Database(database) = &error {
            let code = database.code().unwrap_or_default().into_owned();
            let sqlite = database.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some();
            return if sqlite {
                // The low byte of an extended result code is its primary code.
                match code.parse::<i32>().map(|c| c & 0xff) {
                    Ok(5 | 6) => Self::Unavailable(Box::new(error)),
                    Ok(8) => Self::ReadOnly(Box::new(error)),
                    Ok(10 | 14) => Self::Unavailable(Box::new(error)),
                    Ok(11 | 26) => Self::Corrupt(Box::new(error)),
                    Ok(13) => Self::Full(Box::new(error)),
                    Ok(_) | Err(_) => Self::Other(Box::new(error)),
                }
            } else {
                match code.as_str() {
                    "25006" => Self::ReadOnly(Box::new(error)),
                    "53100" => Self::Full(Box::new(error)),
                    // Statement and lock timeouts, shutdown, start, too many connections, idle in
                    // a transaction for too long.
                    "57014" | "55P03" | "57P01" | "57P02" | "57P03" | "57P05" | "53300"
                    | "25P03" => Self::Unavailable(Box::new(error)),
                    // No such database, no right to what is in it.
                    "3D000" | "42501" => Self::Refused(Box::new(error)),
                    c if c.starts_with("28") => Self::Refused(Box::new(error)),
                    "XX001" | "XX002" => Self::Corrupt(Box::new(error)),
                    c if c.starts_with("08") => Self::Unavailable(Box::new(error)),
                    _ => Self::Other(Box::new(error)),
                }
            };
        }
        match error {
            E::Io(_)
            | E::Tls(_)
            | E::PoolTimedOut
            | E::PoolClosed
            | E::WorkerCrashed
            | E::Protocol(_) => Self::Unavailable(Box::new(error)),
            E::Configuration(_) => Self::Settings(Box::new(error)),
            E::ColumnDecode { .. } | E::Decode(_) => Self::Corrupt(Box::new(error)),
            _ => Self::Other(Box::new(error)),
        }
    }
}

impl From<sqlx::migrate::MigrateError> for StoreError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        match error {
            sqlx::migrate::MigrateError::Execute(error) => error.into(),
            error => Self::Other(Box::new(error)),
        }
    }
}
