use std::cell::RefCell;

use proptest::prelude::*;
use sunbear_proto::google::rpc::Status;

use super::*;
use crate::wire;

#[derive(Default)]
struct Fake(RefCell<BTreeMap<ResourceKey, WireResource>>);

impl Fake {
    fn put(&self, kind: Kind, name: &str, content: &str) -> ResourceKey {
        let key = ResourceKey::new(kind, "default", name);
        let wire = wire::encode(kind, &key.mesh, name, &BTreeMap::new(), content.as_bytes(), None);
        self.0.borrow_mut().insert(key.clone(), wire);
        key
    }

    fn delete(&self, key: &ResourceKey) {
        self.0.borrow_mut().remove(key);
    }
}

impl Source for Fake {
    fn get(&self, key: &ResourceKey) -> Option<WireResource> {
        self.0.borrow().get(key).cloned()
    }

    fn all(&self, kind: Kind) -> Vec<(ResourceKey, WireResource)> {
        let all = self.0.borrow();
        all.iter().filter(|(k, _)| k.kind == kind).map(|(k, w)| (k.clone(), w.clone())).collect()
    }
}

const START: Duration = Duration::ZERO;

fn subscribe(kind: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.to_owned(),
        resource_names_subscribe: vec!["*".to_owned()],
        ..DeltaDiscoveryRequest::default()
    }
}

fn ack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn nack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        resource_names_subscribe: vec!["*".to_owned()],
        error_detail: Some(Status { message: "no".to_owned(), ..Status::default() }),
        ..ack(response)
    }
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|r| r.name.as_str()).collect()
}

#[test]
fn first_answers_come_at_once_also_when_empty_or_unknown() {
    let source = Fake::default();
    let mut sender = Sender::new("global");
    for kind in ["Mesh", "Retry", "SomethingNewer"] {
        assert_eq!(sender.on_request(&subscribe(kind), START), Seen::Subscribed);
    }
    let mut types = Vec::new();
    let mut nonces = Vec::new();
    while let Some(r) = sender.poll(&source, START) {
        assert!(r.resources.is_empty() && r.removed_resources.is_empty());
        types.push(r.type_url);
        nonces.push(r.nonce);
    }
    types.sort();
    assert_eq!(types, ["Mesh", "Retry", "SomethingNewer"]);
    assert_eq!(nonces, ["1", "2", "3"]);
}

#[test]
fn one_response_per_type_is_outstanding_and_changes_merge() {
    let source = Fake::default();
    let mut sender = Sender::new("global");
    sender.on_request(&subscribe("MeshGateway"), START);
    let first = sender.poll(&source, START).unwrap();
    for i in 0..1000 {
        let key = source.put(Kind::MESH_GATEWAY, "edge", &i.to_string());
        sender.on_change(&key);
        assert!(sender.poll(&source, START).is_none(), "silent until the answer");
    }
    assert_eq!(sender.on_request(&ack(&first), START), Seen::Ack);
    let second = sender.poll(&source, START).unwrap();
    assert_eq!(names(&second), ["edge.default"]);
    sender.on_request(&ack(&second), START);
    assert!(sender.poll(&source, START).is_none());
    assert!(sender.is_in_sync());
}

#[test]
fn a_rejection_is_retried_later_and_not_at_once() {
    let source = Fake::default();
    let mut sender = Sender::new("global");
    let bad = source.put(Kind::MESH_GATEWAY, "bad", "x");
    sender.on_request(&subscribe("MeshGateway"), START);
    let first = sender.poll(&source, START).unwrap();
    assert_eq!(sender.on_request(&nack(&first), START), Seen::Nack);
    assert!(sender.poll(&source, START).is_none(), "no resend on a NACK");
    assert_eq!(sender.next_retry(), Some(RETRY_FIRST));
    // Another resource is not held up.
    let good = source.put(Kind::MESH_GATEWAY, "good", "y");
    sender.on_change(&good);
    let second = sender.poll(&source, START).unwrap();
    assert_eq!(names(&second), ["good.default"]);
    sender.on_request(&ack(&second), START);
    let third = sender.poll(&source, RETRY_FIRST).unwrap();
    assert_eq!(names(&third), ["bad.default"]);
    sender.on_request(&nack(&third), RETRY_FIRST);
    assert_eq!(sender.next_retry(), Some(RETRY_FIRST + RETRY_FIRST * 2));
    // A change is sent at once.
    source.put(Kind::MESH_GATEWAY, "bad", "mended");
    sender.on_change(&bad);
    let fourth = sender.poll(&source, RETRY_FIRST).unwrap();
    assert_eq!(names(&fourth), ["bad.default"]);
    sender.on_request(&ack(&fourth), RETRY_FIRST);
    assert_eq!(sender.next_retry(), None);
}

#[test]
fn a_mesh_that_comes_lets_the_rejected_of_that_mesh_be_tried_again() {
    let source = Fake::default();
    let mut sender = Sender::new("global");
    source.put(Kind::MESH_GATEWAY, "early", "x");
    sender.on_request(&subscribe("MeshGateway"), START);
    let first = sender.poll(&source, START).unwrap();
    sender.on_request(&nack(&first), START);
    sender.on_change(&ResourceKey::new(Kind::MESH, "", "default"));
    let again = sender.poll(&source, START).unwrap();
    assert_eq!(names(&again), ["early.default"]);
}

#[test]
fn stale_answers_change_nothing() {
    let source = Fake::default();
    let mut sender = Sender::new("global");
    sender.on_request(&subscribe("MeshGateway"), START);
    let first = sender.poll(&source, START).unwrap();
    let stale = DeltaDiscoveryRequest { response_nonce: "77".to_owned(), ..ack(&first) };
    assert_eq!(sender.on_request(&stale, START), Seen::Stale);
    let key = source.put(Kind::MESH_GATEWAY, "edge", "x");
    sender.on_change(&key);
    assert!(sender.poll(&source, START).is_none());
}

#[test]
fn what_the_peer_claims_to_have_is_not_sent_again() {
    let source = Fake::default();
    let key = source.put(Kind::MESH_GATEWAY, "edge", "x");
    let version = source.get(&key).unwrap().version.to_string();
    let mut sender = Sender::new("global");
    let mut request = subscribe("MeshGateway");
    request.initial_resource_versions.insert("edge.default".to_owned(), version);
    request.initial_resource_versions.insert("gone.default".to_owned(), "v".to_owned());
    sender.on_request(&request, START);
    let first = sender.poll(&source, START).unwrap();
    assert!(first.resources.is_empty());
    assert_eq!(first.removed_resources, ["gone.default"]);
    sender.on_request(&ack(&first), START);
    source.delete(&key);
    sender.on_change(&key);
    assert_eq!(sender.poll(&source, START).unwrap().removed_resources, ["edge.default"]);
}

#[derive(Debug, Clone)]
enum Event {
    Put(u8, u8),
    Delete(u8),
    Resync,
    /// The peer answers the oldest response that it has not answered.
    Answer {
        accept: bool,
    },
    Wait,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (0u8..6, 0u8..4).prop_map(|(n, v)| Event::Put(n, v)),
        2 => (0u8..6).prop_map(Event::Delete),
        1 => Just(Event::Resync),
        4 => any::<bool>().prop_map(|accept| Event::Answer { accept }),
        1 => Just(Event::Wait),
    ];
    prop::collection::vec(event, 0..60)
}

proptest! {
    /// Whatever happens in whatever order: once the peer accepts everything, it has exactly what
    /// the source has; and at no time is more than one response per type outstanding.
    #[test]
    fn any_order_of_events_converges(events in events()) {
        let source = Fake::default();
        let mut sender = Sender::new("global");
        let mut now = START;
        let mut peer: BTreeMap<String, String> = BTreeMap::new();
        let mut outstanding: Vec<DeltaDiscoveryResponse> = Vec::new();
        sender.on_request(&subscribe("MeshGateway"), now);
        sender.on_request(&subscribe("Secret"), now);
        let kinds = [Kind::MESH_GATEWAY, Kind::SECRET];
        let take = |peer: &mut BTreeMap<String, String>, r: &DeltaDiscoveryResponse| {
            for resource in &r.resources {
                peer.insert(format!("{}/{}", r.type_url, resource.name), resource.version.clone());
            }
            for name in &r.removed_resources {
                peer.remove(&format!("{}/{name}", r.type_url));
            }
        };
        for event in events {
            match event {
                Event::Put(n, v) => {
                    let kind = kinds[usize::from(n % 2)];
                    let key = source.put(kind, &format!("r{n}"), &v.to_string());
                    sender.on_change(&key);
                }
                Event::Delete(n) => {
                    let kind = kinds[usize::from(n % 2)];
                    let key = ResourceKey::new(kind, "default", &format!("r{n}"));
                    source.delete(&key);
                    sender.on_change(&key);
                }
                Event::Resync => sender.on_resync_all(),
                Event::Answer { accept } => {
                    if !outstanding.is_empty() {
                        let response = outstanding.remove(0);
                        if accept {
                            take(&mut peer, &response);
                            sender.on_request(&ack(&response), now);
                        } else {
                            // Removals are always taken, as real receivers do.
                            let removals = DeltaDiscoveryResponse {
                                resources: Vec::new(),
                                ..response.clone()
                            };
                            take(&mut peer, &removals);
                            sender.on_request(&nack(&response), now);
                        }
                    }
                }
                Event::Wait => now += RETRY_FIRST,
            }
            while let Some(response) = sender.poll(&source, now) {
                outstanding.push(response);
            }
            for kind in kinds {
                let open = outstanding.iter().filter(|r| r.type_url == kind.name()).count();
                prop_assert!(open <= 1);
            }
        }
        // The peer accepts everything from now on.
        loop {
            while let Some(response) = sender.poll(&source, now) {
                outstanding.push(response);
            }
            if outstanding.is_empty() {
                match sender.next_retry() {
                    Some(at) => { now = now.max(at); continue; }
                    None => break,
                }
            }
            let response = outstanding.remove(0);
            take(&mut peer, &response);
            sender.on_request(&ack(&response), now);
        }
        let want: BTreeMap<String, String> = source.0.borrow().iter()
            .map(|(k, w)| (format!("{}/{}", k.kind, w.name), w.version.to_string()))
            .collect();
        prop_assert_eq!(peer, want);
        prop_assert!(sender.is_in_sync());
    }
}
