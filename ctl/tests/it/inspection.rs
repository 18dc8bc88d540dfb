//! `inspect` against the real API.

use serde_json::{Value, json};
use sunbear_model::Kind;

use crate::control_plane::Global;

fn global() -> Global {
    let global = Global::start();
    global.apply(
        "type: MeshGateway\nname: edge\nmesh: default\nselectors:\n- match: {kuma.io/service: edge}\n\
         conf: {listeners: [{port: 8080, protocol: HTTP}]}\n\
         ---\ntype: TrafficRoute\nname: all\nmesh: default\nsources: [{match: {kuma.io/service: '*'}}]\n\
         destinations: [{match: {kuma.io/service: '*'}}]\nconf: {destination: {kuma.io/service: '*'}}\n\
         ---\ntype: Zone\nname: east\n",
    );
    global.seed(
        Kind::DATAPLANE,
        &json!({"type": "Dataplane", "mesh": "default", "name": "web", "networking": {
            "address": "10.0.0.1",
            "inbound": [{"port": 80, "tags": {"kuma.io/service": "web"}}],
            "outbound": [{"port": 90, "tags": {"kuma.io/service": "api"}}]}}),
    );
    global.seed(
        Kind::by_name("DataplaneInsight").unwrap(),
        &json!({"type": "DataplaneInsight", "mesh": "default", "name": "web",
            "subscriptions": [{"id": "1", "connectTime": "2026-01-01T00:00:00Z",
                "status": {"total": {"responsesSent": "7"}},
                "version": {"kumaDp": {"version": "2.14.3"}, "envoy": {"version": "1.38.2"}}}]}),
    );
    global.seed(
        Kind::DATAPLANE,
        &json!({"type": "Dataplane", "mesh": "default", "name": "gw", "networking": {
            "address": "10.0.0.2",
            "gateway": {"type": "BUILTIN", "tags": {"kuma.io/service": "edge"}}}}),
    );
    global.seed(
        Kind::by_name("MeshInsight").unwrap(),
        &json!({"type": "MeshInsight", "name": "default", "dataplanes": {"total": 2, "online": 1},
            "policies": {"TrafficRoute": {"total": 1}}}),
    );
    global.seed(
        Kind::by_name("ServiceInsight").unwrap(),
        &json!({"type": "ServiceInsight", "mesh": "default", "name": "all-services-default",
            "services": {"web": {"status": "online", "dataplanes": {"total": 1, "online": 1}}}}),
    );
    for (kind, name) in [(Kind::ZONE_INGRESS, "in"), (Kind::ZONE_EGRESS, "out")] {
        global.seed(kind, &json!({"type": kind.name(), "name": name, "networking": {"port": 1}}));
    }
    global
}

/// The columns of the row that begins like this.
fn row(table: &str, start: &str) -> Vec<String> {
    let line = table.lines().find(|line| line.starts_with(start));
    let line = line.unwrap_or_else(|| panic!("{start}: {table}"));
    line.split("   ").map(str::trim).filter(|c| !c.is_empty()).map(str::to_owned).collect()
}

#[test]
fn tables() {
    let global = global();
    assert_eq!(row(&global.ok(&["inspect", "meshes"]), "default")[1..4], ["1/2", "0", "1"]);
    assert_eq!(row(&global.ok(&["inspect", "services"]), "web"), ["web", "Online", "1/1"]);
    assert_eq!(
        row(&global.ok(&["inspect", "zones"]), "east"),
        ["east", "Offline", "never", "never", "0", "0"]
    );
    for (words, name) in
        [(["zoneingresses", "zone-ingresses"], "in"), (["zoneegresses", "zone-egresses"], "out")]
    {
        for word in words {
            let table = global.ok(&["inspect", word]);
            assert_eq!(row(&table, name), [name, "Offline", "never", "never", "0", "0"]);
        }
    }
    let table = global.ok(&["inspect", "dataplanes"]);
    let web = row(&table, "default   web");
    assert_eq!(web[2..4], ["kuma.io/service=web", "Online"]);
    assert_eq!(web[5..8], ["never", "7", "0"]);
    assert_eq!(web[12..14], ["2.14.3", "1.38.2"]);
    assert_eq!(table.lines().count(), 3);
}

#[test]
fn filters_and_formats() {
    let global = global();
    let names = |options: &[&str]| -> Vec<String> {
        let arguments = [&["inspect", "dataplanes", "-o", "json"], options].concat();
        let list: Value = serde_json::from_str(&global.ok(&arguments)).unwrap();
        let items = list["items"].as_array().unwrap();
        items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&[]), ["gw", "web"]);
    assert_eq!(names(&["--ingress"]), ["gw", "web"]);
    assert_eq!(names(&["--gateway"]), ["gw"]);
    assert_eq!(names(&["--tag", "kuma.io/service=web"]), ["web"]);
    assert_eq!(names(&["--tag", "kuma.io/service=web", "--tag", "v=1"]), Vec::<String>::new());
    assert_eq!(global.run(&["inspect", "dataplanes", "-m", "absent"]).code, 4);
    let yaml = global.ok(&["inspect", "-o", "yaml", "zones"]);
    let yaml: Value = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(yaml["items"][0]["type"], "ZoneOverview");
}

#[test]
fn policies_and_proxies() {
    let global = global();
    assert_eq!(
        global.ok(&["inspect", "dataplane", "web"]),
        "DATAPLANE:\n  MeshCircuitBreaker\n    mesh-circuit-breaker-all-default\n  MeshRetry\n    \
         mesh-retry-all-default\n  MeshTimeout\n    mesh-timeout-all-default\n\n\
         OUTBOUND 127.0.0.1:90(api):\n  TrafficRoute\n    all\n\n"
    );
    assert_eq!(
        global.ok(&["inspect", "traffic-route", "all"]),
        "Affected data plane proxies:\n\n  web:\n    outbound 127.0.0.1:90(api)\n\n"
    );
    assert_eq!(global.ok(&["inspect", "meshgateway", "edge"]), "gw\n");
    let table = global.ok(&["inspect", "meshretry", "mesh-retry-all-default", "--new-api"]);
    assert_eq!(
        table,
        "Type        Mesh      Name\nDataplane   default   gw\nDataplane   default   web\n\nTotal: 2\n"
    );
    for arguments in [
        &["inspect", "dataplane", "absent"][..],
        &["inspect", "meshgateway", "absent"],
        &["inspect", "zoneegress", "absent"],
    ] {
        assert_eq!(global.run(arguments).code, 4, "{arguments:?}");
    }
}

#[test]
fn questions_to_proxies() {
    // Without a zone nobody can be asked, but the requests are the right ones.
    let api = crate::api::Api::start(|_| (200, "as it is".to_owned()));
    for (arguments, want) in [
        ("dataplane a --type config-dump", "GET /meshes/default/dataplanes/a/xds"),
        ("dataplane a --config-dump", "GET /meshes/default/dataplanes/a/xds"),
        (
            "dataplane a -m m --type config-dump --include-eds",
            "GET /meshes/m/dataplanes/a/xds?include_eds=true",
        ),
        ("dataplane a --type stats", "GET /meshes/default/dataplanes/a/stats"),
        ("dataplane a --type clusters", "GET /meshes/default/dataplanes/a/clusters"),
        ("dataplane a --type config", "GET /meshes/default/dataplanes/a/_config?shadow=false"),
        (
            "dataplane a --type config --shadow --include diff",
            "GET /meshes/default/dataplanes/a/_config?shadow=true&include=diff",
        ),
        ("zoneingress a", "GET /zoneingresses/a/xds"),
        ("zone-ingress a --type stats", "GET /zoneingresses/a/stats"),
        ("zoneegress a --include-eds", "GET /zoneegresses/a/xds?include_eds=true"),
        ("zoneegress a --type clusters", "GET /zoneegresses/a/clusters"),
    ] {
        let line: Vec<_> = ["inspect"].into_iter().chain(arguments.split(' ')).collect();
        let done = api.run(&line);
        assert_eq!((done.code, done.out.as_str()), (0, "as it is"), "{arguments}: {}", done.err);
        assert_eq!(api.lines().last().unwrap(), want);
    }
    let before = api.lines().len();
    for arguments in [
        "dataplane a --include-eds",
        "dataplane a --shadow",
        "dataplane a --type stats --include diff",
        "zoneegress a --type stats --include-eds",
    ] {
        let line: Vec<_> = ["inspect"].into_iter().chain(arguments.split(' ')).collect();
        assert_eq!(api.run(&line).code, 2, "{arguments}");
    }
    assert_eq!(api.lines().len(), before);
}
