//! REST bodies of every type: the first byte chooses it. What is accepted must survive the way
//! through the store and back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use sunbear_model::{
    Kind, Resource, ResourceKey,
    kind::Codec,
    rest,
    validation::{apply_defaults, validate_spec, warnings},
};
use time::OffsetDateTime;
use uuid::Uuid;

fuzz_target!(|data: &[u8]| {
    let Some((choice, body)) = data.split_first() else { return };
    let Some(kind) = Kind::all().nth(usize::from(*choice) % Kind::COUNT) else { return };
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return };
    let _ = rest::read(&body);
    let Ok(desired) = rest::read_as(kind, &body) else { return };
    let violations = validate_spec(kind, "default", "x", &desired.spec);
    let spec = apply_defaults(kind, Some("east"), None, desired.spec);
    let key = ResourceKey::new(kind, "default", "x");
    let _ = warnings(&key, &desired.labels, &spec);
    if !violations.is_empty() {
        let _ = violations.to_string();
        return;
    }
    let resource = Resource {
        key,
        uid: Uuid::nil(),
        version: 1,
        revision: 1,
        labels: desired.labels,
        spec,
        status: None,
        owner: None,
        created_at: OffsetDateTime::UNIX_EPOCH,
        modified_at: OffsetDateTime::UNIX_EPOCH,
    };
    let written = rest::write(&resource);
    // A spec that cannot be shown shows as its metadata alone.
    if let Codec::Proto(message) = kind.row().codec
        && sunbear_proto::json::write(message, resource.spec.wire()).is_err()
    {
        return;
    }
    let again = rest::read_as(kind, &written).expect("what was written is read");
    assert_eq!(again.labels, resource.labels);
    assert_eq!(rest::write(&Resource { spec: again.spec, ..resource }), written);
});
