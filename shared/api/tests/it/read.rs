//! Single objects, the small endpoints, and what the router itself says.

use http::{Method, Request};
use serde_json::{Value, json};
use sunbear_model::Kind;

use super::support::{Cp, Reply, global, remote, request, route, zone};

#[tokio::test]
async fn json_style() {
    let cp = Cp::new(global()).await;
    let reply = cp.get("/who-am-i").await;
    let text = "{\n \"name\": \"mesh-system:admin\",\n \"groups\": [\n  \"mesh-system:admin\",\n  \
                \"mesh-system:authenticated\"\n ]\n}\n";
    assert_eq!((reply.text.as_str(), reply.header("content-type")), (text, "application/json"));
}

#[tokio::test]
async fn small_endpoints() {
    let cp = Cp::new(zone("east")).await;
    assert_eq!(
        cp.get("/").await.json(),
        json!({
            "hostname": "cp", "product": "Kuma", "version": "2.14.3", "instanceId": "cp-1234",
            "clusterId": "", "gui": "/gui", "sunbearVersion": "0.1.0",
        })
    );
    assert_eq!(cp.get("/config").await.json()["store"]["password"], "*****");
    let policies = cp.get("/policies").await.json();
    let read_only = |name: &str| {
        let list = policies["policies"].as_array().unwrap();
        list.iter().find(|p| p["name"] == name).unwrap()["readOnly"].clone()
    };
    assert_eq!((read_only("Timeout"), read_only("MeshTimeout")), (json!(true), json!(false)));
    let cp = Cp::with(global(), |api| api.read_only = true).await;
    for path in ["/policies", "/_resources"] {
        let list = cp.get(path).await.json();
        let list = list.as_object().unwrap().values().next().unwrap().clone();
        assert!(list.as_array().unwrap().iter().all(|t| t["readOnly"] == true));
    }
}

#[tokio::test]
async fn formats() {
    let cp = Cp::new(global()).await;
    assert_eq!(cp.get("/meshes/default?format=universal").await.status, 200);
    let reply = cp.get("/meshes/default?format=x").await;
    assert_eq!(
        (reply.status.as_u16(), &reply.json()["title"]),
        (400, &json!("Could not retrieve a resource"))
    );
}

/// Lists and the parts of a ServiceInsight take the form that single objects take.
#[tokio::test]
async fn formats_of_lists() {
    for mode in [global(), zone("east")] {
        let cp = Cp::new(mode).await;
        let services = json!({"a": {"status": "online", "dataplanes": {"online": 1}}});
        let stored =
            json!({"mesh": "default", "name": "all-services-default", "services": services});
        cp.seed(Kind::SERVICE_INSIGHT, &stored).await;
        let want = json!({
            "apiVersion": "kuma.io/v1alpha1", "kind": "ServiceInsight", "mesh": "default",
            "metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"status": "online", "addressPort": "a.mesh:80",
                     "dataplanes": {"online": 1, "total": 1}},
        });
        let mut one = cp.get("/meshes/default/service-insights/a?format=k8s").await.json();
        one["metadata"]["creationTimestamp"] = want["metadata"]["creationTimestamp"].clone();
        assert_eq!(one, want);
        let list = cp.get("/meshes/default/service-insights?format=kubernetes").await.json();
        assert_eq!(
            (&list["total"], &list["items"][0]["kind"]),
            (&json!(1), &json!("ServiceInsight"))
        );
        assert_eq!(list["items"][0]["metadata"]["name"], "a");
        let list = cp.get("/meshes?format=k8s").await.json();
        assert_eq!(list["items"][0]["metadata"]["name"], "default");
        let list = cp.get("/meshes?format=universal").await.json();
        assert_eq!(list["items"][0]["name"], "default");
        for (path, title) in [
            ("/meshes", "Could not retrieve resources"),
            ("/meshes/default/service-insights", "Could not retrieve resources"),
            ("/meshes/default/service-insights/a", "Could not retrieve a resource"),
        ] {
            let reply = cp.get(&format!("{path}?format=x")).await;
            assert_eq!((reply.status.as_u16(), &reply.json()["title"]), (400, &json!(title)));
        }
    }
}

fn plain(reply: &Reply, status: u16, text: &str) {
    assert_eq!((reply.status.as_u16(), reply.text.as_str()), (status, text));
    assert_eq!(reply.header("content-type"), "text/plain; charset=utf-8");
}

#[tokio::test]
async fn unknown_paths() {
    let cp = Cp::new(global()).await;
    for path in [
        "/versions",
        "/meshes/default/nonsense",
        "/meshes/default/zones",
        "/meshes/default/meshgateways/a/b",
        "/dataplanes/d",
        "/zones/%ff",
        "/configs",
        "/%2e%2e/etc/passwd",
    ] {
        plain(&cp.get(path).await, 404, "404: Page Not Found");
        plain(&cp.put(path, &json!({})).await, 404, "404: Page Not Found");
    }
}

#[tokio::test]
async fn wrong_methods() {
    let cp = Cp::new(global()).await;
    for (method, path, allow) in [
        (Method::PUT, "/", "GET"),
        (Method::POST, "/meshes", "GET"),
        (Method::DELETE, "/meshes/default/meshgateways", "GET"),
        (Method::PATCH, "/meshes/default", "GET, PUT, DELETE"),
        (Method::PUT, "/zones/east/_overview", "GET"),
        (Method::GET, "/tokens/zone", "POST"),
    ] {
        let reply = cp.send(method, path, Some(&json!({}))).await;
        plain(&reply, 405, "405: Method Not Allowed");
        assert_eq!(reply.header("allow"), allow, "{path}");
    }
    assert_eq!(cp.send(Method::HEAD, "/meshes/default", None).await.status, 200);
}

#[tokio::test]
async fn media_types() {
    let cp = Cp::new(global()).await;
    let with = |method: Method, name: &'static str, value: Option<&'static str>| {
        let path = "/meshes/default/meshgatewayroutes/r";
        let body = (method == Method::PUT).then(|| route("r"));
        let mut request: Request<_> = request(method, path, body.as_ref());
        request.headers_mut().remove(name);
        if let Some(value) = value {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        cp.request(request)
    };
    for bad in
        [None, Some("application/yaml"), Some("text/plain"), Some("application/jsonx"), Some("")]
    {
        plain(&with(Method::PUT, "content-type", bad).await, 415, "415: Unsupported Media Type");
    }
    for good in ["application/json", "application/json; charset=utf-8", "Application/JSON"] {
        let reply = with(Method::PUT, "content-type", Some(good)).await;
        assert!(reply.status.is_success(), "{good}");
    }
    for bad in ["text/html", "application/yaml, text/*", "application/jsonx"] {
        let text = "406: Not Acceptable\n\nAvailable representations: application/json";
        plain(&with(Method::GET, "accept", Some(bad)).await, 406, text);
    }
    for good in ["*/*", "application/*", "text/html, application/json;q=0.9", "text/html,*/*;q=0.1"]
    {
        assert_eq!(with(Method::GET, "accept", Some(good)).await.status, 200, "{good}");
    }
    // A body that comes with a GET is of no interest.
    assert_eq!(cp.send(Method::GET, "/meshes", Some(&Value::Null)).await.status, 200);
}

#[tokio::test]
async fn secrets_round_trip() {
    let cp = Cp::new(global()).await;
    let body = json!({"type": "GlobalSecret", "name": "s", "data": "aGVsbG8="});
    assert_eq!(cp.put("/global-secrets/s", &body).await.status, 201);
    assert_eq!(cp.get("/globalsecrets/s").await.json()["data"], "aGVsbG8=");
    let reply = cp.request(remote(Method::GET, "/globalsecrets/s", None)).await;
    assert_eq!(reply.status, 403);
}
