//! What a real Kuma said of the same objects.

use serde_json::{Map, Value, json};
use sunbear_insights::INTERVAL;
use sunbear_model::{Kind, rest};

use crate::fixture::{Fixture, put};

fn items(file: &str) -> Vec<Value> {
    let path = format!("{}/tests/data/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    file.pointer("/response/body/items").unwrap().as_array().unwrap().clone()
}

fn without(object: &Value, keys: &[&str]) -> Map<String, Value> {
    let mut map = object.as_object().unwrap().clone();
    map.retain(|key, _| !keys.contains(&key.as_str()));
    map
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn insights_are_those_of_kuma() {
    let fixture = Fixture::new().await;
    let mut changes = vec![put(Kind::MESH, &json!({"name": "default"}))];
    for file in [
        "13-global-get-meshes-default-meshgateways",
        "15-global-get-meshes-default-meshgatewayroutes",
        "29-global-get-meshes-default-meshtimeouts",
        "30-global-get-meshes-default-meshretries",
        "31-global-get-meshes-default-meshcircuitbreakers",
        "33-global-get-meshes-default-secrets",
    ] {
        for mut item in items(file) {
            if item["data"] == "REMOVED" {
                item["data"] = "eA==".into();
            }
            changes.push(put(Kind::by_name(item["type"].as_str().unwrap()).unwrap(), &item));
        }
    }
    for item in items("17-global-get-meshes-default-dataplanes-insights") {
        for (kind, part) in
            [(Kind::DATAPLANE, "dataplane"), (Kind::DATAPLANE_INSIGHT, "dataplaneInsight")]
        {
            if let Some(spec) = item.get(part) {
                let mut object = spec.clone();
                for key in ["mesh", "name", "labels"] {
                    object[key] = item[key].clone();
                }
                changes.push(put(kind, &object));
            }
        }
    }
    fixture.commit(changes).await;

    let running = fixture.start("one", INTERVAL);
    fixture.until_proxies("default", 6).await;
    let meta = ["type", "name", "mesh", "creationTime", "modificationTime"];
    let got = rest::write(&fixture.mesh_insight("default").unwrap());
    assert_eq!(without(&got, &meta), without(&items("09-global-get-mesh-insights")[0], &meta));

    // What REST adds: a total, and the address in the mesh.
    let got = rest::write(&fixture.service_insight("default").unwrap());
    let want: Map<String, Value> = items("12-global-get-meshes-default-service-insights")
        .into_iter()
        .map(|mut item| {
            item["dataplanes"].as_object_mut().unwrap().remove("total");
            let name = item["name"].as_str().unwrap().to_owned();
            let service = without(&item, &[&meta[..], &["addressPort"]].concat());
            (name, Value::Object(service))
        })
        .collect();
    assert_eq!(got["services"], Value::Object(want));
    assert_eq!(without(&got, &[&meta[..], &["services"]].concat()), Map::new());
    running.stop().await;
}
