//! Whatever happens in whatever order, the state that followed says what counting from scratch says.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sunbear_insights::MeshState;
use sunbear_model::{Kind, ResourceKey, Spec};
use sunbear_proto::kuma::mesh::v1alpha1::{
    Dataplane, DataplaneInsight, DiscoverySubscription, ExternalService, Mesh,
    dataplane::{
        Networking,
        networking::{Gateway, Inbound},
    },
    dataplane_insight::Mtls,
    external_service,
    mesh::MeshServices,
};
use sunbear_store::{Change, Update};

use crate::fixture::{Fixture, mesh};

const MESH: &str = "m";

/// Few values, so that objects meet.
fn tags() -> impl Strategy<Value = BTreeMap<String, String>> {
    (0..4_u8, 0..3_u8).prop_map(|(service, zone)| {
        let mut tags = BTreeMap::new();
        if service > 0 {
            tags.insert("kuma.io/service".to_owned(), format!("s{service}"));
        }
        if zone > 0 {
            tags.insert("kuma.io/zone".to_owned(), format!("z{zone}"));
        }
        tags
    })
}

fn proxy() -> impl Strategy<Value = Dataplane> {
    let inbound = (tags(), 0..3_i32).prop_map(|(tags, state)| Inbound {
        port: 1,
        tags,
        state,
        ..Inbound::default()
    });
    let gateway = (tags(), 0..2_i32).prop_map(|(tags, r#type)| Gateway { tags, r#type });
    (prop::collection::vec(inbound, 0..3), prop::option::weighted(0.3, gateway)).prop_map(
        |(inbound, gateway)| Dataplane {
            networking: Some(Networking { inbound, gateway, ..Networking::default() }),
            ..Dataplane::default()
        },
    )
}

fn insight() -> impl Strategy<Value = DataplaneInsight> {
    (any::<bool>(), 0..3_u8, prop::collection::vec(0..3_u8, 0..3)).prop_map(
        |(online, issued, supported)| {
            let at = Some(Default::default());
            let subscription = DiscoverySubscription {
                connect_time: at,
                disconnect_time: if online { None } else { at },
                ..DiscoverySubscription::default()
            };
            let name = |n: u8| if n == 0 { String::new() } else { format!("ca{n}") };
            DataplaneInsight {
                subscriptions: vec![subscription],
                m_tls: Some(Mtls {
                    issued_backend: name(issued),
                    supported_backends: supported.into_iter().map(name).collect(),
                    ..Mtls::default()
                }),
                ..DataplaneInsight::default()
            }
        },
    )
}

fn external() -> impl Strategy<Value = ExternalService> {
    (tags(), 0..2_u8).prop_map(|(tags, n)| ExternalService {
        networking: Some(external_service::Networking {
            address: format!("host{n}:1"),
            ..Default::default()
        }),
        tags,
    })
}

fn change() -> impl Strategy<Value = Change> {
    let put = |key: ResourceKey, spec: Spec| Change::put(key, spec, BTreeMap::new());
    let key = |kind: Kind, n: u8| ResourceKey::new(kind, MESH, &format!("n{n}"));
    let name = 0..4_u8;
    prop_oneof![
        5 => (name.clone(), proxy()).prop_map(move |(n, m)| {
            put(key(Kind::DATAPLANE, n), Spec::from_message(Kind::DATAPLANE, &m))
        }),
        5 => (name.clone(), insight()).prop_map(move |(n, m)| {
            put(key(Kind::DATAPLANE_INSIGHT, n), Spec::from_message(Kind::DATAPLANE_INSIGHT, &m))
        }),
        3 => (name.clone(), external()).prop_map(move |(n, m)| {
            put(key(Kind::EXTERNAL_SERVICE, n), Spec::from_message(Kind::EXTERNAL_SERVICE, &m))
        }),
        1 => (0..4_i32).prop_map(move |mode| {
            let m = Mesh { mesh_services: Some(MeshServices { mode }), ..Mesh::default() };
            put(mesh(MESH), Spec::from_message(Kind::MESH, &m))
        }),
        2 => (name.clone(), 0..Kind::COUNT).prop_map(move |(n, kind)| {
            let kind = Kind::all().nth(kind).unwrap();
            put(ResourceKey::new(kind, MESH, &format!("n{n}")), Spec::from_wire(kind, *b"\xff"))
        }),
        1 => Just(Change::delete(mesh(MESH))),
        4 => (name, prop::sample::select(vec![
            Kind::DATAPLANE, Kind::DATAPLANE_INSIGHT, Kind::EXTERNAL_SERVICE, Kind::MESH_TIMEOUT,
        ])).prop_map(move |(n, kind)| Change::delete(key(kind, n))),
    ]
}

#[test]
fn any_order_of_events_ends_in_the_same_state() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Batches of changes, how many batches are heard of at once, and the order in which their keys
    // come.
    let story = prop::collection::vec(
        (prop::collection::vec(change(), 1..6), any::<bool>(), any::<bool>()),
        1..30,
    );
    let config =
        ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(story in story)| {
        runtime.block_on(async {
            let fixture = Fixture::new().await;
            let mut subscription = fixture.world.subscribe();
            let mut state = MeshState::default();
            for (changes, heard, reversed) in story {
                let committed = fixture.commit(changes).await;
                if !heard || committed.written.is_empty() {
                    continue;
                }
                let Update::Changes { snapshot, keys } = subscription.next().await else {
                    panic!("the ring is large enough");
                };
                let before = (state.mesh_insight(), state.service_insight());
                let mut keys = keys.to_vec();
                if reversed {
                    keys.reverse();
                }
                let mut different = false;
                for key in &keys {
                    // Those that do not concern the mesh are the caller's to leave out.
                    if &*key.mesh == MESH || *key == mesh(MESH) {
                        different |= state.apply(key, &snapshot);
                    }
                }
                let scratch = MeshState::of(MESH, &snapshot);
                prop_assert_eq!(&state, &scratch);
                let after = (state.mesh_insight(), state.service_insight());
                prop_assert_eq!(&after, &(scratch.mesh_insight(), scratch.service_insight()));
                // No news means no news.
                prop_assert!(different || before == after);
            }
            Ok(())
        })?;
    });
}
