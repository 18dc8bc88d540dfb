//! The smoke test of docker-compose.yml: it comes up, both gateways answer, a change on the global
//! reaches both, a replica of the global can go, and nothing is left behind.

use std::{
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::symlink,
    path::PathBuf,
    process::{self, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use xtask::{
    document,
    engine::{self, Engine},
    http, interrupt, project,
    topology::quickstart,
    wait::{Look, until},
};

use crate::{Compose, images};

/// The hostname of the quickstart's gateway.
const HOST: &str = "foo.example.com";

/// A change has to be seen in all zones by then. Generous: it is no measurement.
const CHANGE: Duration = Duration::from_secs(60);

/// The zones and the services that they have.
const ZONES: [&str; 2] = ["east", "west"];

/// Lines of each container's log that a failure shows.
const TAIL: &str = "--tail=15";

pub(crate) fn run(arguments: &Compose) -> Result<()> {
    if !arguments.check {
        bail!("nothing to do: `cargo xtask compose --check`, or docker-compose itself");
    }
    interrupt::watch()?;
    let tag = match &arguments.with {
        Some(tag) => tag.clone(),
        None => {
            let images = images::Images { tag: "check".to_owned(), ..arguments.images.clone() };
            images::run(&images)?;
            images.tag
        }
    };
    let mut stack = Stack::new(Engine::find_or_start()?, &tag)?;
    let result = play(&mut stack);
    if result.is_err() && !interrupt::requested() {
        stack.show_what_is_wrong();
    }
    let removed = stack.remove();
    result?;
    removed?;
    println!("compose: all checks passed");
    Ok(())
}

fn play(stack: &mut Stack) -> Result<()> {
    let start = Instant::now();
    stack.up()?;
    say(&format!("up after {} s", start.elapsed().as_secs()));
    stack.await_answers("frontend")?;
    say(&format!("both gateways answer after {} s", start.elapsed().as_secs()));
    print!("{}", stack.memory()?);

    let start = Instant::now();
    stack.apply("route-changed.yaml")?;
    stack.await_answers("api")?;
    say(&format!(
        "a route changed on the global: both zones changed after {} ms, starting sunbearctl included",
        start.elapsed().as_millis()
    ));

    stack.ask_replicas()?;
    say("each replica of the global answers for the gateways of both zones");

    stack.kill("global-1")?;
    stack.apply("route.yaml").context("with one replica of the global")?;
    stack.await_answers("frontend").context("with one replica of the global")?;
    say("a replica of the global killed: the next change reached both zones");

    stack.run_readme()?;
    stack.await_answers("api").context("after the README's commands")?;
    say("the commands of README.md work");
    stack.run_deploy_md()?;
    stack.await_answers("frontend").context("after the commands of docs/deploy.md")?;
    say(
        "the commands of docs/deploy.md work: a certificate authority of one's own, backup, restore",
    );

    stack.published_only(&["balancer", "gateway-east", "gateway-west"])?;
    say("nothing but the global's API and the gateways is published");
    Ok(())
}

/// The containers of one project, with names, ports and networks of its own.
struct Stack {
    engine: Engine,
    project: String,
    environment: Vec<(&'static str, String)>,
    /// For files that commands make; removed in the end.
    scratch: PathBuf,
    gateways: [u16; 2],
}

impl Stack {
    fn new(engine: Engine, tag: &str) -> Result<Self> {
        let [api, east, west] = engine::free_ports()?;
        let [east_net, west_net] = engine.free_networks()?;
        let environment = vec![
            ("SUNBEAR_TAG", tag.to_owned()),
            ("SUNBEAR_API_PORT", api.to_string()),
            ("SUNBEAR_EAST_PORT", east.to_string()),
            ("SUNBEAR_WEST_PORT", west.to_string()),
            ("SUNBEAR_EAST_NET", east_net),
            ("SUNBEAR_WEST_NET", west_net),
        ];
        let project = format!("sunbear-check-{}", process::id());
        let scratch = project::target()?.join(&project);
        fs::create_dir_all(&scratch)?;
        Ok(Self { engine, project, environment, scratch, gateways: [east, west] })
    }

    fn compose(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.engine.compose(&["--project-name", &self.project])?;
        command.args(arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    fn up(&self) -> Result<()> {
        project::run(self.compose(&["up", "-d"])?)
    }

    /// Applies a file of the quickstart on the global, as the README says it.
    fn apply(&self, file: &str) -> Result<()> {
        let mut command = self.compose(&["run", "--rm", "-T", "ctl", "apply", "-f", "-"])?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run Compose")?;
        let mut input = child.stdin.take().context("Compose takes no input")?;
        input.write_all(&fs::read(quickstart(file)?)?)?;
        drop(input);
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("applying {file}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Runs what the README says after the first line, which is what we have done.
    fn run_readme(&self) -> Result<()> {
        let readme = fs::read_to_string(project::root()?.join("README.md"))?;
        let lines = document::indented(&readme, "Containers");
        let [first, rest @ ..] = &lines[..] else { bail!("README.md has no commands here") };
        if first != "cargo xtask images && docker-compose up -d" || rest.is_empty() {
            bail!("README.md does not begin with what we did, but with {first:?}");
        }
        rest.iter().try_for_each(|line| self.run_shell("README.md", line))
    }

    /// Runs the blocks of the part on Compose.
    fn run_deploy_md(&self) -> Result<()> {
        let document = fs::read_to_string(project::root()?.join("docs/deploy.md"))?;
        for block in document::fenced(&document) {
            if block.info == "sh compose" {
                let place = format!("docs/deploy.md:{}", block.line);
                self.run_shell(&place, &block.text)?;
            }
        }
        Ok(())
    }

    /// Runs commands in a scratch folder that has `docs` in it, with this project's name.
    fn run_shell(&self, place: &str, text: &str) -> Result<()> {
        let [east, west] = self.gateways;
        let text = text
            .replace("127.0.0.1:8080", &format!("127.0.0.1:{east}"))
            .replace("127.0.0.1:8081", &format!("127.0.0.1:{west}"))
            // An answer that is no success is no success of the command.
            .replace("curl -i ", "curl -i --fail --silent --show-error ");
        let root = project::root()?;
        let docs = self.scratch.join("docs");
        if !docs.exists() {
            symlink(root.join("docs"), docs)?;
        }
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c"]).arg(text).current_dir(&self.scratch);
        command.env("PATH", self.engine.path_with_compose(&self.scratch)?);
        command.env("COMPOSE_FILE", root.join("docker-compose.yml"));
        command.env("COMPOSE_PROJECT_NAME", &self.project);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        engine::output(command).map(drop).with_context(|| place.to_owned())
    }

    /// Asks each replica about each gateway: a zone is connected to one of them.
    fn ask_replicas(&self) -> Result<()> {
        for replica in ["global-1", "global-2"] {
            let address = format!("SUNBEAR_ADDRESS=https://{replica}:5682");
            let ctl = |arguments: &[&str]| {
                let run = ["run", "--rm", "-T", "-e", &address, "ctl"];
                engine::output(self.compose(&[&run, arguments].concat())?)
            };
            let list: Value = serde_json::from_str(&ctl(&["get", "dataplanes", "-ojson"])?)?;
            let proxies = list["items"].as_array().context("no list of Dataplanes")?;
            let gateways: Vec<&str> = proxies
                .iter()
                .filter(|proxy| proxy["networking"].get("gateway").is_some())
                .filter_map(|proxy| proxy["name"].as_str())
                .collect();
            ensure!(gateways.len() == ZONES.len(), "gateways: {gateways:?}");
            for gateway in gateways {
                let clusters = ctl(&["inspect", "dataplane", gateway, "--type=clusters"])
                    .with_context(|| format!("asking {replica} about {gateway}"))?;
                ensure!(clusters.contains("ads_cluster"), "{replica} about {gateway}: {clusters}");
            }
        }
        Ok(())
    }

    fn kill(&self, service: &str) -> Result<()> {
        engine::output(self.compose(&["kill", service])?).map(drop)
    }

    /// Waits until the gateways of both zones answer from that service.
    fn await_answers(&self, service: &str) -> Result<()> {
        for (zone, port) in ZONES.iter().zip(self.gateways) {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let expected = format!("{service}/{zone}");
            until(&format!("the gateway of {zone}"), CHANGE, || {
                Ok(match http::get(address, HOST, "/asset") {
                    Ok(answer) if answer.header("x-echo") == Some(&expected) => Look::Done(()),
                    Ok(answer) => Look::NotYet(format!(
                        "{} from {}",
                        answer.status,
                        answer.header("x-echo").unwrap_or("the gateway itself")
                    )),
                    Err(error) => Look::NotYet(format!("{error:#}")),
                })
            })?;
        }
        Ok(())
    }

    /// Fails if a container has other published ports than these services.
    fn published_only(&self, services: &[&str]) -> Result<()> {
        let ids = engine::output(self.compose(&["ps", "-q"])?)?;
        for id in ids.lines() {
            let format = "{{index .Config.Labels \"com.docker.compose.service\"}} \
                          {{range $port, $to := .NetworkSettings.Ports}}{{if $to}}{{$port}} {{end}}{{end}}";
            let line = self.engine.ask(&["inspect", "--format", format, id])?;
            let mut words = line.split_whitespace();
            let service = words.next().unwrap_or_default();
            let ports: Vec<_> = words.collect();
            if !ports.is_empty() && !services.contains(&service) {
                bail!("{service} publishes {}", ports.join(", "));
            }
        }
        Ok(())
    }

    /// What each container uses.
    fn memory(&self) -> Result<String> {
        let ids = engine::output(self.compose(&["ps", "-q"])?)?;
        let mut arguments = vec!["stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}"];
        arguments.extend(ids.lines());
        let text = self.engine.ask(&arguments)?;
        let mut lines: Vec<_> = text.lines().filter(|line| !line.contains(" 0B /")).collect();
        lines.sort_unstable();
        Ok(lines.iter().map(|line| format!("      {line}\n")).collect())
    }

    fn show_what_is_wrong(&self) {
        for arguments in [&["ps"][..], &["logs", "--no-color", TAIL]] {
            match self.compose(arguments) {
                Ok(command) => drop(project::run(command)),
                Err(error) => eprintln!("{error:#}"),
            }
        }
    }

    /// Removes containers, networks and volumes, and checks that they are gone.
    fn remove(&self) -> Result<()> {
        let arguments = ["--profile", "tools", "down", "-v", "--remove-orphans", "--timeout", "20"];
        engine::output(self.compose(&arguments)?)?;
        let label = format!("label=com.docker.compose.project={}", self.project);
        for kind in [
            &["ps", "--all", "--quiet"][..],
            &["network", "ls", "--quiet"],
            &["volume", "ls", "--quiet"],
        ] {
            let left = self.engine.ask(&[kind, &["--filter", &label]].concat())?;
            if !left.is_empty() {
                bail!("left behind by `down -v`: docker {}: {left}", kind.join(" "));
            }
        }
        fs::remove_dir_all(&self.scratch)?;
        say("down, and nothing is left");
        Ok(())
    }
}

fn say(what: &str) {
    println!("ok  {what}");
}
