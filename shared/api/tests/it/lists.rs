//! Lists, pages, filters, overviews.

use serde_json::{Value, json};
use sunbear_model::Kind;
use sunbear_store::Change;

use super::support::{Cp, change, global, standalone};

const TITLE: &str = "Could not retrieve resources";

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|i| i["name"].as_str().unwrap()).collect()
}

async fn with_zones(count: usize) -> Cp {
    let cp = Cp::new(global()).await;
    let zones = (0..count).map(|i| change(Kind::ZONE, "", &format!("z-{i:05}"), &json!({})));
    cp.commit(zones.collect::<Vec<Change>>()).await;
    cp
}

#[tokio::test]
async fn pages() {
    let cp = with_zones(250).await;
    let mut path = "/zones?size=100".to_owned();
    let mut seen = Vec::new();
    let mut sizes = Vec::new();
    loop {
        let list = cp.get(&path).await.json();
        assert_eq!(list["total"], 250);
        sizes.push(list["items"].as_array().unwrap().len());
        seen.extend(names(&list).iter().map(|n| (*n).to_owned()));
        match list["next"].as_str() {
            None => break,
            Some(next) => path = next.strip_prefix("http://127.0.0.1:5681").unwrap().to_owned(),
        }
    }
    assert_eq!(sizes, [100, 100, 50]);
    assert!(seen.is_sorted() && seen.len() == 250);

    let list = cp.get("/zones").await.json();
    assert_eq!(list["items"].as_array().unwrap().len(), 100);
    assert_eq!(list["next"], "http://127.0.0.1:5681/zones?offset=100");
    let beyond = cp.get("/zones?offset=1000").await;
    beyond.is(200, &json!({"total": 250, "items": [], "next": null}));
    let last = cp.get("/zones?size=250").await.json();
    assert_eq!(last["next"], Value::Null);
}

#[tokio::test]
async fn bad_pages() {
    let cp = with_zones(1).await;
    for (query, reason) in [
        ("size=x", "invalid format"),
        ("size=0", "must be greater than 0"),
        ("size=-1", "must be greater than 0"),
        ("size=2000", "invalid page size of 2000. Maximum page size is 1000"),
    ] {
        let reply = cp.get(&format!("/zones?{query}")).await;
        reply.is_problem(400, TITLE, "Invalid page size", &[("size", reason)]);
    }
    for (offset, detail) in [
        ("x", "invalid: invalid offset: strconv.Atoi: parsing \"x\": invalid syntax"),
        ("-1", "invalid: invalid offset: must be non-negative"),
    ] {
        let reply = cp.get(&format!("/zones?offset={offset}")).await;
        reply.is_problem(400, TITLE, detail, &[]);
    }
}

#[tokio::test]
async fn ten_thousand() {
    let cp = with_zones(10_000).await;
    let list = cp.get("/zones?size=1000&offset=9500").await.json();
    assert_eq!(list["total"], 10_000);
    assert_eq!(names(&list).first(), Some(&"z-09500"));
    assert_eq!(names(&list).len(), 500);
}

#[tokio::test]
async fn over_all_meshes() {
    let cp = Cp::new(global()).await;
    for (mesh, name) in [("b", "x"), ("a", "z"), ("a", "y"), ("a-b", "w")] {
        cp.seed(Kind::SECRET, &json!({"mesh": mesh, "name": name, "data": ""})).await;
    }
    let list = cp.get("/secrets").await.json();
    assert_eq!(names(&list), ["y", "z", "w", "x"]);
    let reply = cp.get("/meshes/a/secrets").await;
    reply.is_problem(404, "Failed to retrieve Mesh", "Not found", &[]);
    cp.seed(Kind::MESH, &json!({"name": "a"})).await;
    assert_eq!(names(&cp.get("/meshes/a/secrets").await.json()), ["y", "z"]);
}

async fn with_proxies() -> Cp {
    let cp = Cp::new(standalone()).await;
    let inbound = |service: &str, version: &str| json!({"port": 80, "tags": {"kuma.io/service": service, "version": version}});
    for (name, networking) in [
        ("side", json!({"inbound": [inbound("echo", "v1"), inbound("api", "v2")]})),
        ("builtin", json!({"gateway": {"type": "BUILTIN", "tags": {"kuma.io/service": "edge"}}})),
        ("kong", json!({"gateway": {"type": "DELEGATED", "tags": {"kuma.io/service": "kong"}}})),
    ] {
        let body = json!({"mesh": "default", "name": name, "labels": {"team": name}, "networking": networking});
        cp.seed(Kind::DATAPLANE, &body).await;
    }
    cp.seed(
        Kind::DATAPLANE_INSIGHT,
        &json!({"mesh": "default", "name": "side", "subscriptions": [{"id": "1"}]}),
    )
    .await;
    cp
}

#[tokio::test]
async fn filters() {
    let cp = with_proxies().await;
    for (query, want) in [
        ("", &["builtin", "kong", "side"][..]),
        ("name=i", &["builtin", "side"]),
        ("gateway=true", &["builtin", "kong"]),
        ("gateway=TRUE&ingress=false", &["builtin", "kong"]),
        ("gateway=false", &["side"]),
        ("gateway=builtin", &["builtin"]),
        ("gateway=delegated", &["kong"]),
        ("tag=kuma.io/service:ech", &["side"]),
        ("tag=kuma.io/service:*", &["builtin", "kong", "side"]),
        ("tag=kuma.io%2Fservice%3Aecho&tag=version:v1", &["side"]),
        // One inbound has one tag, the other the other.
        ("tag=kuma.io/service:echo&tag=version:v2", &[]),
        ("tag=nonsense", &["builtin", "kong", "side"]),
        ("filter[labels.team]=kong", &["kong"]),
        ("filter%5Blabels.team%5D=kong", &["kong"]),
        ("filter[labels.team]=kong&filter[labels.x]=y", &[]),
    ] {
        for path in
            ["/meshes/default/dataplanes", "/dataplanes", "/meshes/default/dataplanes/_overview"]
        {
            let list = cp.get(&format!("{path}?{query}")).await.json();
            assert_eq!(
                (names(&list), &list["total"]),
                (want.to_vec(), &json!(want.len())),
                "{path}?{query}"
            );
        }
    }
    let prefix = "/meshes/{mesh}/dataplanes";
    for (query, field, reason) in [
        ("filter[name]=x", "filter[name]", "filters are only supported on labels"),
        ("filter[labels.a][gt]=x", "filter[labels.a][gt]", "advanced filters are not supported"),
        (
            "gateway=x",
            "gateway",
            "shoud use `true`, `false`, 'builtin' or 'delegated' instead of x",
        ),
    ] {
        let reply = cp.get(&format!("/meshes/default/dataplanes?{query}")).await;
        reply.is_invalid(TITLE, &[(&format!("{prefix}.{field}"), reason)]);
    }
}

#[tokio::test]
async fn overviews() {
    let cp = with_proxies().await;
    let list = cp.get("/meshes/default/dataplanes+insights?name=side").await.json();
    let item = &list["items"][0];
    assert_eq!(item["type"], "DataplaneOverview");
    assert_eq!(item["kri"], "kri_dp_default___side_");
    assert_eq!(item["dataplaneInsight"], json!({"subscriptions": [{"id": "1"}]}));
    assert_eq!(cp.get("/meshes/default/dataplanes/side/_overview").await.json(), *item);
    assert_eq!(cp.get("/meshes/default/dataplanes+insights/side").await.json(), *item);
    let without = cp.get("/meshes/default/dataplanes/kong/_overview").await.json();
    assert_eq!(without.get("dataplaneInsight"), None);

    for kind in [Kind::ZONE, Kind::ZONE_INGRESS, Kind::ZONE_EGRESS] {
        cp.seed(kind, &json!({"name": "x"})).await;
    }
    for (path, kind, member) in [
        ("/zones/_overview", "ZoneOverview", "zone"),
        ("/zones+insights", "ZoneOverview", "zone"),
        ("/zoneingresses/_overview", "ZoneIngressOverview", "zoneIngress"),
        ("/zone-ingresses/_overview", "ZoneIngressOverview", "zoneIngress"),
        ("/zoneegressoverviews", "ZoneEgressOverview", "zoneEgress"),
        ("/zoneegresses/_overview", "ZoneEgressOverview", "zoneEgress"),
    ] {
        let list = cp.get(path).await.json();
        assert_eq!(list["items"][0]["type"], kind);
        // Also when it is empty.
        assert_eq!(list["items"][0][member], json!({}), "{path}");
    }
}

#[tokio::test]
async fn services() {
    let cp = Cp::new(global()).await;
    let stored = json!({
        "mesh": "default", "name": "all-services-default",
        "services": {
            "b": {"status": "online", "dataplanes": {"online": 1, "offline": 2}, "serviceType": "gateway_builtin"},
            "a": {},
            "e": {"status": "not_available", "serviceType": "external", "addressPort": "e.example:443"},
        },
    });
    cp.seed(Kind::SERVICE_INSIGHT, &stored).await;
    let list = cp.get("/meshes/default/service-insights").await.json();
    assert_eq!((names(&list), &list["total"]), (vec!["a", "b", "e"], &json!(3)));
    assert_eq!(list["items"][0]["addressPort"], "a.mesh:80");
    assert_eq!(list["items"][0]["dataplanes"], json!({}));
    assert_eq!(list["items"][1]["dataplanes"], json!({"online": 1, "offline": 2, "total": 3}));
    assert_eq!(list["items"][2]["addressPort"], "e.example:443");
    for (query, want) in [
        ("type=external, Internal", &["a", "e"][..]),
        ("type=gateway_builtin", &["b"]),
        ("name=e", &["e"]),
        ("size=1&offset=1", &["b"]),
    ] {
        let path = format!("/service-insights?{}", query.replace(' ', "%20"));
        assert_eq!(names(&cp.get(&path).await.json()), want, "{query}");
    }
    let bad = cp.get("/service-insights?type=x").await;
    bad.is_problem(400, "Bad Request", "bad request: unsupported service type", &[]);
    // Nobody offers it, and that is no error.
    let unknown = cp.get("/meshes/default/service-insights/nobody").await;
    assert_eq!(unknown.status, 200);
    assert_eq!(unknown.json()["dataplanes"], json!({}));
}
