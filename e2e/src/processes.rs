//! The installation as real processes on loopback addresses, one address for each zone. Every
//! connection between parties goes through a proxy of the harness ([`crate::network`]), and so
//! does the balancer, which is one. Needs no privileges.

mod database;
mod plan;

use std::{
    collections::BTreeMap,
    env,
    fs::{self, OpenOptions},
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;
use xtask::{
    envoy, http,
    process::{self, Process},
    topology::quickstart,
    wait::{Look, until},
};

use crate::{
    backend::{Api, Backend, Cut},
    network::{Network, Proxy, Upstream},
    party::{Party, SERVICES},
    timeline::Timeline,
};
use database::Database;
use plan::{GlobalPlan, ZonePlan, free_port};

/// For the start of a process until it answers. Generous: it is no measurement.
const START: Duration = Duration::from_secs(60);

/// For an orderly end of one process.
const END: Duration = Duration::from_secs(20);

/// Replicas of the global.
const REPLICAS: u8 = 2;

/// Lines of a log that an error shows.
const TAIL: usize = 40;

/// Everything, running.
#[derive(Debug)]
pub struct Processes {
    // In the order in which they end: processes before their proxies and folders.
    running: BTreeMap<Party, Process>,
    database: Database,
    balancer: Option<Balancer>,
    links: Vec<(Party, Party, Proxy)>,
    network: Network,
    globals: Vec<GlobalPlan>,
    zones: BTreeMap<String, ZonePlan>,
    gateway_ports: (u16, u16),
    balancer_addresses: (SocketAddr, SocketAddr),
    balancer_paused: bool,
    programs: PathBuf,
    envoy: PathBuf,
    timeline: Timeline,
    folder: TempDir,
}

/// The two listeners of the balancer.
#[derive(Debug)]
struct Balancer {
    _http: Proxy,
    _kds: Proxy,
}

/// The folder of the programs that were built with this test.
pub fn programs() -> Result<PathBuf> {
    let own = env::current_exe()?;
    let folder = own.parent().and_then(Path::parent).context("this test is in no target folder")?;
    if !folder.join("sunbear-global").exists() {
        bail!("no sunbear-global in {}: run cargo build --workspace", folder.display());
    }
    Ok(folder.to_owned())
}

impl Backend for Processes {
    fn start(timeline: &Timeline) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("sunbear-e2e-").tempdir()?;
        let logs = folder.path().join("logs");
        fs::create_dir_all(&logs)?;
        let network = Network::new()?;
        let database = Database::start(&logs)?;
        let any = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut this = Self {
            running: BTreeMap::new(),
            database,
            balancer: None,
            links: Vec::new(),
            network,
            globals: (1..=REPLICAS).map(GlobalPlan::new).collect::<Result<_>>()?,
            zones: BTreeMap::new(),
            gateway_ports: (free_port()?, free_port()?),
            balancer_addresses: (any(free_port()?), any(free_port()?)),
            balancer_paused: false,
            programs: programs()?,
            envoy: envoy::find_or_fetch()?,
            timeline: timeline.clone(),
            folder,
        };
        for replica in 1..=REPLICAS {
            this.link(&Party::Global(replica), &Party::Postgres, this.database.address())?;
            this.spawn(&Party::Global(replica))?;
            // The first one makes the schema and the mesh.
            this.await_ready(&Party::Global(replica))?;
        }
        this.write_trust()?;
        this.start_balancer()?;
        for zone in ["east", "west"] {
            this.spawn_zone(zone)?;
        }
        for zone in ["east", "west"] {
            this.complete_zone(zone)?;
        }
        timeline.note("everything was started");
        Ok(this)
    }

    fn zones(&self) -> Vec<String> {
        self.zones.keys().cloned().collect()
    }

    fn gateway_ports(&self) -> (u16, u16) {
        self.gateway_ports
    }

    fn gateway(&self, zone: &str, port: u16) -> Result<SocketAddr> {
        let plan = self.zones.get(zone).with_context(|| format!("no zone {zone}"))?;
        Ok(if port == self.gateway_ports.0 {
            self.link_address(&Party::Client, &Party::gateway(zone))?
        } else {
            SocketAddr::from((plan.address, port))
        })
    }

    fn api(&self, party: &Party) -> Result<Api> {
        let port = match party {
            Party::Global(replica) => self.global(*replica)?.http,
            Party::Zone(zone) => self.zone(zone)?.http,
            Party::Balancer => self.balancer_addresses.0.port(),
            other => bail!("{other} has no REST API"),
        };
        // Callers from this host are administrators.
        Ok(Api { address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), tls: false, token: None })
    }

    fn is_ready(&self, party: &Party) -> bool {
        let answers = |address: SocketAddr, path: &str| {
            http::get(address, "localhost", path).is_ok_and(|answer| answer.status == 200)
        };
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match party {
            Party::Postgres => self.database.is_ready(),
            Party::Balancer => self.balancer.is_some(),
            Party::Global(replica) => {
                self.global(*replica).is_ok_and(|p| answers(at(p.diagnostics), "/ready"))
            }
            Party::Zone(zone) => {
                self.zone(zone).is_ok_and(|p| answers(at(p.diagnostics), "/ready"))
            }
            Party::Gateway(zone) => {
                self.zone(zone).is_ok_and(|p| answers(at(p.readiness), "/ready"))
            }
            Party::Service { service, zone } => self
                .zone(zone)
                .ok()
                .and_then(|p| p.service(service))
                .is_some_and(|address| answers(address, "/")),
            Party::Client => true,
        }
    }

    fn kill(&mut self, party: &Party) -> Result<()> {
        match party {
            Party::Postgres => self.database.kill(),
            Party::Balancer => self.balancer = None,
            party => drop(self.running.remove(party).with_context(|| gone(party))?),
        }
        Ok(())
    }

    fn stop(&mut self, party: &Party) -> Result<()> {
        match party {
            Party::Postgres => return self.database.stop(),
            Party::Balancer => self.balancer = None,
            party => {
                let mut process = self.running.remove(party).with_context(|| gone(party))?;
                if !process.stop(END) {
                    bail!("{party} did not stop in order:\n{}", process.log_tail(TAIL));
                }
            }
        }
        Ok(())
    }

    fn start_again(&mut self, party: &Party) -> Result<()> {
        match party {
            Party::Postgres => self.database.run(),
            Party::Balancer => self.start_balancer(),
            party => self.spawn(party),
        }
    }

    fn pause(&mut self, party: &Party) -> Result<()> {
        match party {
            Party::Postgres => self.database.pause(),
            Party::Balancer => {
                self.balancer_paused = true;
                self.for_balancer(|network, a, b| network.cut(a, b, Cut::BlackHole));
            }
            party => {
                self.running.get(party).with_context(|| gone(party))?.pause();
                // A balancer that finds a replica silent ends its connections.
                if matches!(party, Party::Global(_)) {
                    self.network.cut(&Party::Balancer, party, Cut::Reset);
                }
            }
        }
        Ok(())
    }

    fn resume(&mut self, party: &Party) -> Result<()> {
        match party {
            Party::Postgres => self.database.resume(),
            Party::Balancer => {
                self.balancer_paused = false;
                self.network.heal();
            }
            party => {
                self.running.get(party).with_context(|| gone(party))?.resume();
                if matches!(party, Party::Global(_)) {
                    self.network.heal();
                }
            }
        }
        Ok(())
    }

    fn cut(&mut self, from: &Party, to: &Party, how: Cut) -> Result<()> {
        self.connected(from, to, self.network.cut(from, to, how))
    }

    fn delay(&mut self, a: &Party, b: &Party, delay: Duration) -> Result<()> {
        self.connected(a, b, self.network.delay(a, b, delay))
    }

    fn loss(&mut self, a: &Party, b: &Party, loss: f64) -> Result<()> {
        self.connected(a, b, self.network.loss(a, b, loss))
    }

    fn heal(&mut self) -> Result<()> {
        self.network.heal();
        self.balancer_paused = false;
        Ok(())
    }

    fn add_zone(&mut self, zone: &str) -> Result<()> {
        self.spawn_zone(zone)?;
        self.complete_zone(zone)
    }

    fn remove_zone(&mut self, zone: &str) -> Result<()> {
        for party in Party::of_zone(zone).into_iter().rev() {
            self.stop(&party)?;
        }
        self.zones.remove(zone);
        let of_zone = Party::of_zone(zone);
        self.links.retain(|(from, to, _)| !of_zone.contains(from) && !of_zone.contains(to));
        Ok(())
    }

    fn empty_database(&mut self) -> Result<()> {
        self.database.set_aside()
    }

    fn restore_database(&mut self) -> Result<()> {
        self.database.restore()
    }

    fn log(&self, party: &Party) -> String {
        let file = self.logs().join(format!("{party}.log"));
        fs::read_to_string(&file).unwrap_or_else(|error| format!("({}: {error})", file.display()))
    }

    fn save_logs(&self, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(self.logs())? {
            let entry = entry?;
            fs::copy(entry.path(), folder.join(entry.file_name()))?;
        }
        Ok(())
    }

    fn casualties(&mut self) -> Vec<Party> {
        let mut dead = Vec::new();
        for (party, process) in &mut self.running {
            if !matches!(process.exited(), Ok(None)) {
                dead.push(party.clone());
            }
        }
        dead
    }
}

fn gone(party: &Party) -> String {
    format!("{party} does not run")
}

impl Processes {
    fn logs(&self) -> PathBuf {
        self.folder.path().join("logs")
    }

    fn global(&self, replica: u8) -> Result<&GlobalPlan> {
        let plan = replica.checked_sub(1).and_then(|n| self.globals.get(usize::from(n)));
        plan.with_context(|| format!("no global-{replica}"))
    }

    fn zone(&self, zone: &str) -> Result<&ZonePlan> {
        self.zones.get(zone).with_context(|| format!("no zone {zone}"))
    }

    fn connected(&self, a: &Party, b: &Party, connected: bool) -> Result<()> {
        if !connected {
            bail!("{a} and {b} are never connected through the harness");
        }
        Ok(())
    }

    fn link(&mut self, from: &Party, to: &Party, address: SocketAddr) -> Result<()> {
        let proxy = self.network.link(from, to, address)?;
        self.links.push((from.clone(), to.clone(), proxy));
        Ok(())
    }

    fn link_address(&self, from: &Party, to: &Party) -> Result<SocketAddr> {
        let link = self.links.iter().find(|(f, t, _)| (f, t) == (from, to));
        Ok(link.with_context(|| format!("no link from {from} to {to}"))?.2.address())
    }

    fn for_balancer(&self, change: impl Fn(&Network, &Party, &Party) -> bool) {
        for replica in 1..=REPLICAS {
            change(&self.network, &Party::Balancer, &Party::Global(replica));
            change(&self.network, &Party::Global(replica), &Party::Balancer);
        }
    }

    fn start_balancer(&mut self) -> Result<()> {
        let upstreams = |port: fn(&GlobalPlan) -> u16| -> Vec<_> {
            let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            self.globals
                .iter()
                .map(|plan| Upstream {
                    party: Party::Global(plan.replica),
                    address: at(port(plan)),
                    health: Some(at(plan.diagnostics)),
                })
                .collect()
        };
        let (http, kds) = self.balancer_addresses;
        let from = Party::Balancer;
        self.balancer = Some(Balancer {
            _http: self.network.balance(http, &from, upstreams(|plan| plan.http))?,
            _kds: self.network.balance(kds, &from, upstreams(|plan| plan.kds))?,
        });
        Ok(())
    }

    /// What zones check the certificates of the replicas with: each made its own.
    fn write_trust(&self) -> Result<()> {
        let mut bundle = Vec::new();
        for replica in 1..=REPLICAS {
            let file = self.folder.path().join(format!("global-{replica}/kuma-cp.crt"));
            bundle.extend(fs::read(&file).with_context(|| file.display().to_string())?);
        }
        Ok(fs::write(self.folder.path().join("globals.crt"), bundle)?)
    }

    fn spawn_zone(&mut self, zone: &str) -> Result<()> {
        let taken: Vec<_> = self.zones.values().map(|plan| plan.address).collect();
        let address = (2..=254).map(|host| Ipv4Addr::new(127, 0, 0, host));
        let address = address.into_iter().find(|a| !taken.contains(a)).context("too many zones")?;
        let plan = ZonePlan::new(address)?;
        self.link(&Party::zone(zone), &Party::Balancer, self.balancer_addresses.1)?;
        let dp_server = SocketAddr::from((Ipv4Addr::LOCALHOST, plan.dp_server));
        self.link(&Party::gateway(zone), &Party::zone(zone), dp_server)?;
        let gateway = SocketAddr::from((address, self.gateway_ports.0));
        self.link(&Party::Client, &Party::gateway(zone), gateway)?;
        self.zones.insert(zone.to_owned(), plan);
        for service in SERVICES {
            self.spawn(&Party::service(service, zone))?;
        }
        self.spawn(&Party::zone(zone))
    }

    /// Registers the services and starts the gateway.
    fn complete_zone(&mut self, zone: &str) -> Result<()> {
        self.await_ready(&Party::zone(zone))?;
        for service in SERVICES {
            self.await_ready(&Party::service(service, zone))?;
            self.register(service, zone)?;
        }
        self.write_token(zone)?;
        self.spawn(&Party::gateway(zone))?;
        self.await_ready(&Party::gateway(zone))
    }

    fn await_ready(&mut self, party: &Party) -> Result<()> {
        until(&format!("readiness of {party}"), START, || {
            if let Some(process) = self.running.get_mut(party)
                && let Some(status) = process.exited()?
            {
                bail!("{party} ended: {status}\n{}", process.log_tail(TAIL));
            }
            Ok(match self.is_ready(party) {
                true => Look::Done(()),
                false => Look::NotYet(
                    self.running.get(party).map(|p| p.log_tail(TAIL)).unwrap_or_default(),
                ),
            })
        })
    }

    fn spawn(&mut self, party: &Party) -> Result<()> {
        if self.running.contains_key(party) {
            bail!("{party} runs already");
        }
        let command = match party {
            Party::Global(replica) => self.global_command(*replica)?,
            Party::Zone(zone) => self.zone_command(zone)?,
            Party::Gateway(zone) => self.gateway_command(zone)?,
            Party::Service { service, zone } => self.service_command(service, zone)?,
            Party::Postgres | Party::Balancer | Party::Client => bail!("{party} is no program"),
        };
        let process = Process::spawn(&party.to_string(), command, &self.logs())?;
        self.timeline.note(format!("{party} is process {}", process.id()));
        self.running.insert(party.clone(), process);
        Ok(())
    }

    fn work_folder(&self, party: &Party) -> Result<PathBuf> {
        let folder = self.folder.path().join(party.to_string());
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    fn program(&self, name: &str) -> Command {
        process::command(&self.programs.join(name))
    }

    fn global_command(&self, replica: u8) -> Result<Command> {
        let party = Party::Global(replica);
        let plan = self.global(replica)?;
        let database = self.link_address(&party, &Party::Postgres)?;
        let mut command = self.program("sunbear-global");
        command
            .arg("run")
            .env("KUMA_MODE", "global")
            .env("KUMA_GENERAL_WORK_DIR", self.work_folder(&party)?)
            .env("KUMA_STORE_TYPE", "postgres")
            .env("KUMA_STORE_POSTGRES_HOST", database.ip().to_string())
            .env("KUMA_STORE_POSTGRES_PORT", database.port().to_string())
            .env("KUMA_STORE_POSTGRES_USER", database::USER)
            .env("KUMA_STORE_POSTGRES_PASSWORD", "unused")
            .env("KUMA_STORE_POSTGRES_DB_NAME", "postgres")
            .env("KUMA_STORE_POSTGRES_CONNECTION_TIMEOUT", "2")
            .env("KUMA_STORE_POSTGRES_MAX_OPEN_CONNECTIONS", "10")
            .env("KUMA_API_SERVER_HTTP_INTERFACE", "127.0.0.1")
            .env("KUMA_API_SERVER_HTTPS_INTERFACE", "127.0.0.1")
            .env("KUMA_API_SERVER_HTTP_PORT", plan.http.to_string())
            .env("KUMA_API_SERVER_HTTPS_PORT", plan.https.to_string())
            .env("KUMA_MULTIZONE_GLOBAL_KDS_GRPC_PORT", plan.kds.to_string())
            .env("KUMA_MULTIZONE_GLOBAL_KDS_ZONE_INSIGHT_FLUSH_INTERVAL", "1s")
            .env("KUMA_DIAGNOSTICS_SERVER_PORT", plan.diagnostics.to_string());
        Ok(command)
    }

    fn zone_command(&self, zone: &str) -> Result<Command> {
        let party = Party::zone(zone);
        let plan = self.zone(zone)?;
        let global = self.link_address(&party, &Party::Balancer)?;
        let xds = self.link_address(&Party::gateway(zone), &party)?;
        let mut command = self.program("sunbear-zone");
        command
            .arg("run")
            .env("KUMA_MODE", "zone")
            .env("KUMA_GENERAL_WORK_DIR", self.work_folder(&party)?)
            .env("KUMA_MULTIZONE_ZONE_NAME", zone)
            .env("KUMA_MULTIZONE_ZONE_GLOBAL_ADDRESS", format!("grpcs://{global}"))
            .env("KUMA_MULTIZONE_ZONE_KDS_ROOT_CA_FILE", self.folder.path().join("globals.crt"))
            .env("KUMA_API_SERVER_HTTP_INTERFACE", "127.0.0.1")
            .env("KUMA_API_SERVER_HTTPS_INTERFACE", "127.0.0.1")
            .env("KUMA_API_SERVER_HTTP_PORT", plan.http.to_string())
            .env("KUMA_API_SERVER_HTTPS_PORT", plan.https.to_string())
            .env("KUMA_DP_SERVER_PORT", plan.dp_server.to_string())
            // Envoy too has to come through the proxy.
            .env("KUMA_BOOTSTRAP_SERVER_PARAMS_XDS_PORT", xds.port().to_string())
            .env("KUMA_DIAGNOSTICS_SERVER_PORT", plan.diagnostics.to_string());
        Ok(command)
    }

    fn gateway_command(&self, zone: &str) -> Result<Command> {
        let party = Party::gateway(zone);
        let plan = self.zone(zone)?;
        let xds = self.link_address(&party, &Party::zone(zone))?;
        let folder = self.work_folder(&party)?;
        let authority = self.work_folder(&Party::zone(zone))?.join("kuma-cp.crt");
        let mut command = self.program("sunbear-dp");
        command
            .arg("run")
            .arg(format!("--cp-address=https://{xds}"))
            .args([&"--ca-cert-file".into(), &authority])
            .args([&"--dataplane-file".into(), &quickstart("gateway-dataplane.yaml")?])
            .arg(format!("--dataplane-var=name=gateway-{zone}"))
            .arg(format!("--dataplane-var=address={}", plan.address))
            .arg(format!("--dataplane-var=adminPort={}", plan.admin))
            .args([&"--dataplane-token-file".into(), &folder.join("token")])
            .args([&"--work-dir".into(), &folder.join("work")])
            .args([&"--binary-path".into(), &self.envoy])
            .args(["--dns-enabled=false", "--drain-time=1s", "--concurrency=1"])
            .env("KUMA_READINESS_PORT", plan.readiness.to_string());
        Ok(command)
    }

    fn service_command(&self, service: &str, zone: &str) -> Result<Command> {
        let address = self.zone(zone)?.service(service).context("no such service")?;
        let mut command = self.program("sunbear-echo");
        command.args(["--name", service, "--zone", zone, "--listen", &address.to_string()]);
        Ok(command)
    }

    fn ctl(&self, zone: &str, arguments: &[&str]) -> Result<String> {
        let port = self.zone(zone)?.http;
        let mut command = self.program("sunbearctl");
        command.args(arguments).args(["--address", &format!("http://127.0.0.1:{port}")]);
        let output = command.output()?;
        if !output.status.success() {
            bail!("sunbearctl: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    fn register(&self, service: &str, zone: &str) -> Result<()> {
        let address = self.zone(zone)?.service(service).context("no such service")?;
        let template = quickstart("service-dataplane.yaml")?;
        let values = [
            format!("--var=name={service}-{zone}"),
            format!("--var=service={service}"),
            format!("--var=address={}", address.ip()),
            format!("--var=port={}", address.port()),
        ];
        let mut arguments = vec!["apply", "-f", template.to_str().context("a path not UTF-8")?];
        arguments.extend(values.iter().map(String::as_str));
        self.ctl(zone, &arguments).map(drop)
    }

    /// The zone can sign once the global's signing key has arrived.
    fn write_token(&self, zone: &str) -> Result<()> {
        let tag = "--tag=kuma.io/service=edge-gateway";
        let arguments = ["generate", "dataplane-token", "--mesh=default", "--valid-for=24h", tag];
        let token = until("a token for the gateway", START, || {
            Ok(match self.ctl(zone, &arguments) {
                Ok(token) => Look::Done(token),
                Err(error) => Look::NotYet(format!("{error:#}")),
            })
        })?;
        let folder = self.work_folder(&Party::gateway(zone))?;
        fs::create_dir_all(folder.join("work"))?;
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(folder.join("token"))?;
        Ok(file.write_all(token.as_bytes())?)
    }
}
