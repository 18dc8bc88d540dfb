//! HTTP ports: one filter chain, one route configuration with all virtual hosts.

use std::{borrow::Cow, collections::BTreeSet, ops::Range, sync::Arc};

use prost::{
    Message, Name,
    encoding::{WireType, encode_key, encode_varint},
};
use prost_types::Any;
use sunbear_model::{
    Resource,
    gateway::{Host, http_of, listener_field},
};
use sunbear_proto::{
    envoy::config::{
        core::v3::{DataSource, data_source::Specifier, header_value_option::HeaderAppendAction},
        route::v3::{
            DirectResponseAction, HeaderMatcher, QueryParameterMatcher, Route as EnvoyRoute,
            RouteConfiguration, RouteMatch, VirtualHost, header_matcher::HeaderMatchSpecifier,
            query_parameter_matcher::QueryParameterMatchSpecifier,
            redirect_action::PathRewriteSpecifier, route, route_match::PathSpecifier,
            virtual_host::TlsRequirementType,
        },
    },
    kuma::mesh::v1alpha1::{
        HttpMethod,
        mesh_gateway_route::http_route::{
            Match,
            filter::rewrite,
            r#match::{header, path, query},
        },
    },
};

use super::{
    Basis,
    entry::{Entries, Entry, PathKind, PathRewrite},
    rule::{self, CALLER_TAGS_HEADER, RuleRoute},
    target::{Resolver, Target, Targets},
};
use crate::{
    envoy::{self, exact, regex, regex_string, replace_all},
    external::Reach,
    issue::Issues,
    policy::mesh_retry::method_matcher,
    re2,
    resources::XdsResource,
};

/// What a host without routes answers. Clients see it.
const NO_ROUTES: &str = "This is a Kuma MeshGateway. No routes match this MeshGateway!\n";

/// A virtual host as it was generated, and what for: it stays the same as long as that does, and
/// nothing else changes but routes, endpoints and secrets.
#[derive(Debug, Clone)]
pub(crate) struct HostUnit {
    hostname: String,
    /// Position of the listener in the MeshGateway.
    listener: usize,
    routes: Vec<Arc<Resource>>,
    /// Clusters that it leads to, and how they are reached.
    targets: Vec<(Arc<Target>, Reach)>,
    /// Some route has faults injected.
    faults: bool,
    issues: Issues,
    /// Where its message is in the route configuration.
    range: Range<usize>,
}

/// A route configuration, and the units that it is made of.
#[derive(Debug, Clone)]
pub(crate) struct RouteUnit {
    pub(crate) resource: Arc<XdsResource>,
    hosts: Vec<HostUnit>,
}

impl RouteUnit {
    /// Clusters that the hosts lead to.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.hosts.iter().flat_map(|h| &h.targets).map(|(target, _)| target)
    }

    /// Some route has faults injected.
    pub(crate) fn faults(&self) -> bool {
        self.hosts.iter().any(|h| h.faults)
    }

    /// What the hosts have to tell.
    pub(crate) fn issues(&self, issues: &mut Issues) {
        for host in &self.hosts {
            issues.extend(&host.issues);
        }
    }
}

/// Generates the route configuration of a group of hosts; hosts that would be the same as before
/// are kept.
pub(super) fn route_config(
    basis: &Basis<'_>,
    shared: &rule::Shared<'_, '_>,
    name: String,
    hosts: &[Host<'_>],
    secure: bool,
    targets: &mut Targets,
    before: Option<&RouteUnit>,
    issues: &mut Issues,
) -> RouteUnit {
    let (head, tail) = frame(&name);
    let mut bytes = head;
    let mut units = Vec::with_capacity(hosts.len());
    let mut names = BTreeSet::new();
    for host in hosts {
        if let Err(reason) = check_name(&host.hostname, &mut names) {
            let reason = format!("host {:?} {reason}", host.hostname);
            issues.left_out(&basis.gateway.key, listener_field(host.listener), reason);
            continue;
        }
        let known = before.and_then(|unit| {
            let known = unit.hosts.iter().find(|u| u.hostname == *host.hostname)?;
            let message = unit.resource.any.value.get(known.range.clone())?;
            known.holds(basis, host).then_some((known, message))
        });
        let unit = if let Some((known, message)) = known {
            let start = begin(message.len(), &mut bytes);
            bytes.extend_from_slice(message);
            HostUnit { range: start..bytes.len(), ..known.clone() }
        } else {
            let (message, mut unit) = virtual_host(basis, shared, host, secure, targets);
            let start = begin(message.encoded_len(), &mut bytes);
            message.encode_raw(&mut bytes);
            unit.range = start..bytes.len();
            unit
        };
        units.push(unit);
    }
    bytes.extend(tail);
    let any = Any { type_url: RouteConfiguration::type_url(), value: bytes };
    RouteUnit { resource: Arc::new(XdsResource::from_any(name, any)), hosts: units }
}

/// Number of the field with virtual hosts in a route configuration.
const VIRTUAL_HOSTS: u32 = 2;

/// The bytes of a route configuration before and after its virtual hosts, which have the second of
/// its fields.
fn frame(name: &str) -> (Vec<u8>, Vec<u8>) {
    let head = RouteConfiguration { name: name.to_owned(), ..RouteConfiguration::default() };
    let tail = RouteConfiguration {
        validate_clusters: Some(false),
        ignore_port_in_host_matching: true,
        request_headers_to_remove: vec![CALLER_TAGS_HEADER.to_owned()],
        ..RouteConfiguration::default()
    };
    (head.encode_to_vec(), tail.encode_to_vec())
}

/// Begins a virtual host of a length in a route configuration; returns where it starts.
fn begin(length: usize, bytes: &mut Vec<u8>) -> usize {
    encode_key(VIRTUAL_HOSTS, WireType::LengthDelimited, bytes);
    encode_varint(length as u64, bytes);
    bytes.len()
}

/// Envoy refuses a whole route configuration for one name that is none or is there twice; it
/// compares names without case.
fn check_name(name: &str, names: &mut BTreeSet<String>) -> Result<(), &'static str> {
    if name.is_empty() || name.contains(['\0', '\r', '\n']) {
        return Err("is no host name");
    }
    if names.insert(name.to_ascii_lowercase()) {
        Ok(())
    } else {
        Err("is there twice on this port")
    }
}

impl HostUnit {
    /// Would it be the same again?
    fn holds(&self, basis: &Basis<'_>, host: &Host<'_>) -> bool {
        self.listener == host.listener
            && self.routes.len() == host.routes.len()
            && host
                .routes
                .iter()
                .zip(&self.routes)
                .all(|(index, old)| Arc::ptr_eq(basis.routes[*index].resource, old))
            && self.targets.iter().all(|(t, reach)| basis.reach(&t.destination) == *reach)
    }
}

fn virtual_host(
    basis: &Basis<'_>,
    shared: &rule::Shared<'_, '_>,
    host: &Host<'_>,
    secure: bool,
    targets: &mut Targets,
) -> (VirtualHost, HostUnit) {
    let mut issues = Issues::default();
    let mut resolver = Resolver::new(basis, &host.tags, targets);
    let (mut routes, faults) = routes(basis, shared, host, &mut resolver, &mut issues);
    if routes.is_empty() {
        routes.push(no_routes());
    }
    let name = host.hostname.as_ref();
    let mut message = VirtualHost {
        name: name.to_owned(),
        domains: vec![name.to_owned()],
        routes,
        ..VirtualHost::default()
    };
    if secure {
        message.require_tls = TlsRequirementType::All.into();
        message.response_headers_to_add.push(envoy::header(
            "Strict-Transport-Security",
            "max-age=31536000; includeSubDomains",
            HeaderAppendAction::OverwriteIfExistsOrAdd,
        ));
    }
    let unit = HostUnit {
        hostname: name.to_owned(),
        listener: host.listener,
        routes: host.routes.iter().map(|i| Arc::clone(basis.routes[*i].resource)).collect(),
        targets: resolver.used().map(|(t, reach)| (Arc::clone(t), reach)).collect(),
        faults,
        issues,
        range: 0..0,
    };
    (message, unit)
}

fn routes<'a>(
    basis: &Basis<'a>,
    shared: &rule::Shared<'_, '_>,
    host: &Host<'_>,
    resolver: &mut Resolver<'a, '_>,
    issues: &mut Issues,
) -> (Vec<EnvoyRoute>, bool) {
    let mut rules: Vec<RuleRoute<'_>> = Vec::new();
    let mut entries = Entries::default();
    for route in host.routes.iter().map(|index| basis.routes[*index]) {
        let Some(http) = http_of(route.message.conf.as_ref()) else { continue };
        for (r, rule) in http.rules.iter().enumerate() {
            let mut remarks = Vec::new();
            let translated = rule::translate(shared, resolver, rule, &mut remarks);
            for (field, reason) in remarks {
                let field = format!("conf.http.rules[{r}]{field}");
                issues.left_out(&route.resource.key, field, reason);
            }
            let Some(translated) = translated else { continue };
            for (m, conditions) in rule.matches.iter().enumerate() {
                match check(conditions, &translated) {
                    Ok(()) => entries.add(conditions, translated.path, rules.len()),
                    Err((field, reason)) => {
                        let field = format!("conf.http.rules[{r}].matches[{m}]{field}");
                        issues.left_out(&route.resource.key, field, reason);
                    }
                }
            }
            rules.push(translated);
        }
    }
    let faults = rules.iter().any(|rule| rule.fault);
    (entries.into_sorted().into_iter().map(|entry| finish(entry, &rules)).collect(), faults)
}

/// Looks for what would make Envoy refuse all routes of the port: expressions that do not compile.
fn check(conditions: &Match, rule: &RuleRoute<'_>) -> Result<(), (Cow<'static, str>, String)> {
    let compiles = |field: &dyn Fn() -> Cow<'static, str>, pattern: &str| {
        re2::check(pattern).map_err(|error| (field(), format!("regular expression: {error}")))
    };
    if let Some(path) = &conditions.path
        && path.r#match() == path::MatchType::Regex
    {
        let field = ".path.value";
        if path.value.is_empty() {
            return Err((field.into(), "cannot be empty".to_owned()));
        }
        compiles(&|| field.into(), &path.value)?;
    }
    for (index, header) in conditions.headers.iter().enumerate() {
        if header.r#match() == header::MatchType::Regex {
            compiles(&|| format!(".headers[{index}].value").into(), &header.value)?;
        }
        if header.name.contains(['\0', '\r', '\n']) {
            let reason = "a header name cannot hold control characters".to_owned();
            return Err((format!(".headers[{index}].name").into(), reason));
        }
    }
    for (index, parameter) in conditions.query_parameters.iter().enumerate() {
        if parameter.name.len() > 1024 {
            let reason = "a name cannot be longer than 1024 bytes".to_owned();
            return Err((format!(".queryParameters[{index}].name").into(), reason));
        }
        if parameter.r#match() == query::MatchType::Regex {
            compiles(&|| format!(".queryParameters[{index}].value").into(), &parameter.value)?;
        }
    }
    if rule.path.is_some_and(|path| !is_substitution(path)) {
        let reason = "the new path refers to a group that the pattern does not have".to_owned();
        return Err((Cow::Borrowed(""), reason));
    }
    Ok(())
}

/// A replaced path is a substitution text to Envoy, for a pattern without groups.
fn is_substitution(path: &rewrite::Path) -> bool {
    let (rewrite::Path::ReplaceFull(text) | rewrite::Path::ReplacePrefixMatch(text)) = path;
    if text.contains(['\0', '\r', '\n']) {
        return false;
    }
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        if c == '\\' && !matches!(characters.next(), Some('0' | '\\')) {
            return false;
        }
    }
    true
}

/// An entry with the action of its rule.
fn finish(entry: Entry<'_>, rules: &[RuleRoute<'_>]) -> EnvoyRoute {
    let mut route = rules[entry.rule].route.clone();
    route.r#match = Some(RouteMatch {
        path_specifier: Some(match entry.kind {
            PathKind::Exact => PathSpecifier::Path(entry.path),
            PathKind::Prefix => PathSpecifier::Prefix(entry.path),
            PathKind::Regex => PathSpecifier::SafeRegex(regex(&entry.path)),
        }),
        headers: headers(entry.conditions),
        query_parameters: query_parameters(entry.conditions),
        ..RouteMatch::default()
    });
    match (&mut route.action, entry.rewrite) {
        (Some(route::Action::Route(action)), Some(PathRewrite::Full(path))) => {
            action.regex_rewrite = Some(replace_all(&path));
        }
        (Some(route::Action::Route(action)), Some(PathRewrite::Prefix(path))) => {
            action.prefix_rewrite = path;
        }
        (Some(route::Action::Redirect(action)), Some(rewrite)) => {
            action.path_rewrite_specifier = Some(match rewrite {
                PathRewrite::Full(path) => PathRewriteSpecifier::RegexRewrite(replace_all(&path)),
                PathRewrite::Prefix(path) => PathRewriteSpecifier::PrefixRewrite(path),
            });
        }
        _ => {}
    }
    route
}

/// Method, then exact, regular, present, absent. Conditions without name or value are none.
fn headers(conditions: &Match) -> Vec<HeaderMatcher> {
    use header::MatchType::{Absent, Exact, Present, Regex};
    let mut matchers = Vec::new();
    if conditions.method() != HttpMethod::None {
        matchers.push(method_matcher(conditions.method().as_str_name()));
    }
    for kind in [Exact, Regex, Present, Absent] {
        let of_kind = conditions.headers.iter().filter(|h| h.r#match() == kind);
        for header in of_kind.filter(|h| !h.name.is_empty()) {
            let specifier = match kind {
                Exact | Regex if header.value.is_empty() => continue,
                Exact => HeaderMatchSpecifier::StringMatch(exact(&header.value)),
                Regex => HeaderMatchSpecifier::StringMatch(regex_string(&header.value)),
                Present => HeaderMatchSpecifier::PresentMatch(true),
                Absent => HeaderMatchSpecifier::PresentMatch(false),
            };
            matchers.push(HeaderMatcher {
                name: header.name.clone(),
                header_match_specifier: Some(specifier),
                ..HeaderMatcher::default()
            });
        }
    }
    matchers
}

fn query_parameters(conditions: &Match) -> Vec<QueryParameterMatcher> {
    use query::MatchType::{Exact, Regex};
    let mut matchers = Vec::new();
    for kind in [Exact, Regex] {
        let of_kind = conditions.query_parameters.iter().filter(|q| q.r#match() == kind);
        for parameter in of_kind.filter(|q| !q.name.is_empty() && !q.value.is_empty()) {
            let matcher = match kind {
                Exact => exact(&parameter.value),
                Regex => regex_string(&parameter.value),
            };
            matchers.push(QueryParameterMatcher {
                name: parameter.name.clone(),
                query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::StringMatch(
                    matcher,
                )),
            });
        }
    }
    matchers
}

fn no_routes() -> EnvoyRoute {
    EnvoyRoute {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
            ..RouteMatch::default()
        }),
        action: Some(route::Action::DirectResponse(DirectResponseAction {
            status: 404,
            body: Some(DataSource {
                specifier: Some(Specifier::InlineString(NO_ROUTES.to_owned())),
                ..DataSource::default()
            }),
            ..DirectResponseAction::default()
        })),
        ..EnvoyRoute::default()
    }
}
