//! Which route a request takes.

use sunbear_gateway_live::{Call, Case, Gateway, cases};

const CASES: &[Case] = cases! {
    "route/path-exact" => path_exact,
    "route/path-prefix" => path_prefix,
    "route/path-regex" => path_regex,
    "route/method" => method,
    "route/header-exact" => header_exact,
    "route/header-regex" => header_regex,
    "route/header-present" => header_present,
    "route/header-absent" => header_absent,
    "route/query-exact" => query_exact,
    "route/query-regex" => query_regex,
    "route/matches" => matches,
    "route/order-of-paths" => order_of_paths,
    "route/order-of-conditions" => order_of_conditions,
    "route/order-of-equals" => order_of_equals,
    "route/exact-beside-prefix" => exact_beside_prefix,
    "route/hostnames" => hostnames,
    "route/redistribution" => redistribution,
    "route/late-hosts" => late_hosts,
    "route/wildcard-listener-hostname" => wildcard_hosts,
    "route/host-with-port" => host_with_port,
    "route/nothing-matches" => nothing_matches,
    "route/no-routes" => no_routes,
    "route/selectors" => selectors,
    "route/tcp-route-ignored" => tcp_route_ignored,
    "route/change" => change,
    "route/caller-tags" => caller_tags,
};

#[tokio::test(flavor = "multi_thread")]
async fn routes() {
    sunbear_gateway_live::run(CASES).await;
}

pub(crate) fn features() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|case| case.feature)
}

/// Who answers; empty if it is a 404.
pub(crate) async fn answers(call: Call) -> String {
    let answer = call.send().await;
    match answer.status {
        200 => answer.from().to_owned(),
        404 => String::new(),
        _ => panic!("{answer:?}"),
    }
}

/// Asserts who answers for each of these paths; `-` for nobody.
async fn check(port: u16, expected: &str) {
    for line in expected.split(';').map(str::trim).filter(|line| !line.is_empty()) {
        let (target, who) = line.rsplit_once(' ').unwrap();
        let got = answers(Call::get(port, target.trim())).await;
        assert_eq!(got, who.replace('-', ""), "{target}");
    }
}

async fn path_exact(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port = scene.http("[{matches: [{exact: /x}], to: a}, {matches: [{exact: /}], to: b}]");
    scene.apply().await;
    check(port, "/x a; /x?y=1 a; /x/ -; /xy -; /X -; / b; /y -").await;
}

async fn path_prefix(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port =
        scene.http("[{matches: [{prefix: /foo}], to: a}, {matches: [{prefix: /bar/}], to: b}]");
    scene.apply().await;
    check(port, "/foo a; /foo?x a; /foo/ a; /foo/bar a; /foobar -; /fo -").await;
    check(port, "/bar b; /bar/ b; /bar/x b; /barx -; / -").await;
    let mut scene = gateway.scene();
    let port = scene.http("[{matches: [{prefix: /}], to: c}]");
    scene.apply().await;
    check(port, "/ c; /any/where c; /?q c").await;
}

async fn path_regex(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port = scene.http("[{matches: [{regex: '/v[0-9]+(/.*)?'}], to: a}]");
    scene.apply().await;
    check(port, "/v1 a; /v12/x a; /v12?x=1 a; /vx -; /pre/v1 -; /v1x -").await;
}

async fn method(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port = scene.http(
        "[{matches: [{prefix: /, method: POST}], to: a}, {matches: [{method: DELETE}], to: b}]",
    );
    scene.apply().await;
    for (method, who) in [("POST", "a"), ("DELETE", "b"), ("GET", ""), ("PUT", "")] {
        assert_eq!(answers(Call::get(port, "/x").method(method)).await, who, "{method}");
    }
}

/// One route to `a` with these conditions on headers.
async fn with_headers(gateway: &Gateway, conditions: &str) -> u16 {
    let mut scene = gateway.scene();
    let port = scene.http(&format!("[{{matches: [{{prefix: /, headers: {conditions}}}], to: a}}]"));
    scene.apply().await;
    port
}

async fn header(port: u16, value: Option<&str>) -> bool {
    let call = Call::get(port, "/");
    answers(match value {
        Some(value) => call.header("X-Color", value),
        None => call,
    })
    .await
        == "a"
}

async fn header_exact(gateway: &Gateway) {
    let port = with_headers(gateway, "[{match: EXACT, name: x-color, value: red}]").await;
    assert!(header(port, Some("red")).await);
    assert!(!header(port, Some("reddish")).await);
    assert!(!header(port, Some("Red")).await);
    assert!(!header(port, None).await);
}

async fn header_regex(gateway: &Gateway) {
    let port = with_headers(gateway, "[{match: REGEX, name: X-Color, value: 'r.*d'}]").await;
    assert!(header(port, Some("red")).await);
    assert!(header(port, Some("rotten wood")).await);
    assert!(!header(port, Some("redder")).await);
    assert!(!header(port, None).await);
}

async fn header_present(gateway: &Gateway) {
    let port = with_headers(gateway, "[{match: PRESENT, name: x-color}]").await;
    assert!(header(port, Some("any")).await);
    assert!(!header(port, None).await);
}

async fn header_absent(gateway: &Gateway) {
    let port = with_headers(gateway, "[{match: ABSENT, name: x-color}]").await;
    assert!(!header(port, Some("any")).await);
    assert!(header(port, None).await);
}

async fn query_exact(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port = scene.http(
        "[{matches: [{prefix: /, query_parameters: [{match: EXACT, name: q, value: '1'}]}], to: a}]",
    );
    scene.apply().await;
    check(port, "/?q=1 a; /x?p=0&q=1 a; /?q=12 -; /?q -; /?Q=1 -; / -").await;
}

async fn query_regex(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port = scene.http(
        "[{matches: [{prefix: /, queryParameters: [{match: REGEX, name: q, value: '[0-9]+'}]}], \
         to: a}]",
    );
    scene.apply().await;
    check(port, "/?q=1 a; /?q=123 a; /?q=1x -; /?q= -; / -").await;
}

/// Matches of a rule are alternatives, all conditions of a match are required.
async fn matches(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port = scene.http(
        "[{matches: [{exact: /one}, {exact: /two}, {prefix: /three, method: GET, \
         headers: [{match: EXACT, name: x-color, value: red}], \
         query_parameters: [{match: EXACT, name: q, value: '1'}]}], to: a}]",
    );
    scene.apply().await;
    check(port, "/one a; /two a; /three?q=1 -").await;
    let full = || Call::get(port, "/three?q=1").header("x-color", "red");
    assert_eq!(answers(full()).await, "a");
    assert_eq!(answers(full().method("PUT")).await, "");
    assert_eq!(answers(Call::get(port, "/three").header("x-color", "red")).await, "");
}

async fn order_of_paths(gateway: &Gateway) {
    let mut scene = gateway.scene();
    // Declared from the least specific on.
    let port = scene.http(
        "[{matches: [{method: GET}], to: c},
          {matches: [{regex: '/api/.*'}], to: c},
          {matches: [{regex: '/long/.*abc'}], to: b},
          {matches: [{regex: '/long/.*'}], to: a},
          {matches: [{prefix: /api}], to: b},
          {matches: [{prefix: /api/v1}], to: c},
          {matches: [{exact: /api/v1/x}], to: a},
          {matches: [{exact: /api}], to: a}]",
    );
    scene.apply().await;
    // `/` alone is a prefix like every other, and goes before regular expressions.
    check(port, "/api/v1/x a; /api/v1/y c; /api/v1 c; /api/v2 b; /api a; /api/ b").await;
    check(port, "/other c; /long/abc c").await;

    let mut scene = gateway.scene();
    let port = scene.http(
        "[{matches: [{regex: '/long/.*'}], to: a}, {matches: [{regex: '/long/.*abc'}], to: b}]",
    );
    scene.apply().await;
    check(port, "/long/abc b; /long/ab a").await;
}

async fn order_of_conditions(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port = scene.http(
        "[{matches: [{prefix: /}], to: c},
          {matches: [{prefix: /, query_parameters: [{name: q, value: '1'}]}], to: b},
          {matches: [{prefix: /, headers: [{name: x, value: '1'}]}], to: a},
          {matches: [{prefix: /, headers: [{name: x, value: '1'}, {match: PRESENT, name: z}]}], \
           to: b},
          {matches: [{prefix: /, method: PUT}], to: c}]",
    );
    scene.apply().await;
    let get = |target: &str| Call::get(port, target);
    assert_eq!(answers(get("/")).await, "c");
    assert_eq!(answers(get("/?q=1")).await, "b");
    // Headers before query parameters, more before fewer, methods before both.
    assert_eq!(answers(get("/?q=1").header("x", "1")).await, "a");
    assert_eq!(answers(get("/").header("x", "1").header("z", "")).await, "b");
    assert_eq!(answers(get("/").header("x", "1").method("PUT")).await, "c");
}

/// Routes by name, then rules as declared.
async fn order_of_equals(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port = scene.listener("{protocol: HTTP}");
    scene.route(
        "r2",
        "http: {rules: [{matches: [{regex: '/a.'}], to: a}, {matches: [{regex: '/.b'}], to: b}]}",
    );
    scene.apply().await;
    check(port, "/ab a; /xb b").await;
    scene.route("r1", "http: {rules: [{matches: [{regex: '/.b'}], to: c}]}");
    scene.apply().await;
    Call::get(port, "/ab").until("the other route is first", |a| a.from() == "c").await;
    check(port, "/ax a; /xb c").await;
}

/// An exact path takes the place of the path that a prefix would have, whatever its conditions.
async fn exact_beside_prefix(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port = scene.http(
        "[{matches: [{prefix: /foo}], to: a},
          {matches: [{exact: /foo, headers: [{name: x, value: '1'}]}], to: b}]",
    );
    scene.apply().await;
    check(port, "/foo -; /foo/ a").await;
    assert_eq!(answers(Call::get(port, "/foo").header("x", "1")).await, "b");
}

fn at(port: u16, host: &str) -> Call {
    Call::get(port, "/").host(host)
}

/// Listeners with host names on one port, and routes for some of the names.
async fn hostnames(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port = scene.listener("{protocol: HTTP, hostname: one.test}");
    scene.listener(&format!("{{protocol: HTTP, hostname: two.test, port: {port}}}"));
    scene.listener(&format!("{{protocol: HTTP, hostname: '*.three.test', port: {port}}}"));
    scene.route("r1", "http: {hostnames: [one.test], rules: [{matches: [{prefix: /}], to: a}]}");
    scene.route(
        "r2",
        "http: {hostnames: [two.test, x.three.test], rules: [{matches: [{prefix: /}], to: b}]}",
    );
    scene.apply().await;
    assert_eq!(answers(at(port, "one.test")).await, "a");
    assert_eq!(answers(at(port, "ONE.test")).await, "a");
    assert_eq!(answers(at(port, "two.test")).await, "b");
    // The listener's host name is the virtual host; the route's is in it.
    assert_eq!(answers(at(port, "x.three.test")).await, "b");
    assert_eq!(answers(at(port, "y.three.test")).await, "b");
    assert_eq!(answers(at(port, "three.test")).await, "");
    assert_eq!(answers(at(port, "four.test")).await, "");
}

/// Routes with host names leave the listener for all hosts, those without stay.
async fn redistribution(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port = scene.listener("{protocol: HTTP}");
    scene.route("all", "http: {rules: [{matches: [{prefix: /all}], to: c}]}");
    scene.route("r1", "http: {hostnames: [one.test], rules: [{matches: [{prefix: /}], to: a}]}");
    scene.route(
        "r2",
        "http: {hostnames: ['*.two.test'], rules: [{matches: [{prefix: /two}], to: b}]}",
    );
    scene.apply().await;
    assert_eq!(answers(at(port, "one.test")).await, "a");
    assert_eq!(answers(Call::get(port, "/two").host("x.two.test")).await, "b");
    assert_eq!(answers(Call::get(port, "/all").host("other.test")).await, "c");
    // Not on the hosts that others made.
    assert_eq!(answers(Call::get(port, "/all").host("x.two.test")).await, "");
    assert_eq!(answers(at(port, "other.test")).await, "");
    assert_eq!(answers(Call::get(port, "/two").host("two.test")).await, "");
}

/// A wildcard reaches hosts that routes later by name bring up.
async fn late_hosts(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port = scene.listener("{protocol: HTTP}");
    scene.route("r1", "http: {hostnames: ['*.test'], rules: [{matches: [{prefix: /w}], to: a}]}");
    scene.route("r2", "http: {hostnames: [x.test], rules: [{matches: [{prefix: /x}], to: b}]}");
    scene.apply().await;
    assert_eq!(answers(Call::get(port, "/x").host("x.test")).await, "b");
    assert_eq!(answers(Call::get(port, "/w").host("x.test")).await, "a");
    assert_eq!(answers(Call::get(port, "/w").host("y.test")).await, "a");
    assert_eq!(answers(Call::get(port, "/x").host("y.test")).await, "");
}

/// The more exact listener host has the request, even if it has no route for it.
async fn wildcard_hosts(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port = scene.listener("{protocol: HTTP, hostname: '*.test', tags: {host: wild}}");
    scene.listener(&format!(
        "{{protocol: HTTP, hostname: '*.a.test', port: {port}, tags: {{host: a}}}}"
    ));
    scene.listener(&format!(
        "{{protocol: HTTP, hostname: x.a.test, port: {port}, tags: {{host: x}}}}"
    ));
    for (name, host, to) in [("r1", "wild", "a"), ("r2", "a", "b"), ("r3", "x", "c")] {
        scene.add(&format!(
            "{{type: MeshGatewayRoute, name: {name}, \
             selectors: [{{match: {{kuma.io/service: edge, host: {host}}}}}], \
             conf: {{http: {{rules: [{{matches: [{{prefix: /{host}}}], to: {to}}}]}}}}}}"
        ));
    }
    scene.apply().await;
    let get = |host: &str, target: &str| answers(Call::get(port, target).host(host));
    assert_eq!(get("b.test", "/wild").await, "a");
    assert_eq!(get("a.test", "/wild").await, "a");
    assert_eq!(get("y.a.test", "/a").await, "b");
    assert_eq!(get("x.y.a.test", "/a").await, "b");
    assert_eq!(get("x.a.test", "/x").await, "c");
    assert_eq!(get("x.a.test", "/wild").await, "");
    assert_eq!(get("y.a.test", "/wild").await, "");
}

async fn host_with_port(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port = scene.listener("{protocol: HTTP, hostname: one.test}");
    scene.route("r", "http: {rules: [{matches: [{prefix: /}], to: a}]}");
    scene.apply().await;
    let answer = at(port, "one.test:8080").send().await;
    assert_eq!((answer.from(), &*answer.seen().host), ("a", "one.test:8080"));
}

async fn nothing_matches(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port = scene.listener("{protocol: HTTP, hostname: one.test}");
    scene.route("r", "http: {rules: [{matches: [{exact: /x}], to: a}]}");
    scene.apply().await;
    for call in [at(port, "one.test"), at(port, "two.test")] {
        let answer = call.send().await;
        assert_eq!((answer.status, &*answer.body), (404, ""));
        assert_eq!(answer.header("server"), "Kuma Gateway");
    }
}

async fn no_routes(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port = scene.listener("{protocol: HTTP, hostname: one.test}");
    scene.apply().await;
    let answer = at(port, "one.test").send().await;
    let text = "This is a Kuma MeshGateway. No routes match this MeshGateway!\n";
    assert_eq!((answer.status, &*answer.body), (404, text));
}

/// Routes attach by the merged tags of listeners.
async fn selectors(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let one = scene.listener("{protocol: HTTP, tags: {color: red}}");
    let two = scene.listener("{protocol: HTTP, tags: {color: blue}}");
    for (name, tags, path, to) in [
        ("r1", "{kuma.io/service: edge, color: red}", "/", "a"),
        ("r2", "{kuma.io/service: edge, color: '*'}", "/any", "b"),
        ("r3", "{kuma.io/service: other}", "/other", "c"),
        ("r4", "{kuma.io/service: '*', size: '*'}", "/size", "c"),
    ] {
        scene.add(&format!(
            "{{type: MeshGatewayRoute, name: {name}, selectors: [{{match: {tags}}}], \
             conf: {{http: {{rules: [{{matches: [{{prefix: {path}}}], to: {to}}}]}}}}}}"
        ));
    }
    scene.apply().await;
    check(one, "/ a; /any b; /other a; /size a").await;
    check(two, "/ -; /any b; /other -; /size -").await;
}

async fn tcp_route_ignored(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port = scene.http("[{matches: [{exact: /x}], to: a}]");
    scene.route("tcp", "tcp: {rules: [{to: b}]}");
    scene.apply().await;
    check(port, "/x a; / -").await;
}

/// A change of a route arrives without a new listener, and no request fails meanwhile.
async fn change(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port = scene.http("[{matches: [{prefix: /}], to: a}]");
    scene.apply().await;
    assert_eq!(answers(Call::get(port, "/")).await, "a");
    let listeners = gateway.envoy.stat("listener_manager.lds.update_success").await;
    for to in ["b", "c", "a"] {
        scene.route("route", &format!("http: {{rules: [{{matches: [{{prefix: /}}], to: {to}}}]}}"));
        let revision = scene.commit().await;
        loop {
            let answer = Call::get(port, "/").send().await;
            assert_eq!(answer.status, 200);
            if answer.from() == to {
                break;
            }
        }
        gateway.settled(revision).await;
    }
    assert_eq!(gateway.envoy.stat("listener_manager.lds.update_success").await, listeners);
}

/// What clients claim to be does not arrive. (Neither does what the gateway adds: Envoy removes the
/// headers that a route configuration names after it has added those of a cluster.)
async fn caller_tags(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port = scene.http("[{matches: [{prefix: /}], to: a}]");
    scene.apply().await;
    let call = Call::get(port, "/").header("x-kuma-tags", "&kuma.io/service=evil&");
    let seen = call.send().await.seen();
    assert!(!seen.header("x-kuma-tags").contains("evil"), "{seen:?}");
}
