//! The listeners of a MeshGateway by port, with their tags.

use std::{collections::BTreeMap, sync::Arc};

use sunbear_proto::kuma::mesh::v1alpha1::{
    MeshGateway,
    mesh_gateway::{Listener, listener::Protocol},
};

use super::Misfit;
use crate::{hostname, matching, tags::Tags};

/// The listeners on one port. What a port can have only once is taken from the first of them, but
/// for the connection limit (deviation D-5).
#[derive(Debug)]
pub struct Port<'a> {
    /// Its number.
    pub number: u16,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// It is for other meshes.
    pub cross_mesh: bool,
    /// How many connections it takes.
    pub connection_limit: Option<u32>,
    /// In the order of the MeshGateway.
    pub listeners: Vec<PortListener<'a>>,
}

/// A listener in its port.
#[derive(Debug, Clone)]
pub struct PortListener<'a> {
    /// Position in the MeshGateway.
    pub index: usize,
    /// What it says.
    pub spec: &'a Listener,
    /// Host name; `*` if none is given.
    pub hostname: &'a str,
    /// Tags of the Dataplane, the MeshGateway and the listener; later ones win.
    pub tags: Arc<Tags>,
}

impl Port<'_> {
    /// Does each host name have a filter chain of its own?
    pub fn by_hostname(&self) -> bool {
        matches!(self.protocol, Protocol::Https | Protocol::Tls)
    }
}

/// Path of a listener in the MeshGateway.
pub fn listener_field(index: usize) -> String {
    format!("conf.listeners[{index}]")
}

/// Groups listeners by port, ascending; within a port they keep their order. Those that no port can
/// have are given apart.
pub fn ports<'a>(
    gateway: &'a MeshGateway,
    dataplane_tags: &Tags,
) -> (Vec<Port<'a>>, Vec<(usize, Misfit)>) {
    let listeners = gateway.conf.as_ref().map_or(&[][..], |c| &c.listeners);
    let mut ports: BTreeMap<u16, Port<'a>> = BTreeMap::new();
    let mut refused = Vec::new();
    for (index, listener) in listeners.iter().enumerate() {
        let number = match number_of(gateway, listener) {
            Ok(number) => number,
            Err(reason) => {
                refused.push((index, reason));
                continue;
            }
        };
        let port = ports.entry(number).or_insert_with(|| Port {
            number,
            protocol: listener.protocol(),
            cross_mesh: listener.cross_mesh,
            connection_limit: None,
            listeners: Vec::new(),
        });
        if port.protocol != listener.protocol() {
            refused.push((index, Misfit::Conflict));
            continue;
        }
        if port.connection_limit.is_none() {
            port.connection_limit =
                listener.resources.as_ref().map(|r| r.connection_limit).filter(|l| *l > 0);
        }
        port.listeners.push(PortListener {
            index,
            spec: listener,
            hostname: hostname_of(listener),
            tags: Arc::new(matching::overlaid(dataplane_tags, gateway, listener)),
        });
    }
    for port in ports.values_mut() {
        if port.listeners.iter().any(|l| l.spec.cross_mesh != port.cross_mesh) {
            // What is meant for other meshes must never be open to the world.
            port.cross_mesh = false;
            let crossing = port.listeners.extract_if(.., |l| l.spec.cross_mesh);
            refused.extend(crossing.map(|l| (l.index, Misfit::MixedCrossMesh)));
        }
    }
    (ports.into_values().collect(), refused)
}

fn number_of(gateway: &MeshGateway, listener: &Listener) -> Result<u16, Misfit> {
    let number = u16::try_from(listener.port).ok().filter(|p| *p > 0).ok_or(Misfit::Port)?;
    if listener.cross_mesh {
        let tls = listener.tls.as_ref();
        if tls.is_some_and(|tls| tls.mode != 0 || !tls.certificates.is_empty()) {
            return Err(Misfit::CrossMeshTls);
        }
        if gateway.selectors.len() > 1 {
            return Err(Misfit::Selectors);
        }
    }
    Ok(number)
}

fn hostname_of(listener: &Listener) -> &str {
    if listener.hostname.is_empty() { hostname::ANY } else { &listener.hostname }
}
