//! Who writes, when, and when not.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sunbear_insights::INTERVAL;
use sunbear_model::{Kind, Owner, rest};
use sunbear_store::{Change, Lease, Sqlite, Store};

use crate::fixture::{Fixture, dataplane, mesh, put};

const SHORT: Duration = Duration::from_millis(50);

fn proxy(mesh: &str, name: &str) -> Change {
    let inbound = json!([{"port": 1, "tags": {"kuma.io/service": "s"}}]);
    put(Kind::DATAPLANE, &json!({"mesh": mesh, "name": name, "networking": {"inbound": inbound}}))
}

fn new_mesh(name: &str) -> Change {
    put(Kind::MESH, &json!({"name": name}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn insights_live_and_die_with_their_mesh() {
    let fixture = Fixture::new().await;
    let running = fixture.start("one", SHORT);
    // Objects may be there before their mesh.
    let mut early = proxy("m", "early");
    if let sunbear_store::Operation::Put { owner, .. } = &mut early.op {
        *owner = sunbear_store::OwnerRef::None;
    }
    fixture.commit(vec![early]).await;
    fixture.commit(vec![new_mesh("other")]).await;
    fixture.until_proxies("other", 0).await;
    assert!(fixture.mesh_insight("m").is_none());

    fixture.commit(vec![new_mesh("m")]).await;
    fixture.until_proxies("m", 1).await;
    fixture.commit(vec![proxy("m", "a")]).await;
    fixture.until_proxies("m", 2).await;
    let owner = Some(Owner { uid: fixture.world.snapshot().mesh("m").unwrap().uid });
    assert_eq!(fixture.mesh_insight("m").unwrap().owner, owner);
    assert_eq!(fixture.service_insight("m").unwrap().owner, owner);
    assert!(fixture.mesh_insight("m").unwrap().labels.is_empty());

    fixture.commit(vec![Change::delete(mesh("m"))]).await;
    assert!(fixture.mesh_insight("m").is_none() && fixture.service_insight("m").is_none());
    // And come back with it; what it owned is gone.
    fixture.commit(vec![new_mesh("m")]).await;
    fixture.until_proxies("m", 1).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_do_to_insights_is_put_right() {
    let fixture = Fixture::new().await;
    let running = fixture.start("one", SHORT);
    fixture.commit(vec![new_mesh("m"), proxy("m", "a")]).await;
    fixture.until_proxies("m", 1).await;
    let right = (fixture.mesh_insight("m").unwrap(), fixture.service_insight("m").unwrap());
    fixture
        .commit(vec![
            Change::delete(right.0.key.clone()),
            crate::fixture::put_bytes(&right.1.key, b""),
        ])
        .await;
    fixture
        .until("the repair", |f| {
            f.mesh_insight("m").is_some_and(|r| r.spec == right.0.spec)
                && f.service_insight("m").is_some_and(|r| r.spec == right.1.spec)
        })
        .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_written_when_nothing_has_changed() {
    let store: Arc<dyn Store> = Arc::new(Sqlite::memory().await.unwrap());
    let fixture = Fixture::over(Arc::clone(&store)).await;
    let running = fixture.start("one", SHORT);
    fixture.commit(vec![new_mesh("a"), new_mesh("z"), proxy("a", "p")]).await;
    fixture.until_proxies("a", 1).await;
    fixture.until_proxies("z", 0).await;
    let before = (fixture.mesh_insight("a").unwrap(), fixture.service_insight("a").unwrap());

    // An update that tells of nothing that is counted. Meshes that are due together are written
    // together, so once the other mesh is written, this one would be too.
    let ticks = |n: u32| {
        let sent = json!({"total": {"responsesSent": n}});
        put(
            Kind::DATAPLANE_INSIGHT,
            &json!({"mesh": "a", "name": "p", "subscriptions": [{"id": "x", "status": sent}]}),
        )
    };
    for n in 1..4 {
        fixture.commit(vec![ticks(n), proxy("z", &format!("p{n}"))]).await;
        fixture.until_proxies("z", n.into()).await;
    }
    let unchanged = |fixture: &Fixture| {
        (fixture.mesh_insight("a").unwrap(), fixture.service_insight("a").unwrap()) == before
    };
    assert!(unchanged(&fixture));
    running.stop().await;

    // A process that starts looks at all meshes, in one batch.
    let again = Fixture::over(store).await;
    let z = again.mesh_insight("z").unwrap();
    again.commit(vec![Change::delete(z.key.clone())]).await;
    let running = again.start("two", SHORT);
    again.until_proxies("z", 3).await;
    assert!(unchanged(&again));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_is_a_few_writes() {
    let fixture = Fixture::new().await;
    let interval = Duration::from_millis(200);
    let running = fixture.start("one", interval);
    let start = Instant::now();
    fixture.commit(vec![new_mesh("m")]).await;
    for n in 0..400 {
        fixture.commit(vec![proxy("m", &format!("p{n}"))]).await;
    }
    fixture.until_proxies("m", 400).await;
    let intervals = start.elapsed().as_millis() / interval.as_millis() + 1;
    let writes = u128::from(fixture.mesh_insight("m").unwrap().version);
    // The first at once, the others each an interval later.
    assert!(writes <= intervals + 1, "{writes} writes in {intervals} intervals");
    let services = rest::write(&fixture.service_insight("m").unwrap());
    assert_eq!(services.pointer("/services/s/dataplanes/offline"), Some(&Value::from(400)));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_holder_of_the_lease_writes() {
    let fixture = Fixture::new().await;
    let store = Arc::clone(fixture.world.store());
    let other = async || store.lease("insights", "other", Duration::from_secs(600)).await.unwrap();
    assert!(matches!(other().await, Lease::Held { .. }));
    let running = fixture.start("one", INTERVAL);
    fixture.commit(vec![new_mesh("m"), proxy("m", "a")]).await;
    assert!(fixture.mesh_insight("m").is_none());
    store.release("insights", "other").await.unwrap();
    fixture.until_proxies("m", 1).await;

    // Lost in the middle: the write is refused, and made once the lease is back.
    store.release("insights", "one").await.unwrap();
    assert!(matches!(other().await, Lease::Held { .. }));
    fixture.commit(vec![proxy("m", "b"), Change::delete(dataplane("m", "a"))]).await;
    fixture.commit(vec![proxy("m", "c")]).await;
    store.release("insights", "other").await.unwrap();
    fixture.until_proxies("m", 2).await;
    running.stop().await;
    // Given back at the end.
    assert!(matches!(other().await, Lease::Held { .. }));
}
