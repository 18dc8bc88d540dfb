//! Every endpoint of the catalogue: served, or left out with a reason that the documentation gives.

use http::Method;
use serde_json::{Value, json};
use sunbear_api::openapi_document;
use sunbear_model::Kind;

use super::{
    openapi::template,
    support::{Cp, dataplane, global, standalone, timeout, zone},
};

const DOCUMENTATION: &str = include_str!("../../../../docs/rest-api.md");

/// Paths below one object of a mesh, by type; they are filled with real names.
const CATALOGUE: &[&str] = &[
    "GET /",
    "GET /config",
    "GET /who-am-i",
    "GET /policies",
    "GET /_resources",
    "GET /global-insight",
    "GET /global-insights",
    "GET /openapi.json",
    "POST /tokens/dataplane",
    "POST /tokens/zone",
    "POST /tokens/user",
    "GET /_kri/kri_m____default_",
    "GET /meshes/default/dataplanes/_overview",
    "GET /meshes/default/dataplanes/d/_overview",
    "GET /meshes/default/dataplanes+insights",
    "GET /meshes/default/dataplanes+insights/d",
    "GET /dataplanes+insights",
    "GET /dataplanes/_overview",
    "GET /zones/_overview",
    "GET /zones/z/_overview",
    "GET /zones+insights",
    "GET /zones+insights/z",
    "GET /zoneingresses/_overview",
    "GET /zoneingresses/i/_overview",
    "GET /zone-ingresses/_overview",
    "GET /zoneingresses+insights",
    "GET /zoneingresses+insights/i",
    "GET /zoneegresses/_overview",
    "GET /zoneegresses/e/_overview",
    "GET /zoneegressoverviews",
    "GET /zoneegressoverviews/e",
    "GET /meshes/default/dataplanes/d/xds",
    "GET /meshes/default/dataplanes/d/stats",
    "GET /meshes/default/dataplanes/d/clusters",
    "GET /zoneingresses/i/xds",
    "GET /zone-ingresses/i/stats",
    "GET /zoneingresses/i/clusters",
    "GET /zoneegresses/e/xds",
    "GET /zoneegresses/e/stats",
    "GET /zoneegresses/e/clusters",
    "GET /meshes/default/meshgateways/g/dataplanes",
    "GET /meshes/default/meshgatewayroutes/r/dataplanes",
    "GET /meshes/default/timeouts/old/dataplanes",
    "GET /meshes/default/meshtimeouts/t/dataplanes",
    "GET /meshes/default/meshtimeouts/t/_resources/dataplanes",
    "GET /meshes/default/meshtimeouts/t/-resources/dataplanes",
    "GET /meshes/default/dataplanes/d/policies",
    "GET /meshes/default/dataplanes/d/rules",
    "GET /meshes/default/dataplanes/d/_rules",
    "GET /meshes/default/meshgateways/g/_rules",
    "GET /meshes/default/meshservices/s/_resources/dataplanes",
    "GET /meshes/default/meshservices/s/_dataplanes",
    "GET /meshes/default/meshservices/s/_hostnames",
    "GET /meshes/default/meshexternalservices/s/_hostnames",
    "GET /meshes/default/meshmultizoneservices/s/_hostnames",
];

/// Known, but not answered: the answer says so, and the documentation says why.
const NOT_SERVED: &[(&str, &str)] = &[
    ("/meshes/default/dataplanes/d/_config", "…/dataplanes/{name}/_config"),
    ("/meshes/exclusive/dataplanes/d/_layout", "…/_layout"),
    ("/meshes/exclusive/dataplanes/d/_policies", "…/_policies"),
    ("/meshes/exclusive/dataplanes/d/_inbounds/kri_x/_policies", "…/_inbounds/{kri}/_policies"),
    ("/meshes/exclusive/dataplanes/d/_outbounds/kri_x/_policies", "…/_outbounds/{kri}/_policies"),
    ("/meshes/exclusive/dataplanes/d/_outbounds/kri_x/_routes", "…/_outbounds/{kri}/_routes"),
    (
        "/meshes/exclusive/dataplanes/d/_outbounds/kri_x/_routes/kri_y/_policies",
        "…/_outbounds/{kri}/_routes/{route}/_policies",
    ),
];

/// Not there at all, as in Kuma or on purpose.
const ABSENT: &[(&str, &str)] = &[("/gui/", "/gui/"), ("/versions", "/versions")];

async fn fill(cp: &Cp) {
    let named = |mesh: &str, name: &str| json!({"mesh": mesh, "name": name});
    cp.seed(Kind::MESH, &json!({"name": "exclusive", "meshServices": {"mode": "Exclusive"}})).await;
    for (kind, name) in [("Zone", "z"), ("ZoneIngress", "i"), ("ZoneEgress", "e")] {
        cp.seed(Kind::by_name(kind).unwrap(), &json!({"name": name})).await;
    }
    for mesh in ["default", "exclusive"] {
        let mut proxy = dataplane("d");
        proxy["mesh"] = mesh.into();
        cp.seed(Kind::DATAPLANE, &proxy).await;
        cp.seed(Kind::DATAPLANE_INSIGHT, &named(mesh, "d")).await;
    }
    for (kind, name) in [
        ("MeshGatewayRoute", "r"),
        ("Timeout", "old"),
        ("MeshService", "s"),
        ("MeshExternalService", "s"),
        ("MeshMultiZoneService", "s"),
    ] {
        cp.seed(Kind::by_name(kind).unwrap(), &named("default", name)).await;
    }
    cp.seed(Kind::MESH_TIMEOUT, &timeout("t", json!({}))).await;
    let mut gateway = named("default", "g");
    gateway["selectors"] = json!([{"match": {"kuma.io/service": "edge"}}]);
    cp.seed(Kind::MESH_GATEWAY, &gateway).await;
}

#[tokio::test]
async fn the_catalogue() {
    for mode in [global(), zone("east"), standalone()] {
        let on_global = mode == global();
        let cp = Cp::new(mode).await;
        fill(&cp).await;
        for entry in CATALOGUE {
            let (method, path) = entry.split_once(' ').unwrap();
            let method: Method = method.parse().unwrap();
            let body = (method == Method::POST).then(|| json!({}));
            let reply = cp.send(method, path, body.as_ref()).await;
            let (status, text) = (reply.status.as_u16(), &*reply.text);
            assert!(!matches!(text, "404: Page Not Found" | "405: Method Not Allowed"), "{entry}");
            // No Envoy is there to be asked, and nobody asked for a token properly.
            let asks = ["/xds", "/stats", "/clusters"].iter().any(|end| path.ends_with(end));
            let want = if body.is_some() || asks { [400, 500] } else { [200, 200] };
            assert!(want.contains(&status), "{entry}: {status} {text}");
        }
        for (path, documented) in NOT_SERVED {
            let reply = cp.get(path).await;
            let config = path.ends_with("_config");
            let want = if config && on_global { 405 } else { 501 };
            assert_eq!(reply.status.as_u16(), want, "{path} {}", reply.text);
            assert!(DOCUMENTATION.contains(&format!("`{documented}`")), "{documented}");
        }
        for (path, documented) in ABSENT {
            assert_eq!(cp.get(path).await.text, "404: Page Not Found", "{path}");
            assert!(DOCUMENTATION.contains(&format!("`{documented}`")), "{documented}");
        }
    }
}

/// What is served is described: every path that can be made of types and of what is below objects.
#[tokio::test]
async fn what_is_served_is_documented() {
    let below = [
        "_overview",
        "xds",
        "stats",
        "clusters",
        "dataplanes",
        "_resources/dataplanes",
        "-resources/dataplanes",
        "_dataplanes",
        "_hostnames",
        "policies",
        "rules",
        "_rules",
        "_config",
        "_layout",
        "_policies",
        "_inbounds/k/_policies",
        "_outbounds/k/_policies",
        "_outbounds/k/_routes",
        "_outbounds/k/_routes/r/_policies",
    ];
    let cp = Cp::new(zone("east")).await;
    let mut paths: Vec<String> = CATALOGUE
        .iter()
        .filter_map(|entry| entry.strip_prefix("GET "))
        .map(str::to_owned)
        .collect();
    for kind in Kind::all().filter(|kind| !kind.row().plural.is_empty()) {
        for plural in [kind.row().plural].iter().chain(kind.row().aliases) {
            let mesh = if kind.is_mesh_scoped() { "/meshes/default" } else { "" };
            paths.push(format!("/{plural}"));
            paths.push(format!("/{plural}/_overview"));
            for list in [format!("{mesh}/{plural}"), format!("{mesh}/{plural}+insights")] {
                paths.extend([list.clone(), format!("{list}/_overview"), format!("{list}/x")]);
                paths.extend(below.iter().map(|aspect| format!("{list}/x/{aspect}")));
            }
        }
    }
    let mut served = 0;
    for path in paths {
        let reply = cp.get(&path).await;
        // A question that only some types answer is refused for others.
        let refused = reply.text.contains("are available for inspection")
            || reply.text.contains("Could not execute admin operation") && reply.status == 404;
        if reply.text == "404: Page Not Found" || refused {
            continue;
        }
        served += 1;
        let found = template(&path).unwrap_or_else(|| panic!("{path} is not documented"));
        let operation: &Value = &openapi_document()["paths"][found]["get"];
        let status = reply.status.as_str();
        assert!(operation["responses"].get(status).is_some(), "{path}: {status} {}", reply.text);
    }
    assert!(served > 250, "{served}");
}
