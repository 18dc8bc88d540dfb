use prost_types::{Struct, Timestamp};
use sunbear_proto::kuma::mesh::v1alpha1::DiscoverySubscription;

use super::Insight;

fn subscription(id: &str, from: i64, until: Option<i64>) -> DiscoverySubscription {
    let at = |seconds| Timestamp { seconds, nanos: 0 };
    DiscoverySubscription {
        id: id.to_owned(),
        connect_time: Some(at(from)),
        disconnect_time: until.map(at),
        ..DiscoverySubscription::default()
    }
}

/// Enters subscriptions given as (id, from, until), and shows what is kept.
fn kept(steps: &[(&str, i64, Option<i64>)]) -> Vec<(String, i64, Option<i64>)> {
    let mut insight = Insight::ZoneEgress(Default::default());
    for (id, from, until) in steps {
        insight.put(&subscription(id, *from, *until), &Struct::default());
    }
    let Insight::ZoneEgress(insight) = insight else { unreachable!() };
    insight
        .subscriptions
        .iter()
        .map(|s| {
            let seconds = |t: Option<Timestamp>| t.map(|t| t.seconds);
            (s.id.clone(), seconds(s.connect_time).unwrap(), seconds(s.disconnect_time))
        })
        .collect()
}

fn show(list: &[(&str, i64, Option<i64>)]) -> Vec<(String, i64, Option<i64>)> {
    list.iter().map(|(id, from, until)| ((*id).to_owned(), *from, *until)).collect()
}

#[test]
fn subscriptions() {
    // A new one ends the one that seems open.
    assert_eq!(kept(&[("a", 1, None), ("b", 5, None)]), show(&[("a", 1, Some(5)), ("b", 5, None)]));
    // Its own end, when it is known, stands.
    assert_eq!(
        kept(&[("a", 1, None), ("b", 5, None), ("a", 1, Some(4))]),
        show(&[("a", 1, Some(4)), ("b", 5, None)])
    );
    // The last two are kept.
    assert_eq!(
        kept(&[("a", 1, Some(2)), ("b", 5, Some(6)), ("c", 7, None)]),
        show(&[("b", 5, Some(6)), ("c", 7, None)])
    );
    // One that was dropped does not come back.
    assert_eq!(
        kept(&[("b", 5, Some(6)), ("c", 7, None), ("a", 1, Some(2))]),
        show(&[("b", 5, Some(6)), ("c", 7, None)])
    );
}
