//! What an idle global costs: CPU, memory, pushes, writes.

use std::{path::PathBuf, sync::atomic::Ordering, time::Duration};

use anyhow::Result;

use crate::{http::Connection, kds, process};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Control plane to measure.
    #[arg(long, default_value = "target/release/sunbear-global")]
    global: PathBuf,
    /// Store: sqlite, memory or postgres.
    #[arg(long, default_value = "sqlite")]
    store: String,
    /// Bare zones.
    #[arg(long, default_value_t = 50)]
    zones: usize,
    /// Routes present.
    #[arg(long, default_value_t = 1000)]
    routes: usize,
    /// Seconds of idling.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// First of the ports to use.
    #[arg(long, default_value_t = 25620)]
    port_base: u16,
    /// Measure this running process alone instead of starting a global.
    #[arg(long)]
    pid: Option<u32>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    if let Some(pid) = arguments.pid {
        let before = process::cpu(pid)?;
        tokio::time::sleep(Duration::from_secs(arguments.seconds)).await;
        let used = process::cpu(pid)?.saturating_sub(before);
        println!(
            "idle process {pid} for {} s: CPU {:.2} % of a core, RSS {:.1} MB",
            arguments.seconds,
            used.as_secs_f64() * 100.0 / arguments.seconds as f64,
            process::resident_mb(pid)?,
        );
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let (plane, mut rest, kds) = kds::global_with_routes(
        &arguments.global,
        &arguments.store,
        arguments.port_base,
        arguments.routes,
        folder.path(),
    )
    .await?;
    let (clients, _) = kds::connect_all(&kds, arguments.zones).await?;
    // Connections are entered in insights soon after; idling begins after that.
    tokio::time::sleep(Duration::from_secs(25)).await;
    let revision = newest(&mut rest).await?;
    let pushes: u64 = clients.iter().map(|c| c.responses.load(Ordering::Relaxed)).sum();
    let before = process::cpu(plane.id())?;
    tokio::time::sleep(Duration::from_secs(arguments.seconds)).await;
    let used = process::cpu(plane.id())?.saturating_sub(before);
    let resident = process::resident_mb(plane.id())?;
    let pushed: u64 = clients.iter().map(|c| c.responses.load(Ordering::Relaxed)).sum();
    let written = newest(&mut rest).await? - revision - 1;
    println!(
        "idle global store {} zones {} routes {} for {} s: CPU {:.2} % of a core, RSS {:.1} MB, writes {written}, pushes {}",
        arguments.store,
        arguments.zones,
        arguments.routes,
        arguments.seconds,
        used.as_secs_f64() * 100.0 / arguments.seconds as f64,
        resident,
        pushed - pushes,
    );
    Ok(())
}

/// The store's revision, learned by one write of our own, of an object that is never synced.
async fn newest(rest: &mut Connection) -> Result<i64> {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(1);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let body = serde_json::json!({"type": "Zone", "name": "probe", "labels": {"n": n.to_string()}});
    let answer = rest.put("/zones/probe", &body.to_string()).await?;
    Ok(answer.headers.get("x-sunbear-revision").and_then(|r| r.parse().ok()).unwrap_or(0))
}
