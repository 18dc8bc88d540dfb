//! What the rules of routes do: actions, filters and the clusters that they lead to (Kuma:
//! pkg/plugins/runtime/gateway/route).

use sunbear_model::tags::Tags;
use sunbear_proto::{
    envoy::config::{
        core::v3::{RuntimeFractionalPercent, header_value_option::HeaderAppendAction},
        route::v3::{
            DirectResponseAction, RedirectAction, Route, RouteAction, WeightedCluster,
            redirect_action::{RedirectResponseCode, SchemeRewriteSpecifier},
            route,
            route_action::{
                ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier,
                RequestMirrorPolicy,
            },
            weighted_cluster::ClusterWeight,
        },
    },
    kuma::mesh::v1alpha1::mesh_gateway_route::{
        Backend,
        http_route::{
            Rule,
            filter::{Filter, HeaderFilter, Mirror, Redirect, Rewrite, rewrite},
        },
    },
};

use super::{header, target::Resolver, weight::Weights};
use crate::{
    context::Context,
    envoy::{self, fraction, seconds},
    policy::{legacy::fault_injection, mesh_retry::Retries, mesh_timeout::RouteTimeouts},
    protocol::Protocol,
};

/// Tells upstream sidecars the tags of the caller.
pub(crate) const CALLER_TAGS_HEADER: &str = "x-kuma-tags";

/// What has to be said about a rule, by field below it.
pub(super) type Remarks = Vec<(String, String)>;

/// What is the same for all rules of a host.
pub(super) struct Shared<'a, 'p> {
    pub(super) ctx: &'a Context<'a>,
    pub(super) listener_port: u16,
    /// What the newer policies say about forwarding routes.
    pub(super) timeouts: Option<RouteTimeouts>,
    pub(super) retries: &'p Retries,
}

/// The filters of a rule, sorted by kind. Header filters add up, of the others the last counts.
#[derive(Default)]
struct Filters<'a> {
    request: Vec<&'a HeaderFilter>,
    response: Vec<&'a HeaderFilter>,
    mirror: Option<&'a Mirror>,
    redirect: Option<&'a Redirect>,
    rewrite: Option<&'a Rewrite>,
}

impl<'a> Filters<'a> {
    fn of(rule: &'a Rule) -> Self {
        let mut filters = Self::default();
        for filter in rule.filters.iter().filter_map(|f| f.filter.as_ref()) {
            match filter {
                Filter::RequestHeader(f) => filters.request.push(f),
                Filter::ResponseHeader(f) => filters.response.push(f),
                Filter::Mirror(f) => filters.mirror = Some(f),
                Filter::Redirect(f) => filters.redirect = Some(f),
                Filter::Rewrite(f) => filters.rewrite = Some(f),
            }
        }
        filters
    }
}

/// A rule as a route that lacks its conditions and what becomes of the path.
pub(super) struct RuleRoute<'a> {
    pub(super) route: Route,
    pub(super) path: Option<&'a rewrite::Path>,
    /// The fault filter has something to do for it.
    pub(super) fault: bool,
}

/// Translates a rule; none if no traffic can be sent anywhere by it. `remarks` tells what of it was
/// left out, and why.
pub(super) fn translate<'a>(
    shared: &Shared<'_, '_>,
    resolver: &mut Resolver<'a, '_>,
    rule: &'a Rule,
    remarks: &mut Remarks,
) -> Option<RuleRoute<'a>> {
    let filters = Filters::of(rule);
    let mut route = Route::default();
    let mut fault = false;
    let path;
    if let Some(filter) = filters.redirect {
        path = filter.path.as_ref().and_then(|p| p.path.as_ref());
        route.action = Some(redirect(filter, shared.listener_port, remarks));
    } else {
        path = filters.rewrite.and_then(|r| r.path.as_ref());
        let mirror = filters.mirror.and_then(|m| mirror(resolver, m, remarks));
        let mut action = forward(shared.ctx, resolver, &rule.backends, remarks)?;
        let destinations: Vec<&Tags> = rule.backends.iter().map(|b| &b.destination).collect();
        let conf = resolver.policies.route(&destinations);
        action.timeout = conf.timeout;
        action.retry_policy = conf.retry;
        if let Some(timeouts) = shared.timeouts {
            timeouts.apply(&mut action);
        }
        if let Some(retries) = &shared.retries.http {
            action.retry_policy = Some(retries.clone());
        }
        fault = conf.fault.is_some();
        for (filter, config) in [
            ("envoy.filters.http.local_ratelimit", conf.rate_limit),
            (fault_injection::FILTER, conf.fault),
        ] {
            route.typed_per_filter_config.extend(config.map(|c| (filter.to_owned(), c)));
        }
        if filters.rewrite.is_some_and(|r| r.host_to_backend_hostname) {
            action.host_rewrite_specifier = Some(HostRewriteSpecifier::AutoHostRewrite(true));
        }
        action.request_mirror_policies.extend(mirror);
        route.action = Some(route::Action::Route(action));
    }
    headers(&mut route, &filters, remarks);
    Some(RuleRoute { route, path, fault })
}

fn headers(route: &mut Route, filters: &Filters<'_>, remarks: &mut Remarks) {
    let request = header::operations(&filters.request, true);
    let response = header::operations(&filters.response, false);
    for (name, why) in request.refused.iter().chain(&response.refused) {
        remarks
            .push((".filters".to_owned(), format!("operation on header {name:?} left out: {why}")));
    }
    route.request_headers_to_add = request.add;
    route.request_headers_to_remove = request.remove;
    route.response_headers_to_add = response.add;
    route.response_headers_to_remove = response.remove;
    if let (Some(route::Action::Route(action)), Some(host)) = (&mut route.action, request.host) {
        action.host_rewrite_specifier = Some(HostRewriteSpecifier::HostRewriteLiteral(host));
    }
}

fn forward<'a>(
    ctx: &Context<'_>,
    resolver: &mut Resolver<'a, '_>,
    backends: &'a [Backend],
    remarks: &mut Remarks,
) -> Option<RouteAction> {
    let mut weights = Weights::default();
    for (index, backend) in backends.iter().enumerate() {
        match resolver.backend(&backend.destination, Protocol::Http) {
            Some(target) => weights.add(target, backend.weight),
            None => remarks.push((
                format!(".backends[{index}]"),
                "a destination needs the tag kuma.io/service".to_owned(),
            )),
        }
    }
    if weights.is_empty() {
        remarks.push((".backends".to_owned(), "cannot be empty".to_owned()));
        return None;
    }
    let weights = match weights.http() {
        Ok(weights) => weights,
        Err(error) => {
            remarks.push((".backends".to_owned(), error.to_string()));
            return None;
        }
    };
    let caller = || {
        let add = HeaderAppendAction::AppendIfExistsOrAdd;
        envoy::header(CALLER_TAGS_HEADER, &ctx.caller_tags, add)
    };
    Some(RouteAction {
        cluster_not_found_response_code: ClusterNotFoundResponseCode::InternalServerError.into(),
        idle_timeout: Some(seconds(5)),
        cluster_specifier: Some(ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: weights
                .into_iter()
                .map(|(backend, weight)| ClusterWeight {
                    name: backend.name().to_owned(),
                    weight: Some(weight),
                    request_headers_to_add: backend.is_in_mesh().then(caller).into_iter().collect(),
                    ..ClusterWeight::default()
                })
                .collect(),
            ..WeightedCluster::default()
        })),
        ..RouteAction::default()
    })
}

/// Copies requests; the cluster is there even if none are.
fn mirror<'a>(
    resolver: &mut Resolver<'a, '_>,
    mirror: &'a Mirror,
    remarks: &mut Remarks,
) -> Option<RequestMirrorPolicy> {
    let destination = &mirror.backend.as_ref()?.destination;
    let Some(backend) = resolver.backend(destination, Protocol::Http) else {
        let reason = "a destination needs the tag kuma.io/service".to_owned();
        remarks.push((".filters".to_owned(), reason));
        return None;
    };
    let percentage = mirror.percentage.filter(|p| *p > 0.0)?;
    Some(RequestMirrorPolicy {
        cluster: backend.name().to_owned(),
        runtime_fraction: Some(RuntimeFractionalPercent {
            default_value: Some(fraction(percentage.min(100.0))),
            ..RuntimeFractionalPercent::default()
        }),
        ..RequestMirrorPolicy::default()
    })
}

fn redirect(filter: &Redirect, listener_port: u16, remarks: &mut Remarks) -> route::Action {
    let code = match filter.status_code {
        0 | 301 => RedirectResponseCode::MovedPermanently,
        302 => RedirectResponseCode::Found,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        other => {
            // Better an error than another redirect than the one asked for (D-10).
            let reason = format!("redirects cannot have status {other}; requests get status 500");
            remarks.push((".filters".to_owned(), reason));
            return internal_error();
        }
    };
    let bad_text = |text: &str| text.contains(['\0', '\r', '\n']);
    if filter.port > u32::from(u16::MAX) || bad_text(&filter.hostname) || bad_text(&filter.scheme) {
        let reason = "port, host name or scheme is no such thing; requests get status 500";
        remarks.push((".filters".to_owned(), reason.to_owned()));
        return internal_error();
    }
    route::Action::Redirect(RedirectAction {
        host_redirect: filter.hostname.clone(),
        port_redirect: if filter.port > 0 { filter.port } else { listener_port.into() },
        response_code: code.into(),
        strip_query: true,
        scheme_rewrite_specifier: (!filter.scheme.is_empty())
            .then(|| SchemeRewriteSpecifier::SchemeRedirect(filter.scheme.clone())),
        path_rewrite_specifier: None,
    })
}

fn internal_error() -> route::Action {
    route::Action::DirectResponse(DirectResponseAction {
        status: 500,
        ..DirectResponseAction::default()
    })
}
