//! Kuma's snapshots of the admin interface.

use std::{fs, path::Path};

use serde_json::Value;
use sunbear_xds::{AdminTls, Proxy, ProxyMetadata, ResourceType, Settings, generate};

use crate::{
    golden::{difference, to_json},
    world::World,
};

const MESH: &str = "{type: Mesh, name: default}";

fn gateway(address: &str) -> World {
    World::read(&format!(
        "{MESH}\n---\n{{type: Dataplane, mesh: default, name: gw, networking: {{address: {address}, \
         gateway: {{type: BUILTIN, tags: {{kuma.io/service: edge}}}}}}}}"
    ))
}

fn proxy(metadata: ProxyMetadata) -> Proxy {
    Proxy { mesh: "default".to_owned(), name: "gw".to_owned(), metadata }
}

fn settings() -> Settings {
    let tls = AdminTls {
        ca: b"caPEM".to_vec(),
        certificate: b"certPEM".to_vec(),
        key: b"keyPEM".to_vec(),
    };
    Settings { admin_tls: Some(tls), ..Settings::default() }
}

#[test]
fn kuma_snapshots() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/admin");
    for case in ["01", "02", "03", "04", "05", "06", "08", "error-address", "error-readiness-port"]
    {
        let read = |file: &str| -> Value {
            serde_saphyr::from_str(&fs::read_to_string(folder.join(case).join(file)).unwrap())
                .unwrap()
        };
        let (input, want) = (read("input.yaml"), read("expected.yaml"));
        let metadata = &input["metadata"];
        let port = |key: &str| u16::try_from(metadata[key].as_u64().unwrap_or(0)).unwrap();
        let features = metadata["features"].as_array().into_iter().flatten();
        let proxy = proxy(ProxyMetadata {
            admin_port: port("adminPort"),
            admin_address: metadata["adminAddress"].as_str().unwrap_or_default().to_owned(),
            readiness_port: port("readinessPort"),
            features: features.map(|f| f.as_str().unwrap().to_owned()).collect(),
            ipv6_enabled: metadata["ipv6Enabled"].as_bool().unwrap_or(true),
            ..ProxyMetadata::default()
        });
        let address = input["dataplane"]["networking"]["address"].as_str().unwrap_or("192.168.0.1");
        let generated = generate(&gateway(address), &settings(), &proxy).unwrap();
        let mut got: Vec<Value> = [ResourceType::Cluster, ResourceType::Listener]
            .into_iter()
            .flat_map(|t| generated.resources.iter(t))
            .map(|r| to_json(r))
            .collect();
        if want.get("error").is_some() {
            assert_eq!((got.len(), generated.issues.len()), (0, 1), "{case}");
            continue;
        }
        for resource in &mut got {
            // A policy adds this to whatever cluster there is; the snapshots are from before that.
            resource.as_object_mut().unwrap().remove("circuitBreakers");
        }
        let want: Vec<Value> =
            want["resources"].as_array().unwrap().iter().map(without_type).collect();
        assert_eq!(difference(case, &Value::from(want), &Value::from(got)), None);
    }
}

fn without_type(item: &Value) -> Value {
    let mut resource = item["resource"].clone();
    resource.as_object_mut().unwrap().remove("@type");
    resource
}

#[test]
fn on_a_socket_the_listener_is_there_even_on_loopback() {
    let metadata = |socket: &str| ProxyMetadata {
        admin_port: 9901,
        admin_socket_path: socket.to_owned(),
        readiness_port: 9902,
        ..ProxyMetadata::default()
    };
    let listeners = |socket: &str| {
        let generated =
            generate(&gateway("127.0.0.1"), &settings(), &proxy(metadata(socket))).unwrap();
        generated.resources.names(ResourceType::Listener).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(listeners("/run/admin.sock"), ["kuma:envoy:admin"]);
    assert!(listeners("").is_empty());
}
