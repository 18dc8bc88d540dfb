//! What one Dataplane counts for.

use std::collections::BTreeSet;

use sunbear_model::{Resource, label, tags::Tags};
use sunbear_proto::kuma::mesh::v1alpha1::{
    Dataplane, DataplaneInsight, DiscoverySubscription,
    dataplane::networking::{Inbound, gateway::GatewayType, inbound, listener},
};

/// What is said of a proxy that has not told its version.
const UNKNOWN: &str = "unknown";

/// How a proxy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Connected, and all that it serves is ready.
    Online,
    /// Connected, and some of what it serves is not ready.
    PartiallyDegraded,
    /// Not connected, or nothing that it serves is ready.
    Offline,
}

/// The status of a Dataplane (`spec/resources.md` 9.5).
pub fn status(dataplane: &Dataplane, insight: Option<&DataplaneInsight>) -> Status {
    let connected =
        |s: &DiscoverySubscription| s.connect_time.is_some() && s.disconnect_time.is_none();
    if !insight.is_some_and(|i| i.subscriptions.iter().any(connected)) {
        return Status::Offline;
    }
    let Some(networking) = &dataplane.networking else { return Status::Offline };
    if networking.gateway.is_some() {
        return Status::Online;
    }
    let inbound = |i: &Inbound| {
        i.state() != inbound::State::NotReady && i.health.as_ref().is_none_or(|h| h.ready)
    };
    let ready = networking.inbound.iter().filter(|i| inbound(i)).count()
        + networking.listeners.iter().filter(|l| l.state() == listener::State::Ready).count();
    match ready {
        0 => Status::Offline,
        n if n == networking.inbound.len() + networking.listeners.len() => Status::Online,
        _ => Status::PartiallyDegraded,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Sidecar,
    BuiltinGateway,
    DelegatedGateway,
}

/// What one Dataplane counts for. Equal values count for the same, so most updates of an insight,
/// which tell of responses sent, end here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    pub(crate) role: Role,
    pub(crate) status: Status,
    pub(crate) kuma_dp: String,
    pub(crate) envoy: String,
    /// CA backend of its certificate; empty: none.
    pub(crate) issued_backend: String,
    pub(crate) supported_backends: BTreeSet<String>,
    /// One per inbound that is not ignored, or the gateway's.
    pub(crate) offers: Vec<Offer>,
}

/// A service that is offered somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) service: String,
    /// Empty: not said.
    pub(crate) zone: String,
}

impl Offer {
    /// None for tags that name no service.
    pub(crate) fn of(tags: &Tags) -> Option<Self> {
        let tag = |name: &str| tags.get(name).cloned().unwrap_or_default();
        let service = tag(label::SERVICE_TAG);
        (!service.is_empty()).then(|| Self { service, zone: tag(label::ZONE) })
    }
}

impl Proxy {
    /// None if the bytes are no Dataplane. An insight whose bytes are none counts as missing.
    pub(crate) fn of(dataplane: &Resource, insight: Option<&Resource>) -> Option<Self> {
        let dataplane = dataplane.as_dataplane()?;
        let insight = insight.and_then(Resource::as_dataplane_insight);
        let networking = dataplane.networking.as_ref();
        let gateway = networking.and_then(|n| n.gateway.as_ref());
        let (role, offers) = match gateway {
            Some(gateway) => {
                let role = match gateway.r#type() {
                    GatewayType::Builtin => Role::BuiltinGateway,
                    GatewayType::Delegated => Role::DelegatedGateway,
                };
                (role, Offer::of(&gateway.tags).into_iter().collect())
            }
            None => {
                let inbounds = networking.into_iter().flat_map(|n| &n.inbound);
                let offers = inbounds
                    .filter(|i| i.state() != inbound::State::Ignored)
                    .filter_map(|i| Offer::of(&i.tags));
                (Role::Sidecar, offers.collect())
            }
        };
        let version = insight.and_then(|i| i.subscriptions.last()).and_then(|s| s.version.as_ref());
        let known = |version: Option<&String>| match version {
            Some(version) if !version.is_empty() => version.clone(),
            Some(_) | None => UNKNOWN.to_owned(),
        };
        let mtls = insight.and_then(|i| i.m_tls.as_ref());
        let supported = mtls.into_iter().flat_map(|m| &m.supported_backends);
        Some(Self {
            role,
            status: status(dataplane, insight),
            kuma_dp: known(version.and_then(|v| v.kuma_dp.as_ref()).map(|v| &v.version)),
            envoy: known(version.and_then(|v| v.envoy.as_ref()).map(|v| &v.version)),
            issued_backend: mtls.map(|m| m.issued_backend.clone()).unwrap_or_default(),
            supported_backends: supported.filter(|b| !b.is_empty()).cloned().collect(),
            offers,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use sunbear_model::{Kind, Typed, rest};

    use super::*;

    fn check(networking: &Value, subscriptions: &Value) -> Status {
        let spec = |kind, value: Value| rest::read_as(kind, &value).unwrap().spec;
        let dataplane = spec(Kind::DATAPLANE, json!({"networking": networking}));
        let insight = spec(Kind::DATAPLANE_INSIGHT, json!({"subscriptions": subscriptions}));
        let (Typed::Dataplane(dataplane), Typed::DataplaneInsight(insight)) =
            (dataplane.typed(), insight.typed())
        else {
            panic!("specs decode")
        };
        assert_eq!(status(dataplane, None), Status::Offline);
        status(dataplane, Some(insight))
    }

    #[test]
    fn status_of_a_proxy() {
        let on = json!([{"connectTime": "2026-01-01T00:00:00Z"}]);
        let off = json!([{"connectTime": "2026-01-01T00:00:00Z", "disconnectTime": "2026-01-01T00:00:00Z"}]);
        let gateway = json!({"gateway": {}});
        assert_eq!(check(&gateway, &on), Status::Online);
        assert_eq!(check(&gateway, &off), Status::Offline);
        assert_eq!(check(&gateway, &json!([{}])), Status::Offline);
        let both = json!([off[0], on[0]]);
        assert_eq!(check(&gateway, &both), Status::Online);

        let ready = json!({"port": 1});
        let probed = json!({"port": 1, "health": {"ready": true}});
        let sick = json!({"port": 1, "health": {"ready": false}});
        let down = json!({"port": 1, "state": "NotReady"});
        let ignored = json!({"port": 1, "state": "Ignored"});
        let inbounds = |list: &[&Value]| json!({"inbound": list});
        assert_eq!(check(&inbounds(&[]), &on), Status::Offline);
        assert_eq!(check(&inbounds(&[&ready, &probed, &ignored]), &on), Status::Online);
        assert_eq!(check(&inbounds(&[&ready]), &off), Status::Offline);
        assert_eq!(check(&inbounds(&[&ready, &down]), &on), Status::PartiallyDegraded);
        assert_eq!(check(&inbounds(&[&sick, &down]), &on), Status::Offline);
        let listener = json!({"inbound": [down], "listeners": [{"type": "ZoneEgress", "port": 1}]});
        assert_eq!(check(&listener, &on), Status::PartiallyDegraded);
        let listener = json!({"listeners": [{"port": 1, "state": "NotReady"}]});
        assert_eq!(check(&listener, &on), Status::Offline);
    }
}
