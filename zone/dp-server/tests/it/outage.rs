//! The store is away; proxies do not notice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sunbear_model::ResourceKey;
use sunbear_store::{
    Batch, Changes, Committed, Fence, HistoryEntry, Lease, Loaded, Retention, Revision, Sqlite,
    Store, StoreError,
};
use sunbear_xds::ResourceType::{Cluster, Listener};
use tokio::sync::watch;
use tonic::Code;

use crate::{
    client::{Delta, Proxy, subscription},
    fixture::{Fixture, any_token, eventually, gateway},
};

type Answer<'a, T> = std::pin::Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A store that takes no writes when told so.
struct Failing {
    store: Sqlite,
    away: Arc<AtomicBool>,
}

impl Store for Failing {
    fn commit_fenced(&self, batch: Batch, fence: Option<Fence>) -> Answer<'_, Committed> {
        if self.away.load(Ordering::SeqCst) {
            return Box::pin(async { Err(StoreError::Unavailable("on purpose".into())) });
        }
        self.store.commit_fenced(batch, fence)
    }

    fn load(&self) -> Answer<'_, Loaded> {
        self.store.load()
    }

    fn changes_since(&self, revision: Revision, limit: u32) -> Answer<'_, Changes> {
        self.store.changes_since(revision, limit)
    }

    fn history(&self, key: &ResourceKey, limit: u32) -> Answer<'_, Vec<HistoryEntry>> {
        self.store.history(key, limit)
    }

    fn compact(&self, retention: Retention) -> Answer<'_, u64> {
        self.store.compact(retention)
    }

    fn wake(&self) -> watch::Receiver<Revision> {
        self.store.wake()
    }

    fn poll_interval(&self) -> Duration {
        self.store.poll_interval()
    }

    fn lease(&self, name: &str, holder: &str, ttl: Duration) -> Answer<'_, Lease> {
        self.store.lease(name, holder, ttl)
    }

    fn release(&self, name: &str, holder: &str) -> Answer<'_, ()> {
        self.store.release(name, holder)
    }

    fn close(&self) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.store.close()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_flows_without_the_store() {
    let away = Arc::new(AtomicBool::new(false));
    let store = Failing { store: Sqlite::memory().await.unwrap(), away: Arc::clone(&away) };
    let fixture = Fixture::over(Arc::new(store), |config| {
        config.deregistration_delay = Duration::from_secs(60);
    })
    .await
    .with_gateway()
    .await;
    let known = Proxy::direct("edge-1", &gateway("edge-1", "edge"), &any_token());
    let mut delta = Delta::open(fixture.address, &known, subscription(Cluster, &[])).await;
    delta.take().await;
    eventually("the insight is there", || fixture.insight("edge-1")).await;

    away.store(true, Ordering::SeqCst);
    delta.subscribe(Listener, &[]).await;
    delta.take().await;
    // A proxy that is registered comes back as if nothing were.
    drop(delta);
    let mut delta = Delta::open(fixture.address, &known, subscription(Cluster, &[])).await;
    delta.take().await;
    // One that is not has to wait.
    let new = Proxy::direct("edge-2", &gateway("edge-2", "edge"), &any_token());
    let mut refused = Delta::open(fixture.address, &new, subscription(Cluster, &[])).await;
    assert_eq!(refused.next().await.unwrap_err().code(), Code::Unavailable);

    away.store(false, Ordering::SeqCst);
    eventually("both streams are told when the store is back", || {
        let subscriptions = fixture.insight("edge-1")?.subscriptions;
        let [first, second] = &subscriptions[..] else { return None };
        let acknowledged = second.status?.total?.responses_acknowledged;
        (first.disconnect_time.is_some() && acknowledged == 1).then_some(())
    })
    .await;
}
