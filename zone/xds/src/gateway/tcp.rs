//! TCP and TLS ports: filter chains to the backends of all routes together.

use std::sync::Arc;

use sunbear_model::{
    gateway::{Group, Host, tcp_of},
    tags::Tags,
};
use sunbear_proto::envoy::extensions::filters::network::tcp_proxy::v3::{
    TcpProxy,
    tcp_proxy::{ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight},
};

use super::{
    Basis, listener,
    target::{Backend, Resolver, Target, Targets},
    weight::{TooHeavy, Weights},
};
use crate::{
    context::Context, draft::Terminal, issue::Issues, policy::legacy::FiledRetries,
    protocol::Protocol,
};

/// What the hosts of a port lead to.
pub(super) struct Destinations {
    /// Clusters of all hosts that were looked at.
    pub(super) targets: Vec<Arc<Target>>,
    /// By group, in order.
    weights: Vec<Weights>,
    /// How often the port tries to connect.
    attempts: Option<u32>,
}

/// Collects the backends of a port. On a TLS port a chain has those of the host of its name only.
pub(super) fn destinations(
    basis: &Basis<'_>,
    groups: &[Group<'_>],
    by_hostname: bool,
    targets: &mut Targets,
    issues: &mut Issues,
) -> Destinations {
    let mut retries = FiledRetries::default();
    let mut result = Destinations { targets: Vec::new(), weights: Vec::new(), attempts: None };
    for group in groups {
        let mut weights = Weights::default();
        for host in &group.hosts {
            let mut resolver = Resolver::new(basis, &host.tags, targets);
            let own = !by_hostname || *host.hostname == *group.key;
            for (backend, weight) in backends(basis, host, &mut resolver, &mut retries, issues) {
                if own {
                    weights.add(backend, weight);
                }
            }
            result.targets.extend(resolver.used().map(|(target, _)| Arc::clone(target)));
        }
        result.weights.push(weights);
    }
    result.attempts = retries.connect_attempts();
    result
}

fn backends<'a>(
    basis: &Basis<'a>,
    host: &Host<'_>,
    resolver: &mut Resolver<'a, '_>,
    retries: &mut FiledRetries<'a>,
    issues: &mut Issues,
) -> Vec<(Backend, u32)> {
    let mut backends = Vec::new();
    for route in host.routes.iter().map(|index| basis.routes[*index]) {
        let rules = tcp_of(route.message.conf.as_ref()).map_or(&[][..], |t| &t.rules);
        for (r, rule) in rules.iter().enumerate() {
            for (b, backend) in rule.backends.iter().enumerate() {
                match resolver.backend(&backend.destination, Protocol::Tcp) {
                    Some(target) => backends.push((target, backend.weight)),
                    None => issues.left_out(
                        &route.resource.key,
                        format!("conf.tcp.rules[{r}].backends[{b}]"),
                        "a destination needs the tag kuma.io/service",
                    ),
                }
            }
            let destinations: Vec<&Tags> = rule.backends.iter().map(|b| &b.destination).collect();
            basis.policies_of(&host.tags).file_retries(&destinations, retries);
        }
    }
    backends
}

impl Destinations {
    /// The filter of the chain of a group, by its position. Without any backend there is none, and
    /// Envoy closes connections.
    pub(super) fn terminal(
        &self,
        ctx: &Context<'_>,
        group: usize,
    ) -> Result<Option<Terminal>, TooHeavy> {
        let Some(weights) = self.weights.get(group).filter(|w| !w.is_empty()) else {
            return Ok(None);
        };
        Ok(Some(Terminal::Tcp(Box::new(TcpProxy {
            stat_prefix: listener::stat_prefix(ctx),
            max_connect_attempts: self.attempts,
            cluster_specifier: Some(specifier(weights.clone())?),
            ..TcpProxy::default()
        }))))
    }
}

fn specifier(weights: Weights) -> Result<ClusterSpecifier, TooHeavy> {
    let mut clusters: Vec<ClusterWeight> = weights
        .tcp()?
        .into_iter()
        .map(|(backend, weight)| ClusterWeight {
            name: backend.name().to_owned(),
            weight,
            ..ClusterWeight::default()
        })
        .collect();
    Ok(match clusters.pop() {
        Some(only) if clusters.is_empty() => ClusterSpecifier::Cluster(only.name),
        last => {
            clusters.extend(last);
            ClusterSpecifier::WeightedClusters(WeightedCluster { clusters })
        }
    })
}
