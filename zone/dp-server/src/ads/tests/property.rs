//! Any order of events ends with the client having exactly the last set, in both variants.
//!
//! The client is a model of Envoy: it refuses a response with a poisoned resource, wholly or but
//! for the bad ones, and names them or not; its answers arrive late and in any order of types.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use prost::Message as _;
use sunbear_proto::{
    envoy::service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    },
    google::rpc,
};
use sunbear_xds::{ResourceSet, ResourceType};

use super::{error, resource, settings};
use crate::ads::{Machine, delta, is_wildcard_type, sotw};

const NAMES: [&str; 3] = ["a", "b", "c"];
const POISON: &str = "poison";

/// What happens.
#[derive(Debug, Clone)]
enum Event {
    /// The control plane wants this: content by type and name.
    Set(BTreeMap<(ResourceType, &'static str), u8>),
    /// The client asks for these, or for all of a wildcard type.
    Interest(ResourceType, BTreeSet<&'static str>),
    /// The connection takes responses.
    Read(usize),
    /// The client answers the oldest response of this type.
    Answer(ResourceType),
    /// Time goes by.
    Pass(u64),
    /// The connection breaks, and the client comes back with what it has.
    Reconnect,
}

fn types() -> impl Strategy<Value = ResourceType> {
    prop::sample::select(ResourceType::ALL.to_vec())
}

/// Content 3 is poison.
fn contents(max: u8) -> impl Strategy<Value = BTreeMap<(ResourceType, &'static str), u8>> {
    prop::collection::btree_map((types(), prop::sample::select(NAMES.to_vec())), 0..=max, 0..12)
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => contents(3).prop_map(Event::Set),
        3 => (types(), prop::sample::subsequence(NAMES.to_vec(), 0..=3))
            .prop_map(|(t, names)| Event::Interest(t, names.into_iter().collect())),
        6 => (1..4_usize).prop_map(Event::Read),
        8 => types().prop_map(Event::Answer),
        2 => (0..7_000_u64).prop_map(Event::Pass),
        1 => Just(Event::Reconnect),
    ]
}

fn build(contents: &BTreeMap<(ResourceType, &'static str), u8>) -> Arc<ResourceSet> {
    let mut set = ResourceSet::default();
    for ((resource_type, name), content) in contents {
        let text = if *content == 3 { POISON.to_owned() } else { content.to_string() };
        // Types and names are part of the content, which in real life differs by them too.
        set.insert(*resource_type, resource(name, &format!("{name} {text}")));
    }
    Arc::new(set)
}

/// What the client has of a type: content by name.
type Holding = BTreeMap<String, String>;

/// One variant of the protocol, from the client's side.
trait Client {
    type Machine: Machine;

    /// The first or a later request that says what is wanted.
    fn interest(&mut self, t: ResourceType, names: &BTreeSet<&'static str>) -> Vec<Request<Self>>;
    /// Keeps a response until it is answered.
    fn receive(&mut self, t: ResourceType, response: Response<Self>);
    /// Answers the oldest response of the type, if there is one.
    fn answer(&mut self, t: ResourceType, naming: bool) -> Option<Request<Self>>;
    /// Forgets the connection; returns the first requests of the next one.
    fn reconnect(&mut self) -> Vec<Request<Self>>;
    fn holding(&self, t: ResourceType) -> Holding;
    fn wanted(&self, t: ResourceType) -> Option<Wanted>;
    fn nonce(response: &Response<Self>) -> u64;
    fn unanswered(&self, t: ResourceType) -> usize;
}

type Request<C> = <<C as Client>::Machine as Machine>::Request;
type Response<C> = <<C as Client>::Machine as Machine>::Response;

/// What a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    All,
    Names(BTreeSet<&'static str>),
}

impl Wanted {
    fn of(t: ResourceType, names: &BTreeSet<&'static str>) -> Self {
        if is_wildcard_type(t) { Wanted::All } else { Wanted::Names(names.clone()) }
    }

    fn covers(&self, name: &str) -> bool {
        match self {
            Wanted::All => true,
            Wanted::Names(names) => names.contains(name),
        }
    }
}

fn decode(any: &prost_types::Any) -> (String, String) {
    let text = rpc::Status::decode(any.value.as_slice()).unwrap().message;
    let (name, _) = text.split_once(' ').unwrap();
    (name.to_owned(), text)
}

fn refusal(bad: &[String], naming: bool) -> rpc::Status {
    error(&if naming { format!("bad: {}", bad.join(", ")) } else { "bad".to_owned() })
}

#[derive(Default)]
struct DeltaClient {
    wanted: BTreeMap<ResourceType, Wanted>,
    has: BTreeMap<ResourceType, BTreeMap<String, (String, String)>>,
    inbox: BTreeMap<ResourceType, Vec<DeltaDiscoveryResponse>>,
}

impl DeltaClient {
    fn request(t: ResourceType) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            type_url: t.type_url().to_owned(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn owned(names: &BTreeSet<&'static str>) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }
}

impl Client for DeltaClient {
    type Machine = delta::Stream;

    fn interest(
        &mut self,
        t: ResourceType,
        names: &BTreeSet<&'static str>,
    ) -> Vec<DeltaDiscoveryRequest> {
        let new = Wanted::of(t, names);
        let old = self.wanted.insert(t, new.clone());
        match (old, new) {
            (None | Some(Wanted::All), Wanted::All) => vec![Self::request(t)],
            (None, Wanted::Names(names)) => vec![DeltaDiscoveryRequest {
                resource_names_subscribe: Self::owned(&names),
                ..Self::request(t)
            }],
            (Some(Wanted::Names(old)), Wanted::Names(new)) => {
                let gone: BTreeSet<_> = old.difference(&new).copied().collect();
                self.has.entry(t).or_default().retain(|n, _| !gone.contains(n.as_str()));
                vec![DeltaDiscoveryRequest {
                    resource_names_subscribe: Self::owned(&new.difference(&old).copied().collect()),
                    resource_names_unsubscribe: Self::owned(&gone),
                    ..Self::request(t)
                }]
            }
            (Some(Wanted::All), Wanted::Names(_)) | (Some(Wanted::Names(_)), Wanted::All) => {
                unreachable!("a type is one or the other")
            }
        }
    }

    fn receive(&mut self, t: ResourceType, response: DeltaDiscoveryResponse) {
        self.inbox.entry(t).or_default().push(response);
    }

    fn answer(&mut self, t: ResourceType, naming: bool) -> Option<DeltaDiscoveryRequest> {
        let inbox = self.inbox.entry(t).or_default();
        if inbox.is_empty() {
            return None;
        }
        let response = inbox.remove(0);
        let mut answer =
            DeltaDiscoveryRequest { response_nonce: response.nonce.clone(), ..Self::request(t) };
        let content = |r: &sunbear_proto::envoy::service::discovery::v3::Resource| {
            decode(r.resource.as_ref().unwrap()).1
        };
        let bad: Vec<String> = response
            .resources
            .iter()
            .filter(|r| content(r).ends_with(POISON))
            .map(|r| r.name.clone())
            .collect();
        if !bad.is_empty() {
            answer.error_detail = Some(refusal(&bad, naming));
            return Some(answer);
        }
        let wanted = self.wanted.get(&t);
        let has = self.has.entry(t).or_default();
        for name in &response.removed_resources {
            has.remove(name);
        }
        for r in &response.resources {
            if wanted.is_some_and(|w| w.covers(&r.name)) {
                has.insert(r.name.clone(), (r.version.clone(), content(r)));
            }
        }
        Some(answer)
    }

    fn reconnect(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.inbox.clear();
        self.wanted
            .iter()
            .map(|(t, wanted)| DeltaDiscoveryRequest {
                resource_names_subscribe: match wanted {
                    Wanted::All => Vec::new(),
                    Wanted::Names(names) => Self::owned(names),
                },
                initial_resource_versions: self
                    .has
                    .get(t)
                    .into_iter()
                    .flatten()
                    .map(|(name, (version, _))| (name.clone(), version.clone()))
                    .collect(),
                ..Self::request(*t)
            })
            .collect()
    }

    fn holding(&self, t: ResourceType) -> Holding {
        let has = self.has.get(&t).into_iter().flatten();
        has.map(|(name, (_, content))| (name.clone(), content.clone())).collect()
    }

    fn wanted(&self, t: ResourceType) -> Option<Wanted> {
        self.wanted.get(&t).cloned()
    }

    fn nonce(response: &DeltaDiscoveryResponse) -> u64 {
        response.nonce.parse().unwrap()
    }

    fn unanswered(&self, t: ResourceType) -> usize {
        self.inbox.get(&t).map_or(0, Vec::len)
    }
}

#[derive(Default)]
struct SotwClient {
    wanted: BTreeMap<ResourceType, Wanted>,
    has: BTreeMap<ResourceType, Holding>,
    version: BTreeMap<ResourceType, String>,
    nonce: BTreeMap<ResourceType, String>,
    inbox: BTreeMap<ResourceType, Vec<DiscoveryResponse>>,
}

impl SotwClient {
    fn request(&self, t: ResourceType) -> DiscoveryRequest {
        DiscoveryRequest {
            type_url: t.type_url().to_owned(),
            version_info: self.version.get(&t).cloned().unwrap_or_default(),
            response_nonce: self.nonce.get(&t).cloned().unwrap_or_default(),
            resource_names: match &self.wanted[&t] {
                Wanted::All => Vec::new(),
                Wanted::Names(names) => names.iter().map(|n| (*n).to_owned()).collect(),
            },
            ..DiscoveryRequest::default()
        }
    }
}

impl Client for SotwClient {
    type Machine = sotw::Stream;

    fn interest(
        &mut self,
        t: ResourceType,
        names: &BTreeSet<&'static str>,
    ) -> Vec<DiscoveryRequest> {
        let wanted = Wanted::of(t, names);
        self.has.entry(t).or_default().retain(|name, _| wanted.covers(name));
        self.wanted.insert(t, wanted);
        vec![self.request(t)]
    }

    fn receive(&mut self, t: ResourceType, response: DiscoveryResponse) {
        self.inbox.entry(t).or_default().push(response);
    }

    fn answer(&mut self, t: ResourceType, naming: bool) -> Option<DiscoveryRequest> {
        let inbox = self.inbox.entry(t).or_default();
        if inbox.is_empty() {
            return None;
        }
        let response = inbox.remove(0);
        self.nonce.insert(t, response.nonce.clone());
        let all: Vec<(String, String)> = response.resources.iter().map(decode).collect();
        let bad: Vec<String> = all
            .iter()
            .filter(|(_, content)| content.ends_with(POISON))
            .map(|(name, _)| name.clone())
            .collect();
        if !bad.is_empty() {
            return Some(DiscoveryRequest {
                error_detail: Some(refusal(&bad, naming)),
                ..self.request(t)
            });
        }
        let wanted = self.wanted[&t].clone();
        let has = self.has.entry(t).or_default();
        if is_wildcard_type(t) {
            has.clear();
        }
        has.extend(all.into_iter().filter(|(name, _)| wanted.covers(name)));
        self.version.insert(t, response.version_info);
        Some(self.request(t))
    }

    fn reconnect(&mut self) -> Vec<DiscoveryRequest> {
        self.inbox.clear();
        self.nonce.clear();
        self.wanted.keys().map(|t| self.request(*t)).collect()
    }

    fn holding(&self, t: ResourceType) -> Holding {
        self.has.get(&t).cloned().unwrap_or_default()
    }

    fn wanted(&self, t: ResourceType) -> Option<Wanted> {
        self.wanted.get(&t).cloned()
    }

    fn nonce(response: &DiscoveryResponse) -> u64 {
        response.nonce.parse().unwrap()
    }

    fn unanswered(&self, t: ResourceType) -> usize {
        self.inbox.get(&t).map_or(0, Vec::len)
    }
}

/// A machine and its client.
struct Pair<C: Client> {
    machine: C::Machine,
    client: C,
    set: Option<Arc<ResourceSet>>,
    now: Instant,
    last_nonce: u64,
    naming: bool,
    /// Per type, when the response that may still be unanswered was sent.
    sent_at: BTreeMap<ResourceType, Instant>,
}

impl<C: Client + Default> Pair<C> {
    fn new(naming: bool) -> Self {
        Self {
            machine: C::Machine::new(settings()),
            client: C::default(),
            set: None,
            now: Instant::now(),
            last_nonce: 0,
            naming,
            sent_at: BTreeMap::new(),
        }
    }

    fn step(&mut self, event: &Event) {
        match event {
            Event::Set(contents) => self.set(build(contents)),
            Event::Interest(t, names) => {
                let requests = self.client.interest(*t, names);
                self.requests(requests);
            }
            Event::Read(count) => {
                for _ in 0..*count {
                    self.read();
                }
            }
            Event::Answer(t) => {
                self.answer(*t);
            }
            Event::Pass(millis) => self.now += Duration::from_millis(*millis),
            Event::Reconnect => {
                self.machine = C::Machine::new(settings());
                self.last_nonce = 0;
                self.sent_at.clear();
                if let Some(set) = &self.set {
                    self.machine.set_resources(self.now, Arc::clone(set));
                }
                let requests = self.client.reconnect();
                self.requests(requests);
            }
        }
    }

    fn set(&mut self, set: Arc<ResourceSet>) {
        self.machine.set_resources(self.now, Arc::clone(&set));
        self.set = Some(set);
    }

    fn requests(&mut self, requests: Vec<Request<C>>) {
        for request in requests {
            self.machine.on_request(self.now, request).unwrap();
        }
    }

    fn read(&mut self) -> bool {
        let wanted = self.machine.wants(self.now);
        let Some((t, response)) = self.machine.poll(self.now) else {
            assert!(!wanted);
            return false;
        };
        assert!(wanted);
        let nonce = C::nonce(&response);
        assert!(nonce > self.last_nonce, "nonces increase");
        self.last_nonce = nonce;
        if self.client.unanswered(t) > 0 {
            let patience = self.now.duration_since(self.sent_at[&t]);
            assert!(patience >= Duration::from_secs(5), "one response at a time");
        }
        self.sent_at.insert(t, self.now);
        self.client.receive(t, response);
        true
    }

    fn answer(&mut self, t: ResourceType) -> bool {
        let Some(request) = self.client.answer(t, self.naming) else { return false };
        self.machine.on_request(self.now, request).unwrap();
        true
    }

    /// Lets everything happen that is going to happen. What is refused is tried again for ever, so
    /// there is an end to it.
    fn settle(&mut self) {
        let end = self.now + Duration::from_secs(200);
        for round in 0.. {
            assert!(round < 1_000, "the machine does not come to rest");
            let mut busy = false;
            while self.read() {
                busy = true;
            }
            for t in ResourceType::ALL {
                busy |= self.answer(t);
            }
            if !busy {
                match self.machine.next_deadline(self.now).filter(|at| *at < end) {
                    Some(at) => self.now = at,
                    None => return,
                }
            }
        }
    }

    fn check(&self) {
        let set = self.set.as_ref().unwrap();
        for t in ResourceType::ALL {
            let Some(wanted) = self.client.wanted(t) else { continue };
            let expected: Holding = set
                .iter(t)
                .filter(|r| wanted.covers(&r.name))
                .map(|r| decode(&r.any))
                .filter(|(_, content)| !content.ends_with(POISON))
                .collect();
            let mut holding = self.client.holding(t);
            // A refused resource is held at an older content, or not at all.
            holding.retain(|name, _| {
                set.get(t, name).is_some_and(|r| !decode(&r.any).1.ends_with(POISON))
                    || (is_wildcard_type(t) && set.get(t, name).is_none())
            });
            assert_eq!(holding, expected, "{t:?}");
        }
    }
}

fn run<C: Client + Default>(
    events: &[Event],
    last: &BTreeMap<(ResourceType, &'static str), u8>,
    naming: bool,
) {
    let mut pair = Pair::<C>::new(naming);
    for event in events {
        pair.step(event);
    }
    pair.set(build(last));
    pair.settle();
    pair.check();
    let poisoned = last.values().any(|content| *content == 3);
    if !poisoned {
        // Everything is accepted, so a client that comes back has nothing to hear.
        for t in ResourceType::ALL {
            let names = last.keys().filter(|(of, _)| *of == t).map(|(_, name)| *name).collect();
            let requests = pair.client.interest(t, &names);
            pair.requests(requests);
        }
        pair.settle();
        pair.check();
        assert!(pair.machine.is_settled(), "{:?}", pair.machine.status());
        // The first time it may: a version stands for an answer, and what the client asks for may
        // have become less since its last one.
        pair.step(&Event::Reconnect);
        pair.settle();
        pair.step(&Event::Reconnect);
        while pair.read() {}
        let empty_answers = pair
            .set
            .as_ref()
            .map_or(0, |s| ResourceType::ALL.iter().filter(|t| s.len(**t) == 0).count());
        assert!(pair.last_nonce <= empty_answers as u64, "a reconnect pushes nothing");
        pair.settle();
        pair.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn delta_ends_with_the_last_set(
        events in prop::collection::vec(event(), 0..60),
        last in contents(2),
    ) {
        run::<DeltaClient>(&events, &last, false);
    }

    #[test]
    fn delta_gets_the_good_ones_beside_bad_ones(
        events in prop::collection::vec(event(), 0..40),
        last in contents(3),
        naming: bool,
    ) {
        run::<DeltaClient>(&events, &last, naming);
    }

    #[test]
    fn sotw_ends_with_the_last_set(
        events in prop::collection::vec(event(), 0..60),
        last in contents(2),
        naming: bool,
    ) {
        run::<SotwClient>(&events, &last, naming);
    }

    #[test]
    fn sotw_gets_the_good_ones_beside_bad_ones_that_are_named(
        events in prop::collection::vec(event(), 0..40),
        last in contents(3),
    ) {
        run::<SotwClient>(&events, &last, true);
    }
}
