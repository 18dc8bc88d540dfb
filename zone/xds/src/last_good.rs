//! Data that was good the last time a gateway was generated, for when it is missing or damaged the
//! next time (deviation D-4). A listener then keeps its certificates, and an external service what
//! it is called with; all else is generated as it is configured now.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::{external::Credentials, resources::XdsResource};

/// A filter chain of a gateway: port and host name.
pub(crate) type ChainId = (u16, String);

/// A certificate as a chain used it.
#[derive(Clone, PartialEq)]
pub(crate) struct Kept {
    /// Where its data came from.
    pub(crate) source: String,
    /// The secret that Envoy got.
    pub(crate) secret: Arc<XdsResource>,
}

impl Kept {
    /// The secret of the mesh that it came from.
    pub(crate) fn secret_name(&self) -> Option<&str> {
        self.source.strip_prefix("secret:")
    }
}

/// Everything that is kept for a gateway.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct LastGood {
    /// Certificates by chain, in order.
    pub(crate) certificates: BTreeMap<ChainId, Vec<Kept>>,
    /// Credentials by name of the external service.
    pub(crate) credentials: BTreeMap<String, Arc<Credentials>>,
}

impl fmt::Debug for LastGood {
    // Never the content: these are keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LastGood")
            .field("certificates", &self.certificates.keys())
            .field("credentials", &self.credentials.keys())
            .finish()
    }
}

impl LastGood {
    /// The certificate that came from a source, whichever chain used it.
    pub(crate) fn certificate(&self, source: &str) -> Option<&Arc<XdsResource>> {
        let mut all = self.certificates.values().flatten();
        all.find(|kept| kept.source == source).map(|kept| &kept.secret)
    }
}
