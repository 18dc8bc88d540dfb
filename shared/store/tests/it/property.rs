//! Any sequence of operations has the same effect on a simple model, on SQLite, on Postgres and on
//! the worlds above them.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use sunbear_model::{Kind, ResourceKey};
use sunbear_store::{
    BatchMode, Change, Expect, Operation, OwnerRef, StatusChange, Store, World, WorldOptions,
};

use crate::fixture::{Backend, batch, sorted, spec};

/// Names, spread over few keys so that operations meet.
fn key(n: usize) -> ResourceKey {
    match n {
        0..=1 => ResourceKey::new(Kind::MESH, "", &format!("k{n}")),
        2..=4 => ResourceKey::new(Kind::MESH_GATEWAY, "k0", &format!("k{n}")),
        _ => ResourceKey::new(Kind::SECRET, "k1", &format!("k{n}")),
    }
}
const KEYS: usize = 7;

#[derive(Debug, Clone)]
struct Item {
    spec: String,
    label: u8,
    status: Option<String>,
    owner: Option<ResourceKey>,
    version: u64,
}

type Model = BTreeMap<ResourceKey, Item>;

fn expected(model: &Model, key: &ResourceKey, expect: Expect) -> bool {
    match (expect, model.get(key)) {
        (Expect::Any, _) | (Expect::Absent, None) | (Expect::Present, Some(_)) => true,
        (Expect::Version(v), Some(item)) => item.version == v,
        (Expect::Absent, Some(_)) | (Expect::Present | Expect::Version(_), None) => false,
    }
}

fn doom(model: &Model, key: &ResourceKey, doomed: &mut Vec<ResourceKey>) {
    if doomed.contains(key) {
        return;
    }
    doomed.push(key.clone());
    for (child, item) in model {
        if item.owner.as_ref() == Some(key) {
            doom(model, child, doomed);
        }
    }
}

/// What a change does to the model; false if it must fail.
fn apply(model: &mut Model, change: &Change) -> bool {
    match &change.op {
        Operation::Put { spec, labels, status, owner, expect } => {
            if !expected(model, &change.key, *expect) {
                return false;
            }
            let old = model.get(&change.key).cloned();
            let owner = match owner {
                OwnerRef::Keep => old.as_ref().and_then(|o| o.owner.clone()),
                OwnerRef::None => None,
                OwnerRef::Key(owner) if model.contains_key(owner) => Some(owner.clone()),
                OwnerRef::Key(_) => return false,
            };
            let status = match status {
                StatusChange::Keep => old.as_ref().and_then(|o| o.status.clone()),
                StatusChange::Set(s) => s.as_ref().map(|s| String::from_utf8(s.to_vec()).unwrap()),
            };
            let spec = String::from_utf8(spec.wire().to_vec()).unwrap();
            let label = labels["l"].parse().unwrap();
            let version = match &old {
                Some(o)
                    if (&o.spec, o.label, &o.status, &o.owner)
                        == (&spec, label, &status, &owner) =>
                {
                    o.version
                }
                Some(o) => o.version + 1,
                None => 1,
            };
            model.insert(change.key.clone(), Item { spec, label, status, owner, version });
        }
        Operation::Delete { expect } => {
            if !expected(model, &change.key, *expect) {
                return false;
            }
            if model.contains_key(&change.key) {
                let mut doomed = Vec::new();
                doom(model, &change.key, &mut doomed);
                model.retain(|key, _| !doomed.contains(key));
            }
        }
    }
    true
}

fn expect() -> impl Strategy<Value = Expect> {
    prop_oneof![
        4 => Just(Expect::Any),
        1 => Just(Expect::Absent),
        1 => Just(Expect::Present),
        1 => (1..4_u64).prop_map(Expect::Version),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let status = prop_oneof![
        3 => Just(StatusChange::Keep),
        1 => Just(StatusChange::Set(None)),
        1 => (0..2_u8).prop_map(|n| StatusChange::Set(Some(format!("{{\"s\":{n}}}").into_bytes().into()))),
    ];
    let owner = prop_oneof![
        2 => Just(OwnerRef::Keep),
        1 => Just(OwnerRef::None),
        3 => (0..KEYS).prop_map(|n| OwnerRef::Key(key(n))),
    ];
    let put = (0..KEYS, 0..3_u8, 0..2_u8, status, owner, expect()).prop_map(
        |(n, text, label, status, owner, expect)| {
            let key = key(n);
            let spec = spec(&key, &"s".repeat(text.into()));
            let labels = [("l".to_owned(), label.to_string())].into();
            Change { key, op: Operation::Put { spec, labels, status, owner, expect } }
        },
    );
    let delete = (0..KEYS, expect())
        .prop_map(|(n, expect)| Change { key: key(n), op: Operation::Delete { expect } });
    prop_oneof![4 => put, 1 => delete]
}

fn batches() -> impl Strategy<Value = Vec<(bool, Vec<Change>)>> {
    prop::collection::vec((any::<bool>(), prop::collection::vec(change(), 1..5)), 1..25)
}

async fn run(store: Arc<dyn Store>, batches: &[(bool, Vec<Change>)]) -> Vec<String> {
    let (world, feed) = World::start(Arc::clone(&store), WorldOptions::default()).await.unwrap();
    let feed = tokio::spawn(feed);
    let mut model = Model::new();
    let mut story = Vec::new();
    for (independent, changes) in batches {
        let mode = if *independent { BatchMode::Independent } else { BatchMode::AllOrNothing };
        let committed = world.commit(batch(mode, changes.clone())).await.unwrap();
        let mut next = model.clone();
        let fates: Vec<bool> = changes.iter().map(|c| apply(&mut next, c)).collect();
        let whole = *independent || fates.iter().all(|ok| *ok);
        if whole {
            model = next;
        } else {
            assert!(committed.written.is_empty());
        }
        for (result, ok) in committed.results.iter().zip(fates) {
            assert_eq!(result.is_ok(), ok && whole, "{result:?}");
        }
        // World, database and model agree.
        let snapshot = world.snapshot();
        let memory: Vec<_> = snapshot.iter().cloned().collect();
        assert_eq!(memory, sorted(&*store).await);
        let uids: BTreeMap<_, _> = memory.iter().map(|r| (r.uid, r.key.clone())).collect();
        assert_eq!(memory.len(), model.len());
        for (resource, (key, item)) in memory.iter().zip(&model) {
            assert_eq!(resource.key, *key);
            assert_eq!(resource.spec, spec(key, &item.spec));
            assert_eq!(resource.labels["l"], item.label.to_string());
            assert_eq!(resource.status.as_deref(), item.status.as_deref().map(str::as_bytes));
            let owner = resource.owner.as_ref().map(|o| uids[&o.uid].clone());
            assert_eq!(owner, item.owner);
            assert_eq!(resource.version, item.version);
        }
        story.push(format!(
            "{} {:?}",
            committed.revision,
            committed.results.iter().map(tell).collect::<Vec<_>>()
        ));
    }
    feed.abort();
    story
}

fn tell(result: &Result<sunbear_store::Outcome, sunbear_store::ChangeError>) -> String {
    use sunbear_store::Outcome;
    match result {
        Ok(Outcome::Created(r)) => format!("created {} {} {}", r.key, r.version, r.revision),
        Ok(Outcome::Updated(r)) => format!("updated {} {} {}", r.key, r.version, r.revision),
        Ok(Outcome::Unchanged(r)) => format!("unchanged {} {} {}", r.key, r.version, r.revision),
        Ok(Outcome::Deleted(keys)) => format!("deleted {keys:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn any_sequence_means_the_same_everywhere() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let postgres = runtime.block_on(Backend::postgres());
    let count = std::cell::Cell::new(0);
    let config =
        ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(batches in batches())| {
        runtime.block_on(async {
            let memory = run(Backend::Memory.open().await, &batches).await;
            let file = run(Backend::file().open().await, &batches).await;
            prop_assert_eq!(&memory, &file);
            // A new database each time takes long; a few are enough, the plan is the same.
            count.set(count.get() + 1);
            if postgres.is_some() && count.get() % 4 == 0 && let Some(fresh) = Backend::postgres().await {
                prop_assert_eq!(&memory, &run(fresh.open().await, &batches).await);
            }
            Ok(())
        })?;
    });
}
