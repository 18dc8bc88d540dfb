use std::{collections::BTreeMap, time::Duration};

use sunbear_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use sunbear_xds::ResourceType;

use super::{BACKOFF, Time, error, kind_of, set, settings};
use crate::ads::{Answer, Machine as _, ProtocolError, delta::Stream};

struct Test {
    stream: Stream,
    time: Time,
}

impl Test {
    fn new() -> Self {
        Self { stream: Stream::new(settings()), time: Time::start() }
    }

    fn with(set_text: &str) -> Self {
        let mut test = Self::new();
        test.set(set_text);
        test
    }

    fn set(&mut self, text: &str) {
        self.stream.set_resources(self.time.0, set(text));
    }

    fn request(&mut self, request: DeltaDiscoveryRequest) -> Answer {
        self.stream.on_request(self.time.0, request).unwrap()
    }

    fn subscribe(&mut self, kind: &str, names: &[&str]) {
        self.request(DeltaDiscoveryRequest {
            resource_names_subscribe: names.iter().map(|n| (*n).to_owned()).collect(),
            ..of(kind)
        });
    }

    fn unsubscribe(&mut self, kind: &str, names: &[&str]) {
        self.request(DeltaDiscoveryRequest {
            resource_names_unsubscribe: names.iter().map(|n| (*n).to_owned()).collect(),
            ..of(kind)
        });
    }

    fn ack(&mut self, kind: &str, nonce: u64) -> Answer {
        self.request(DeltaDiscoveryRequest { response_nonce: nonce.to_string(), ..of(kind) })
    }

    fn nack(&mut self, kind: &str, nonce: u64, text: &str) -> Answer {
        self.request(DeltaDiscoveryRequest {
            response_nonce: nonce.to_string(),
            error_detail: Some(error(text)),
            ..of(kind)
        })
    }

    /// All responses that may go now, as `1 Cluster +a +b -c`.
    fn sent(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.stream.poll(self.time.0))
            .map(|(resource_type, response)| show(resource_type, &response))
            .collect()
    }
}

fn of(kind: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind_of(kind).type_url().to_owned(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn show(resource_type: ResourceType, response: &DeltaDiscoveryResponse) -> String {
    assert_eq!(response.type_url, resource_type.type_url());
    assert_eq!(response.control_plane.as_ref().unwrap().identifier, "cp-1");
    let mut text = format!("{} {resource_type:?}", response.nonce);
    for resource in &response.resources {
        text.push_str(&format!(" +{}", resource.name));
    }
    for name in &response.removed_resources {
        text.push_str(&format!(" -{name}"));
    }
    text
}

#[test]
fn nothing_is_said_before_there_is_a_set() {
    let mut test = Test::new();
    test.subscribe("Cluster", &[]);
    assert!(test.sent().is_empty());
    assert!(!test.stream.is_settled());
    test.set("Cluster a 1");
    assert_eq!(test.sent(), ["1 Cluster +a"]);
}

#[test]
fn the_first_wildcard_is_answered_even_when_there_is_nothing() {
    let mut test = Test::with("");
    test.subscribe("Cluster", &[]);
    test.subscribe("Listener", &["*"]);
    test.subscribe("Endpoint", &[]);
    assert_eq!(test.sent(), ["1 Cluster"]);
    test.ack("Cluster", 1);
    assert_eq!(test.sent(), ["2 Listener"]);
    test.ack("Listener", 2);
    assert!(test.sent().is_empty());
    assert!(test.stream.is_settled());
}

#[test]
fn one_response_a_type_until_it_is_answered() {
    let mut test = Test::with("Cluster a 1");
    test.subscribe("Cluster", &[]);
    assert_eq!(test.sent(), ["1 Cluster +a"]);
    test.set("Cluster a 2\nCluster b 1");
    test.set("Cluster a 3\nCluster c 1");
    assert!(test.sent().is_empty());
    // A nonce that is not the one awaited answers nothing.
    assert_eq!(test.ack("Cluster", 7), Answer::None);
    assert!(test.sent().is_empty());
    assert_eq!(test.ack("Cluster", 1), Answer::Ack(ResourceType::Cluster));
    assert_eq!(test.sent(), ["2 Cluster +a +c"]);
    // Who does not answer does not block the newer state for ever.
    test.set("Cluster a 4\nCluster c 1");
    assert!(test.sent().is_empty());
    let wake = test.stream.next_deadline(test.time.0).unwrap();
    test.time.0 = wake;
    assert_eq!(test.sent(), ["3 Cluster +a"]);
    test.time.pass(Duration::from_secs(5));
    test.set("Cluster a 5\nCluster c 1");
    assert!(test.sent().is_empty(), "two are on their way");
    assert_eq!(test.ack("Cluster", 2), Answer::Ack(ResourceType::Cluster));
    assert_eq!(test.sent(), ["4 Cluster +a"]);
    assert_eq!(test.ack("Cluster", 3), Answer::Ack(ResourceType::Cluster));
}

#[test]
fn make_before_break() {
    let mut test = Test::with("Cluster a 1\nEndpoint a 1\nListener l 1\nRoute r 1");
    test.subscribe("Cluster", &[]);
    assert_eq!(test.sent(), ["1 Cluster +a"]);
    test.ack("Cluster", 1);
    test.subscribe("Endpoint", &["a"]);
    test.subscribe("Listener", &[]);
    assert_eq!(test.sent(), ["2 Endpoint +a", "3 Listener +l"]);
    test.ack("Endpoint", 2);
    test.ack("Listener", 3);
    test.subscribe("Route", &["r"]);
    assert_eq!(test.sent(), ["4 Route +r"]);
    test.ack("Route", 4);
    assert!(test.stream.is_settled());

    // The route moves from cluster a to b.
    test.set("Cluster b 1\nEndpoint b 1\nListener l 2\nRoute r 2");
    assert_eq!(test.sent(), ["5 Cluster +b"]);
    // Envoy subscribes and acknowledges only when the cluster is warm.
    test.subscribe("Endpoint", &["b"]);
    assert_eq!(test.sent(), ["6 Endpoint +b"]);
    test.ack("Endpoint", 6);
    assert!(test.sent().is_empty(), "listeners and routes wait for the clusters");
    test.ack("Cluster", 5);
    assert_eq!(test.sent(), ["7 Listener +l", "8 Route +r"]);
    test.ack("Listener", 7);
    assert!(test.sent().is_empty(), "clusters stay until routes are acknowledged");
    test.ack("Route", 8);
    assert_eq!(test.sent(), ["9 Cluster -a"]);
    test.unsubscribe("Endpoint", &["a"]);
    test.ack("Cluster", 9);
    assert!(test.sent().is_empty());
    assert!(test.stream.is_settled());
}

#[test]
fn a_cluster_that_does_not_warm_holds_others_up_only_for_a_while() {
    let mut test = Test::with("Cluster a 1\nListener l 1");
    test.subscribe("Cluster", &[]);
    test.subscribe("Listener", &[]);
    assert_eq!(test.sent(), ["1 Cluster +a"]);
    test.time.pass(Duration::from_millis(4_999));
    assert!(test.sent().is_empty());
    test.time.pass(Duration::from_millis(1));
    assert_eq!(test.sent(), ["2 Listener +l"]);
}

#[test]
fn removals_of_clusters_do_not_starve() {
    let mut test = Test::with("Cluster a 1\nListener l 0");
    test.subscribe("Cluster", &[]);
    test.subscribe("Listener", &[]);
    assert_eq!(test.sent(), ["1 Cluster +a"]);
    test.ack("Cluster", 1);
    assert_eq!(test.sent(), ["2 Listener +l"]);
    // Listeners change faster than they are acknowledged.
    let mut nonce = 2;
    for i in 1..=5 {
        test.set(&format!("Listener l {i}"));
        test.ack("Listener", nonce);
        nonce += 1;
        assert_eq!(test.sent(), [format!("{nonce} Listener +l")]);
        test.time.pass(Duration::from_secs(1));
    }
    assert_eq!(test.sent(), ["8 Cluster -a"]);
}

#[test]
fn listeners_come_and_go_in_one_response() {
    // An address passes from one listener to another.
    let mut test = Test::with("Listener l:HTTP:80 1");
    test.subscribe("Cluster", &[]);
    assert_eq!(test.sent(), ["1 Cluster"]);
    test.ack("Cluster", 1);
    test.subscribe("Listener", &[]);
    assert_eq!(test.sent(), ["2 Listener +l:HTTP:80"]);
    test.ack("Listener", 2);
    test.set("Cluster a 1\nListener l:TCP:80 1");
    assert_eq!(test.sent(), ["3 Cluster +a"]);
    test.ack("Cluster", 3);
    assert_eq!(test.sent(), ["4 Listener +l:TCP:80 -l:HTTP:80"]);
}

#[test]
fn a_changed_cluster_gets_its_endpoints_again() {
    let text = "Cluster a 1\nCluster b 1\nEndpoint a 1\nEndpoint b 1";
    let mut test = Test::with(text);
    test.subscribe("Cluster", &[]);
    test.subscribe("Endpoint", &["a", "b"]);
    assert_eq!(test.sent(), ["1 Cluster +a +b", "2 Endpoint +a +b"]);
    test.ack("Cluster", 1);
    test.ack("Endpoint", 2);
    test.set(&text.replace("Cluster a 1", "Cluster a 2"));
    assert_eq!(test.sent(), ["3 Cluster +a", "4 Endpoint +a"]);
}

#[test]
fn a_reconnect_with_equal_state_pushes_nothing() {
    let text = "Cluster a 1\nEndpoint a 1\nListener l 1";
    let resources = set(text);
    let mut test = Test::with(text);
    for (kind, names) in [("Cluster", &[][..]), ("Endpoint", &["a"]), ("Listener", &[])] {
        test.request(DeltaDiscoveryRequest {
            resource_names_subscribe: names.iter().map(|n: &&str| (*n).to_owned()).collect(),
            initial_resource_versions: resources
                .iter(kind_of(kind))
                .map(|r| (r.name.clone(), r.version.clone()))
                .collect(),
            ..of(kind)
        });
    }
    assert!(test.sent().is_empty());
    assert!(test.stream.is_settled());
}

#[test]
fn a_reconnect_gets_the_difference() {
    let old = set("Cluster a 1\nCluster b 1\nCluster c 1\nEndpoint a 1\nEndpoint b 1");
    let versions = |kind: &str| -> BTreeMap<String, String> {
        old.iter(kind_of(kind)).map(|r| (r.name.clone(), r.version.clone())).collect()
    };
    let mut test = Test::with("Cluster a 2\nCluster b 1\nEndpoint a 1\nEndpoint b 1");
    test.request(DeltaDiscoveryRequest {
        initial_resource_versions: versions("Cluster"),
        ..of("Cluster")
    });
    assert_eq!(test.sent(), ["1 Cluster +a -c"]);
    // The changed cluster waits for its endpoints, though the client has them already.
    test.request(DeltaDiscoveryRequest {
        resource_names_subscribe: vec!["a".to_owned(), "b".to_owned()],
        initial_resource_versions: versions("Endpoint"),
        ..of("Endpoint")
    });
    assert_eq!(test.sent(), ["2 Endpoint +a"]);
}

#[test]
fn every_subscription_is_answered() {
    let mut test = Test::with("Route r 1");
    test.subscribe("Route", &["r", "absent"]);
    assert_eq!(test.sent(), ["1 Route +r -absent"]);
    test.ack("Route", 1);
    test.subscribe("Route", &["r"]);
    assert_eq!(test.sent(), ["2 Route +r"]);
    test.ack("Route", 2);
    test.unsubscribe("Route", &["r"]);
    test.set("Route r 2\nRoute absent 1");
    assert_eq!(test.sent(), ["3 Route +absent"]);
}

#[test]
fn wildcards_end_and_cover() {
    let mut test = Test::with("Cluster a 1\nCluster b 1");
    test.subscribe("Cluster", &["*", "a"]);
    assert_eq!(test.sent(), ["1 Cluster +a +b"]);
    test.ack("Cluster", 1);
    // The wildcard still covers what is no longer asked for by name.
    test.unsubscribe("Cluster", &["a"]);
    assert_eq!(test.sent(), ["2 Cluster +a"]);
    test.ack("Cluster", 2);
    test.unsubscribe("Cluster", &["*"]);
    test.set("Cluster a 2\nCluster b 2");
    assert!(test.sent().is_empty());
}

#[test]
fn a_rejected_resource_waits_for_its_change_or_for_another_try() {
    let mut test = Test::with("Cluster a 1\nListener l 1");
    test.subscribe("Cluster", &[]);
    test.subscribe("Listener", &[]);
    assert_eq!(test.sent(), ["1 Cluster +a"]);
    test.ack("Cluster", 1);
    assert_eq!(test.sent(), ["2 Listener +l"]);
    let answer = test.nack("Listener", 2, "cannot bind");
    let message = "cannot bind".to_owned();
    assert_eq!(answer, Answer::Nack { resource_type: ResourceType::Listener, message });
    assert!(!test.stream.is_settled());
    let status = test.stream.status();
    let rejection = status[&ResourceType::Listener].rejected.as_ref().unwrap();
    assert_eq!(
        (rejection.message.as_str(), &rejection.names[..]),
        ("cannot bind", &["l".to_owned()][..])
    );

    test.time.pass(BACKOFF);
    assert!(test.sent().is_empty());
    // A change of another type is not held up, one of this type waits for the rest of the pause.
    test.set("Cluster a 2\nListener l 1");
    assert_eq!(test.sent(), ["3 Cluster +a"]);
    test.ack("Cluster", 3);
    test.set("Cluster a 2\nListener l 2");
    assert_eq!(test.sent(), ["4 Listener +l"]);
    test.nack("Listener", 4, "cannot bind");
    test.set("Cluster a 2\nListener l 3");
    test.time.pass(BACKOFF - Duration::from_millis(1));
    assert!(test.sent().is_empty());
    test.time.pass(Duration::from_millis(1));
    assert_eq!(test.sent(), ["5 Listener +l"]);
    test.ack("Listener", 5);
    assert!(test.stream.is_settled());
    assert_eq!(test.stream.status()[&ResourceType::Listener].rejected, None);
}

#[test]
fn a_bad_resource_does_not_hide_the_good_ones_of_its_batch() {
    let mut test = Test::with("Route a 1\nRoute b 1\nRoute c 1");
    test.subscribe("Route", &["a", "b", "c"]);
    assert_eq!(test.sent(), ["1 Route +a +b +c"]);
    test.nack("Route", 1, "a is bad");
    assert!(test.sent().is_empty());
    test.time.pass(BACKOFF);
    assert_eq!(test.sent(), ["2 Route +b"]);
    test.ack("Route", 2);
    assert_eq!(test.sent(), ["3 Route +c"]);
    test.ack("Route", 3);
    assert_eq!(test.sent(), ["4 Route +a"]);
    // It is tried again, ever more rarely.
    let mut nonce = 4;
    for pauses in [2, 4, 8, 12, 12] {
        test.nack("Route", nonce, "a is bad");
        nonce += 1;
        test.time.pass(BACKOFF * pauses - Duration::from_millis(1));
        assert!(test.sent().is_empty());
        let deadline = test.stream.next_deadline(test.time.0).unwrap();
        assert_eq!(deadline, test.time.0 + Duration::from_millis(1));
        test.time.pass(Duration::from_millis(1));
        assert!(test.stream.wants(test.time.0));
        assert_eq!(test.sent(), [format!("{nonce} Route +a")]);
    }
    test.nack("Route", nonce, "a is bad");
    let status = test.stream.status();
    assert_eq!(status[&ResourceType::Route].rejected.as_ref().unwrap().names, ["a"]);
    // Taking the bad one back makes all well.
    test.set("Route b 1\nRoute c 1");
    test.time.pass(BACKOFF);
    assert_eq!(test.sent(), ["10 Route -a"]);
    test.ack("Route", 10);
    assert_eq!(test.stream.status()[&ResourceType::Route].rejected, None);
    test.time.pass(BACKOFF * 20);
    assert!(test.sent().is_empty());
}

#[test]
fn what_is_accepted_at_another_try_is_well() {
    let mut test = Test::with("Listener l 1\nListener m 1");
    test.subscribe("Listener", &[]);
    assert_eq!(test.sent(), ["1 Listener +l +m"]);
    test.nack("Listener", 1, "l: cannot bind");
    test.time.pass(BACKOFF);
    assert_eq!(test.sent(), ["2 Listener +m"]);
    test.ack("Listener", 2);
    assert_eq!(test.sent(), ["3 Listener +l"]);
    test.nack("Listener", 3, "l: cannot bind");
    test.time.pass(BACKOFF * 2);
    assert_eq!(test.sent(), ["4 Listener +l"]);
    assert!(test.stream.status()[&ResourceType::Listener].rejected.is_some());
    test.ack("Listener", 4);
    assert_eq!(test.stream.status()[&ResourceType::Listener].rejected, None);
    test.time.pass(BACKOFF * 20);
    assert!(test.sent().is_empty());
}

#[test]
fn nothing_is_settled_before_the_client_asked_for_it() {
    let mut test =
        Test::with("Cluster a 1\nEndpoint a 1\nListener l 1\nRuntime gateway.listeners 1");
    test.subscribe("Cluster", &[]);
    test.sent();
    test.ack("Cluster", 1);
    assert!(!test.stream.is_settled());
    test.subscribe("Endpoint", &["a"]);
    test.subscribe("Listener", &[]);
    test.sent();
    test.ack("Endpoint", 2);
    assert!(!test.stream.is_settled());
    test.ack("Listener", 3);
    assert!(test.stream.is_settled());
}

#[test]
fn requests_that_are_not_served() {
    let mut stream = Stream::new(settings());
    let time = Time::start();
    let nothing = DeltaDiscoveryRequest::default();
    assert_eq!(stream.on_request(time.0, nothing), Err(ProtocolError::NoTypeUrl));
    let unknown = DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration".to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    assert_eq!(stream.on_request(time.0, unknown), Ok(Answer::None));
}

#[test]
fn what_a_client_keeps_is_left_alone() {
    let makeshift = "Secret ca 0\nkeep Secret ca\nkeep Secret identity";
    // Who comes with something of the name has it afterwards.
    let mut test = Test::with(makeshift);
    let versions = [("ca", "1"), ("identity", "1")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    test.request(DeltaDiscoveryRequest {
        resource_names_subscribe: vec!["ca".to_owned(), "identity".to_owned()],
        initial_resource_versions: BTreeMap::from(versions),
        ..of("Secret")
    });
    assert_eq!(test.sent(), [""; 0]);
    // Once it can be had again, it goes out.
    test.set("Secret ca 2\nSecret identity 2");
    assert_eq!(test.sent(), ["1 Secret +ca +identity"]);
    // Who comes with nothing gets what there is, and that is then kept too.
    let mut test = Test::with(makeshift);
    test.subscribe("Secret", &["ca"]);
    assert_eq!(test.sent(), ["1 Secret +ca"]);
}
