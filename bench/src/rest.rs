//! Writes by several clients at once, then reads.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use sunbear_store::testing::TestPostgres;

use crate::{
    http::Connection,
    process::{self, ControlPlane},
    stats::Times,
};

/// What an idle process gives back to the system, it has given back by then.
const REST: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Control plane to measure.
    #[arg(long, default_value = "target/release/sunbear-global")]
    global: PathBuf,
    /// Stores, one after the other: sqlite, memory, postgres (a server of our own, or where
    /// SUNBEAR_BENCH_POSTGRES says).
    #[arg(long, value_delimiter = ',', default_value = "sqlite,postgres")]
    store: Vec<String>,
    /// Routes to write, each with one PUT.
    #[arg(long, default_value_t = 10_000)]
    routes: usize,
    /// Clients that write at the same time.
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// Routes of a page of the list.
    #[arg(long, default_value_t = 100)]
    page: usize,
    /// First of the ports to use.
    #[arg(long, default_value_t = 25610)]
    port_base: u16,
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    for store in &arguments.store {
        measure(&arguments, store).await?;
    }
    Ok(())
}

async fn measure(arguments: &Arguments, store: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let api = format!("127.0.0.1:{}", arguments.port_base);
    let mut server = None;
    let database = match (store, std::env::var("SUNBEAR_BENCH_POSTGRES")) {
        ("postgres", Err(_)) => {
            let started = TestPostgres::start().await.context("no Postgres to be found")?;
            let url = started.create_database().await?;
            server = Some(started);
            of_url(&url)?
        }
        (_, database) => database.unwrap_or_default(),
    };
    let environment = global_environment(store, &database, arguments.port_base, folder.path())?;
    let log = folder.path().join("global.log");
    let plane = ControlPlane::start(&arguments.global, &environment, &api, &log).await?;

    let next = Arc::new(AtomicUsize::new(0));
    let idle_cpu = process::cpu(plane.id())?;
    let begin = Instant::now();
    let clients: Vec<_> = (0..arguments.clients)
        .map(|_| tokio::spawn(write(api.clone(), Arc::clone(&next), arguments.routes)))
        .collect();
    let mut times = Vec::new();
    for client in clients {
        times.extend(client.await??);
    }
    let rate = arguments.routes as f64 / begin.elapsed().as_secs_f64();
    let prefix = format!("rest store {store}:");
    let cpu = process::cpu(plane.id())?.saturating_sub(idle_cpu);
    println!(
        "{prefix} {} PUTs by {} clients: {rate:.0}/s, {}, CPU of the global {:.2} ms each",
        arguments.routes,
        arguments.clients,
        Times::new(times),
        cpu.as_secs_f64() * 1000.0 / arguments.routes as f64,
    );
    let busy = process::resident_mb(plane.id())?;
    tokio::time::sleep(REST).await;
    let idle = process::resident_mb(plane.id())?;
    println!("{prefix} RSS {busy:.0} MB, after {} s at rest {idle:.0} MB", REST.as_secs());

    let mut rest = Connection::new(api);
    let (pages, listed, times) = list(&mut rest, arguments.page).await?;
    if listed != arguments.routes {
        bail!("{listed} routes listed of {}", arguments.routes);
    }
    println!("{prefix} list of {listed} in {pages} pages: a page {times}");
    let mut times = Vec::new();
    for i in 0..arguments.routes {
        let path = format!("/meshes/default/meshgatewayroutes/{}", name(i));
        let start = Instant::now();
        let answer = rest.send("GET", &path, None, None).await?;
        times.push(start.elapsed());
        if answer.status != 200 {
            bail!("GET {path}: {}", answer.status);
        }
    }
    println!("{prefix} get by name {}", Times::new(times));
    println!("{prefix} RSS after reads {:.0} MB", process::resident_mb(plane.id())?);
    drop(plane);
    drop(server);
    Ok(())
}

/// Puts routes until all are written; one client of several.
async fn write(api: String, next: Arc<AtomicUsize>, routes: usize) -> Result<Vec<Duration>> {
    let mut rest = Connection::new(api);
    let mut times = Vec::new();
    loop {
        let i = next.fetch_add(1, Ordering::Relaxed);
        if i >= routes {
            return Ok(times);
        }
        let (path, body) = route(&name(i), i, 0);
        let start = Instant::now();
        rest.put(&path, &body).await?;
        times.push(start.elapsed());
    }
}

/// Follows the list's pages; returns pages, items and the time of each page.
async fn list(rest: &mut Connection, page: usize) -> Result<(usize, usize, Times)> {
    let (mut items, mut times) = (0, Vec::new());
    let mut path = Some(format!("/meshes/default/meshgatewayroutes?size={page}"));
    while let Some(current) = path {
        let start = Instant::now();
        let answer = rest.send("GET", &current, None, None).await?;
        times.push(start.elapsed());
        let body: serde_json::Value = serde_json::from_slice(&answer.body)?;
        items += body["items"].as_array().context("no items")?.len();
        // `next` is a whole URL.
        path = match body["next"].as_str() {
            Some(url) => Some(url[url.find("/meshes").context("next page")?..].to_owned()),
            None => None,
        };
    }
    Ok((times.len(), items, Times::new(times)))
}

fn name(number: usize) -> String {
    format!("r-{number:05}")
}

/// `HOST:PORT:USER:PASSWORD:DATABASE` of `postgres://USER@HOST:PORT/DATABASE`.
fn of_url(url: &str) -> Result<String> {
    let parts = || {
        let (user, rest) = url.strip_prefix("postgres://")?.split_once('@')?;
        let (address, database) = rest.split_once('/')?;
        Some(format!("{address}:{user}::{database}"))
    };
    parts().with_context(|| format!("unexpected database address {url}"))
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
/// `database` is `HOST:PORT:USER:PASSWORD:DATABASE` for Postgres.
pub(crate) fn global_environment(
    store: &str,
    database: &str,
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
        let names = ["HOST", "PORT", "USER", "PASSWORD", "DB_NAME"];
        if database.split(':').count() != names.len() {
            bail!("SUNBEAR_BENCH_POSTGRES is not of the form HOST:PORT:USER:PASSWORD:DATABASE");
        }
        for (name, value) in names.iter().zip(database.split(':')) {
            environment.push((format!("KUMA_STORE_POSTGRES_{name}"), value.to_owned()));
        }
    }
    Ok(environment)
}
