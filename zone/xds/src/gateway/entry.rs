//! The route entries of a host: one per alternative of a rule, prefixes spelled out, most specific
//! first (Kuma: pkg/plugins/runtime/gateway/gateway_route_generator.go, route/sorter.go).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
};

use sunbear_proto::kuma::mesh::v1alpha1::{
    HttpMethod,
    mesh_gateway_route::http_route::{Match, filter::rewrite, r#match::path::MatchType},
};

/// How the path is tested. The order is that of evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PathKind {
    Exact,
    Prefix,
    Regex,
}

/// What becomes of the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PathRewrite {
    /// The whole path is replaced.
    Full(String),
    /// What matched is replaced.
    Prefix(String),
}

/// One entry.
#[derive(Debug, Clone)]
pub(crate) struct Entry<'a> {
    pub(crate) kind: PathKind,
    pub(crate) path: String,
    /// Conditions besides the path.
    pub(crate) conditions: &'a Match,
    pub(crate) rewrite: Option<PathRewrite>,
    /// Position of the rule among those of the host.
    pub(crate) rule: usize,
}

/// The entries of a host, as they are declared: in order of route, rule and alternative.
#[derive(Debug, Default)]
pub(crate) struct Entries<'a> {
    regex: Vec<Entry<'a>>,
    /// By prefix as written, so that prefixes are handled in order of bytes (D-2).
    prefix: BTreeMap<&'a str, Vec<Entry<'a>>>,
    exact: Vec<Entry<'a>>,
}

impl<'a> Entries<'a> {
    /// Adds an alternative of a rule whose filters rewrite the path by `rewrite`.
    pub(crate) fn add(
        &mut self,
        conditions: &'a Match,
        rewrite: Option<&rewrite::Path>,
        rule: usize,
    ) {
        let (kind, path) = match &conditions.path {
            None => (PathKind::Prefix, "/"),
            Some(path) => (
                match path.r#match() {
                    MatchType::Exact => PathKind::Exact,
                    MatchType::Prefix => PathKind::Prefix,
                    MatchType::Regex => PathKind::Regex,
                },
                path.value.as_str(),
            ),
        };
        let rewrite = rewrite.map(|rewrite| match rewrite {
            rewrite::Path::ReplaceFull(path) => PathRewrite::Full(path.clone()),
            rewrite::Path::ReplacePrefixMatch(path) => PathRewrite::Prefix(path.clone()),
        });
        let entry = Entry { kind, path: path.to_owned(), conditions, rewrite, rule };
        match kind {
            PathKind::Exact => self.exact.push(entry),
            PathKind::Prefix => self.prefix.entry(path).or_default().push(entry),
            PathKind::Regex => self.regex.push(entry),
        }
    }

    /// All entries in order of evaluation. Prefixes match whole path elements: `/a` matches `/a`
    /// and `/a/b`, not `/ab`, which takes an entry for `/a/` and a twin for exactly `/a`. An exact
    /// entry for the path that is there already, whatever its other conditions, suppresses the
    /// twin.
    pub(crate) fn into_sorted(self) -> Vec<Entry<'a>> {
        let mut exact_paths: HashSet<String> =
            self.exact.iter().map(|entry| entry.path.clone()).collect();
        let mut all = self.regex;
        let mut twins = Vec::new();
        for (prefix, entries) in self.prefix {
            let base = prefix.trim_end_matches('/');
            // The root is looked up as the empty text, so an exact `/` does not count for it.
            let wanted = !exact_paths.contains(base);
            for entry in entries {
                let replaced = match &entry.rewrite {
                    Some(PathRewrite::Prefix(path)) => Some(path.trim_end_matches('/').to_owned()),
                    Some(PathRewrite::Full(_)) | None => None,
                };
                // Only a rewrite can tell the root from its twin.
                if wanted && (!base.is_empty() || replaced.is_some()) {
                    let rewrite = match &replaced {
                        Some(path) => Some(PathRewrite::Full(or_root(path))),
                        None => entry.rewrite.clone(),
                    };
                    exact_paths.insert(base.to_owned());
                    twins.push(Entry {
                        kind: PathKind::Exact,
                        path: or_root(base),
                        rewrite,
                        ..entry.clone()
                    });
                }
                let rewrite = match replaced {
                    Some(path) => Some(PathRewrite::Prefix(path + "/")),
                    None => entry.rewrite,
                };
                all.push(Entry { path: format!("{base}/"), rewrite, ..entry });
            }
        }
        all.extend(self.exact);
        all.extend(twins);
        all.sort_by(|a, b| a.specificity().cmp(&b.specificity()));
        all
    }
}

fn or_root(path: &str) -> String {
    if path.is_empty() { "/".to_owned() } else { path.to_owned() }
}

impl Entry<'_> {
    /// Smaller is more specific. Regular expressions of equal length are equal: their declared
    /// order counts, as the sort is stable (D-2).
    fn specificity(
        &self,
    ) -> (PathKind, Reverse<usize>, bool, Reverse<usize>, Reverse<usize>, &str) {
        let length = Reverse(self.path.len());
        if self.kind == PathKind::Regex {
            return (self.kind, length, false, Reverse(0), Reverse(0), "");
        }
        (
            self.kind,
            length,
            self.conditions.method() == HttpMethod::None,
            Reverse(self.conditions.headers.len()),
            Reverse(self.conditions.query_parameters.len()),
            &self.path,
        )
    }
}

#[cfg(test)]
mod tests {
    use sunbear_proto::kuma::mesh::v1alpha1::{
        HttpMethod,
        mesh_gateway_route::http_route::{
            Match,
            filter::rewrite,
            r#match::{Header, Path, Query, path::MatchType},
        },
    };

    use super::{Entries, PathKind, PathRewrite};

    fn path(kind: MatchType, value: &str) -> Match {
        Match {
            path: Some(Path { r#match: kind.into(), value: value.to_owned() }),
            ..Match::default()
        }
    }

    fn exact(value: &str) -> Match {
        path(MatchType::Exact, value)
    }

    fn prefix(value: &str) -> Match {
        path(MatchType::Prefix, value)
    }

    fn regex(value: &str) -> Match {
        path(MatchType::Regex, value)
    }

    /// Entries as `kind path -> rewrite #rule`, one rule per match.
    fn sorted(rules: &[(Match, Option<rewrite::Path>)]) -> Vec<String> {
        let mut entries = Entries::default();
        for (index, (conditions, rewrite)) in rules.iter().enumerate() {
            entries.add(conditions, rewrite.as_ref(), index);
        }
        let text = |e: &super::Entry<'_>| {
            let kind = match e.kind {
                PathKind::Exact => "=",
                PathKind::Prefix => "^",
                PathKind::Regex => "~",
            };
            let rewrite = match &e.rewrite {
                None => String::new(),
                Some(PathRewrite::Full(p)) => format!(" full {p}"),
                Some(PathRewrite::Prefix(p)) => format!(" prefix {p}"),
            };
            format!("{kind}{}{rewrite} #{}", e.path, e.rule)
        };
        entries.into_sorted().iter().map(text).collect()
    }

    fn plain(matches: Vec<Match>) -> Vec<String> {
        sorted(&matches.into_iter().map(|m| (m, None)).collect::<Vec<_>>())
    }

    #[test]
    fn specificity() {
        let header = || Header { name: "a".to_owned(), value: "b".to_owned(), ..Header::default() };
        let query = Query { name: "a".to_owned(), value: "b".to_owned(), ..Query::default() };
        let got = plain(vec![
            regex("/a.*"),
            prefix("/"),
            prefix("/api"),
            exact("/api/long"),
            regex("/abc.*"),
            regex("/b.*"),
            Match { method: HttpMethod::Get.into(), ..prefix("/") },
            Match { headers: vec![header()], ..prefix("/") },
            Match { headers: vec![header(), header()], ..prefix("/") },
            Match { query_parameters: vec![query], ..prefix("/") },
            Match::default(),
        ]);
        assert_eq!(
            got,
            [
                "=/api/long #3",
                "=/api #2",
                "^/api/ #2",
                "^/ #6",
                "^/ #8",
                "^/ #7",
                "^/ #9",
                "^/ #1",
                "^/ #10",
                "~/abc.* #4",
                "~/a.* #0",
                "~/b.* #5",
            ]
        );
    }

    #[test]
    fn regexes_of_one_length_keep_their_order() {
        let with_method = Match { method: HttpMethod::Get.into(), ..regex("/a.*") };
        assert_eq!(
            plain(vec![regex("/z.*"), with_method, regex("/b.*")]),
            ["~/z.* #0", "~/a.* #1", "~/b.* #2"]
        );
    }

    #[test]
    fn prefixes_and_their_twins() {
        assert_eq!(plain(vec![prefix("/a")]), ["=/a #0", "^/a/ #0"]);
        assert_eq!(plain(vec![prefix("/")]), ["^/ #0"]);
        assert_eq!(
            plain(vec![prefix("/a"), prefix("/a")]),
            ["=/a #0", "=/a #1", "^/a/ #0", "^/a/ #1"]
        );
        // An exact path suppresses the twin, even if its own conditions are narrower.
        let narrow = Match { method: HttpMethod::Get.into(), ..exact("/a") };
        assert_eq!(plain(vec![prefix("/a"), narrow]), ["=/a #1", "^/a/ #0"]);
        // Two spellings: the first in order of bytes has the twin.
        assert_eq!(plain(vec![prefix("/a/"), prefix("/a")]), ["=/a #1", "^/a/ #1", "^/a/ #0"]);
    }

    #[test]
    fn rewrites() {
        let replace = |p: &str| Some(rewrite::Path::ReplacePrefixMatch(p.to_owned()));
        let full = |p: &str| Some(rewrite::Path::ReplaceFull(p.to_owned()));
        assert_eq!(
            sorted(&[(prefix("/a"), replace("/b/"))]),
            ["=/a full /b #0", "^/a/ prefix /b/ #0"]
        );
        assert_eq!(sorted(&[(prefix("/a"), replace("/"))]), ["=/a full / #0", "^/a/ prefix / #0"]);
        assert_eq!(sorted(&[(prefix("/a"), full("/b"))]), ["=/a full /b #0", "^/a/ full /b #0"]);
        // The root has a twin only for a rewrite, and an exact root does not suppress it.
        assert_eq!(
            sorted(&[(prefix("/"), replace("/b")), (exact("/"), None)]),
            ["=/ #1", "=/ full /b #0", "^/ prefix /b/ #0"]
        );
        // Not a prefix match: the replacement stays as given (D-7).
        assert_eq!(sorted(&[(exact("/a"), replace("/b/"))]), ["=/a prefix /b/ #0"]);
    }
}
