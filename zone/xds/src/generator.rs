//! Generation that remembers: for many proxies, again and again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use sunbear_model::{Kind, Resource, ResourceKey};

use crate::{
    admin,
    class::{Class, Identity, Plan},
    context::Own,
    generate::{Finished, GenerateError, Generated},
    issue::Issues,
    proxy::{Proxy, Settings},
    view::View,
};

/// Generates for all proxies of a control plane. Proxies of one gateway share what they have in
/// common, in memory and in work.
pub struct Fleet {
    settings: Settings,
    classes: Mutex<BTreeMap<Identity, Weak<Mutex<Class>>>>,
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Fleet {
    /// A fleet without proxies.
    pub fn new(settings: Settings) -> Arc<Self> {
        Arc::new(Self { settings, classes: Mutex::default() })
    }

    /// A generator for one proxy.
    pub fn generator(self: &Arc<Self>, proxy: Proxy) -> Generator {
        Generator { fleet: Arc::clone(self), proxy, member: None, last: None }
    }

    fn class(&self, identity: &Identity) -> Arc<Mutex<Class>> {
        let mut classes = lock(&self.classes);
        if let Some(class) = classes.get(identity).and_then(Weak::upgrade) {
            return class;
        }
        classes.retain(|_, class| class.strong_count() > 0);
        let class = Arc::new(Mutex::new(Class::new(identity.clone())));
        classes.insert(identity.clone(), Arc::downgrade(&class));
        class
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Generates the configuration of one proxy whenever something changes, with as little work as the
/// change takes: a new endpoint makes one load assignment, a new route its own route configuration.
/// The result is always that of [`crate::generate_after`] with the result before.
pub struct Generator {
    fleet: Arc<Fleet>,
    proxy: Proxy,
    member: Option<Member>,
    last: Option<Finished>,
}

/// The proxy among those that share its configuration.
struct Member {
    /// The Dataplane at that time.
    dataplane: Arc<Resource>,
    class: Arc<Mutex<Class>>,
    /// What of the class this proxy saw last.
    serial: u64,
    plan: Arc<Plan>,
}

impl fmt::Debug for Generator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generator").field("proxy", &self.proxy).finish_non_exhaustive()
    }
}

impl Generator {
    /// Generates from a view. `changed` names the resources that may be others than in the view of
    /// the last call; what is not named is taken to be the same.
    pub fn update(
        &mut self,
        view: &dyn View,
        changed: &[ResourceKey],
    ) -> Result<Arc<Generated>, GenerateError> {
        let mesh = self.proxy.mesh.as_str();
        let relevant = changed.iter().filter(|key| {
            if key.kind == Kind::MESH {
                *key.name == *mesh
            } else {
                key.mesh.is_empty() || *key.mesh == *mesh
            }
        });
        let kinds = relevant.map(|key| key.kind).collect();
        self.generate(view, Some(&kinds))
    }

    /// Generates from a view of which nothing is known, such as the first one.
    pub fn update_all(&mut self, view: &dyn View) -> Result<Arc<Generated>, GenerateError> {
        self.generate(view, None)
    }

    fn generate(
        &mut self,
        view: &dyn View,
        stale: Option<&BTreeSet<Kind>>,
    ) -> Result<Arc<Generated>, GenerateError> {
        let fleet = Arc::clone(&self.fleet);
        let proxy = self.proxy.clone();
        let own = Own::load(&fleet.settings, &proxy, view.get(&Own::key(&proxy)))?;
        let mut issues = Issues::default();
        let admin = admin::generate(&own, &mut issues);
        let known = self.member.as_ref().filter(|m| Arc::ptr_eq(&m.dataplane, &own.dataplane));
        let same_dataplane = known.is_some();
        let (class, seen) = match known {
            Some(member) => (Arc::clone(&member.class), Some(member.serial)),
            None => (fleet.class(&own.identity(admin.port(&own))), None),
        };
        let initial = self.last.as_ref().map(|last| &*last.generated.last_good);
        let (plan, serial) = {
            let mut class = lock(&class);
            // What others had generated since is not what `stale` speaks of.
            let stale = stale.filter(|_| seen == Some(class.serial()));
            let plan = class.refresh(&fleet.settings, view, stale, initial)?;
            (plan, class.serial())
        };
        let last = self.last.as_ref().filter(|_| same_dataplane);
        if let (Some(last), Some(member)) = (last, &mut self.member)
            && Arc::ptr_eq(&member.plan, &plan)
        {
            member.serial = serial;
            return Ok(Arc::clone(&last.generated));
        }
        let finished = Finished::of(&own, &admin, &issues, &plan, last);
        let generated = Arc::clone(&finished.generated);
        self.member = Some(Member { dataplane: own.dataplane, class, serial, plan });
        self.last = Some(finished);
        Ok(generated)
    }
}
