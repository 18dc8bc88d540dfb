//! What most installations leave alone: keys for user tokens, client certificates, pages of other
//! origins, the base path.

use http::{HeaderValue, Method, Request};
use serde_json::json;
use sunbear_api::{ClientCertificate, UserTokenKeys};
use sunbear_security::{
    signing_key,
    token::{self, SigningKey, UserClaims},
};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::support::{Cp, global, remote, request, route};

fn token(key: &str, kid: &str) -> String {
    let claims = UserClaims { name: "offline".to_owned(), groups: vec!["team".to_owned()] };
    let key = SigningKey { kid, key: key.as_bytes() };
    let now = OffsetDateTime::now_utc();
    token::issue(&claims, key, Uuid::from_u128(1), now, Duration::hours(1)).unwrap()
}

fn bearing(token: &str) -> Request<axum::body::Body> {
    let mut request = remote(Method::GET, "/who-am-i", None);
    let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
    request.headers_mut().insert("authorization", value);
    request
}

#[tokio::test]
async fn static_keys_of_user_tokens() {
    let key = signing_key::generate().unwrap();
    let public = signing_key::public_pem(key.as_bytes()).unwrap();
    let keys = [("offline".to_owned(), public.into_bytes())].into();
    let cp = Cp::with(global(), |api| {
        api.options.user_token_keys = UserTokenKeys { use_secrets: false, keys };
    })
    .await;
    let reply = cp.request(bearing(&token(&key, "offline"))).await;
    assert_eq!(reply.json()["name"], "offline");
    // Another id, another key under the id, and secrets that are not looked at.
    assert_eq!(cp.request(bearing(&token(&key, "2"))).await.status, 401);
    let other = signing_key::generate().unwrap();
    assert_eq!(cp.request(bearing(&token(&other, "offline"))).await.status, 401);
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let data = STANDARD.encode(&key);
    let secret = json!({"type": "GlobalSecret", "name": "user-token-signing-key-2", "data": data});
    let put = cp.put("/globalsecrets/user-token-signing-key-2", &secret).await;
    assert_eq!(put.status, 201);
    assert_eq!(cp.request(bearing(&token(&key, "2"))).await.status, 401);
    let list = json!({"type": "GlobalSecret", "name": "user-token-revocations", "data": STANDARD.encode(Uuid::from_u128(1).to_string())});
    assert_eq!(cp.put("/globalsecrets/user-token-revocations", &list).await.status, 201);
    assert_eq!(cp.request(bearing(&token(&key, "offline"))).await.status, 401);
}

#[tokio::test]
async fn client_certificates() {
    let shown = || {
        let mut request = remote(Method::GET, "/who-am-i", None);
        request.extensions_mut().insert(ClientCertificate);
        request
    };
    let cp = Cp::with(global(), |api| api.access.admin_client_certificates = true).await;
    let who = async |cp: &Cp, request| cp.request(request).await.json()["name"].clone();
    assert_eq!(who(&cp, shown()).await, "mesh-system:admin");
    assert_eq!(who(&cp, remote(Method::GET, "/who-am-i", None)).await, "mesh-system:anonymous");
    // Only if they are asked for.
    let cp = Cp::new(global()).await;
    assert_eq!(who(&cp, shown()).await, "mesh-system:anonymous");
}

#[tokio::test]
async fn pages_of_other_origins() {
    let from = |method: Method, origin: &str| {
        let mut request = request(method, "/meshes", None);
        request.headers_mut().insert("origin", HeaderValue::from_str(origin).unwrap());
        request
    };
    let cp = Cp::with(global(), |api| {
        api.options.cors_allowed_domains =
            vec!["https://gui.example".to_owned(), "https://[a-z]+\\.corp".to_owned()];
    })
    .await;
    let allowed = "access-control-allow-origin";
    for (origin, want) in [
        ("https://gui.example", true),
        ("https://x.corp", true),
        ("https://x.corp.evil", false),
        ("https://evil.example", false),
    ] {
        let reply = cp.request(from(Method::GET, origin)).await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header(allowed), if want { origin } else { "" });
        let mut preflight = from(Method::OPTIONS, origin);
        let method = HeaderValue::from_static("PUT");
        preflight.headers_mut().insert("access-control-request-method", method);
        let reply = cp.request(preflight).await;
        assert_eq!(reply.status, if want { 200 } else { 405 }, "{origin}");
        assert_eq!(reply.header("access-control-allow-methods"), if want { "PUT" } else { "" });
    }
    // Being allowed to ask makes nobody an administrator.
    let reply = cp.request(from(Method::GET, "https://gui.example")).await;
    assert_eq!(reply.header("vary"), "Origin");
    let mut put = request(Method::PUT, "/meshes/default/meshgatewayroutes/r", Some(&route("r")));
    put.headers_mut().insert("origin", HeaderValue::from_static("https://gui.example"));
    assert_eq!(cp.request(put).await.status, 403);
    // Nobody is, by default.
    let reply = Cp::new(global()).await.request(from(Method::GET, "https://gui.example")).await;
    assert_eq!(reply.header(allowed), "");
}

#[tokio::test]
async fn base_path() {
    let cp = Cp::with(global(), |api| api.options.base_path = "/api".to_owned()).await;
    assert_eq!(cp.get("/api").await.json()["product"], "Kuma");
    assert_eq!(cp.get("/api/").await.json()["product"], "Kuma");
    assert_eq!(cp.get("/api/meshes/default").await.status, 200);
    for path in ["/", "/meshes", "/apimeshes"] {
        assert_eq!(cp.get(path).await.text, "404: Page Not Found", "{path}");
    }
    cp.seed(sunbear_model::Kind::MESH, &json!({"name": "other"})).await;
    let next = cp.get("/api/meshes?size=1").await.json()["next"].clone();
    assert_eq!(next, "http://127.0.0.1:5681/api/meshes?offset=1&size=1");
    // The issuer of user tokens stays where it is.
    let reply = cp.send(Method::POST, "/tokens/user", Some(&json!({}))).await;
    assert_eq!(reply.status, 400);
}
