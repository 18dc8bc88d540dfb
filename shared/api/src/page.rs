//! Query parameters of lists: pages and filters (`spec/rest-api.md` 7).

use std::num::IntErrorKind;

use http::StatusCode;
use sunbear_model::{Resource, tags::Tags};

use crate::{problem::Problem, target};

const DEFAULT_SIZE: usize = 100;
const MAX_SIZE: usize = 1000;

/// Title of problems with lists.
pub(crate) const TITLE: &str = "Could not retrieve resources";

/// The decoded pairs of a query, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query string. Pairs that do not decode are dropped, as Go's parser does.
    pub(crate) fn parse(query: &str) -> Self {
        let decode = |text: &str| target::decode(&text.replace('+', " "));
        let pairs = query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';'));
        Self(
            pairs
                .filter_map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    Some((decode(key)?, decode(value)?))
                })
                .collect(),
        )
    }

    /// The first value of a parameter; empty if absent.
    pub(crate) fn first(&self, key: &str) -> &str {
        self.0.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v.as_str())
    }

    fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The query with another offset, keys in order.
    fn at_offset(&self, offset: usize) -> String {
        let offset = ("offset".to_owned(), offset.to_string());
        let mut pairs: Vec<&(String, String)> =
            self.0.iter().filter(|(k, _)| k != "offset").chain([&offset]).collect();
        // Stable: values of one key stay in order.
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        let pairs: Vec<String> =
            pairs.iter().map(|(k, v)| format!("{}={}", encode(k), encode(v))).collect();
        pairs.join("&")
    }
}

/// Form-encodes a text as Go does.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Which part of a list is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) size: usize,
    pub(crate) offset: usize,
}

impl Page {
    /// Reads `size` and `offset`.
    pub(crate) fn parse(query: &Query) -> Result<Self, Problem> {
        Self::parse_titled(query, TITLE)
    }

    /// Reads `size` and `offset`; problems have this title.
    pub(crate) fn parse_titled(query: &Query, title: &str) -> Result<Self, Problem> {
        let size = match query.first("size") {
            "" => DEFAULT_SIZE,
            text => size(text).map_err(|reason| {
                Problem::new(StatusCode::BAD_REQUEST, title, "Invalid page size")
                    .with("size", reason)
            })?,
        };
        let offset = match query.first("offset") {
            "" => 0,
            text => offset(text).map_err(|reason| {
                let detail = format!("invalid: invalid offset: {reason}");
                Problem::new(StatusCode::BAD_REQUEST, title, detail)
            })?,
        };
        Ok(Self { size, offset })
    }

    /// Where the page after this one starts, if there is one.
    pub(crate) fn next(&self, total: usize) -> Option<usize> {
        self.offset.checked_add(self.size).filter(|next| *next < total)
    }
}

fn size(text: &str) -> Result<usize, String> {
    let size: i64 = text.parse().map_err(|_| "invalid format".to_owned())?;
    match usize::try_from(size) {
        Ok(size) if size > MAX_SIZE => {
            Err(format!("invalid page size of {size}. Maximum page size is {MAX_SIZE}"))
        }
        Ok(size) if size > 0 => Ok(size),
        _ => Err("must be greater than 0".to_owned()),
    }
}

fn offset(text: &str) -> Result<usize, String> {
    let offset: i64 = text.parse().map_err(|e: std::num::ParseIntError| {
        let why = match e.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!("strconv.Atoi: parsing {text:?}: {why}")
    })?;
    usize::try_from(offset).map_err(|_| "must be non-negative".to_owned())
}

/// The address of the next page.
pub(crate) fn next_link(base: &str, query: &Query, offset: usize) -> String {
    format!("{base}?{}", query.at_offset(offset))
}

/// Which objects of a list are wanted.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    name: String,
    labels: Vec<(String, String)>,
    /// Only for lists of Dataplanes.
    gateway: Gateway,
    /// Only for lists of Dataplanes and ExternalServices.
    tags: Tags,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Gateway {
    #[default]
    Any,
    None,
    Some,
    Builtin,
    Delegated,
}

impl Filter {
    /// Reads the filters that every list takes. `template` is the list's path for messages.
    pub(crate) fn parse(query: &Query, template: &str) -> Result<Self, Problem> {
        let mut labels: Vec<(String, String)> = Vec::new();
        let mut problem = None;
        for (key, value) in query.0.iter().filter(|(k, _)| k.starts_with("filter[")) {
            let refusal = match key.strip_prefix("filter[labels.") {
                None => "filters are only supported on labels",
                Some(rest) => match rest.split_once(']') {
                    Some((label, "")) => {
                        labels.retain(|(k, _)| k != label);
                        labels.push((label.to_owned(), value.clone()));
                        continue;
                    }
                    _ => "advanced filters are not supported",
                },
            };
            let base = problem.take().unwrap_or_else(|| {
                Problem::new(StatusCode::BAD_REQUEST, TITLE, "Resource is not valid")
            });
            problem = Some(base.with(format!("{template}.{key}"), refusal));
        }
        match problem {
            Some(problem) => Err(problem),
            None => Ok(Self { name: query.first("name").to_owned(), labels, ..Self::default() }),
        }
    }

    /// Reads the filters of lists of Dataplanes on top.
    pub(crate) fn with_dataplane_filters(
        mut self,
        query: &Query,
        template: &str,
    ) -> Result<Self, Problem> {
        let mode = query.first("gateway").to_lowercase();
        self.gateway = match mode.as_str() {
            "" => Gateway::Any,
            "true" => Gateway::Some,
            "false" => Gateway::None,
            "builtin" => Gateway::Builtin,
            "delegated" => Gateway::Delegated,
            _ => {
                return Err(Problem::invalid_field(
                    TITLE,
                    format!("{template}.gateway"),
                    format!(
                        "shoud use `true`, `false`, 'builtin' or 'delegated' instead of {mode}"
                    ),
                ));
            }
        };
        Ok(self.with_tags(query))
    }

    /// Reads the tag filter on top.
    pub(crate) fn with_tags(mut self, query: &Query) -> Self {
        // Text without a colon is ignored, as in Kuma.
        self.tags = query
            .all("tag")
            .filter_map(|t| t.split_once(':'))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        self
    }

    /// Everything passes.
    pub(crate) fn is_empty(&self) -> bool {
        self.name.is_empty()
            && self.labels.is_empty()
            && self.tags.is_empty()
            && self.gateway == Gateway::Any
    }

    /// Is the object wanted?
    pub(crate) fn passes(&self, resource: &Resource) -> bool {
        resource.key.name.contains(&self.name)
            && self.labels.iter().all(|(k, v)| resource.label(k) == Some(v))
            && self.passes_gateway(resource)
            && self.passes_tags(resource)
    }

    fn passes_gateway(&self, resource: &Resource) -> bool {
        use sunbear_proto::kuma::mesh::v1alpha1::dataplane::networking::gateway::GatewayType;
        if self.gateway == Gateway::Any {
            return true;
        }
        let gateway = resource
            .as_dataplane()
            .and_then(|d| d.networking.as_ref())
            .and_then(|n| n.gateway.as_ref());
        match (self.gateway, gateway) {
            (Gateway::Any, _) | (Gateway::None, None) | (Gateway::Some, Some(_)) => true,
            (Gateway::Builtin, Some(g)) => g.r#type() == GatewayType::Builtin,
            (Gateway::Delegated, Some(g)) => g.r#type() == GatewayType::Delegated,
            (Gateway::None, Some(_))
            | (Gateway::Some | Gateway::Builtin | Gateway::Delegated, None) => false,
        }
    }

    fn passes_tags(&self, resource: &Resource) -> bool {
        use sunbear_model::{Typed, tags::tag_sets};
        if self.tags.is_empty() {
            return true;
        }
        match resource.spec.typed() {
            Typed::Dataplane(d) => tag_sets(d).any(|tags| contains(&self.tags, tags)),
            Typed::ExternalService(e) => contains(&self.tags, &e.tags),
            _ => true,
        }
    }
}

/// Each wanted tag is there, and its value contains the wanted one or `*` asks for any.
fn contains(wanted: &Tags, tags: &Tags) -> bool {
    wanted
        .iter()
        .all(|(k, want)| tags.get(k).is_some_and(|have| want == "*" || have.contains(want)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_offsets() {
        for (query, want) in [
            ("", Ok((100, 0))),
            ("size=1&offset=3", Ok((1, 3))),
            ("size=1000", Ok((1000, 0))),
            ("size=abc", Err("Invalid page size")),
            ("size=0", Err("Invalid page size")),
            ("size=-5", Err("Invalid page size")),
            ("size=1001", Err("Invalid page size")),
            ("size=99999999999999999999", Err("Invalid page size")),
            (
                "offset=x",
                Err("invalid: invalid offset: strconv.Atoi: parsing \"x\": invalid syntax"),
            ),
            ("offset=-1", Err("invalid: invalid offset: must be non-negative")),
        ] {
            let got = Page::parse(&Query::parse(query)).map(|p| (p.size, p.offset));
            assert_eq!(got.as_ref().map_err(Problem::detail).copied(), want, "{query}");
        }
    }

    #[test]
    fn next_pages_keep_the_query_sorted() {
        let query = Query::parse("tag=b%3A1&size=1&offset=1&tag=a%3A2");
        let link = next_link("http://h/meshes/m/dataplanes", &query, 2);
        assert_eq!(link, "http://h/meshes/m/dataplanes?offset=2&size=1&tag=b%3A1&tag=a%3A2");
        assert_eq!(Page { size: 10, offset: usize::MAX }.next(5), None);
        assert_eq!(Page { size: 10, offset: 0 }.next(10), None);
        assert_eq!(Page { size: 10, offset: 0 }.next(11), Some(10));
    }

    #[test]
    fn label_filters() {
        let parse = |q: &str| Filter::parse(&Query::parse(q), "/meshes/{mesh}/dataplanes");
        assert!(parse("filter[labels.k8s.io/x]=1").is_ok());
        assert!(parse("filter[tags.x]=1").is_err());
        assert!(parse("filter[labels.x][gt]=1").is_err());
        assert!(parse("filter[labels.x=1").is_err());
    }
}
