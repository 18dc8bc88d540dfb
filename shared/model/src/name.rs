//! Names on the wire: the hash suffix of synced resources (`spec/kds.md` 4.1).

use std::collections::BTreeMap;

use crate::label;

const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Longest part of the original name that is kept before the suffix, in bytes.
const KEPT: usize = 236;

/// `name` with the suffix that a synced copy carries. `extra` are the values of the zone and
/// namespace labels, as far as present.
pub fn hashed(mesh: &str, name: &str, extra: &[&str]) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in [mesh, name].iter().chain(extra) {
        for byte in part.bytes() {
            hash ^= u64::from(byte);
            hash = hash.wrapping_mul(0x0100_0000_01b3);
        }
    }
    let mut end = name.len().min(KEPT);
    // Names are ASCII by validation; a foreign peer's may not be.
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let mut out = String::with_capacity(end + 17);
    out.push_str(&name[..end]);
    out.push('-');
    for digit in format!("{hash:016x}").bytes() {
        out.push(char::from(ALPHABET[usize::from(digit) % ALPHABET.len()]));
    }
    out
}

/// The name that a resource gets when it crosses the wire, from its name and labels.
pub fn hashed_for_sync(mesh: &str, name: &str, labels: &BTreeMap<String, String>) -> String {
    let display = labels.get(label::DISPLAY_NAME).map_or(name, String::as_str);
    let extra: Vec<&str> = [label::ZONE, label::NAMESPACE]
        .iter()
        .filter_map(|l| labels.get(*l).map(String::as_str))
        .collect();
    hashed(mesh, display, &extra)
}

#[cfg(test)]
mod tests {
    use super::hashed;

    #[test]
    fn vectors() {
        for (mesh, name, extra, want) in [
            ("default", "edge", vec![], "edge-5c75xw87847wvc4c"),
            ("default", "edge-gw-1", vec!["zone-1"], "edge-gw-1-6894c4d4wvfb46v6"),
            ("", "zi-1", vec!["zone-1"], "zi-1-2d8w9vd5b9fd9xbv"),
            ("default", "dp-1", vec!["zone-1", "kuma-demo"], "dp-1-cwf7zzcv4bw74bc2"),
            (
                "default",
                "default-timeout-global",
                vec![],
                "default-timeout-global-54dbd4c66zwbcf9c",
            ),
            ("default", "redis-zone-1", vec!["zone-1"], "redis-zone-1-2v6wfvvcvbc9f55d"),
            (
                "producer-policy-flow",
                "to-test-server",
                vec!["kuma-2", "producer-policy-flow-ns"],
                "to-test-server-4cx47v8b5wcd4764",
            ),
            ("", "foo", vec![], "foo-zxw6c95d42zfz9cc"),
        ] {
            assert_eq!(hashed(mesh, name, &extra), want);
        }
    }

    #[test]
    fn long_names_are_cut() {
        let name = "a".repeat(253);
        assert_eq!(hashed("m", &name, &[]).len(), 236 + 17);
    }
}
