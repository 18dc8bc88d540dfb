//! A global control plane and zones with services and a builtin gateway each, as real processes on
//! loopback addresses: what the demo shows and the benchmarks measure.

use std::{
    env,
    fs::{self, OpenOptions},
    io::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    http::{self, Answer},
    process::{self, Process},
    project,
    wait::{Look, until},
};

mod plan;

pub use plan::{Global, Plan, Zone};

/// The programs that it starts or calls.
pub const PROGRAMS: [&str; 5] =
    ["sunbear-global", "sunbear-zone", "sunbear-dp", "sunbearctl", "sunbear-echo"];

/// The services of every zone.
pub const SERVICES: [&str; 2] = ["frontend", "api"];

/// The listener's port in `docs/quickstart/gateway.yaml`.
pub const GATEWAY_PORT: u16 = 8080;

/// For a start of a process until it answers. Generous: it is no measurement.
const START: Duration = Duration::from_secs(60);

/// For an orderly end of one process.
const END: Duration = Duration::from_secs(15);

/// Lines of each log that an error shows.
const TAIL: usize = 15;

/// Sockets lie in the folders, and their paths are limited to about a hundred bytes.
const LONGEST_FOLDER: usize = 60;

/// The APIs are for this machine only.
const LOOPBACK: [(&str, &str); 2] = [
    ("KUMA_API_SERVER_HTTP_INTERFACE", "127.0.0.1"),
    ("KUMA_API_SERVER_HTTPS_INTERFACE", "127.0.0.1"),
];

/// Busy addresses that an error names.
const NAMED: usize = 4;

/// Environment by name and value.
pub type Environment = Vec<(String, String)>;

/// What to start, and where.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder of Sunbear's binaries.
    pub programs: PathBuf,
    /// Envoy's binary.
    pub envoy: PathBuf,
    /// For state and logs; emptied at the start.
    pub folder: PathBuf,
    /// The first port of the control planes and services.
    pub port_base: u16,
    /// The port that the gateways listen on.
    pub gateway_port: u16,
    /// The zones' names.
    pub zones: Vec<String>,
    /// Further configuration of the global.
    pub global_environment: Environment,
    /// Further configuration of the zones.
    pub zone_environment: Environment,
    /// Further configuration of `sunbear-dp`.
    pub gateway_environment: Environment,
}

impl Settings {
    /// Two zones, `east` and `west`, on the usual ports.
    pub fn new(programs: PathBuf, envoy: PathBuf, folder: PathBuf) -> Self {
        Self {
            programs,
            envoy,
            folder,
            port_base: 20_000,
            gateway_port: GATEWAY_PORT,
            zones: vec!["east".to_owned(), "west".to_owned()],
            global_environment: Vec::new(),
            zone_environment: Vec::new(),
            gateway_environment: Vec::new(),
        }
    }
}

/// The running whole. Dropping it kills everything.
#[derive(Debug)]
pub struct Topology {
    settings: Settings,
    plan: Plan,
    global: Option<Process>,
    zones: Vec<Processes>,
}

/// The processes of a zone; `None` is: not started, or killed on purpose.
#[derive(Debug, Default)]
struct Processes {
    control_plane: Option<Process>,
    gateway: Option<Process>,
    services: Vec<Process>,
}

impl Topology {
    /// Checks programs and ports and empties the folder. Starts nothing.
    pub fn prepare(mut settings: Settings) -> Result<Self> {
        for name in PROGRAMS {
            let program = settings.programs.join(name);
            if !project::is_executable(&program) {
                bail!("there is no {}", program.display());
            }
        }
        let plan = Plan::new(settings.port_base, settings.gateway_port, &settings.zones)?;
        let busy: Vec<_> = plan
            .addresses()
            .into_iter()
            .filter(|(_, address)| TcpListener::bind(address).is_err())
            .map(|(what, address)| format!("{address} ({what})"))
            .collect();
        if !busy.is_empty() {
            let named = busy[..busy.len().min(NAMED)].join(", ");
            let more = match busy.len().saturating_sub(NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            bail!(
                "cannot listen on {named}{more}: end what uses them (another demo?), or choose \
                 others with --port-base and --gateway-port"
            );
        }
        if settings.folder.as_os_str().len() > LONGEST_FOLDER {
            settings.folder = env::temp_dir().join(format!("sunbear-{}", settings.port_base));
        }
        if settings.folder.exists() {
            fs::remove_dir_all(&settings.folder)
                .with_context(|| format!("cannot empty {}", settings.folder.display()))?;
        }
        fs::create_dir_all(settings.folder.join("logs"))?;
        let zones = plan.zones.iter().map(|_| Processes::default()).collect();
        Ok(Self { settings, plan, global: None, zones })
    }

    /// Starts control planes and services, puts the services' Dataplanes on their zones and starts
    /// the gateways. Those have no listener before a MeshGateway is applied on the global.
    pub fn start(&mut self) -> Result<()> {
        eprintln!("starting the global control plane");
        self.start_global()?;
        self.await_global()?;
        eprintln!("starting the zones {}", self.settings.zones.join(" and "));
        for zone in 0..self.plan.zones.len() {
            self.start_services(zone)?;
            self.start_control_plane(zone)?;
        }
        for zone in 0..self.plan.zones.len() {
            self.await_control_plane(zone)?;
            self.register_services(zone)?;
        }
        eprintln!("starting a gateway in each zone");
        for zone in 0..self.plan.zones.len() {
            self.write_token(zone)?;
            self.start_gateway(zone)?;
        }
        Ok(())
    }

    /// Addresses and names.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The path of one of Sunbear's binaries.
    pub fn program_path(&self, name: &str) -> PathBuf {
        self.settings.programs.join(name)
    }

    /// The folder of state and logs.
    pub fn folder(&self) -> &Path {
        &self.settings.folder
    }

    /// Starts the global; it goes on from its store if it ran before.
    pub fn start_global(&mut self) -> Result<()> {
        let ports = &self.plan.global;
        let folder = self.settings.folder.join("global");
        fs::create_dir_all(&folder)?;
        let mut command = self.program("sunbear-global");
        command
            .arg("run")
            .env("KUMA_MODE", "global")
            .env("KUMA_GENERAL_WORK_DIR", &folder)
            .envs(LOOPBACK)
            .env("KUMA_API_SERVER_HTTP_PORT", ports.http.to_string())
            .env("KUMA_API_SERVER_HTTPS_PORT", ports.https.to_string())
            .env("KUMA_MULTIZONE_GLOBAL_KDS_GRPC_PORT", ports.kds.to_string())
            .env("KUMA_DIAGNOSTICS_SERVER_PORT", ports.diagnostics.to_string())
            .envs(self.settings.global_environment.clone());
        self.global = Some(Process::spawn("global", command, &self.logs())?);
        Ok(())
    }

    /// Waits until the global serves the mesh `default`.
    pub fn await_global(&mut self) -> Result<()> {
        self.await_mesh("the global", self.plan.global.http)
    }

    /// Starts a zone's control plane; it goes on from its store if it ran before.
    pub fn start_control_plane(&mut self, zone: usize) -> Result<()> {
        let ports = &self.plan.zones[zone];
        let folder = self.folder_of(zone);
        fs::create_dir_all(&folder)?;
        let mut command = self.program("sunbear-zone");
        command
            .arg("run")
            .env("KUMA_MODE", "zone")
            .env("KUMA_GENERAL_WORK_DIR", &folder)
            .envs(LOOPBACK)
            .env("KUMA_MULTIZONE_ZONE_NAME", &ports.name)
            .env(
                "KUMA_MULTIZONE_ZONE_GLOBAL_ADDRESS",
                format!("grpcs://127.0.0.1:{}", self.plan.global.kds),
            )
            .env(
                "KUMA_MULTIZONE_ZONE_KDS_ROOT_CA_FILE",
                self.settings.folder.join("global/kuma-cp.crt"),
            )
            .env("KUMA_API_SERVER_HTTP_PORT", ports.http.to_string())
            .env("KUMA_API_SERVER_HTTPS_PORT", ports.https.to_string())
            .env("KUMA_DP_SERVER_PORT", ports.dp_server.to_string())
            .env("KUMA_DIAGNOSTICS_SERVER_PORT", ports.diagnostics.to_string())
            .envs(self.settings.zone_environment.clone());
        let process = Process::spawn(&format!("zone-{}", ports.name), command, &self.logs())?;
        self.zones[zone].control_plane = Some(process);
        Ok(())
    }

    /// Waits until a zone serves the mesh `default`, which the global made.
    pub fn await_control_plane(&mut self, zone: usize) -> Result<()> {
        let (name, port) = (&self.plan.zones[zone].name, self.plan.zones[zone].http);
        self.await_mesh(&format!("zone {name}"), port)
    }

    /// Starts `sunbear-dp` with a zone's gateway.
    pub fn start_gateway(&mut self, zone: usize) -> Result<()> {
        let plan = &self.plan.zones[zone];
        let folder = self.folder_of(zone);
        let work = folder.join("gateway");
        fs::create_dir_all(&work)?;
        let mut command = self.program("sunbear-dp");
        command
            .arg("run")
            .arg(format!("--cp-address=https://127.0.0.1:{}", plan.dp_server))
            .args([&"--ca-cert-file".into(), &folder.join("kuma-cp.crt")])
            .args([&"--dataplane-file".into(), &quickstart("gateway-dataplane.yaml")?])
            .arg(format!("--dataplane-var=name={}", plan.gateway_name()))
            .arg(format!("--dataplane-var=address={}", plan.address))
            .arg(format!("--dataplane-var=adminPort={}", plan.admin))
            .args([&"--dataplane-token-file".into(), &folder.join("gateway.token")])
            .args([&"--work-dir".into(), &work])
            .args([&"--binary-path".into(), &self.settings.envoy])
            .args(["--dns-enabled=false", "--drain-time=1s", "--concurrency=1"])
            .env("KUMA_READINESS_PORT", plan.readiness.to_string())
            .envs(self.settings.gateway_environment.clone());
        let process = Process::spawn(&format!("gateway-{}", plan.name), command, &self.logs())?;
        self.zones[zone].gateway = Some(process);
        Ok(())
    }

    /// SIGKILL to the global.
    pub fn kill_global(&mut self) {
        self.global = None;
    }

    /// SIGKILL to a zone's control plane.
    pub fn kill_control_plane(&mut self, zone: usize) {
        self.zones[zone].control_plane = None;
    }

    /// SIGKILL to a zone's `sunbear-dp` and its Envoy.
    pub fn kill_gateway(&mut self, zone: usize) {
        self.zones[zone].gateway = None;
    }

    /// SIGKILL to the Envoy of a zone's gateway. Returns once another one runs in its place.
    pub fn kill_envoy(&mut self, zone: usize) -> Result<()> {
        let old = self.envoy_of(zone).context("the gateway has no Envoy")?;
        process::kill_one(old);
        until("another Envoy", START, || {
            self.check_alive()?;
            Ok(match self.envoy_of(zone) {
                Some(new) if new != old => Look::Done(()),
                _ => Look::NotYet("none was started".to_owned()),
            })
        })
    }

    /// The process id of a gateway's Envoy.
    pub fn envoy_of(&self, zone: usize) -> Option<u32> {
        let gateway = self.zones[zone].gateway.as_ref()?;
        let mut family = gateway.family().into_iter();
        family.find(|(_, program)| program.starts_with("envoy")).map(|(id, _)| id)
    }

    /// `sunbearctl` with these arguments, at that API; its standard output.
    pub fn ctl(&self, http_port: u16, arguments: &[&str]) -> Result<String> {
        let mut command = self.program("sunbearctl");
        command.args(arguments).args(["--address", &format!("http://127.0.0.1:{http_port}")]);
        let output = command.stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!(
                "sunbearctl {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Applies a file on the global.
    pub fn apply(&self, file: &Path) -> Result<()> {
        let file = file.to_str().context("a path that is not UTF-8")?;
        self.ctl(self.plan.global.http, &["apply", "-f", file]).map(drop)
    }

    /// The quickstart's MeshGateway: the committed file, or a copy of it with another port.
    pub fn gateway_file(&self) -> Result<PathBuf> {
        let file = quickstart("gateway.yaml")?;
        if self.settings.gateway_port == GATEWAY_PORT {
            return Ok(file);
        }
        let copy = self.settings.folder.join("gateway.yaml");
        let text = fs::read_to_string(file)?;
        let port = format!("port: {}\n", self.settings.gateway_port);
        fs::write(&copy, text.replace(&format!("port: {GATEWAY_PORT}\n"), &port))?;
        Ok(copy)
    }

    /// Asks a zone's gateway.
    pub fn ask(&self, zone: usize, host: &str, path: &str) -> Result<Answer> {
        http::get(self.plan.zones[zone].gateway, host, path)
    }

    /// An error if a process ended that should run.
    pub fn check_alive(&mut self) -> Result<()> {
        for process in self.processes() {
            if let Some(status) = process.exited()? {
                bail!("{} ended: {status}", process.name());
            }
        }
        Ok(())
    }

    /// Forgets the processes that ended, and gives their names.
    pub fn reap(&mut self) -> Result<Vec<String>> {
        let mut ended = Vec::new();
        let mut gone = |process: &mut Process| -> Result<bool> {
            let gone = process.exited()?.is_some();
            if gone {
                ended.push(process.name().to_owned());
            }
            Ok(gone)
        };
        let slots = self.zones.iter_mut().flat_map(|z| [&mut z.control_plane, &mut z.gateway]);
        for slot in slots.chain([&mut self.global]) {
            if let Some(process) = slot
                && gone(process)?
            {
                *slot = None;
            }
        }
        for zone in &mut self.zones {
            let mut kept = Vec::new();
            for mut process in zone.services.drain(..) {
                if !gone(&mut process)? {
                    kept.push(process);
                }
            }
            zone.services = kept;
        }
        Ok(ended)
    }

    /// The ends of all logs.
    pub fn log_tails(&mut self) -> String {
        self.processes()
            .into_iter()
            .map(|process| format!("--- {}\n{}\n", process.name(), process.log_tail(TAIL)))
            .collect()
    }

    /// Stops everything, gateways first. The names of those that had to be killed.
    pub fn stop(mut self) -> Vec<String> {
        let mut ranks: [Vec<Process>; 3] = Default::default();
        for zone in &mut self.zones {
            ranks[0].extend(zone.gateway.take());
            ranks[1].extend(zone.control_plane.take());
            ranks[2].append(&mut zone.services);
        }
        ranks[2].extend(self.global.take());
        let mut stubborn = Vec::new();
        for mut rank in ranks {
            rank.iter_mut().for_each(Process::terminate);
            for process in &mut rank {
                if !process.stop(END) {
                    stubborn.push(process.name().to_owned());
                }
            }
        }
        stubborn
    }

    fn start_services(&mut self, zone: usize) -> Result<()> {
        let plan = &self.plan.zones[zone];
        for (service, address) in &plan.services {
            let mut command = self.program("sunbear-echo");
            command.args(["--name", service, "--zone", &plan.name]);
            command.args(["--listen", &address.to_string()]);
            let name = format!("{service}-{}", plan.name);
            let process = Process::spawn(&name, command, &self.logs())?;
            self.zones[zone].services.push(process);
        }
        Ok(())
    }

    fn register_services(&mut self, zone: usize) -> Result<()> {
        let plan = self.plan.zones[zone].clone();
        for (service, address) in &plan.services {
            self.await_answer(&format!("{service} in {}", plan.name), *address, "/")?;
        }
        let template = quickstart("service-dataplane.yaml")?;
        let template = template.to_str().context("a path that is not UTF-8")?;
        for (service, address) in &plan.services {
            let values = [
                format!("--var=name={service}-{}", plan.name),
                format!("--var=service={service}"),
                format!("--var=address={}", address.ip()),
                format!("--var=port={}", address.port()),
            ];
            let mut arguments = vec!["apply", "-f", template];
            arguments.extend(values.iter().map(String::as_str));
            self.ctl(plan.http, &arguments)?;
        }
        Ok(())
    }

    /// The zone can sign once the global's signing key has arrived.
    fn write_token(&mut self, zone: usize) -> Result<()> {
        let port = self.plan.zones[zone].http;
        let tag = format!("--tag=kuma.io/service={}", plan::GATEWAY_SERVICE);
        let arguments = ["generate", "dataplane-token", "--mesh=default", "--valid-for=24h", &tag];
        let token = until("a token for the gateway", START, || {
            self.check_alive()?;
            Ok(match self.ctl(port, &arguments) {
                Ok(token) => Look::Done(token),
                Err(error) => Look::NotYet(format!("{error:#}")),
            })
        })?;
        let file = self.folder_of(zone).join("gateway.token");
        let mut file =
            OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(file)?;
        Ok(file.write_all(token.as_bytes())?)
    }

    fn await_mesh(&mut self, who: &str, port: u16) -> Result<()> {
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        self.await_answer(who, address, "/meshes/default")
    }

    fn await_answer(&mut self, who: &str, address: SocketAddr, path: &str) -> Result<()> {
        until(who, START, || {
            self.check_alive()?;
            Ok(match http::get(address, &address.to_string(), path) {
                Ok(answer) if answer.status == 200 => Look::Done(()),
                Ok(answer) => Look::NotYet(format!("{path} answers {}", answer.status)),
                Err(error) => Look::NotYet(format!("{error:#}")),
            })
        })
    }

    fn processes(&mut self) -> Vec<&mut Process> {
        let mut all: Vec<_> = self.global.iter_mut().collect();
        for zone in &mut self.zones {
            all.extend(&mut zone.control_plane);
            all.extend(&mut zone.services);
            all.extend(&mut zone.gateway);
        }
        all
    }

    /// A program of ours.
    fn program(&self, name: &str) -> Command {
        process::command(&self.program_path(name))
    }

    fn folder_of(&self, zone: usize) -> PathBuf {
        self.settings.folder.join(&self.plan.zones[zone].name)
    }

    fn logs(&self) -> PathBuf {
        self.settings.folder.join("logs")
    }
}

/// A file of `docs/quickstart`.
pub fn quickstart(name: &str) -> Result<PathBuf> {
    Ok(project::root()?.join("docs/quickstart").join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quickstart_gateway_has_the_port_that_a_copy_replaces() {
        let text = fs::read_to_string(quickstart("gateway.yaml").unwrap()).unwrap();
        assert_eq!(text.matches(&format!("port: {GATEWAY_PORT}\n")).count(), 1);
    }

    #[test]
    fn missing_programs_are_named_before_anything_starts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let settings = Settings::new(path.clone(), path.join("envoy"), path.join("demo"));
        let error = Topology::prepare(settings).unwrap_err().to_string();
        assert!(error.ends_with("sunbear-global"), "{error}");
    }
}
