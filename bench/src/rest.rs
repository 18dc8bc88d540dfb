//! PUTs of routes, one after the other.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{http::Connection, process::ControlPlane, stats::Times};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Control plane to measure.
    #[arg(long, default_value = "target/release/sunbear-global")]
    global: PathBuf,
    /// Stores, one after the other: sqlite, memory, postgres (SUNBEAR_BENCH_POSTGRES says where).
    #[arg(long, value_delimiter = ',', default_value = "sqlite,postgres")]
    store: Vec<String>,
    /// Writes.
    #[arg(long, default_value_t = 1000)]
    routes: usize,
    /// First of the ports to use.
    #[arg(long, default_value_t = 25610)]
    port_base: u16,
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    for store in &arguments.store {
        let folder = tempfile::tempdir()?;
        let api = format!("127.0.0.1:{}", arguments.port_base);
        let environment = global_environment(store, arguments.port_base, folder.path())?;
        let _plane = ControlPlane::start(
            &arguments.global,
            &environment,
            &api,
            &folder.path().join("global.log"),
        )
        .await?;
        let mut rest = Connection::new(api);
        let mut times: Vec<Duration> = Vec::new();
        let begin = Instant::now();
        for i in 0..arguments.routes {
            let (path, body) = route(&format!("r-{i:05}"), i, 0);
            let start = Instant::now();
            rest.put(&path, &body).await?;
            times.push(start.elapsed());
        }
        let mean = begin.elapsed().as_secs_f64() * 1000.0 / arguments.routes as f64;
        println!(
            "rest store {store}: {} PUTs, mean {mean:.2} ms, {}",
            arguments.routes,
            Times::new(times)
        );
    }
    Ok(())
}

/// A route of a few hundred bytes, and where it is put. `revision` shows in a header.
pub(crate) fn route(name: &str, number: usize, revision: usize) -> (String, String) {
    let body = serde_json::json!({
        "type": "MeshGatewayRoute",
        "mesh": "default",
        "name": name,
        "selectors": [{"match": {"kuma.io/service": "edge"}}],
        "conf": {"http": {
            "hostnames": [format!("h-{}.example.com", number % 50)],
            "rules": [{
                "matches": [{"path": {"match": "PREFIX", "value": format!("/p-{number}")}}],
                "filters": [{"requestHeader": {"set": [{"name": "x-rev", "value": format!("rev-{revision}-")}]}}],
                "backends": [{"weight": 1, "destination": {"kuma.io/service": format!("svc-{}", number % 500)}}],
            }],
        }},
    });
    (format!("/meshes/default/meshgatewayroutes/{name}"), body.to_string())
}

/// Environment of a global on its own ports and folder.
pub(crate) fn global_environment(
    store: &str,
    port_base: u16,
    folder: &Path,
) -> Result<Vec<(String, String)>> {
    let mut environment = vec![
        ("KUMA_MODE".to_owned(), "global".to_owned()),
        ("KUMA_STORE_TYPE".to_owned(), store.to_owned()),
        ("KUMA_GENERAL_WORK_DIR".to_owned(), folder.display().to_string()),
        ("HOME".to_owned(), folder.display().to_string()),
        ("KUMA_API_SERVER_HTTP_PORT".to_owned(), port_base.to_string()),
        ("KUMA_API_SERVER_HTTPS_ENABLED".to_owned(), "false".to_owned()),
        ("KUMA_MULTIZONE_GLOBAL_KDS_GRPC_PORT".to_owned(), (port_base + 2).to_string()),
        ("KUMA_MULTIZONE_GLOBAL_KDS_TLS_ENABLED".to_owned(), "false".to_owned()),
        ("KUMA_DIAGNOSTICS_SERVER_PORT".to_owned(), (port_base + 3).to_string()),
        ("KUMA_INTER_CP_SERVER_PORT".to_owned(), (port_base + 4).to_string()),
    ];
    if store == "postgres" {
        let url = std::env::var("SUNBEAR_BENCH_POSTGRES")
            .context("SUNBEAR_BENCH_POSTGRES is not set: HOST:PORT:USER:PASSWORD:DATABASE")?;
        let names = ["HOST", "PORT", "USER", "PASSWORD", "DB_NAME"];
        for (name, value) in names.iter().zip(url.split(':')) {
            environment.push((format!("KUMA_STORE_POSTGRES_{name}"), value.to_owned()));
        }
    }
    Ok(environment)
}
