//! A Postgres of the harness: a throw-away server that can be killed, frozen and exchanged.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::{Gid, Uid, User};
use tempfile::TempDir;
use xtask::{
    process::Process,
    project,
    wait::{Look, until},
};

use super::plan::free_port;
use crate::request::is_postgres_ready;

/// The superuser of the database.
pub(super) const USER: &str = "sunbear";

const START: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Database {
    process: Option<Process>,
    port: u16,
    programs: PathBuf,
    /// Who runs it if we are root, which Postgres refuses to be.
    user: Option<(Uid, Gid)>,
    folder: TempDir,
    logs: PathBuf,
}

impl Database {
    pub(super) fn start(logs: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("sunbear-e2e-postgres-").tempdir()?;
        let user = if project::is_root() { Some(unprivileged()?) } else { None };
        if let Some((uid, gid)) = user {
            chown(folder.path(), Some(uid.as_raw()), Some(gid.as_raw()))?;
        }
        let mut this = Self {
            process: None,
            port: free_port()?,
            programs: programs()?,
            user,
            folder,
            logs: logs.to_owned(),
        };
        this.initialise()?;
        this.run()?;
        Ok(this)
    }

    pub(super) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
        command
    }

    fn initialise(&self) -> Result<()> {
        let mut initdb = self.command("initdb");
        initdb.args(["-D", "data", "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C"]);
        let output = initdb.arg("--no-sync").output()?;
        if !output.status.success() {
            bail!("initdb: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Starts it and waits until it takes connections.
    pub(super) fn run(&mut self) -> Result<()> {
        let mut command = self.command("postgres");
        command
            .args(["-D", "data", "-k", "", "-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(["-c", "shared_buffers=16MB"]);
        self.process = Some(Process::spawn("postgres", command, &self.logs)?);
        until("postgres", START, || {
            let process = self.process.as_mut().context("postgres is gone")?;
            if let Some(status) = process.exited()? {
                bail!("postgres ended: {status}\n{}", process.log_tail(20));
            }
            Ok(match self.is_ready() {
                true => Look::Done(()),
                false => Look::NotYet("it takes no connections".to_owned()),
            })
        })
    }

    pub(super) fn kill(&mut self) {
        self.process = None;
    }

    pub(super) fn stop(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        // SIGTERM would wait for the clients to go.
        let id = i32::try_from(process.id())?;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGINT)?;
        until("the end of postgres", END, || {
            Ok(match process.exited()? {
                Some(_) => Look::Done(()),
                None => Look::NotYet("it runs".to_owned()),
            })
        })
    }

    pub(super) fn pause(&self) {
        self.process.iter().for_each(Process::pause);
    }

    pub(super) fn resume(&self) {
        self.process.iter().for_each(Process::resume);
    }

    /// Takes connections of users: not while it starts, recovers or ends.
    pub(super) fn is_ready(&self) -> bool {
        is_postgres_ready(self.address(), USER)
    }

    /// Exchanges the data for an empty database.
    pub(super) fn set_aside(&mut self) -> Result<()> {
        self.stop()?;
        fs::rename(self.folder.path().join("data"), self.folder.path().join("former"))?;
        self.initialise()?;
        self.run()
    }

    /// Puts the former data back.
    pub(super) fn restore(&mut self) -> Result<()> {
        self.stop()?;
        fs::remove_dir_all(self.folder.path().join("data"))?;
        fs::rename(self.folder.path().join("former"), self.folder.path().join("data"))?;
        self.run()
    }
}

/// The folder of the programs: in `PATH`, or that of the newest version where Debian has them.
fn programs() -> Result<PathBuf> {
    let is_there =
        |folder: &PathBuf| folder.join("initdb").exists() && folder.join("postgres").exists();
    let path = env::var_os("PATH").unwrap_or_default();
    if let Some(folder) = env::split_paths(&path).find(is_there) {
        return Ok(folder);
    }
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|f| Some((f.file_name().to_str()?.parse().ok()?, f.path().join("bin"))))
        .filter(|(_, folder)| is_there(folder))
        .collect();
    versions.sort();
    Ok(versions.pop().context("no postgres and initdb in PATH or /usr/lib/postgresql")?.1)
}

fn unprivileged() -> Result<(Uid, Gid)> {
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name)? {
            return Ok((user.uid, user.gid));
        }
    }
    bail!("neither user postgres nor nobody exists")
}
