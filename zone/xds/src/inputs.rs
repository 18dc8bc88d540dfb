//! The resources that a gateway's configuration is made of, and what of them changed.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sunbear_model::{Kind, Resource, ResourceKey};
use sunbear_proto::kuma::mesh::v1alpha1::Mesh;

use crate::{policy::legacy, view::View};

/// Resources of one kind, in name order.
pub(crate) type List = Arc<Vec<Arc<Resource>>>;

/// Everything that is read for a gateway, but for secrets.
#[derive(Clone)]
pub(crate) struct Inputs {
    pub(crate) mesh: Arc<Resource>,
    /// What was read.
    pub(crate) needs: Needs,
    lists: BTreeMap<Kind, List>,
}

/// What is read of a mesh, by what the mesh has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Services of other zones: they are reached with mTLS only.
    pub(crate) other_zones: bool,
    /// Egresses of this zone.
    pub(crate) egresses: bool,
    /// Permissions to use external services, if there are any to permit.
    pub(crate) permissions: bool,
    pub(crate) logs: bool,
    pub(crate) traces: bool,
}

impl Needs {
    pub(crate) fn of(mesh: &Mesh, external_services: bool) -> Self {
        let mtls = mesh.mtls.as_ref().is_some_and(|m| !m.enabled_backend.is_empty());
        let through_egress = mesh.routing.as_ref().is_some_and(|r| r.zone_egress);
        Self {
            other_zones: mtls,
            egresses: through_egress && (mtls || external_services),
            permissions: external_services && !through_egress,
            logs: mesh.logging.as_ref().is_some_and(|l| !l.backends.is_empty()),
            traces: mesh.tracing.as_ref().is_some_and(|t| !t.backends.is_empty()),
        }
    }

    /// Kinds of the mesh.
    pub(crate) fn in_mesh(self) -> BTreeSet<Kind> {
        let mut kinds = BTreeSet::from([
            Kind::DATAPLANE,
            Kind::EXTERNAL_SERVICE,
            Kind::MESH_CIRCUIT_BREAKER,
            Kind::MESH_GATEWAY,
            Kind::MESH_GATEWAY_ROUTE,
            Kind::MESH_RETRY,
            Kind::MESH_TIMEOUT,
        ]);
        let mut add = |wanted: bool, names: &[&str]| {
            kinds.extend(names.iter().filter(|_| wanted).filter_map(|name| Kind::by_name(name)));
        };
        add(true, &legacy::Policies::KINDS);
        add(true, &["MeshHTTPRoute", "MeshTCPRoute", "ProxyTemplate"]);
        add(self.permissions, &["TrafficPermission"]);
        add(self.logs, &["TrafficLog"]);
        add(self.traces, &["TrafficTrace"]);
        kinds
    }

    /// Kinds of all meshes.
    pub(crate) fn everywhere(self) -> BTreeSet<Kind> {
        let wanted = [(self.other_zones, Kind::ZONE_INGRESS), (self.egresses, Kind::ZONE_EGRESS)];
        wanted.into_iter().filter(|(wanted, _)| *wanted).map(|(_, kind)| kind).collect()
    }
}

impl Inputs {
    /// Reads everything; none if there is no such mesh.
    pub(crate) fn load(view: &dyn View, mesh: &str) -> Option<Self> {
        Self::read(view, mesh, |_| None)
    }

    /// Reads again what `stale` names; the rest is known to be as it was.
    pub(crate) fn reload(&self, view: &dyn View, stale: &BTreeSet<Kind>) -> Option<Self> {
        if stale.contains(&Kind::MESH) {
            return Self::load(view, &self.mesh.key.name);
        }
        Self::read(view, &self.mesh.key.name, |kind| {
            self.lists.get(&kind).filter(|_| !stale.contains(&kind)).cloned()
        })
    }

    fn read(view: &dyn View, mesh: &str, known: impl Fn(Kind) -> Option<List>) -> Option<Self> {
        let mesh = view.get(&ResourceKey::new(Kind::MESH, "", mesh))?;
        let name = &*mesh.key.name;
        let read = |kind| known(kind).unwrap_or_else(|| Arc::new(view.list_mesh(kind, name)));
        let external = read(Kind::EXTERNAL_SERVICE);
        let needs = Needs::of(mesh.as_mesh()?, !external.is_empty());
        let mut lists: BTreeMap<Kind, List> = BTreeMap::from([(Kind::EXTERNAL_SERVICE, external)]);
        for kind in needs.in_mesh() {
            lists.entry(kind).or_insert_with(|| read(kind));
        }
        for kind in needs.everywhere() {
            let list = known(kind).unwrap_or_else(|| Arc::new(view.list(kind)));
            lists.insert(kind, list);
        }
        Some(Self { mesh, needs, lists })
    }

    /// All of a kind.
    pub(crate) fn list(&self, kind: Kind) -> &[Arc<Resource>] {
        self.lists.get(&kind).map_or(&[], |list| list.as_slice())
    }

    /// All of a kind by its name.
    pub(crate) fn named(&self, kind: &str) -> &[Arc<Resource>] {
        Kind::by_name(kind).map_or(&[], |kind| self.list(kind))
    }

    /// The kinds whose resources are not the very same in both.
    pub(crate) fn changed(&self, old: &Inputs) -> BTreeSet<Kind> {
        let mut changed: BTreeSet<Kind> =
            self.lists.keys().chain(old.lists.keys()).copied().collect();
        changed.retain(|kind| match (self.lists.get(kind), old.lists.get(kind)) {
            (Some(new), Some(old)) => !Arc::ptr_eq(new, old) && !same(new, old),
            _ => true,
        });
        if !Arc::ptr_eq(&self.mesh, &old.mesh) {
            changed.insert(Kind::MESH);
        }
        changed
    }
}

/// The same resources, not merely equal ones.
pub(crate) fn same(new: &[Arc<Resource>], old: &[Arc<Resource>]) -> bool {
    new.len() == old.len() && new.iter().zip(old).all(|(a, b)| Arc::ptr_eq(a, b))
}

/// What differs between two lists in name order: pairs of old and new.
pub(crate) fn differences<'l>(
    old: &'l [Arc<Resource>],
    new: &'l [Arc<Resource>],
) -> Vec<(Option<&'l Arc<Resource>>, Option<&'l Arc<Resource>>)> {
    let mut differences = Vec::new();
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return differences,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(a), Some(b)) => a.key.cmp(&b.key),
        };
        match order {
            std::cmp::Ordering::Less => differences.push((old.next(), None)),
            std::cmp::Ordering::Greater => differences.push((None, new.next())),
            std::cmp::Ordering::Equal => {
                let (a, b) = (old.next(), new.next());
                if let (Some(a), Some(b)) = (a, b)
                    && !Arc::ptr_eq(a, b)
                {
                    differences.push((Some(a), Some(b)));
                }
            }
        }
    }
}

/// Secrets of a mesh as they are asked for, and which ones that were.
pub(crate) struct Secrets<'v> {
    view: &'v dyn View,
    mesh: &'v str,
    read: RefCell<ReadSecrets>,
}

/// Secrets that were read, missing ones too.
pub(crate) type ReadSecrets = BTreeMap<String, Option<Arc<Resource>>>;

impl<'v> Secrets<'v> {
    pub(crate) fn of(view: &'v dyn View, mesh: &'v str) -> Self {
        Self { view, mesh, read: RefCell::default() }
    }

    /// A secret by name.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Resource>> {
        let mut read = self.read.borrow_mut();
        if let Some(secret) = read.get(name) {
            return secret.clone();
        }
        let secret = self.view.get(&ResourceKey::new(Kind::SECRET, self.mesh, name));
        read.insert(name.to_owned(), secret.clone());
        secret
    }

    pub(crate) fn into_read(self) -> ReadSecrets {
        self.read.into_inner()
    }
}

/// Is any of these secrets another one now?
pub(crate) fn secrets_changed(view: &dyn View, mesh: &str, read: &ReadSecrets) -> bool {
    read.iter().any(|(name, old)| {
        let new = view.get(&ResourceKey::new(Kind::SECRET, mesh, name));
        match (old, &new) {
            (Some(old), Some(new)) => !Arc::ptr_eq(old, new),
            (None, None) => false,
            (Some(_), None) | (None, Some(_)) => true,
        }
    })
}
