use super::*;
use crate::document;

fn recorded() -> (Value, Value, Value) {
    let received = document::parse(include_str!("../tests/data/bootstrap.yaml")).unwrap();
    let dump = serde_json::from_str(include_str!("../tests/data/config-dump.json")).unwrap();
    let runtime = serde_json::from_str(include_str!("../tests/data/runtime.json")).unwrap();
    (received, dump, runtime)
}

fn named<'a>(bootstrap: &'a Value, kind: &str, name: &str) -> Option<&'a Value> {
    elements(field(bootstrap, "static_resources")?, kind)
        .find(|resource| name_of(resource) == Some(name))
}

/// A dump of the given sections.
fn dump(sections: &[(&str, Value)]) -> Value {
    let configs: Vec<Value> = sections
        .iter()
        .map(|(kind, section)| {
            let mut section = section.clone();
            section["@type"] =
                format!("type.googleapis.com/envoy.admin.v3.{kind}ConfigDump").into();
            section
        })
        .collect();
    json!({ "configs": configs })
}

fn nothing() -> Held {
    Held::nothing("not at hand")
}

fn no_runtime() -> Value {
    json!({"layers": [], "entries": {}})
}

fn active_listener(listener: &Value) -> Value {
    json!({"dynamic_listeners": [{"name": listener["name"], "active_state": {"listener": listener}}]})
}

fn manager(fields: Value) -> Value {
    let mut config = fields;
    config["@type"] =
        "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager".into();
    json!({"name": "hcm", "typed_config": config})
}

#[test]
fn the_recorded_dump_gives_the_golden() {
    let (received, dump, runtime) = recorded();
    let config = to_static(&received, &dump, &runtime, &nothing()).unwrap();
    let text = format!("{:#}\n", config.bootstrap);
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/static-bootstrap.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(golden, &text).unwrap();
    }
    assert!(
        std::fs::read_to_string(golden).unwrap() == text,
        "another static bootstrap; see UPDATE_GOLDEN"
    );
    // The golden holds nothing of the control plane's and no token.
    for word in [
        "\"ads\"",
        "dynamicResources",
        "ads_cluster",
        "authorization",
        "redacted",
        "W3JlZGFjdGVkXQ==",
    ] {
        assert!(!text.contains(word), "{word}");
    }
}

#[test]
fn the_recorded_dump_keeps_what_can_be_kept() {
    let (received, dump, runtime) = recorded();
    let StaticConfig { bootstrap, omissions } =
        to_static(&received, &dump, &runtime, &nothing()).unwrap();
    let omitted: Vec<_> =
        omissions.iter().map(|omission| (omission.kind, omission.name.as_str())).collect();
    assert_eq!(
        omitted,
        [
            ("cluster", "secure"),
            ("filter chain of listener", "kuma:envoy:admin"),
            ("listener", "edge:HTTPS:18443"),
        ]
    );
    // Not counting the one for operators.
    assert_eq!(listener_count(&bootstrap), 1);
    assert!(
        omissions[0].reason.contains("identity_cert:secret:default"),
        "{}",
        omissions[0].reason
    );

    let echo = named(&bootstrap, "clusters", "echo-1").unwrap();
    assert_eq!(echo["type"], "STATIC");
    assert_eq!(echo["load_assignment"]["cluster_name"], "echo-1");
    assert_eq!(echo["load_assignment"]["endpoints"][0]["locality"]["zone"], "east");
    let endpoint = &echo["load_assignment"]["endpoints"][0]["lb_endpoints"][0];
    assert_eq!(endpoint["endpoint"]["address"]["socket_address"]["port_value"], 19090);
    assert_eq!(endpoint["metadata"]["filter_metadata"]["envoy.lb"]["kuma.io/zone"], "east");
    assert_eq!(endpoint.get("health_status"), None);

    // Another service's endpoints under this cluster's name, and a CA that is not secret.
    let secure = named(&bootstrap, "clusters", "catls").unwrap();
    assert_eq!(secure["load_assignment"]["cluster_name"], "catls");
    assert!(named(&bootstrap, "secrets", "mesh_ca:secret:default").is_some());
    assert!(named(&bootstrap, "secrets", "cp_validation_ctx").is_some());

    let external = named(&bootstrap, "clusters", "ext").unwrap();
    assert_eq!(
        (&external["type"], &external["wait_for_warm_on_init"]),
        (&json!("STRICT_DNS"), &json!(false))
    );

    let listener = named(&bootstrap, "listeners", "edge:HTTP:18080").unwrap();
    let manager = &listener["filter_chains"][0]["filters"][0]["typed_config"];
    assert_eq!(manager.get("rds"), None);
    assert_eq!(manager["route_config"]["name"], "edge:HTTP:18080:*");
    assert_eq!(manager["route_config"]["validate_clusters"], false);
    assert_eq!(
        named(&bootstrap, "listeners", "kuma:envoy:admin").unwrap()["filter_chains"]
            .as_array()
            .unwrap()
            .len(),
        1
    );

    let layers = path(&bootstrap, &["layered_runtime", "layers"]).unwrap();
    assert_eq!(
        layers[1]["static_layer"]["envoy.resource_limits.listener.edge:HTTP:18080.connection_limit"],
        10000
    );
    assert_eq!(bootstrap["node"], received["node"]);
    assert_eq!(bootstrap["overloadManager"], received["overloadManager"]);
}

#[test]
fn secrets_that_are_held_make_it_complete() {
    let (received, dump, runtime) = recorded();
    let hidden = redacted(&dump).unwrap();
    let names: Vec<&str> = hidden.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["cert.rsa:secret:edge", "identity_cert:secret:default"]);
    let secret = |name: &str| json!({"name": name, "tlsCertificate": {"privateKey": {"inlineString": format!("key of {name}")}}});
    let secrets = hidden.iter().map(|id| (id.clone(), secret(&id.0))).collect();
    let held = Held { secrets, absent: Absent::Wait };
    let complete = to_static(&received, &dump, &runtime, &held).unwrap();
    let omitted: Vec<_> = complete.omissions.iter().map(|o| o.kind).collect();
    assert_eq!(omitted, ["filter chain of listener"], "the admin interface's own certificate");
    assert_eq!(listener_count(&complete.bootstrap), 2);
    let kept = named(&complete.bootstrap, "secrets", "cert.rsa:secret:edge").unwrap();
    assert_eq!(*kept, secret("cert.rsa:secret:edge"));

    // Another version than Envoy's is none.
    let other =
        |(id, secret): (&SecretId, &Value)| ((id.0.clone(), "x".to_owned()), secret.clone());
    let others = Held { secrets: held.secrets.iter().map(other).collect(), ..held };
    assert!(matches!(to_static(&received, &dump, &runtime, &others), Err(Incomplete::NoKey(_))));
    let others = Held { absent: Absent::LeaveOut("too old".to_owned()), ..others };
    let partial = to_static(&received, &dump, &runtime, &others).unwrap();
    assert_eq!(
        partial.bootstrap,
        to_static(&received, &dump, &runtime, &nothing()).unwrap().bootstrap
    );
    let edge = partial.omissions.iter().find(|o| o.name == "edge:HTTPS:18443").unwrap();
    assert_eq!(edge.reason, "secret \"cert.rsa:secret:edge\": too old");
}

#[test]
fn the_same_dump_in_another_order_gives_the_same() {
    let (received, mut dump, runtime) = recorded();
    let expected = to_static(&received, &dump, &runtime, &nothing()).unwrap();
    for config in dump["configs"].as_array_mut().unwrap() {
        for section in config.as_object_mut().unwrap().values_mut() {
            if let Some(list) = section.as_array_mut() {
                list.reverse();
            }
        }
    }
    dump["configs"].as_array_mut().unwrap().reverse();
    assert_eq!(to_static(&received, &dump, &runtime, &nothing()).unwrap(), expected);
}

#[test]
fn what_is_not_settled_is_not_sealed() {
    let check = |sections: &[(&str, Value)], expected: Incomplete| {
        assert_eq!(
            to_static(&json!({}), &dump(sections), &no_runtime(), &nothing()),
            Err(expected)
        );
    };
    check(
        &[("Clusters", json!({"dynamic_warming_clusters": [{"cluster": {"name": "a"}}]}))],
        Incomplete::Warming("cluster \"a\"".into()),
    );
    check(
        &[("Listeners", json!({"dynamic_listeners": [{"name": "l", "warming_state": {}}]}))],
        Incomplete::Warming("listener \"l\"".into()),
    );
    check(
        &[(
            "Clusters",
            json!({"dynamic_active_clusters": [{"cluster": {"name": "a", "type": "EDS"}}]}),
        )],
        Incomplete::NoEndpoints("a".into()),
    );
    let chains = json!([{"filters": [manager(json!({"rds": {"route_config_name": "r"}}))]}]);
    check(
        &[("Listeners", active_listener(&json!({"name": "l", "filter_chains": chains})))],
        Incomplete::NoRoute("r".into()),
    );
    let reference = json!({"name": "s", "sds_config": {"ads": {}}});
    check(
        &[(
            "Clusters",
            json!({"dynamic_active_clusters": [{"cluster": {"name": "a", "x": reference}}]}),
        )],
        Incomplete::NoSecret("s".into()),
    );
    assert_eq!(
        to_static(&json!({}), &json!({}), &no_runtime(), &nothing()),
        Err(Incomplete::Malformed("list of configs"))
    );
    let received = json!({"layeredRuntime": {"layers": [{"name": "r", "rtdsLayer": {}}]}});
    assert_eq!(
        to_static(&received, &dump(&[]), &no_runtime(), &nothing()),
        Err(Incomplete::NoRuntimeLayer("r".into()))
    );
}

#[test]
fn a_listener_that_was_never_accepted_is_not_sealed() {
    let listeners =
        json!({"dynamic_listeners": [{"name": "bad", "error_state": {"details": "no"}}]});
    let config =
        to_static(&json!({}), &dump(&[("Listeners", listeners)]), &no_runtime(), &nothing())
            .unwrap();
    assert_eq!(listener_count(&config.bootstrap), 0);
    assert_eq!(config.omissions, []);
}

#[test]
fn endpoints_with_host_names_need_dns() {
    let sections = [
        (
            "Clusters",
            json!({"dynamic_active_clusters": [{"cluster": {"name": "a", "type": "EDS"}}]}),
        ),
        (
            "Endpoints",
            json!({"dynamic_endpoint_configs": [{"endpoint_config": {"cluster_name": "a", "endpoints": [
                {"load_balancing_weight": 0, "lb_endpoints": [
                    {"health_status": "UNHEALTHY", "metadata": {},
                     "endpoint": {"health_check_config": {}, "address": {"socket_address": {"address": "a.example", "port_value": 1}}}}
                ]}
            ]}}]}),
        ),
    ];
    let config = to_static(&json!({}), &dump(&sections), &no_runtime(), &nothing()).unwrap();
    assert_eq!(
        config.bootstrap["static_resources"]["clusters"],
        json!([{"name": "a", "type": "STRICT_DNS", "wait_for_warm_on_init": false, "load_assignment": {
            "cluster_name": "a",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "a.example", "port_value": 1}}}}]}]
        }}])
    );
}

/// A plain chain takes over from a TLS chain only where a TLS connection then fails.
#[test]
fn a_byte_proxy_never_inherits_connections_of_a_dropped_chain() {
    let tls = json!({"filter_chain_match": {"transport_protocol": "tls"}, "filters": [manager(json!({}))],
        "transport_socket": {"key": {"inline_string": "[redacted]"}}});
    let bytes = json!({"filters": [{"name": "tcp", "typed_config": {"@type": "x/envoy.TcpProxy", "cluster": "c"}}]});
    let plain = json!({"filters": [manager(json!({}))]});
    let any_tls = json!({"filters": [manager(json!({}))], "transport_socket": {"key": {"inline_string": "[redacted]"}}});
    let check = |chains: &[&Value], expected: &[&Value]| {
        let listener = json!({"name": "l", "filter_chains": chains});
        let config = to_static(
            &json!({}),
            &dump(&[("Listeners", active_listener(&listener))]),
            &no_runtime(),
            &nothing(),
        )
        .unwrap();
        let kept = named(&config.bootstrap, "listeners", "l")
            .map(|listener| listener["filter_chains"].clone());
        assert_eq!(kept, (!expected.is_empty()).then(|| json!(expected)));
        assert_eq!(config.omissions.len(), 1);
    };
    check(&[&plain, &tls], &[&plain]);
    check(&[&bytes, &tls], &[]);
    check(&[&plain, &any_tls], &[]);
    check(&[&tls], &[]);
}

#[test]
fn what_only_the_control_plane_can_give_leaves_its_user_out() {
    let discovery = json!({"config_discovery": {"config_source": {"ads": {}}}});
    let listener = json!({"name": "l", "filter_chains": [{"filters": [manager(json!({"http_filters": [discovery]}))]}]});
    let logged = json!({"name": "m", "access_log": [{"grpc_service": {"envoy_grpc": {"cluster_name": "gone"}}}]});
    let listeners = json!({"dynamic_listeners": [
        {"name": "l", "active_state": {"listener": listener}}, {"name": "m", "active_state": {"listener": logged}}]});
    let config =
        to_static(&json!({}), &dump(&[("Listeners", listeners)]), &no_runtime(), &nothing())
            .unwrap();
    assert_eq!(listener_count(&config.bootstrap), 0);
    let reasons: Vec<_> =
        config.omissions.iter().map(|omission| omission.reason.as_str()).collect();
    assert_eq!(
        reasons,
        ["its config_source comes from the control plane", "it needs cluster \"gone\""]
    );
}

#[test]
fn runtime_values_get_their_types_back() {
    for (text, expected) in [
        ("10000", json!(10000)),
        ("0.5", json!(0.5)),
        ("true", json!(true)),
        ("hello", json!("hello")),
        ("null", json!("null")),
        (r#"{"numerator":1}"#, json!({"numerator": 1})),
    ] {
        assert_eq!(runtime_value(text), expected);
    }
}
