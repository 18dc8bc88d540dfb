//! Whatever is accepted survives the way from JSON through wire bytes and back, for messages of
//! every type that are made at random after their descriptors.

use proptest::{prelude::*, test_runner::TestRng};
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind as Form, MapKey, MessageDescriptor, Value,
    prost::Message as _,
};
use serde_json::{Value as Json, json};
use sunbear_model::{Kind, Resource, ResourceKey, Spec, kind::Codec, rest};
use time::OffsetDateTime;
use uuid::Uuid;

/// Makes messages. Rarely nested deeper than resources are.
struct Maker(TestRng);

impl Maker {
    fn below(&mut self, n: u64) -> u64 {
        self.0.next_u64() % n
    }

    fn message(&mut self, descriptor: &MessageDescriptor, depth: u32) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        let set = |message: &mut DynamicMessage, field: &str, value: Value| {
            message.set_field_by_name(field, value);
        };
        match descriptor.full_name() {
            "google.protobuf.Duration" => {
                let negative = self.below(4) == 0;
                let sign = if negative { -1 } else { 1 };
                // As far as Go's durations reach, which is what the JSON form is read as.
                let seconds = i64::try_from(self.below(9_000_000_000)).unwrap() * sign;
                let nanos = i32::try_from(self.below(1_000_000_000)).unwrap();
                set(&mut message, "seconds", Value::I64(seconds));
                let nanos = if self.below(2) == 0 { 0 } else { nanos };
                set(&mut message, "nanos", Value::I32(nanos * i32::try_from(sign).unwrap()));
            }
            "google.protobuf.Timestamp" => {
                let seconds = i64::try_from(self.below(250_000_000_000)).unwrap() - 10_000_000_000;
                set(&mut message, "seconds", Value::I64(seconds));
                let nanos = i32::try_from(self.below(1_000_000_000)).unwrap();
                set(&mut message, "nanos", Value::I32(nanos));
            }
            "google.protobuf.Value" => {
                // Without a kind it is no JSON at all.
                let kinds = if depth == 0 { 4 } else { 6 };
                let number = u32::try_from(self.below(kinds)).unwrap() + 1;
                let field = descriptor.get_field(number).unwrap();
                let value = self.single(&field, depth);
                message.set_field(&field, value);
            }
            _ => {
                for field in descriptor.fields() {
                    if self.below(3) > 0 {
                        self.field(&mut message, &field, depth);
                    }
                }
            }
        }
        message
    }

    fn field(&mut self, message: &mut DynamicMessage, field: &FieldDescriptor, depth: u32) {
        let nested = matches!(field.kind(), Form::Message(_));
        if nested && depth == 0 {
            return;
        }
        let count = self.below(3);
        let value = if field.is_list() {
            Value::List((0..count).map(|_| self.single(field, depth)).collect())
        } else if field.is_map() {
            let Form::Message(entry) = field.kind() else { unreachable!() };
            let values = entry.map_entry_value_field();
            Value::Map(
                (0..count)
                    .map(|_| (MapKey::String(self.text()), self.single(&values, depth)))
                    .collect(),
            )
        } else {
            self.single(field, depth)
        };
        message.set_field(field, value);
    }

    fn single(&mut self, field: &FieldDescriptor, depth: u32) -> Value {
        let bits = self.0.next_u64();
        match field.kind() {
            Form::Message(message) => {
                Value::Message(self.message(&message, depth.saturating_sub(1)))
            }
            Form::Enum(descriptor) => {
                let values: Vec<_> = descriptor.values().map(|v| v.number()).collect();
                let known = values[usize::try_from(bits).unwrap() % values.len()];
                // Now and then one that a newer release may know; null has no other form.
                let newer = values.len() > 1 && self.below(20) == 0;
                Value::EnumNumber(if newer { 1_000 } else { known })
            }
            Form::String => Value::String(self.text()),
            Form::Bytes => {
                let length = self.below(5);
                Value::Bytes((0..length).map(|_| self.below(256) as u8).collect())
            }
            Form::Bool => Value::Bool(bits.is_multiple_of(2)),
            Form::Double => Value::F64(self.float()),
            Form::Float => Value::F32(self.float() as f32),
            Form::Int32 | Form::Sint32 | Form::Sfixed32 => Value::I32(bits as i32),
            Form::Int64 | Form::Sint64 | Form::Sfixed64 => Value::I64(bits.cast_signed()),
            Form::Uint32 | Form::Fixed32 => Value::U32(bits as u32),
            Form::Uint64 | Form::Fixed64 => Value::U64(bits),
        }
    }

    fn float(&mut self) -> f64 {
        let whole = self.below(2_000) as f64 - 1_000.0;
        if self.below(2) == 0 { whole } else { whole + self.below(1_000) as f64 / 1_000.0 }
    }

    fn text(&mut self) -> String {
        const PIECES: &[&str] = &[
            "a",
            "kuma.io/service",
            "*",
            "10.0.0.1",
            "é",
            "\u{1f600}",
            "\"\\",
            "\n",
            " ",
            "5s",
            "@type",
        ];
        let length = self.below(4);
        (0..length)
            .map(|_| PIECES[usize::try_from(self.below(PIECES.len() as u64)).unwrap()])
            .collect()
    }
}

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
        let mut maker = Maker(rng);
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
        let mut maker = Maker(rng);
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
