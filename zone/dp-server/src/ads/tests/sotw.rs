use std::time::Duration;

use sunbear_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use sunbear_proto::google::rpc;
use sunbear_xds::ResourceType;

use super::{BACKOFF, Time, error, kind_of, set, settings};
use crate::ads::{Answer, Machine as _, sotw::Stream};

struct Test {
    stream: Stream,
    time: Time,
    last: Option<DiscoveryResponse>,
}

impl Test {
    fn new() -> Self {
        Self { stream: Stream::new(settings()), time: Time::start(), last: None }
    }

    fn with(set_text: &str) -> Self {
        let mut test = Self::new();
        test.set(set_text);
        test
    }

    fn set(&mut self, text: &str) {
        self.stream.set_resources(self.time.0, set(text));
    }

    fn request(&mut self, request: DiscoveryRequest) -> Answer {
        self.stream.on_request(self.time.0, request).unwrap()
    }

    /// The first request of a type on a new stream, from a client that has this version.
    fn first(&mut self, kind: &str, names: &[&str], version: &str) {
        self.request(DiscoveryRequest { version_info: version.to_owned(), ..of(kind, names) });
    }

    /// Accepts the response of this nonce, and names what is wanted.
    fn ack(&mut self, kind: &str, names: &[&str], nonce: u64) -> Answer {
        self.request(DiscoveryRequest { response_nonce: nonce.to_string(), ..of(kind, names) })
    }

    fn nack(&mut self, kind: &str, names: &[&str], nonce: u64, text: &str) -> Answer {
        self.request(DiscoveryRequest {
            response_nonce: nonce.to_string(),
            error_detail: Some(error(text)),
            ..of(kind, names)
        })
    }

    /// All responses that may go now, as `1 Cluster a=1 b=1`.
    fn sent(&mut self) -> Vec<String> {
        let responses: Vec<_> = std::iter::from_fn(|| self.stream.poll(self.time.0)).collect();
        self.last = responses.last().map(|(_, response)| response.clone());
        responses.iter().map(|(resource_type, response)| show(*resource_type, response)).collect()
    }

    fn last_version(&self) -> String {
        self.last.as_ref().unwrap().version_info.clone()
    }
}

fn of(kind: &str, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: kind_of(kind).type_url().to_owned(),
        resource_names: names.iter().map(|n| (*n).to_owned()).collect(),
        ..DiscoveryRequest::default()
    }
}

/// Contents only: resources carry no names here.
fn show(resource_type: ResourceType, response: &DiscoveryResponse) -> String {
    use prost::Message as _;

    assert_eq!(response.type_url, resource_type.type_url());
    assert_eq!(response.control_plane.as_ref().unwrap().identifier, "cp-1");
    let mut text = format!("{} {resource_type:?}", response.nonce);
    for any in &response.resources {
        let content = rpc::Status::decode(any.value.as_slice()).unwrap();
        text.push_str(&format!(" {}", content.message));
    }
    text
}

#[test]
fn nothing_is_said_before_there_is_a_set() {
    let mut test = Test::new();
    test.first("Cluster", &[], "");
    assert!(test.sent().is_empty());
    test.set("");
    assert_eq!(test.sent(), ["1 Cluster"], "the first answer comes even when it is empty");
    test.ack("Cluster", &[], 1);
    assert!(test.sent().is_empty());
}

#[test]
fn all_of_a_wildcard_type_and_what_was_asked_for_of_others() {
    let mut test = Test::with("Cluster a a1\nCluster b b1\nSecret s s1\nSecret t t1");
    test.first("Cluster", &[], "");
    test.first("Secret", &["t", "absent"], "");
    assert_eq!(test.sent(), ["1 Cluster a1 b1", "2 Secret t1"]);
    test.ack("Cluster", &[], 1);
    test.ack("Secret", &["t", "absent"], 2);
    assert!(test.sent().is_empty());
    // Absence is removal for the one, and nothing for the other.
    test.set("Cluster a a1\nSecret s s2");
    assert_eq!(test.sent(), ["3 Cluster a1"]);
    test.ack("Cluster", &[], 3);
    assert_eq!(test.ack("Secret", &["t", "s"], 2), Answer::None);
    assert_eq!(test.sent(), ["4 Secret s2"]);
}

#[test]
fn a_name_that_comes_later_is_answered_then() {
    let mut test = Test::with("");
    test.first("Route", &["r"], "");
    assert!(test.sent().is_empty());
    test.set("Route r r1");
    assert_eq!(test.sent(), ["1 Route r1"]);
}

#[test]
fn stale_nonces_are_ignored() {
    let mut test = Test::with("Cluster a a1");
    test.first("Cluster", &[], "");
    assert_eq!(test.sent(), ["1 Cluster a1"]);
    assert_eq!(test.ack("Cluster", &[], 1), Answer::Ack(ResourceType::Cluster));
    test.set("Cluster a a2");
    assert_eq!(test.sent(), ["2 Cluster a2"]);
    assert_eq!(test.ack("Cluster", &[], 1), Answer::None);
    test.set("Cluster a a3");
    assert!(test.sent().is_empty(), "the second is not answered yet");
    assert_eq!(test.ack("Cluster", &[], 2), Answer::Ack(ResourceType::Cluster));
    assert_eq!(test.sent(), ["3 Cluster a3"]);
}

#[test]
fn a_reconnect_with_equal_state_pushes_nothing() {
    let text = "Cluster a a1\nEndpoint a e1\nListener l l1";
    let mut before = Test::with(text);
    let mut versions = Vec::new();
    for (nonce, kind, names) in
        [(1, "Cluster", &[][..]), (2, "Endpoint", &["a"]), (3, "Listener", &[])]
    {
        before.first(kind, names, "");
        assert_eq!(before.sent().len(), 1, "{kind}");
        versions.push((kind, names, before.last_version()));
        before.ack(kind, names, nonce);
    }
    assert!(before.stream.is_settled());

    let mut test = Test::new();
    // The set comes in between.
    test.first(versions[0].0, versions[0].1, &versions[0].2);
    test.set(text);
    test.first(versions[1].0, versions[1].1, &versions[1].2);
    test.first(versions[2].0, versions[2].1, &versions[2].2);
    assert!(test.sent().is_empty());
    assert!(test.stream.is_settled());

    // With another set, or another interest, there is an answer.
    let mut test = Test::with("Cluster a a2\nEndpoint a e1\nEndpoint b e1");
    test.first(versions[0].0, versions[0].1, &versions[0].2);
    assert_eq!(test.sent(), ["1 Cluster a2"]);
    // The changed cluster waits for its endpoints, though the client has them already.
    test.first("Endpoint", &["a"], &versions[1].2);
    test.time.pass(Duration::from_secs(1));
    assert_eq!(test.sent(), ["2 Endpoint e1"]);
}

#[test]
fn an_incomplete_request_for_endpoints_is_parked() {
    let text = "Cluster a a1\nCluster b b1\nEndpoint a ea\nEndpoint b eb";
    let mut test = Test::with(text);
    test.first("Endpoint", &["a"], "");
    assert!(test.sent().is_empty());
    // The client names the rest.
    test.first("Endpoint", &["a", "b"], "");
    assert_eq!(test.sent(), ["1 Endpoint ea eb"]);
    test.ack("Endpoint", &["a", "b"], 1);

    // The next set does not wait for anything.
    test.set(&format!("{text}\nEndpoint c ec").replace("ea", "ea2"));
    assert_eq!(test.sent(), ["2 Endpoint ea2 eb"]);
    test.ack("Endpoint", &["a", "b"], 2);

    // A client that never names the rest gets its answer all the same.
    let mut test = Test::with(text);
    test.first("Endpoint", &["a"], "");
    test.time.0 = test.stream.next_deadline(test.time.0).unwrap();
    assert_eq!(test.sent(), ["1 Endpoint ea"]);
}

#[test]
fn a_name_that_was_dropped_and_named_again_is_sent_again() {
    let mut test = Test::with("Secret s s1\nSecret t t1");
    test.first("Secret", &["s", "t"], "");
    assert_eq!(test.sent(), ["1 Secret s1 t1"]);
    test.ack("Secret", &["s", "t"], 1);
    test.ack("Secret", &["s"], 1);
    assert!(test.sent().is_empty());
    test.ack("Secret", &["s", "t"], 1);
    assert_eq!(test.sent(), ["2 Secret s1 t1"]);
}

#[test]
fn make_before_break() {
    let mut test = Test::with("Cluster a a1\nEndpoint a ea\nListener l l1\nRoute r r1");
    test.first("Cluster", &[], "");
    assert_eq!(test.sent(), ["1 Cluster a1"]);
    test.ack("Cluster", &[], 1);
    test.first("Endpoint", &["a"], "");
    test.first("Listener", &[], "");
    assert_eq!(test.sent(), ["2 Endpoint ea", "3 Listener l1"]);
    test.ack("Endpoint", &["a"], 2);
    test.ack("Listener", &[], 3);
    test.first("Route", &["r"], "");
    assert_eq!(test.sent(), ["4 Route r1"]);
    test.ack("Route", &["r"], 4);
    assert!(test.stream.is_settled());

    test.set("Cluster b b1\nEndpoint b eb\nListener l l2\nRoute r r2");
    assert_eq!(test.sent(), ["5 Cluster a1 b1"], "old and new");
    assert_eq!(test.ack("Endpoint", &["a", "b"], 2), Answer::None);
    assert_eq!(test.sent(), ["6 Endpoint eb"]);
    test.ack("Endpoint", &["a", "b"], 6);
    assert!(test.sent().is_empty());
    test.ack("Cluster", &[], 5);
    assert_eq!(test.sent(), ["7 Listener l2", "8 Route r2"]);
    test.ack("Listener", &[], 7);
    assert!(test.sent().is_empty());
    test.ack("Route", &["r"], 8);
    assert_eq!(test.sent(), ["9 Cluster b1"], "new only");
    test.ack("Cluster", &[], 9);
    test.ack("Endpoint", &["b"], 6);
    assert!(test.sent().is_empty());
    assert!(test.stream.is_settled());
}

#[test]
fn a_changed_cluster_gets_its_endpoints_again() {
    let text = "Cluster a a1\nCluster b b1\nEndpoint a ea\nEndpoint b eb";
    let mut test = Test::with(text);
    test.first("Cluster", &[], "");
    test.first("Endpoint", &["a", "b"], "");
    assert_eq!(test.sent(), ["1 Cluster a1 b1", "2 Endpoint ea eb"]);
    test.ack("Cluster", &[], 1);
    test.ack("Endpoint", &["a", "b"], 2);
    test.set(&text.replace("a1", "a2"));
    assert_eq!(test.sent(), ["3 Cluster a2 b1", "4 Endpoint ea eb"]);
    test.ack("Cluster", &[], 3);
    test.ack("Endpoint", &["a", "b"], 4);
    assert!(test.sent().is_empty());
}

#[test]
fn what_is_refused_by_name_is_left_at_what_was_accepted() {
    let mut test = Test::with("Cluster x x1\nListener a a1\nListener b b1");
    test.first("Cluster", &[], "");
    assert_eq!(test.sent(), ["1 Cluster x1"]);
    test.ack("Cluster", &[], 1);
    test.first("Listener", &[], "");
    assert_eq!(test.sent(), ["2 Listener a1 b1"]);
    test.ack("Listener", &[], 2);

    test.set("Cluster x x1\nListener a a2\nListener b b2\nListener c c1");
    assert_eq!(test.sent(), ["3 Listener a2 b2 c1"]);
    test.nack("Listener", &[], 3, "Error adding/updating listener(s) b: bad\nc: worse");
    test.time.pass(BACKOFF - Duration::from_millis(1));
    assert!(test.sent().is_empty());
    test.time.pass(Duration::from_millis(1));
    assert_eq!(test.sent(), ["4 Listener a2 b1"]);
    test.ack("Listener", &[], 4);
    assert!(test.sent().is_empty());
    assert!(!test.stream.is_settled());
    let status = test.stream.status();
    assert_eq!(status[&ResourceType::Listener].rejected.as_ref().unwrap().names, ["b", "c"]);

    // Each comes again when it changes.
    test.set("Cluster x x1\nListener a a2\nListener b b3\nListener c c1");
    assert_eq!(test.sent(), ["5 Listener a2 b3"]);
    test.ack("Listener", &[], 5);
    test.set("Cluster x x1\nListener a a2\nListener b b3");
    assert!(test.sent().is_empty());
    assert!(test.stream.is_settled(), "{:?}", test.stream.status());
}

#[test]
fn a_refusal_that_names_nothing_is_not_answered_with_the_same() {
    let mut test = Test::with("Listener a a1");
    test.first("Listener", &[], "");
    assert_eq!(test.sent(), ["1 Listener a1"]);
    test.ack("Listener", &[], 1);
    test.set("Listener a a2");
    assert_eq!(test.sent(), ["2 Listener a2"]);
    test.nack("Listener", &[], 2, "no");
    test.time.pass(BACKOFF);
    assert!(test.sent().is_empty());
    // Back to what it has: the client may hold a mixture, so it is told.
    test.set("Listener a a1");
    assert_eq!(test.sent(), ["3 Listener a1"]);
    test.ack("Listener", &[], 3);
    assert_eq!(test.stream.status()[&ResourceType::Listener].rejected, None);
}

#[test]
fn what_was_refused_is_tried_again() {
    for text in ["no", "b: cannot bind"] {
        let mut test = Test::with("Listener a a1\nListener b b1");
        test.first("Listener", &[], "");
        assert_eq!(test.sent(), ["1 Listener a1 b1"]);
        test.nack("Listener", &[], 1, text);
        let rejected =
            |test: &Test| test.stream.status()[&ResourceType::Listener].rejected.is_some();
        let (mut nonce, mut waited) = (1, Duration::ZERO);
        if text != "no" {
            test.time.pass(BACKOFF);
            assert_eq!(test.sent(), ["2 Listener a1"]);
            test.ack("Listener", &[], 2);
            (nonce, waited) = (2, BACKOFF);
        }
        for pauses in [2, 4, 8, 12, 12] {
            test.time.pass(BACKOFF * pauses - waited - Duration::from_millis(1));
            assert!(test.sent().is_empty());
            test.time.pass(Duration::from_millis(1));
            nonce += 1;
            assert_eq!(test.sent(), [format!("{nonce} Listener a1 b1")]);
            assert!(rejected(&test));
            test.nack("Listener", &[], nonce, text);
            waited = Duration::ZERO;
        }
        test.time.pass(BACKOFF * 12);
        nonce += 1;
        assert_eq!(test.sent(), [format!("{nonce} Listener a1 b1")]);
        test.ack("Listener", &[], nonce);
        assert!(!rejected(&test));
        test.time.pass(BACKOFF * 20);
        assert!(test.sent().is_empty());
    }
}

#[test]
fn what_a_client_keeps_is_left_out() {
    let makeshift = "Secret ca 0\nSecret other 1\nkeep Secret ca";
    let names = &["ca", "other"];
    // Who comes with something may have it: what a response does not name stays as it is.
    let mut test = Test::with(makeshift);
    test.first("Secret", names, "x");
    assert_eq!(test.sent(), ["1 Secret 1"]);
    test.ack("Secret", names, 1);
    test.set("Secret ca 2\nSecret other 1");
    assert_eq!(test.sent(), ["2 Secret 2 1"]);
    // Who comes with nothing gets what there is.
    let mut test = Test::with(makeshift);
    test.first("Secret", names, "");
    assert_eq!(test.sent(), ["1 Secret 0 1"]);
}
