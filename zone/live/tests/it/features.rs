//! The features of gateways, with the chapters that describe them, each of which has a case.

use std::collections::BTreeSet;

/// Id of a feature, and where it is described: `G` is the chapter of the gateway's specification,
/// `P` that of the policies.
pub(crate) const FEATURES: &[(&str, &str)] = &[
    // Routes.
    ("route/path-exact", "G 7.1, 9"),
    ("route/path-prefix", "G 7.2"),
    ("route/path-regex", "G 7.1, 9"),
    ("route/method", "G 7.1"),
    ("route/header-exact", "G 7.1, 9"),
    ("route/header-regex", "G 7.1, 9"),
    ("route/header-present", "G 7.1, 9"),
    ("route/header-absent", "G 7.1, 9"),
    ("route/query-exact", "G 7.1, 9"),
    ("route/query-regex", "G 7.1, 9"),
    ("route/matches", "G 7"),
    ("route/order-of-paths", "G 8"),
    ("route/order-of-conditions", "G 8"),
    ("route/order-of-equals", "G 7.3, 8"),
    ("route/exact-beside-prefix", "G 7.2"),
    ("route/hostnames", "G 5, 6.3"),
    ("route/redistribution", "G 6.2"),
    ("route/late-hosts", "G 6.2, D-2"),
    ("route/wildcard-listener-hostname", "G 5, 5.1"),
    ("route/host-with-port", "G 9"),
    ("route/nothing-matches", "G 9"),
    ("route/no-routes", "G 9"),
    ("route/selectors", "G 5, 6.1"),
    ("route/tcp-route-ignored", "G 6.1"),
    ("route/change", "G 2.3"),
    ("route/caller-tags", "G 9, 10.1"),
    // Filters.
    ("filter/request-header-set", "G 10.4"),
    ("filter/request-header-add", "G 10.4"),
    ("filter/request-header-remove", "G 10.4"),
    ("filter/response-header-set", "G 10.4"),
    ("filter/response-header-add", "G 10.4"),
    ("filter/response-header-remove", "G 10.4"),
    ("filter/request-header-host", "G 10.4"),
    ("filter/mirror", "G 10.5"),
    ("filter/mirror-percentage", "G 10.5"),
    ("filter/redirect-scheme", "G 10.2"),
    ("filter/redirect-host", "G 10.2"),
    ("filter/redirect-port", "G 10.2"),
    ("filter/redirect-status", "G 10.2, D-10"),
    ("filter/redirect-path", "G 7.2, 10.2"),
    ("filter/rewrite-prefix", "G 7.2, 10.3"),
    ("filter/rewrite-drop-prefix", "G 7.2, 10.3"),
    ("filter/rewrite-full", "G 10.3"),
    ("filter/rewrite-exact", "G 7.2, D-7"),
    ("filter/several", "G 10.7"),
    ("weights/split", "G 10.1"),
    ("weights/zero", "G 10.1, D-9"),
    ("weights/all-zero", "G 10.1, D-9"),
    ("weights/same-service-twice", "G 10.1, D-8"),
    ("weights/unresolved", "G 10.6"),
    ("weights/no-instances", "G 17.1"),
];

#[test]
fn every_feature_has_a_case() {
    let listed: BTreeSet<&str> = FEATURES.iter().map(|(id, _)| *id).collect();
    assert_eq!(listed.len(), FEATURES.len(), "a feature is listed twice");
    let tested: BTreeSet<&str> =
        crate::routes::features().chain(crate::filters::features()).collect();
    assert_eq!(listed, tested);
}
