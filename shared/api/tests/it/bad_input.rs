//! Bodies and names that are wrong in every way. All of them are answered.

use axum::body::Body;
use http::Method;
use serde_json::{Value, json};

use super::support::{Cp, Reply, global, request, route};

const PATH: &str = "/meshes/default/meshgatewayroutes/r";
const PROCESS: &str = "Could not process a resource";
const CHARACTERS: &str = "invalid characters. A lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";

async fn put_raw(cp: &Cp, body: impl Into<Body>) -> Reply {
    let mut request = request(Method::PUT, PATH, Some(&Value::Null));
    *request.body_mut() = body.into();
    cp.request(request).await
}

#[tokio::test]
async fn malformed_bodies() {
    let cp = Cp::new(global()).await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_field = format!("{{\"conf\":{}1{}}}", "{\"a\":".repeat(50_000), "}".repeat(50_000));
    for body in [
        "",
        " ",
        "{",
        "}",
        "[]",
        "null",
        "\"x\"",
        "1",
        "{}{}",
        "{\"a\":}",
        "{'a': 1}",
        "type: Mesh",
        "{\"type\": \"MeshGatewayRoute\",}",
        "\u{feff}{}",
        "{\"a\": 1e999}",
        "{\"a\": \"\u{1}\"}",
        "NaN",
        &deep,
        &deep_field,
    ] {
        let reply = put_raw(&cp, body.to_owned()).await;
        let head: String = body.chars().take(40).collect();
        assert_eq!(reply.status, 400, "{head}: {}", reply.text);
        let answer = reply.json();
        assert_eq!(answer["title"], "Bad Request", "{head}");
        let detail = answer["detail"].as_str().unwrap();
        assert!(detail.starts_with("invalid MeshGatewayRoute object: \""), "{head}: {detail}");
        assert!(detail.len() < 500, "{head}: {}", detail.len());
    }
    assert_eq!(put_raw(&cp, vec![0xff, 0xfe, b'{']).await.status, 400);
    assert_eq!(cp.get("/meshgatewayroutes").await.json()["total"], 0);
}

#[tokio::test]
async fn wrong_types() {
    let cp = Cp::new(global()).await;
    let with = |pointer: &str, value: Value| {
        let mut body = route("r");
        *body.pointer_mut(pointer).unwrap() = value;
        body
    };
    for body in [
        with("/conf", json!("x")),
        with("/conf", json!([])),
        with("/selectors", json!({})),
        with("/selectors/0/match", json!([])),
        with("/selectors/0/match/kuma.io~1service", json!(1)),
        with("/conf/http/rules/0/matches/0/path/match", json!("NONSENSE")),
        with("/conf/http/rules/0/backends/0/weight", json!("x")),
        with("/conf/http/rules/0/backends/0/weight", json!(-1)),
        with("/name", json!(1)),
        with("/mesh", json!({})),
    ] {
        let reply = cp.put(PATH, &body).await;
        assert_eq!(reply.status, 400, "{body}");
        assert_eq!(reply.json()["title"], "Bad Request", "{body}");
    }
    let mut body = route("r");
    for labels in [json!([]), json!("x"), json!({"a": 1}), json!({"a": {}})] {
        body["labels"] = labels;
        assert_eq!(cp.put(PATH, &body).await.status, 400, "{body}");
    }
    let timeout = "/meshes/default/meshtimeouts/t";
    let body = json!({"type": "MeshTimeout", "mesh": "default", "name": "t", "spec": "x"});
    assert_eq!(cp.put(timeout, &body).await.status, 400);
}

#[tokio::test]
async fn envelopes() {
    let cp = Cp::new(global()).await;
    let mut body = route("r");
    for key in ["type", "mesh", "name"] {
        body.as_object_mut().unwrap().remove(key);
    }
    cp.put(PATH, &body).await.is_invalid(
        PROCESS,
        &[
            ("name", "name from the URL has to be the same as in body"),
            ("type", "type from the URL has to be the same as in body"),
            ("mesh", "mesh from the URL has to be the same as in body"),
            ("name", "cannot be empty"),
            ("mesh", "cannot be empty"),
        ],
    );
    let mut body = route("r");
    body["type"] = 7.into();
    let text = "type from the URL has to be the same as in body";
    cp.put(PATH, &body).await.is_invalid(PROCESS, &[("type", text)]);
}

#[tokio::test]
async fn names() {
    let cp = Cp::new(global()).await;
    for (name, encoded) in [
        ("UPPER", "UPPER"),
        ("a_b", "a_b"),
        (".a", ".a"),
        ("a.", "a."),
        ("-a", "-a"),
        ("a..b", "a..b"),
        ("a b", "a%20b"),
        ("a/b", "a%2Fb"),
        ("ä", "%C3%A4"),
        ("a\u{0}", "a%00"),
        ("..", "%2e%2e"),
        ("a'; drop table resources; --", "a'%3B%20drop%20table%20resources%3B%20--"),
    ] {
        let path = format!("/meshes/default/meshgatewayroutes/{encoded}");
        cp.put(&path, &route(name)).await.is_invalid(PROCESS, &[("name", CHARACTERS)]);
        cp.get(&path).await.is_problem(404, "Could not retrieve a resource", "Not found", &[]);
        cp.delete(&path).await.is_problem(404, "Could not delete a resource", "Not found", &[]);
    }
    let name = "a.b-c.1";
    let path = format!("/meshes/default/meshgatewayroutes/{name}");
    assert_eq!(cp.put(&path, &route(name)).await.status, 201);
    let long = "a".repeat(300);
    let path = format!("/meshes/default/meshgatewayroutes/{long}");
    let text = "value length must less or equal 253";
    cp.put(&path, &route(&long)).await.is_invalid(PROCESS, &[("name", text)]);
    let longest = "a".repeat(253);
    let path = format!("/meshes/default/meshgatewayroutes/{longest}");
    assert_eq!(cp.put(&path, &route(&longest)).await.status, 201);
}

#[tokio::test]
async fn null_characters_do_not_reach_the_store() {
    let cp = Cp::new(global()).await;
    let mut body = route("r");
    body["labels"] = json!({"a": "x\u{0}"});
    assert_eq!(cp.put(PATH, &body).await.status, 400);
}

/// A large object within bounds is stored, one beyond is refused; neither takes the server down.
#[tokio::test]
async fn large_bodies() {
    let cp = Cp::new(global()).await;
    let secret = |bytes: usize| {
        let data = "A".repeat(bytes / 4 * 4);
        json!({"type": "Secret", "mesh": "default", "name": "s", "data": data})
    };
    assert_eq!(cp.put("/meshes/default/secrets/s", &secret(500_000)).await.status, 201);
    let reply = cp.put("/meshes/default/secrets/s", &secret(11 << 20)).await;
    reply.is_problem(413, PROCESS, "the request body is larger than 10 MiB", &[]);
    // The whole limit, and nothing in it.
    let reply = put_raw(&cp, " ".repeat(10 << 20)).await;
    assert_eq!(reply.status, 400);
    let reply = put_raw(&cp, " ".repeat((10 << 20) + 1)).await;
    assert_eq!(reply.status, 413);
    // An endless one is cut off.
    let chunk = axum::body::Bytes::from(vec![b'x'; 1 << 20]);
    let endless = futures_util::stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone()));
    assert_eq!(put_raw(&cp, Body::from_stream(endless)).await.status, 413);
    // A broken one too.
    let broken = futures_util::stream::iter([Ok("{"), Err(std::io::Error::other("reset"))]);
    let reply = put_raw(&cp, Body::from_stream(broken)).await;
    reply.is_problem(400, "Bad Request", "the request body could not be read", &[]);
    assert_eq!(cp.put(PATH, &route("r")).await.status, 201);
}
