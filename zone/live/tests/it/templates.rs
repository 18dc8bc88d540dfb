//! ProxyTemplates.

use serde_json::{Value, json};
use sunbear_gateway_live::{Call, Case, Gateway, Port, Scene, cases, eventually_async};

const CASES: &[Case] = cases! {
    "template/http-filter" => http_filter,
    "template/network-filter" => network_filter,
    "template/virtual-host" => virtual_host,
    "template/listener" => listener,
    "template/cluster" => cluster,
    "template/raw-resource" => raw_resource,
    "template/without-gateway" => without_gateway,
};

#[tokio::test(flavor = "multi_thread")]
async fn templates() {
    sunbear_gateway_live::run(CASES).await;
}

pub(crate) fn features() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|case| case.feature)
}

fn template(scene: &mut Scene<'_>, conf: Value) {
    scene.put(json!({
        "type": "ProxyTemplate",
        "selectors": [{"match": {"kuma.io/service": "edge"}}],
        "conf": conf,
    }));
}

/// All requests to `a`, and these modifications.
async fn modified(gateway: &Gateway, modifications: Value) -> u16 {
    let mut scene = gateway.scene();
    let port = scene.http("[{matches: [{prefix: /}], to: a}]");
    template(&mut scene, json!({"imports": ["gateway-proxy"], "modifications": modifications}));
    scene.apply().await;
    assert_eq!(gateway.issues(), Vec::<String>::new());
    port
}

const BUFFER: &str = "{name: envoy.filters.http.buffer, typedConfig: {
  '@type': type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer,
  maxRequestBytes: 10}}";

async fn http_filter(gateway: &Gateway) {
    for (operation, other) in [
        ("addFirst", ""),
        ("addLast", ""),
        ("addBefore", "envoy.filters.http.router"),
        ("addAfter", "envoy.filters.http.local_ratelimit"),
    ] {
        let mut modification = json!({
            "operation": operation, "match": {"origin": "gateway"}, "value": BUFFER,
        });
        if !other.is_empty() {
            modification["match"]["name"] = other.into();
        }
        let port = modified(gateway, json!([{"httpFilter": modification}])).await;
        let call = Call::get(port, "/").method("POST");
        assert_eq!(call.clone().body("short").send().await.status, 200, "{operation}");
        assert_eq!(call.body("much too long").send().await.status, 413, "{operation}");
    }
    // One that is removed again.
    let port = modified(
        gateway,
        json!([
            {"httpFilter": {"operation": "addFirst", "match": {}, "value": BUFFER}},
            {"httpFilter": {"operation": "remove", "match": {"name": "envoy.filters.http.buffer"}}},
        ]),
    )
    .await;
    let answer = Call::get(port, "/").method("POST").body("not too long").send().await;
    assert_eq!(answer.status, 200);
}

async fn network_filter(gateway: &Gateway) {
    let name = "envoy.filters.network.http_connection_manager";
    let value = format!(
        "{{name: {name}, typedConfig: {{'@type': type.googleapis.com/\
         envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, \
         serverName: mine}}}}"
    );
    let port = modified(
        gateway,
        json!([{"networkFilter": {"operation": "patch", "match": {"name": name}, "value": value}}]),
    )
    .await;
    let answer = Call::get(port, "/").send().await;
    assert_eq!((answer.status, answer.header("server")), (200, "mine"));
}

async fn virtual_host(gateway: &Gateway) {
    let port = modified(
        gateway,
        json!([{"virtualHost": {"operation": "patch", "match": {"origin": "gateway"}, "value":
            "{responseHeadersToAdd: [{header: {key: x-patched, value: 'yes'}}]}"}}]),
    )
    .await;
    let answer = Call::get(port, "/").send().await;
    assert_eq!((answer.from(), answer.header("x-patched")), ("a", "yes"));
}

async fn listener(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let stays = scene.http("[{matches: [{prefix: /}], to: a}]");
    let goes = scene.listener("{protocol: HTTP}");
    template(
        &mut scene,
        json!({"imports": ["gateway-proxy"], "modifications": [
            {"listener": {"operation": "remove", "match": {"name": format!("edge:HTTP:{goes}")}}},
            {"listener": {"operation": "patch", "match": {"name": format!("edge:HTTP:{stays}")},
                "value": "{perConnectionBufferLimitBytes: 4096}"}},
        ]}),
    );
    scene.apply().await;
    assert_eq!(Call::get(stays, "/").send().await.from(), "a");
    assert!(tokio::net::TcpStream::connect(("127.0.0.1", goes)).await.is_err());
    let dump = gateway.envoy.admin("/config_dump?resource=dynamic_listeners").await.unwrap();
    assert!(dump.contains("\"per_connection_buffer_limit_bytes\": 4096"));
}

async fn cluster(gateway: &Gateway) {
    let port = modified(
        gateway,
        json!([{"cluster": {"operation": "patch", "match": {"origin": "gateway"}, "value":
            "{maxRequestsPerConnection: 1}"}}]),
    )
    .await;
    let before = gateway.backend("a").connections();
    for _ in 0..3 {
        assert_eq!(Call::get(port, "/").send().await.from(), "a");
    }
    assert_eq!(gateway.backend("a").connections(), before + 3);
    // What is not there cannot be found.
    let port = modified(
        gateway,
        json!([{"cluster": {"operation": "remove", "match": {"origin": "gateway"}}}]),
    )
    .await;
    assert_eq!(Call::get(port, "/").send().await.status, 500);
}

async fn raw_resource(gateway: &Gateway) {
    let raw = Port::take();
    let mut scene = gateway.scene();
    let port = scene.http("[{matches: [{prefix: /}], to: a}]");
    let listener = format!(
        "
'@type': type.googleapis.com/envoy.config.listener.v3.Listener
name: raw
address: {{socketAddress: {{address: 127.0.0.1, portValue: {}}}}}
filterChains:
- filters:
  - name: envoy.filters.network.http_connection_manager
    typedConfig:
      '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      statPrefix: raw
      routeConfig:
        virtualHosts:
        - name: all
          domains: ['*']
          routes:
          - match: {{prefix: /}}
            directResponse: {{status: 418}}
      httpFilters:
      - name: envoy.filters.http.router
        typedConfig:
          '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
",
        raw.number()
    );
    template(
        &mut scene,
        json!({
            "imports": ["gateway-proxy"],
            "resources": [{"name": "raw", "version": "1", "resource": listener}],
        }),
    );
    scene.apply().await;
    assert_eq!(gateway.issues(), Vec::<String>::new());
    assert_eq!(Call::get(raw.number(), "/").send().await.status, 418);
    assert_eq!(Call::get(port, "/").send().await.from(), "a");
}

/// A template that does not import the gateway's profile leaves nothing of it.
async fn without_gateway(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port = scene.http("[{matches: [{prefix: /}], to: a}]");
    scene.apply().await;
    assert_eq!(Call::get(port, "/").send().await.from(), "a");
    template(&mut scene, json!({"imports": ["default-proxy"]}));
    scene.apply().await;
    eventually_async("nobody listens there", async || {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err().then_some(())
    })
    .await;
    scene.remove("ProxyTemplate", "proxytemplate");
    scene.apply().await;
    assert_eq!(Call::get(port, "/").send().await.from(), "a");
}
