//! A real Envoy takes what is generated. Needs `SUNBEAR_ENVOY`, the path of an Envoy binary.

use std::{fs, process::Command};

use serde_json::{Value, json};

use crate::{
    build::{gateway, generated, json_of, route, to_echo, world},
    golden::case_snapshots,
};

/// A bootstrap with everything in it that would come over xDS.
fn bootstrap(snapshot: &Value) -> Value {
    let list = |kind: &str| -> Vec<Value> {
        snapshot[kind]["Resources"].as_object().unwrap().values().cloned().collect()
    };
    let mut clusters = list("Clusters");
    for cluster in &mut clusters {
        if cluster["type"] == "EDS" {
            cluster["type"] = json!("STATIC");
            cluster["loadAssignment"] =
                snapshot["Endpoints"]["Resources"][cluster["name"].as_str().unwrap()].clone();
            cluster.as_object_mut().unwrap().remove("edsClusterConfig");
        }
    }
    let mut listeners = list("Listeners");
    // Envoy refuses static chains without filters; over LDS it takes them.
    listeners.retain(|l| l["filterChains"].as_array().unwrap().iter().all(|c| *c != json!({})));
    for listener in &mut listeners {
        // Two names for one thing; the check does not bind.
        for chain in listener["filterChains"].as_array_mut().unwrap() {
            for filter in chain["filters"].as_array_mut().unwrap() {
                let config = filter["typedConfig"].as_object_mut().unwrap();
                if let Some(rds) = config.remove("rds") {
                    let name = rds["routeConfigName"].as_str().unwrap();
                    let routes = snapshot["Routes"]["Resources"][name].clone();
                    config.insert("routeConfig".to_owned(), routes);
                }
            }
        }
    }
    json!({
        "node": {"id": "default.gw", "cluster": "gw"},
        "layeredRuntime": {"layers": [{"name": "kuma", "staticLayer": {
            "re2.max_program_size.error_level": 4_294_967_295_u32,
        }}]},
        "staticResources": {"clusters": clusters, "listeners": listeners},
    })
}

/// A gateway with every kind of filter, and with everything that has to be left out.
fn everything() -> Value {
    let mut world = world();
    world.add(&gateway(&json!([
        {"port": 8080, "protocol": "HTTP"},
        {"port": 8080, "protocol": "HTTP", "hostname": "a.x"},
        {"port": 9090, "protocol": "TCP", "tags": {"t": "tcp"}},
    ])));
    let to = json!([{"destination": {"kuma.io/service": "echo"}}]);
    let exact = |path: &str| json!([{"path": {"value": path}}]);
    let filtered = |path: &str, filters: Value| json!({"matches": exact(path), "filters": filters, "backends": to});
    let header = |name: &str, value: &str| json!([{"name": name, "value": value}]);
    let mut body = route(
        "r",
        &json!([
            to_echo("/api"),
            {
                "matches": [
                    {"path": {"match": "REGEX", "value": "/items/{id}/\\Q(\\E[a[b]"}},
                    {"path": {"match": "REGEX", "value": "/bad("}},
                    {"path": {"match": "REGEX", "value": "/a**"}},
                    {"method": "PUT", "headers": [
                        {"match": "REGEX", "name": "a", "value": ".*"},
                        {"match": "ABSENT", "name": "b"},
                        {"match": "PRESENT", "name": "c"},
                    ], "queryParameters": [{"match": "REGEX", "name": "q", "value": "x+"}]},
                ],
                "backends": to,
            },
            filtered("/1", json!([{"rewrite": {"replaceFull": "/\\1"}}])),
            filtered("/2", json!([{"rewrite": {"replaceFull": "/\\0"}}])),
            filtered("/3", json!([{"rewrite": {"hostToBackendHostname": true}}])),
            filtered("/4", json!([{"requestHeader": {"add": header("Host", "a")}}])),
            filtered("/5", json!([{"requestHeader": {"set": header(":authority", "a")}}])),
            filtered("/6", json!([{"requestHeader": {"add": header("a", "100%")}}])),
            filtered("/7", json!([{"responseHeader": {"remove": [":status", "x"]}}])),
            filtered("/8", json!([{"mirror": {"percentage": 0.5, "backend": {
                "destination": {"kuma.io/service": "mirror"},
            }}}])),
            filtered("/9", json!([{"requestHeader": {"set": header("b", "%PROTOCOL%%%")}}])),
            {"matches": exact("/10"), "filters": [{"redirect": {"statusCode": 304}}]},
            {"matches": exact("/11"), "filters": [{"redirect": {
                "statusCode": 308, "scheme": "https", "hostname": "b.x", "path": {"replaceFull": "/z"},
            }}]},
            {"matches": exact("/12"), "backends": [
                {"weight": 0, "destination": {"kuma.io/service": "echo"}},
                {"weight": 0, "destination": {"kuma.io/service": "other", "kuma.io/protocol": "grpc"}},
            ]},
        ]),
    );
    body["conf"]["http"]["hostnames"] = json!(["a.x", "A.X", "*.x", "*", "w*", "b*c"]);
    world.add(&body);
    for (name, weight) in [("t1", 0), ("t2", 3)] {
        world.add(&json!({
            "type": "MeshGatewayRoute", "mesh": "default", "name": name,
            "selectors": [{"match": {"t": "tcp"}}],
            "conf": {"tcp": {"rules": [
                {"backends": [{"weight": weight, "destination": {"kuma.io/service": name}}]},
            ]}},
        }));
    }
    let all = json!([{"match": {"kuma.io/service": "*"}}]);
    let legacy = |kind: &str, conf: Value| {
        json!({
            "type": kind, "mesh": "default", "name": "l",
            "sources": all, "destinations": all, "conf": conf,
        })
    };
    world.add(&legacy(
        "HealthCheck",
        json!({
            "interval": "10s", "timeout": "2s", "unhealthyThreshold": 3, "healthyThreshold": 1,
            "tcp": {"send": "Zm9v", "receive": ["YmFy"]}, "healthyPanicThreshold": 90,
            "http": {"path": "/health", "expectedStatuses": [200, 201]},
        }),
    ));
    world.add(&legacy(
        "CircuitBreaker",
        json!({
            "interval": "5s", "baseEjectionTime": "30s", "maxEjectionPercent": 20,
            "detectors": {
                "totalErrors": {"consecutive": 20}, "standardDeviation": {"factor": 1.9},
                "failure": {"threshold": 85},
            },
        }),
    ));
    world.add(&legacy(
        "RateLimit",
        json!({"http": {
            "requests": 5, "interval": "10s",
            "onRateLimit": {"status": 423, "headers": [{"key": "x", "value": "y"}]},
        }}),
    ));
    world.add(&json!({
        "type": "MeshRetry", "mesh": "default", "name": "m",
        "spec": {"targetRef": {"kind": "Mesh"}, "to": [{"targetRef": {"kind": "Mesh"}, "default": {
            "http": {
                "numRetries": 2, "retryOn": ["5xx", "429", "HttpMethodGet"],
                "backOff": {"baseInterval": "1s", "maxInterval": "10ms"},
                "rateLimitedBackOff": {"maxInterval": "5s", "resetHeaders": [
                    {"name": "retry-after", "format": "Seconds"},
                ]},
                "retriableResponseHeaders": [{"type": "Prefix", "name": "x", "value": "y"}],
            },
        }}]},
    }));
    assert!(!generated(&world).issues.is_empty());
    json_of(&world)
}

#[test]
fn envoy_takes_it() {
    let Some(envoy) = std::env::var_os("SUNBEAR_ENVOY") else {
        println!("SKIPPED: SUNBEAR_ENVOY is not set, no Envoy has seen the output");
        return;
    };
    let mut snapshots = vec![("everything".to_owned(), everything())];
    snapshots.extend(case_snapshots());
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("bootstraps");
    fs::create_dir_all(&folder).unwrap();
    for (name, snapshot) in snapshots {
        let path = folder.join(name.replace('/', "-") + ".json");
        fs::write(&path, bootstrap(&snapshot).to_string()).unwrap();
        let output = Command::new(&envoy)
            .args(["--mode", "validate", "--log-level", "error", "-c"])
            .arg(&path)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {text}");
    }
}
