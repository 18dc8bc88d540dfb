//! The shell that global and zone control planes have in common: command line, configuration and exit
//! codes, opening the store, serving REST and diagnostics, metrics, certificates, upkeep. Wiring only;
//! what it wires knows nothing of it.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod advice;
mod arguments;
mod metrics;
pub mod program;
pub mod serving;
mod shell;
mod storage;

pub use shell::{OfProxies, Shell};
use sunbear_runtime::host;

/// Level of compatibility that peers and `kumactl` are told.
pub const KUMA_VERSION: &str = "2.14.3";

/// Who this process is.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Name of the host.
    pub hostname: String,
    /// Name of this run of the process.
    pub id: String,
}

impl Instance {
    /// A new run on this host.
    pub fn new() -> Self {
        let hostname = host::host_name();
        let id = host::instance_id(&hostname);
        Self { hostname, id }
    }
}

impl Default for Instance {
    fn default() -> Self {
        Self::new()
    }
}
