//! Measurements: starts what one needs, with optimised programs, and runs `sunbear-bench`.

use std::process::Command;

use anyhow::{Result, bail};
use xtask::{
    envoy, interrupt, project,
    topology::{PROGRAMS, Settings, Topology, quickstart},
};

/// Runs the measurement `name`; what follows is passed on to `sunbear-bench`.
pub(crate) fn run(name: &str, further: &[String]) -> Result<()> {
    interrupt::watch()?;
    let target = project::target()?;
    let mut build = project::cargo()?;
    build.args(["build", "--release", "--quiet", "--workspace", "--bin", "sunbear-bench"]);
    if name != "generate" {
        build.args(PROGRAMS.iter().flat_map(|program| ["--bin", program]));
    }
    project::run(build)?;
    let programs = target.join("release");
    let mut bench = Command::new(programs.join("sunbear-bench"));
    bench.arg(name);
    match name {
        "kds" | "idle" | "rest" => {
            bench.arg("--global").arg(programs.join("sunbear-global")).args(further);
            project::run(bench)
        }
        "generate" => {
            bench.args(further);
            project::run(bench)
        }
        "propagate" => {
            let settings = Settings::new(programs, envoy::find_or_fetch()?, target.join("bench"));
            let gateway_port = settings.gateway_port;
            let mut topology = Topology::prepare(settings)?;
            topology.start()?;
            topology.apply(&topology.gateway_file()?)?;
            topology.apply(&quickstart("route.yaml")?)?;
            let plan = topology.plan();
            let gateways: Vec<String> =
                plan.zones.iter().map(|zone| format!("{}:{gateway_port}", zone.address)).collect();
            bench
                .args(["--global", &format!("127.0.0.1:{}", plan.global.http)])
                .args(["--gateways", &gateways.join(",")])
                .args(["--gateway-service", "edge-gateway"])
                .args(further);
            let result = project::run(bench);
            topology.stop();
            result
        }
        other => bail!("no measurement {other:?}: propagate, generate, kds, idle, rest"),
    }
}
