//! Listeners, routes, clusters and endpoints of a builtin gateway, as far as all its proxies have
//! them in common.

mod certificate;
mod cluster;
mod entry;
mod header;
mod http;
mod listener;
mod memo;
mod rule;
mod target;
mod tcp;
mod weight;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sunbear_model::{
    Kind, Resource, ResourceKey,
    gateway::{Port, Route, groups, http_of, listener_field, ports, tcp_of},
    matching,
    tags::Tags,
};
use sunbear_proto::{
    envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing,
    kuma::mesh::v1alpha1::{MeshGateway, mesh_gateway::listener::Protocol},
};

use self::{certificate::Chains, target::Targets};
pub(crate) use self::{
    listener::{internal_addresses, of_proxy, router, tls_inspector},
    memo::Memo,
    target::Target,
};
use crate::{
    context::Context,
    draft::{ChainDraft, ListenerDraft, Terminal},
    endpoint::Endpoints,
    external::{ExternalServices, Reach},
    issue::Issues,
    last_good::LastGood,
    policy::{
        legacy::{self, OfSource},
        mesh_retry::Retries,
        mesh_timeout::{self, RouteTimeouts},
        target_ref::{Inbound, Policies},
    },
    protocol::Protocol as Spoken,
    resources::{ResourceSet, ResourceType},
    secret::SecretRequest,
    view::View,
};

/// Name of the runtime resource that holds connection limits; builtin gateways subscribe to it.
pub(crate) const RUNTIME: &str = "gateway.listeners";

/// What was generated.
#[derive(Default)]
pub(crate) struct Output {
    /// Clusters, route configurations, secrets. Endpoints are apart.
    pub(crate) set: ResourceSet,
    pub(crate) listeners: BTreeMap<String, Arc<ListenerDraft>>,
    /// Connection limits by key.
    pub(crate) limits: BTreeMap<String, u32>,
    /// Clusters whose endpoints come apart.
    pub(crate) targets: Vec<Arc<Target>>,
    /// Secrets that others have to provide.
    pub(crate) requests: Vec<SecretRequest>,
    /// Secrets of the mesh that all this was made with, those too that are missing.
    pub(crate) asked: BTreeSet<String>,
    pub(crate) issues: Issues,
    pub(crate) last_good: LastGood,
    /// The MeshGateway.
    pub(crate) gateway: Option<ResourceKey>,
    pub(crate) memo: Memo,
}

/// What all ports of a gateway look at.
struct Basis<'a> {
    gateway: &'a Arc<Resource>,
    routes: Vec<Route<'a>>,
    endpoints: &'a Endpoints,
    external: ExternalServices<'a>,
    legacy: &'a legacy::Policies,
    /// Of the older policies, those that match a listener.
    by_source: RefCell<BTreeMap<Arc<Tags>, Arc<OfSource<'a>>>>,
    newer: &'a NewerPolicies,
    tracing: Option<&'a Tracing>,
}

/// Policies with a targetRef.
struct NewerPolicies {
    timeouts: Policies,
    circuit_breakers: Policies,
    retries: Policies,
}

impl<'a> Basis<'a> {
    fn policies_of(&self, listener: &Arc<Tags>) -> Arc<OfSource<'a>> {
        let mut by_source = self.by_source.borrow_mut();
        let policies = by_source
            .entry(Arc::clone(listener))
            .or_insert_with(|| Arc::new(self.legacy.of_source(listener)));
        Arc::clone(policies)
    }

    fn reach(&self, destination: &Tags) -> Reach {
        let service = crate::context::service_of(destination).unwrap_or_default();
        self.external.reach(self.endpoints, service, destination)
    }

    /// What a service speaks, as far as that is known.
    fn protocol(&self, service: &str) -> Option<Spoken> {
        if self.endpoints.is_known(service) {
            self.endpoints.protocol(service)
        } else {
            self.external.protocol(service)
        }
    }
}

/// Why a port or a part of it is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("unsupported TLS mode")]
    TlsMode,
    #[error("cannot be empty in TLS termination mode")]
    NoCertificate,
    #[error("the host name cannot be that of a TLS listener")]
    Hostname,
    #[error("mTLS must be enabled for crossMesh-enabled MeshGateways")]
    NoMtls,
    #[error("protocol is not supported with crossMesh")]
    CrossMesh,
    #[error("unknown protocol")]
    Protocol,
    #[error("the admin interface of the proxy is on this address and port")]
    Taken,
    #[error(transparent)]
    Weights(#[from] weight::TooHeavy),
    /// Has been told of already.
    #[error("left out")]
    Told,
}

/// The MeshGateway that selects the Dataplane.
fn selected<'a>(ctx: &Context<'a>) -> Option<(&'a Arc<Resource>, &'a MeshGateway)> {
    let candidates = ctx.list(Kind::MESH_GATEWAY).iter().filter_map(|resource| {
        let message = resource.as_mesh_gateway()?;
        Some((&**resource, matching::matches_of(&message.selectors), (resource, message)))
    });
    matching::best(candidates, &ctx.dataplane)
}

/// What was stored for the Dataplane's MeshGateway to fall back on.
pub(crate) fn stored_last_good(ctx: &Context<'_>, view: &dyn View) -> Option<LastGood> {
    let (gateway, _) = selected(ctx)?;
    view.get(&LastGood::key(&gateway.key)).map(|stored| LastGood::read(&stored))
}

/// Generates for the MeshGateway that selects the Dataplane, if any does. What would be the same as
/// in `before` is kept.
pub(crate) fn generate(
    ctx: &Context<'_>,
    endpoints: &Endpoints,
    tracing: Option<&Tracing>,
    before: Option<&Memo>,
) -> Output {
    let mut output = Output::default();
    let Some((gateway, message)) = selected(ctx) else { return output };
    output.gateway = Some(gateway.key.clone());
    let mut issues = Issues::default();
    let legacy = legacy::Policies::load(ctx, &mut issues);
    let newer = NewerPolicies {
        timeouts: Policies::load(ctx, Kind::MESH_TIMEOUT),
        circuit_breakers: Policies::load(ctx, Kind::MESH_CIRCUIT_BREAKER),
        retries: Policies::load(ctx, Kind::MESH_RETRY),
    };
    let basis = Basis {
        gateway,
        routes: ctx.list(Kind::MESH_GATEWAY_ROUTE).iter().filter_map(Route::of).collect(),
        endpoints,
        external: ExternalServices::load(ctx, &mut issues),
        legacy: &legacy,
        by_source: RefCell::default(),
        newer: &newer,
        tracing,
    };
    unsupported_routes(ctx, gateway, message, &mut issues);

    let (ports, refused) = ports(message, &ctx.identity.gateway);
    for (index, reason) in refused {
        issues.left_out(&gateway.key, listener_field(index), reason.to_string());
    }
    let chains = match before.and_then(|memo| memo.chains.as_ref()) {
        Some(chains) => Arc::clone(chains),
        None => Arc::new(Chains::of(ctx, &gateway.key, &ports)),
    };
    issues.extend(&chains.issues);
    for secret in chains.secrets() {
        output.set.insert_shared(ResourceType::Secret, Arc::clone(secret));
    }
    let mut targets = before.map(|memo| memo.targets.clone()).unwrap_or_default();
    for port in &ports {
        let memo = before.and_then(|memo| memo.ports.get(&port.number));
        let mut generator = PortGenerator {
            ctx,
            basis: &basis,
            port,
            chains: &chains,
            targets: &mut targets,
            issues: &mut issues,
        };
        if let Err(refused) = generator.generate(&mut output, memo)
            && refused != Refused::Told
        {
            for listener in &port.listeners {
                let field = listener_field(listener.index);
                issues.left_out(&gateway.key, field, refused.to_string());
            }
        }
    }
    output.asked.extend(chains.asked.iter().cloned());
    output.last_good = chains.good.clone();
    output.last_good.credentials.clone_from(&ctx.last_good.credentials);
    basis.external.note(&mut output.last_good);
    output.memo.chains = Some(chains);
    output.memo.targets =
        Targets::of(output.memo.ports.values().flat_map(|port| port.clusters.values()));
    output.issues = issues;
    output
}

/// Generates one port.
struct PortGenerator<'g, 'a> {
    ctx: &'g Context<'a>,
    basis: &'g Basis<'a>,
    port: &'g Port<'g>,
    chains: &'g Chains,
    targets: &'g mut Targets,
    issues: &'g mut Issues,
}

impl PortGenerator<'_, '_> {
    fn generate(
        &mut self,
        output: &mut Output,
        before: Option<&memo::PortMemo>,
    ) -> Result<(), Refused> {
        let (ctx, basis, port) = (self.ctx, self.basis, self.port);
        if ctx.identity.taken_port == Some(port.number) {
            return Err(Refused::Taken);
        }
        if port.cross_mesh {
            if port.protocol != Protocol::Http {
                return Err(Refused::CrossMesh);
            }
            if !ctx.mtls() {
                return Err(Refused::NoMtls);
            }
        }
        let tags: Vec<&Tags> = port.listeners.iter().map(|l| &*l.tags).collect();
        let newer = basis.newer;
        let timeouts = newer.timeouts.selecting(basis.gateway, &tags);
        let retries = Retries::of(&newer.retries.selecting(basis.gateway, &tags), self.issues);
        let rules = target::Rules {
            timeouts: timeouts.to(),
            circuit_breakers: newer.circuit_breakers.selecting(basis.gateway, &tags).to(),
        };
        let name = listener::name(basis, port);
        let mut memo = memo::PortMemo::default();
        let chains = match port.protocol {
            Protocol::Http | Protocol::Https => {
                let shared = rule::Shared {
                    ctx,
                    listener_port: port.number,
                    timeouts: rules.timeouts.as_ref().and_then(RouteTimeouts::of),
                    retries: &retries,
                };
                self.http(&shared, &rules, &name, output, &mut memo, before)
            }
            Protocol::Tcp | Protocol::Tls => self.tcp(&rules, &retries, &mut memo, before)?,
            Protocol::None => return Err(Refused::Protocol),
        };
        if chains.is_empty() {
            return Err(Refused::Told);
        }
        target::merge(&mut output.set, &memo.clusters, basis, port, self.issues);
        let chains = with_timeouts(chains, &timeouts.inbound());
        if let Some(limit) = port.connection_limit {
            let key = format!("envoy.resource_limits.listener.{name}.connection_limit");
            output.limits.insert(key, limit);
        }
        let draft = listener::draft(name.clone(), port, chains);
        output.listeners.insert(name, Arc::new(draft));
        for unit in memo.clusters.values() {
            output.requests.extend(unit.requests.iter().cloned());
            output.asked.extend(unit.secrets.iter().cloned());
            if unit.has_assignment {
                output.targets.push(Arc::clone(&unit.target));
            }
        }
        output.memo.ports.insert(port.number, memo);
        Ok(())
    }

    fn http(
        &mut self,
        shared: &rule::Shared<'_, '_>,
        rules: &target::Rules<'_>,
        name: &str,
        output: &mut Output,
        memo: &mut memo::PortMemo,
        before: Option<&memo::PortMemo>,
    ) -> Vec<ChainDraft> {
        let (ctx, basis, port) = (self.ctx, self.basis, self.port);
        let is_http = |r: &Route<'_>| http_of(r.message.conf.as_ref()).is_some();
        let secure = port.by_hostname() || port.cross_mesh;
        let mut chains = Vec::new();
        for group in groups(port, &basis.routes, is_http) {
            let chain = if port.by_hostname() {
                match self.chains.get(port.number, group.key) {
                    Some(chain) => chain.clone(),
                    None => continue,
                }
            } else if port.cross_mesh {
                let (chain, requests) = certificate::cross_mesh(ctx.mesh_name());
                output.requests.extend(requests);
                chain
            } else {
                Default::default()
            };
            let config = format!("{name}:{}", group.key);
            let known = before.and_then(|memo| memo.routes.get(&config));
            let unit = http::route_config(
                basis,
                shared,
                config.clone(),
                &group.hosts,
                secure,
                self.targets,
                known,
                self.issues,
            );
            unit.issues(self.issues);
            output.set.insert_shared(ResourceType::Route, Arc::clone(&unit.resource));
            let manager =
                listener::http_manager(ctx, config.clone(), basis.tracing.cloned(), unit.faults());
            chains.push(ChainDraft { chain, terminal: Some(Terminal::Http(Box::new(manager))) });
            memo.routes.insert(config, unit);
        }
        let targets = memo.routes.values().flat_map(http::RouteUnit::targets);
        memo.clusters =
            target::units(ctx, basis, rules, targets, before.map(|memo| &memo.clusters));
        chains
    }

    fn tcp(
        &mut self,
        rules: &target::Rules<'_>,
        retries: &Retries,
        memo: &mut memo::PortMemo,
        before: Option<&memo::PortMemo>,
    ) -> Result<Vec<ChainDraft>, Refused> {
        let (ctx, basis, port) = (self.ctx, self.basis, self.port);
        let is_tcp = |r: &Route<'_>| tcp_of(r.message.conf.as_ref()).is_some();
        let mut groups = groups(port, &basis.routes, is_tcp);
        if port.by_hostname() {
            groups.retain(|group| self.chains.get(port.number, group.key).is_some());
        }
        let destinations =
            tcp::destinations(basis, &groups, port.by_hostname(), self.targets, self.issues);
        let mut chains = Vec::new();
        for (index, group) in groups.iter().enumerate() {
            let mut terminal = destinations.terminal(ctx, index)?;
            if let (Some(Terminal::Tcp(proxy)), Some(attempts)) = (&mut terminal, retries.attempts)
            {
                proxy.max_connect_attempts = Some(attempts);
            }
            let chain = self.chains.get(port.number, group.key).cloned().unwrap_or_default();
            chains.push(ChainDraft { chain, terminal });
        }
        let before = before.map(|memo| &memo.clusters);
        memo.clusters = target::units(ctx, basis, rules, &destinations.targets, before);
        Ok(chains)
    }
}

fn with_timeouts(mut chains: Vec<ChainDraft>, inbound: &Inbound) -> Vec<ChainDraft> {
    for terminal in chains.iter_mut().filter_map(|chain| chain.terminal.as_mut()) {
        mesh_timeout::listener(inbound, terminal);
    }
    chains
}

/// Tells of routes of the newer kinds, which would take over the gateway but are not read yet.
fn unsupported_routes(
    ctx: &Context<'_>,
    gateway: &Resource,
    message: &MeshGateway,
    issues: &mut Issues,
) {
    let (ports, _) = ports(message, &ctx.identity.gateway);
    let listeners: Vec<&Tags> =
        ports.iter().flat_map(|p| p.listeners.iter().map(|l| &*l.tags)).collect();
    for kind in ["MeshHTTPRoute", "MeshTCPRoute"] {
        let Some(kind) = Kind::by_name(kind) else { continue };
        let policies = Policies::load(ctx, kind);
        for policy in policies.selecting(gateway, &listeners).resources() {
            let reason = "routes of this kind are not supported on gateways yet";
            issues.left_out(&policy.key, "spec", reason);
        }
    }
}
