//! What could not be generated.

use std::{collections::BTreeSet, fmt};

use sunbear_model::ResourceKey;

/// A listener, route entry or other part that could not be generated as it is configured, so that
/// the rest can go on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Issue {
    /// The resource that holds the part.
    pub resource: ResourceKey,
    /// Path of the part in the resource's JSON form, such as `conf.listeners[1]`.
    pub field: String,
    /// Why, as a short fragment.
    pub reason: String,
    /// What proxies get instead.
    pub effect: Effect,
}

/// What proxies get in place of a part that could not be generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Nothing, or an error for the requests in question.
    LeftOut,
    /// What they got when it could be generated last.
    LastGood,
}

impl Effect {
    /// As it is part of insights and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Effect::LeftOut => "left_out",
            Effect::LastGood => "last_good",
        }
    }
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.resource, self.field, self.reason)?;
        match self.effect {
            Effect::LeftOut => Ok(()),
            Effect::LastGood => f.write_str("; the last good version stays in use"),
        }
    }
}

/// Issues as they come up; each once, whatever number of hosts a route is on.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Issues(BTreeSet<Issue>);

impl Issues {
    pub(crate) fn left_out(
        &mut self,
        resource: &ResourceKey,
        field: impl Into<String>,
        reason: impl Into<String>,
    ) {
        self.add(resource, field, reason, Effect::LeftOut);
    }

    pub(crate) fn add(
        &mut self,
        resource: &ResourceKey,
        field: impl Into<String>,
        reason: impl Into<String>,
        effect: Effect,
    ) {
        self.0.insert(Issue {
            resource: resource.clone(),
            field: field.into(),
            reason: reason.into(),
            effect,
        });
    }

    pub(crate) fn extend(&mut self, other: &Issues) {
        self.0.extend(other.0.iter().cloned());
    }

    /// In order of resource and field.
    pub(crate) fn to_sorted(&self) -> Vec<Issue> {
        self.0.iter().cloned().collect()
    }
}
