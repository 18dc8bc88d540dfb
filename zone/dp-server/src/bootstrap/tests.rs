use std::path::Path;

use axum::body::{Body, to_bytes};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{Request, StatusCode, header};
use serde_json::{Value, json};
use sunbear_security::certificate::self_signed;

use super::{Context, ServerCertificate, respond, to_yaml};
use crate::{
    config::{AuthType, DpServerConfig},
    testing::{NOW, Resources},
};

struct Test {
    config: DpServerConfig,
    resources: Resources,
    certificate: String,
}

struct Answer {
    status: StatusCode,
    content_type: String,
    body: String,
}

impl Test {
    fn new() -> Self {
        let certificate = self_signed("cp.example", &["10.9.8.7".parse().unwrap()], NOW);
        let certificate = certificate.unwrap().cert_pem;
        let mut config = DpServerConfig::new("east", "cp-1", &certificate);
        config.bootstrap.admin_port = 0;
        Self {
            config,
            resources: Resources::default().with("{type: Mesh, name: default}"),
            certificate,
        }
    }

    async fn post(&self, host: &str, accept: &str, body: impl Into<Body>) -> Answer {
        let certificate = ServerCertificate::new(&self.certificate).unwrap();
        let context =
            Context { config: &self.config, certificate: &certificate, view: &self.resources };
        let request = Request::post("/bootstrap")
            .header(header::HOST, host)
            .header(header::ACCEPT, accept)
            .body(body.into())
            .unwrap();
        let response = respond(context, request).await;
        let (head, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        Answer {
            status: head.status,
            content_type: head
                .headers
                .get(header::CONTENT_TYPE)
                .map(|t| t.to_str().unwrap().to_owned())
                .unwrap_or_default(),
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    async fn ask(&self, request: &Value) -> Answer {
        self.post("localhost:5678", "*/*", request.to_string()).await
    }

    async fn document(&self, request: &Value) -> Value {
        let answer = self.ask(request).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        assert_eq!(answer.content_type, "text/x-yaml");
        serde_saphyr::from_str(&answer.body).unwrap()
    }

    async fn refuses(&self, request: &Value, status: u16, body: &str) {
        let answer = self.ask(request).await;
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), (status, body));
    }
}

/// A document to compare with, without what we leave out on purpose.
fn expected(file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bootstrap").join(file);
    let mut value: Value = serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    value.as_object_mut().unwrap().remove("hdsConfig").expect("all of them have it");
    value
}

fn ca_of(document: &Value) -> String {
    let bytes = &document["staticResources"]["secrets"][0]["validationContext"]["trustedCa"];
    let bytes = STANDARD.decode(bytes["inlineBytes"].as_str().unwrap()).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Field by field, so that a failure is readable.
fn same(path: &str, got: &Value, want: &Value, differences: &mut Vec<String>) {
    match (got, want) {
        (Value::Object(g), Value::Object(w)) => {
            for key in g.keys().chain(w.keys().filter(|k| !g.contains_key(*k))) {
                same(&format!("{path}.{key}"), &got[key], &want[key], differences);
            }
        }
        (Value::Array(g), Value::Array(w)) if g.len() == w.len() => {
            for (i, (g, w)) in g.iter().zip(w).enumerate() {
                same(&format!("{path}[{i}]"), g, w, differences);
            }
        }
        _ if got == want => {}
        _ => differences.push(format!("{path}: got {got}, want {want}")),
    }
}

fn assert_same(got: &Value, want: &Value) {
    let mut differences = Vec::new();
    same("", got, want, &mut differences);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!(got, want);
}

fn versions() -> Value {
    json!({
        "kumaDp": {
            "version": "0.0.1",
            "gitTag": "v0.0.1",
            "gitCommit": "91ce236824a9d875601679aa80c63783fb0e8725",
            "buildDate": "2019-08-07T11:26:06Z",
        },
        "envoy": {"version": "1.15.0", "build": "hash/1.15.0/RELEASE", "kumaDpCompatible": false},
    })
}

const SIDECAR: &str = "{type: Dataplane, mesh: mesh, name: name.namespace, networking: {
    address: 8.8.8.8, admin: {port: 1234},
    inbound: [{port: 443, servicePort: 8443, tags: {kuma.io/service: backend}}]}}";

#[tokio::test]
async fn a_recorded_gateway() {
    let want = expected("recorded-gateway.yaml");
    let mut test = Test::new();
    test.config.bootstrap.xds_port = 15678;
    let request = json!({
        "mesh": "default",
        "name": "gw-east",
        "proxyType": "dataplane",
        "dataplaneToken": "TOKEN",
        "dataplaneResource": want["node"]["metadata"]["dataplane.resource"],
        "version": want["node"]["metadata"]["version"],
        "caCert": ca_of(&want),
        "dynamicMetadata": null,
        "otelEnv": want["node"]["metadata"]["otelEnvInventory"],
        "dnsPort": 15054,
        "readinessPort": 19902,
        "operatingSystem": "linux",
        "features": want["node"]["metadata"]["features"],
        "resources": {"maxHeapSizeBytes": 0},
        "workdir": "WORKDIR/gw-east",
        "metricsResources": {"certPath": "", "keyPath": ""},
        "systemCaPath": "/etc/ssl/certs/ca-certificates.crt",
        "ipv6Enabled": true,
        "spireResources": {"socketPath": ""},
        "unknownToUs": {"x": [1]},
    });
    assert_same(&test.document(&request).await, &want);
}

#[tokio::test]
async fn a_gateway_with_a_heap_limit() {
    let want = expected("gateway-with-heap-limit.yaml");
    let mut test = Test::new();
    test.resources = Resources::default().with(
        "{type: Dataplane, mesh: default, name: gateway-1.default, networking: {address: 8.8.8.8,
          admin: {}, gateway: {type: BUILTIN, tags: {kuma.io/service: gateway}}}}",
    );
    let port = &want["staticResources"]["clusters"][1]["loadAssignment"]["endpoints"][0]["lbEndpoints"]
        [0]["endpoint"]["address"]["socketAddress"]["portValue"];
    test.config.bootstrap.xds_port = u16::try_from(port.as_u64().unwrap()).unwrap();
    let request = json!({
        "mesh": "default",
        "name": "gateway-1.default",
        "dataplaneToken": "token",
        "workdir": "/tmp",
        "resources": {"maxHeapSizeBytes": 2_000_000},
        "version": want["node"]["metadata"]["version"],
        "caCert": ca_of(&want),
    });
    assert_same(&test.document(&request).await, &want);
}

#[tokio::test]
async fn sidecars() {
    let want = expected("sidecar.yaml");
    let mut test = Test::new();
    test.resources = Resources::default().with(SIDECAR);
    test.config.bootstrap.envoy_admin_unix_socket = false;
    let mut request = json!({
        "mesh": "mesh",
        "name": "name.namespace",
        "dataplaneToken": "token",
        "version": versions(),
        "dnsPort": 53001,
        "workdir": "/tmp",
        "caCert": ca_of(&want),
    });
    assert_same(&test.document(&request).await, &want);

    let want = expected("sidecar-delta.yaml");
    test.resources = Resources::default().with(&SIDECAR.replace("1234", "9902"));
    let params = &mut test.config.bootstrap;
    params.admin_address = "192.168.0.1".parse().unwrap();
    params.admin_access_log_path = "/var/log".to_owned();
    params.xds_port = 15678;
    params.xds_connect_timeout = std::time::Duration::from_secs(2);
    test.config.dataplane_tokens.auth = AuthType::None;
    request["features"] = json!(["feature-delta-grpc"]);
    request["caCert"] = json!(ca_of(&want));
    request["dnsPort"] = json!(0);
    request["dataplaneToken"] = json!("");
    assert_same(&test.document(&request).await, &want);
}

#[tokio::test]
async fn zone_proxies() {
    let mut test = Test::new();
    test.resources = Resources::default()
        .with("{type: ZoneIngress, name: in-1, networking: {address: 10.0.0.8, port: 10001, admin: {port: 7777}}}");
    let request = json!({
        "name": "in-1",
        "proxyType": "ingress",
        "dataplaneToken": "token",
        "workdir": "/run/in",
    });
    let got = test.document(&request).await;
    assert_eq!(got["node"]["id"], ".in-1");
    assert_eq!(got["node"]["cluster"], "ingress");
    assert_eq!(got["node"]["metadata"]["dataplane.proxyType"], "ingress");
    assert_eq!(got["node"]["metadata"]["dataplane.admin.port"], "7777");
    assert_eq!(got["admin"]["address"]["pipe"]["path"], "/run/in/kuma-envoy-admin.sock");
    assert_eq!(got["overloadManager"], Value::Null);
    let sink = &got["staticResources"]["clusters"][0]["loadAssignment"]["endpoints"][0];
    assert_eq!(
        sink["lbEndpoints"][0]["endpoint"]["address"]["pipe"]["path"],
        "/run/in/kuma-al-in-1-.sock"
    );

    let egress = json!({
        "name": "out-1",
        "proxyType": "egress",
        "dataplaneToken": "token",
        "dataplaneResource": "{type: ZoneEgress, name: out-1, networking: {address: 10.0.0.9, port: 10002}}",
    });
    let got = test.document(&egress).await;
    assert_eq!(got["node"]["cluster"], "egress");
    assert_eq!(got["admin"], Value::Null, "no port, no admin interface");
    assert_eq!(got["node"]["metadata"]["dataplane.admin.address"], Value::Null);
}

#[tokio::test]
async fn parameters_of_single_fields() {
    let test = Test::new();
    let request = json!({
        "mesh": "default",
        "name": "a",
        "dataplaneTokenPath": "/token",
        "dataplaneResource": "{type: Dataplane, mesh: default, name: a, networking: {address: 10.0.0.1, admin: {port: 9000}}}",
        "dynamicMetadata": {"HOST_IP": "10.0.0.1"},
        "appProbeProxyDisabled": true,
        "dataplaneConfig": {"redirect": {"inbound": {"enabled": true}}},
    });
    let got = test.document(&request).await;
    let metadata = &got["node"]["metadata"];
    assert_eq!(got["node"]["cluster"], "unknown");
    assert_eq!(metadata["dynamicMetadata"], json!({"HOST_IP": "10.0.0.1"}));
    assert_eq!(metadata["dataplane.appProbeProxy.enabled"], "true");
    assert_eq!(metadata["transparentProxy"], request["dataplaneConfig"]);
    assert_eq!(metadata["version"], json!({"kumaDp": {}, "envoy": {}}));
    assert_eq!(metadata["features"], json!([]));
    let service = &got["dynamicResources"]["adsConfig"]["grpcServices"][0];
    assert_eq!(service["initialMetadata"], Value::Null);
    // Without a work folder the admin interface is on TCP.
    assert_eq!(
        got["admin"]["address"]["socketAddress"],
        json!({"address": "127.0.0.1", "portValue": 9000})
    );
    assert_eq!(ca_of(&got), test.certificate);

    // The address that the proxy used is the one that it will use.
    let answer = test.post("10.9.8.7:5678", "*/*", request.to_string()).await;
    let got: Value = serde_saphyr::from_str(&answer.body).unwrap();
    assert_eq!(got["staticResources"]["clusters"][1]["type"], "STATIC");
}

#[tokio::test]
async fn the_answer_to_kuma_dp() {
    let test = Test::new();
    let request = json!({
        "mesh": "default",
        "name": "a",
        "dataplaneToken": "t",
        "dataplaneResource": "{type: Dataplane, mesh: default, name: a, networking: {address: 10.0.0.1}}",
    });
    let answer = test.post("localhost", "application/json", request.to_string()).await;
    assert_eq!((answer.status, answer.content_type.as_str()), (StatusCode::OK, "application/json"));
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    let sidecar = json!({
        "networking": {"corefileTemplate": null, "address": "10.0.0.1"},
        "metrics": {"aggregate": []},
    });
    assert_eq!(body["kumaSidecarConfiguration"], sidecar);
    let yaml = STANDARD.decode(body["bootstrap"].as_str().unwrap()).unwrap();
    let document: Value = serde_saphyr::from_str(&String::from_utf8(yaml).unwrap()).unwrap();
    assert_eq!(document["node"]["id"], "default.a");
}

#[tokio::test]
async fn checks_in_their_order() {
    const TOKEN: &str = "Dataplane Token is required. Generate token using 'kumactl generate \
        dataplane-token > /path/file' and provide it via --dataplane-token-file=/path/file \
        argument to Kuma DP";
    const NOT_CA: &str = "A data plane proxy is trying to verify the control plane using the \
        certificate which is not a certificate authority";
    const RESOURCE: &str =
        "{type: Dataplane, mesh: default, name: a, networking: {address: 10.0.0.1}}";

    let test = Test::new();
    // 1
    for body in ["", "{", "[]", r#"{"mesh": 1}"#] {
        let answer = test.post("localhost", "*/*", body).await;
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), (400, ""), "{body}");
    }
    // 2, and before all that follows
    test.refuses(&json!({"mesh": "absent"}), 422, TOKEN).await;
    test.refuses(&json!({"proxyType": "ingress"}), 422, TOKEN).await;
    test.refuses(&json!({"proxyType": "router"}), 422, "proxyType: unknown proxy type \"router\"")
        .await;
    // 3
    let request = |changes: Value| {
        let mut request = json!({
            "mesh": "default",
            "name": "a",
            "dataplaneToken": "t",
            "dataplaneResource": RESOURCE,
        });
        request.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        request
    };
    let answer = test.post("other.example:5678", "*/*", request(json!({})).to_string()).await;
    assert_eq!(answer.status.as_u16(), 400);
    assert!(
        answer.body.starts_with(
            "A data plane proxy is trying to connect to the control plane using \
             \"other.example\" address, but the certificate in the control plane has the \
             following SANs [\"cp.example\", \"localhost\", \"10.9.8.7\"]"
        ),
        "{}",
        answer.body
    );
    // 4
    for (resource, want) in [
        ("{", None),
        ("{type: Mesh, name: default}", Some("dataplaneResource: Mesh is not a proxy")),
        (
            "{type: ZoneIngress, name: a}",
            Some(
                "dataplaneResource: a proxy of type \"dataplane\" needs a Dataplane, not a ZoneIngress",
            ),
        ),
        ("{type: Dataplane, mesh: absent, name: a}", Some("networking: must be defined")),
        (
            "{type: Dataplane, mesh: absent, name: a, networking: {address: 0.0.0.0, gateway: {type: BUILTIN}, inbound: [{port: 1}]}}",
            Some(
                "networking.inbound: inbound cannot be defined for builtin gateways; \
                 networking.address: must not be 0.0.0.0 or ::",
            ),
        ),
    ] {
        let answer = test.ask(&request(json!({"dataplaneResource": resource}))).await;
        assert_eq!(answer.status.as_u16(), 422, "{resource}");
        if let Some(want) = want {
            assert_eq!(answer.body, want);
        }
    }
    // 5
    let outbound = json!({
        "dataplaneResource": "{type: Dataplane, mesh: absent, name: a, networking: {address: 10.0.0.1, outbound: [{port: 1, tags: {kuma.io/service: b}}]}}",
        "dataplaneConfig": {"redirect": {"outbound": {"enabled": true}}},
    });
    test.refuses(
        &request(outbound),
        422,
        "outbound: should be empty since dataplane is in Transparent Proxying mode",
    )
    .await;
    // 6
    test.refuses(
        &request(json!({"dataplaneResource": RESOURCE.replace("default", "absent")})),
        422,
        "mesh: mesh \"absent\" does not exist",
    )
    .await;
    // 7
    test.refuses(&request(json!({"dataplaneResource": ""})), 404, "").await;
    // 8
    let leaf = leaf_certificate();
    let answer = test.ask(&request(json!({"caCert": leaf}))).await;
    assert_eq!(answer.status.as_u16(), 400);
    assert!(answer.body.starts_with(NOT_CA), "{}", answer.body);
    let answer = test.ask(&request(json!({"caCert": "nonsense"}))).await;
    assert_eq!(answer.status.as_u16(), 400);

    // Too long to be read.
    let answer = test.post("localhost", "*/*", vec![b' '; super::MAX_BODY + 1]).await;
    assert_eq!(answer.status.as_u16(), 413);
}

/// A certificate that says of itself that it is no authority.
fn leaf_certificate() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/leaf.pem");
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn yaml_keeps_types() {
    let texts = [
        "0",
        "1e3",
        "0x1F",
        "0.250s",
        "true",
        "yes",
        "on",
        "n",
        "null",
        "~",
        "",
        " ",
        "a: b",
        "- a",
        "#",
        "'",
        "\"",
        "\\",
        "\n",
        "a\nb\n",
        "{",
        "[",
        "*a",
        "&a",
        "!a",
        "%",
        "@",
        "`",
        "|",
        ">",
        "2030-01-01",
        "é",
        "\u{1}",
        ".inf",
        "=",
        "<<",
        "12:30:45",
    ];
    let value = json!({
        "texts": texts.as_slice(),
        "keys": {"@type": 1, "": 2, "true": 3, "0": 4},
        "numbers": [0, 4_294_967_295_u32, 0.95, -1],
        "truths": [true, false, null],
        "empty": {"list": [], "map": {}},
    });
    let yaml = to_yaml(&value).unwrap();
    let back: Value = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(back, value, "{yaml}");
    for text in ["0", "true", "yes", "on", "null", "2030-01-01", "12:30:45"] {
        assert!(
            yaml.contains(&format!("'{text}'")) || yaml.contains(&format!("\"{text}\"")),
            "{text}"
        );
    }
}
