//! Specs as a peer sends them: the first byte chooses the type, the rest is its wire bytes.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use sunbear_model::{
    Kind, Resource, ResourceKey, Spec, rest,
    validation::{apply_defaults, validate_spec, warnings},
};
use time::OffsetDateTime;
use uuid::Uuid;

fuzz_target!(|data: &[u8]| {
    let Some((choice, wire)) = data.split_first() else { return };
    let Some(kind) = Kind::all().nth(usize::from(*choice) % Kind::COUNT) else { return };
    let spec = Spec::from_wire(kind, wire);
    let _ = validate_spec(kind, "default", "x", &spec);
    let spec = apply_defaults(kind, Some("east"), None, spec);
    let key = ResourceKey::new(kind, "default", "x");
    let labels = BTreeMap::new();
    let _ = warnings(&key, &labels, &spec);
    let _ = rest::write(&Resource {
        key,
        uid: Uuid::nil(),
        version: 1,
        revision: 1,
        labels,
        spec,
        status: None,
        owner: None,
        created_at: OffsetDateTime::UNIX_EPOCH,
        modified_at: OffsetDateTime::UNIX_EPOCH,
    });
});
