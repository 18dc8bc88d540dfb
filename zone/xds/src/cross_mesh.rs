//! Where clients of one mesh find the gateways of another (`spec/gateway-xds.md` 20.4). Nothing else
//! of that mesh is looked at.

use std::sync::Arc;

use sunbear_model::{Kind, Resource, ResourceKey, gateway::ports, label, matching, tags::Tags};
use sunbear_proto::kuma::mesh::v1alpha1::{
    dataplane::networking::gateway::GatewayType, mesh_gateway::listener::Protocol,
};

use crate::{proxy::is_ip, view::View};

/// A place where a mesh takes calls from others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CrossMeshEndpoint {
    /// Tags of the listener, over those of gateway and Dataplane.
    pub tags: Tags,
    /// Address of the gateway's Dataplane.
    pub address: String,
    /// Port of the listener.
    pub port: u16,
}

/// The listeners of gateways of a mesh in this zone that take calls from other meshes, in order of
/// tags and address. Without mTLS in the mesh there are none.
pub fn cross_mesh_endpoints(view: &dyn View, mesh: &str) -> Vec<CrossMeshEndpoint> {
    let has_mtls = view
        .get(&ResourceKey::new(Kind::MESH, "", mesh))
        .and_then(|m| Some(!m.as_mesh()?.mtls.as_ref()?.enabled_backend.is_empty()));
    if has_mtls != Some(true) {
        return Vec::new();
    }
    let gateways = view.list_mesh(Kind::MESH_GATEWAY, mesh);
    let mut endpoints = Vec::new();
    for dataplane in view.list_mesh(Kind::DATAPLANE, mesh) {
        add(&mut endpoints, &dataplane, &gateways);
    }
    endpoints.sort();
    endpoints
}

fn add(
    endpoints: &mut Vec<CrossMeshEndpoint>,
    resource: &Resource,
    gateways: &[Arc<Resource>],
) -> Option<()> {
    let dataplane = resource.as_dataplane()?;
    let networking = dataplane.networking.as_ref()?;
    let own = networking.gateway.as_ref().filter(|g| g.r#type() == GatewayType::Builtin)?;
    let candidates = gateways.iter().filter_map(|gateway| {
        let message = gateway.as_mesh_gateway()?;
        Some((&**gateway, matching::matches_of(&message.selectors), message))
    });
    let gateway = matching::best(candidates, dataplane).filter(|_| is_ip(&networking.address))?;
    let (ports, _) = ports(gateway, &own.tags);
    let crossing = ports.iter().filter(|p| p.cross_mesh && p.protocol == Protocol::Http);
    for (port, listener) in crossing.flat_map(|p| p.listeners.iter().map(|l| (p.number, l))) {
        let mut tags = (*listener.tags).clone();
        if let Some(zone) = resource.label(label::ZONE) {
            tags.entry(label::ZONE.to_owned()).or_insert_with(|| zone.to_owned());
        }
        endpoints.push(CrossMeshEndpoint { tags, address: networking.address.clone(), port });
    }
    Some(())
}
