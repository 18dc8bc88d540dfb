//! Header operations of a rule, as Envoy takes them.

use sunbear_proto::{
    envoy::config::core::v3::{HeaderValueOption, header_value_option::HeaderAppendAction},
    kuma::mesh::v1alpha1::mesh_gateway_route::http_route::filter::HeaderFilter,
};

use crate::{
    envoy::header,
    format::{self, FormatError},
};

/// Operations on the headers of one direction.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct HeaderOperations {
    pub(crate) add: Vec<HeaderValueOption>,
    pub(crate) remove: Vec<String>,
    /// New authority; requests only.
    pub(crate) host: Option<String>,
    /// Operations that Envoy would refuse, with the whole route configuration: header and why.
    pub(crate) refused: Vec<(String, FormatError)>,
}

/// Joins the filters of one direction: all sets, then all adds; setting the host of a request is
/// an operation of its own.
pub(crate) fn operations(filters: &[&HeaderFilter], request: bool) -> HeaderOperations {
    let mut result = HeaderOperations::default();
    for h in filters.iter().flat_map(|f| &f.set) {
        if request && is_host(&h.name) {
            if h.value.contains(['\0', '\r', '\n']) {
                result.refused.push((h.name.clone(), FormatError::Control));
            } else {
                result.host = Some(h.value.clone());
            }
        } else {
            result.push(&h.name, &h.value, HeaderAppendAction::OverwriteIfExistsOrAdd);
        }
    }
    for h in filters.iter().flat_map(|f| &f.add) {
        result.push(&h.name, &h.value, HeaderAppendAction::AppendIfExistsOrAdd);
    }
    for name in filters.iter().flat_map(|f| &f.remove).filter(|n| !n.is_empty()) {
        match format::check_name(name) {
            Ok(()) => result.remove.push(name.clone()),
            Err(why) => result.refused.push((name.clone(), why)),
        }
    }
    result
}

impl HeaderOperations {
    fn push(&mut self, name: &str, value: &str, action: HeaderAppendAction) {
        match format::check_header(name, value) {
            Ok(()) => self.add.push(header(&canonical(name), value, action)),
            Err(why) => self.refused.push((name.to_owned(), why)),
        }
    }
}

fn is_host(name: &str) -> bool {
    name == ":authority" || name.eq_ignore_ascii_case("host")
}

/// The canonical spelling of a header name as Go has it: first letters upper case, others lower
/// case; a name that is no token stays as it is.
pub(crate) fn canonical(name: &str) -> String {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if !name.bytes().all(token) {
        return name.to_owned();
    }
    let mut upper = true;
    name.chars()
        .map(|c| {
            let cased = if upper { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
            upper = c == '-';
            cased
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use sunbear_proto::kuma::mesh::v1alpha1::mesh_gateway_route::http_route::filter::{
        HeaderFilter, header_filter::Header,
    };

    use super::{canonical, operations};

    #[test]
    fn canonical_names() {
        for (name, want) in [
            ("x-kuma-test", "X-Kuma-Test"),
            ("CONTENT-type", "Content-Type"),
            ("a--b", "A--B"),
            ("x_y", "X_y"),
            ("with space", "with space"),
            ("ünicode", "ünicode"),
            ("", ""),
        ] {
            assert_eq!(canonical(name), want);
        }
    }

    fn headers(names: &[&str]) -> Vec<Header> {
        names.iter().map(|n| Header { name: (*n).to_owned(), value: "v".to_owned() }).collect()
    }

    #[test]
    fn sets_before_adds_and_the_host_apart() {
        let first = HeaderFilter {
            set: headers(&["b", "Host"]),
            add: headers(&["c"]),
            ..Default::default()
        };
        let second = HeaderFilter {
            set: headers(&["a"]),
            add: headers(&["host"]),
            remove: vec!["x-Y".to_owned(), String::new(), ":path".to_owned()],
        };
        let request = operations(&[&first, &second], true);
        let keys: Vec<&str> =
            request.add.iter().map(|o| o.header.as_ref().unwrap().key.as_str()).collect();
        assert_eq!(keys, ["B", "A", "C"]);
        assert_eq!(request.host.as_deref(), Some("v"));
        assert_eq!(request.remove, ["x-Y"]);
        let refused: Vec<&str> = request.refused.iter().map(|r| r.0.as_str()).collect();
        assert_eq!(refused, ["host", ":path"]);
        assert_eq!(operations(&[&first], false).refused.len(), 1);
    }
}
