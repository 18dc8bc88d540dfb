//! Several replicas of one global, over one database.

use std::{fs, net::Ipv4Addr, path::Path, process::Command};

use serde_json::{Value, json};

use crate::{
    control_plane::{ControlPlane, Ports, free_ports, program},
    gateway::Gateway,
    postgres::Postgres,
};

fn replica(label: &str, folder: &Path, database: &Postgres) -> (ControlPlane, u16) {
    let ports = Ports::free();
    let [inter_cp] = free_ports();
    let mut command = Command::new(program("sunbear-global"));
    command
        .arg("run")
        .env("KUMA_MULTIZONE_GLOBAL_KDS_GRPC_PORT", ports.kds.to_string())
        .env("KUMA_INTER_CP_SERVER_PORT", inter_cp.to_string())
        .env("KUMA_STORE_TYPE", "postgres")
        .env("KUMA_STORE_POSTGRES_PORT", database.port.to_string())
        .env("KUMA_STORE_POSTGRES_USER", "sunbear")
        .env("KUMA_STORE_POSTGRES_PASSWORD", "right")
        .env("KUMA_STORE_POSTGRES_DB_NAME", "postgres");
    let mut replica = ControlPlane::start(label, folder, ports, command);
    replica.until_ready();
    (replica, inter_cp)
}

/// A zone is connected to one replica. The other passes on what is asked about the zone's proxies,
/// and says where to ask when that one is gone.
#[test]
fn any_replica_is_asked_about_the_proxies_of_every_zone() {
    let Some(database) = Postgres::start("right") else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (mut first, inter_cp) = replica("first", folder, &database);
    let (mut second, _) = replica("second", folder, &database);
    let (address, ca) = (first.kds_address(), first.certificate());
    let mut zone = ControlPlane::zone("east", "east", folder, Ports::free(), &address, &ca);
    zone.until_ready();
    let wish = json!({"name": "gw-1", "mesh": "default", "validFor": "24h"}).to_string();
    let (status, answer) = zone.send("POST", "/tokens/dataplane", &wish);
    assert_eq!(status, 200, "{answer}");
    let token = answer.split("\r\n\r\n").nth(1).unwrap().trim();
    let _gateway = Gateway::start(folder, &zone, "gw-1", Ipv4Addr::LOCALHOST, token);

    let mut proxy = String::new();
    second.until("proxy", |second| {
        let (_, list) = second.get("/meshes/default/dataplanes").unwrap();
        let list: Value = serde_json::from_str(&list).unwrap();
        let name = list["items"][0]["name"].as_str();
        proxy = format!("/meshes/default/dataplanes/{}", name.unwrap_or_default());
        name.is_some()
    });
    for (aspect, contained) in
        [("xds", "\"configs\""), ("stats", "server.live"), ("clusters", "ads_cluster")]
    {
        let path = format!("{proxy}/{aspect}");
        for cp in [&mut first, &mut second] {
            cp.until(&path, |cp| cp.get(&path).unwrap().0 == 200);
            let (_, answer) = cp.get(&path).unwrap();
            assert!(answer.contains(contained), "{path}: {answer}");
        }
    }

    // Who has no certificate of the installation is told nothing.
    let stranger = Command::new("curl")
        .args(["--insecure", "--silent", "--max-time", "5", "--http2"])
        .arg(format!("https://127.0.0.1:{inter_cp}/"))
        .output();
    if let Ok(stranger) = stranger {
        assert!(!stranger.status.success() && stranger.stdout.is_empty(), "{stranger:?}");
    }

    first.kill();
    let path = format!("{proxy}/xds");
    let (status, answer) = second.get(&path).unwrap();
    assert!(status == 400 && answer.contains("is connected to replica"), "{status} {answer}");
    assert!(second.log().contains("nothing can be passed on"), "{}", second.log());
    let log = fs::read_to_string(folder.join("second.log")).unwrap_or_default();
    assert!(!log.contains("panicked"), "{log}");
}
