//! Host names of listeners and routes: which one covers which (`spec/gateway-xds.md` 6).

/// The name that covers every host.
pub const ANY: &str = "*";

/// The part after `*.` of a wildcard name.
fn wildcard_suffix(name: &str) -> Option<&str> {
    name.strip_prefix("*.")
}

/// Does `wide` cover `narrow`, a different name? A wildcard stands for one or more labels. A name
/// whose first label is exact covers no other (deviation D-6).
fn covers(wide: &str, narrow: &str) -> bool {
    if wide == ANY {
        return narrow != ANY;
    }
    wildcard_suffix(wide).is_some_and(|suffix| {
        narrow
            .strip_suffix(suffix)
            .and_then(|head| head.strip_suffix('.'))
            .is_some_and(|labels| !labels.is_empty() && (labels != ANY))
    })
}

/// Equal, or one covers the other.
pub fn matches(a: &str, b: &str) -> bool {
    a == b || covers(a, b) || covers(b, a)
}

/// The wildcard names, other than the name itself and `*`, that cover a name; the longest first.
pub fn covering_wildcards(name: &str) -> impl Iterator<Item = String> + '_ {
    name.match_indices('.')
        .filter(|(at, _)| *at > 0)
        .map(|(at, _)| format!("*{}", &name[at..]))
        .filter(move |wildcard| wildcard != name)
}

#[cfg(test)]
mod tests {
    use super::{covering_wildcards, matches};

    #[test]
    fn matching() {
        for (a, b, want) in [
            ("*", "a.b", true),
            ("*", "*", true),
            ("*", "*.b", true),
            ("a.b", "a.b", true),
            ("*.a.b", "x.a.b", true),
            ("*.a.b", "x.y.a.b", true),
            ("*.a.b", "*.y.a.b", true),
            ("*.a.b", "*.a.b", true),
            ("*.a.b", "a.b", false),
            ("*.a.b", "xa.b", false),
            ("*.a.b", "x.ba.b", false),
            ("*.com", "example.com", true),
            // An exact first label covers nothing else, though the tail fits.
            ("foo.com", "foo.bar.com", false),
            ("foo.com", "bar.foo.com", false),
        ] {
            assert_eq!(matches(a, b), want, "{a} {b}");
            assert_eq!(matches(b, a), want, "{b} {a}");
        }
    }

    #[test]
    fn wildcards_over_a_name() {
        let over = |name| covering_wildcards(name).collect::<Vec<_>>();
        assert_eq!(over("x.y.a.b"), ["*.y.a.b", "*.a.b", "*.b"]);
        assert_eq!(over("*.a.b"), ["*.b"]);
        assert!(over("*").is_empty());
        assert!(over("localhost").is_empty());
        for name in ["x.y.a.b", "*.a.b"] {
            for wildcard in covering_wildcards(name) {
                assert!(matches(&wildcard, name));
            }
        }
    }
}
