//! REST success on the global -> first changed answer of each gateway.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
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
    /// Add a route, change it and remove it in turn, instead of changing one.
    #[arg(long)]
    cycle: bool,
    /// Other routes that the gateway has, on host names and to services of their own.
    #[arg(long, default_value_t = 0)]
    routes: usize,
    /// Host names of those.
    #[arg(long, default_value_t = 50)]
    hosts: usize,
    /// Services of those; none has an instance.
    #[arg(long, default_value_t = 500)]
    services: usize,
    /// Pause between two requests to one gateway, in microseconds.
    #[arg(long, default_value_t = 500)]
    pause_us: u64,
}

/// What is counted of a gateway.
#[derive(Default)]
struct Seen {
    errors: AtomicU64,
    requests: AtomicU64,
}

/// The revisions that may be seen while a change is under way: the one before it and its own.
struct Allowed(Mutex<(usize, usize)>);

impl Allowed {
    fn get(&self) -> (usize, usize) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next change.
    fn advance(&self, to: usize) {
        let mut allowed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *allowed = (allowed.1, to);
    }
}

/// The route that is always there, whatever is added before it.
const BASE: &str = "propagate";
/// The one that is added and removed.
const TOP: &str = "propagate-top";

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let mut rest = Connection::new(arguments.global.clone());
    fill(&mut rest, &arguments).await?;
    put(&mut rest, &arguments, BASE, 1).await?;

    let allowed = Arc::new(Allowed(Mutex::new((1, 1))));
    let mut watchers = Vec::new();
    for gateway in &arguments.gateways {
        let seen = Arc::new(Seen::default());
        let (tx, rx) = watch::channel((0usize, Instant::now()));
        tokio::spawn(poll(
            gateway.clone(),
            arguments.host.clone(),
            Duration::from_micros(arguments.pause_us),
            Arc::clone(&allowed),
            Arc::clone(&seen),
            tx,
        ));
        watchers.push((seen, rx));
    }
    for (_, rx) in &mut watchers {
        tokio::time::timeout(Duration::from_secs(120), rx.wait_for(|(r, _)| *r == 1))
            .await
            .context("the gateways do not serve the route")??;
    }
    for (seen, _) in &watchers {
        seen.errors.store(0, Ordering::Relaxed);
    }

    let mut each: Vec<Vec<Duration>> = vec![Vec::new(); watchers.len()];
    let mut last = Vec::new();
    for change in 0..arguments.changes {
        let removed = arguments.cycle && change % 3 == 2;
        let revision = if removed { 1 } else { change + 2 };
        allowed.advance(revision);
        if removed {
            rest.delete(&path(TOP)).await?;
        } else {
            let name = if arguments.cycle { TOP } else { BASE };
            put(&mut rest, &arguments, name, revision).await?;
        }
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

fn path(route: &str) -> String {
    format!("/meshes/default/meshgatewayroutes/{route}")
}

/// Writes the other routes.
async fn fill(rest: &mut Connection, arguments: &Arguments) -> Result<()> {
    let start = Instant::now();
    for index in 0..arguments.routes {
        let (host, service) = (index % arguments.hosts.max(1), index % arguments.services.max(1));
        let body = serde_json::json!({
            "type": "MeshGatewayRoute",
            "mesh": "default",
            "name": format!("filler-{index:05}"),
            "selectors": [{"match": {"kuma.io/service": arguments.gateway_service}}],
            "conf": {"http": {
                "hostnames": [format!("host-{host}.example.com")],
                "rules": [{
                    "matches": [{"path": {"match": "PREFIX", "value": format!("/path-{index}")}}],
                    "filters": [{"requestHeader": {"set": [{"name": "x-route", "value": "filler"}]}}],
                    "backends": [{
                        "weight": 1,
                        "destination": {"kuma.io/service": format!("filler-{service}")},
                    }],
                }],
            }},
        });
        rest.put(&path(&format!("filler-{index:05}")), &body.to_string()).await?;
    }
    if arguments.routes > 0 {
        println!("propagate: {} other routes written in {:.1?}", arguments.routes, start.elapsed());
    }
    Ok(())
}

async fn put(
    rest: &mut Connection,
    arguments: &Arguments,
    name: &str,
    revision: usize,
) -> Result<()> {
    let (kind, value) =
        if name == TOP { ("EXACT", "/propagate/probe") } else { ("PREFIX", "/propagate") };
    let body = serde_json::json!({
        "type": "MeshGatewayRoute",
        "mesh": "default",
        "name": name,
        "selectors": [{"match": {"kuma.io/service": arguments.gateway_service}}],
        "conf": {"http": {"rules": [{
            "matches": [{"path": {"match": kind, "value": value}}],
            "filters": [{"requestHeader": {"set": [{"name": "x-rev", "value": format!("rev-{revision}-")}]}}],
            "backends": [{"weight": 1, "destination": {"kuma.io/service": arguments.backend}}],
        }]}},
    });
    rest.put(&path(name), &body.to_string()).await?;
    Ok(())
}

async fn poll(
    gateway: String,
    host: String,
    pause: Duration,
    allowed: Arc<Allowed>,
    seen: Arc<Seen>,
    tx: watch::Sender<(usize, Instant)>,
) {
    let mut connection = Connection::new(gateway);
    let mut before = 0;
    loop {
        let result = connection.send("GET", "/propagate/probe", Some(&host), None).await;
        let now = Instant::now();
        seen.requests.fetch_add(1, Ordering::Relaxed);
        let revision = result.ok().filter(|a| a.status == 200).and_then(|a| revision(&a.body));
        match revision {
            Some(revision) => {
                // Never anything but the newest and the one before it, and never backwards.
                let (old, new) = allowed.get();
                let back = before == new && revision != new;
                if back || (revision != old && revision != new) {
                    seen.errors.fetch_add(1, Ordering::Relaxed);
                }
                if revision != before {
                    before = revision;
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
