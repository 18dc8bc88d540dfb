//! What a batch does, computed from the rows that it touches. Pure: ids come in as arguments, and
//! both databases write the result in their own way.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use sunbear_model::{Kind, Owner, Resource, ResourceKey, Spec, Writable};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    change::{
        Batch, BatchMode, Change, Committed, Event, Expect, Operation, Outcome, OwnerRef, Revision,
        StatusChange, Tombstone, WorldChange,
    },
    error::ChangeError,
};

/// Names and meshes are part of index entries, whose size Postgres limits.
const MAX_NAME: usize = 253;
/// Far above what any peer accepts as one message, far below what the databases take.
const MAX_BODY: usize = 16 << 20;

/// Cuts a time to what both databases hold.
pub(crate) fn micros(at: OffsetDateTime) -> OffsetDateTime {
    let nanos = at.nanosecond() / 1000 * 1000;
    at.to_offset(time::UtcOffset::UTC).replace_nanosecond(nanos).unwrap_or(at)
}

/// Whether the log keeps the specs of a type. Not those of secrets; and not those of objects that
/// only control planes write, which change often and which nobody rolls back.
pub(crate) fn has_history(kind: Kind) -> bool {
    !matches!(kind, Kind::SECRET | Kind::GLOBAL_SECRET)
        && !matches!(kind.row().writable, Writable::Never)
}

/// A row about to be deleted with its owner: all columns but the large ones. Its type may be one
/// that this release does not know.
#[derive(Debug, Clone)]
pub(crate) struct Dependent {
    pub(crate) uid: Uuid,
    pub(crate) type_name: String,
    pub(crate) mesh: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) version: u64,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) owner: Option<Uuid>,
}

/// The rows that a plan starts from.
#[derive(Debug, Default)]
pub(crate) struct Current {
    /// The objects that the batch names, as far as they exist.
    pub(crate) objects: Vec<Resource>,
    /// Everything that the objects to delete own, recursively; may contain the objects themselves.
    pub(crate) dependents: Vec<Dependent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Create = 1,
    Update = 2,
    Delete = 3,
}

/// An entry of the log to be.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) op: Op,
    pub(crate) uid: Uuid,
    pub(crate) type_name: Cow<'static, str>,
    pub(crate) mesh: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) version: u64,
    /// Version of the row in the database; 0 if there is none.
    pub(crate) base: u64,
    /// This entry says how the object is at the end of the batch, and that differs from the row in
    /// the database.
    pub(crate) net: bool,
    pub(crate) history: bool,
    pub(crate) labels: BTreeMap<String, String>,
    /// The object after the change, unless deleted. Its revision is not known yet.
    pub(crate) resource: Option<Resource>,
}

#[derive(Debug)]
enum Planned {
    Created(usize),
    Updated(usize),
    Unchanged(Arc<Resource>),
    Deleted(Vec<ResourceKey>),
}

/// What to write.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) entries: Vec<Entry>,
    /// Owners that must still exist when the entries are written.
    pub(crate) guards: Vec<Uuid>,
    results: Vec<Result<Planned, ChangeError>>,
    seen: Revision,
}

impl Plan {
    /// The answer, once the entries are written with the revisions after `base`.
    pub(crate) fn finish(self, base: Revision) -> Committed {
        let mut revision = base;
        let mut resources = Vec::with_capacity(self.entries.len());
        let mut written = Vec::with_capacity(self.entries.len());
        for entry in self.entries {
            revision += 1;
            let resource = entry.resource.map(|mut resource| {
                resource.revision = revision;
                Arc::new(resource)
            });
            let event = match (entry.op, &resource) {
                (Op::Create, Some(resource)) => Event::Created(Arc::clone(resource)),
                (Op::Update, Some(resource)) => Event::Updated(Arc::clone(resource)),
                (Op::Delete | Op::Create | Op::Update, _) => {
                    match Kind::by_name(&entry.type_name) {
                        Some(kind) => Event::Deleted(Tombstone {
                            key: ResourceKey { kind, mesh: entry.mesh, name: entry.name },
                            labels: entry.labels,
                        }),
                        None => Event::Skipped,
                    }
                }
            };
            resources.push(resource);
            written.push(WorldChange { revision, uid: entry.uid, version: entry.version, event });
        }
        let results = self
            .results
            .into_iter()
            .map(|result| {
                let resource = |i: usize| resources.get(i).and_then(Option::as_ref).map(Arc::clone);
                Ok(match result? {
                    Planned::Created(i) => resource(i).map_or_else(nothing, Outcome::Created),
                    Planned::Updated(i) => resource(i).map_or_else(nothing, Outcome::Updated),
                    Planned::Unchanged(resource) => Outcome::Unchanged(resource),
                    Planned::Deleted(keys) => Outcome::Deleted(keys),
                })
            })
            .collect();
        let revision = if written.is_empty() { self.seen } else { revision };
        Committed { revision, results, written }
    }
}

/// Planned puts always point at an entry with a resource; this spares a panic if one did not.
fn nothing() -> Outcome {
    Outcome::Deleted(Vec::new())
}

/// Plans a batch. `new_uid` makes the ids of new objects.
pub(crate) fn plan(batch: &Batch, current: Current, new_uid: impl FnMut() -> Uuid) -> Plan {
    let seen = current.objects.iter().map(|r| r.revision).max().unwrap_or(0);
    let mut work = Work::new(current, micros(batch.at), new_uid);
    let mut results: Vec<_> = batch.changes.iter().map(|change| work.apply(change)).collect();
    if batch.mode == BatchMode::AllOrNothing && results.iter().any(Result::is_err) {
        for (result, change) in results.iter_mut().zip(&batch.changes) {
            if result.is_ok() {
                *result = Err(ChangeError::NotApplied(change.key.clone()));
            }
        }
        return Plan { entries: Vec::new(), guards: Vec::new(), results, seen };
    }
    work.finish(results, seen)
}

/// An object while a batch is planned.
struct Object {
    type_name: Cow<'static, str>,
    mesh: Arc<str>,
    name: Arc<str>,
    labels: BTreeMap<String, String>,
    owner: Option<Uuid>,
    version: u64,
    base: u64,
    alive: bool,
    /// Present for objects that the batch names.
    resource: Option<Resource>,
    last_entry: Option<usize>,
}

struct Work<F> {
    objects: HashMap<Uuid, Object>,
    by_key: HashMap<ResourceKey, Uuid>,
    /// Owner to owned. May hold pairs that are no longer true; readers check.
    owned: HashMap<Uuid, Vec<Uuid>>,
    guards: HashSet<Uuid>,
    entries: Vec<Entry>,
    at: OffsetDateTime,
    new_uid: F,
}

impl<F: FnMut() -> Uuid> Work<F> {
    fn new(current: Current, at: OffsetDateTime, new_uid: F) -> Self {
        let mut work = Self {
            objects: HashMap::new(),
            by_key: HashMap::new(),
            owned: HashMap::new(),
            guards: HashSet::new(),
            entries: Vec::new(),
            at,
            new_uid,
        };
        for resource in current.objects {
            let owner = resource.owner.as_ref().map(|o| o.uid);
            if let Some(owner) = owner {
                work.owned.entry(owner).or_default().push(resource.uid);
            }
            work.by_key.insert(resource.key.clone(), resource.uid);
            let object = Object {
                type_name: Cow::Borrowed(resource.key.kind.name()),
                mesh: Arc::clone(&resource.key.mesh),
                name: Arc::clone(&resource.key.name),
                labels: resource.labels.clone(),
                owner,
                version: resource.version,
                base: resource.version,
                alive: true,
                last_entry: None,
                resource: Some(resource),
            };
            if let Some(resource) = &object.resource {
                work.objects.insert(resource.uid, object);
            }
        }
        for row in current.dependents {
            if work.objects.contains_key(&row.uid) {
                continue;
            }
            if let Some(owner) = row.owner {
                work.owned.entry(owner).or_default().push(row.uid);
            }
            let object = Object {
                type_name: Cow::Owned(row.type_name),
                mesh: row.mesh,
                name: row.name,
                labels: row.labels,
                owner: row.owner,
                version: row.version,
                base: row.version,
                alive: true,
                resource: None,
                last_entry: None,
            };
            work.objects.insert(row.uid, object);
        }
        work
    }

    fn alive(&self, key: &ResourceKey) -> Option<(Uuid, &Object)> {
        let uid = *self.by_key.get(key)?;
        self.objects.get(&uid).filter(|o| o.alive).map(|o| (uid, o))
    }

    fn apply(&mut self, change: &Change) -> Result<Planned, ChangeError> {
        let key = &change.key;
        match &change.op {
            Operation::Put { spec, labels, status, owner, expect } => {
                check_size(key, spec, labels, status)?;
                self.check(key, *expect)?;
                let owner = self.owner(key, owner)?;
                Ok(self.put(key, spec, labels, status, owner))
            }
            Operation::Delete { expect } => {
                self.check(key, *expect)?;
                Ok(Planned::Deleted(self.delete(key)))
            }
        }
    }

    fn check(&self, key: &ResourceKey, expect: Expect) -> Result<(), ChangeError> {
        let version = self.alive(key).map(|(_, o)| o.version);
        match (expect, version) {
            (Expect::Any, _) | (Expect::Absent, None) | (Expect::Present, Some(_)) => Ok(()),
            (Expect::Version(want), Some(version)) if want == version => Ok(()),
            (Expect::Absent, Some(_)) => Err(ChangeError::AlreadyExists(key.clone())),
            (Expect::Version(_), Some(_)) => Err(ChangeError::Conflict(key.clone())),
            (Expect::Version(_) | Expect::Present, None) => Err(ChangeError::NotFound(key.clone())),
        }
    }

    /// The owner that the object will have.
    fn owner(&mut self, key: &ResourceKey, owner: &OwnerRef) -> Result<Option<Uuid>, ChangeError> {
        match owner {
            OwnerRef::Keep => Ok(self.alive(key).and_then(|(_, o)| o.owner)),
            OwnerRef::None => Ok(None),
            OwnerRef::Key(owner) => match self.alive(owner) {
                Some((uid, _)) => {
                    self.guards.insert(uid);
                    Ok(Some(uid))
                }
                None => Err(ChangeError::OwnerMissing { key: key.clone(), owner: owner.clone() }),
            },
        }
    }

    fn put(
        &mut self,
        key: &ResourceKey,
        spec: &Spec,
        labels: &BTreeMap<String, String>,
        status: &StatusChange,
        owner: Option<Uuid>,
    ) -> Planned {
        let old = self.alive(key).and_then(|(uid, o)| o.resource.clone().map(|r| (uid, r)));
        let (op, resource) = match old {
            Some((_, old)) => {
                let status = match status {
                    StatusChange::Keep => old.status.clone(),
                    StatusChange::Set(status) => status.clone(),
                };
                let owner = owner.map(|uid| Owner { uid });
                if old.spec == *spec
                    && old.labels == *labels
                    && old.status == status
                    && old.owner == owner
                {
                    return match self.by_key.get(key).and_then(|uid| self.objects.get(uid)) {
                        // Written earlier in this batch: the revision comes from there.
                        Some(Object { last_entry: Some(entry), .. }) => Planned::Updated(*entry),
                        Some(_) | None => Planned::Unchanged(Arc::new(old)),
                    };
                }
                let resource = Resource {
                    version: old.version + 1,
                    labels: labels.clone(),
                    spec: spec.clone(),
                    status,
                    owner,
                    modified_at: self.at,
                    ..old
                };
                (Op::Update, resource)
            }
            None => {
                let status = match status {
                    StatusChange::Keep => None,
                    StatusChange::Set(status) => status.clone(),
                };
                let resource = Resource {
                    key: key.clone(),
                    uid: (self.new_uid)(),
                    version: 1,
                    revision: 0,
                    labels: labels.clone(),
                    spec: spec.clone(),
                    status,
                    owner: owner.map(|uid| Owner { uid }),
                    created_at: self.at,
                    modified_at: self.at,
                };
                (Op::Create, resource)
            }
        };
        let uid = resource.uid;
        let base = self.objects.get(&uid).map_or(0, |o| o.base);
        if let Some(owner) = owner {
            self.owned.entry(owner).or_default().push(uid);
        }
        let index = self.entries.len();
        self.entries.push(Entry {
            op,
            uid,
            type_name: Cow::Borrowed(key.kind.name()),
            mesh: Arc::clone(&key.mesh),
            name: Arc::clone(&key.name),
            version: resource.version,
            base,
            net: false,
            history: has_history(key.kind),
            labels: resource.labels.clone(),
            resource: Some(resource.clone()),
        });
        self.by_key.insert(key.clone(), uid);
        self.objects.insert(
            uid,
            Object {
                type_name: Cow::Borrowed(key.kind.name()),
                mesh: Arc::clone(&key.mesh),
                name: Arc::clone(&key.name),
                labels: resource.labels.clone(),
                owner,
                version: resource.version,
                base,
                alive: true,
                resource: Some(resource),
                last_entry: Some(index),
            },
        );
        match op {
            Op::Create => Planned::Created(index),
            Op::Update | Op::Delete => Planned::Updated(index),
        }
    }

    /// Deletes the object and all that it owns, owned objects first.
    fn delete(&mut self, key: &ResourceKey) -> Vec<ResourceKey> {
        let Some((root, _)) = self.alive(key) else {
            return Vec::new();
        };
        let mut order = vec![root];
        let mut seen = HashSet::from([root]);
        let mut next = 0;
        while let Some(&owner) = order.get(next) {
            next += 1;
            let mut children: Vec<Uuid> = self.owned.get(&owner).cloned().unwrap_or_default();
            children.retain(|uid| {
                self.objects.get(uid).is_some_and(|o| o.alive && o.owner == Some(owner))
            });
            // By key, so that the order of the log does not depend on the order of rows.
            children.sort_by(|a, b| self.sort_key(*a).cmp(&self.sort_key(*b)));
            order.extend(children.into_iter().filter(|uid| seen.insert(*uid)));
        }
        let mut keys = Vec::with_capacity(order.len());
        for uid in order.into_iter().rev() {
            let index = self.entries.len();
            let Some(object) = self.objects.get_mut(&uid) else { continue };
            object.alive = false;
            object.last_entry = Some(index);
            object.resource = None;
            if let Some(kind) = Kind::by_name(&object.type_name) {
                let (mesh, name) = (Arc::clone(&object.mesh), Arc::clone(&object.name));
                keys.push(ResourceKey { kind, mesh, name });
            }
            self.entries.push(Entry {
                op: Op::Delete,
                uid,
                type_name: object.type_name.clone(),
                mesh: Arc::clone(&object.mesh),
                name: Arc::clone(&object.name),
                version: object.version,
                base: object.base,
                net: false,
                history: false,
                labels: object.labels.clone(),
                resource: None,
            });
        }
        keys
    }

    fn sort_key(&self, uid: Uuid) -> Option<(&str, &str, &str)> {
        self.objects.get(&uid).map(|o| (&*o.type_name, &*o.mesh, &*o.name))
    }

    fn finish(mut self, results: Vec<Result<Planned, ChangeError>>, seen: Revision) -> Plan {
        for object in self.objects.values() {
            if let Some(entry) = object.last_entry.and_then(|i| self.entries.get_mut(i)) {
                entry.net = object.alive || object.base > 0;
            }
        }
        let mut guards: Vec<Uuid> = self
            .guards
            .into_iter()
            .filter(|uid| self.objects.get(uid).is_some_and(|o| o.alive && o.base > 0))
            .collect();
        guards.sort_unstable();
        Plan { entries: self.entries, guards, results, seen }
    }
}

fn check_size(
    key: &ResourceKey,
    spec: &Spec,
    labels: &BTreeMap<String, String>,
    status: &StatusChange,
) -> Result<(), ChangeError> {
    for (what, text) in [("name", &key.name), ("mesh", &key.mesh)] {
        if text.len() > MAX_NAME {
            let (key, size) = (key.clone(), text.len());
            return Err(ChangeError::TooLarge { key, what, size, limit: MAX_NAME });
        }
        if text.contains('\0') {
            return Err(ChangeError::NullCharacter { key: key.clone(), what });
        }
    }
    if labels.iter().any(|(k, v)| k.contains('\0') || v.contains('\0')) {
        return Err(ChangeError::NullCharacter { key: key.clone(), what: "labels" });
    }
    let status = match status {
        StatusChange::Set(Some(status)) => status.len(),
        StatusChange::Set(None) | StatusChange::Keep => 0,
    };
    let labels: usize = labels.iter().map(|(k, v)| k.len() + v.len()).sum();
    for (what, size) in [("spec", spec.wire().len()), ("status", status), ("labels", labels)] {
        if size > MAX_BODY {
            let key = key.clone();
            return Err(ChangeError::TooLarge { key, what, size, limit: MAX_BODY });
        }
    }
    Ok(())
}

/// False for a key that no database can hold, and that must not reach one: Postgres has no U+0000.
pub(crate) fn storable(key: &ResourceKey) -> bool {
    !key.name.contains('\0') && !key.mesh.contains('\0')
}

/// The keys whose rows a plan of this batch needs, and those of them that it deletes.
pub(crate) fn touched(batch: &Batch) -> (Vec<ResourceKey>, bool) {
    let mut keys = HashSet::with_capacity(batch.changes.len());
    let mut deletes = false;
    for change in &batch.changes {
        keys.insert(&change.key);
        match &change.op {
            Operation::Put { owner: OwnerRef::Key(owner), .. } => {
                keys.insert(owner);
            }
            Operation::Put { .. } => {}
            Operation::Delete { .. } => deletes = true,
        }
    }
    let mut keys: Vec<ResourceKey> = keys.into_iter().filter(|k| storable(k)).cloned().collect();
    keys.sort_unstable();
    (keys, deletes)
}

/// The ids of the stored objects that a batch may delete: those that it names, and those to which it
/// gives an owner, which may go with that owner.
pub(crate) fn doomed(batch: &Batch, objects: &[Resource]) -> Vec<Uuid> {
    let keys: HashSet<&ResourceKey> = batch
        .changes
        .iter()
        .filter(|c| match &c.op {
            Operation::Delete { .. } => true,
            Operation::Put { owner, .. } => matches!(owner, OwnerRef::Key(_)),
        })
        .map(|c| &c.key)
        .collect();
    objects.iter().filter(|r| keys.contains(&r.key)).map(|r| r.uid).collect()
}
