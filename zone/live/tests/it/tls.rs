//! TLS on HTTPS listeners: certificates, server names and hosts.

use std::path::Path;

use rustls::SignatureScheme;
use sunbear_gateway_live::{
    Call, Case, Connection, Gateway, Pair, Scene, Tls, base64, cases, eventually,
};
use sunbear_xds::ResourceType;

const CASES: &[Case] = cases! {
    "tls/terminate" => terminate,
    "tls/versions" => versions,
    "tls/rsa-and-ecdsa" => rsa_and_ecdsa,
    "tls/inline" => inline,
    "tls/inline-string" => inline_string,
    "tls/inline-on-two-ports" => inline_on_two_ports,
    "tls/file" => file,
    "tls/rotation" => rotation,
    "tls/sni-matches" => sni_matches,
    "tls/sni-wildcard" => sni_wildcard,
    "tls/sni-isolates" => sni_isolates,
    "tls/sni-mismatch" => sni_mismatch,
    "tls/no-sni" => no_sni,
    "tls/redistribution" => redistribution,
    "tls/plain-text" => plain_text,
};

#[tokio::test(flavor = "multi_thread")]
async fn tls() {
    sunbear_gateway_live::run(CASES).await;
}

pub(crate) fn features() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|case| case.feature)
}

const ROUTE: &str = "http: {rules: [{matches: [{prefix: /}], to: a}]}";

/// Adds an HTTPS listener for a host (`*` for all), with a certificate in a secret of that name.
fn https(scene: &mut Scene<'_>, host: &str, port: Option<u16>) -> (u16, Pair) {
    let pair = Pair::ecdsa(&host.replace('*', "any"));
    let secret = format!("cert-{}", host.replace('*', "any"));
    scene.secret(&secret, &pair.text());
    let port = port.map(|port| format!("port: {port}, ")).unwrap_or_default();
    let port = scene.listener(&format!(
        "{{protocol: HTTPS, hostname: '{host}', {port}\
         tls: {{mode: TERMINATE, certificates: [{{secret: {secret}}}]}}}}"
    ));
    (port, pair)
}

/// Adds an HTTPS listener with this list of certificates.
fn with_certificates(scene: &mut Scene<'_>, host: &str, certificates: &str) -> u16 {
    scene.listener(&format!(
        "{{protocol: HTTPS, hostname: {host}, \
         tls: {{mode: TERMINATE, certificates: {certificates}}}}}"
    ))
}

async fn terminate(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let (port, pair) = https(&mut scene, "one.test", None);
    scene.route("r", ROUTE);
    scene.apply().await;
    let call = Call::get(port, "/").host("one.test");
    let answer = call.clone().https().send().await;
    assert_eq!((answer.status, answer.from()), (200, "a"));
    assert_eq!(answer.certificate, Some(pair.leaf()));
    assert_eq!(answer.header("strict-transport-security"), "max-age=31536000; includeSubDomains");
    assert_eq!(answer.seen().header("x-forwarded-proto"), "https");
    let answer = call.tls(&Tls::to("one.test").alpn(&["h2", "http/1.1"])).send().await;
    assert_eq!((answer.version, answer.from()), (http::Version::HTTP_2, "a"));
}

async fn versions(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let (port, _) = https(&mut scene, "one.test", None);
    scene.route("r", ROUTE);
    scene.apply().await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let tls = Tls::to("one.test").version(version);
        assert_eq!(Call::get(port, "/").host("one.test").tls(&tls).send().await.status, 200);
    }
}

/// A listener with two certificates presents the one that the client can check.
async fn rsa_and_ecdsa(gateway: &Gateway) {
    let (rsa, ecdsa) = (Pair::rsa("one.test"), Pair::ecdsa("one.test"));
    let mut scene = gateway.scene();
    scene.secret("rsa", &rsa.text());
    scene.secret("ecdsa", &ecdsa.text());
    let port = with_certificates(&mut scene, "one.test", "[{secret: rsa}, {secret: ecdsa}]");
    scene.route("r", ROUTE);
    scene.apply().await;
    let presented = async |schemes: &[SignatureScheme]| {
        let tls = Tls::to("one.test").schemes(schemes);
        let answer = Call::get(port, "/").host("one.test").tls(&tls).send().await;
        assert_eq!(answer.status, 200);
        answer.certificate.unwrap()
    };
    assert_eq!(presented(&[SignatureScheme::ECDSA_NISTP256_SHA256]).await, ecdsa.leaf());
    assert_eq!(
        presented(&[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PKCS1_SHA256]).await,
        rsa.leaf()
    );
}

/// Asserts that a listener presents this certificate.
async fn presents(port: u16, host: &str, pair: &Pair) {
    let answer = Call::get(port, "/").host(host).https().send().await;
    assert_eq!((answer.status, answer.certificate), (200, Some(pair.leaf())));
}

async fn inline(gateway: &Gateway) {
    let pair = Pair::ecdsa("one.test");
    let mut scene = gateway.scene();
    let certificates = format!("[{{inline: {}}}]", base64(&pair.text()));
    let port = with_certificates(&mut scene, "one.test", &certificates);
    scene.route("r", ROUTE);
    scene.apply().await;
    presents(port, "one.test", &pair).await;
}

fn inline_text(pair: &Pair) -> String {
    format!("[{{inlineString: {}}}]", serde_json::to_string(&pair.text()).unwrap())
}

async fn inline_string(gateway: &Gateway) {
    let pair = Pair::ecdsa("one.test");
    let mut scene = gateway.scene();
    let port = with_certificates(&mut scene, "one.test", &inline_text(&pair));
    scene.route("r", ROUTE);
    scene.apply().await;
    presents(port, "one.test", &pair).await;
}

/// Each port has its own, though the names of the certificates are made of the host.
async fn inline_on_two_ports(gateway: &Gateway) {
    let pairs = [Pair::ecdsa("one.test"), Pair::ecdsa("one.test")];
    let mut scene = gateway.scene();
    let ports = [0, 1].map(|i| with_certificates(&mut scene, "one.test", &inline_text(&pairs[i])));
    scene.route("r", ROUTE);
    scene.apply().await;
    for (port, pair) in ports.iter().zip(&pairs) {
        presents(*port, "one.test", pair).await;
    }
}

/// Envoy reads the file, and reads it again when another takes its place. One that is missing is
/// told, and all else serves.
async fn file(gateway: &Gateway) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cert.pem");
    let old = Pair::ecdsa("one.test");
    std::fs::write(&path, old.text()).unwrap();
    let mut scene = gateway.scene();
    let file = |path: &Path| format!("[{{file: {}}}]", path.display());
    let port = with_certificates(&mut scene, "one.test", &file(&path));
    scene.route("r", ROUTE);
    scene.apply().await;
    presents(port, "one.test", &old).await;
    let call = Call::get(port, "/").host("one.test").https();
    let mut held = Connection::open(&call).await.unwrap();
    assert_eq!(held.send(&call).await.unwrap().certificate, Some(old.leaf()));
    let new = Pair::rsa("one.test");
    let fresh = folder.path().join("fresh");
    std::fs::write(&fresh, new.text()).unwrap();
    std::fs::rename(&fresh, &path).unwrap();
    call.until("the new certificate is there", |a| a.certificate == Some(new.leaf())).await;
    assert_eq!(held.send(&call).await.unwrap().status, 200);

    let http = scene.listener("{protocol: HTTP}");
    with_certificates(&mut scene, "two.test", &file(&folder.path().join("missing.pem")));
    scene.commit().await;
    let refusal = || gateway.status().types.get(&ResourceType::Secret)?.rejected.clone();
    let refused = eventually("the refusal is seen", refusal).await;
    assert!(refused.message.contains("missing.pem"), "{refused:?}");
    assert_eq!(Call::get(http, "/").send().await.status, 200);
    presents(port, "one.test", &new).await;
    scene.listeners().pop();
    scene.commit().await;
    eventually("nothing is refused", || refusal().is_none().then_some(())).await;
}

/// Another certificate in a secret: who is connected stays, who comes gets the new one.
async fn rotation(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let (port, old) = https(&mut scene, "one.test", None);
    scene.route("r", ROUTE);
    scene.apply().await;
    let call = Call::get(port, "/").host("one.test").https();
    let mut held = Connection::open(&call).await.unwrap();
    assert_eq!(held.send(&call).await.unwrap().certificate, Some(old.leaf()));
    let updates = gateway.envoy.stat("listener_manager.lds.update_success").await;
    for new in [Pair::ecdsa("one.test"), Pair::ecdsa("one.test")] {
        scene.secret("cert-one.test", &new.text());
        scene.apply().await;
        call.until("the new certificate is there", |a| a.certificate == Some(new.leaf())).await;
        assert_eq!(held.send(&call).await.unwrap().status, 200);
    }
    assert_eq!(gateway.envoy.stat("listener_manager.lds.update_success").await, updates);
    // A key of another kind has another name, so the listener changes; who comes is served.
    let new = Pair::rsa("one.test");
    scene.secret("cert-one.test", &new.text());
    scene.apply().await;
    call.until("the new certificate is there", |a| a.certificate == Some(new.leaf())).await;
}

async fn sni_matches(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let (port, one) = https(&mut scene, "one.test", None);
    let (_, two) = https(&mut scene, "two.test", Some(port));
    scene.route("r1", "http: {hostnames: [one.test], rules: [{matches: [{prefix: /}], to: a}]}");
    scene.route("r2", "http: {hostnames: [two.test], rules: [{matches: [{prefix: /}], to: b}]}");
    scene.apply().await;
    for (host, pair, who) in [("one.test", &one, "a"), ("two.test", &two, "b")] {
        let answer = Call::get(port, "/").host(host).https().send().await;
        assert_eq!((answer.from(), answer.certificate.as_ref()), (who, Some(&pair.leaf())));
    }
}

/// The most exact name of the port has the connection.
async fn sni_wildcard(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let (port, all) = https(&mut scene, "*", None);
    let (_, wild) = https(&mut scene, "*.test", Some(port));
    let (_, one) = https(&mut scene, "one.test", Some(port));
    scene.route("r", ROUTE);
    scene.apply().await;
    for (host, pair) in [
        ("one.test", &one),
        ("two.test", &wild),
        ("x.two.test", &wild),
        ("test", &all),
        ("other.example", &all),
    ] {
        presents(port, host, pair).await;
    }
}

/// On a connection for one host there are no others, even if the port has them.
async fn sni_isolates(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let (port, _) = https(&mut scene, "one.test", None);
    https(&mut scene, "two.test", Some(port));
    https(&mut scene, "*.wild.test", Some(port));
    scene.route("r", ROUTE);
    scene.apply().await;
    let status = async |sni: &str, host: &str| {
        Call::get(port, "/").host(host).tls(&Tls::to(sni)).send().await.status
    };
    assert_eq!(status("one.test", "one.test").await, 200);
    assert_eq!(status("one.test", "two.test").await, 404);
    assert_eq!(status("two.test", "one.test").await, 404);
    assert_eq!(status("a.wild.test", "one.test").await, 404);
    assert_eq!(status("one.test", "a.wild.test").await, 404);
    assert_eq!(status("a.wild.test", "b.wild.test").await, 200);
    // The same over one connection, as HTTP/2 clients reuse them.
    let tls = Tls::to("one.test").alpn(&["h2"]);
    let call = Call::get(port, "/").host("one.test").tls(&tls);
    let mut connection = Connection::open(&call).await.unwrap();
    assert_eq!(connection.send(&call).await.unwrap().status, 200);
    assert_eq!(connection.send(&call.clone().host("two.test")).await.unwrap().status, 404);
}

/// A name that no listener of the port has.
async fn sni_mismatch(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let (port, _) = https(&mut scene, "one.test", None);
    https(&mut scene, "*.wild.test", Some(port));
    scene.route("r", ROUTE);
    scene.apply().await;
    Call::get(port, "/").host("one.test").https().send().await;
    for sni in ["two.test", "wild.test", "test"] {
        let tls = Tls::to(sni);
        let failure = Call::get(port, "/").host("one.test").tls(&tls).attempt().await;
        assert!(failure.is_err(), "{sni}: {failure:?}");
    }
}

/// Without a server name only the listener for all hosts serves.
async fn no_sni(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let (named, _) = https(&mut scene, "one.test", None);
    let (any, pair) = https(&mut scene, "*", None);
    https(&mut scene, "two.test", Some(any));
    scene.route("r", ROUTE);
    scene.apply().await;
    let call = |port| Call::get(port, "/").host("one.test").tls(&Tls::without_name());
    let answer = call(any).send().await;
    assert_eq!((answer.from(), &answer.certificate), ("a", &Some(pair.leaf())));
    assert!(call(named).attempt().await.is_err());
}

/// Hosts that routes bring up on the HTTPS listener for all hosts.
async fn redistribution(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let (port, pair) = https(&mut scene, "*", None);
    scene.route("all", "http: {rules: [{matches: [{prefix: /all}], to: c}]}");
    scene.route("r1", "http: {hostnames: [one.test], rules: [{matches: [{prefix: /}], to: a}]}");
    scene.apply().await;
    presents(port, "one.test", &pair).await;
    let status = async |host: &str| {
        Call::get(port, "/all").host(host).https().send().await.from().to_owned()
    };
    assert_eq!(status("one.test").await, "a");
    assert_eq!(status("two.test").await, "c");
}

async fn plain_text(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let (port, _) = https(&mut scene, "*", None);
    scene.route("r", ROUTE);
    scene.apply().await;
    Call::get(port, "/").host("one.test").https().send().await;
    assert!(Call::get(port, "/").attempt().await.is_err());
}
