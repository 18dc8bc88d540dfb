//! The installation as the containers of `docker-compose.yml`, asked through Docker's and Compose's
//! own programs. Faults of the network are made in the containers' network namespaces, so this
//! needs root, on the machine that the engine runs on.

mod detour;
pub mod misfits;
mod third_zone;

use std::{
    collections::BTreeSet,
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{self, Command},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;
use xtask::{
    engine::{self, Engine},
    http,
    wait::{Look, until},
};

use detour::Detour;

use crate::{
    backend::{Api, Backend, Cut},
    lab::PATIENCE,
    network::Network,
    party::Party,
    request::{is_postgres_ready, send_tls},
    timeline::Timeline,
};

/// The variable that names the tag of the images to run.
pub const TAG: &str = "SUNBEAR_E2E_TAG";

/// Seconds for an orderly end.
const END: &str = "20";

/// Ports of gateways inside of their containers.
const GATEWAY_PORTS: (u16, u16) = (8080, 8443);

const API_PORT: u16 = 5682;
const DIAGNOSTICS_PORT: u16 = 5680;
const READINESS_PORT: &str = "9902";
const ECHO_PORT: u16 = 8000;
const POSTGRES_PORT: u16 = 5432;

/// The containers of one project, which are removed when this is dropped.
#[derive(Debug)]
pub struct Containers {
    engine: Engine,
    project: String,
    environment: Vec<(&'static str, String)>,
    /// Compose files further to `docker-compose.yml`.
    further: Vec<String>,
    token: String,
    zones: BTreeSet<String>,
    /// What is slow or loses something goes through this.
    network: Network,
    detours: Vec<Detour>,
    down: BTreeSet<Party>,
    published: [(&'static str, u16); 2],
    api_port: u16,
    folder: TempDir,
}

impl Backend for Containers {
    fn start(timeline: &Timeline) -> Result<Self> {
        let tag = env::var(TAG).with_context(|| format!("{TAG} is not set"))?;
        let engine = Engine::find_or_start()?;
        let [api_port, east, west] = engine::free_ports()?;
        let [east_net, west_net] = engine.free_networks()?;
        let mut this = Self {
            project: format!("sunbear-e2e-{}-{api_port}", process::id()),
            environment: vec![
                ("SUNBEAR_TAG", tag),
                ("SUNBEAR_API_PORT", api_port.to_string()),
                ("SUNBEAR_EAST_PORT", east.to_string()),
                ("SUNBEAR_WEST_PORT", west.to_string()),
                ("SUNBEAR_EAST_NET", east_net),
                ("SUNBEAR_WEST_NET", west_net),
            ],
            engine,
            further: Vec::new(),
            token: String::new(),
            zones: ["east", "west"].map(str::to_owned).into(),
            network: Network::new()?,
            detours: Vec::new(),
            down: BTreeSet::new(),
            published: [("east", east), ("west", west)],
            api_port,
            folder: tempfile::Builder::new().prefix("sunbear-e2e-").tempdir()?,
        };
        engine::output(this.compose(&["up", "-d"])?)?;
        let token = this.in_ctl(&["cat", "/secrets/admin/token"]);
        this.token = token.context("the token that `init` made for the administrator")?;
        timeline.note(format!("everything was started, as project {}", this.project));
        Ok(this)
    }

    fn zones(&self) -> Vec<String> {
        self.zones.iter().cloned().collect()
    }

    fn gateway_ports(&self) -> (u16, u16) {
        GATEWAY_PORTS
    }

    fn gateway(&self, zone: &str, port: u16) -> Result<SocketAddr> {
        let published = self.published.iter().find(|(name, _)| *name == zone);
        Ok(match published {
            Some((_, published)) if port == GATEWAY_PORTS.0 => {
                SocketAddr::from((Ipv4Addr::LOCALHOST, *published))
            }
            _ => SocketAddr::from((self.address(&Party::gateway(zone))?, port)),
        })
    }

    fn api(&self, party: &Party) -> Result<Api> {
        let address = match party {
            Party::Balancer => SocketAddr::from((Ipv4Addr::LOCALHOST, self.api_port)),
            Party::Global(_) | Party::Zone(_) => SocketAddr::from((self.address(party)?, API_PORT)),
            other => bail!("{other} has no REST API"),
        };
        Ok(Api { address, tls: true, token: Some(self.token.clone()) })
    }

    fn is_ready(&self, party: &Party) -> bool {
        let Ok(address) = self.address(party) else { return false };
        let ready = |port, path: &str| {
            http::get(SocketAddr::from((address, port)), "localhost", path)
                .is_ok_and(|answer| answer.status == 200)
        };
        match party {
            Party::Postgres => {
                is_postgres_ready(SocketAddr::from((address, POSTGRES_PORT)), "sunbear")
            }
            // It answers on its own host only; here it counts that it passes connections on.
            Party::Balancer => {
                let api = SocketAddr::from((Ipv4Addr::LOCALHOST, self.api_port));
                send_tls(api, "balancer", &http::Request::new("GET", "b", "/")).is_ok()
            }
            Party::Global(_) | Party::Zone(_) => ready(DIAGNOSTICS_PORT, "/ready"),
            // It answers on its own host only.
            Party::Gateway(_) => self.container(party).is_ok_and(|container| {
                self.docker(&["exec", &container, "ready", READINESS_PORT]).is_ok()
            }),
            Party::Service { .. } => ready(ECHO_PORT, "/"),
            Party::Client => true,
        }
    }

    fn kill(&mut self, party: &Party) -> Result<()> {
        self.down.insert(party.clone());
        self.docker(&["kill", &self.container(party)?]).map(drop)
    }

    fn stop(&mut self, party: &Party) -> Result<()> {
        self.down.insert(party.clone());
        self.docker(&["stop", "--time", END, &self.container(party)?]).map(drop)
    }

    fn start_again(&mut self, party: &Party) -> Result<()> {
        self.docker(&["start", &self.container(party)?])?;
        self.down.remove(party);
        Ok(())
    }

    fn pause(&mut self, party: &Party) -> Result<()> {
        let container = self.container(party)?;
        // The kernel may fail to freeze processes that are busy.
        until(&format!("{party} frozen"), PATIENCE, || {
            Ok(match self.docker(&["pause", &container]) {
                Ok(_) => Look::Done(()),
                Err(error) => Look::NotYet(format!("{error:#}")),
            })
        })
    }

    fn resume(&mut self, party: &Party) -> Result<()> {
        self.docker(&["unpause", &self.container(party)?]).map(drop)
    }

    fn cut(&mut self, from: &Party, to: &Party, how: Cut) -> Result<()> {
        let how: &[&str] = match how {
            Cut::BlackHole => &["-j", "DROP"],
            Cut::Reset => &["-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"],
        };
        for address in self.addresses(to)? {
            let address = address.to_string();
            let mut arguments = vec!["iptables", "-w", "-A", "OUTPUT", "-d", &address];
            arguments.extend(how);
            self.in_namespace(from, &arguments)?;
        }
        Ok(())
    }

    fn delay(&mut self, a: &Party, b: &Party, delay: Duration) -> Result<()> {
        self.around(a, b)?.delay(a, b, delay);
        Ok(())
    }

    fn loss(&mut self, a: &Party, b: &Party, loss: f64) -> Result<()> {
        self.around(a, b)?.loss(a, b, loss);
        Ok(())
    }

    fn heal(&mut self) -> Result<()> {
        let zones = self.zones();
        let mut all = vec![Party::Postgres, Party::Global(1), Party::Global(2), Party::Balancer];
        all.extend(zones.iter().flat_map(|zone| Party::of_zone(zone)));
        for party in all {
            // Who is down has no faults.
            if self.down.contains(&party) || self.namespace(&party).is_err() {
                continue;
            }
            self.in_namespace(&party, &["iptables", "-w", "-F", "OUTPUT"])?;
        }
        self.straighten();
        Ok(())
    }

    fn add_zone(&mut self, zone: &str) -> Result<()> {
        self.add_third_zone(zone)
    }

    fn remove_zone(&mut self, zone: &str) -> Result<()> {
        for party in Party::of_zone(zone).into_iter().rev() {
            self.stop(&party)?;
            self.docker(&["rm", "--force", &self.container(&party)?])?;
            self.down.remove(&party);
        }
        self.zones.remove(zone);
        Ok(())
    }

    fn empty_database(&mut self) -> Result<()> {
        self.sql("ALTER DATABASE sunbear RENAME TO former")?;
        self.sql("CREATE DATABASE sunbear")
    }

    fn restore_database(&mut self) -> Result<()> {
        self.sql("DROP DATABASE sunbear")?;
        self.sql("ALTER DATABASE former RENAME TO sunbear")
    }

    fn log(&self, party: &Party) -> String {
        let log = || -> Result<String> {
            let container = self.container(party)?;
            let output = self.engine.docker(&["logs", &container]).output()?;
            let both = [output.stdout, output.stderr].concat();
            Ok(String::from_utf8_lossy(&both).into_owned())
        };
        log().unwrap_or_else(|error| format!("({error:#})"))
    }

    fn save_logs(&self, folder: &Path) -> Result<()> {
        let mut all = vec![Party::Postgres, Party::Global(1), Party::Global(2), Party::Balancer];
        all.extend(self.zones.iter().flat_map(|zone| Party::of_zone(zone)));
        for party in all {
            fs::write(folder.join(format!("{party}.log")), self.log(&party))?;
        }
        Ok(())
    }

    fn casualties(&mut self) -> Vec<Party> {
        let mut all = vec![Party::Postgres, Party::Global(1), Party::Global(2), Party::Balancer];
        all.extend(self.zones.iter().flat_map(|zone| Party::of_zone(zone)));
        all.retain(|party| !self.down.contains(party));
        // The engine starts again who ends, and counts that.
        all.retain(|party| {
            let ask = self.container(party).and_then(|container| {
                let format = "{{.State.Running}} {{.RestartCount}}";
                self.docker(&["inspect", "--format", format, &container])
            });
            !matches!(ask.as_deref(), Ok("true 0"))
        });
        all
    }
}

impl Containers {
    fn compose(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.engine.compose(&["--project-name", &self.project])?;
        if !self.further.is_empty() {
            command.args(["-f", "docker-compose.yml"]);
            command.args(self.further.iter().flat_map(|file| ["-f", file]));
        }
        command.args(arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    fn docker(&self, arguments: &[&str]) -> Result<String> {
        self.engine.ask(arguments)
    }

    /// Takes a further Compose file, if it is not known yet.
    fn add_file(&mut self, file: &Path) -> Result<()> {
        let file = path(file)?;
        if !self.further.contains(&file) {
            self.further.push(file);
        }
        Ok(())
    }

    /// What a program says in a container of the administrator.
    fn in_ctl(&self, program: &[&str]) -> Result<String> {
        let [program, arguments @ ..] = program else { bail!("no program") };
        let mut all = vec!["run", "--rm", "-T", "--entrypoint", program, "ctl"];
        all.extend(arguments);
        engine::output(self.compose(&all)?)
    }

    /// The id of a party's container, running or not.
    fn container(&self, party: &Party) -> Result<String> {
        let project = format!("label=com.docker.compose.project={}", self.project);
        let service = format!("label=com.docker.compose.service={party}");
        let id =
            self.docker(&["ps", "--all", "--quiet", "--filter", &project, "--filter", &service])?;
        if id.is_empty() || id.contains('\n') {
            bail!("not one container of {party}: {id:?}");
        }
        Ok(id)
    }

    /// Its addresses in all networks, that which others of the harness can reach first.
    fn addresses(&self, party: &Party) -> Result<Vec<Ipv4Addr>> {
        let format =
            "{{range $name, $n := .NetworkSettings.Networks}}{{$name}}={{$n.IPAddress}} {{end}}";
        let text = self.docker(&["inspect", "--format", format, &self.container(party)?])?;
        let mut all: Vec<_> =
            text.split_whitespace().filter_map(|word| word.split_once('=')).collect();
        all.sort_by_key(|(network, _)| !network.ends_with("_control"));
        Ok(all.iter().filter_map(|(_, address)| address.parse().ok()).collect())
    }

    fn address(&self, party: &Party) -> Result<Ipv4Addr> {
        let first = self.addresses(party)?.first().copied();
        first.with_context(|| format!("{party} has no address: it does not run"))
    }

    /// The process whose network namespace is a party's.
    fn namespace(&self, party: &Party) -> Result<String> {
        let id =
            self.docker(&["inspect", "--format", "{{.State.Pid}}", &self.container(party)?])?;
        if id == "0" {
            bail!("{party} does not run");
        }
        Ok(id)
    }

    fn in_namespace(&self, party: &Party, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.namespace(party)?, "--net"]).args(arguments);
        engine::output(command).with_context(|| format!("{} at {party}", arguments.join(" ")))
    }

    fn sql(&self, statement: &str) -> Result<()> {
        let postgres = self.container(&Party::Postgres)?;
        // By the socket, where no password is asked for.
        let psql = ["exec", &postgres, "psql", "-U", "sunbear", "-d", "postgres"];
        self.docker(&[&psql[..], &["-c", statement]].concat()).map(drop)
    }

    fn await_ready(&self, party: &Party) -> Result<()> {
        until(&format!("readiness of {party}"), PATIENCE, || {
            Ok(match self.is_ready(party) {
                true => Look::Done(()),
                false => Look::NotYet("it is not".to_owned()),
            })
        })
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        let arguments = ["--profile", "tools", "down", "-v", "--remove-orphans", "--timeout", "5"];
        // There is nobody to tell; what is left has the project's name.
        let _ = self.compose(&arguments).map(engine::output);
    }
}

fn path(file: &Path) -> Result<String> {
    Ok(file.to_str().context("a path that is not UTF-8")?.to_owned())
}
