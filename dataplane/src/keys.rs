//! Secrets that Envoy's dump does not show, had from the control plane, so that what needs them can be
//! sealed too. Each is taken in exactly the version that Envoy has accepted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::control_plane::{ControlPlane, Secrets};

/// Name and version of a secret.
pub(crate) type SecretId = (String, String);

/// So often a settled Envoy may have another version of a secret than the control plane offers.
const PATIENCE: u32 = 20;

/// What became of a secret that is not at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Absent {
    /// It will never be; what needs it is left out, for this reason.
    LeaveOut(String),
    /// It may be in a moment; what is sealed stays until then.
    Wait,
}

/// The secrets at hand, and what about the others.
#[derive(Clone)]
pub(crate) struct Held {
    /// As Envoy reads them, by name and version.
    pub(crate) secrets: BTreeMap<SecretId, Value>,
    /// The others.
    pub(crate) absent: Absent,
}

impl fmt::Debug for Held {
    // Never the content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held")
            .field("secrets", &self.secrets.keys())
            .field("absent", &self.absent)
            .finish()
    }
}

impl Held {
    /// Nothing, for this reason.
    pub(crate) fn nothing(reason: &str) -> Held {
        Held { secrets: BTreeMap::new(), absent: Absent::LeaveOut(reason.to_owned()) }
    }
}

/// Asks the control plane for what is missing, and remembers it.
#[derive(Debug)]
pub(crate) struct Keys {
    control_plane: Option<Arc<ControlPlane>>,
    held: Held,
    in_vain: u32,
}

impl Keys {
    /// Without a control plane to ask, nothing is ever held.
    pub(crate) fn new(control_plane: Option<Arc<ControlPlane>>) -> Keys {
        Keys { control_plane, held: Held::nothing("private keys are not to be sealed"), in_vain: 0 }
    }

    /// Looks for these. `urgent`: nothing is sealed yet, so better something than nothing.
    pub(crate) async fn find(&mut self, wanted: &BTreeSet<SecretId>, urgent: bool) -> Held {
        let missing = |held: &Held| wanted.iter().any(|id| !held.secrets.contains_key(id));
        if missing(&self.held)
            && let Some(control_plane) = &self.control_plane
        {
            self.held.absent = match control_plane.secrets().await {
                Secrets::Offered(offered) => {
                    self.held.secrets.retain(|id, _| wanted.contains(id));
                    self.held.secrets.extend(offered);
                    let reason = "the control plane does not offer the version that Envoy has";
                    self.in_vain = if missing(&self.held) { self.in_vain + 1 } else { 0 };
                    if self.in_vain < PATIENCE && !urgent {
                        Absent::Wait
                    } else {
                        Absent::LeaveOut(reason.to_owned())
                    }
                }
                Secrets::Unknown => {
                    let reason = "Envoy's dump does not show it, and this control plane does not \
                                  hand it out";
                    Absent::LeaveOut(reason.to_owned())
                }
                Secrets::Refused(reason) => Absent::LeaveOut(reason),
                Secrets::Unreachable(reason) if urgent => Absent::LeaveOut(reason),
                Secrets::Unreachable(reason) => {
                    tracing::debug!(reason, "cannot get secrets for the sealed configuration");
                    Absent::Wait
                }
            };
        }
        self.held.clone()
    }
}
