//! The listeners of a MeshGateway by port, with their tags.

use std::{collections::BTreeMap, sync::Arc};

use sunbear_model::tags::Tags;
use sunbear_proto::kuma::mesh::v1alpha1::{
    MeshGateway,
    mesh_gateway::{Listener, listener::Protocol},
};

use super::Refused;
use crate::hostname;

/// The listeners on one port. What a port can have only once is taken from the first of them, but
/// for the connection limit (deviation D-5).
#[derive(Debug)]
pub(crate) struct Port<'a> {
    pub(crate) number: u16,
    pub(crate) protocol: Protocol,
    pub(crate) cross_mesh: bool,
    pub(crate) connection_limit: Option<u32>,
    pub(crate) listeners: Vec<PortListener<'a>>,
}

/// A listener in its port.
#[derive(Debug, Clone)]
pub(crate) struct PortListener<'a> {
    /// Position in the MeshGateway.
    pub(crate) index: usize,
    pub(crate) spec: &'a Listener,
    /// Host name; `*` if none is given.
    pub(crate) hostname: &'a str,
    /// Tags of the Dataplane, the MeshGateway and the listener; later ones win.
    pub(crate) tags: Arc<Tags>,
}

impl Port<'_> {
    /// Does each host name have a filter chain of its own?
    pub(crate) fn by_hostname(&self) -> bool {
        matches!(self.protocol, Protocol::Https | Protocol::Tls)
    }
}

/// Path of a listener in the MeshGateway.
pub(crate) fn field(index: usize) -> String {
    format!("conf.listeners[{index}]")
}

/// Groups listeners by port, ascending; within a port they keep their order. Those that no port can
/// have are given apart.
pub(crate) fn group<'a>(
    gateway: &'a MeshGateway,
    dataplane_tags: &Tags,
) -> (Vec<Port<'a>>, Vec<(usize, Refused)>) {
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
            refused.push((index, Refused::Conflict));
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
            tags: Arc::new(merged_tags(dataplane_tags, gateway, listener)),
        });
    }
    for port in ports.values_mut() {
        if port.listeners.iter().any(|l| l.spec.cross_mesh != port.cross_mesh) {
            // What is meant for other meshes must never be open to the world.
            port.cross_mesh = false;
            let crossing = port.listeners.extract_if(.., |l| l.spec.cross_mesh);
            refused.extend(crossing.map(|l| (l.index, Refused::MixedCrossMesh)));
        }
    }
    (ports.into_values().collect(), refused)
}

fn number_of(gateway: &MeshGateway, listener: &Listener) -> Result<u16, Refused> {
    let number = u16::try_from(listener.port).ok().filter(|p| *p > 0).ok_or(Refused::Port)?;
    if listener.cross_mesh {
        let tls = listener.tls.as_ref();
        if tls.is_some_and(|tls| tls.mode != 0 || !tls.certificates.is_empty()) {
            return Err(Refused::CrossMeshTls);
        }
        if gateway.selectors.len() > 1 {
            return Err(Refused::Selectors);
        }
    }
    Ok(number)
}

fn hostname_of(listener: &Listener) -> &str {
    if listener.hostname.is_empty() { hostname::ANY } else { &listener.hostname }
}

/// Tags of a listener.
fn merged_tags(dataplane: &Tags, gateway: &MeshGateway, listener: &Listener) -> Tags {
    let mut tags = dataplane.clone();
    for overlay in [&gateway.tags, &listener.tags] {
        tags.extend(overlay.iter().map(|(k, v)| (k.clone(), v.clone())));
    }
    tags
}
