//! Docker's engine and Compose: found, or installed from Debian and started.

use std::{
    env,
    ffi::OsString,
    fs::{self, OpenOptions},
    net::{Ipv4Addr, TcpListener},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    project,
    wait::{Look, until},
};

/// For the engine to come up.
const START: Duration = Duration::from_secs(60);

/// Where an engine that we start logs.
const LOG: &str = "/var/log/sunbear-dockerd.log";

/// Kernel file systems of control groups, each in a folder of its own.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Programs to talk to an engine that runs.
#[derive(Debug, Clone)]
pub struct Engine {
    docker: PathBuf,
    compose: Compose,
}

/// Compose comes as a program, or as a part of the newer `docker`.
#[derive(Debug, Clone)]
enum Compose {
    Program(PathBuf),
    Plugin,
}

/// Why there is no engine; the reason is for people.
#[derive(Debug)]
pub struct Unavailable(pub String);

impl Engine {
    /// Finds an engine that runs and Compose. What is missing is installed and started if this is
    /// the superuser of a Debian, which is said on stderr.
    pub fn find_or_start() -> Result<Self> {
        match Self::available() {
            Ok(()) => {}
            Err(Unavailable(why)) => bail!("no Docker: {why}"),
        }
        let mut missing = Vec::new();
        let docker = project::find_program("docker", &[]);
        if docker.is_none() || (!runs(docker.as_deref()) && find_dockerd().is_none()) {
            missing.push("docker.io");
        }
        if docker.as_deref().and_then(find_compose).is_none() {
            missing.push("docker-compose");
        }
        if !missing.is_empty() {
            eprintln!("no Docker's engine or no Compose here");
            project::apt_install(&missing)?;
        }
        let docker = project::find_program("docker", &[]).context("docker.io brought no docker")?;
        if !runs(Some(&docker)) {
            start(&docker)?;
        }
        let compose = find_compose(&docker).context("docker-compose brought no docker-compose")?;
        Ok(Self { docker, compose })
    }

    /// Whether there is an engine, or could be one.
    pub fn available() -> std::result::Result<(), Unavailable> {
        let docker = project::find_program("docker", &[]);
        let here = runs(docker.as_deref()) && docker.as_deref().and_then(find_compose).is_some();
        if here {
            return Ok(());
        }
        let no = |why: &str| Err(Unavailable(why.to_owned()));
        if !cfg!(target_os = "linux") {
            return no("none is running, and only on Linux could one be started");
        }
        if !project::is_root() {
            return no("none is running (or none that this user may talk to, or no Compose), and \
                 only root can install and start one");
        }
        if find_dockerd().is_none() && project::find_program("apt-get", &[]).is_none() {
            return no("none is installed, and without apt-get none can be");
        }
        Ok(())
    }

    /// `docker` with these arguments.
    pub fn docker(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.docker);
        command.args(arguments);
        command
    }

    /// Compose with these arguments, in the project's root.
    pub fn compose(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = match &self.compose {
            Compose::Program(program) => Command::new(program),
            Compose::Plugin => {
                let mut command = Command::new(&self.docker);
                command.arg("compose");
                command
            }
        };
        command.current_dir(project::root()?).args(arguments);
        Ok(command)
    }

    /// A `PATH` in which `docker-compose` is there as a program; `scratch` may take one.
    pub fn path_with_compose(&self, scratch: &Path) -> Result<OsString> {
        let path = env::var_os("PATH").unwrap_or_default();
        if let Compose::Program(_) = self.compose {
            return Ok(path);
        }
        let folder = scratch.join("bin");
        let program = folder.join("docker-compose");
        fs::create_dir_all(&folder)?;
        fs::write(&program, format!("#!/bin/sh\nexec {} compose \"$@\"\n", self.docker.display()))?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        Ok(env::join_paths([folder].into_iter().chain(env::split_paths(&path)))?)
    }

    /// The standard output of `docker` with these arguments.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        output(self.docker(arguments))
    }

    /// Whether the engine has that image.
    pub fn has_image(&self, name: &str) -> bool {
        succeeds(self.docker(&["image", "inspect", name]))
    }

    /// The beginnings of two networks that the engine has not given away.
    pub fn free_networks(&self) -> Result<[String; 2]> {
        let ids = self.ask(&["network", "ls", "--quiet"])?;
        let mut arguments =
            vec!["network", "inspect", "--format", "{{range .IPAM.Config}}{{.Subnet}} {{end}}"];
        arguments.extend(ids.lines());
        let taken = self.ask(&arguments)?;
        choose_networks(&taken, process::id())
    }
}

/// Ports of 127.0.0.1 that nobody listens on.
pub fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let listeners = [0; N].map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener
            .as_ref()
            .map_err(|error| anyhow::anyhow!("no free port: {error}"))?
            .local_addr()?
            .port();
    }
    Ok(ports)
}

/// Begins anywhere, so that two who choose at the same time rarely meet.
fn choose_networks(taken: &str, seed: u32) -> Result<[String; 2]> {
    let taken: Vec<_> = taken.split_whitespace().collect();
    let free = |net: &String| !taken.iter().any(|subnet| subnet.starts_with(&format!("{net}.")));
    let mut nets = (0..240)
        .map(|step| format!("10.232.{}", (seed.wrapping_add(step) % 240) + 10))
        .filter(free);
    match (nets.next(), nets.next()) {
        (Some(east), Some(west)) => Ok([east, west]),
        _ => bail!("no free networks in 10.232.0.0/16"),
    }
}

/// The standard output; an error with what it says on stderr if it fails.
pub fn output(mut command: Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        bail!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn succeeds(mut command: Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn find_compose(docker: &Path) -> Option<Compose> {
    if let Some(program) = project::find_program("docker-compose", &[]) {
        return Some(Compose::Program(program));
    }
    let mut plugin = Command::new(docker);
    plugin.args(["compose", "version"]);
    succeeds(plugin).then_some(Compose::Plugin)
}

fn find_dockerd() -> Option<PathBuf> {
    project::find_program("dockerd", &[PathBuf::from("/usr/sbin")])
}

/// Whether an engine answers.
fn runs(docker: Option<&Path>) -> bool {
    let Some(docker) = docker else { return false };
    let mut command = Command::new(docker);
    // The client answers this with an error if there is no server behind it.
    command.args(["version", "--format", "{{.Server.Version}}"]);
    succeeds(command)
}

fn start(docker: &Path) -> Result<()> {
    if Path::new("/run/systemd/system").is_dir() {
        eprintln!("starting Docker's engine with systemctl");
        let mut command = Command::new("systemctl");
        command.args(["start", "docker"]);
        project::run(command)?;
    } else {
        mount_cgroups()?;
        by_hand()?;
    }
    until("Docker's engine", START, || {
        Ok(if runs(Some(docker)) {
            Look::Done(())
        } else {
            Look::NotYet(format!("it does not answer; see {LOG}"))
        })
    })
}

/// An engine without an init system around it. It goes on when we end.
fn by_hand() -> Result<()> {
    let dockerd = find_dockerd().context("docker.io brought no dockerd")?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(LOG)
        .with_context(|| format!("cannot write {LOG}"))?;
    let child = Command::new(dockerd)
        .arg("--storage-driver=overlay2")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("cannot start dockerd")?;
    eprintln!(
        "no init system here: started dockerd as process {}, which stays until it is killed; its \
         log is {LOG}",
        child.id()
    );
    Ok(())
}

/// Machines without an init system may lack what it would have mounted.
fn mount_cgroups() -> Result<()> {
    let folder = Path::new(CGROUPS);
    let empty = fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none());
    if !empty {
        return Ok(());
    }
    eprintln!("mounting control groups at {CGROUPS}");
    let mut command = Command::new("mount");
    command.args(["-t", "cgroup2", "none", CGROUPS]);
    project::run(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_that_are_taken_are_passed_over() {
        let taken = "172.17.0.0/16 \n10.232.10.0/24 10.232.12.0/24";
        assert_eq!(choose_networks(taken, 0).unwrap(), ["10.232.11", "10.232.13"]);
        // 10.232.1 is not the beginning of 10.232.10.
        assert_eq!(choose_networks("10.232.100.0/24", 0).unwrap(), ["10.232.10", "10.232.11"]);
        let all: String = (0..250).map(|n| format!("10.232.{n}.0/24 ")).collect();
        assert!(choose_networks(&all, 7).is_err());
    }
}
