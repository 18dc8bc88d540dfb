//! REST success on the global -> every bare zone has the change.

use std::{
    path::PathBuf,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tonic::transport::Endpoint;

use crate::{
    http::Connection,
    process::ControlPlane,
    rest::{global_environment, route},
    stats::Times,
    zone_client::{self, BareZone},
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Control plane to measure.
    #[arg(long, default_value = "target/release/sunbear-global")]
    pub(crate) global: PathBuf,
    /// Store: sqlite, memory, or a postgres:// address in SUNBEAR_BENCH_POSTGRES for postgres.
    #[arg(long, default_value = "sqlite")]
    pub(crate) store: String,
    /// Zones, several counts one after the other.
    #[arg(long, value_delimiter = ',', default_value = "10,50")]
    zones: Vec<usize>,
    /// Routes present, several counts one after the other.
    #[arg(long, value_delimiter = ',', default_value = "200,1000,5000")]
    routes: Vec<usize>,
    /// Changes measured.
    #[arg(long, default_value_t = 200)]
    changes: usize,
    /// First of the ports to use.
    #[arg(long, default_value_t = 25600)]
    port_base: u16,
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    for &zones in &arguments.zones {
        for &routes in &arguments.routes {
            measure(&arguments, zones, routes).await?;
        }
    }
    Ok(())
}

/// Starts a global with routes.
pub(crate) async fn global_with_routes(
    program: &std::path::Path,
    store: &str,
    port_base: u16,
    routes: usize,
    folder: &std::path::Path,
) -> Result<(ControlPlane, Connection, String)> {
    let api = format!("127.0.0.1:{port_base}");
    let kds = format!("http://127.0.0.1:{}", port_base + 2);
    let database = std::env::var("SUNBEAR_BENCH_POSTGRES").unwrap_or_default();
    let environment = global_environment(store, &database, port_base, folder)?;
    let plane =
        ControlPlane::start(program, &environment, &api, &folder.join("global.log")).await?;
    let mut rest = Connection::new(api);
    for i in 0..routes {
        let (path, body) = route(&format!("r-{i:05}"), i, 0);
        rest.put(&path, &body).await?;
    }
    Ok((plane, rest, kds))
}

/// Connects bare zones, each on a connection of its own.
pub(crate) async fn connect_all(kds: &str, zones: usize) -> Result<(Vec<BareZone>, Duration)> {
    let begin = Instant::now();
    let mut clients = Vec::new();
    for i in 0..zones {
        let channel = Endpoint::from_shared(kds.to_owned())?
            .tcp_nodelay(true)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20)
            .connect()
            .await?;
        clients.push(zone_client::connect(channel, format!("bench-{i}"), "mark-").await?);
    }
    let mut last = begin;
    for client in &mut clients {
        let synced =
            tokio::time::timeout(Duration::from_secs(60), client.synced.wait_for(Option::is_some))
                .await
                .context("initial sync")??;
        last = last.max(synced.unwrap_or(begin));
    }
    Ok((clients, last - begin))
}

async fn measure(arguments: &Arguments, zones: usize, routes: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (_plane, mut rest, kds) = global_with_routes(
        &arguments.global,
        &arguments.store,
        arguments.port_base,
        routes,
        folder.path(),
    )
    .await?;
    let (mut clients, initial) = connect_all(&kds, zones).await?;
    let bytes: u64 = clients.iter().map(|c| c.bytes.load(Ordering::Relaxed)).sum();
    let initial_bytes = bytes / zones as u64;

    let (mut each, mut last) = (Vec::new(), Vec::new());
    let before: u64 = clients.iter().map(|c| c.bytes.load(Ordering::Relaxed)).sum();
    for change in 0..arguments.changes {
        let (path, body) = route("mark-route", 0, change + 1);
        for client in &mut clients {
            client.marked.mark_unchanged();
        }
        rest.put(&path, &body).await?;
        let done = Instant::now();
        let mut slowest = Duration::ZERO;
        for client in &mut clients {
            let seen = tokio::time::timeout(
                Duration::from_secs(10),
                client.marked.wait_for(|m| {
                    m.as_ref()
                        .is_some_and(|(spec, _)| contains(spec, &format!("rev-{}-", change + 1)))
                }),
            )
            .await;
            let Ok(seen) = seen else { bail!("a zone did not get change {change}") };
            let at = seen?.as_ref().map_or(done, |(_, at)| *at);
            // A zone may have it before the writer has its answer.
            let took = at.saturating_duration_since(done);
            each.push(took);
            slowest = slowest.max(took);
        }
        last.push(slowest);
    }
    let after: u64 = clients.iter().map(|c| c.bytes.load(Ordering::Relaxed)).sum();
    println!(
        "kds store {} zones {zones} routes {routes}: each zone {}; last zone {}; initial sync {:.3} s, {} bytes a zone ({:.0} a route); {:.0} bytes a change and zone",
        arguments.store,
        Times::new(each),
        Times::new(last),
        initial.as_secs_f64(),
        initial_bytes,
        initial_bytes as f64 / routes.max(1) as f64,
        (after - before) as f64 / (zones * arguments.changes) as f64,
    );
    Ok(())
}

fn contains(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle.as_bytes())
}
