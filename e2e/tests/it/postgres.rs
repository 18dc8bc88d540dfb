//! A Postgres server with a password.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use tempfile::TempDir;
use xtask::{process::Process, project};

use crate::control_plane::{PATIENCE, free_ports};

/// The superuser of the database, and the database.
const USER: &str = "sunbear";
/// Who runs the server where we are root, which it refuses to be.
const NOBODY: u32 = 65_534;

/// A server that ends when this is dropped.
pub(crate) struct Postgres {
    pub(crate) port: u16,
    /// Dropped before the folder.
    _process: Process,
    _folder: TempDir,
}

impl Postgres {
    /// Starts a server whose user `sunbear` has this password. None, and a message, if there is no
    /// Postgres on this machine.
    pub(crate) fn start(password: &str) -> Option<Self> {
        let Some(programs) = programs() else {
            eprintln!("SKIPPED: no initdb and postgres in PATH or /usr/lib/postgresql");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("sunbear-e2e-postgres-").tempdir().unwrap();
        let own = |path: &Path| {
            if project::is_root() {
                chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
        };
        own(folder.path());
        let file = folder.path().join("password");
        fs::write(&file, password).unwrap();
        own(&file);
        let mut initdb = command(&programs.join("initdb"), folder.path());
        initdb.args(["-D", "data", "-U", USER, "-A", "scram-sha-256", "--pwfile", "password"]);
        let made = initdb.args(["--no-sync", "--locale=C"]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let [port] = free_ports();
        let mut server = command(&programs.join("postgres"), folder.path());
        server.args(["-D", "data", "-k", "", "-h", "127.0.0.1", "-p", &port.to_string()]);
        let process = Process::spawn("postgres", server, folder.path()).unwrap();
        let start = Instant::now();
        while !process.log_tail(50).contains("ready to accept connections") {
            assert!(start.elapsed() < PATIENCE, "{}", process.log_tail(50));
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Some(Self { port, _process: process, _folder: folder })
    }
}

fn command(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).stdin(Stdio::null());
    if project::is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// The folder of the server's programs.
fn programs() -> Option<PathBuf> {
    let debian: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin"))
        .collect();
    let folder = project::find_program("initdb", &debian)?.parent()?.to_owned();
    project::is_executable(&folder.join("postgres")).then_some(folder)
}
