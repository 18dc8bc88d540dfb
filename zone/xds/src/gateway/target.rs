//! The clusters that the routes of a port lead to.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use sunbear_model::{
    gateway::{Port, listener_field},
    label,
    tags::Tags,
};
use sunbear_proto::envoy::config::cluster::v3::Cluster;

use super::{Basis, cluster};
use crate::{
    context::{Context, service_of},
    draft::ClusterDraft,
    external::Reach,
    issue::Issues,
    policy::{
        legacy::{self, OfSource},
        mesh_circuit_breaker, mesh_timeout,
        target_ref::ToRules,
    },
    protocol::Protocol,
    resources::{ResourceSet, ResourceType, XdsResource},
    secret::SecretRequest,
};

/// Service of destinations that could not be resolved; requests to it are answered with 500.
pub(crate) const UNRESOLVED: &str = "kuma.io/unresolved-backend";

/// A cluster that routes lead to.
#[derive(Debug, PartialEq)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) destination: Tags,
    /// Tags of the listener.
    listener: Arc<Tags>,
    /// What is spoken unless the destination says so.
    default: Protocol,
}

impl Target {
    /// The service of the destination.
    pub(crate) fn service(&self) -> &str {
        service_of(&self.destination).unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) fn named(name: &str, default: Protocol) -> Self {
        let tags = Arc::new(Tags::new());
        Self { name: name.to_owned(), destination: Tags::new(), listener: tags, default }
    }
}

/// Targets by cluster name and protocol. Names hold the tags of destination and listener, so this
/// tells targets apart.
#[derive(Debug, Default, Clone)]
pub(crate) struct Targets(HashMap<(String, Protocol), Arc<Target>>);

impl Targets {
    /// The targets of clusters.
    pub(super) fn of<'u>(units: impl IntoIterator<Item = &'u Arc<Unit>>) -> Self {
        let targets = units.into_iter().map(|unit| Arc::clone(&unit.target));
        Self(targets.map(|target| ((target.name.clone(), target.default), target)).collect())
    }

    /// The target of a destination behind a listener.
    fn intern(
        &mut self,
        listener: &Arc<Tags>,
        destination: &Tags,
        default: Protocol,
    ) -> Arc<Target> {
        let service = service_of(destination).unwrap_or_default();
        let key = (cluster::name(service, destination, listener), default);
        if let Some(known) = self.0.get(&key) {
            return Arc::clone(known);
        }
        let target = Arc::new(Target {
            name: key.0.clone(),
            destination: destination.clone(),
            listener: Arc::clone(listener),
            default,
        });
        self.0.insert(key, Arc::clone(&target));
        target
    }
}

/// Where a backend leads.
#[derive(Clone)]
pub(super) enum Backend {
    /// Nowhere; it is named as what it is.
    Unresolved,
    /// To a cluster, and how that is reached.
    Target(Arc<Target>, Reach),
}

impl Backend {
    /// Name of the cluster.
    pub(super) fn name(&self) -> &str {
        match self {
            Backend::Unresolved => UNRESOLVED,
            Backend::Target(target, _) => &target.name,
        }
    }

    /// Does the other side understand who calls?
    pub(super) fn is_in_mesh(&self) -> bool {
        !matches!(self, Backend::Target(_, Reach::Direct))
    }
}

/// Looks destinations of one host up.
pub(super) struct Resolver<'a, 't> {
    basis: &'t Basis<'a>,
    listener: Arc<Tags>,
    targets: &'t mut Targets,
    /// Policies that match the listener.
    pub(super) policies: Arc<OfSource<'a>>,
    known: BTreeMap<&'a Tags, Backend>,
}

impl<'a, 't> Resolver<'a, 't> {
    pub(super) fn new(
        basis: &'t Basis<'a>,
        listener: &Arc<Tags>,
        targets: &'t mut Targets,
    ) -> Self {
        let policies = basis.policies_of(listener);
        Self { basis, listener: Arc::clone(listener), targets, policies, known: BTreeMap::new() }
    }

    /// Where a destination leads; none if it has no service.
    pub(super) fn backend(&mut self, destination: &'a Tags, default: Protocol) -> Option<Backend> {
        if let Some(backend) = self.known.get(destination) {
            return Some(backend.clone());
        }
        let service = service_of(destination)?;
        let backend = if service == UNRESOLVED {
            Backend::Unresolved
        } else {
            let target = self.targets.intern(&self.listener, destination, default);
            Backend::Target(target, self.basis.reach(destination))
        };
        self.known.insert(destination, backend.clone());
        Some(backend)
    }

    /// All targets that came up, with how they are reached.
    pub(super) fn used(&self) -> impl Iterator<Item = (&Arc<Target>, Reach)> {
        self.known.values().filter_map(|backend| match backend {
            Backend::Unresolved => None,
            Backend::Target(target, reach) => Some((target, *reach)),
        })
    }
}

/// What is looked up about a target's service; a cluster holds as long as it is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facts {
    reach: Reach,
    /// What the service speaks.
    protocol: Option<Protocol>,
}

/// A generated cluster.
#[derive(Debug, Clone)]
pub(crate) struct Unit {
    pub(crate) target: Arc<Target>,
    facts: Facts,
    pub(crate) resource: Arc<XdsResource>,
    /// Secrets that it refers to.
    pub(crate) requests: Vec<SecretRequest>,
    /// Its endpoints come apart.
    pub(crate) has_assignment: bool,
    /// Secrets of the mesh that it was made with.
    pub(crate) secrets: BTreeSet<String>,
    pub(crate) issues: Issues,
}

/// Generated clusters of a port by name.
pub(crate) type Units = BTreeMap<String, Arc<Unit>>;

/// What the policies of a port say about its clusters.
pub(super) struct Rules<'p> {
    pub(super) timeouts: Option<ToRules<'p>>,
    pub(super) circuit_breakers: Option<ToRules<'p>>,
}

/// Generates the clusters of targets; those that would be the same as before are kept.
pub(super) fn units<'t>(
    ctx: &Context<'_>,
    basis: &Basis<'_>,
    rules: &Rules<'_>,
    targets: impl IntoIterator<Item = &'t Arc<Target>>,
    before: Option<&Units>,
) -> Units {
    let mut units = Units::new();
    for target in targets {
        if units.contains_key(&target.name) {
            continue;
        }
        let facts = Facts {
            reach: basis.reach(&target.destination),
            protocol: basis.protocol(target.service()),
        };
        let known = before.and_then(|units| units.get(&target.name));
        let unit = match known.filter(|unit| unit.facts == facts && unit.target == *target) {
            Some(unit) => Arc::clone(unit),
            None => Arc::new(generate(ctx, basis, rules, target, facts)),
        };
        units.insert(target.name.clone(), unit);
    }
    units
}

fn generate(
    ctx: &Context<'_>,
    basis: &Basis<'_>,
    rules: &Rules<'_>,
    target: &Arc<Target>,
    facts: Facts,
) -> Unit {
    let mut issues = Issues::default();
    let service = target.service();
    let tag = target.destination.get(label::PROTOCOL_TAG).and_then(|p| Protocol::parse(p));
    let known = facts.protocol.filter(|_| facts.reach == Reach::Direct);
    let protocol = known.or(tag).unwrap_or(target.default);
    let mut draft = match facts.reach {
        Reach::Mesh | Reach::Egress => {
            let egress = facts.reach == Reach::Egress;
            let identity = if egress { cluster::EGRESS } else { service };
            cluster::in_mesh(ctx, target, protocol, identity).unwrap_or_else(|error| {
                issues.left_out(&basis.gateway.key, "", format!("{service}: {error}"));
                cluster::without_endpoints(target, protocol)
            })
        }
        Reach::Direct => {
            let mut draft = cluster::without_endpoints(target, protocol);
            let cluster: &mut Cluster = &mut draft.cluster;
            basis.external.configure(ctx, cluster, service, &target.destination, &mut issues);
            draft
        }
    };
    let policies: &legacy::OfSource<'_> = &basis.policies_of(&target.listener);
    policies.configure_cluster(&mut draft, &target.destination, protocol);
    apply_rules(rules, &mut draft, service, facts.protocol);
    Unit {
        target: Arc::clone(target),
        facts,
        requests: draft.secrets.clone(),
        has_assignment: draft.has_assignment(),
        secrets: match facts.reach {
            Reach::Direct => basis.external.secrets(&target.destination),
            Reach::Mesh | Reach::Egress => BTreeSet::new(),
        },
        resource: Arc::new(XdsResource::new(target.name.clone(), &draft.finish())),
        issues,
    }
}

fn apply_rules(
    rules: &Rules<'_>,
    draft: &mut ClusterDraft,
    service: &str,
    protocol: Option<Protocol>,
) {
    if let Some(to) = &rules.timeouts {
        mesh_timeout::cluster(to, draft, service, protocol);
    }
    mesh_circuit_breaker::track_remaining(&mut draft.cluster);
    if let Some(to) = &rules.circuit_breakers {
        mesh_circuit_breaker::cluster(to, &mut draft.cluster, service);
    }
}

/// Adds the clusters of a port to the rest. Clusters of equal name are equal, unless a TCP and an
/// HTTP port have listeners of equal tags and one destination; the higher port wins then (D-2).
pub(super) fn merge(
    set: &mut ResourceSet,
    units: &Units,
    basis: &Basis<'_>,
    port: &Port<'_>,
    issues: &mut Issues,
) {
    for (name, unit) in units {
        let old = set.get(ResourceType::Cluster, name);
        if old.is_some_and(|old| old.version != unit.resource.version) {
            let reason = format!("cluster {name:?} differs from that of a lower port");
            issues.left_out(&basis.gateway.key, listener_field(port.listeners[0].index), reason);
        }
        set.insert_shared(ResourceType::Cluster, Arc::clone(&unit.resource));
        issues.extend(&unit.issues);
    }
}
