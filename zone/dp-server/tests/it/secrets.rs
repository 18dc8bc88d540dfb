//! Secrets for the agent of a connected proxy.

use serde_json::{Value, json};
use sunbear_security::token::DataplaneClaims;
use sunbear_xds::ResourceType::Secret;

use crate::{
    client::{Delta, Proxy, subscription},
    fixture::{CERTIFICATE, Fixture, any_token, gateway, token},
};

const GATEWAY: &str = "
type: MeshGateway
mesh: default
name: edge
selectors: [{match: {kuma.io/service: edge}}]
conf:
  listeners:
  - port: 18443
    protocol: HTTPS
    hostname: a.example
    tls: {mode: TERMINATE, certificates: [{secret: cert}]}
";

async fn ask(fixture: &Fixture, token: Option<&str>, body: &Value) -> (u16, String) {
    let url = format!("http://{}/sunbear/secrets", fixture.address);
    let mut request = reqwest::Client::new().post(url).body(body.to_string());
    if let Some(token) = token {
        request = request.header("authorization", token);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    if status == 200 {
        assert_eq!(answer.headers()["cache-control"], "no-store");
    }
    (status, answer.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_proves_to_be_the_proxy_gets_what_it_is_offered() {
    let fixture = Fixture::start().await.with_gateway().await;
    let pem = format!("{}{}", CERTIFICATE.cert_pem, CERTIFICATE.key_pem);
    fixture.secret("default", "cert", &pem).await;
    fixture.put(GATEWAY).await;
    let edge = json!({"mesh": "default", "name": "edge-1"});

    let before = ask(&fixture, Some(&any_token()), &edge).await;
    assert_eq!(before.0, 409, "{}", before.1);

    let proxy = Proxy::direct("edge-1", &gateway("edge-1", "edge"), &any_token());
    let mut delta = Delta::open(fixture.address, &proxy, subscription(Secret, &["*"])).await;
    let response = delta.take().await;
    let [resource] = &response.resources[..] else { panic!("{response:?}") };

    let (status, body) = ask(&fixture, Some(&any_token()), &edge).await;
    assert_eq!(status, 200, "{body}");
    let body: Value = serde_json::from_str(&body).unwrap();
    let [secret] = &body["secrets"].as_array().unwrap()[..] else { panic!("{body}") };
    assert_eq!(secret["name"], *resource.name);
    // What the agent compares with Envoy's dump.
    assert_eq!(secret["version"], *resource.version);
    let certificate = &secret["secret"]["tlsCertificate"];
    assert_eq!(certificate["privateKey"]["inlineString"], CERTIFICATE.key_pem);

    let other = DataplaneClaims { name: "other".to_owned(), ..DataplaneClaims::default() };
    let key_line = CERTIFICATE.key_pem.lines().nth(1).unwrap();
    for (token, body, expected) in [
        (None, &edge, 401),
        (Some("nonsense".to_owned()), &edge, 401),
        (Some(token(&other)), &edge, 403),
        (Some(any_token()), &json!({"mesh": "default", "name": "echo-1"}), 409),
        (Some(any_token()), &json!({"mesh": "default", "name": "nobody"}), 409),
        (Some(any_token()), &json!({"name": "edge-1"}), 400),
        (Some(any_token()), &json!([]), 400),
    ] {
        let (status, text) = ask(&fixture, token.as_deref(), body).await;
        assert_eq!(status, expected, "{body}: {text}");
        assert!(!text.contains(key_line));
    }
    drop(delta);
}
