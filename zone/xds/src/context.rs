//! What all generators look at: for the configuration that several proxies share, and for what each
//! proxy has of its own.

use std::{fmt::Write as _, sync::Arc};

use prost::Message;
use sunbear_model::{
    Kind, Resource, ResourceKey, label,
    tags::{self, Tags},
};
use sunbear_proto::kuma::mesh::v1alpha1::{
    Dataplane, Mesh,
    dataplane::{
        Networking,
        networking::{Gateway, Inbound, gateway::GatewayType},
    },
};

use crate::{
    generate::GenerateError,
    inputs::{Inputs, Secrets},
    issue::Issues,
    last_good::LastGood,
    proxy::{Proxy, Settings, is_ip},
};

/// A proxy with its Dataplane, which is a builtin gateway.
pub(crate) struct Own<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) proxy: &'a Proxy,
    pub(crate) dataplane: Arc<Resource>,
}

impl<'a> Own<'a> {
    /// Finds the Dataplane.
    pub(crate) fn load(
        settings: &'a Settings,
        proxy: &'a Proxy,
        dataplane: Option<Arc<Resource>>,
    ) -> Result<Self, GenerateError> {
        let (mesh, name) = (proxy.mesh.clone(), proxy.name.clone());
        let Some(dataplane) = dataplane.filter(|d| d.as_dataplane().is_some()) else {
            return Err(GenerateError::NoDataplane { mesh, name });
        };
        let gateway = dataplane
            .as_dataplane()
            .and_then(|d| d.networking.as_ref())
            .and_then(|n| n.gateway.as_ref());
        if gateway.is_none_or(|g| g.r#type() != GatewayType::Builtin) {
            return Err(GenerateError::NotAGateway { mesh, name });
        }
        Ok(Self { settings, proxy, dataplane })
    }

    /// The key of a proxy's Dataplane.
    pub(crate) fn key(proxy: &Proxy) -> ResourceKey {
        ResourceKey::new(Kind::DATAPLANE, &proxy.mesh, &proxy.name)
    }

    fn networking(&self) -> Option<&Networking> {
        self.dataplane.as_dataplane()?.networking.as_ref()
    }

    /// Where listeners are bound.
    pub(crate) fn address(&self) -> &str {
        self.networking().map_or("", |n| &n.address)
    }

    /// The address that the outside knows the proxy by.
    pub(crate) fn advertised_address(&self) -> &str {
        let advertised = self.networking().map_or("", |n| &n.advertised_address);
        if advertised.is_empty() { self.address() } else { advertised }
    }

    /// The part of the Dataplane on which the shared configuration depends.
    pub(crate) fn identity(&self, taken_port: Option<u16>) -> Identity {
        let networking = self.networking();
        Identity {
            mesh: self.proxy.mesh.clone(),
            gateway: networking
                .and_then(|n| n.gateway.as_ref())
                .map(|g| g.tags.clone())
                .unwrap_or_default(),
            inbounds: networking
                .map(|n| n.inbound.iter().map(|i| i.tags.clone()).collect())
                .unwrap_or_default(),
            ipv6: self.address().contains(':') && is_ip(self.address()),
            taken_port,
        }
    }
}

/// What proxies have in common that share their configuration, but for addresses and the like.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Identity {
    pub(crate) mesh: String,
    pub(crate) gateway: Tags,
    /// Tags of inbounds; a gateway has none, unless another zone's store says so.
    pub(crate) inbounds: Vec<Tags>,
    /// Listeners are bound on an IPv6 address.
    pub(crate) ipv6: bool,
    /// Port that the admin interface has.
    pub(crate) taken_port: Option<u16>,
}

impl Identity {
    /// A Dataplane that has the tags and nothing else.
    fn dataplane(&self) -> Dataplane {
        let inbound =
            self.inbounds.iter().map(|tags| Inbound { tags: tags.clone(), ..Inbound::default() });
        let gateway = Gateway { tags: self.gateway.clone(), r#type: GatewayType::Builtin.into() };
        let networking = Networking {
            inbound: inbound.collect(),
            gateway: Some(gateway),
            ..Networking::default()
        };
        Dataplane { networking: Some(networking), ..Dataplane::default() }
    }
}

/// What the shared configuration is made from.
pub(crate) struct Context<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) identity: &'a Identity,
    pub(crate) inputs: &'a Inputs,
    pub(crate) secrets: &'a Secrets<'a>,
    /// What was good the last time.
    pub(crate) last_good: &'a LastGood,
    /// The tags as a Dataplane, for selectors.
    pub(crate) dataplane: Dataplane,
    /// Service of the gateway.
    pub(crate) service: String,
    /// Value of the header that tells upstream sidecars who calls.
    pub(crate) caller_tags: String,
}

impl<'a> Context<'a> {
    pub(crate) fn new(
        settings: &'a Settings,
        identity: &'a Identity,
        inputs: &'a Inputs,
        secrets: &'a Secrets<'a>,
        last_good: &'a LastGood,
    ) -> Self {
        let dataplane = identity.dataplane();
        let service = tags::identifying_service(&dataplane);
        let caller_tags = caller_tags(&dataplane);
        Self { settings, identity, inputs, secrets, last_good, dataplane, service, caller_tags }
    }

    /// The mesh's spec.
    pub(crate) fn mesh(&self) -> Option<&'a Mesh> {
        self.inputs.mesh.as_mesh()
    }

    /// Name of the mesh.
    pub(crate) fn mesh_name(&self) -> &'a str {
        &self.identity.mesh
    }

    /// Do proxies of the mesh speak mTLS? A permissive mesh counts: upstreams accept it.
    pub(crate) fn mtls(&self) -> bool {
        self.inputs.needs.other_zones
    }

    /// Does traffic that leaves the zone go through its egress?
    pub(crate) fn through_egress(&self) -> bool {
        self.mesh().and_then(|m| m.routing.as_ref()).is_some_and(|r| r.zone_egress)
    }

    /// All of a kind in the mesh.
    pub(crate) fn list(&self, kind: Kind) -> &'a [Arc<Resource>] {
        self.inputs.list(kind)
    }

    /// All of a kind in the mesh, decoded, in name order; for kinds that the model does not
    /// interpret.
    pub(crate) fn decode_all<M: Message + Default>(
        &self,
        kind: &str,
        issues: &mut Issues,
    ) -> Vec<(Arc<Resource>, M)> {
        let mut decoded = Vec::new();
        for resource in self.inputs.named(kind) {
            match M::decode(resource.spec.wire()) {
                Ok(message) => decoded.push((Arc::clone(resource), message)),
                Err(error) => issues.left_out(&resource.key, "", error.to_string()),
            }
        }
        decoded
    }
}

/// `&key=value,value&` for each tag.
fn caller_tags(dataplane: &Dataplane) -> String {
    let mut text = String::new();
    for (key, values) in tags::all_tags(dataplane) {
        let values: Vec<String> = values.into_iter().collect();
        // Writing to a String cannot fail.
        let _ = write!(text, "&{key}={}&", values.join(","));
    }
    text
}

/// The service of a destination.
pub(crate) fn service_of(destination: &Tags) -> Option<&str> {
    destination.get(label::SERVICE_TAG).map(String::as_str).filter(|s| !s.is_empty())
}
