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
    // Listeners.
    ("listener/http", "G 11, 12"),
    ("listener/all-protocols", "G 11.2"),
    ("listener/connection-limit", "G 11.3"),
    ("listener/connection-limit-of-a-later-one", "G 5, D-5"),
    ("listener/connection-limit-changes", "G 11.3"),
    ("listener/comes-and-goes", "G 2.3"),
    ("listener/tags", "G 5, D-1"),
    // TLS.
    ("tls/terminate", "G 9, 13"),
    ("tls/versions", "G 13"),
    ("tls/rsa-and-ecdsa", "G 13.1"),
    ("tls/inline", "G 13.1"),
    ("tls/inline-string", "G 13.1"),
    ("tls/inline-on-two-ports", "G 13.1, D-11"),
    ("tls/file", "G 13.1, D-4"),
    ("tls/rotation", "G 13.1"),
    ("tls/sni-matches", "G 5, 13"),
    ("tls/sni-wildcard", "G 5, 13"),
    ("tls/sni-isolates", "G 5, 11.2"),
    ("tls/sni-mismatch", "G 13"),
    ("tls/no-sni", "G 13"),
    ("tls/redistribution", "G 6.2"),
    ("tls/plain-text", "G 13"),
    ("tls/tcp-terminate", "G 13, 14"),
    ("tls/tcp-passthrough", "G 13, 14"),
    ("tls/tcp-rotation", "G 13.1"),
    // TCP.
    ("tcp/proxy", "G 14"),
    ("tcp/weights", "G 14"),
    ("tcp/zero-weights", "G 10.1, D-9"),
    ("tcp/several-routes", "G 14"),
    ("tcp/no-route", "G 14"),
    ("tcp/change", "G 14"),
    ("tcp/connect-attempts", "G 22.5"),
    // The unit of failure.
    ("failure/secret-missing", "D-4"),
    ("failure/secret-breaks", "D-4"),
    ("failure/inline-breaks", "D-4"),
    ("failure/regex", "G 9, D-4"),
    ("failure/tls-without-mode", "G 13, D-4"),
    ("failure/bad-backends", "G 10.2, D-4, D-10"),
    ("failure/cross-mesh-without-mtls", "G 20.1, D-4"),
    ("failure/port-taken", "D-4"),
    // mTLS as a client.
    ("mtls/identity", "G 16, 21"),
    ("mtls/server-name", "G 16"),
    ("mtls/impostor", "G 16"),
    ("mtls/other-authority", "G 16"),
    ("mtls/turned-on", "G 16"),
    ("mtls/permission", "G 22.9, P 6.3"),
    ("mtls/other-zone", "G 17.2, 17.3, 19"),
    ("mtls/egress", "G 16, 18.1"),
    // Other meshes.
    ("cross-mesh/certificates", "G 20.1"),
    ("cross-mesh/hosts", "G 20.2"),
    ("cross-mesh/mesh-comes-and-goes", "G 20.6, 21"),
    ("cross-mesh/permissions", "G 20.1, 22.9"),
    ("cross-mesh/backends-of-others", "G 20.6"),
];

#[test]
fn every_feature_has_a_case() {
    let listed: BTreeSet<&str> = FEATURES.iter().map(|(id, _)| *id).collect();
    assert_eq!(listed.len(), FEATURES.len(), "a feature is listed twice");
    let tested: BTreeSet<&str> = crate::routes::features()
        .chain(crate::filters::features())
        .chain(crate::listeners::features())
        .chain(crate::tls::features())
        .chain(crate::tcp::features())
        .chain(crate::failures::features())
        .chain(crate::cross_mesh::features())
        .chain(crate::mtls::features())
        .collect();
    assert_eq!(listed, tested);
}
