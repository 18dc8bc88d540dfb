//! What is remembered of a generation, so that the next one need not do again what comes out the
//! same. It holds as long as nothing changes but routes and endpoints; secrets take the chains with
//! them.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    certificate::Chains,
    http::RouteUnit,
    target::{Targets, Units},
};

/// What is remembered of a gateway.
#[derive(Clone, Default)]
pub(crate) struct Memo {
    pub(super) chains: Option<Arc<Chains>>,
    pub(super) targets: Targets,
    pub(super) ports: BTreeMap<u16, PortMemo>,
}

/// What is remembered of a port.
#[derive(Clone, Default)]
pub(super) struct PortMemo {
    /// By name of the route configuration.
    pub(super) routes: BTreeMap<String, RouteUnit>,
    pub(super) clusters: Units,
}

impl Memo {
    /// Forgets what depends on secrets.
    pub(crate) fn without_secrets(&self) -> Self {
        let mut memo = Self { chains: None, ..self.clone() };
        for port in memo.ports.values_mut() {
            port.clusters.retain(|_, unit| unit.has_assignment);
        }
        memo
    }
}
