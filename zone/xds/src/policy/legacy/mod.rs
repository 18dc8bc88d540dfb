//! Connection policies by tags of source and destination (`spec/policies.md` 2.6 to 2.8, 4).

mod circuit_breaker;
pub(crate) mod fault_injection;
mod health_check;
mod rate_limit;
mod retry;
mod timeout;

use std::{collections::BTreeSet, sync::Arc};

use prost::Message;
use prost_types::{Any, Duration};
use sunbear_model::{
    Resource, ResourceKey, label,
    tags::{self, Rank, Tags},
};
use sunbear_proto::{envoy::config::route::v3::RetryPolicy, kuma::mesh::v1alpha1 as kuma};

use crate::{context::Context, draft::ClusterDraft, issue::Issues, protocol::Protocol};

/// A policy.
pub(crate) struct Policy<T> {
    resource: Arc<Resource>,
    sources: Vec<kuma::Selector>,
    destinations: Vec<kuma::Selector>,
    conf: T,
}

/// All policies of the mesh that act on a gateway, each type in name order.
pub(crate) struct Policies {
    circuit_breakers: Vec<Policy<kuma::circuit_breaker::Conf>>,
    fault_injections: Vec<Policy<kuma::fault_injection::Conf>>,
    health_checks: Vec<Policy<kuma::health_check::Conf>>,
    rate_limits: Vec<Policy<kuma::rate_limit::Conf>>,
    retries: Vec<Policy<kuma::retry::Conf>>,
    timeouts: Vec<Policy<kuma::timeout::Conf>>,
}

macro_rules! load {
    ($ctx:expr, $issues:expr, $message:ident) => {
        load::<kuma::$message, _>($ctx, stringify!($message), $issues, |m| {
            (m.sources, m.destinations, m.conf)
        })
    };
}

fn load<M: Message + Default, T>(
    ctx: &Context<'_>,
    kind: &str,
    issues: &mut Issues,
    split: fn(M) -> (Vec<kuma::Selector>, Vec<kuma::Selector>, Option<T>),
) -> Vec<Policy<T>> {
    ctx.decode_all::<M>(kind, issues)
        .into_iter()
        .filter_map(|(resource, message)| {
            let (sources, destinations, conf) = split(message);
            Some(Policy { resource, sources, destinations, conf: conf? })
        })
        .collect()
}

impl Policies {
    /// Types that are read.
    pub(crate) const KINDS: [&'static str; 6] =
        ["CircuitBreaker", "FaultInjection", "HealthCheck", "RateLimit", "Retry", "Timeout"];

    pub(crate) fn load(ctx: &Context<'_>, issues: &mut Issues) -> Self {
        Self {
            circuit_breakers: load!(ctx, issues, CircuitBreaker),
            fault_injections: if ctx.settings.ignore_fault_injections {
                Vec::new()
            } else {
                load!(ctx, issues, FaultInjection)
            },
            health_checks: load!(ctx, issues, HealthCheck),
            rate_limits: load!(ctx, issues, RateLimit),
            retries: load!(ctx, issues, Retry),
            timeouts: load!(ctx, issues, Timeout),
        }
    }

    /// The policies whose sources match the tags of a listener.
    pub(crate) fn of_source(&self, listener: &Tags) -> OfSource<'_> {
        OfSource {
            circuit_breakers: of_source(&self.circuit_breakers, listener),
            fault_injections: of_source(&self.fault_injections, listener),
            health_checks: of_source(&self.health_checks, listener),
            rate_limits: of_source(&self.rate_limits, listener),
            retries: of_source(&self.retries, listener),
            timeouts: of_source(&self.timeouts, listener),
        }
    }
}

/// Rank of the first selector that matches, not of the best one.
fn first_match(selectors: &[kuma::Selector], tags: &Tags) -> Option<Rank> {
    selectors.iter().map(|s| &s.r#match).find(|s| tags::matches(s, tags)).map(Rank::of)
}

type Ranked<'p, T> = Vec<(&'p Policy<T>, Rank)>;

fn of_source<'p, T>(policies: &'p [Policy<T>], listener: &Tags) -> Ranked<'p, T> {
    policies
        .iter()
        .filter_map(|policy| Some((policy, first_match(&policy.sources, listener)?)))
        .collect()
}

/// The candidate for one destination: highest rank of source and destination together, then the
/// youngest, then the first by name.
fn choose<'p, T>(candidates: &Ranked<'p, T>, destination: &Tags) -> Option<&'p Policy<T>> {
    let mut best: Option<(&Policy<T>, Rank)> = None;
    for (policy, source) in candidates {
        let Some(rank) = first_match(&policy.destinations, destination) else { continue };
        let rank = source.combined(rank);
        if best.is_none_or(|(chosen, best)| {
            rank > best || (rank == best && policy.resource.created_at > chosen.resource.created_at)
        }) {
            best = Some((policy, rank));
        }
    }
    best.map(|(policy, _)| policy)
}

/// The policies that were chosen for the destinations of one route or TCP listener, which can have
/// only one.
pub(crate) struct Filed<'p, T> {
    seen: BTreeSet<&'p ResourceKey>,
    for_all: Vec<&'p Policy<T>>,
    for_one: Vec<&'p Policy<T>>,
}

impl<T> Default for Filed<'_, T> {
    fn default() -> Self {
        Self { seen: BTreeSet::new(), for_all: Vec::new(), for_one: Vec::new() }
    }
}

impl<'p, T> Filed<'p, T> {
    fn add(&mut self, candidates: &Ranked<'p, T>, destination: &Tags) {
        let Some(policy) = choose(candidates, destination) else { return };
        if !self.seen.insert(&policy.resource.key) {
            return;
        }
        let service = destination.get(label::SERVICE_TAG);
        for selector in policy.destinations.iter().filter_map(|s| s.r#match.get(label::SERVICE_TAG))
        {
            if selector == "*" {
                self.for_all.push(policy);
            } else if Some(selector) == service {
                self.for_one.push(policy);
            }
        }
    }

    /// Of the policies that name every service if there are any, else of all: the oldest, then the
    /// first by name.
    fn choose(self) -> Option<&'p Policy<T>> {
        let filed = if self.for_all.is_empty() { self.for_one } else { self.for_all };
        filed.into_iter().min_by_key(|p| (p.resource.created_at, &p.resource.key))
    }
}

fn choose_for_route<'p, T>(
    candidates: &Ranked<'p, T>,
    destinations: &[&Tags],
) -> Option<&'p Policy<T>> {
    let mut filed = Filed::default();
    for destination in destinations {
        filed.add(candidates, destination);
    }
    filed.choose()
}

/// The policies that match a listener as the source.
pub(crate) struct OfSource<'p> {
    circuit_breakers: Ranked<'p, kuma::circuit_breaker::Conf>,
    fault_injections: Ranked<'p, kuma::fault_injection::Conf>,
    health_checks: Ranked<'p, kuma::health_check::Conf>,
    rate_limits: Ranked<'p, kuma::rate_limit::Conf>,
    retries: Ranked<'p, kuma::retry::Conf>,
    timeouts: Ranked<'p, kuma::timeout::Conf>,
}

/// What the policies say about one route.
#[derive(Default)]
pub(crate) struct RouteConf {
    pub(crate) timeout: Option<Duration>,
    pub(crate) retry: Option<RetryPolicy>,
    /// Configuration of the local rate limit filter.
    pub(crate) rate_limit: Option<Any>,
    /// Configuration of the fault filter.
    pub(crate) fault: Option<Any>,
}

impl<'p> OfSource<'p> {
    /// Applies the policies to the cluster of a destination.
    pub(crate) fn configure_cluster(
        &self,
        cluster: &mut ClusterDraft,
        destination: &Tags,
        protocol: Protocol,
    ) {
        if let Some(policy) = choose(&self.timeouts, destination) {
            timeout::configure(cluster, &policy.conf, protocol);
        }
        if let Some(policy) = choose(&self.circuit_breakers, destination) {
            circuit_breaker::configure(&mut cluster.cluster, &policy.conf);
        }
        if let Some(policy) = choose(&self.health_checks, destination) {
            health_check::configure(&mut cluster.cluster, &policy.conf, protocol);
        }
    }

    /// What the policies say about a route to these destinations.
    pub(crate) fn route(&self, destinations: &[&Tags]) -> RouteConf {
        let timeout = choose_for_route(&self.timeouts, destinations);
        let retry = choose_for_route(&self.retries, destinations);
        let rate_limit = choose_for_route(&self.rate_limits, destinations);
        let fault = choose_for_route(&self.fault_injections, destinations);
        RouteConf {
            timeout: timeout.and_then(|p| timeout::request(&p.conf)),
            retry: retry.and_then(|p| p.conf.http.as_ref()).map(retry::policy),
            rate_limit: rate_limit.and_then(|p| p.conf.http.as_ref()).and_then(rate_limit::filter),
            fault: fault.and_then(|p| fault_injection::filter(&p.conf)),
        }
    }

    /// Files the retry policies for destinations of a TCP listener.
    pub(crate) fn file_retries(&self, destinations: &[&Tags], filed: &mut FiledRetries<'p>) {
        for destination in destinations {
            filed.add(&self.retries, destination);
        }
    }
}

/// Retry policies for the destinations of a TCP listener.
pub(crate) type FiledRetries<'p> = Filed<'p, kuma::retry::Conf>;

impl FiledRetries<'_> {
    /// How often a TCP listener tries to connect. Zero would be refused by Envoy (D-14).
    pub(crate) fn connect_attempts(self) -> Option<u32> {
        let tcp = self.choose()?.conf.tcp.as_ref()?;
        Some(tcp.max_connect_attempts).filter(|n| *n > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sunbear_model::{Kind, tags::Tags};
    use sunbear_proto::kuma::mesh::v1alpha1 as kuma;
    use time::{Duration, OffsetDateTime};

    use super::{Policy, choose, choose_for_route, of_source};
    use crate::testing;

    fn tags(service: &str) -> Tags {
        Tags::from([("kuma.io/service".to_owned(), service.to_owned())])
    }

    /// A policy by name, age in seconds and destination service.
    fn policy(name: &str, age: i64, destination: &str) -> Policy<()> {
        let mut resource =
            testing::resource(Kind::by_name("Timeout").unwrap(), name, &kuma::Timeout::default());
        resource.created_at = OffsetDateTime::UNIX_EPOCH - Duration::seconds(age);
        Policy {
            resource: Arc::new(resource),
            sources: vec![kuma::Selector { r#match: tags("*") }],
            destinations: vec![kuma::Selector { r#match: tags(destination) }],
            conf: (),
        }
    }

    fn check(
        policies: &[Policy<()>],
        destinations: &[&str],
        cluster: Option<&str>,
        route: Option<&str>,
    ) {
        let source = of_source(policies, &tags("edge"));
        let destinations: Vec<Tags> = destinations.iter().map(|d| tags(d)).collect();
        let name = |p: &Policy<()>| p.resource.key.name.to_string();
        assert_eq!(choose(&source, &destinations[0]).map(name).as_deref(), cluster);
        let refs: Vec<&Tags> = destinations.iter().collect();
        assert_eq!(choose_for_route(&source, &refs).map(name).as_deref(), route);
    }

    #[test]
    fn youngest_for_a_cluster() {
        let policies = [policy("a", 3, "x"), policy("b", 1, "x"), policy("c", 2, "x")];
        check(&policies, &["x"], Some("b"), Some("b"));
        let equal = [policy("a", 1, "x"), policy("b", 1, "x")];
        check(&equal, &["x"], Some("a"), Some("a"));
    }

    #[test]
    fn oldest_for_a_route() {
        let policies = [policy("a", 1, "x"), policy("b", 2, "y")];
        check(&policies, &["x", "y"], Some("a"), Some("b"));
    }

    #[test]
    fn wildcards_win_for_a_route() {
        let policies = [policy("a", 9, "x"), policy("b", 1, "*")];
        check(&policies, &["x", "y"], Some("a"), Some("b"));
        check(&policies, &["y", "z"], Some("b"), Some("b"));
        // A wildcard that is best for no destination is no candidate.
        check(&policies, &["x"], Some("a"), Some("a"));
    }
}
