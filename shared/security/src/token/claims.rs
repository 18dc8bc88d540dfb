//! What tokens say, and which of them no longer count.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize};

/// Claims of a dataplane token. An empty field binds nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DataplaneClaims {
    /// Name of the Dataplane.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Its mesh.
    #[serde(deserialize_with = "or_default")]
    pub mesh: String,
    /// Tags that it must have, with the only values they may have.
    #[serde(deserialize_with = "or_default")]
    pub tags: BTreeMap<String, BTreeSet<String>>,
    /// Kind of proxy; not checked, as in Kuma.
    #[serde(rename = "Type", deserialize_with = "or_default")]
    pub proxy_type: String,
    /// Workload that it must have.
    #[serde(deserialize_with = "or_default")]
    pub workload: String,
}

/// Claims of a zone token.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ZoneClaims {
    /// The zone; empty: every zone.
    #[serde(deserialize_with = "or_default")]
    pub zone: String,
    /// What it is good for: `ingress`, `egress`, `cp`.
    #[serde(deserialize_with = "or_default")]
    pub scope: Vec<String>,
}

/// Claims of a user token.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct UserClaims {
    /// The user.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Groups that the user is in.
    #[serde(deserialize_with = "or_default")]
    pub groups: Vec<String>,
}

/// Go writes an empty list or map as null.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Ids of tokens that were revoked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations(BTreeSet<String>);

impl Revocations {
    /// Nothing is revoked.
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads the text of a revocation secret: ids separated by commas, blanks count, and one line
    /// break at the end does not.
    pub fn parse(text: &str) -> Self {
        let text = text.strip_suffix('\n').unwrap_or(text);
        Self(text.split(',').filter(|id| !id.is_empty()).map(str::to_owned).collect())
    }

    /// Both lists in one. Dataplane tokens have two places for theirs.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Whether a token is revoked.
    pub fn contains(&self, id: &str) -> bool {
        self.0.contains(id)
    }
}
