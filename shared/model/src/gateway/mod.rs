//! Builtin gateways: their listeners by port, the hosts on them and the routes that each host serves
//! (`spec/gateway-xds.md` 4 to 6). The generator configures what comes out, inspection shows it.

use std::sync::Arc;

use sunbear_proto::kuma::mesh::v1alpha1::MeshGatewayRoute;

use crate::resource::Resource;

mod host;
mod port;

pub use host::{Group, Host, groups, http_of, keys, tcp_of};
pub use port::{Port, PortListener, listener_field, ports};

/// A route, with its resource.
#[derive(Debug, Clone, Copy)]
pub struct Route<'a> {
    /// The resource.
    pub resource: &'a Arc<Resource>,
    /// What it says.
    pub message: &'a MeshGatewayRoute,
}

impl<'a> Route<'a> {
    /// Reads a resource, if it is a route.
    pub fn of(resource: &'a Arc<Resource>) -> Option<Self> {
        Some(Self { resource, message: resource.as_mesh_gateway_route()? })
    }
}

/// Why no port can have a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// Not a port number.
    #[error("the port has to be between 1 and 65535")]
    Port,
    /// The first listener on the port speaks something else.
    #[error("protocol conflicts with other listeners on this port")]
    Conflict,
    /// Some listeners on the port are for other meshes, some are not.
    #[error("crossMesh must be the same for all listeners of a port")]
    MixedCrossMesh,
    /// Listeners for other meshes have the certificates of the mesh.
    #[error("tls must be empty with crossMesh")]
    CrossMeshTls,
    /// A gateway for other meshes is one service.
    #[error("there can be at most one selector with crossMesh")]
    Selectors,
}
