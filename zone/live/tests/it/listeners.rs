//! Ports, protocols and connections.

use sunbear_gateway_live::{Backend, Call, Case, Connection, Gateway, Pair, Tls, cases, dial};

use crate::routes::answers;

const CASES: &[Case] = cases! {
    "listener/http" => http,
    "listener/all-protocols" => all_protocols,
    "listener/connection-limit" => connection_limit,
    "listener/connection-limit-of-a-later-one" => later_limit,
    "listener/connection-limit-changes" => limit_changes,
    "listener/comes-and-goes" => comes_and_goes,
    "listener/tags" => tags,
};

#[tokio::test(flavor = "multi_thread")]
async fn listeners() {
    sunbear_gateway_live::run(CASES).await;
}

pub(crate) fn features() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|case| case.feature)
}

const ALL_TO_A: &str = "[{matches: [{prefix: /}], to: a}]";

async fn http(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port = scene.http(ALL_TO_A);
    scene.apply().await;
    let call = Call::get(port, "/x?y=1").method("POST").body("text").header("x-one", "1");
    let one = call.send().await.seen();
    assert_eq!(
        (&*one.method, &*one.path, &*one.body, &*one.version),
        ("POST", "/x?y=1", "text", "HTTP/1.1")
    );
    assert_eq!(one.header("x-one"), "1");
    let answer = call.http2().send().await;
    assert_eq!(answer.version, http::Version::HTTP_2);
    assert_eq!(answer.seen().body, "text");
    // Several requests on one connection.
    let call = Call::get(port, "/");
    let mut connection = Connection::open(&call).await.unwrap();
    for _ in 0..3 {
        assert_eq!(connection.send(&call).await.unwrap().from(), "a");
    }
}

async fn all_protocols(gateway: &Gateway) {
    let lines = Backend::tcp("lines").await;
    let mut scene = gateway.scene();
    scene.put(lines.dataplane());
    let pair = Pair::ecdsa("one.test");
    scene.secret("cert", &pair.text());
    let terminate = "tls: {mode: TERMINATE, certificates: [{secret: cert}]}";
    let http = scene.listener("{protocol: HTTP}");
    let https = scene.listener(&format!("{{protocol: HTTPS, {terminate}}}"));
    let tcp = scene.listener("{protocol: TCP}");
    let tls = scene.listener(&format!("{{protocol: TLS, {terminate}}}"));
    scene.route("r1", &format!("http: {{rules: {ALL_TO_A}}}"));
    scene.route("r2", "tcp: {rules: [{to: lines}]}");
    scene.apply().await;
    assert_eq!(answers(Call::get(http, "/")).await, "a");
    assert_eq!(answers(Call::get(https, "/").host("one.test").https()).await, "a");
    let mut stream = dial(tcp, None).await.unwrap();
    assert_eq!(stream.echo("hello").await.unwrap(), "lines hello");
    let mut stream = dial(tls, Some(&Tls::to("one.test"))).await.unwrap();
    assert_eq!(stream.echo("hello").await.unwrap(), "lines hello");
}

/// Connections up to the limit are served, further ones end; when one ends, another may come.
async fn limited_to_two(port: u16) {
    let call = Call::get(port, "/");
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut connection = Connection::open(&call).await.unwrap();
        assert_eq!(connection.send(&call).await.unwrap().status, 200);
        held.push(connection);
    }
    assert!(call.attempt().await.is_err());
    for connection in &mut held {
        assert_eq!(connection.send(&call).await.unwrap().status, 200);
    }
    held.pop();
    call.until("there is room again", |answer| answer.status == 200).await;
}

async fn connection_limit(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let limited = scene.listener("{protocol: HTTP, resources: {connectionLimit: 2}}");
    let free = scene.listener("{protocol: HTTP}");
    scene.route("r", &format!("http: {{rules: {ALL_TO_A}}}"));
    scene.apply().await;
    limited_to_two(limited).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        let call = Call::get(free, "/");
        let mut connection = Connection::open(&call).await.unwrap();
        assert_eq!(connection.send(&call).await.unwrap().status, 200);
        held.push(connection);
    }
}

async fn later_limit(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port = scene.listener("{protocol: HTTP, hostname: one.test}");
    scene.listener(&format!(
        "{{protocol: HTTP, hostname: '*', port: {port}, resources: {{connectionLimit: 2}}}}"
    ));
    scene.route("r", &format!("http: {{rules: {ALL_TO_A}}}"));
    scene.apply().await;
    limited_to_two(port).await;
}

async fn limit_changes(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port = scene.listener("{protocol: HTTP, resources: {connectionLimit: 1}}");
    scene.route("r", &format!("http: {{rules: {ALL_TO_A}}}"));
    scene.apply().await;
    let call = Call::get(port, "/");
    let mut held = Connection::open(&call).await.unwrap();
    assert_eq!(held.send(&call).await.unwrap().status, 200);
    assert!(call.attempt().await.is_err());
    scene.listeners()[0]["resources"]["connectionLimit"] = 5.into();
    scene.apply().await;
    call.until("the limit is higher", |answer| answer.status == 200).await;
    // The listener stayed.
    assert_eq!(held.send(&call).await.unwrap().status, 200);
}

/// Listeners come and go without a word to the connections of others.
async fn comes_and_goes(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let stays = scene.http(ALL_TO_A);
    scene.apply().await;
    let call = Call::get(stays, "/");
    let mut held = Connection::open(&call).await.unwrap();
    assert_eq!(held.send(&call).await.unwrap().status, 200);
    let other = scene.listener("{protocol: HTTP}");
    scene.apply().await;
    assert_eq!(answers(Call::get(other, "/")).await, "a");
    assert_eq!(held.send(&call).await.unwrap().status, 200);
    scene.listeners().pop();
    scene.apply().await;
    sunbear_gateway_live::eventually_async("nobody listens there", async || {
        tokio::net::TcpStream::connect(("127.0.0.1", other)).await.is_err().then_some(())
    })
    .await;
    assert_eq!(held.send(&call).await.unwrap().status, 200);
}

/// Tags of the listener win over those of the gateway, and those over the proxy's.
async fn tags(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let one = scene.listener("{protocol: HTTP, tags: {scene: mine}}");
    let two = scene.listener("{protocol: HTTP}");
    scene.add(
        "{type: MeshGatewayRoute, name: r, \
          selectors: [{match: {kuma.io/service: edge, scene: mine}}], \
          conf: {http: {rules: [{matches: [{prefix: /}], to: a}]}}}",
    );
    scene.apply().await;
    assert_eq!(answers(Call::get(one, "/")).await, "a");
    assert_eq!(answers(Call::get(two, "/")).await, "");
}
