//! How a Dataplane with probes starts (`spec/resources.md` 4.2).

use sunbear_model::{Kind, Spec, Typed};
use sunbear_proto::kuma::mesh::v1alpha1::{
    Dataplane,
    dataplane::networking::inbound::{Health, State},
};

/// The spec of a new Dataplane: inbounds with a probe are not ready before it has succeeded.
pub(crate) fn awaiting_probes(spec: Spec) -> Spec {
    let Typed::Dataplane(dataplane) = spec.typed() else { return spec };
    let probed = |d: &Dataplane| {
        d.networking.iter().flat_map(|n| &n.inbound).any(|i| i.service_probe.is_some())
    };
    if !probed(dataplane) {
        return spec;
    }
    let mut dataplane = dataplane.clone();
    for inbound in dataplane.networking.iter_mut().flat_map(|n| &mut n.inbound) {
        if inbound.service_probe.is_some() {
            inbound.set_state(State::NotReady);
            inbound.health = Some(Health { ready: false });
        }
    }
    Spec::from_message(Kind::DATAPLANE, &*dataplane)
}
