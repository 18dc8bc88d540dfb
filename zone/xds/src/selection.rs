//! Choosing one of many for a Dataplane by selectors (Kuma: pkg/core/policy).

use sunbear_model::{
    Resource,
    tags::{self, Rank},
};
use sunbear_proto::kuma::mesh::v1alpha1::{Dataplane, Selector};

/// The candidate that selects the Dataplane best: by rank, then the youngest, then the first by
/// name. Candidates come in name order, with their selectors and whatever goes with them.
pub(crate) fn best<'a, T>(
    candidates: impl IntoIterator<Item = (&'a Resource, &'a [Selector], T)>,
    dataplane: &Dataplane,
) -> Option<T> {
    let mut best: Option<(&Resource, T, Rank)> = None;
    for (candidate, selectors, what) in candidates {
        // Without selectors everything matches.
        let any = selectors.is_empty().then(Rank::default);
        let matching = selectors
            .iter()
            .filter(|s| tags::matches_dataplane(&s.r#match, dataplane))
            .map(|s| Rank::of(&s.r#match));
        let Some(rank) = matching.chain(any).max() else { continue };
        let better = best.as_ref().is_none_or(|(chosen, _, highest)| {
            rank > *highest || (rank == *highest && candidate.created_at > chosen.created_at)
        });
        if better {
            best = Some((candidate, what, rank));
        }
    }
    best.map(|(_, what, _)| what)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sunbear_model::{Kind, Resource, tags::Tags};
    use sunbear_proto::kuma::mesh::v1alpha1::{
        Dataplane, MeshGateway, Selector,
        dataplane::{Networking, networking::Gateway},
    };
    use time::{Duration, OffsetDateTime};

    use super::best;
    use crate::testing;

    fn tags(pairs: &[(&str, &str)]) -> Tags {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    /// Candidates by creation time in seconds and selectors; they are named `0`, `1` and so on.
    fn check(candidates: &[(i64, &[&[(&str, &str)]])], want: Option<&str>) {
        let candidates: Vec<Arc<Resource>> = candidates
            .iter()
            .enumerate()
            .map(|(index, (created, selectors))| {
                let message = MeshGateway {
                    selectors: selectors.iter().map(|s| Selector { r#match: tags(s) }).collect(),
                    ..MeshGateway::default()
                };
                let name = index.to_string();
                let mut resource = testing::resource(Kind::MESH_GATEWAY, &name, &message);
                resource.created_at = OffsetDateTime::UNIX_EPOCH + Duration::seconds(*created);
                Arc::new(resource)
            })
            .collect();
        let gateway = Gateway { tags: tags(&[("s", "edge"), ("v", "1")]), ..Gateway::default() };
        let dataplane = Dataplane {
            networking: Some(Networking { gateway: Some(gateway), ..Networking::default() }),
            ..Dataplane::default()
        };
        let candidates = candidates
            .iter()
            .filter_map(|r| Some((&**r, r.as_mesh_gateway()?.selectors.as_slice(), &*r.key.name)));
        assert_eq!(best(candidates, &dataplane), want);
    }

    #[test]
    fn rank_then_youth_then_name() {
        let (edge, both, any) = ([("s", "edge")], [("s", "edge"), ("v", "*")], [("s", "*")]);
        check(&[], None);
        check(&[(1, &[&[("s", "other")]])], None);
        check(&[(1, &[&both]), (2, &[&edge])], Some("0"));
        check(&[(1, &[&any]), (0, &[&edge])], Some("1"));
        check(&[(1, &[&edge]), (2, &[&edge])], Some("1"));
        check(&[(2, &[&edge]), (1, &[&edge])], Some("0"));
        check(&[(1, &[&edge]), (1, &[&edge])], Some("0"));
        // Without selectors everything matches, with the lowest rank.
        check(&[(1, &[]), (2, &[]), (0, &[&[]])], Some("1"));
        check(&[(9, &[]), (1, &[&any])], Some("1"));
        // The best of several selectors counts.
        check(&[(2, &[&edge]), (1, &[&edge, &both])], Some("1"));
    }
}
