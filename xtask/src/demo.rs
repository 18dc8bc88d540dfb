//! The demo: a route written on the global serves requests in two zones, and goes on serving them
//! when the control planes are gone.

use std::{
    env,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use xtask::{
    envoy, interrupt, project,
    topology::{PROGRAMS, Settings, Topology, quickstart},
    traffic::{Stream, Traffic},
    wait::{Look, until},
};

use crate::Demo;

/// The hostname of the quickstart's gateway.
const HOST: &str = "foo.example.com";

/// A change has to be seen in all zones by then. Generous: it is no measurement.
const CHANGE: Duration = Duration::from_secs(30);

/// A gateway has to serve again by then after its Envoy ended, without any control plane.
const RESTART: Duration = Duration::from_secs(10);

/// Requests to each zone after a fault.
const ANSWERS: u64 = 200;

pub(crate) fn run(arguments: Demo) -> Result<()> {
    interrupt::watch()?;
    let envoy = envoy::find_or_fetch()?;
    let target = project::target()?;
    let programs = match arguments.programs {
        Some(folder) => folder,
        None => build(&target, arguments.release)?,
    };
    let mut settings = Settings::new(programs, envoy, target.join("demo"));
    settings.port_base = arguments.port_base;
    settings.gateway_port = arguments.gateway_port;
    let mut topology = Topology::prepare(settings)?;
    let result = play(&mut topology, arguments.check);
    // Interrupted while starting is no failure of a program.
    let tails = (result.is_err() && !interrupt::requested()).then(|| topology.log_tails());
    let folder = topology.folder().to_owned();
    let stubborn = topology.stop();
    if let Some(tails) = tails {
        eprintln!("{tails}all of it: {}", shown(&folder.join("logs")));
    }
    result?;
    if !stubborn.is_empty() && !interrupt::insisted() {
        bail!("killed, because they did not stop: {}", stubborn.join(", "));
    }
    if arguments.check {
        say("everything stopped when asked to");
        println!("demo: all checks passed");
    } else {
        println!("stopped");
    }
    Ok(())
}

fn build(target: &Path, release: bool) -> Result<PathBuf> {
    eprintln!("building");
    let mut command = project::cargo()?;
    command.args(["build", "--quiet", "--workspace"]);
    command.args(PROGRAMS.iter().flat_map(|program| ["--bin", program]));
    if release {
        command.arg("--release");
    }
    project::run(command)?;
    Ok(target.join(if release { "release" } else { "debug" }))
}

fn play(topology: &mut Topology, check: bool) -> Result<()> {
    topology.start()?;
    topology.apply(&topology.gateway_file()?)?;
    topology.apply(&quickstart("route.yaml")?)?;
    introduce(topology);
    await_answers(topology, &written())?;
    for (zone, plan) in topology.plan().zones.iter().enumerate() {
        for expected in written() {
            let url = format!("http://{}{}", expected.host, expected.path);
            let answer = topology.ask(zone, expected.host, expected.path)?;
            let from = answer.header("x-echo").unwrap_or("the gateway itself");
            println!("    {:<6}  {url:<32}  {} from {from}", plan.name, answer.status);
        }
    }
    println!();
    if check { check_everything(topology) } else { wait_for_the_user(topology) }
}

/// What a request has to give: a service's answer, or the gateway's own 404.
#[derive(Debug, Clone, Copy)]
struct Expected {
    host: &'static str,
    path: &'static str,
    service: Option<&'static str>,
}

/// With `route.yaml`.
fn written() -> [Expected; 3] {
    routed("frontend", "api")
}

/// With `route-changed.yaml`.
fn changed() -> [Expected; 3] {
    routed("api", "frontend")
}

fn routed(root: &'static str, api: &'static str) -> [Expected; 3] {
    [
        Expected { host: HOST, path: "/api/foo", service: Some(api) },
        Expected { host: HOST, path: "/asset", service: Some(root) },
        Expected { host: "other.example.com", path: "/asset", service: None },
    ]
}

fn check_everything(topology: &mut Topology) -> Result<()> {
    let start = Instant::now();
    topology.apply(&quickstart("route-changed.yaml")?)?;
    await_answers(topology, &changed())?;
    say(&format!("the route changed on the global: both zones changed{}", after(start)));

    let traffic = traffic(topology);
    topology.kill_global();
    let answers = survived(topology, traffic).context("after the global was killed")?;
    say(&format!("the global killed: {answers} requests, all answered"));

    let traffic = self::traffic(topology);
    topology.kill_control_plane(0);
    let answers = survived(topology, traffic).context("after a zone's control plane was killed")?;
    let east = topology.plan().zones[0].name.clone();
    say(&format!("the control plane of {east} killed: {answers} requests, all answered"));

    let start = Instant::now();
    topology.kill_envoy(0)?;
    await_zone(topology, 0, &changed(), RESTART).context("after Envoy was killed")?;
    say(&format!("Envoy in {east} killed: another one serves{}", after(start)));

    let start = Instant::now();
    topology.kill_gateway(0);
    topology.start_gateway(0)?;
    await_zone(topology, 0, &changed(), RESTART).context("after sunbear-dp was killed")?;
    say(&format!("sunbear-dp in {east} killed and started: it serves{}", after(start)));

    topology.start_global()?;
    topology.start_control_plane(0)?;
    topology.await_global()?;
    topology.await_control_plane(0)?;
    let start = Instant::now();
    topology.apply(&quickstart("route.yaml")?)?;
    await_answers(topology, &written()).context("after the control planes came back")?;
    say(&format!("both back, the route changed back: both zones changed{}", after(start)));
    Ok(())
}

/// Requests at every zone, to go on during a fault.
fn traffic(topology: &Topology) -> Traffic {
    let streams = topology.plan().zones.iter().flat_map(|zone| {
        changed().into_iter().filter_map(|expected| {
            Some(Stream {
                name: format!("{} {}", zone.name, expected.path),
                address: zone.gateway,
                host: expected.host.to_owned(),
                path: expected.path.to_owned(),
                from: format!("{}/{}", expected.service?, zone.name),
            })
        })
    });
    Traffic::start(streams.collect())
}

fn survived(topology: &mut Topology, traffic: Traffic) -> Result<u64> {
    traffic.await_answers(ANSWERS, CHANGE)?;
    topology.check_alive()?;
    traffic.finish()
}

fn await_answers(topology: &mut Topology, expected: &[Expected]) -> Result<()> {
    for zone in 0..topology.plan().zones.len() {
        await_zone(topology, zone, expected, CHANGE)?;
    }
    Ok(())
}

fn await_zone(
    topology: &mut Topology,
    zone: usize,
    expected: &[Expected],
    patience: Duration,
) -> Result<()> {
    let name = topology.plan().zones[zone].name.clone();
    until(&format!("the answers of {name}"), patience, || {
        topology.check_alive()?;
        let wrong = expected.iter().find_map(|e| judge(topology, zone, &name, e).err());
        Ok(match wrong {
            None => Look::Done(()),
            Some(error) => Look::NotYet(format!("{error:#}")),
        })
    })
}

fn judge(topology: &Topology, zone: usize, name: &str, expected: &Expected) -> Result<()> {
    let answer = topology.ask(zone, expected.host, expected.path)?;
    let status = if expected.service.is_some() { 200 } else { 404 };
    let from = expected.service.map(|service| format!("{service}/{name}"));
    if answer.status != status || answer.header("x-echo") != from.as_deref() {
        bail!(
            "{}{} gave {} from {}",
            expected.host,
            expected.path,
            answer.status,
            answer.header("x-echo").unwrap_or("the gateway itself")
        );
    }
    Ok(())
}

fn introduce(topology: &Topology) {
    let plan = topology.plan();
    println!();
    println!("  global        API http://127.0.0.1:{}", plan.global.http);
    for zone in &plan.zones {
        println!(
            "  zone {:<8} API http://127.0.0.1:{}, gateway http://{}",
            zone.name, zone.http, zone.gateway
        );
        for (service, address) in &zone.services {
            println!("                {service} at {address}");
        }
    }
    println!();
    println!("  Applied on the global only: the MeshGateway and the MeshGatewayRoute of");
    println!("  docs/quickstart. Asked for {HOST}, the gateways of the zones answer:");
    println!();
}

fn wait_for_the_user(topology: &mut Topology) -> Result<()> {
    let plan = topology.plan();
    println!("  Change the route on the global, in another terminal:");
    println!();
    println!(
        "    {} apply --address http://127.0.0.1:{} -f {}",
        shown(&topology.program_path("sunbearctl")),
        plan.global.http,
        shown(&quickstart("route-changed.yaml")?)
    );
    println!();
    let back = shown(&quickstart("route.yaml")?);
    println!("  and ask both zones again (`-f {back}` is the way back):");
    println!();
    for zone in &plan.zones {
        println!("    curl -i -H 'Host: {HOST}' http://{}/asset", zone.gateway);
    }
    println!();
    println!("  Logs: {}", shown(&topology.folder().join("logs")));
    println!("  Ctrl-C stops everything.");
    while !interrupt::requested() {
        // Killing a part is what a user may well try here, so it is told and no error.
        for name in topology.reap()? {
            println!("  {name} ended");
        }
        thread::sleep(Duration::from_millis(100));
    }
    println!();
    Ok(())
}

fn say(what: &str) {
    println!("ok  {what}");
}

fn after(start: Instant) -> String {
    format!(" after {} ms", start.elapsed().as_millis())
}

/// Relative to the current folder where that is shorter.
fn shown(path: &Path) -> String {
    let here = env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}
