//! One broken part costs itself alone (D-4).

use sunbear_gateway_live::{
    Call, Case, Connection, EnvoyOptions, Gateway, Pair, cases, dial, eventually,
};
use sunbear_xds::ResourceType;

use crate::routes::answers;

const CASES: &[Case] = cases! {
    "failure/secret-missing" => secret_missing,
    "failure/secret-breaks" => secret_breaks,
    "failure/inline-breaks" => inline_breaks,
    "failure/regex" => regex,
    "failure/tls-without-mode" => tls_without_mode,
    "failure/bad-backends" => bad_backends,
    "failure/cross-mesh-without-mtls" => cross_mesh_without_mtls,
    "failure/port-taken" => port_taken,
};

#[tokio::test(flavor = "multi_thread")]
async fn failures() {
    sunbear_gateway_live::run(CASES).await;
}

/// The same in the variant in which each answer holds all resources.
#[tokio::test(flavor = "multi_thread")]
async fn failures_state_of_the_world() {
    let options = EnvoyOptions { features: Vec::new(), ..Gateway::options() };
    sunbear_gateway_live::run_with(options, CASES).await;
}

pub(crate) fn features() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|case| case.feature)
}

const ROUTE: &str = "http: {rules: [{matches: [{prefix: /}], to: a}]}";

fn told(gateway: &Gateway, part: &str) {
    let issues = gateway.issues();
    assert!(issues.iter().any(|issue| issue.contains(part)), "{part}: {issues:?}");
}

fn https(secret: &str, host: &str, port: Option<u16>) -> String {
    let port = port.map(|port| format!("port: {port}, ")).unwrap_or_default();
    format!(
        "{{protocol: HTTPS, hostname: {host}, {port}\
         tls: {{mode: TERMINATE, certificates: [{{secret: {secret}}}]}}}}"
    )
}

/// Others serve at once, this one when its secret is there.
async fn secret_missing(gateway: &Gateway) {
    let pair = Pair::ecdsa("one.test");
    let mut scene = gateway.scene();
    scene.secret("there", &pair.text());
    let http = scene.listener("{protocol: HTTP}");
    let port = scene.listener(&https("there", "one.test", None));
    scene.listener(&https("late", "two.test", Some(port)));
    scene.route("r", ROUTE);
    scene.apply().await;
    told(gateway, "late");
    assert_eq!(answers(Call::get(http, "/")).await, "a");
    assert_eq!(answers(Call::get(port, "/").host("one.test").https()).await, "a");
    let two = Call::get(port, "/").host("two.test").https();
    assert!(two.attempt().await.is_err());
    scene.secret("late", &Pair::ecdsa("two.test").text());
    scene.apply().await;
    two.until("the other one serves", |answer| answer.from() == "a").await;
    assert_eq!(gateway.issues(), Vec::<String>::new());
}

/// A secret that is damaged or deleted: the listener keeps what it had, and follows its routes.
async fn secret_breaks(gateway: &Gateway) {
    let pair = Pair::ecdsa("one.test");
    let mut scene = gateway.scene();
    scene.secret("cert", &pair.text());
    let port = scene.listener(&https("cert", "one.test", None));
    scene.route("r", ROUTE);
    scene.apply().await;
    let call = Call::get(port, "/").host("one.test").https();
    let mut held = Connection::open(&call).await.unwrap();
    assert_eq!(held.send(&call).await.unwrap().from(), "a");

    scene.secret("cert", "no certificate");
    scene.apply().await;
    told(gateway, "last good");
    let answer = call.send().await;
    assert_eq!((answer.from(), &answer.certificate), ("a", &Some(pair.leaf())));

    scene.remove("Secret", "cert");
    scene.route("r", "http: {rules: [{matches: [{prefix: /}], to: b}]}");
    scene.apply().await;
    told(gateway, "last good");
    let answer = call.until("routes go on", |answer| answer.from() == "b").await;
    assert_eq!(answer.certificate, Some(pair.leaf()));
    assert_eq!(held.send(&call).await.unwrap().from(), "b");

    let new = Pair::ecdsa("one.test");
    scene.secret("cert", &new.text());
    scene.apply().await;
    call.until("the new one is there", |a| a.certificate == Some(new.leaf())).await;
    assert_eq!(gateway.issues(), Vec::<String>::new());
}

async fn inline_breaks(gateway: &Gateway) {
    let pair = Pair::ecdsa("one.test");
    let mut scene = gateway.scene();
    let text = serde_json::to_string(&pair.text()).unwrap();
    let port = scene.listener(&format!(
        "{{protocol: HTTPS, hostname: one.test, \
         tls: {{mode: TERMINATE, certificates: [{{inlineString: {text}}}]}}}}"
    ));
    scene.route("r", ROUTE);
    scene.apply().await;
    let call = Call::get(port, "/").host("one.test").https();
    assert_eq!(call.send().await.from(), "a");
    scene.listeners()[0]["tls"]["certificates"][0]["inlineString"] = "nonsense".into();
    scene.apply().await;
    told(gateway, "last good");
    let answer = call.send().await;
    assert_eq!((answer.from(), &answer.certificate), ("a", &Some(pair.leaf())));
}

/// A regular expression that is none costs its own entry.
async fn regex(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port = scene.http(
        "[{matches: [{regex: '/(unclosed'}, {exact: /other}], to: a},
          {matches: [{prefix: /, headers: [{match: REGEX, name: x, value: '*'}]}], to: c},
          {matches: [{prefix: /, query_parameters: [{match: REGEX, name: q, value: '(?!x)'}]}], \
           to: c},
          {matches: [{prefix: /}], to: b}]",
    );
    scene.apply().await;
    told(gateway, "missing )");
    assert_eq!(answers(Call::get(port, "/other")).await, "a");
    assert_eq!(answers(Call::get(port, "/x?q=1").header("x", "*")).await, "b");
}

async fn tls_without_mode(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let http = scene.listener("{protocol: HTTP}");
    scene.listener("{protocol: TLS, hostname: one.test}");
    scene.route("r", ROUTE);
    scene.apply().await;
    told(gateway, "TLS mode");
    assert_eq!(answers(Call::get(http, "/")).await, "a");
}

/// Response codes and the like that Envoy does not know cost their route; the rest of it serves.
async fn bad_backends(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let port = scene.listener("{protocol: HTTP}");
    scene.route(
        "bad",
        "http: {rules: [{matches: [{prefix: /bad}], filters: [{redirect: {status_code: 305}}]}, \
         {matches: [{prefix: /good}], to: a}]}",
    );
    scene.apply().await;
    told(gateway, "305");
    assert_eq!(Call::get(port, "/bad").send().await.status, 500);
    assert_eq!(answers(Call::get(port, "/good")).await, "a");
}

async fn cross_mesh_without_mtls(gateway: &Gateway) {
    let mut scene = gateway.scene();
    let http = scene.listener("{protocol: HTTP}");
    scene.listener("{protocol: HTTP, crossMesh: true}");
    scene.route("r", ROUTE);
    scene.apply().await;
    told(gateway, "mTLS must be enabled");
    assert_eq!(answers(Call::get(http, "/")).await, "a");
}

/// What Envoy itself refuses.
async fn port_taken(gateway: &Gateway) {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let number = taken.local_addr().unwrap().port();
    let mut scene = gateway.scene();
    let http = scene.listener("{protocol: HTTP}");
    scene.listener(&format!("{{protocol: HTTP, port: {number}}}"));
    scene.route("r", ROUTE);
    let refused = || {
        let types = gateway.status().types;
        types.get(&ResourceType::Listener).is_some_and(|state| state.rejected.is_some())
    };
    scene.commit().await;
    eventually("the refusal is seen", || refused().then_some(())).await;
    assert_eq!(answers(Call::get(http, "/")).await, "a");
    scene.route("r", "http: {rules: [{matches: [{prefix: /}], to: b}]}");
    scene.commit().await;
    Call::get(http, "/").until("changes arrive", |answer| answer.from() == "b").await;
    // The port is free again, and nobody has to change anything.
    drop(taken);
    eventually("nothing is refused", || (!refused()).then_some(())).await;
    Call::get(number, "/").until("it serves", |answer| answer.from() == "b").await;
    scene.listeners().pop();
    let revision = scene.commit().await;
    gateway.settled(revision).await;
    dial(http, None).await.unwrap();
    assert_eq!(answers(Call::get(http, "/")).await, "b");
}
