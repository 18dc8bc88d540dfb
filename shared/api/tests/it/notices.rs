//! Warnings about what other objects make of a write.

use serde_json::{Value, json};
use sunbear_model::Kind;

use super::support::{Cp, dataplane, global, zone};

fn template(name: &str, imports: &Value) -> Value {
    json!({
        "type": "ProxyTemplate",
        "mesh": "default",
        "name": name,
        "selectors": [{"match": {"kuma.io/service": "*"}}],
        "conf": {"imports": imports},
    })
}

fn gateway(cross_mesh: bool) -> Value {
    json!({
        "type": "MeshGateway",
        "mesh": "default",
        "name": "edge",
        "selectors": [{"match": {"kuma.io/service": "edge"}}],
        "conf": {"listeners": [{"port": 8080, "protocol": "HTTP", "crossMesh": cross_mesh}]},
    })
}

fn mtls() -> Value {
    json!({"name": "default", "mtls": {
        "enabledBackend": "ca",
        "backends": [{"name": "ca", "type": "builtin"}],
    }})
}

#[tokio::test]
async fn templates_that_leave_gateways_without_listeners() {
    let cp = Cp::new(global()).await;
    let path = "/meshes/default/proxytemplates/t";
    cp.seed(Kind::DATAPLANE, &dataplane("sidecar")).await;
    cp.put(path, &template("t", &json!(["default-proxy"]))).await.is(201, &json!({}));
    let edge = json!({"address": "127.0.0.1", "gateway": {
        "type": "BUILTIN", "tags": {"kuma.io/service": "edge"},
    }});
    cp.seed(Kind::DATAPLANE, &json!({"mesh": "default", "name": "gw", "networking": edge})).await;
    let warning = "the template selects the builtin gateway \"gw\" but does not import \
                   \"gateway-proxy\": such a gateway has no listeners";
    let reply = cp.put(path, &template("t", &json!(["default-proxy"]))).await;
    reply.is(200, &json!({"warnings": [warning]}));
    cp.put(path, &template("t", &json!(["gateway-proxy"]))).await.is(200, &json!({}));
}

#[tokio::test]
async fn listeners_for_other_meshes_need_mtls() {
    let cp = Cp::new(global()).await;
    let path = "/meshes/default/meshgateways/edge";
    let warning = "mesh \"default\" has no mTLS: crossMesh listener edge:8080 is not served";
    cp.put(path, &gateway(true)).await.is(201, &json!({"warnings": [warning]}));
    cp.put(path, &gateway(false)).await.is(200, &json!({}));
    cp.seed(Kind::MESH, &mtls()).await;
    cp.put(path, &gateway(true)).await.is(200, &json!({}));
}

#[tokio::test]
async fn outbounds_to_other_meshes() {
    let cp = Cp::new(zone("east")).await;
    let mut proxy = dataplane("d");
    proxy["networking"]["outbound"] = json!([
        {"port": 1, "tags": {"kuma.io/service": "x", "kuma.io/mesh": "default"}},
        {"port": 2, "tags": {"kuma.io/service": "edge", "kuma.io/mesh": "other"}},
    ]);
    let path = "/meshes/default/dataplanes/d";
    let check = async |status: u16, why: Option<&str>| {
        let want = why.map_or(json!({}), |why| json!({"warnings": [format!("outbound 1: {why}")]}));
        cp.put(path, &proxy).await.is(status, &want);
    };
    check(201, Some("mesh \"other\" does not exist")).await;
    let mut other = mtls();
    other["name"] = "other".into();
    cp.seed(Kind::MESH, &other).await;
    check(200, Some("cross-mesh traffic requires mTLS in meshes \"default\" and \"other\"")).await;
    cp.seed(Kind::MESH, &mtls()).await;
    let nothing = "mesh \"other\" exposes no crossMesh listener for service \"edge\"";
    check(200, Some(nothing)).await;
    let mut exposed = gateway(true);
    exposed["mesh"] = "other".into();
    exposed["selectors"] = json!([{"match": {"kuma.io/service": "else"}}]);
    cp.seed(Kind::MESH_GATEWAY, &exposed).await;
    check(200, Some(nothing)).await;
    exposed["selectors"] = json!([{"match": {"kuma.io/service": "edge"}}]);
    cp.seed(Kind::MESH_GATEWAY, &exposed).await;
    check(200, None).await;
}

#[tokio::test]
async fn secrets_that_are_still_used() {
    let cp = Cp::new(global()).await;
    let path = "/meshes/default/secrets/cert";
    let secret = json!({"mesh": "default", "name": "cert", "data": "eA=="});
    cp.seed(Kind::SECRET, &secret).await;
    cp.delete(path).await.is(200, &json!({}));
    cp.seed(Kind::SECRET, &secret).await;
    let mut edge = gateway(false);
    edge["conf"]["listeners"] = json!([{"port": 443, "protocol": "HTTPS", "tls": {
        "mode": "TERMINATE", "certificates": [{"secret": "cert"}],
    }}]);
    cp.seed(Kind::MESH_GATEWAY, &edge).await;
    let warning = "the secret \"cert\" is still used by MeshGateway \"edge\"";
    cp.delete(path).await.is(200, &json!({"warnings": [warning]}));
}
