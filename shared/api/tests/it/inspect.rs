//! Inspection: answers as recorded from a real Kuma, and what Envoys say.

use std::{
    fs,
    sync::{Arc, Mutex},
};

use http::Method;
use serde_json::{Value, json};
use sunbear_api::{
    AdminBackend, AdminError, AdminFuture, AdminQuestion, ConfigPreview, PreviewError, Subjects,
    defaults::MeshDefaults,
};
use sunbear_model::{Kind, Resource};
use sunbear_store::Snapshot;

use super::support::{Cp, dataplane, global, remote, standalone, zone};

fn data(file: &str) -> Value {
    let path = format!("{}/tests/data/inspect/{file}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Removes times.
fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|k, _| {
                !matches!(&**k, "creationTime" | "modificationTime" | "creationTimestamp")
            });
            map.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

/// What we answer otherwise, by path.
fn deliberate(path: &str, kuma: &mut Value) {
    match path {
        // A prefix has two entries, for the path itself and all below. Kuma lists the second of two
        // backends once for each and not the first; we list each backend once.
        "/meshes/m1/dataplanes/g1/policies" => {
            let at = "/listeners/0/hosts/1/routes/0/destinations/1/tags/kuma.io~1service";
            *kuma.pointer_mut(at).unwrap() = "web".into();
        }
        "/meshes/m1/timeouts/t1/dataplanes" => {
            let routes = kuma.pointer_mut("/items/1/listeners/0/hosts/0/routes").unwrap();
            routes.as_array_mut().unwrap().pop();
            routes[0]["destinations"].as_array_mut().unwrap().reverse();
        }
        // Types are in the order in which they are applied; Kuma's order is that of a hash map.
        "/meshes/m1/dataplanes/d1/rules" => {
            let order = [
                "MeshTrace",
                "MeshTimeout",
                "MeshTrafficPermission",
                "MeshCircuitBreaker",
                "MeshRetry",
            ];
            let rank = |item: &Value| {
                let kind = item["policyType"].as_str().unwrap();
                let name = item["name"].as_str().unwrap_or_default().to_owned();
                (name, order.iter().position(|k| *k == kind).unwrap())
            };
            kuma["items"].as_array_mut().unwrap().sort_by_key(rank);
        }
        _ => {}
    }
}

#[tokio::test]
async fn answers_as_recorded() {
    let hooks = Arc::new(MeshDefaults { mode: standalone() });
    let cp = Cp::with(standalone(), |api| api.hooks = hooks).await;
    cp.seed(Kind::ZONE, &json!({"name": "default"})).await;
    for object in data("objects.json").as_array().unwrap() {
        let kind = Kind::by_name(object["type"].as_str().unwrap()).unwrap();
        let name = object["name"].as_str().unwrap();
        let path = match object["mesh"].as_str() {
            Some(mesh) => format!("/meshes/{mesh}/{}/{name}", kind.row().plural),
            None => format!("/{}/{name}", kind.row().plural),
        };
        let reply = cp.put(&path, object).await;
        assert_eq!(reply.status, 201, "{path}: {}", reply.text);
    }
    let mut differences = Vec::new();
    for answer in data("answers.json").as_array().unwrap() {
        let path = answer["path"].as_str().unwrap();
        let reply = cp.get(path).await;
        let mut got = reply.json();
        let mut want = answer["body"].clone();
        deliberate(path, &mut want);
        for value in [&mut got, &mut want] {
            strip(value);
        }
        if let Some(next) = want.get_mut("next") {
            *next = next.as_str().unwrap().replace("localhost:18081", "127.0.0.1:5681").into();
        }
        let status = u64::from(reply.status.as_u16());
        if Some(status) != answer["status"].as_u64() || got != want {
            differences.push(format!("{path}: {status}\n  is {got}\n was {want}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[tokio::test]
async fn second_spelling_and_services() {
    let cp = Cp::new(zone("east")).await;
    assert_eq!(cp.put("/meshes/default/dataplanes/d", &dataplane("d")).await.status, 201);
    let timeout = json!({"type": "MeshTimeout", "mesh": "default", "name": "t", "spec": {}});
    cp.seed(Kind::MESH_TIMEOUT, &timeout).await;
    let service = Kind::by_name("MeshService").unwrap();
    for (name, selector) in [
        ("by-tags", json!({"dataplaneTags": {"kuma.io/service": "d"}})),
        ("by-name", json!({"dataplaneRef": {"name": "d"}})),
        ("by-labels", json!({"dataplaneLabels": {"matchLabels": {"kuma.io/zone": "east"}}})),
        ("none", json!({"dataplaneTags": {"kuma.io/service": "x"}})),
    ] {
        let body = json!({"mesh": "default", "name": name, "spec": {"selector": selector}});
        cp.seed(service, &body).await;
    }
    for (path, total) in [
        ("meshtimeouts/t/-resources/dataplanes", 1),
        ("meshservices/by-tags/_resources/dataplanes", 1),
        ("meshservices/by-name/_dataplanes", 1),
        ("meshservices/by-labels/_dataplanes", 1),
        ("meshservices/none/_dataplanes", 0),
    ] {
        let reply = cp.get(&format!("/meshes/default/{path}")).await;
        assert_eq!(reply.json()["total"], total, "{path}");
    }
}

/// Remembers questions, and answers.
struct Envoys {
    asked: Mutex<Vec<(String, AdminQuestion)>>,
    answer: Result<Vec<u8>, AdminError>,
}

impl Envoys {
    fn new(answer: Result<&str, AdminError>) -> Arc<Self> {
        let answer = answer.map(|text| text.as_bytes().to_vec());
        Arc::new(Self { asked: Mutex::new(Vec::new()), answer })
    }
}

impl AdminBackend for Envoys {
    fn ask(&self, proxy: Arc<Resource>, question: AdminQuestion) -> AdminFuture<'_> {
        self.asked.lock().unwrap().push((proxy.key.name.to_string(), question));
        Box::pin(std::future::ready(self.answer.clone()))
    }
}

const OPERATION: &str = "Could not execute admin operation";

#[tokio::test]
async fn envoys_are_asked() {
    let dump = r#"{"configs":[{"initial_metadata":[{"key":"authorization","value":"secret"},{"key":"x","value":"y"}]}]}"#;
    let envoys = Envoys::new(Ok(dump));
    let backend = Arc::clone(&envoys);
    let cp = Cp::with(zone("east"), move |api| api.options.envoy_admin = backend).await;
    assert_eq!(cp.put("/meshes/default/dataplanes/d", &dataplane("d")).await.status, 201);
    let get = async |query: &str| cp.get(&format!("/meshes/default/dataplanes/d/{query}")).await;
    let reply = get("xds?include_eds=true").await;
    assert_eq!(reply.header("content-type"), "application/json");
    assert_eq!(
        reply.json(),
        json!({"configs": [{"initial_metadata": [{"key": "authorization", "value": "[redacted]"}, {"key": "x", "value": "y"}]}]})
    );
    assert_eq!(get("stats").await.header("content-type"), "text/plain");
    assert_eq!(
        get("stats?format=json&usedonly=0").await.header("content-type"),
        "application/json"
    );
    assert_eq!(get("clusters").await.text, dump);
    get("xds").await;
    let questions: Vec<AdminQuestion> = envoys.asked.lock().unwrap().iter().map(|q| q.1).collect();
    assert_eq!(
        questions,
        [
            AdminQuestion::ConfigDump { include_eds: true },
            AdminQuestion::Stats { json: false, used_only: true },
            AdminQuestion::Stats { json: true, used_only: false },
            AdminQuestion::Clusters { json: false },
            AdminQuestion::ConfigDump { include_eds: false },
        ]
    );
    // Text may be asked for.
    let mut request =
        super::support::request(Method::GET, "/meshes/default/dataplanes/d/stats", None);
    request.headers_mut().insert("accept", "text/plain".parse().unwrap());
    assert_eq!(cp.request(request).await.status, 200);
    get("other").await.is_problem(404, OPERATION, "Not found", &[]);
    let ingress =
        |name: &str, zone: &str| json!({"name": name, "zone": zone, "networking": {"port": 1}});
    cp.seed(Kind::ZONE_INGRESS, &ingress("here", "east")).await;
    cp.seed(Kind::ZONE_INGRESS, &ingress("there", "west")).await;
    assert_eq!(cp.get("/zone-ingresses/here/clusters").await.status, 200);
    cp.get("/zoneingresses/there/clusters").await.is_problem(
        400,
        "Could not connect to zone ingress that resides in another zone",
        "Resource is not valid",
        &[],
    );
}

#[tokio::test]
async fn envoys_that_cannot_be_asked() {
    let proxy = json!({"name": "d", "mesh": "default", "labels": {"kuma.io/zone": "east", "kuma.io/origin": "zone"}, "networking": {"address": "1.1.1.1"}});
    let insight = |open: bool| {
        let mut subscription = json!({"id": "1", "connectTime": "2026-01-01T00:00:00Z"});
        if !open {
            subscription["disconnectTime"] = "2026-01-01T00:01:00Z".into();
        }
        json!({"name": "east", "subscriptions": [subscription]})
    };
    let path = "/meshes/default/dataplanes/d/xds";
    let cp = Cp::new(global()).await;
    cp.seed(Kind::DATAPLANE, &proxy).await;
    let offline = "couldn't execute XDS Config Dump operation, zone is offline";
    cp.get(path).await.is_problem(400, OPERATION, offline, &[]);
    cp.seed(Kind::ZONE_INSIGHT, &insight(true)).await;
    let detail = "bad request: stream to execute XDS Config Dump operations is not yet connected";
    let detail = detail.strip_prefix("bad request: ").unwrap();
    cp.get(path).await.is_problem(400, "Bad Request", detail, &[]);
    cp.seed(Kind::ZONE_INSIGHT, &insight(false)).await;
    cp.get(path).await.is_problem(400, OPERATION, offline, &[]);

    let refused = "could not send XDSConfigRequest: client east is not connected";
    let envoys = Envoys::new(Err(AdminError::Refused(refused.to_owned())));
    let cp = Cp::with(global(), move |api| api.options.envoy_admin = envoys).await;
    cp.seed(Kind::DATAPLANE, &proxy).await;
    cp.seed(Kind::ZONE_INSIGHT, &insight(true)).await;
    cp.get(path).await.is_problem(400, OPERATION, refused, &[]);

    // A zone reaches its proxies or says why not.
    for (error, status, title, detail) in [
        (AdminError::NotConnected, 500, OPERATION, "Internal Server Error"),
        (AdminError::Failed("refused".to_owned()), 503, "Service unavailable", "refused"),
        (AdminError::Refused("it does not run".to_owned()), 400, OPERATION, "it does not run"),
    ] {
        let envoys = Envoys::new(Err(error));
        let cp = Cp::with(zone("east"), move |api| api.options.envoy_admin = envoys).await;
        cp.seed(Kind::DATAPLANE, &proxy).await;
        let reply = cp.get(path).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["title"]), (status, &json!(title)));
        assert!(reply.json()["detail"].as_str().unwrap().contains(detail), "{}", reply.text);
    }
}

#[tokio::test]
async fn who_may_look_at_envoys() {
    let envoys = Envoys::new(Ok("x"));
    let cp = Cp::with(zone("east"), move |api| {
        api.options.envoy_admin = envoys;
        api.access.view_config_dump = Subjects::admins();
        api.access.view_stats = Subjects::admins();
    })
    .await;
    assert_eq!(cp.put("/meshes/default/dataplanes/d", &dataplane("d")).await.status, 201);
    let denied =
        "user \"mesh-system:anonymous/mesh-system:unauthenticated\" cannot access envoy proxy info";
    for (aspect, allowed) in [("xds", false), ("stats", false), ("clusters", true)] {
        let path = format!("/meshes/default/dataplanes/d/{aspect}");
        let reply = cp.request(remote(Method::GET, &path, None)).await;
        if allowed {
            assert_eq!(reply.status, 200);
        } else {
            reply.is_problem(403, "Access Denied", denied, &[]);
        }
        assert_eq!(cp.get(&path).await.status, 200);
    }
    // Before anything is looked up.
    let reply =
        cp.request(remote(Method::GET, "/meshes/default/dataplanes/absent/xds", None)).await;
    assert_eq!(reply.status, 403);
}

/// Generates what it is asked for, or says why not.
struct Generated(Option<PreviewError>);

impl ConfigPreview for Generated {
    fn config(
        &self,
        _: &Arc<Snapshot>,
        mesh: &str,
        name: &str,
        shadow: bool,
    ) -> Result<Value, PreviewError> {
        match &self.0 {
            Some(error) => Err(error.clone()),
            None => Ok(json!({"t/Listener": {name: {"mesh": mesh, "shadow": shadow}}})),
        }
    }
}

async fn with_preview(preview: Generated) -> Cp {
    let preview = Arc::new(preview);
    let cp = Cp::with(zone("east"), move |api| api.options.config_preview = preview).await;
    cp.seed(Kind::DATAPLANE_INSIGHT, &json!({"mesh": "default", "name": "d"})).await;
    cp
}

#[tokio::test]
async fn configurations_as_generated() {
    let path = "/meshes/default/dataplanes/d/_config";
    let reply = Cp::new(global()).await.get(path).await;
    reply.is_problem(405, "Method not allowed", "Not allowed on global CP", &[]);
    let cp = with_preview(Generated(None)).await;
    let absent = cp.get("/meshes/default/dataplanes/absent/_config").await;
    absent.is_problem(404, "Failed to fetch dataplane insight", "Not found", &[]);
    let no_mesh = cp.get("/meshes/absent/dataplanes/d/_config").await;
    no_mesh.is_problem(404, "Failed to retrieve Mesh", "Not found", &[]);
    for parameter in ["shadow=trrrue", "include=something", "include=diff,else"] {
        let reply = cp.get(&format!("{path}?{parameter}")).await;
        let name = parameter.split('=').next().unwrap();
        let detail = format!("bad request: unsupported value for query parameter '{name}'");
        reply.is_problem(400, "Bad Request", &detail, &[]);
    }
    let xds = |shadow: bool| json!({"t/Listener": {"d": {"mesh": "default", "shadow": shadow}}});
    cp.get(path).await.is(200, &json!({"xds": xds(false)}));
    cp.get(&format!("{path}?shadow=true")).await.is(200, &json!({"xds": xds(true)}));
    let nothing = json!({"xds": xds(false), "diff": []});
    cp.get(&format!("{path}?shadow=false&include=diff")).await.is(200, &nothing);
    let at = "/t~1Listener/d/shadow";
    let diff = json!([
        {"op": "test", "path": at, "value": false},
        {"op": "remove", "path": at, "value": false},
        {"op": "add", "path": at, "value": true},
    ]);
    let both = cp.get(&format!("{path}?shadow=1&include=diff")).await;
    both.is(200, &json!({"xds": xds(true), "diff": diff}));
}

#[tokio::test]
async fn configurations_that_are_not_generated() {
    let path = "/meshes/default/dataplanes/d/_config";
    let failed = "Failed to inspect proxy config";
    for (error, status, title, detail) in [
        (PreviewError::NotFound("gone".to_owned()), 404, failed, "gone"),
        (PreviewError::NotGenerated("a sidecar".to_owned()), 501, "Not implemented", "a sidecar"),
        // The cause of a defect is for the log.
        (PreviewError::Failed("x".to_owned()), 500, failed, "Internal Server Error"),
    ] {
        let cp = with_preview(Generated(Some(error))).await;
        cp.get(path).await.is_problem(status, title, detail, &[]);
    }
}

#[tokio::test]
async fn host_names_of_services() {
    let generator = |selector: serde_json::Value, template: &str| json!({"selector": selector, "template": template});
    let by_origin =
        |origin: &str| json!({"meshService": {"matchLabels": {"kuma.io/origin": origin}}});
    let generators = [
        ("local", generator(by_origin("zone"), "{{ .DisplayName }}.svc.mesh.local")),
        ("synced", generator(by_origin("global"), "{{ .DisplayName }}.svc.{{ .Zone }}.mesh.local")),
        ("other", generator(json!({"meshExternalService": {}}), "{{ .Name }}.ext")),
        ("broken", generator(by_origin("zone"), "{{ label \"nobody-has-it\" }}.x")),
    ];
    let service = json!({
        "mesh": "default",
        "name": "redis-4f54",
        "labels": {
            "kuma.io/origin": "zone",
            "kuma.io/zone": "east",
            "kuma.io/display-name": "redis",
        },
        "spec": {"ports": [{"port": 6379}, {"port": 80, "name": "http"}]},
    });
    let local = json!({"hostname": "redis.svc.mesh.local", "zones": [{"name": "east"}]});
    let synced = json!({"hostname": "redis.svc.east.mesh.local", "zones": [{"name": "east"}]});
    // A global shows what its zones may see, a zone what it sees.
    for (mode, want) in [
        (global(), json!({"total": 2, "items": [synced, local]})),
        (zone("east"), json!({"total": 1, "items": [local]})),
    ] {
        let cp = Cp::new(mode).await;
        for (name, spec) in &generators {
            let kind = Kind::by_name("HostnameGenerator").unwrap();
            cp.seed(kind, &json!({"name": name, "spec": spec})).await;
        }
        cp.seed(Kind::by_name("MeshService").unwrap(), &service).await;
        cp.get("/meshes/default/meshservices/redis-4f54/_hostnames").await.is(200, &want);
        let missing = cp.get("/meshes/default/meshservices/x/_hostnames").await;
        missing.is_problem(404, "could not retrieve service", "Not found", &[]);
        let wrong = cp.get("/meshes/default/meshtimeouts/x/_hostnames").await;
        let title = "only \"meshservices,meshexternalservices,meshmultizoneservices\" are available \
                     for inspection";
        wrong.is_problem(400, title, "Resource is not valid", &[]);
        // And the names by which other zones reach its ports, in the order of ports.
        let shown = cp.get("/meshes/default/meshservices/redis-4f54").await.json();
        assert_eq!(
            shown["snis"],
            json!([
                {"port": 80, "sni": "sni.msvc.default.east.redis.http"},
                {"port": 6379, "sni": "sni.msvc.default.east.redis.6379"},
            ])
        );
    }
}
