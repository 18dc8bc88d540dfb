//! What the proxies of one gateway share: it is generated once for all of them, and again only as
//! far as something changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sunbear_model::{Kind, ResourceKey};

use crate::{
    access_log::{self, Logs},
    context::Context,
    dependencies::Dependencies,
    draft::{ClusterDraft, ListenerDraft},
    endpoint::Endpoints,
    gateway::{self, Memo, Output, RUNTIME, Target},
    generate::GenerateError,
    inputs::{Inputs, ReadSecrets, Secrets, differences, secrets_changed},
    issue::Issues,
    last_good::LastGood,
    policy::mesh_circuit_breaker,
    protocol::Protocol,
    proxy::Settings,
    resources::{ConsistencyError, ResourceSet, ResourceType, XdsResource},
    runtime,
    secret::SecretRequest,
    template::{Template, origin},
    tracing,
    view::View,
};

pub(crate) use crate::context::Identity;

/// The shared part of a configuration.
#[derive(Clone, Default)]
pub(crate) struct Plan {
    /// Everything but listeners and what belongs to the admin interface.
    pub(crate) set: ResourceSet,
    pub(crate) listeners: Arc<BTreeMap<String, Arc<ListenerDraft>>>,
    pub(crate) logs: Option<Arc<Logs>>,
    /// Secrets that others have to provide.
    pub(crate) requests: Arc<BTreeSet<SecretRequest>>,
    pub(crate) issues: Arc<Issues>,
    pub(crate) depends_on: Dependencies,
    pub(crate) last_good: Arc<LastGood>,
    /// The MeshGateway, if one selects the proxies.
    pub(crate) gateway: Option<ResourceKey>,
    pub(crate) template: Option<Arc<Template>>,
}

impl Plan {
    /// Does the proxy get its admin interface?
    pub(crate) fn has_base(&self) -> bool {
        self.template.as_ref().is_none_or(|template| template.has_base())
    }
}

/// The shared part, and what it was made from.
pub(crate) struct Class {
    identity: Identity,
    state: Option<State>,
    /// Counts what came of [`Class::refresh`], so that others can tell whether they saw it.
    serial: u64,
}

struct State {
    revision: Option<u64>,
    inputs: Inputs,
    secrets: ReadSecrets,
    endpoints: Endpoints,
    /// Without what the template does.
    set: ResourceSet,
    memo: Memo,
    /// Clusters with endpoints, by service.
    targets: BTreeMap<String, Vec<Arc<Target>>>,
    /// What there is to tell but for endpoints.
    issues: Issues,
    plan: Arc<Plan>,
}

/// What decides how a service's clusters look.
type Facts = (bool, bool, Option<Protocol>);

impl Class {
    pub(crate) fn new(identity: Identity) -> Self {
        Self { identity, state: None, serial: 0 }
    }

    /// Changes whenever the shared part may have.
    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    /// Brings the shared part up to date. `stale` are the kinds that may have changed since the last
    /// time; none means any. `initial` is what was good before this was first made; without it, what
    /// is stored.
    pub(crate) fn refresh(
        &mut self,
        settings: &Settings,
        view: &dyn View,
        stale: Option<&BTreeSet<Kind>>,
        initial: Option<&LastGood>,
    ) -> Result<Arc<Plan>, GenerateError> {
        let revision = view.revision();
        if let Some(state) = &self.state
            && revision.is_some()
            && state.revision == revision
        {
            return Ok(Arc::clone(&state.plan));
        }
        let mesh = self.identity.mesh.as_str();
        let no_mesh = || GenerateError::NoMesh(mesh.to_owned());
        let Some(mut state) = self.state.take() else {
            let inputs = Inputs::load(view, mesh).ok_or_else(no_mesh)?;
            let state = State::new(settings, &self.identity, view, inputs, initial)?;
            return Ok(self.keep(state, revision));
        };
        let inputs = match stale {
            Some(stale) => state.inputs.reload(view, stale),
            None => Inputs::load(view, mesh),
        };
        let inputs = inputs.ok_or_else(no_mesh)?;
        let changed = inputs.changed(&state.inputs);
        let secrets = secrets_changed(view, mesh, &state.secrets);
        if changed.is_empty() && !secrets {
            let plan = Arc::clone(&state.plan);
            self.state = Some(State { revision, ..state });
            return Ok(plan);
        }
        let small = [Kind::DATAPLANE, Kind::MESH_GATEWAY_ROUTE];
        if !changed.iter().all(|kind| small.contains(kind)) {
            let last_good = Arc::clone(&state.plan.last_good);
            let state = State::new(settings, &self.identity, view, inputs, Some(&last_good))?;
            return Ok(self.keep(state, revision));
        }
        let touched = state.exchange_dataplanes(&inputs);
        let routes = changed.contains(&Kind::MESH_GATEWAY_ROUTE);
        state.inputs = inputs;
        if routes || secrets || touched.values().any(|same| !same) {
            state.regenerate(settings, &self.identity, view, &touched, secrets)?;
        } else {
            state.move_endpoints(&touched);
        }
        Ok(self.keep(state, revision))
    }

    fn keep(&mut self, state: State, revision: Option<u64>) -> Arc<Plan> {
        self.serial += 1;
        let plan = Arc::clone(&state.plan);
        self.state = Some(State { revision, ..state });
        plan
    }
}

impl State {
    /// Generates everything.
    fn new(
        settings: &Settings,
        identity: &Identity,
        view: &dyn View,
        inputs: Inputs,
        last_good: Option<&LastGood>,
    ) -> Result<Self, GenerateError> {
        let mut state = Self {
            revision: None,
            inputs,
            secrets: ReadSecrets::new(),
            endpoints: Endpoints::default(),
            set: ResourceSet::default(),
            memo: Memo::default(),
            targets: BTreeMap::new(),
            issues: Issues::default(),
            plan: Arc::default(),
        };
        let secrets = Secrets::of(view, &identity.mesh);
        let nothing = LastGood::default();
        let mut ctx = Context::new(settings, identity, &state.inputs, &secrets, &nothing);
        let stored = match last_good {
            Some(_) => None,
            None => gateway::stored_last_good(&ctx, view),
        };
        ctx.last_good = last_good.or(stored.as_ref()).unwrap_or(&nothing);
        let endpoints = Endpoints::of(&ctx);
        let made = Made::of(&ctx, &endpoints, None);
        let set = made.set(|target| made_endpoints(&endpoints, target));
        state.finish(identity, made, set, endpoints, secrets.into_read())?;
        Ok(state)
    }

    /// Takes Dataplanes over into the endpoints. Returns the services that are touched, and whether
    /// their clusters stay as they are.
    fn exchange_dataplanes(&mut self, inputs: &Inputs) -> BTreeMap<String, bool> {
        let (old, new) = (self.inputs.list(Kind::DATAPLANE), inputs.list(Kind::DATAPLANE));
        let mut before: BTreeMap<String, Facts> = BTreeMap::new();
        for (old, new) in differences(old, new) {
            for service in Endpoints::services_of(old).chain(Endpoints::services_of(new)) {
                if !before.contains_key(service) {
                    before.insert(service.to_owned(), facts(&self.endpoints, service));
                }
            }
            self.endpoints.exchange(old, new);
        }
        let same = |(service, old): (String, Facts)| {
            let same = facts(&self.endpoints, &service) == old;
            (service, same)
        };
        before.into_iter().map(same).collect()
    }

    /// Generates again what routes, secrets and touched services are part of.
    fn regenerate(
        &mut self,
        settings: &Settings,
        identity: &Identity,
        view: &dyn View,
        touched: &BTreeMap<String, bool>,
        secrets_changed: bool,
    ) -> Result<(), GenerateError> {
        let secrets = Secrets::of(view, &identity.mesh);
        let last_good = Arc::clone(&self.plan.last_good);
        let inputs = self.inputs.clone();
        let ctx = Context::new(settings, identity, &inputs, &secrets, &last_good);
        let stripped = secrets_changed.then(|| self.memo.without_secrets());
        let made = Made::of(&ctx, &self.endpoints, Some(stripped.as_ref().unwrap_or(&self.memo)));
        let set = made.set(|target| {
            let known = self.set.get(ResourceType::Endpoint, &target.name);
            match known.filter(|_| !touched.contains_key(target.service())) {
                Some(known) => Arc::clone(known),
                None => made_endpoints(&self.endpoints, target),
            }
        });
        let read = secrets.into_read();
        let endpoints = std::mem::take(&mut self.endpoints);
        self.finish(identity, made, set, endpoints, read)
    }

    /// Takes what was made over, and makes the plan of it.
    fn finish(
        &mut self,
        identity: &Identity,
        made: Made,
        set: ResourceSet,
        endpoints: Endpoints,
        secrets: ReadSecrets,
    ) -> Result<(), GenerateError> {
        made.check(&set)?;
        let Made { output, logs, template, .. } = made;
        let requests: BTreeSet<SecretRequest> = output.requests.into_iter().collect();
        let all_meshes = requests.contains(&SecretRequest::AllMeshCas);
        // What was kept from before was made with the secrets of before.
        let mut old = std::mem::take(&mut self.secrets);
        let secret = |name: String| {
            let secret = secrets.get(&name).cloned().or_else(|| old.remove(&name)).flatten();
            (name, secret)
        };
        self.secrets = output.asked.into_iter().map(secret).collect();
        let needs = self.inputs.needs;
        let depends_on = Dependencies::of_gateway(&identity.mesh, needs, &self.secrets, all_meshes);
        self.targets = BTreeMap::new();
        for target in output.targets {
            self.targets.entry(target.service().to_owned()).or_default().push(target);
        }
        self.set = set;
        self.memo = output.memo;
        self.endpoints = endpoints;
        self.issues = output.issues;
        self.plan = Arc::new(Plan {
            listeners: Arc::new(output.listeners),
            logs: logs.map(Arc::new),
            requests: Arc::new(requests),
            depends_on,
            last_good: Arc::new(output.last_good),
            gateway: output.gateway,
            template: template.map(Arc::new),
            ..Plan::default()
        });
        self.publish();
        Ok(())
    }

    /// Makes new load assignments for the clusters of services.
    fn move_endpoints(&mut self, touched: &BTreeMap<String, bool>) {
        for target in touched.keys().filter_map(|service| self.targets.get(service)).flatten() {
            let new = made_endpoints(&self.endpoints, target);
            let old = self.set.get(ResourceType::Endpoint, &target.name);
            if old.is_none_or(|old| old.version != new.version) {
                self.set.insert_shared(ResourceType::Endpoint, new);
            }
        }
        self.publish();
    }

    /// Puts set and issues into the plan.
    fn publish(&mut self) {
        let mut issues = self.issues.clone();
        issues.extend(&self.endpoints.issues());
        let mut set = self.set.clone();
        if let Some(template) = &self.plan.template {
            template.apply(&mut set, origin_of, true, &mut issues);
            complete(&mut set);
        }
        let plan = Arc::make_mut(&mut self.plan);
        plan.set = set;
        if *plan.issues != issues {
            plan.issues = Arc::new(issues);
        }
    }
}

fn facts(endpoints: &Endpoints, service: &str) -> Facts {
    (endpoints.is_known(service), endpoints.is_external(service), endpoints.protocol(service))
}

fn made_endpoints(endpoints: &Endpoints, target: &Target) -> Arc<XdsResource> {
    let assignment = endpoints.assignment(&target.name, &target.destination);
    Arc::new(XdsResource::new(target.name.clone(), &assignment))
}

fn origin_of(cluster: &str) -> &'static str {
    if cluster.starts_with("tracing:") { origin::TRACING } else { origin::GATEWAY }
}

/// Everything that generators made.
struct Made {
    output: Output,
    traces: Option<ClusterDraft>,
    logs: Option<Logs>,
    template: Option<Template>,
    gateway: bool,
}

impl Made {
    fn of(ctx: &Context<'_>, endpoints: &Endpoints, before: Option<&Memo>) -> Self {
        let mut issues = Issues::default();
        let template = Template::load(ctx, &mut issues);
        let gateway = template.as_ref().is_none_or(Template::has_gateway);
        let base = template.as_ref().is_none_or(Template::has_base);
        let traces = tracing::load(ctx, &mut issues).filter(|_| base);
        let logs = access_log::load(ctx, &mut issues);
        let mut output = if gateway {
            gateway::generate(ctx, endpoints, traces.as_ref().map(|t| &t.tracing), before)
        } else {
            Output::default()
        };
        output.issues.extend(&issues);
        let traces = traces.map(|traces| {
            let mut draft = traces.cluster;
            mesh_circuit_breaker::track_remaining(&mut draft.cluster);
            draft
        });
        Self { output, traces, logs, template, gateway }
    }

    /// The resources, with load assignments from `endpoints`.
    fn set(&self, endpoints: impl Fn(&Target) -> Arc<XdsResource>) -> ResourceSet {
        let mut set = self.output.set.clone();
        for target in &self.output.targets {
            if set.get(ResourceType::Endpoint, &target.name).is_none() {
                set.insert_shared(ResourceType::Endpoint, endpoints(target));
            }
        }
        if let Some(draft) = &self.traces {
            let name = draft.cluster.name.clone();
            set.insert(ResourceType::Cluster, XdsResource::new(name, &draft.clone().finish()));
        }
        if self.gateway {
            // Envoy waits for this one before anything else, so it is always there.
            set.insert(ResourceType::Runtime, runtime::resource(RUNTIME, &self.output.limits));
        }
        set
    }

    fn check(&self, set: &ResourceSet) -> Result<(), ConsistencyError> {
        let eds = self.output.targets.iter().map(|t| t.name.as_str()).collect();
        let listeners = self.output.listeners.values();
        let rds = listeners.flat_map(|listener| listener.route_configs()).collect();
        set.check(&eds, &rds)
    }
}

/// After a template did what it does: clusters and load assignments go together again.
fn complete(set: &mut ResourceSet) {
    let wanted: BTreeSet<String> = set
        .iter(ResourceType::Cluster)
        .filter_map(|c| ClusterDraft::assignment_of(&c.any))
        .collect();
    let names: Vec<String> = set.names(ResourceType::Endpoint).map(str::to_owned).collect();
    for name in names.iter().filter(|name| !wanted.contains(*name)) {
        set.remove(ResourceType::Endpoint, name);
    }
    for name in wanted {
        if set.get(ResourceType::Endpoint, &name).is_none() {
            let empty = crate::endpoint::assignment(&name, Vec::new());
            set.insert(ResourceType::Endpoint, XdsResource::new(name, &empty));
        }
    }
}
