//! Who is who, and who may do what.

use axum::body::Body;
use http::{HeaderValue, Method, Request};
use serde_json::{Value, json};
use sunbear_api::defaults::{ADMIN_USER_TOKEN, DefaultsSettings, ensure_defaults};
use sunbear_model::Kind;
use time::OffsetDateTime;

use super::support::{Cp, global, remote, request, route};

async fn with_keys() -> Cp {
    let cp = Cp::new(global()).await;
    let settings = DefaultsSettings {
        mode: global(),
        skip_mesh_creation: true,
        skip_hostname_generators: false,
        bootstrap_admin_token: true,
        clock: OffsetDateTime::now_utc,
    };
    ensure_defaults(&cp.world, &settings).await.unwrap();
    cp
}

fn bearing(mut request: Request<Body>, token: &str) -> Request<Body> {
    let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
    request.headers_mut().insert("authorization", value);
    request
}

fn admin_token(cp: &Cp) -> String {
    let snapshot = cp.world.snapshot();
    let secret = snapshot.find(Kind::GLOBAL_SECRET, "", ADMIN_USER_TOKEN).unwrap();
    String::from_utf8(secret.secret_data().unwrap().to_vec()).unwrap()
}

async fn who(cp: &Cp, request: Request<Body>) -> Value {
    cp.request(request).await.json()
}

#[tokio::test]
async fn callers() {
    let cp = with_keys().await;
    let path = "/who-am-i";
    let admin = json!({"name": "mesh-system:admin", "groups": ["mesh-system:admin", "mesh-system:authenticated"]});
    let nobody =
        json!({"name": "mesh-system:anonymous", "groups": ["mesh-system:unauthenticated"]});
    assert_eq!(who(&cp, request(Method::GET, path, None)).await, admin);
    assert_eq!(who(&cp, remote(Method::GET, path, None)).await, nobody);
    // Nobody said where it comes from.
    let unplaced =
        Request::builder().uri(path).header("host", "localhost").body(Body::empty()).unwrap();
    assert_eq!(who(&cp, unplaced).await, nobody);
    // Through a proxy on this host.
    let mut forwarded = request(Method::GET, path, None);
    forwarded.headers_mut().insert("x-forwarded-for", HeaderValue::from_static("192.0.2.1"));
    assert_eq!(who(&cp, forwarded).await, nobody);

    let token = admin_token(&cp);
    assert_eq!(who(&cp, bearing(remote(Method::GET, path, None), &token)).await, admin);
    // Other schemes are none of ours.
    let mut basic = remote(Method::GET, path, None);
    basic.headers_mut().insert("authorization", HeaderValue::from_static("Basic eDp5"));
    assert_eq!(who(&cp, basic).await, nobody);
}

#[tokio::test]
async fn bad_tokens() {
    let cp = with_keys().await;
    let token = admin_token(&cp);
    for bad in ["", "x", "a.b.c", &token[..token.len() - 4], &format!("{token}x")] {
        let reply = cp.request(bearing(remote(Method::GET, "/meshes", None), bad)).await;
        reply.is_problem(401, "Invalid authentication data", "Unauthenticated", &[]);
        // The index is for everybody.
        let reply = cp.request(bearing(remote(Method::GET, "/", None), bad)).await;
        assert_eq!(reply.status, 200);
        // Local callers need none, so theirs is not looked at.
        let reply = cp.request(bearing(request(Method::GET, "/meshes", None), bad)).await;
        assert_eq!(reply.status, 200);
    }
}

#[tokio::test]
async fn revoked_tokens() {
    let cp = with_keys().await;
    let body = json!({"name": "john", "groups": ["team"], "validFor": "1h"});
    let token = cp.send(Method::POST, "/tokens/user", Some(&body)).await.text;
    let ask = || bearing(remote(Method::GET, "/who-am-i", None), &token);
    assert_eq!(
        who(&cp, ask()).await,
        json!({"name": "john", "groups": ["team", "mesh-system:authenticated"]})
    );
    let claims: Value = {
        use base64::Engine as _;
        let part = token.split('.').nth(1).unwrap();
        serde_json::from_slice(
            &base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap(),
        )
        .unwrap()
    };
    let list = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(claims["jti"].as_str().unwrap())
    };
    let revocations =
        json!({"type": "GlobalSecret", "name": "user-token-revocations", "data": list});
    assert_eq!(cp.put("/globalsecrets/user-token-revocations", &revocations).await.status, 201);
    assert_eq!(cp.request(ask()).await.status, 401);
    // So does the end of the key.
    assert_eq!(cp.delete("/globalsecrets/user-token-revocations").await.status, 200);
    assert_eq!(cp.request(ask()).await.status, 200);
    assert_eq!(cp.delete("/globalsecrets/user-token-signing-key-1").await.status, 200);
    assert_eq!(cp.request(ask()).await.status, 401);
}

#[tokio::test]
async fn secrets_are_for_administrators() {
    let cp = with_keys().await;
    let nobody = |kind: &str| {
        format!(
            "user \"mesh-system:anonymous/mesh-system:unauthenticated\" cannot access the resource of type \"{kind}\""
        )
    };
    for (path, kind) in [
        ("/globalsecrets", "GlobalSecret"),
        ("/global-secrets/admin-user-token", "GlobalSecret"),
        ("/global-secrets/absent", "GlobalSecret"),
        ("/meshes/default/secrets", "Secret"),
        ("/secrets", "Secret"),
        ("/meshes/default/secrets/x", "Secret"),
    ] {
        let reply = cp.request(remote(Method::GET, path, None)).await;
        reply.is_problem(403, "Access Denied", &nobody(kind), &[]);
    }
    // A user without rights is told the same, but a missing secret cannot be deleted by anybody.
    let body = json!({"name": "john", "groups": ["team"], "validFor": "1h"});
    let token = cp.send(Method::POST, "/tokens/user", Some(&body)).await.text;
    let secret = json!({"type": "GlobalSecret", "name": "s", "data": "eA=="});
    let john = "user \"john/team,mesh-system:authenticated\" cannot access the resource of type \"GlobalSecret\"";
    let path = "/globalsecrets/s";
    let put = bearing(remote(Method::PUT, path, Some(&secret)), &token);
    cp.request(put).await.is_problem(403, "Access Denied", john, &[]);
    let delete = || bearing(remote(Method::DELETE, path, None), &token);
    cp.request(delete()).await.is_problem(404, "Could not delete a resource", "Not found", &[]);
    assert_eq!(cp.put(path, &secret).await.status, 201);
    cp.request(delete()).await.is_problem(403, "Access Denied", john, &[]);
    let admin = bearing(remote(Method::GET, path, None), &admin_token(&cp));
    assert_eq!(cp.request(admin).await.json()["data"], "eA==");
}

#[tokio::test]
async fn strangers_only_read() {
    let path = "/meshes/default/meshgatewayroutes/r";
    let put = || remote(Method::PUT, path, Some(&route("r")));
    let cp = with_keys().await;
    let detail = "user \"mesh-system:anonymous/mesh-system:unauthenticated\" cannot access the resource of type \"MeshGatewayRoute\"";
    cp.request(put()).await.is_problem(403, "Access Denied", detail, &[]);
    let delete = remote(Method::DELETE, path, None);
    cp.request(delete).await.is_problem(403, "Access Denied", detail, &[]);
    assert_eq!(cp.request(remote(Method::GET, "/meshes", None)).await.status, 200);
    assert_eq!(cp.request(bearing(put(), &admin_token(&cp))).await.status, 201);

    let cp = Cp::with(global(), |api| api.access.anonymous_writes = true).await;
    assert_eq!(cp.request(put()).await.status, 201);
}

#[tokio::test]
async fn switches() {
    let cp = Cp::with(global(), |api| {
        api.access.localhost_is_admin = false;
        api.access.user_tokens = false;
        api.access.control_plane_metadata = sunbear_api::Subjects::admins();
    })
    .await;
    let nobody = who(&cp, request(Method::GET, "/who-am-i", None)).await;
    assert_eq!(nobody["name"], "mesh-system:anonymous");
    // Tokens are not looked at.
    let reply = cp.request(bearing(request(Method::GET, "/who-am-i", None), "x")).await;
    assert_eq!(reply.status, 200);
    let reply = cp.get("/config").await;
    let detail = "user \"mesh-system:anonymous/mesh-system:unauthenticated\" cannot access control-plane metadata";
    reply.is_problem(403, "Access Denied", detail, &[]);
    let reply = cp.send(Method::POST, "/tokens/user", Some(&json!({}))).await;
    assert_eq!(reply.status, 404);
}
