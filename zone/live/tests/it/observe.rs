//! Logs and traces.

use std::{path::PathBuf, process::Command};

use sunbear_gateway_live::{Backend, Call, Case, Gateway, Scene, cases, dial, eventually};
use tokio::io::{AsyncBufReadExt as _, BufReader};

const CASES: &[Case] = cases! {
    "log/file" => file,
    "log/own-format" => own_format,
    "log/tcp-listener" => tcp_listener,
    "log/to-tcp" => to_tcp,
    "log/choice" => choice,
    "trace/zipkin" => zipkin,
    "trace/datadog" => datadog,
    "trace/sampling" => sampling,
};

#[tokio::test(flavor = "multi_thread")]
async fn observe() {
    sunbear_gateway_live::run(CASES).await;
}

pub(crate) fn features() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|case| case.feature)
}

const TO_A: &str = "[{matches: [{prefix: /}], to: a}]";
const LOG: &str = "{type: TrafficLog, conf: {backend: one}}";

/// A log file `one` of the mesh, with this format.
fn log_to_file(gateway: &Gateway, scene: &mut Scene<'_>, file: &str, format: &str) -> PathBuf {
    let path = gateway.envoy.folder().join(file);
    scene.mesh(&format!(
        "{{logging: {{backends: [{{name: one, type: file, format: {}, conf: {{path: {}}}}}]}}}}",
        serde_json::to_string(format).unwrap(),
        path.display()
    ));
    path
}

/// The first line of a file.
async fn line(path: &PathBuf) -> String {
    eventually("a line is written", || {
        let text = std::fs::read_to_string(path).ok()?;
        text.split_once('\n').map(|(line, _)| line.to_owned())
    })
    .await
}

async fn file(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let path = log_to_file(gateway, &mut scene, "default.log", "");
    scene.add(LOG);
    let port = scene.http(TO_A);
    scene.apply().await;
    Call::get(port, "/some/path?q=1").host("one.test").header("user-agent", "me").send().await;
    let line = line(&path).await;
    let upstream = gateway.backend("a").address;
    for part in [
        "] default \"GET /some/path?q=1 HTTP/1.1\" 200 - 0 ",
        "\"me\" ",
        "\"one.test\" \"edge\" \"*\" \"127.0.0.1\" ",
        &format!("\"{upstream}\""),
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
}

async fn own_format(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let path = log_to_file(
        gateway,
        &mut scene,
        "own.log",
        "%KUMA_MESH%|%KUMA_SOURCE_SERVICE%|%KUMA_DESTINATION_SERVICE%|%KUMA_SOURCE_ADDRESS%|\
         %KUMA_SOURCE_ADDRESS_WITHOUT_PORT%|%KUMA_TRAFFIC_DIRECTION%|%KUMA_ZONE%|%RESPONSE_CODE%|\
         %REQ(X-ONE)%|%REQ(X-NONE?X-ONE):2%",
    );
    scene.add(LOG);
    let port = scene.http(TO_A);
    scene.apply().await;
    Call::get(port, "/").header("x-one", "value").header("x-status", "418").send().await;
    assert_eq!(line(&path).await, "default|edge|*|127.0.0.1:0|127.0.0.1|INBOUND||418|value|va");
}

async fn tcp_listener(gateway: &Gateway) {
    let lines = Backend::tcp("lines").await;
    let mut scene = gateway.scene();
    let path = log_to_file(gateway, &mut scene, "tcp.log", "");
    scene.add(LOG);
    scene.put(lines.dataplane());
    let port = scene.listener("{protocol: TCP}");
    scene.route("r", "tcp: {rules: [{to: lines}]}");
    scene.apply().await;
    let mut stream = dial(port, None).await.unwrap();
    assert_eq!(stream.echo("hello").await.as_deref(), Some("lines hello"));
    drop(stream);
    let line = line(&path).await;
    let middle = format!("default 127.0.0.1(edge)->{}(*) took ", lines.address);
    assert!(line.contains(&middle), "{line}");
    assert!(line.ends_with("sent 12 bytes, received: 6 bytes"), "{line}");
}

/// Lines go to the proxy's agent through a pipe, with the address that it hands them on to.
async fn to_tcp(gateway: &Gateway) {
    let path = gateway.envoy.folder().join("kuma-al-edge-1-default.sock");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let pipe =
        tokio::net::unix::pipe::OpenOptions::new().read_write(true).open_receiver(&path).unwrap();
    let mut scene = gateway.scene();
    scene.mesh(
        "{logging: {defaultBackend: one, backends: [{name: one, type: tcp, \
          format: '%REQ(:PATH)% %KUMA_SOURCE_SERVICE%', conf: {address: '192.0.2.1:5000'}}]}}",
    );
    scene.add("{type: TrafficLog}");
    let port = scene.http(TO_A);
    scene.apply().await;
    Call::get(port, "/logged").send().await;
    let mut line = String::new();
    let mut reader = BufReader::new(pipe);
    sunbear_gateway_live::within("a line comes", reader.read_line(&mut line)).await.unwrap();
    assert_eq!(line, "192.0.2.1:5000;/logged edge\n");
}

/// Only the policy for everything counts, and only if the gateway is its source.
async fn choice(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let path = gateway.envoy.folder().join("chosen.log");
    let backend = |name: &str| {
        format!("{{name: {name}, type: file, format: {name}, conf: {{path: {}}}}}", path.display())
    };
    scene.mesh(&format!(
        "{{logging: {{backends: [{}, {}, {}]}}}}",
        backend("one"),
        backend("two"),
        backend("three")
    ));
    let log = |source: &str, destination: &str, backend: &str| {
        format!(
            "{{type: TrafficLog, name: {backend}, \
             sources: [{{match: {{kuma.io/service: {source}}}}}], \
             destinations: [{{match: {{kuma.io/service: {destination}}}}}], \
             conf: {{backend: {backend}}}}}"
        )
    };
    scene.add(&log("'*'", "'*'", "one"));
    scene.add(&log("edge", "'*'", "two"));
    scene.add(&log("edge", "a", "three"));
    let port = scene.http(TO_A);
    scene.apply().await;
    Call::get(port, "/").send().await;
    assert_eq!(line(&path).await, "two");
}

/// The mesh has a tracing backend `one` of this type, and uses it.
async fn traced(gateway: &Gateway, backend: &str) -> u16 {
    let mut scene = gateway.scene();
    scene.mesh(&format!("{{tracing: {{backends: [{{name: one, {backend}}}]}}}}"));
    scene.add(
        "{type: TrafficTrace, selectors: [{match: {kuma.io/service: '*'}}], conf: {backend: one}}",
    );
    let port = scene.http(TO_A);
    scene.apply().await;
    port
}

/// Sends requests until the collector has received something with this in it.
async fn collected(collector: &Backend, port: u16, part: &str) -> sunbear_gateway_live::Seen {
    sunbear_gateway_live::eventually_async("spans arrive", async || {
        Call::get(port, "/traced").send().await;
        collector.take_seen().into_iter().find(|seen| seen.body.contains(part))
    })
    .await
}

async fn zipkin(gateway: &Gateway) {
    let collector = Backend::http("collector").await;
    let url = format!("http://{}/api/v2/spans", collector.address);
    let port = traced(
        gateway,
        &format!("type: zipkin, conf: {{url: '{url}', apiVersion: httpJson, traceId128bit: true}}"),
    )
    .await;
    let seen = Call::get(port, "/").send().await.seen();
    assert_eq!(seen.header("x-b3-traceid").len(), 32);
    let spans = collected(&collector, port, "traceId").await;
    assert_eq!((&*spans.path, &*spans.method), ("/api/v2/spans", "POST"));
    assert_eq!(spans.host, collector.address.to_string());
    let spans: serde_json::Value = serde_json::from_str(&spans.body).unwrap();
    let kinds: Vec<&str> =
        spans.as_array().unwrap().iter().filter_map(|span| span["kind"].as_str()).collect();
    // One for the request, one for what was asked of the service.
    assert!(kinds.contains(&"SERVER") && kinds.contains(&"CLIENT"), "{spans}");
    assert_eq!(spans[0]["localEndpoint"]["serviceName"], "edge");
}

async fn datadog(gateway: &Gateway) {
    let collector = Backend::http("collector").await;
    let address = collector.address;
    let port = traced(
        gateway,
        &format!("type: datadog, conf: {{address: {}, port: {}}}", address.ip(), address.port()),
    )
    .await;
    let spans = collected(&collector, port, "edge").await;
    assert!(spans.path.contains("/traces"), "{}", spans.path);
    assert!(spans.body.contains("/traced"), "{}", spans.body);
}

async fn sampling(gateway: &Gateway) {
    let collector = Backend::http("collector").await;
    let url = format!("http://{}/api/v2/spans", collector.address);
    let conf = format!("conf: {{url: '{url}'}}");
    let port = traced(gateway, &format!("type: zipkin, sampling: 0.0, {conf}")).await;
    let seen = Call::get(port, "/").send().await.seen();
    assert_eq!(seen.header("x-b3-sampled"), "0");
    let port = traced(gateway, &format!("type: zipkin, sampling: 100.0, {conf}")).await;
    let seen = Call::get(port, "/").send().await.seen();
    assert_eq!(seen.header("x-b3-sampled"), "1");
}
