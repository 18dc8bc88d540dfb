//! What users see of a global and its zones.

use std::{fs, process::Command};

use crate::control_plane::{ControlPlane, Ports, program};

const ROUTE: &str = r#"{"type":"MeshGatewayRoute","mesh":"default","name":"r",
"selectors":[{"match":{"kuma.io/service":"edge"}}],
"conf":{"http":{"rules":[{"matches":[{"path":{"match":"PREFIX","value":"/"}}],
"backends":[{"weight":1,"destination":{"kuma.io/service":"api"}}]}]}}}"#;

fn routes(cp: &ControlPlane) -> usize {
    let Some((200, body)) = cp.get("/meshes/default/meshgatewayroutes") else { return 0 };
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    usize::try_from(body["total"].as_u64().unwrap()).unwrap()
}

#[test]
fn policies_written_on_the_global_reach_a_zone_and_survive_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let (global_ports, zone_ports) = (Ports::free(), Ports::free());
    let mut global = ControlPlane::global(folder.path(), global_ports);
    global.until_ready();
    let start_zone = |address: &str, ca: &std::path::Path| {
        ControlPlane::zone("east", "east", folder.path(), zone_ports, address, ca)
    };
    let (address, ca) = (global.kds_address(), global.certificate());
    let mut zone = start_zone(&address, &ca);
    zone.until_ready();

    let path = "/meshes/default/meshgatewayroutes/r";
    let (status, answer) = zone.send("PUT", path, ROUTE);
    assert_eq!(status, 405, "{answer}");
    assert!(answer.contains("On zone control plane you can only modify zone resources"));
    assert_eq!(routes(&zone), 0);
    assert_eq!(global.send("PUT", path, ROUTE).0, 201);
    zone.until("route", |z| routes(z) == 1);

    // The global goes; the zone keeps and serves what it has, also over its own restart.
    global.kill();
    zone.kill();
    let mut zone = start_zone(&address, &ca);
    zone.until("what it had", |z| routes(z) == 1);
    let mut global = ControlPlane::global(folder.path(), global_ports);
    global.until_ready();
    zone.until_ready();
    assert_eq!(routes(&global), 1);
    assert_eq!(global.send("DELETE", path, "").0, 200);
    zone.until("deletion", |z| routes(z) == 0);
}

#[test]
fn two_zones_with_one_name_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut global = ControlPlane::global(folder.path(), Ports::free());
    global.until_ready();
    let zone = |label: &str| {
        ControlPlane::zone(
            label,
            "east",
            folder.path(),
            Ports::free(),
            &global.kds_address(),
            &global.certificate(),
        )
    };
    let mut first = zone("first");
    first.until_ready();
    let mut second = zone("second");
    second.until("word of the other one", |z| z.log().contains("two control planes use zone name"));
    assert!(first.is_running() && second.is_running());
}

#[test]
fn a_zone_goes_over_to_another_installation_when_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let (global_ports, zone_ports) = (Ports::free(), Ports::free());
    let mut global = ControlPlane::global(folder.path(), global_ports);
    global.until_ready();
    let start_zone = |address: &str, ca: &std::path::Path| {
        ControlPlane::zone("east", "east", folder.path(), zone_ports, address, ca)
    };
    let (address, ca) = (global.kds_address(), global.certificate());
    let mut zone = start_zone(&address, &ca);
    zone.until_ready();
    assert_eq!(global.send("PUT", "/meshes/default/meshgatewayroutes/r", ROUTE).0, 201);
    zone.until("route", |z| routes(z) == 1);

    // At the same place, with the same certificate, but without the database.
    global.kill();
    for entry in fs::read_dir(&global.folder).unwrap() {
        let path = entry.unwrap().path();
        if !path.to_str().unwrap().contains("kuma-cp.") {
            fs::remove_file(path).unwrap();
        }
    }
    let mut global = ControlPlane::global(folder.path(), global_ports);
    global.until_ready();
    let words = ["the global is of another installation", "accept-global"];
    zone.until("word of it", |z| {
        z.log().lines().any(|line| words.iter().all(|word| line.contains(word)))
    });
    assert_eq!(routes(&zone), 1);
    zone.kill();
    let accepted = Command::new(program("sunbear-zone"))
        .arg("accept-global")
        .env("KUMA_GENERAL_WORK_DIR", &zone.folder)
        .env("KUMA_MULTIZONE_ZONE_NAME", "east")
        .output()
        .unwrap();
    assert!(accepted.status.success(), "{}", String::from_utf8_lossy(&accepted.stderr));
    let mut zone = start_zone(&address, &ca);
    zone.until_ready();
    zone.until("the other global's state", |z| routes(z) == 0);
}
