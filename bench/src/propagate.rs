//! REST success on the global -> first changed answer of each gateway.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tokio::sync::watch;

use crate::{http::Connection, stats::Times};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// REST of the global, HOST:PORT.
    #[arg(long)]
    global: String,
    /// Gateways, HOST:PORT each.
    #[arg(long, value_delimiter = ',', required = true)]
    gateways: Vec<String>,
    /// Host header.
    #[arg(long, default_value = "foo.example.com")]
    host: String,
    /// Service tag of the gateway.
    #[arg(long, default_value = "edge")]
    gateway_service: String,
    /// Service behind the route; it answers with the headers that it got, as JSON.
    #[arg(long, default_value = "api")]
    backend: String,
    /// Changes, one after the other.
    #[arg(long, default_value_t = 200)]
    changes: usize,
    /// Pause between two requests to one gateway, in microseconds.
    #[arg(long, default_value_t = 500)]
    pause_us: u64,
}

/// Revision that a gateway shows, or 0.
struct Seen {
    revision: AtomicUsize,
    errors: AtomicU64,
    requests: AtomicU64,
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let mut rest = Connection::new(arguments.global.clone());
    put(&mut rest, &arguments, 1).await?;

    let wanted = Arc::new(AtomicUsize::new(1));
    let mut watchers = Vec::new();
    for gateway in &arguments.gateways {
        let seen = Arc::new(Seen {
            revision: AtomicUsize::new(0),
            errors: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        });
        let (tx, rx) = watch::channel((0usize, Instant::now()));
        tokio::spawn(poll(
            gateway.clone(),
            arguments.host.clone(),
            Duration::from_micros(arguments.pause_us),
            Arc::clone(&wanted),
            Arc::clone(&seen),
            tx,
        ));
        watchers.push((seen, rx));
    }
    for (_, rx) in &mut watchers {
        tokio::time::timeout(Duration::from_secs(60), rx.wait_for(|(r, _)| *r == 1))
            .await
            .context("the gateways do not serve the route")??;
    }
    for (seen, _) in &watchers {
        seen.errors.store(0, Ordering::Relaxed);
    }

    let mut each: Vec<Vec<Duration>> = vec![Vec::new(); watchers.len()];
    let mut last = Vec::new();
    for change in 0..arguments.changes {
        let revision = change + 2;
        wanted.store(revision, Ordering::Relaxed);
        put(&mut rest, &arguments, revision).await?;
        let done = Instant::now();
        let mut slowest = Duration::ZERO;
        for (i, (_, rx)) in watchers.iter_mut().enumerate() {
            let found =
                tokio::time::timeout(Duration::from_secs(10), rx.wait_for(|(r, _)| *r == revision))
                    .await;
            let Ok(found) = found else { bail!("change {change} did not arrive") };
            let took = found?.1.saturating_duration_since(done);
            each[i].push(took);
            slowest = slowest.max(took);
        }
        last.push(slowest);
    }
    let errors: u64 = watchers.iter().map(|(s, _)| s.errors.load(Ordering::Relaxed)).sum();
    let requests: u64 = watchers.iter().map(|(s, _)| s.requests.load(Ordering::Relaxed)).sum();
    for (gateway, times) in arguments.gateways.iter().zip(each) {
        println!("propagate gateway {gateway}: {}", Times::new(times));
    }
    println!("propagate last gateway: {}; {requests} requests, {errors} errors", Times::new(last));
    Ok(())
}

async fn put(rest: &mut Connection, arguments: &Arguments, revision: usize) -> Result<()> {
    let body = serde_json::json!({
        "type": "MeshGatewayRoute",
        "mesh": "default",
        "name": "propagate",
        "selectors": [{"match": {"kuma.io/service": arguments.gateway_service}}],
        "conf": {"http": {"rules": [{
            "matches": [{"path": {"match": "PREFIX", "value": "/propagate"}}],
            "filters": [{"requestHeader": {"set": [{"name": "x-rev", "value": format!("rev-{revision}-")}]}}],
            "backends": [{"weight": 1, "destination": {"kuma.io/service": arguments.backend}}],
        }]}},
    });
    rest.put("/meshes/default/meshgatewayroutes/propagate", &body.to_string()).await?;
    Ok(())
}

async fn poll(
    gateway: String,
    host: String,
    pause: Duration,
    wanted: Arc<AtomicUsize>,
    seen: Arc<Seen>,
    tx: watch::Sender<(usize, Instant)>,
) {
    let mut connection = Connection::new(gateway);
    loop {
        let result = connection.send("GET", "/propagate", Some(&host), None).await;
        let now = Instant::now();
        seen.requests.fetch_add(1, Ordering::Relaxed);
        let revision = result.ok().filter(|a| a.status == 200).and_then(|a| revision(&a.body));
        match revision {
            Some(revision) => {
                let before = seen.revision.swap(revision, Ordering::Relaxed);
                // Only the newest and the one before it may be served, and never backwards.
                if revision < before || revision > wanted.load(Ordering::Relaxed) {
                    seen.errors.fetch_add(1, Ordering::Relaxed);
                }
                if revision != before {
                    tx.send_replace((revision, now));
                }
            }
            None => {
                seen.errors.fetch_add(1, Ordering::Relaxed);
            }
        }
        tokio::time::sleep(pause).await;
        if tx.is_closed() {
            return;
        }
    }
}

/// The revision in the echoed header.
fn revision(body: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(body).ok()?;
    let start = text.find("rev-")? + 4;
    text[start..].split('-').next()?.parse().ok()
}
