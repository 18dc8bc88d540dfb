//! Messages of any type, made at random after their descriptors. Tests of other crates use them too.

use proptest::{prelude::*, test_runner::TestRng};
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind as Form, MapKey, MessageDescriptor, Value,
};

/// Makes messages. Rarely nested deeper than resources are.
pub(crate) struct Maker(TestRng);

impl Maker {
    pub(crate) fn new(rng: TestRng) -> Self {
        Self(rng)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0.next_u64() % n
    }

    pub(crate) fn message(&mut self, descriptor: &MessageDescriptor, depth: u32) -> DynamicMessage {
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
