//! The pipeline for one proxy.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sunbear_model::{ResourceKey, Spec};

use crate::{
    admin::{self, Admin},
    class::{Class, Plan},
    context::Own,
    dependencies::Dependencies,
    draft::ListenerDraft,
    gateway::{self, RUNTIME},
    issue::{Issue, Issues},
    last_good::LastGood,
    proxy::{Proxy, Settings, is_ip},
    resources::{ConsistencyError, ResourceSet, ResourceType, XdsResource},
    runtime,
    secret::SecretRequest,
    template::{Template, origin},
    view::View,
};

/// What one proxy gets, and what it does not get.
#[derive(Debug, Clone)]
pub struct Generated {
    /// The messages.
    pub resources: ResourceSet,
    /// Secrets that the messages refer to and that the caller has to add: certificates of proxies
    /// and the CAs behind them are not made here.
    pub secrets: BTreeSet<SecretRequest>,
    /// What was left out, in order of resource and field.
    pub issues: Vec<Issue>,
    /// Which changes make it worth generating again.
    pub depends_on: Dependencies,
    /// Data to fall back on the next time.
    pub(crate) last_good: Arc<LastGood>,
    /// The MeshGateway.
    pub(crate) gateway: Option<ResourceKey>,
}

impl Generated {
    /// What to store for the next control plane to fall back on, by key; no spec if there is nothing
    /// to keep. It holds private keys.
    pub fn to_store(&self) -> Option<(ResourceKey, Option<Spec>)> {
        Some((LastGood::key(self.gateway.as_ref()?), self.last_good.to_spec()))
    }

    /// Is what [`Generated::to_store`] gives the same for both?
    pub fn stores_the_same(&self, other: &Generated) -> bool {
        self.gateway == other.gateway
            && (Arc::ptr_eq(&self.last_good, &other.last_good) || self.last_good == other.last_good)
    }
}

impl PartialEq for Generated {
    fn eq(&self, other: &Self) -> bool {
        self.resources == other.resources
            && self.secrets == other.secrets
            && self.issues == other.issues
            && self.depends_on == other.depends_on
    }
}

/// Why a proxy gets nothing; it keeps what it has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenerateError {
    /// There is no Dataplane of this mesh and name, or its spec does not decode.
    #[error("no dataplane {name:?} in mesh {mesh:?}")]
    NoDataplane {
        /// Mesh.
        mesh: String,
        /// Name.
        name: String,
    },
    /// The mesh of the Dataplane does not exist, or its spec does not decode.
    #[error("no mesh {0:?}")]
    NoMesh(String),
    /// The Dataplane is no builtin gateway.
    #[error("dataplane {name:?} in mesh {mesh:?} is not a builtin gateway")]
    NotAGateway {
        /// Mesh.
        mesh: String,
        /// Name.
        name: String,
    },
    /// The result does not hold together: a defect of the generator.
    #[error("inconsistent configuration")]
    Inconsistent(#[from] ConsistencyError),
}

/// Generates the whole configuration of a proxy.
pub fn generate(
    view: &dyn View,
    settings: &Settings,
    proxy: &Proxy,
) -> Result<Generated, GenerateError> {
    generate_after(view, settings, proxy, None)
}

/// Generates the whole configuration of a proxy that got another one before. A listener whose
/// certificate is missing or damaged now keeps the one that it had, and an external service its
/// credentials. Without another one before, what was stored of [`Generated::to_store`] is fallen back
/// on.
pub fn generate_after(
    view: &dyn View,
    settings: &Settings,
    proxy: &Proxy,
    previous: Option<&Generated>,
) -> Result<Generated, GenerateError> {
    let own = Own::load(settings, proxy, view.get(&Own::key(proxy)))?;
    let mut issues = Issues::default();
    let admin = admin::generate(&own, &mut issues);
    let mut class = Class::new(own.identity(admin.port(&own)));
    let initial = previous.map(|previous| &*previous.last_good);
    let plan = class.refresh(settings, view, None, initial)?;
    let finished = Finished::of(&own, &admin, &issues, &plan, None);
    Ok(Arc::unwrap_or_clone(finished.generated))
}

/// The configuration of one proxy, and the parts that the next one may have too.
pub(crate) struct Finished {
    pub(crate) generated: Arc<Generated>,
    plan: Arc<Plan>,
}

impl Finished {
    /// Adds to the shared part what is the proxy's own. `before` is of the same proxy, with the same
    /// Dataplane; what is still the same in the shared part is not done again.
    pub(crate) fn of(
        own: &Own<'_>,
        admin: &Admin,
        own_issues: &Issues,
        plan: &Arc<Plan>,
        before: Option<&Finished>,
    ) -> Self {
        let mut issues = own_issues.clone();
        if !is_ip(own.address()) {
            let reason = "the address of a gateway has to be an IP address";
            issues.left_out(&own.dataplane.key, "networking.address", reason);
            return Self::without_gateway(admin, issues, plan);
        }
        issues.extend(&plan.issues);
        let template = plan.template.as_deref();
        let before = before.filter(|_| template.is_none());
        let mut set = plan.set.clone();
        match before.filter(|b| b.plan.set.shares(&plan.set, ResourceType::Cluster)) {
            Some(before) => set.share(&before.generated.resources, ResourceType::Cluster),
            None => add_clusters(&mut set, admin, plan, &mut issues),
        }
        match before
            .filter(|b| Arc::ptr_eq(&b.plan.listeners, &plan.listeners) && b.plan.logs == plan.logs)
        {
            Some(before) => set.share(&before.generated.resources, ResourceType::Listener),
            None => {
                for (name, draft) in plan.listeners.iter() {
                    let draft = gateway::of_proxy(draft, own, plan.logs.as_deref());
                    set.insert(ResourceType::Listener, XdsResource::new(name, &draft.finish()));
                }
                add_admin_listener(&mut set, admin, plan);
            }
        }
        if let Some(template) = template.filter(|template| template.touches_listeners()) {
            template.apply_to_listeners(&mut set, origin_of, &mut issues);
            drop_loose_routes(&mut set, template, &mut issues);
        }
        Self::finish(set, issues, plan)
    }

    /// A proxy that has nowhere to listen.
    fn without_gateway(admin: &Admin, mut issues: Issues, plan: &Arc<Plan>) -> Self {
        let mut set = ResourceSet::default();
        set.insert(ResourceType::Runtime, runtime::resource(RUNTIME, &BTreeMap::new()));
        add_clusters(&mut set, admin, plan, &mut issues);
        Self::finish(set, issues, plan)
    }

    fn finish(resources: ResourceSet, issues: Issues, plan: &Arc<Plan>) -> Self {
        let generated = Generated {
            resources,
            secrets: (*plan.requests).clone(),
            issues: issues.to_sorted(),
            depends_on: plan.depends_on.clone(),
            last_good: Arc::clone(&plan.last_good),
            gateway: plan.gateway.clone(),
        };
        Self { generated: Arc::new(generated), plan: Arc::clone(plan) }
    }
}

fn add_clusters(set: &mut ResourceSet, admin: &Admin, plan: &Plan, issues: &mut Issues) {
    if !plan.has_base() {
        return;
    }
    let mut own = ResourceSet::default();
    for draft in &admin.clusters {
        let name = draft.cluster.name.clone();
        own.insert(ResourceType::Cluster, XdsResource::new(name, &draft.clone().finish()));
    }
    if let Some(template) = &plan.template {
        template.apply(&mut own, |_| origin::ADMIN, false, issues);
    }
    for cluster in own.iter(ResourceType::Cluster) {
        // What a template put there stays.
        if set.get(ResourceType::Cluster, &cluster.name).is_none() {
            set.insert_shared(ResourceType::Cluster, Arc::clone(cluster));
        }
    }
}

fn add_admin_listener(set: &mut ResourceSet, admin: &Admin, plan: &Plan) {
    if let Some(draft) = admin.listener.as_ref().filter(|_| plan.has_base()) {
        let name = draft.listener.name.clone();
        set.insert(ResourceType::Listener, XdsResource::new(name, &draft.clone().finish()));
    }
}

fn origin_of(listener: &str) -> &'static str {
    if listener == admin::ADMIN { origin::ADMIN } else { origin::GATEWAY }
}

/// After a template changed listeners: route configurations that none refers to go, and so do
/// listeners that refer to one that is not there, as they would never come up.
fn drop_loose_routes(set: &mut ResourceSet, template: &Template, issues: &mut Issues) {
    let references: BTreeMap<String, BTreeSet<String>> = set
        .iter(ResourceType::Listener)
        .map(|l| (l.name.clone(), ListenerDraft::route_configs_of(&l.any)))
        .collect();
    for (listener, configs) in &references {
        let missing = configs.iter().find(|name| set.get(ResourceType::Route, name).is_none());
        if let Some(config) = missing {
            let reason =
                format!("listener {listener:?} refers to routes {config:?}, which are not there");
            template.tell(reason, issues);
            set.remove(ResourceType::Listener, listener);
        }
    }
    let used: BTreeSet<&String> = references
        .iter()
        .filter(|(listener, _)| set.get(ResourceType::Listener, listener).is_some())
        .flat_map(|(_, configs)| configs)
        .collect();
    let names: Vec<String> = set.names(ResourceType::Route).map(str::to_owned).collect();
    for name in names.iter().filter(|name| !used.contains(name)) {
        set.remove(ResourceType::Route, name);
    }
}
