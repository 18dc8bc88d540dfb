//! Weights of the backends of a rule.

use std::collections::BTreeMap;

use super::target::Backend;

/// Clusters with their weights, by name. Weights of one cluster are added (D-8).
#[derive(Default, Clone)]
pub(crate) struct Weights(BTreeMap<String, (Backend, u64)>);

/// The sum of weights is more than Envoy's 32 bits hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sum of weights is too large")]
pub(crate) struct TooHeavy;

impl Weights {
    pub(super) fn add(&mut self, backend: Backend, weight: u32) {
        let entry = self.0.entry(backend.name().to_owned()).or_insert((backend, 0));
        entry.1 += u64::from(weight);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// For HTTP: all zero becomes one each, otherwise zeros stay (D-9).
    pub(super) fn http(self) -> Result<Vec<(Backend, u32)>, TooHeavy> {
        let none = self.0.values().all(|(_, w)| *w == 0);
        let total: u64 = self.0.values().map(|(_, w)| w).sum();
        if u32::try_from(total).is_err() {
            return Err(TooHeavy);
        }
        let weight = |w| if none { 1 } else { u32::try_from(w).unwrap_or(1) };
        Ok(self.0.into_values().map(|(backend, w)| (backend, weight(w))).collect())
    }

    /// For TCP: as HTTP, but zeros beside others are dropped, as Envoy refuses them.
    pub(super) fn tcp(self) -> Result<Vec<(Backend, u32)>, TooHeavy> {
        let mut weights = self.http()?;
        weights.retain(|(_, weight)| *weight > 0);
        Ok(weights)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Backend, TooHeavy, Weights};
    use crate::{external::Reach, gateway::target::Target, protocol::Protocol};

    fn weights(backends: &[(&str, u32)]) -> Weights {
        let mut weights = Weights::default();
        for (name, weight) in backends {
            let target = Target::named(name, Protocol::Http);
            weights.add(Backend::Target(Arc::new(target), Reach::Mesh), *weight);
        }
        weights
    }

    fn text(result: Result<Vec<(Backend, u32)>, TooHeavy>) -> String {
        let items: Vec<String> = result
            .unwrap_or_default()
            .iter()
            .map(|(backend, weight)| format!("{}={weight}", backend.name()))
            .collect();
        items.join(" ")
    }

    #[test]
    fn normalised() {
        for (backends, http, tcp) in [
            (&[("a", 0)][..], "a=1", "a=1"),
            (&[("b", 0), ("a", 0)], "a=1 b=1", "a=1 b=1"),
            (&[("b", 0), ("a", 5)], "a=5 b=0", "a=5"),
            (&[("a", 1), ("b", 2), ("a", 3)], "a=4 b=2", "a=4 b=2"),
        ] {
            assert_eq!(text(weights(backends).http()), http);
            assert_eq!(text(weights(backends).tcp()), tcp);
        }
        assert!(weights(&[("a", u32::MAX), ("b", 1)]).http().is_err());
    }
}
