//! The services of a mesh.

use std::{collections::BTreeMap, sync::Arc};

use sunbear_model::Resource;
use sunbear_proto::kuma::mesh::v1alpha1::{
    ServiceInsight,
    service_insight::{Service as Message, service},
};

use crate::{
    proxy::{Offer, Proxy, Role, Status},
    stat::{Bag, Step},
};

/// What one ExternalService counts for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct External {
    address: String,
    /// None if its tags name no service.
    offer: Option<Offer>,
}

impl External {
    /// None if the bytes are no ExternalService.
    pub(crate) fn of(resource: &Resource) -> Option<Self> {
        let sunbear_model::Typed::ExternalService(external) = resource.spec.typed() else {
            return None;
        };
        let address = external.networking.as_ref().map(|n| n.address.clone()).unwrap_or_default();
        Some(Self { address, offer: Offer::of(&external.tags) })
    }
}

/// Who says what a service is: the first of them. Kuma goes through Dataplanes and then through
/// ExternalServices, each by name.
type Source = (Origin, Arc<str>, usize);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    Dataplane,
    ExternalService,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Claim {
    kind: service::Type,
    address: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Service {
    claims: BTreeMap<Source, Claim>,
    online: u32,
    offline: u32,
    issued_backends: Bag,
    zones: Bag,
}

/// The services of a mesh, by name. Holds none that nobody offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Services(BTreeMap<String, Service>);

impl Services {
    /// In a mesh of mode `Exclusive`, other types stand for all services but delegated gateways.
    pub(crate) fn count_proxy(
        &mut self,
        name: &Arc<str>,
        proxy: &Proxy,
        exclusive: bool,
        step: Step,
    ) {
        let kind = match proxy.role {
            Role::Sidecar => service::Type::Internal,
            Role::BuiltinGateway => service::Type::GatewayBuiltin,
            Role::DelegatedGateway => service::Type::GatewayDelegated,
        };
        if exclusive && kind != service::Type::GatewayDelegated {
            return;
        }
        for (i, offer) in proxy.offers.iter().enumerate() {
            let source = (Origin::Dataplane, Arc::clone(name), i);
            let claim = Claim { kind, address: String::new() };
            self.count(offer, source, claim, step, |service| {
                step.on(match proxy.status {
                    Status::Online => &mut service.online,
                    Status::PartiallyDegraded | Status::Offline => &mut service.offline,
                });
                if !proxy.issued_backend.is_empty() {
                    service.issued_backends.count(&proxy.issued_backend, step);
                }
            });
        }
    }

    pub(crate) fn count_external(
        &mut self,
        name: &Arc<str>,
        external: &External,
        exclusive: bool,
        step: Step,
    ) {
        let (Some(offer), false) = (&external.offer, exclusive) else { return };
        let source = (Origin::ExternalService, Arc::clone(name), 0);
        let claim = Claim { kind: service::Type::External, address: external.address.clone() };
        self.count(offer, source, claim, step, |_| {});
    }

    fn count(
        &mut self,
        offer: &Offer,
        source: Source,
        claim: Claim,
        step: Step,
        more: impl FnOnce(&mut Service),
    ) {
        if !self.0.contains_key(&offer.service) {
            self.0.insert(offer.service.clone(), Service::default());
        }
        let Some(service) = self.0.get_mut(&offer.service) else { return };
        match step {
            Step::Add => service.claims.insert(source, claim),
            Step::Remove => service.claims.remove(&source),
        };
        if !offer.zone.is_empty() {
            service.zones.count(&offer.zone, step);
        }
        more(service);
        if service.claims.is_empty() {
            self.0.remove(&offer.service);
        }
    }

    pub(crate) fn message(&self) -> ServiceInsight {
        let services = self.0.iter().map(|(name, service)| (name.clone(), service.message()));
        ServiceInsight { services: services.collect() }
    }
}

impl Service {
    fn message(&self) -> Message {
        let first = self.claims.values().next();
        let kind = first.map_or(service::Type::Internal, |claim| claim.kind);
        let status = match kind {
            service::Type::External => service::Status::NotAvailable,
            service::Type::Internal
            | service::Type::GatewayDelegated
            | service::Type::GatewayBuiltin => match (self.online, self.offline) {
                (0, _) => service::Status::Offline,
                (_, 0) => service::Status::Online,
                (_, _) => service::Status::PartiallyDegraded,
            },
        };
        Message {
            status: status.into(),
            // The total is left to readers. `kumactl` wants this to be there, even if empty.
            dataplanes: Some(service::DataplaneStat {
                total: 0,
                online: self.online,
                offline: self.offline,
            }),
            issued_backends: self.issued_backends.counts().clone(),
            service_type: kind.into(),
            address_port: first.map(|claim| claim.address.clone()).unwrap_or_default(),
            zones: self.zones.names().cloned().collect(),
        }
    }
}
