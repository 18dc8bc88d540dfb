//! How a connected proxy does, for receipts: never more than its Envoy has acknowledged.

use std::collections::BTreeMap;

use sunbear_store::Revision;
use sunbear_xds::{Issue, ResourceType};
use time::OffsetDateTime;

use crate::{ads::TypeStatus, proxy::ProxyKey};

/// State of one proxy's stream.
#[derive(Debug, Clone, PartialEq)]
pub struct ProxyStatus {
    /// Which proxy.
    pub proxy: ProxyKey,
    /// Since when the stream is open.
    pub connected_at: OffsetDateTime,
    /// Revision of the store up to which changes were looked at for this proxy.
    pub considered_revision: Revision,
    /// Newest revision of which it is known that the proxy acknowledged all that it has for it.
    pub applied_revision: Option<Revision>,
    /// Why the proxy has no configuration, or an older one, if generation failed.
    pub generation_error: Option<String>,
    /// Parts of its configuration that are not as they are configured.
    pub issues: Vec<Issue>,
    /// Per type that it asked for, what it was sent and what it answered.
    pub types: BTreeMap<ResourceType, TypeStatus>,
}

impl ProxyStatus {
    pub(crate) fn new(proxy: ProxyKey, connected_at: OffsetDateTime) -> Self {
        Self {
            proxy,
            connected_at,
            considered_revision: 0,
            applied_revision: None,
            generation_error: None,
            issues: Vec::new(),
            types: BTreeMap::new(),
        }
    }
}
