//! TCP and TLS listeners.

use sunbear_gateway_live::{
    Backend, Case, Gateway, Pair, Stream, Tls, cases, dial, eventually_async,
};

const CASES: &[Case] = cases! {
    "tcp/proxy" => proxy,
    "tcp/weights" => weights,
    "tcp/zero-weights" => zero_weights,
    "tcp/several-routes" => several_routes,
    "tcp/no-route" => no_route,
    "tcp/change" => change,
    "tcp/connect-attempts" => connect_attempts,
    "tls/tcp-terminate" => terminate,
    "tls/tcp-passthrough" => passthrough,
    "tls/tcp-rotation" => rotation,
};

#[tokio::test(flavor = "multi_thread")]
async fn tcp() {
    sunbear_gateway_live::run(CASES).await;
}

pub(crate) fn features() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|case| case.feature)
}

/// Who answers; none if the connection ends before anybody does.
async fn greeting(port: u16, tls: Option<&Tls>) -> Option<String> {
    let answer = dial(port, tls).await.ok()?.echo("hello").await?;
    answer.strip_suffix(" hello").map(str::to_owned)
}

/// Asserts that this connection leads to the backend.
async fn lines(stream: &mut Stream, name: &str) {
    // Envoy looks at five bytes before it goes on.
    for text in ["hello", "two"] {
        assert_eq!(stream.echo(text).await, Some(format!("{name} {text}")));
    }
}

async fn proxy(gateway: &Gateway) {
    let x = Backend::tcp("x").await;
    let mut scene = gateway.scene();
    scene.put(x.dataplane());
    let port = scene.listener("{protocol: TCP}");
    scene.route("r", "tcp: {rules: [{to: x}]}");
    scene.apply().await;
    let mut stream = dial(port, None).await.unwrap();
    lines(&mut stream, "x").await;
}

/// A TCP listener to `x`, `y` and `z` with these weights; shares of 60 connections.
async fn shares(gateway: &Gateway, weights: [u32; 3]) -> [usize; 3] {
    let mut scene = gateway.scene();
    let mut backends = Vec::new();
    for (name, weight) in ["x", "w", "z"].iter().zip(weights) {
        scene.put(Backend::tcp(name).await.dataplane());
        backends.push(format!("{{weight: {weight}, destination: {{kuma.io/service: {name}}}}}"));
    }
    let port = scene.listener("{protocol: TCP}");
    scene.route("r", &format!("tcp: {{rules: [{{backends: [{}]}}]}}", backends.join(",")));
    scene.apply().await;
    let mut shares = [0; 3];
    for _ in 0..60 {
        let name = greeting(port, None).await.unwrap();
        shares[["x", "w", "z"].iter().position(|n| *n == name).unwrap()] += 1;
    }
    shares
}

async fn weights(gateway: &Gateway) {
    let [x, y, z] = shares(gateway, [8, 1, 1]).await;
    assert!(x > 30 && x + y + z == 60, "{x} {y} {z}");
}

async fn zero_weights(gateway: &Gateway) {
    assert_eq!(shares(gateway, [0, 7, 0]).await, [0, 60, 0]);
    let all = shares(gateway, [0, 0, 0]).await;
    assert!(all.iter().all(|share| *share > 3), "{all:?}");
}

/// Backends of all rules and routes of a port are one set.
async fn several_routes(gateway: &Gateway) {
    let mut scene = gateway.scene();
    for name in ["x", "w", "z"] {
        scene.put(Backend::tcp(name).await.dataplane());
    }
    let port = scene.listener("{protocol: TCP}");
    scene.route("r1", "tcp: {rules: [{to: x}, {to: w}]}");
    scene.route("r2", "tcp: {rules: [{to: z}]}");
    scene.apply().await;
    let mut seen = std::collections::BTreeSet::new();
    eventually_async("all have had a connection", async || {
        seen.insert(greeting(port, None).await.unwrap());
        (seen.len() == 3).then_some(())
    })
    .await;
}

async fn no_route(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port = scene.listener("{protocol: TCP}");
    scene.route("http", "http: {rules: [{matches: [{prefix: /}], to: a}]}");
    scene.apply().await;
    assert_eq!(greeting(port, None).await, None);
}

/// Another backend: connections stay where they are, new ones go there.
async fn change(gateway: &Gateway) {
    let mut scene = gateway.scene();
    for name in ["x", "w"] {
        scene.put(Backend::tcp(name).await.dataplane());
    }
    let port = scene.listener("{protocol: TCP}");
    scene.route("r", "tcp: {rules: [{to: x}]}");
    scene.apply().await;
    assert_eq!(greeting(port, None).await.unwrap(), "x");
    scene.route("r", "tcp: {rules: [{to: w}]}");
    scene.apply().await;
    eventually_async("it goes elsewhere", async || {
        (greeting(port, None).await? == "w").then_some(())
    })
    .await;
}

/// Retry lets a connection try another instance.
async fn connect_attempts(gateway: &Gateway) {
    let x = Backend::tcp("x").await;
    let nobody = sunbear_gateway_live::Port::take();
    let mut scene = gateway.scene();
    scene.put(x.dataplane());
    scene.put(dead_instance(&x, nobody.number()));
    let port = scene.listener("{protocol: TCP}");
    scene.route("r", "tcp: {rules: [{to: x}]}");
    scene.apply().await;
    let failed = async |port| {
        let mut failed = 0;
        for _ in 0..10 {
            failed += usize::from(greeting(port, None).await.is_none());
        }
        failed
    };
    assert_eq!(failed(port).await, 5);
    let mut other = gateway.scene();
    let port = other.listener("{protocol: TCP}");
    for document in [x.dataplane(), dead_instance(&x, nobody.number())] {
        other.put(document);
    }
    other.route("r", "tcp: {rules: [{to: x}]}");
    other.add("{type: Retry, conf: {tcp: {maxConnectAttempts: 3}}}");
    other.apply().await;
    assert_eq!(failed(port).await, 0);
}

fn dead_instance(backend: &Backend, port: u16) -> serde_json::Value {
    let mut dead = backend.instance("x-2", serde_json::json!({"kuma.io/service": "x"}));
    dead["networking"]["inbound"][0]["port"] = port.into();
    dead
}

/// Adds a TLS listener; the route for it goes by the tag `host`.
fn tls_listener(
    scene: &mut sunbear_gateway_live::Scene<'_>,
    host: &str,
    port: Option<u16>,
    tls: &str,
) -> u16 {
    let port = port.map(|port| format!("port: {port}, ")).unwrap_or_default();
    let tag = host.replace('*', "any");
    scene.listener(&format!(
        "{{protocol: TLS, hostname: '{host}', {port}tags: {{host: {tag}}}, tls: {tls}}}"
    ))
}

fn route_for(scene: &mut sunbear_gateway_live::Scene<'_>, host: &str, to: &str) {
    let tag = host.replace('*', "any");
    scene.add(&format!(
        "{{type: MeshGatewayRoute, name: to-{to}, \
         selectors: [{{match: {{kuma.io/service: edge, host: {tag}}}}}], \
         conf: {{tcp: {{rules: [{{to: {to}}}]}}}}}}"
    ));
}

async fn terminate(gateway: &Gateway) {
    let pair = Pair::ecdsa("one.test");
    let mut scene = gateway.scene();
    for name in ["x", "w"] {
        scene.put(Backend::tcp(name).await.dataplane());
    }
    scene.secret("cert", &pair.text());
    let conf = "{mode: TERMINATE, certificates: [{secret: cert}]}";
    let port = tls_listener(&mut scene, "one.test", None, conf);
    tls_listener(&mut scene, "*.two.test", Some(port), conf);
    route_for(&mut scene, "one.test", "x");
    route_for(&mut scene, "*.two.test", "w");
    scene.apply().await;
    let mut stream = dial(port, Some(&Tls::to("one.test").alpn(&[]))).await.unwrap();
    assert_eq!(stream.certificate, Some(pair.leaf()));
    lines(&mut stream, "x").await;
    assert_eq!(greeting(port, Some(&Tls::to("a.two.test"))).await.unwrap(), "w");
    assert_eq!(greeting(port, Some(&Tls::to("other.test"))).await, None);
    assert_eq!(greeting(port, Some(&Tls::without_name())).await, None);
    assert_eq!(greeting(port, None).await, None);
}

/// The backend's own TLS reaches the client; the server name says which backend.
async fn passthrough(gateway: &Gateway) {
    let pairs = [Pair::ecdsa("x"), Pair::ecdsa("w")];
    let mut scene = gateway.scene();
    for (name, pair) in ["x", "w"].iter().zip(&pairs) {
        scene.put(Backend::tls(name, pair.server()).await.dataplane());
    }
    let conf = "{mode: PASSTHROUGH}";
    let port = tls_listener(&mut scene, "one.test", None, conf);
    tls_listener(&mut scene, "*.two.test", Some(port), conf);
    route_for(&mut scene, "one.test", "x");
    route_for(&mut scene, "*.two.test", "w");
    scene.apply().await;
    for (sni, name, pair) in [("one.test", "x", &pairs[0]), ("a.two.test", "w", &pairs[1])] {
        let mut stream = dial(port, Some(&Tls::to(sni))).await.unwrap();
        assert_eq!(stream.certificate, Some(pair.leaf()));
        lines(&mut stream, name).await;
    }
    assert_eq!(greeting(port, Some(&Tls::to("other.test"))).await, None);
    assert_eq!(greeting(port, Some(&Tls::without_name())).await, None);
    assert_eq!(greeting(port, None).await, None);
}

async fn rotation(gateway: &Gateway) {
    let [old, new] = [Pair::ecdsa("one.test"), Pair::ecdsa("one.test")];
    let mut scene = gateway.scene();
    scene.put(Backend::tcp("x").await.dataplane());
    scene.secret("cert", &old.text());
    let conf = "{mode: TERMINATE, certificates: [{secret: cert}]}";
    let port = tls_listener(&mut scene, "one.test", None, conf);
    route_for(&mut scene, "one.test", "x");
    scene.apply().await;
    let tls = Tls::to("one.test").alpn(&[]);
    let mut held = dial(port, Some(&tls)).await.unwrap();
    assert_eq!(held.certificate, Some(old.leaf()));
    lines(&mut held, "x").await;
    scene.secret("cert", &new.text());
    scene.apply().await;
    eventually_async("the new certificate is there", async || {
        let stream = dial(port, Some(&tls)).await.ok()?;
        (stream.certificate == Some(new.leaf())).then_some(())
    })
    .await;
    lines(&mut held, "x").await;
}
