//! The state of one mesh.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use sunbear_model::{Kind, Resource, ResourceKey, Writable};
use sunbear_proto::kuma::mesh::v1alpha1::{
    MeshInsight, ServiceInsight,
    mesh::mesh_services::Mode,
    mesh_insight::{DataplanesByType, DpVersions, Mtls, PolicyStat, ResourceStat, ServiceStat},
};
use sunbear_store::Snapshot;

use crate::{
    proxy::{Proxy, Role},
    services::{External, Services},
    stat::{Bag, Stat, Stats, Step},
};

/// What the objects of one mesh count for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MeshState {
    /// `meshServices.mode: Exclusive`.
    exclusive: bool,
    /// Names of the objects that are counted, by type. Holds no empty sets.
    objects: BTreeMap<Kind, HashSet<Arc<str>>>,
    proxies: HashMap<Arc<str>, Proxy>,
    externals: HashMap<Arc<str>, External>,
    sidecars: Stat,
    builtin_gateways: Stat,
    delegated_gateways: Stat,
    kuma_dp: Stats,
    envoy: Stats,
    issued_backends: Stats,
    supported_backends: Stats,
    /// Services of proxies, whatever the mode.
    internal_services: Bag,
    services: Services,
}

impl MeshState {
    /// Counts a mesh from scratch.
    pub fn of(mesh: &str, snapshot: &Snapshot) -> Self {
        let mut state = Self::default();
        if let Some(mesh) = snapshot.mesh(mesh) {
            state.apply(&mesh.key, snapshot);
        }
        for kind in Kind::all().filter(|k| k.is_mesh_scoped()) {
            for resource in snapshot.list_mesh(kind, mesh) {
                state.apply(&resource.key, snapshot);
            }
        }
        state
    }

    /// Takes over what the snapshot says of one object of this mesh, or of the Mesh itself. True if
    /// that makes a difference.
    pub fn apply(&mut self, key: &ResourceKey, snapshot: &Snapshot) -> bool {
        let now = snapshot.get(key);
        match key.kind {
            Kind::MESH => self.set_mode(now.map(|r| &**r)),
            Kind::DATAPLANE => {
                let counted = self.set_object(key, now.is_some());
                self.set_proxy(key, snapshot) || counted
            }
            Kind::DATAPLANE_INSIGHT => {
                let proxy = ResourceKey { kind: Kind::DATAPLANE, ..key.clone() };
                self.set_proxy(&proxy, snapshot)
            }
            Kind::EXTERNAL_SERVICE => {
                let counted = self.set_object(key, now.is_some());
                self.set_external(&key.name, now.and_then(|r| External::of(r))) || counted
            }
            _ if is_counted(key.kind) => self.set_object(key, now.is_some()),
            _ => false,
        }
    }

    /// True if the mesh has no objects.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    fn set_mode(&mut self, mesh: Option<&Resource>) -> bool {
        let services = mesh.and_then(Resource::as_mesh).and_then(|m| m.mesh_services.as_ref());
        let exclusive = services.is_some_and(|s| s.mode() == Mode::Exclusive);
        if self.exclusive == exclusive {
            return false;
        }
        self.exclusive = exclusive;
        self.services = Services::default();
        for (name, proxy) in &self.proxies {
            self.services.count_proxy(name, proxy, exclusive, Step::Add);
        }
        for (name, external) in &self.externals {
            self.services.count_external(name, external, exclusive, Step::Add);
        }
        true
    }

    fn set_object(&mut self, key: &ResourceKey, exists: bool) -> bool {
        if exists {
            return self.objects.entry(key.kind).or_default().insert(Arc::clone(&key.name));
        }
        let Some(names) = self.objects.get_mut(&key.kind) else { return false };
        let removed = names.remove(&key.name);
        if names.is_empty() {
            self.objects.remove(&key.kind);
        }
        removed
    }

    fn set_proxy(&mut self, key: &ResourceKey, snapshot: &Snapshot) -> bool {
        let insight = ResourceKey { kind: Kind::DATAPLANE_INSIGHT, ..key.clone() };
        let now = snapshot
            .get(key)
            .and_then(|proxy| Proxy::of(proxy, snapshot.get(&insight).map(|r| &**r)));
        if self.proxies.get(&key.name) == now.as_ref() {
            return false;
        }
        if let Some(old) = self.proxies.remove(&key.name) {
            self.count_proxy(&key.name, &old, Step::Remove);
        }
        if let Some(now) = now {
            self.count_proxy(&key.name, &now, Step::Add);
            self.proxies.insert(Arc::clone(&key.name), now);
        }
        true
    }

    fn count_proxy(&mut self, name: &Arc<str>, proxy: &Proxy, step: Step) {
        match proxy.role {
            Role::Sidecar => &mut self.sidecars,
            Role::BuiltinGateway => &mut self.builtin_gateways,
            Role::DelegatedGateway => &mut self.delegated_gateways,
        }
        .count(proxy.status, step);
        self.kuma_dp.count(&proxy.kuma_dp, proxy.status, step);
        self.envoy.count(&proxy.envoy, proxy.status, step);
        if !proxy.issued_backend.is_empty() {
            self.issued_backends.count(&proxy.issued_backend, proxy.status, step);
        }
        for backend in &proxy.supported_backends {
            self.supported_backends.count(backend, proxy.status, step);
        }
        for offer in &proxy.offers {
            self.internal_services.count(&offer.service, step);
        }
        self.services.count_proxy(name, proxy, self.exclusive, step);
    }

    fn set_external(&mut self, name: &Arc<str>, now: Option<External>) -> bool {
        if self.externals.get(name) == now.as_ref() {
            return false;
        }
        if let Some(old) = self.externals.remove(name) {
            self.services.count_external(name, &old, self.exclusive, Step::Remove);
        }
        if let Some(now) = now {
            self.services.count_external(name, &now, self.exclusive, Step::Add);
            self.externals.insert(Arc::clone(name), now);
        }
        true
    }

    /// The MeshInsight. Its messages are there even if empty: `kumactl` relies on some of them.
    pub fn mesh_insight(&self) -> MeshInsight {
        let gateways = self.builtin_gateways.plus(self.delegated_gateways);
        let internal = small(self.internal_services.len());
        let external = small(self.objects.get(&Kind::EXTERNAL_SERVICE).map_or(0, HashSet::len));
        let counts = || self.objects.iter().map(|(kind, names)| (*kind, small(names.len())));
        let policies = counts().filter(|(kind, _)| kind.row().policy);
        MeshInsight {
            dataplanes: Some(self.sidecars.plus(gateways).message()),
            policies: policies
                .map(|(kind, total)| (kind.name().to_owned(), PolicyStat { total }))
                .collect(),
            dp_versions: Some(DpVersions {
                kuma_dp: self.kuma_dp.messages(Stat::version_message),
                envoy: self.envoy.messages(Stat::version_message),
            }),
            m_tls: Some(Mtls {
                issued_backends: self.issued_backends.messages(Stat::message),
                supported_backends: self.supported_backends.messages(Stat::message),
            }),
            // Kuma leaves it out where MeshServices have taken over, delegated gateways or not.
            services: (!self.exclusive).then(|| ServiceStat {
                total: internal.saturating_add(external),
                internal,
                external,
            }),
            dataplanes_by_type: Some(DataplanesByType {
                standard: Some(self.sidecars.message()),
                gateway: Some(gateways.message()),
                gateway_builtin: Some(self.builtin_gateways.message()),
                gateway_delegated: Some(self.delegated_gateways.message()),
            }),
            resources: counts()
                .map(|(kind, total)| (kind.name().to_owned(), ResourceStat { total }))
                .collect(),
        }
    }

    /// The ServiceInsight. Addresses in the mesh and totals are left to those who show it.
    pub fn service_insight(&self) -> ServiceInsight {
        self.services.message()
    }
}

/// Whether objects of a type are counted: all of mesh scope but insights.
fn is_counted(kind: Kind) -> bool {
    kind.is_mesh_scoped() && !matches!(kind.row().writable, Writable::Never)
}

fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
