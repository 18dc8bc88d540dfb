//! MeshGatewayRoute (`spec/resources.md` 6.1). TCP routes are not checked, nor are host names and
//! response headers, to stay interchangeable with Kuma.

use sunbear_proto::kuma::mesh::v1alpha1::{
    MeshGatewayRoute,
    mesh_gateway_route::{
        Backend, HttpRoute,
        conf::Route,
        http_route::{
            Filter, Match, Rule,
            filter::{Filter as Kind, HeaderFilter, header_filter, rewrite},
            r#match::{header, path::MatchType},
        },
    },
};

use super::{Path, Violations, tags, values};

pub(super) fn validate(route: &MeshGatewayRoute, violations: &mut Violations) {
    tags::check_selectors(
        &Path::at("selectors"),
        &route.selectors,
        tags::SERVICE_SELECTOR,
        violations,
    );
    match route.conf.as_ref().and_then(|c| c.route.as_ref()) {
        None => violations.push("conf", "cannot be empty"),
        Some(Route::Tcp(_)) => {}
        Some(Route::Http(http)) => {
            validate_http(&Path::at("conf").field("http"), http, violations);
        }
    }
}

fn validate_http(path: &Path, http: &HttpRoute, violations: &mut Violations) {
    let rules = path.field("rules");
    if http.rules.is_empty() {
        violations.push(&rules, "cannot be empty");
    }
    for (i, rule) in http.rules.iter().enumerate() {
        validate_rule(&rules.index(i), rule, violations);
    }
}

fn validate_rule(path: &Path, rule: &Rule, violations: &mut Violations) {
    if rule.matches.is_empty() {
        violations.push(path.field("matches"), "cannot be empty");
        return;
    }
    for (i, m) in rule.matches.iter().enumerate() {
        validate_match(&path.field("matches").index(i), m, violations);
    }
    let context = RuleContext {
        prefix_match: rule
            .matches
            .iter()
            .any(|m| m.path.as_ref().is_some_and(|p| p.r#match() == MatchType::Prefix)),
        host_rewrite: rule.filters.iter().any(rewrites_host),
    };
    // Such rewrites do not count when filters are numbered.
    let filters = rule.filters.iter().filter(|f| !rewrites_host(f));
    for (i, filter) in filters.enumerate() {
        validate_filter(&path.field("filters").index(i), filter, &context, violations);
    }
    let redirects = rule.filters.iter().any(|f| matches!(f.filter, Some(Kind::Redirect(_))));
    if redirects && rule.filters.len() != 1 {
        violations.push(path.field("filters"), "redirects cannot be used with other filters");
        return;
    }
    let backends = path.field("backends");
    match (rule.backends.is_empty(), redirects) {
        (true, false) => violations.push(&backends, "cannot be empty"),
        (false, true) => violations.push(&backends, "must be empty when using redirect filters"),
        (true, true) | (false, false) => {}
    }
    for (i, backend) in rule.backends.iter().enumerate() {
        validate_backend(&backends.index(i), backend, violations);
    }
}

fn rewrites_host(filter: &Filter) -> bool {
    matches!(&filter.filter, Some(Kind::Rewrite(r)) if r.host_to_backend_hostname)
}

/// What filters need to know of their rule.
struct RuleContext {
    /// Some match is by path prefix.
    prefix_match: bool,
    /// The host header is rewritten to the endpoint's.
    host_rewrite: bool,
}

fn validate_match(path: &Path, m: &Match, violations: &mut Violations) {
    if m.path.is_none() && m.method == 0 && m.headers.is_empty() && m.query_parameters.is_empty() {
        violations.push(path, "cannot be empty");
    }
    if let Some(p) = &m.path {
        // At `value`, without `path`: Kuma's clients know it so.
        match p.r#match() {
            MatchType::Regex if p.value.is_empty() => {
                violations.push(path.field("value"), "cannot be empty");
            }
            MatchType::Exact | MatchType::Prefix if !p.value.starts_with('/') => {
                violations.push(path.field("value"), "must be an absolute path");
            }
            MatchType::Exact | MatchType::Prefix | MatchType::Regex => {}
        }
    }
    for (i, h) in m.headers.iter().enumerate() {
        let path = path.field("headers").index(i);
        if h.name.is_empty() {
            violations.push(path.field("name"), "cannot be empty");
        }
        match h.r#match() {
            header::MatchType::Absent | header::MatchType::Present if !h.value.is_empty() => {
                violations.push(path.field("value"), "cannot be set");
            }
            header::MatchType::Exact | header::MatchType::Regex if h.value.is_empty() => {
                violations.push(path.field("value"), "cannot be empty");
            }
            header::MatchType::Absent
            | header::MatchType::Present
            | header::MatchType::Exact
            | header::MatchType::Regex => {}
        }
    }
    for (i, q) in m.query_parameters.iter().enumerate() {
        let path = path.field("query_parameters").index(i);
        if q.name.is_empty() {
            violations.push(path.field("name"), "cannot be empty");
        }
        if q.value.is_empty() {
            violations.push(path.field("value"), "cannot be empty");
        }
    }
}

fn validate_filter(
    path: &Path,
    filter: &Filter,
    context: &RuleContext,
    violations: &mut Violations,
) {
    match &filter.filter {
        Some(Kind::RequestHeader(headers)) => {
            validate_headers(&path.field("request_header"), headers, context, violations);
        }
        Some(Kind::Redirect(redirect)) => {
            let path = path.field("redirect");
            if redirect.port != 0 {
                values::port(path.field("port"), redirect.port, violations);
            }
            if !(300..=308).contains(&redirect.status_code) {
                violations.push(path.field("status_code"), "must be in the range [300, 308]");
            }
        }
        Some(Kind::Mirror(mirror)) => {
            let path = path.field("mirror");
            values::percentage(&path, mirror.percentage, violations);
            match &mirror.backend {
                None => violations.push(path.field("backend"), "cannot be empty"),
                Some(backend) => validate_backend(&path.field("backend"), backend, violations),
            }
        }
        Some(Kind::Rewrite(rewrite)) => {
            if matches!(rewrite.path, Some(rewrite::Path::ReplacePrefixMatch(_)))
                && !context.prefix_match
            {
                violations.push(
                    path.field("rewrite").field("replacePrefixMatch"),
                    "cannot be used without a match on path prefix",
                );
            }
        }
        Some(Kind::ResponseHeader(_)) | None => {}
    }
}

fn validate_headers(
    path: &Path,
    headers: &HeaderFilter,
    context: &RuleContext,
    violations: &mut Violations,
) {
    if headers.set.is_empty() && headers.add.is_empty() && headers.remove.is_empty() {
        violations.push(path, "cannot be empty");
    }
    validate_header_values(&path.field("set"), &headers.set, context, violations);
    validate_header_values(&path.field("add"), &headers.add, context, violations);
    for (i, name) in headers.remove.iter().enumerate() {
        if name.is_empty() {
            violations.push(path.field("remove").index(i), "cannot be empty");
        }
    }
}

fn validate_header_values(
    path: &Path,
    headers: &[header_filter::Header],
    context: &RuleContext,
    violations: &mut Violations,
) {
    for (i, header) in headers.iter().enumerate() {
        let path = path.index(i);
        let name = header.name.as_str();
        if context.host_rewrite && matches!(name, ":authority" | "Host" | "host") {
            violations.push(
                &path,
                format!(
                    "cannot modify '{name}' header, when route has set \
                     'rewrite.host_to_backend_hostname' option"
                ),
            );
        }
        if name.is_empty() {
            violations.push(path.field("name"), "cannot be empty");
        }
        if header.value.is_empty() {
            violations.push(path.field("value"), "cannot be empty");
        }
    }
}

fn validate_backend(path: &Path, backend: &Backend, violations: &mut Violations) {
    tags::check(path, &backend.destination, tags::SERVICE_SELECTOR, violations);
}
