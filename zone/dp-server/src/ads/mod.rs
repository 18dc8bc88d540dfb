//! The two variants of the aggregated discovery protocol as state machines without I/O
//! (`spec/dp-server.md` 8). Requests, new resource sets and the time go in; responses come out
//! when asked for, always made of the latest set, so a slow reader never has a backlog.

pub mod delta;
mod known;
mod order;
mod pace;
pub mod sotw;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use sunbear_proto::envoy::config::core::v3::{ControlPlane, Node};
use sunbear_xds::{ResourceSet, ResourceType, XdsResource};

/// What a stream is told once.
#[derive(Debug, Clone)]
pub struct StreamSettings {
    /// Sent as `control_plane.identifier` in each response.
    pub instance_id: String,
    /// Pause before the next response of a type after the client rejected one.
    pub nack_backoff: Duration,
}

impl StreamSettings {
    pub(crate) fn control_plane(&self) -> Option<ControlPlane> {
        Some(ControlPlane { identifier: self.instance_id.clone() })
    }
}

/// What a request said about an earlier response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: a subscription, a repeated or stale nonce, or a type that is not served.
    None,
    /// The outstanding response of this type was accepted.
    Ack(ResourceType),
    /// It was rejected; the client keeps what it had.
    Nack {
        /// Type of the response.
        resource_type: ResourceType,
        /// The client's words.
        message: String,
    },
}

/// A request that ends the stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// No type URL; on an aggregated stream it is required.
    #[error("type URL is required for ADS")]
    NoTypeUrl,
}

/// What the client has said about one type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TypeStatus {
    /// Version of the last response.
    pub sent: Option<String>,
    /// Version of the last accepted response.
    pub acked: Option<String>,
    /// Present as long as the client refuses something that is still wanted.
    pub rejected: Option<Rejection>,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Version of the rejected response.
    pub version: String,
    /// The client's words.
    pub message: String,
    /// Names of the resources under suspicion.
    pub names: Vec<String>,
}

/// One stream's protocol state.
pub trait Machine: Send + 'static {
    /// What the client sends.
    type Request: Send + 'static;
    /// What the server sends.
    type Response: Send + 'static;

    /// A fresh stream.
    fn new(settings: StreamSettings) -> Self;

    /// The node that a request names, if it does.
    fn node(request: &Self::Request) -> Option<&Node>;

    /// Takes a request.
    fn on_request(&mut self, now: Instant, request: Self::Request)
    -> Result<Answer, ProtocolError>;

    /// Replaces the wanted set.
    fn set_resources(&mut self, now: Instant, set: Arc<ResourceSet>);

    /// The next response, if one may go now.
    fn poll(&mut self, now: Instant) -> Option<(ResourceType, Self::Response)>;

    /// Would [`Machine::poll`] give a response?
    fn wants(&self, now: Instant) -> bool;

    /// When to poll again though nothing happens.
    fn next_deadline(&self, now: Instant) -> Option<Instant>;

    /// The client has acknowledged all of the wanted set.
    fn is_settled(&self) -> bool;

    /// Per requested type, what was sent and answered.
    fn status(&self) -> BTreeMap<ResourceType, TypeStatus>;
}

/// Types whose empty first request means all of them.
pub(crate) fn is_wildcard_type(resource_type: ResourceType) -> bool {
    matches!(resource_type, ResourceType::Cluster | ResourceType::Listener)
}

/// Whether the client has all of the set, by what `holds` says of each resource. Runtime layers
/// are left out where the client does not ask for them, as a bootstrap may do without.
pub(crate) fn has_all(
    set: &ResourceSet,
    asked: impl Fn(ResourceType) -> bool,
    holds: impl Fn(ResourceType, &XdsResource) -> bool,
) -> bool {
    ResourceType::ALL.into_iter().all(|t| {
        if asked(t) {
            set.iter(t).all(|resource| holds(t, resource))
        } else {
            // Clusters and listeners are always asked for in the end; an unasked type is no
            // matter only if there is nothing of it.
            t == ResourceType::Runtime || (!is_wildcard_type(t) && set.len(t) == 0)
        }
    })
}

/// As much of a client's text as is kept.
const MESSAGE_KEPT: usize = 4096;

/// A client's text, cut to a bearable length.
pub(crate) fn clipped(text: &str) -> String {
    let mut end = text.len().min(MESSAGE_KEPT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// Does the client's error text name this resource? A longer name that merely begins or ends
/// alike does not count.
pub(crate) fn text_names(text: &str, name: &str) -> bool {
    if name.is_empty() {
        return false;
    }
    let continues = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + name.len()..].chars().next();
        !before.is_some_and(continues) && !after.is_some_and(continues)
    })
}

#[cfg(test)]
mod tests;

/// Types of which a client looks at a resource again that it has refused. Envoy takes a secret for
/// known once it was refused, and says yes to it without a look.
pub(crate) fn is_tried_again(resource_type: ResourceType) -> bool {
    resource_type != ResourceType::Secret
}
