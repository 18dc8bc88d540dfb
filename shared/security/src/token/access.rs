//! Whether the claims of a proxy's token allow what the proxy says it is.

use std::collections::{BTreeMap, BTreeSet};

use super::claims::{DataplaneClaims, ZoneClaims};

/// Why a valid token does not fit. The texts are the ones that users of Kuma know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// Another proxy's token.
    #[error("proxy name from requestor: {requestor} is different than in token: {token}")]
    Name {
        /// Name of the resource.
        requestor: String,
        /// Name in the token.
        token: String,
    },
    /// Another mesh's token.
    #[error("proxy mesh from requestor: {requestor} is different than in token: {token}")]
    Mesh {
        /// Mesh of the resource.
        requestor: String,
        /// Mesh in the token.
        token: String,
    },
    /// A tag of the token is missing.
    #[error("dataplane has no tag {tag:?} required by the token")]
    MissingTag {
        /// The tag.
        tag: String,
    },
    /// A tag has a value that the token does not allow.
    #[error(
        "dataplane contains tag {tag:?} with value {value:?} which is not allowed with this token. Allowed values in token are [{}]",
        quoted(allowed)
    )]
    TagValue {
        /// The tag.
        tag: String,
        /// Its value.
        value: String,
        /// The values of the token.
        allowed: BTreeSet<String>,
    },
    /// The workload of the token is missing.
    #[error("dataplane has no workload label required by the token")]
    MissingWorkload,
    /// Another workload's token.
    #[error(
        "dataplane workload {requestor:?} is not allowed with this token. Allowed workload in token is {token:?}"
    )]
    Workload {
        /// Workload of the resource.
        requestor: String,
        /// Workload in the token.
        token: String,
    },
    /// The token is for something else.
    #[error("token cannot be used to authenticate zone entity ({scope} is out of token's scope: [{}])", token.join(" "))]
    Scope {
        /// What it should be for.
        scope: String,
        /// What it is for.
        token: Vec<String>,
    },
    /// Another zone's token.
    #[error("zone from requestor: {requestor} is different than in token: {token}")]
    Zone {
        /// This zone.
        requestor: String,
        /// Zone in the token.
        token: String,
    },
}

/// As Go prints a list of quoted texts.
fn quoted(values: &BTreeSet<String>) -> String {
    let quoted: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
    quoted.join(" ")
}

/// Whether a dataplane token allows a Dataplane. `tags` are all tags of its inbounds and gateway,
/// `workload` is its label `kuma.io/workload`.
///
/// Kuma: pkg/xds/auth/universal/authenticator.go
pub fn check_dataplane(
    claims: &DataplaneClaims,
    name: &str,
    mesh: &str,
    tags: &BTreeMap<String, BTreeSet<String>>,
    workload: Option<&str>,
) -> Result<(), AccessError> {
    if !claims.name.is_empty() && claims.name != name {
        return Err(AccessError::Name { requestor: name.to_owned(), token: claims.name.clone() });
    }
    if !claims.mesh.is_empty() && claims.mesh != mesh {
        return Err(AccessError::Mesh { requestor: mesh.to_owned(), token: claims.mesh.clone() });
    }
    for (tag, allowed) in &claims.tags {
        let values = tags.get(tag).ok_or_else(|| AccessError::MissingTag { tag: tag.clone() })?;
        if let Some(value) = values.iter().find(|value| !allowed.contains(*value)) {
            return Err(AccessError::TagValue {
                tag: tag.clone(),
                value: value.clone(),
                allowed: allowed.clone(),
            });
        }
    }
    if claims.workload.is_empty() {
        return Ok(());
    }
    match workload {
        None => Err(AccessError::MissingWorkload),
        Some(workload) if workload != claims.workload => Err(AccessError::Workload {
            requestor: workload.to_owned(),
            token: claims.workload.clone(),
        }),
        Some(_) => Ok(()),
    }
}

/// Whether a zone token is good for `scope` (`ingress`, `egress`, `cp`) in a zone.
pub fn check_zone(claims: &ZoneClaims, scope: &str, zone: &str) -> Result<(), AccessError> {
    if !claims.scope.iter().any(|known| known == scope) {
        return Err(AccessError::Scope { scope: scope.to_owned(), token: claims.scope.clone() });
    }
    if !claims.zone.is_empty() && claims.zone != zone {
        return Err(AccessError::Zone { requestor: zone.to_owned(), token: claims.zone.clone() });
    }
    Ok(())
}
