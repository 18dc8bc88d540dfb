//! What filters of routes do to requests and answers.

use sunbear_gateway_live::{Call, Case, Gateway, cases, eventually};

const CASES: &[Case] = cases! {
    "filter/request-header-set" => request_set,
    "filter/request-header-add" => request_add,
    "filter/request-header-remove" => request_remove,
    "filter/response-header-set" => response_set,
    "filter/response-header-add" => response_add,
    "filter/response-header-remove" => response_remove,
    "filter/request-header-host" => request_host,
    "filter/mirror" => mirror,
    "filter/mirror-percentage" => mirror_percentage,
    "filter/redirect-scheme" => redirect_scheme,
    "filter/redirect-host" => redirect_host,
    "filter/redirect-port" => redirect_port,
    "filter/redirect-status" => redirect_status,
    "filter/redirect-path" => redirect_path,
    "filter/rewrite-prefix" => rewrite_prefix,
    "filter/rewrite-drop-prefix" => rewrite_drop_prefix,
    "filter/rewrite-full" => rewrite_full,
    "filter/rewrite-exact" => rewrite_exact,
    "filter/several" => several,
    "weights/split" => split,
    "weights/zero" => zero,
    "weights/all-zero" => all_zero,
    "weights/same-service-twice" => twice,
    "weights/unresolved" => unresolved,
    "weights/no-instances" => no_instances,
};

#[tokio::test(flavor = "multi_thread")]
async fn filters() {
    sunbear_gateway_live::run(CASES).await;
}

pub(crate) fn features() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|case| case.feature)
}

/// One rule for everything, with these filters, to `a`.
async fn with(gateway: &Gateway, filters: &str) -> u16 {
    let mut scene = gateway.scene();
    let port = scene.http(&format!("[{{matches: [{{prefix: /}}], filters: {filters}, to: a}}]"));
    scene.apply().await;
    port
}

async fn request_set(gateway: &Gateway) {
    let port = with(
        gateway,
        "[{requestHeader: {set: [{name: x-one, value: '1'}]}}, \
          {request_header: {set: [{name: X-Two, value: two words}]}}]",
    )
    .await;
    let seen = Call::get(port, "/").header("x-one", "0").send().await.seen();
    assert_eq!((&*seen.header("x-one"), &*seen.header("x-two")), ("1", "two words"));
}

async fn request_add(gateway: &Gateway) {
    let port = with(gateway, "[{requestHeader: {add: [{name: x-one, value: '1'}]}}]").await;
    let seen = Call::get(port, "/").header("x-one", "0").send().await.seen();
    assert_eq!(seen.header("x-one"), "0,1");
    assert_eq!(Call::get(port, "/").send().await.seen().header("x-one"), "1");
}

async fn request_remove(gateway: &Gateway) {
    let port = with(gateway, "[{requestHeader: {remove: [x-one, X-Two]}}]").await;
    let call = Call::get(port, "/").header("x-one", "1").header("x-two", "2").header("x-six", "6");
    let seen = call.send().await.seen();
    assert!(!seen.headers.contains_key("x-one") && !seen.headers.contains_key("x-two"));
    assert_eq!(seen.header("x-six"), "6");
}

async fn response_set(gateway: &Gateway) {
    let port = with(
        gateway,
        "[{responseHeader: {set: [{name: x-backend, value: hidden}, {name: x-new, value: new}]}}]",
    )
    .await;
    let answer = Call::get(port, "/").send().await;
    assert_eq!((answer.all("x-backend"), answer.header("x-new")), (vec!["hidden"], "new"));
}

async fn response_add(gateway: &Gateway) {
    let port = with(gateway, "[{response_header: {add: [{name: x-backend, value: b}]}}]").await;
    assert_eq!(Call::get(port, "/").send().await.all("x-backend"), ["a", "b"]);
}

async fn response_remove(gateway: &Gateway) {
    let port = with(gateway, "[{responseHeader: {remove: [x-backend]}}]").await;
    let answer = Call::get(port, "/").send().await;
    assert_eq!((answer.all("x-backend").len(), &*answer.seen().backend), (0, "a"));
}

async fn request_host(gateway: &Gateway) {
    for name in ["host", "Host", "':authority'"] {
        let port = with(
            gateway,
            &format!("[{{requestHeader: {{set: [{{name: {name}, value: in.test}}]}}}}]"),
        )
        .await;
        let seen = Call::get(port, "/").host("out.test").send().await.seen();
        assert_eq!(seen.host, "in.test", "{name}");
    }
}

async fn mirror(gateway: &Gateway) {
    let port = with(
        gateway,
        "[{mirror: {percentage: 100, backend: {destination: {kuma.io/service: b}}}}]",
    )
    .await;
    gateway.backend("b").take_seen();
    let call = Call::get(port, "/copied?x=1").method("POST").body("body").header("x-one", "1");
    let answer = call.send().await;
    assert_eq!(answer.from(), "a");
    let copy = eventually("the copy arrives", || gateway.backend("b").take_seen().pop()).await;
    assert_eq!((&*copy.path, &*copy.method, &*copy.body), ("/copied?x=1", "POST", "body"));
    assert_eq!(copy.header("x-one"), "1");
    // What becomes of the copy does not matter to the client.
    gateway.backend("b").answer_next(&[500]);
    assert_eq!(call.send().await.status, 200);
}

async fn mirror_percentage(gateway: &Gateway) {
    let of = |percentage: &str| {
        format!(
            "[{{mirror: {{percentage: {percentage}, \
             backend: {{destination: {{kuma.io/service: b}}}}}}}}]"
        )
    };
    let copies = async |percentage: &str, requests: usize| {
        let port = with(gateway, &of(percentage)).await;
        gateway.backend("b").take_seen();
        for _ in 0..requests {
            Call::get(port, "/").send().await;
        }
        // Copies that are under way arrive before one that is sent after them.
        let last = with(gateway, &of("100")).await;
        Call::get(last, "/last").send().await;
        let mut seen = Vec::new();
        eventually("the last copy arrives", || {
            seen.extend(gateway.backend("b").take_seen());
            seen.iter().any(|s| s.path == "/last").then_some(())
        })
        .await;
        seen.len() - 1
    };
    assert_eq!(copies("0", 20).await, 0);
    let half = copies("50", 100).await;
    // The odds that chance goes astray like this are one in a million.
    assert!((20..=80).contains(&half), "{half}");
}

/// One rule for `/from` that redirects; the answer's status and location.
async fn redirected(gateway: &Gateway, redirect: &str, target: &str) -> (u16, u16, String) {
    let mut scene = gateway.scene();
    let port = scene
        .http(&format!("[{{matches: [{{prefix: /from}}], filters: [{{redirect: {redirect}}}]}}]"));
    scene.apply().await;
    let answer = Call::get(port, target).host("old.test").send().await;
    (port, answer.status, answer.header("location").to_owned())
}

async fn redirect_scheme(gateway: &Gateway) {
    let (port, status, location) =
        redirected(gateway, "{scheme: https, status_code: 301}", "/from/x?q=1").await;
    // The listener's port if none is given; the query goes.
    assert_eq!((status, location), (301, format!("https://old.test:{port}/from/x")));
}

async fn redirect_host(gateway: &Gateway) {
    let (port, status, location) =
        redirected(gateway, "{hostname: new.test, status_code: 301}", "/from/x").await;
    assert_eq!((status, location), (301, format!("http://new.test:{port}/from/x")));
}

async fn redirect_port(gateway: &Gateway) {
    let redirect = "{scheme: https, hostname: new.test, port: 8443, status_code: 301}";
    let (_, _, location) = redirected(gateway, redirect, "/from").await;
    assert_eq!(location, "https://new.test:8443/from");
    let redirect = "{scheme: https, hostname: new.test, port: 443, status_code: 301}";
    let (_, _, location) = redirected(gateway, redirect, "/from").await;
    // Envoy leaves the port out where it goes without saying.
    assert!(["https://new.test/from", "https://new.test:443/from"].contains(&&*location));
}

async fn redirect_status(gateway: &Gateway) {
    for code in [301, 302, 303, 307, 308] {
        let (_, status, _) =
            redirected(gateway, &format!("{{port: 80, status_code: {code}}}"), "/from").await;
        assert_eq!(status, code);
    }
    // A redirect that Envoy cannot give.
    let (_, status, location) = redirected(gateway, "{port: 80, statusCode: 304}", "/from").await;
    assert_eq!((status, &*location), (500, ""));
    let issues = gateway.issues();
    assert!(issues.iter().any(|issue| issue.contains("304")), "{issues:?}");
}

async fn redirect_path(gateway: &Gateway) {
    let path = async |path: &str, target: &str| {
        let (_, status, location) = redirected(
            gateway,
            &format!("{{hostname: new.test, port: 81, status_code: 301, path: {path}}}"),
            target,
        )
        .await;
        assert_eq!(status, 301);
        location.replace("http://new.test:81", "")
    };
    assert_eq!(path("{replaceFull: /new}", "/from/x?q=1").await, "/new");
    assert_eq!(path("{replace_prefix_match: /new}", "/from/x").await, "/new/x");
    assert_eq!(path("{replacePrefixMatch: /new/}", "/from/").await, "/new/");
    assert_eq!(path("{replacePrefixMatch: /new/}", "/from").await, "/new");
    assert_eq!(path("{replacePrefixMatch: /}", "/from/x").await, "/x");
    assert_eq!(path("{replacePrefixMatch: /}", "/from").await, "/");
}

/// What path a backend sees.
async fn path(port: u16, target: &str) -> String {
    let answer = Call::get(port, target).send().await;
    if answer.status == 404 { "-".to_owned() } else { answer.seen().path }
}

async fn rewriting(gateway: &Gateway, matches: &str, rewrite: &str) -> u16 {
    let mut scene = gateway.scene();
    let port = scene
        .http(&format!("[{{matches: [{matches}], filters: [{{rewrite: {rewrite}}}], to: a}}]"));
    scene.apply().await;
    port
}

async fn rewrite_prefix(gateway: &Gateway) {
    for (prefix, with) in [("/foo", "/bar"), ("/foo/", "/bar/"), ("/foo", "/bar/")] {
        let rewrite = format!("{{replacePrefixMatch: {with}}}");
        let port = rewriting(gateway, &format!("{{prefix: {prefix}}}"), &rewrite).await;
        for (target, expected) in [
            ("/foo", "/bar"),
            ("/foo?q=1", "/bar?q=1"),
            ("/foo/", "/bar/"),
            ("/foo/x/y?q=1", "/bar/x/y?q=1"),
            ("/foobar", "-"),
        ] {
            assert_eq!(path(port, target).await, expected, "{prefix} to {with}: {target}");
        }
    }
    let port = rewriting(gateway, "{prefix: /}", "{replacePrefixMatch: /bar}").await;
    assert_eq!(path(port, "/").await, "/bar");
    assert_eq!(path(port, "/x").await, "/bar/x");
}

async fn rewrite_drop_prefix(gateway: &Gateway) {
    let port = rewriting(gateway, "{prefix: /foo}", "{replace_prefix_match: /}").await;
    for (target, expected) in
        [("/foo", "/"), ("/foo/", "/"), ("/foo/x", "/x"), ("/foo?q=1", "/?q=1"), ("/foobar", "-")]
    {
        assert_eq!(path(port, target).await, expected, "{target}");
    }
}

async fn rewrite_full(gateway: &Gateway) {
    for matches in ["{prefix: /foo}", "{exact: /foo}", "{regex: '/f.*'}"] {
        let port = rewriting(gateway, matches, "{replaceFull: /new/path}").await;
        assert_eq!(path(port, "/foo").await, "/new/path", "{matches}");
        assert_eq!(path(port, "/foo?q=1").await, "/new/path?q=1", "{matches}");
    }
    let port = rewriting(gateway, "{prefix: /foo}", "{replaceFull: /new}").await;
    assert_eq!(path(port, "/foo/bar/x").await, "/new");
}

/// A prefix beside an exact path in one rule: each is replaced in its own way.
async fn rewrite_exact(gateway: &Gateway) {
    let port = rewriting(
        gateway,
        "{exact: /one}, {prefix: /foo}, {regex: '/r.*'}",
        "{replacePrefixMatch: /bar}",
    )
    .await;
    // On a regular expression all of the path is replaced.
    assert_eq!(path(port, "/rx/y?q=1").await, "/bar?q=1");
    assert_eq!(path(port, "/one").await, "/bar");
    assert_eq!(path(port, "/foo/x").await, "/bar/x");
    assert_eq!(path(port, "/foo").await, "/bar");
}

/// Filters of different kinds in one rule, and rules that differ in them.
async fn several(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port = scene.http(
        "[{matches: [{prefix: /one}], to: a, filters: [
            {requestHeader: {set: [{name: x-rule, value: one}], remove: [x-gone]}},
            {rewrite: {replacePrefixMatch: /1}},
            {responseHeader: {set: [{name: x-rule, value: one}]}}]},
          {matches: [{prefix: /two}], to: b, filters: [
            {requestHeader: {add: [{name: x-rule, value: two}]}}]}]",
    );
    scene.apply().await;
    let answer = Call::get(port, "/one/x").header("x-gone", "1").send().await;
    let seen = answer.seen();
    assert_eq!(
        (&*seen.path, &*seen.header("x-rule"), answer.header("x-rule")),
        ("/1/x", "one", "one")
    );
    assert!(!seen.headers.contains_key("x-gone"));
    let answer = Call::get(port, "/two/x").header("x-gone", "1").send().await;
    let seen = answer.seen();
    assert_eq!(
        (&*seen.path, &*seen.header("x-rule"), answer.header("x-rule")),
        ("/two/x", "two", "")
    );
    assert_eq!(seen.header("x-gone"), "1");
}

/// A rule that sends to these services with these weights.
async fn weighted(gateway: &Gateway, backends: &[(&str, u32)]) -> u16 {
    let backends: Vec<String> = backends
        .iter()
        .map(|(to, weight)| format!("{{weight: {weight}, destination: {{kuma.io/service: {to}}}}}"))
        .collect();
    let mut scene = gateway.scene();
    let port =
        scene.http(&format!("[{{matches: [{{prefix: /}}], backends: [{}]}}]", backends.join(",")));
    scene.apply().await;
    port
}

/// How many of the answers come from `a`, `b` and `c`.
async fn shares(port: u16, requests: usize) -> [usize; 3] {
    let mut shares = [0; 3];
    for _ in 0..requests {
        let answer = Call::get(port, "/").send().await;
        let index = ["a", "b", "c"].iter().position(|name| *name == answer.from());
        shares[index.unwrap_or_else(|| panic!("{answer:?}"))] += 1;
    }
    shares
}

async fn split(gateway: &Gateway) {
    let port = weighted(gateway, &[("a", 3), ("b", 1)]).await;
    let [a, b, c] = shares(port, 200).await;
    assert!((115..=185).contains(&a) && b > 0 && c == 0, "{a} {b} {c}");
    let port = weighted(gateway, &[("a", 90_000), ("b", 10_000)]).await;
    let [a, b, _] = shares(port, 100).await;
    assert!(a > 60 && a + b == 100, "{a} {b}");
}

async fn zero(gateway: &Gateway) {
    let port = weighted(gateway, &[("a", 0), ("b", 1), ("c", 0)]).await;
    assert_eq!(shares(port, 20).await, [0, 20, 0]);
    let port = weighted(gateway, &[("a", 0)]).await;
    assert_eq!(shares(port, 3).await, [3, 0, 0]);
}

async fn all_zero(gateway: &Gateway) {
    let port = weighted(gateway, &[("a", 0), ("b", 0)]).await;
    let [a, b, _] = shares(port, 60).await;
    assert!(a > 5 && b > 5, "{a} {b}");
}

/// Weights of one destination add up.
async fn twice(gateway: &Gateway) {
    let port = weighted(gateway, &[("a", 5), ("b", 1), ("a", 44)]).await;
    let [a, _, _] = shares(port, 100).await;
    assert!(a > 85, "{a}");
}

/// What cannot be resolved answers 500, its part of the weights.
async fn unresolved(gateway: &Gateway) {
    let port = weighted(gateway, &[("kuma.io/unresolved-backend", 1)]).await;
    assert_eq!(Call::get(port, "/").send().await.status, 500);
    let port = weighted(gateway, &[("kuma.io/unresolved-backend", 1), ("a", 1)]).await;
    let mut statuses = Vec::new();
    for _ in 0..60 {
        statuses.push(Call::get(port, "/").send().await.status);
    }
    let failed = statuses.iter().filter(|status| **status == 500).count();
    assert!(statuses.iter().all(|status| [200, 500].contains(status)), "{statuses:?}");
    assert!((5..=55).contains(&failed), "{failed}");
}

/// A service that nobody offers.
async fn no_instances(gateway: &Gateway) {
    let port = weighted(gateway, &[("nobody", 1)]).await;
    assert_eq!(Call::get(port, "/").send().await.status, 503);
}
