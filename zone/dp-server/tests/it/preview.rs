//! Configurations to look at, without serving them.

use std::sync::Arc;

use serde_json::{Value, json};
use sunbear_dp_server::PreviewError;
use sunbear_xds::GenerateError;

use crate::fixture::Fixture;

const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

async fn zone() -> Fixture {
    let zone = Fixture::start().await.with_gateway().await;
    zone.put(&crate::fixture::gateway("edge-1", "edge")).await;
    zone.put(
        "{type: DataplaneInsight, mesh: default, name: edge-1, metadata: {\
         dataplane.admin.port: '9901', dataplane.admin.socketPath: /x.sock, \
         dataplane.readinessReporter.port: '9902'}}",
    )
    .await;
    zone
}

fn preview(zone: &Fixture, name: &str, shadow: bool) -> Result<Value, PreviewError> {
    zone.server.preview(&zone.world.snapshot(), "default", name, shadow)
}

/// Is this a timeout of a route?
fn has_timeout(config: &Value, timeout: &str) -> bool {
    config[ROUTES].to_string().contains(&format!("\"timeout\":\"{timeout}\""))
}

#[tokio::test]
async fn a_gateway_by_type_and_name() {
    let zone = zone().await;
    let config = preview(&zone, "edge-1", false).unwrap();
    for (kind, name) in [(LISTENER, "edge:HTTP:18080"), (CLUSTER, "kuma:envoy:admin")] {
        assert_eq!(config[kind][name]["name"], name, "{:#}", config[kind]);
    }
    // Looking twice shows the same.
    assert_eq!(preview(&zone, "edge-1", false).unwrap(), config);
}

#[tokio::test]
async fn policies_that_only_pretend_to_act() {
    let zone = zone().await;
    let before = preview(&zone, "edge-1", false).unwrap();
    zone.put(
        "{type: MeshTimeout, mesh: default, name: slow, labels: {kuma.io/effect: shadow}, spec: {\
         targetRef: {kind: Mesh}, to: [{targetRef: {kind: Mesh}, default: {http: {requestTimeout: \
         77s}}}]}}",
    )
    .await;
    assert_eq!(preview(&zone, "edge-1", false).unwrap(), before);
    let after = preview(&zone, "edge-1", true).unwrap();
    assert!(has_timeout(&after, "77s") && !has_timeout(&before, "77s"), "{:#}", after[ROUTES]);
}

#[tokio::test]
async fn private_keys_are_not_shown() {
    let zone = Arc::new(zone().await);
    let pair = &crate::fixture::CERTIFICATE;
    zone.secret("default", "tls", &format!("{}{}", pair.cert_pem, pair.key_pem)).await;
    zone.put(
        "{type: MeshGateway, mesh: default, name: edge, selectors: [{match: {kuma.io/service: \
         edge}}], conf: {listeners: [{port: 18443, protocol: HTTPS, tls: {mode: TERMINATE, \
         certificates: [{secret: tls}]}}]}}",
    )
    .await;
    let config = preview(&zone, "edge-1", false).unwrap();
    let secret = config[SECRET].as_object().unwrap().values().next().unwrap();
    let key = secret.pointer("/tlsCertificate/privateKey").unwrap();
    assert_eq!(*key, json!({"inlineString": "[redacted]"}));
    assert!(secret.pointer("/tlsCertificate/certificateChain").is_some());
}

#[tokio::test]
async fn what_is_not_generated() {
    let zone = zone().await;
    let error = preview(&zone, "absent", false).unwrap_err();
    assert!(matches!(error, PreviewError::NeverConnected { .. }), "{error}");
    zone.put("{type: DataplaneInsight, mesh: default, name: echo-1}").await;
    let error = preview(&zone, "echo-1", false).unwrap_err();
    let sidecar = matches!(error, PreviewError::Generate(GenerateError::NotAGateway { .. }));
    assert!(sidecar, "{error}");
    zone.put("{type: DataplaneInsight, mesh: default, name: gone}").await;
    let error = preview(&zone, "gone", false).unwrap_err();
    let gone = matches!(error, PreviewError::Generate(GenerateError::NoDataplane { .. }));
    assert!(gone, "{error}");
}
