//! Choosing one of many for a Dataplane by selectors (Kuma: pkg/core/policy).

use std::sync::Arc;

use sunbear_proto::kuma::mesh::v1alpha1::{Dataplane, Selector};

use crate::{
    label,
    resource::Resource,
    tags::{self, Rank, Tags},
};

/// The candidate that selects the Dataplane best: by rank, then the youngest, then the first by
/// name. Candidates come in name order, with their selectors and whatever goes with them. One
/// without selectors selects everything, with the lowest rank.
pub fn best<'a, T, S>(
    candidates: impl IntoIterator<Item = (&'a Resource, S, T)>,
    dataplane: &Dataplane,
) -> Option<T>
where
    S: IntoIterator<Item = &'a Tags>,
{
    let mut best: Option<(&Resource, T, Rank)> = None;
    for (candidate, selectors, what) in candidates {
        let mut any = Some(Rank::default());
        let mut rank = None;
        for selector in selectors {
            any = None;
            if tags::matches_dataplane(selector, dataplane) {
                rank = rank.max(Some(Rank::of(selector)));
            }
        }
        let Some(rank) = rank.or(any) else { continue };
        let better = best.as_ref().is_none_or(|(chosen, _, highest)| {
            rank > *highest || (rank == *highest && candidate.created_at > chosen.created_at)
        });
        if better {
            best = Some((candidate, what, rank));
        }
    }
    best.map(|(_, what, _)| what)
}

/// The tags of selectors, as [`best`] takes them.
pub fn matches_of(selectors: &[Selector]) -> impl Iterator<Item = &Tags> {
    selectors.iter().map(|s| &s.r#match)
}

/// The MeshGateway of a Dataplane, of those from the global and from the Dataplane's own zone.
pub fn gateway_of<'a>(
    gateways: impl IntoIterator<Item = &'a Arc<Resource>>,
    dataplane: &Resource,
) -> Option<&'a Arc<Resource>> {
    let zone = dataplane.label(label::ZONE);
    let near = |gateway: &Resource| {
        gateway.label(label::ORIGIN) != Some(label::ORIGIN_ZONE)
            || zone.is_none_or(|zone| gateway.label(label::ZONE).is_none_or(|z| z == zone))
    };
    let candidates = gateways.into_iter().filter(|g| near(g)).filter_map(|g| {
        let message = g.as_mesh_gateway()?;
        Some((&**g, matches_of(&message.selectors), g))
    });
    best(candidates, dataplane.as_dataplane()?)
}

/// Does the MeshGateway select the Dataplane, whatever others do?
pub fn selects_dataplane(selectors: &[Selector], dataplane: &Dataplane) -> bool {
    selectors.is_empty() || selectors.iter().any(|s| tags::matches_dataplane(&s.r#match, dataplane))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sunbear_proto::kuma::mesh::v1alpha1::{
        Dataplane, MeshGateway, Selector,
        dataplane::{Networking, networking::Gateway},
    };
    use time::{Duration, OffsetDateTime};

    use super::{best, matches_of};
    use crate::{Kind, Resource, tags::Tags, testing};

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
        let candidates = candidates.iter().filter_map(|r| {
            Some((&**r, matches_of(&r.as_mesh_gateway()?.selectors), &*r.key.name))
        });
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
