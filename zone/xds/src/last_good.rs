//! Data that was good the last time a gateway was generated, for when it is missing or damaged the
//! next time (deviation D-4). A listener then keeps its certificates, and an external service what
//! it is called with; all else is generated as it is configured now.
//!
//! Generating again from the same resources, with what the first time left here, gives the same.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::{external::Credentials, tls::ServerCertificate};

/// A filter chain of a gateway: port and host name.
pub(crate) type ChainId = (u16, String);

/// Where a certificate comes from, however often it is read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// A secret of the mesh.
    Secret(String),
    /// The listener itself.
    Listener {
        chain: ChainId,
        /// Which of the certificates of the chain.
        index: usize,
        /// Is it given as a string, rather than as bytes?
        string: bool,
    },
}

/// Everything that is kept for a gateway.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct LastGood {
    pub(crate) certificates: BTreeMap<Source, Arc<ServerCertificate>>,
    /// What a chain used, in order.
    pub(crate) chains: BTreeMap<ChainId, Vec<Source>>,
    /// Credentials by name of the external service.
    pub(crate) credentials: BTreeMap<String, Arc<Credentials>>,
}

impl fmt::Debug for LastGood {
    // Never the content: these are keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LastGood")
            .field("certificates", &self.certificates.keys())
            .field("chains", &self.chains)
            .field("credentials", &self.credentials.keys())
            .finish()
    }
}
