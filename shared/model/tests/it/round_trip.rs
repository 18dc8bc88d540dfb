//! Whatever is accepted survives the way from JSON through wire bytes and back, for messages of
//! every type that are made at random after their descriptors.

use proptest::prelude::*;
use prost_reflect::{DynamicMessage, MessageDescriptor, prost::Message as _};
use serde_json::{Value as Json, json};
use sunbear_model::{Kind, Resource, ResourceKey, Spec, kind::Codec, rest};
use time::OffsetDateTime;
use uuid::Uuid;

use super::maker::Maker;

fn resource(kind: Kind, spec: Spec) -> Resource {
    Resource {
        key: ResourceKey::new(kind, "default", "x"),
        uid: Uuid::nil(),
        version: 1,
        revision: 1,
        labels: [("a".to_owned(), "b".to_owned())].into(),
        spec,
        status: None,
        owner: None,
        created_at: OffsetDateTime::UNIX_EPOCH,
        modified_at: OffsetDateTime::UNIX_EPOCH,
    }
}

/// The kinds whose spec is a message, with the message.
fn proto_kinds() -> impl Iterator<Item = (Kind, MessageDescriptor)> {
    Kind::all().filter_map(|kind| match kind.row().codec {
        Codec::Proto(name) => {
            Some((kind, sunbear_proto::pool().get_message_by_name(name).unwrap()))
        }
        Codec::Json { .. } => None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn messages(rng in Just(()).prop_perturb(|(), rng| rng)) {
        let mut maker = Maker::new(rng);
        for (kind, descriptor) in proto_kinds() {
            let message = maker.message(&descriptor, 6);
            let stored = resource(kind, Spec::from_wire(kind, message.encode_to_vec()));
            let shown = rest::write(&stored);
            // Without what is at its default, which no bytes say.
            let message = DynamicMessage::decode(descriptor.clone(), stored.spec.wire()).unwrap();
            let read = rest::read_as(kind, &shown);
            let read = read.unwrap_or_else(|e| panic!("{kind}: {e}\n{shown:#}"));
            prop_assert_eq!(&read.unknown, &Vec::<String>::new(), "{}", kind);
            prop_assert_eq!(&read.labels, &stored.labels);
            let got = DynamicMessage::decode(descriptor, read.spec.wire()).unwrap();
            prop_assert!(got == message, "{kind}: {shown:#}");
            // And from there on nothing changes any more, not even the order of bytes.
            let again = rest::read_as(kind, &rest::write(&resource(kind, read.spec.clone()))).unwrap();
            prop_assert_eq!(again.spec.wire(), read.spec.wire(), "{}", kind);
        }
    }

    #[test]
    fn fields_of_a_newer_peer_stay_in_the_bytes(
        rng in Just(()).prop_perturb(|(), rng| rng),
        payload in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut maker = Maker::new(rng);
        for (kind, descriptor) in proto_kinds() {
            let known = maker.message(&descriptor, 4).encode_to_vec();
            let mut wire = known.clone();
            prost::encoding::bytes::encode(5_000, &payload, &mut wire);
            let stored = resource(kind, Spec::from_wire(kind, wire.clone()));
            prop_assert_eq!(rest::write(&stored), rest::write(&resource(kind, Spec::from_wire(kind, known))));
            let _ = stored.spec.typed();
            prop_assert_eq!(stored.spec.wire(), &wire[..]);
            let got = DynamicMessage::decode(descriptor, stored.spec.wire()).unwrap();
            prop_assert_eq!(got.unknown_fields().count(), 1);
        }
    }

    #[test]
    fn json_specs(fields in prop::collection::btree_map("[a-z]{1,5}", json_value(), 0..5)) {
        let spec = Json::Object(fields.into_iter().collect());
        for kind in Kind::all().filter(|kind| kind.is_json()) {
            let body = json!({"type": kind.name(), "name": "x", "mesh": "default", "spec": spec});
            let read = rest::read_as(kind, &body).unwrap();
            prop_assert_eq!(&read.unknown, &Vec::<String>::new());
            let shown = rest::write(&resource(kind, read.spec.clone()));
            prop_assert_eq!(&shown["spec"], &spec);
            prop_assert_eq!(rest::read_as(kind, &shown).unwrap().spec, read.spec);
        }
    }
}

fn json_value() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        ".{0,8}".prop_map(Json::String),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::btree_map(".{0,4}", inner, 0..4)
                .prop_map(|m| Json::Object(m.into_iter().collect())),
        ]
    })
}
