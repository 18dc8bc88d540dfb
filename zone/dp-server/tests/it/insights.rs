//! What is told about streams.

use std::time::Duration;

use sunbear_model::{Kind, ResourceKey};
use sunbear_xds::ResourceType::{Cluster, Endpoint, Listener, Route, Runtime};
use time::OffsetDateTime;

use crate::{
    client::{Delta, Proxy, subscription},
    fixture::{Fixture, any_token, eventually, gateway},
};

async fn open(fixture: &Fixture) -> Delta {
    let proxy = Proxy::direct("edge-1", &gateway("edge-1", "edge"), &any_token());
    let delta = Delta::open(fixture.address, &proxy, subscription(Cluster, &[])).await;
    delta.subscribe(Listener, &[]).await;
    for t in [Endpoint, Route, Runtime] {
        delta.subscribe(t, &["*"]).await;
    }
    delta
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_counted() {
    let fixture = Fixture::start().await.with_gateway().await;
    let mut delta = open(&fixture).await;
    delta.take_all(&[Cluster, Endpoint, Listener, Route, Runtime]).await;
    let insight = eventually("all is counted", || {
        let insight = fixture.insight("edge-1")?;
        let status = insight.subscriptions.last()?.status?;
        (status.total?.responses_acknowledged == 5).then_some(insight)
    })
    .await;
    let subscription = insight.subscriptions.last().unwrap();
    assert_eq!(subscription.control_plane_instance_id, "cp-1");
    assert!(subscription.connect_time.is_some() && subscription.disconnect_time.is_none());
    let status = subscription.status.unwrap();
    assert!(status.last_update_time.is_some());
    for (stats, sent) in
        [(status.cds, 1), (status.eds, 1), (status.lds, 1), (status.rds, 1), (status.total, 5)]
    {
        let stats = stats.unwrap();
        assert_eq!(
            (stats.responses_sent, stats.responses_acknowledged, stats.responses_rejected),
            (sent, sent, 0)
        );
    }
    assert!(insight.metadata.unwrap().fields.contains_key("dataplane.resource"));

    let key = ResourceKey::new(Kind::DATAPLANE_INSIGHT, "default", "edge-1");
    let resource = fixture.get(&key).unwrap();
    assert_eq!(resource.owner.as_ref().unwrap().uid, fixture.dataplane("edge-1").unwrap().uid);

    // The end of a stream, and the next one.
    for streams in 2..=3 {
        drop(delta);
        eventually("the end is told", || {
            let insight = fixture.insight("edge-1")?;
            insight.subscriptions.last()?.disconnect_time
        })
        .await;
        delta = open(&fixture).await;
        let insight = eventually("the next one is told", || {
            let insight = fixture.insight("edge-1")?;
            insight.subscriptions.last()?.disconnect_time.is_none().then_some(insight)
        })
        .await;
        assert_eq!(insight.subscriptions.len(), streams.min(2));
        assert_ne!(insight.subscriptions[0].id, insight.subscriptions[1].id);
        assert!(insight.subscriptions[0].disconnect_time.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_stream_shows_that_it_lives() {
    let fixture =
        Fixture::with(|config| config.generation_interval = Duration::from_millis(100)).await;
    let _delta = open(&fixture).await;
    eventually("the generation moves on", || {
        (fixture.insight("edge-1")?.subscriptions.last()?.generation >= 2).then_some(())
    })
    .await;
}

/// However often a stream comes and goes, its insight is written once a second at most.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_come_and_go() {
    let fixture =
        Fixture::with(|config| config.status_flush_interval = Duration::from_secs(10)).await;
    let started = std::time::Instant::now();
    for _ in 0..20 {
        let mut delta = open(&fixture).await;
        delta.take_all(&[Cluster]).await;
    }
    let before = OffsetDateTime::now_utc();
    let _last = open(&fixture).await;
    let key = ResourceKey::new(Kind::DATAPLANE_INSIGHT, "default", "edge-1");
    // The streams before have ended, the last one is open, and all that is told.
    eventually("the last stream is told", || {
        let insight = fixture.insight("edge-1")?;
        let last = insight.subscriptions.last()?;
        let begun = last.connect_time?;
        let told =
            (begun.seconds, begun.nanos) >= (before.unix_timestamp(), before.nanosecond() as i32);
        (told && last.disconnect_time.is_none()).then_some(())
    })
    .await;
    let writes = fixture.get(&key).unwrap().version;
    let seconds = started.elapsed().as_secs();
    assert!(writes <= seconds + 2, "{writes} writes in {seconds} s");
}
