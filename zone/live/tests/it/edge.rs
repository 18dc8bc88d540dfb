//! Clients that claim what they are not, or ask in crooked ways.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use sunbear_gateway_live::{
    Authority, Call, Case, Gateway, OUTSIDE, Pair, Scene, Tls, cases, dial,
};

const CASES: &[Case] = cases! {
    "edge/strangers" => strangers,
    "edge/claims-of-outsiders" => claims,
    "edge/claims-without-effect" => without_effect,
    "edge/address" => address,
    "edge/client-certificate-header" => client_certificate,
    "edge/underscores" => underscores,
    "edge/paths" => paths,
    "edge/header-limits" => header_limits,
    "edge/connect-and-upgrades" => upgrades,
    "edge/old-versions" => old_versions,
};

#[tokio::test(flavor = "multi_thread")]
async fn edge() {
    sunbear_gateway_live::run(CASES).await;
}

pub(crate) fn features() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|case| case.feature)
}

const ALL_TO_A: &str = "[{matches: [{prefix: /}], to: a}]";

/// A listener for `one.test` whose only route leads to `a`.
async fn start(gateway: &Gateway) -> (Scene<'_>, u16) {
    let mut scene = gateway.scene();
    let port = scene.listener("{protocol: HTTP, hostname: one.test}");
    scene.route("route", &format!("http: {{rules: {ALL_TO_A}}}"));
    scene.apply().await;
    (scene, port)
}

/// Statuses of all answers to these bytes; the connection has to end.
pub(crate) async fn statuses(port: u16, text: &str) -> Vec<String> {
    let mut stream = dial(port, None).await.unwrap();
    // A server that has heard enough ends the connection while this is under way.
    let _ = stream.send(text).await;
    let answers = stream.rest().await;
    let lines = answers.split("HTTP/1.1 ").skip(1);
    lines.map(|line| line.chars().take(3).collect()).collect()
}

/// Hosts that no listener has reach nobody, however they are written.
async fn strangers(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let pair = Pair::ecdsa("one.test");
    scene.secret("cert", &pair.text());
    let plain = scene.listener("{protocol: HTTP, hostname: one.test}");
    let https = scene.listener(
        "{protocol: HTTPS, hostname: one.test, \
         tls: {mode: TERMINATE, certificates: [{secret: cert}]}}",
    );
    scene.route("route", &format!("http: {{rules: {ALL_TO_A}}}"));
    scene.apply().await;
    let tls = Tls::to("one.test");
    let status = async |port: u16, tls: Option<&Tls>, head: &str| {
        let mut stream = dial(port, tls).await.unwrap();
        stream.send(&format!("{head}connection: close\r\n\r\n")).await.unwrap();
        let line = stream.line().await.unwrap_or_default();
        line.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    for (port, tls) in [(plain, None), (https, Some(&tls))] {
        for host in ["one.test", "ONE.test", "one.test:80"] {
            let head = format!("GET / HTTP/1.1\r\nhost: {host}\r\n");
            assert_eq!(status(port, tls, &head).await, "200", "{host}");
        }
        assert_eq!(gateway.backend("a").take_seen().len(), 3);
        for host in [
            "two.test",
            "one.test.",
            "x.one.test",
            "xone.test",
            "one.test@two.test",
            "two.test@one.test",
            "one.test,two.test",
            "one.test:80:80",
            "127.0.0.1",
            "[::1]",
            "..",
            "*",
            "",
        ] {
            let head = format!("GET / HTTP/1.1\r\nhost: {host}\r\n");
            assert_eq!(status(port, tls, &head).await, "404", "{host}");
        }
        for (what, head, expected) in [
            ("two hosts", "GET / HTTP/1.1\r\nhost: one.test\r\nhost: two.test\r\n", "404"),
            ("the URI's host counts", "GET http://two.test/ HTTP/1.1\r\nhost: one.test\r\n", "404"),
            ("no host", "GET / HTTP/1.1\r\n", "400"),
            ("a path in it", "GET / HTTP/1.1\r\nhost: one.test/\r\n", "400"),
            ("a space in it", "GET / HTTP/1.1\r\nhost: one.test two.test\r\n", "400"),
        ] {
            assert_eq!(status(port, tls, head).await, expected, "{what}");
        }
        assert!(gateway.backend("a").take_seen().is_empty());
    }
    // Server names that no listener has, and none at all, get no further than TLS.
    for tls in [Tls::to("two.test"), Tls::to("x.one.test"), Tls::without_name()] {
        let answer = Call::get(https, "/").host("one.test").tls(&tls).attempt().await;
        assert!(answer.is_err(), "{tls:?}: {answer:?}");
    }
    assert!(gateway.backend("a").take_seen().is_empty());
}

/// Headers by which Envoys tell each other what to do.
const CLAIMS: &[&str] = &[
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-internal",
    "x-envoy-ip-tags",
    "x-envoy-max-retries",
    "x-envoy-original-host",
    "x-envoy-original-path",
    "x-envoy-original-url",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-rq-timeout-ms",
    "x-forwarded-client-cert",
    "x-kuma-tags",
    // What Envoy says itself.
    "x-envoy-external-address",
    "x-forwarded-proto",
    "x-request-id",
];

/// No such header of a client outside of the zone's networks comes through; nor does one of a client
/// inside that tells of others before it.
async fn claims(gateway: &Gateway) {
    let (_scene, port) = start(gateway).await;
    let mut call = Call::get(port, "/").host("one.test");
    for name in CLAIMS {
        call = call.header(name, "claimed");
    }
    let proxied = call.clone().header("x-forwarded-for", "127.0.0.1");
    for call in [call.clone().outside(), call.outside().http2(), proxied] {
        let seen = call.send().await.seen();
        let mine = |(name, values): (&String, &Vec<String>)| {
            values.iter().any(|value| value.contains("claimed")).then(|| name.clone())
        };
        let through: Vec<String> = seen.headers.iter().filter_map(mine).collect();
        assert!(through.is_empty(), "{through:?}: {call:?}");
        assert_eq!(seen.header("x-forwarded-proto"), "http");
        assert_eq!(seen.header("x-envoy-internal"), "");
    }
}

/// Nor do they move the gateway to anything.
async fn without_effect(gateway: &Gateway) {
    let (_scene, port) = start(gateway).await;
    let a = gateway.backend("a");
    a.take_seen();
    let answer = Call::get(port, "/")
        .host("one.test")
        .header("x-envoy-retry-on", "5xx")
        .header("x-envoy-max-retries", "3")
        .header("x-status", "503");
    // From inside they do: this is what the others are kept from.
    assert_eq!(answer.send().await.status, 503);
    assert_eq!(a.take_seen().len(), 4);
    assert_eq!(answer.outside().send().await.status, 503);
    assert_eq!(a.take_seen().len(), 1);
    let slow = Call::get(port, "/")
        .host("one.test")
        .header("x-envoy-upstream-rq-timeout-ms", "1")
        .header("x-delay-ms", "100");
    assert_eq!(slow.send().await.status, 504);
    assert_eq!(slow.outside().send().await.status, 200);
}

/// Where a request is from is where its connection is from.
async fn address(gateway: &Gateway) {
    let (_scene, port) = start(gateway).await;
    let outside = OUTSIDE.to_string();
    let call = Call::get(port, "/").host("one.test").outside();
    let seen = call.send().await.seen();
    assert_eq!(seen.header("x-forwarded-for"), outside);
    assert_eq!(seen.header("x-envoy-external-address"), outside);
    for claimed in ["127.0.0.1", "10.1.2.3, 127.0.0.1", "::1", "unknown"] {
        let seen = call.clone().header("x-forwarded-for", claimed).send().await.seen();
        assert_eq!(seen.header("x-forwarded-for"), format!("{claimed},{outside}"));
        assert_eq!(seen.header("x-envoy-external-address"), outside);
        assert_eq!(seen.header("x-envoy-internal"), "");
    }
    let seen = Call::get(port, "/").host("one.test").send().await.seen();
    assert_eq!(seen.header("x-envoy-internal"), "true");
}

/// Nobody tells of certificates, not even who has one.
async fn client_certificate(gateway: &Gateway) {
    let authority = Authority::shared();
    let mut scene = gateway.scene();
    let cert = Pair::ecdsa("one.test");
    scene.secret("cert", &cert.text());
    scene.mtls(authority);
    let x = authority.sidecar("x", gateway.backend("a")).await;
    scene.put(x.instance("x-1", serde_json::json!({"kuma.io/service": "x"})));
    let https = scene.listener(
        "{protocol: HTTPS, hostname: one.test, \
         tls: {mode: TERMINATE, certificates: [{secret: cert}]}}",
    );
    let cross_mesh = scene.listener("{protocol: HTTP, crossMesh: true}");
    scene.route("route", "http: {rules: [{matches: [{prefix: /}], to: x}]}");
    scene.apply().await;
    let own = authority.issue("app");
    let claim = "By=spiffe://default/edge;Hash=00;URI=spiffe://default/admin";
    for (port, tls) in [
        (https, Tls::to("one.test")),
        (https, Tls::to("one.test").present(&own)),
        (cross_mesh, Tls::to("edge.mesh").alpn(&["kuma"]).present(&own)),
    ] {
        let call = Call::get(port, "/").host("one.test").tls(&tls);
        let seen = call.header("x-forwarded-client-cert", claim).send().await.seen();
        assert_eq!(seen.headers.get("x-forwarded-client-cert"), None, "{tls:?}");
    }
}

/// Servers exist that take `_` for `-`.
async fn underscores(gateway: &Gateway) {
    let (_scene, port) = start(gateway).await;
    gateway.backend("a").take_seen();
    let call = Call::get(port, "/").host("one.test");
    for name in ["x_kuma_tags", "x-forwarded_for", "_", "content_length"] {
        assert_eq!(call.clone().header(name, "1").send().await.status, 400, "{name}");
        let answer = call.clone().http2().header(name, "1").attempt().await;
        assert!(answer.is_err() || answer.as_ref().unwrap().status == 400, "{name}: {answer:?}");
    }
    assert!(gateway.backend("a").take_seen().is_empty());
    // Values may have them.
    assert_eq!(call.header("x-a", "a_b").send().await.status, 200);
}

/// What a path leads to is what it leads to when it is written plainly: `a` is public and `b` is not.
/// Each line has the path that is asked for, and the path that this or that backend is asked for, or
/// a status, or where the client is sent.
const PATHS: &str = r"
    /public/x                        a /public/x
    /admin                           b /admin
    /public/../admin                 b /admin
    /public/./../admin               b /admin
    /public/%2e%2e/admin             b /admin
    /public/.%2E/admin               b /admin
    /public/..//admin                b /admin
    /public\..\admin                 b /admin
    //admin                          b /admin
    ///admin//x                      b /admin/x
    /./admin                         b /admin
    /.//admin                        b /admin
    /%2e/admin                       b /admin
    /\admin                          b /admin
    /%61dmin                         b /admin
    /../../admin                     b /admin
    /admin/%2e                       b /admin/
    /public/..%2fadmin               307 /admin
    /public/%2e%2e%2fadmin           307 /admin
    /public%2f..%2fadmin             307 /admin
    /public/..%5cadmin               307 /admin
    /public%5C..%5Cadmin             307 /admin
    /%2fadmin                        307 /admin
    /%5cadmin                        307 /admin
    /admin%2f                        307 /admin/
    /public/..                       404
    /..                              404
    /ADMIN                           404
    /admin%20                        404
    /publicity                       404
    /public/..;/admin                a /public/..;/admin
    /public/;/../admin               a /public/admin
    /public/.../admin                a /public/.../admin
    /public/..%3b/admin              a /public/..%3b/admin
    /public/%252e%252e/admin         a /public/%252e%252e/admin
    /public/%252e%252e%252fadmin     a /public/%252e%252e%252fadmin
    /public/%c0%ae%c0%ae/admin       a /public/%c0%ae%c0%ae/admin
    /public//../admin                a /public/admin
    /public?/../admin                a /public?/../admin
    http://one.test/public/../admin  b /admin
    /public#/../admin                400
    /admin%00                        400
    /public/..%00/admin              400
    admin                            400
    *                                400
";

async fn paths(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port = scene.listener("{protocol: HTTP, hostname: one.test}");
    scene.route(
        "route",
        "http: {rules: [{matches: [{prefix: /public}], to: a}, {matches: [{prefix: /admin}], to: b}]}",
    );
    scene.apply().await;
    let lines = PATHS.lines().map(str::trim).filter(|line| !line.is_empty()).map(async |line| {
        let (target, expected) = line.split_once(' ').unwrap();
        let mut stream = dial(port, None).await.unwrap();
        let head = format!("GET {target} HTTP/1.1\r\nhost: one.test\r\nconnection: close\r\n\r\n");
        stream.send(&head).await.unwrap();
        let answer = stream.rest().await;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let got = match status {
            "200" => {
                let seen: sunbear_gateway_live::Seen = serde_json::from_str(body).unwrap();
                format!("{} {}", seen.backend, seen.path)
            }
            "307" => {
                let location = head.lines().find_map(|line| line.strip_prefix("location: "));
                format!("307 {}", location.unwrap_or_default())
            }
            status => status.to_owned(),
        };
        let expected = expected.trim();
        (got != expected).then(|| format!("{target}: {got}, not {expected}"))
    });
    let wrong: Vec<String> = join_all(lines).await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Conditions hold for what is forwarded: no answer of `a` was for a path of `b`.
    for seen in gateway.backend("a").take_seen() {
        assert!(!seen.path.starts_with("/admin"), "{seen:?}");
    }
}

/// 60 KiB of headers, and 100 of them.
async fn header_limits(gateway: &Gateway) {
    let (_scene, port) = start(gateway).await;
    let call = Call::get(port, "/").host("one.test");
    assert_eq!(call.clone().header("x-a", &"a".repeat(59 * 1024)).send().await.status, 200);
    let long = call.clone().header("x-a", &"a".repeat(61 * 1024));
    let mut many = call.clone();
    for number in 0..101 {
        many = many.header(&format!("x-{number}"), "a");
    }
    let mut total = call.clone();
    for number in 0..62 {
        total = total.header(&format!("x-{number}"), &"a".repeat(1000));
    }
    let path = Call::get(port, &format!("/{}", "a".repeat(62 * 1024))).host("one.test");
    gateway.backend("a").take_seen();
    for (what, call) in [("long", long), ("many", many), ("total", total), ("path", path)] {
        assert_eq!(call.send().await.status, 431, "{what}");
        let answer = call.http2().attempt().await;
        let refused = answer.as_ref().map_or(true, |answer| answer.status == 431);
        assert!(refused, "{what}: {answer:?}");
    }
    assert!(gateway.backend("a").take_seen().is_empty());
    assert_eq!(call.send().await.status, 200);
}

/// Connections stay what they are.
async fn upgrades(gateway: &Gateway) {
    let (_scene, port) = start(gateway).await;
    gateway.backend("a").take_seen();
    let (b, before) = (gateway.backend("b").address, gateway.backend("b").connections());
    for (what, head, expected) in [
        ("connect", format!("CONNECT {b} HTTP/1.1\r\nhost: {b}\r\n"), "404"),
        (
            "connect to the host",
            "CONNECT one.test:80 HTTP/1.1\r\nhost: one.test:80\r\n".into(),
            "404",
        ),
        (
            "websocket",
            "GET / HTTP/1.1\r\nhost: one.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n"
                .into(),
            "403",
        ),
        (
            "another protocol",
            "GET / HTTP/1.1\r\nhost: one.test\r\nconnection: upgrade\r\nupgrade: tcp\r\n".into(),
            "403",
        ),
    ] {
        let got = statuses(port, &format!("{head}\r\n")).await;
        assert_eq!(got, [expected], "{what}");
    }
    assert!(gateway.backend("a").take_seen().is_empty());
    assert_eq!(gateway.backend("b").connections(), before);
    // The offer of HTTP/2 is passed over: the request is one of HTTP/1.1.
    let answers = statuses(
        port,
        "GET / HTTP/1.1\r\nhost: one.test\r\nconnection: Upgrade, HTTP2-Settings\r\n\
         upgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n\
         GET / HTTP/1.1\r\nhost: one.test\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(answers, ["200", "200"]);
    let seen: BTreeMap<String, usize> =
        gateway.backend("a").take_seen().iter().map(|seen| (seen.header("upgrade"), 1)).collect();
    assert_eq!(seen.keys().collect::<Vec<_>>(), [""]);
}

/// HTTP/1.1 and 2 alone.
async fn old_versions(gateway: &Gateway) {
    let (_scene, port) = start(gateway).await;
    gateway.backend("a").take_seen();
    let heads = [
        "GET / HTTP/1.0\r\nhost: one.test\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "GET /\r\n\r\n",
        "GET / HTTP/1.2\r\nhost: one.test\r\n\r\n",
        "GET / HTTP/2.0\r\nhost: one.test\r\n\r\n",
    ];
    for got in join_all(heads.map(|head| statuses(port, head))).await {
        assert_eq!(got, ["426"]);
    }
    assert!(gateway.backend("a").take_seen().is_empty());
}
