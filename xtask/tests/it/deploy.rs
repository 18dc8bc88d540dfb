//! `docs/deploy.md`, part "Plain machines": its commands in their order, on one machine, in a folder
//! that stands for the file systems of all of them. A script stands for systemd: it starts what the
//! units say.

use std::{
    env, fs,
    net::TcpListener,
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;
use xtask::{document, project};

/// The program of this name, built in the same profile as this test.
fn programs() -> PathBuf {
    let own = env::current_exe().unwrap();
    own.parent().unwrap().parent().unwrap().to_owned()
}

fn deploy_md() -> String {
    fs::read_to_string(project::root().unwrap().join("docs/deploy.md")).unwrap()
}

/// The folder of a server's and its clients' programs, in Debian's place or in `PATH`.
fn postgres() -> Option<PathBuf> {
    let debian = PathBuf::from("/usr/lib/postgresql/15/bin");
    let all = ["initdb", "pg_ctl", "psql", "pg_dump", "pg_restore", "pg_basebackup"];
    let mut folders: Vec<_> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    folders.insert(0, debian);
    folders.into_iter().find(|folder| all.iter().all(|n| project::is_executable(&folder.join(n))))
}

/// Whom Postgres runs as: it refuses to be root.
fn postgres_user() -> Option<(u32, u32)> {
    if !project::is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let ids = |name: &str| {
        let line = users.lines().find(|line| line.starts_with(&format!("{name}:")))?;
        let fields: Vec<_> = line.split(':').collect();
        Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
    };
    Some(ids("postgres").or_else(|| ids("nobody")).unwrap())
}

struct Machines {
    root: TempDir,
    postgres: PathBuf,
    user: Option<(u32, u32)>,
    ports: Vec<u16>,
    /// The first three bytes of addresses that nobody else uses.
    net: String,
}

impl Machines {
    fn new(postgres: PathBuf) -> Self {
        let root = tempfile::Builder::new().prefix("sbd").tempdir_in("/tmp").unwrap();
        // Postgres' user has to get through.
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let listeners: Vec<_> =
            (0..16).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
        let id = std::process::id();
        let net = format!("127.{}.{}", 100 + id / 250 % 100, 1 + id % 250);
        let machines = Self { root, postgres, user: postgres_user(), ports, net };
        machines.lay_out();
        machines
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn lay_out(&self) {
        for folder in [
            "usr/local/bin",
            "etc/systemd/system",
            "var/backups",
            "var/lib/postgresql/15",
            "pg/main",
            "pg/standby",
            "ports",
            "pids",
            "log",
            "bin",
            "quickstart",
        ] {
            fs::create_dir_all(self.path(folder)).unwrap();
        }
        if let Some((user, group)) = self.user {
            for folder in ["var/lib/postgresql/15", "pg", "pg/main", "pg/standby"] {
                chown(self.path(folder), Some(user), Some(group)).unwrap();
            }
        }
        let root = project::root().unwrap();
        for file in fs::read_dir(root.join("docs/quickstart")).unwrap() {
            let file = file.unwrap().path();
            let text = fs::read_to_string(&file).unwrap();
            let text = text.replace("port: 8080", &format!("port: {}", self.ports[15]));
            fs::write(self.path("quickstart").join(file.file_name().unwrap()), text).unwrap();
        }
        let p = &self.ports;
        let control_plane = |first: usize| {
            format!(
                "KUMA_API_SERVER_HTTP_PORT={}\nKUMA_API_SERVER_HTTPS_PORT={}\n\
                 KUMA_DIAGNOSTICS_SERVER_PORT={}\nKUMA_MULTIZONE_GLOBAL_KDS_GRPC_PORT={}\n\
                 KUMA_DP_SERVER_PORT={}\n",
                p[first],
                p[first + 1],
                p[first + 2],
                p[first + 3],
                p[first + 4]
            )
        };
        fs::write(self.path("ports/sunbear-global"), control_plane(0)).unwrap();
        fs::write(self.path("ports/sunbear-zone"), control_plane(5)).unwrap();
        let proxy = format!("KUMA_READINESS_PORT={}\nKUMA_DATAPLANE_DRAIN_TIME=1s\n", p[10]);
        fs::write(self.path("ports/sunbear-dp"), proxy).unwrap();
        let here = root.join("xtask/tests/it/systemctl");
        symlink(here, self.path("bin/systemctl")).unwrap();
        let envoy = xtask::envoy::find_or_fetch().unwrap();
        self.script("cargo", &format!("[ \"$*\" = 'xtask envoy' ] && echo {}", envoy.display()));
        // Postgres' clients may be root, and as whom they connect is said by the environment.
        self.script("sudo", "[ \"$1 $2\" = '-u postgres' ] && shift 2 && exec \"$@\"");
    }

    fn script(&self, name: &str, text: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A Postgres cluster as Debian's package makes one.
    fn make_cluster(&self) {
        let mut command = self.bash(
            "db",
            "$POSTGRES_USER_COMMAND initdb -D $ROOT/var/lib/postgresql/15/main -U postgres -A trust \
             -E UTF8 --locale=C --no-sync >/dev/null && systemctl start postgresql@15-main",
        );
        assert!(command.status().unwrap().success());
    }

    /// What the text says, here.
    fn translate(&self, machine: &str, text: &str) -> String {
        let root = self.root.path().display();
        let (p, net) = (&self.ports, &self.net);
        let first = if machine == "zone" { 5 } else { 0 };
        let owner = |before: &str| match self.user {
            Some((user, group)) if before.starts_with("chown") => {
                format!("chown -R {user}:{group}")
            }
            Some((user, group)) => format!("-o {user} -g {group}"),
            None if before.starts_with("chown") => "true".to_owned(),
            None => String::new(),
        };
        let mut text = text.to_owned();
        for (from, to) in [
            ("target/release", programs().display().to_string()),
            ("docs/quickstart", format!("{root}/quickstart")),
            ("/etc/postgresql", format!("{root}/var/lib/postgresql")),
            ("/var/lib/", format!("{root}/var/lib/")),
            ("/var/backups", format!("{root}/var/backups")),
            ("/etc/sunbear", format!("{root}/etc/sunbear")),
            ("/etc/systemd", format!("{root}/etc/systemd")),
            ("/usr/local/bin", format!("{root}/usr/local/bin")),
            ("/run/", format!("{root}/run/")),
            ("localhost:5680", format!("127.0.0.1:{}", p[first + 2])),
            ("localhost:5681", format!("127.0.0.1:{}", p[first])),
            ("localhost:9902", format!("127.0.0.1:{}", p[10])),
            ("global.example.com:5685", format!("{net}.1:{}", p[3])),
            ("east.example.com:5678", format!("{net}.1:{}", p[9])),
            ("gw.example.com:8080", format!("{net}.2:{}", p[15])),
            ("global.example.com", format!("{net}.1")),
            ("east.example.com", format!("{net}.1")),
            ("gw.example.com", format!("{net}.2")),
            ("db-1.example.com", format!("{net}.3")),
            ("db-2.example.com", format!("{net}.4")),
            ("port: 5432", format!("port: {}", p[11])),
            ("DNS:", "IP:".to_owned()),
            ("192.0.2.20", "127.0.0.1".to_owned()),
            ("port=8000", format!("port={}", p[12])),
            ("-o postgres -g postgres", owner("-o")),
            ("chown -R postgres:postgres", owner("chown")),
        ] {
            // A path that was translated already must not be again.
            text = text.replace(from, &to.replace('/', "\u{1}"));
        }
        text.replace('\u{1}', "/")
    }

    fn bash(&self, machine: &str, text: &str) -> Command {
        let root = self.root.path();
        let mut path = vec![self.path("bin"), root.join("usr/local/bin"), self.postgres.clone()];
        path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        let user = match self.user {
            Some((user, group)) => {
                // Files of the home of whoever runs this are not Postgres' to read.
                format!("env HOME=/ setpriv --reuid={user} --regid={group} --clear-groups")
            }
            None => "env".to_owned(),
        };
        let cluster = if machine == "db-2" { "standby" } else { "main" };
        let mut command = Command::new("bash");
        command
            .args(["-euo", "pipefail", "-c", text])
            .current_dir(project::root().unwrap())
            .env("ROOT", root)
            .env("PATH", env::join_paths(path).unwrap())
            .env("POSTGRES_USER_COMMAND", user)
            .env("PGHOST", self.path("pg").join(cluster))
            .env("PGUSER", "postgres")
            .env("PGPORT", self.ports[11].to_string())
            .stdin(Stdio::null());
        command
    }

    /// Runs a block; if it fails, says where it is and what the programs logged.
    fn run(&self, block: &document::Block) {
        let machine = block.info.rsplit(' ').next().unwrap();
        let output = self.bash(machine, &self.translate(machine, &block.text)).output().unwrap();
        if !output.status.success() {
            let mut logs = String::new();
            for file in fs::read_dir(self.path("log")).unwrap() {
                let path = file.unwrap().path();
                let text = fs::read_to_string(&path).unwrap();
                let tail: Vec<_> = text.lines().rev().take(8).collect();
                logs += &format!("--- {}\n", path.display());
                tail.iter().rev().for_each(|line| logs += &format!("{line}\n"));
            }
            panic!(
                "docs/deploy.md:{}: {}\n{}{}\n{logs}",
                block.line,
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr),
            );
        }
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        let stop = "for file in $ROOT/pids/*; do [ -e $file ] && kill $(cat $file); done; \
                    for name in main standby; do \
                    $POSTGRES_USER_COMMAND pg_ctl -D $ROOT/var/lib/postgresql/15/$name -m immediate \
                    stop; done; true";
        let _ = self.bash("db", stop).stdout(Stdio::null()).stderr(Stdio::null()).status();
        // Envoy ends with its supervisor, which drains first; the folder must not go before.
        let gone = |name: &str| {
            fs::read_dir("/proc").unwrap().flatten().any(|entry| {
                let root = self.root.path().display().to_string();
                fs::read(entry.path().join("cmdline")).is_ok_and(|line| {
                    String::from_utf8_lossy(&line).contains(&format!("{root}{name}"))
                })
            })
        };
        let _ = xtask::wait::until("the end", std::time::Duration::from_secs(60), || {
            Ok(if gone("/usr/local/bin") {
                xtask::wait::Look::NotYet("programs run".to_owned())
            } else {
                xtask::wait::Look::Done(())
            })
        });
    }
}

#[test]
fn the_commands_for_plain_machines_work() {
    let Some(postgres) = postgres() else {
        eprintln!("SKIPPED: no Postgres 15 with its clients here");
        return;
    };
    let machines = Machines::new(postgres);
    let mut echo = Command::new(programs().join("sunbear-echo"));
    echo.args(["--name=frontend", "--zone=east", "--listen"]);
    echo.arg(format!("127.0.0.1:{}", machines.ports[12]));
    let _echo = xtask::process::Process::spawn("echo", echo, &machines.path("log")).unwrap();
    machines.make_cluster();
    let blocks: Vec<_> = document::fenced(&deploy_md())
        .into_iter()
        .filter(|block| block.info.starts_with("sh vm "))
        .collect();
    assert!(blocks.len() >= 15, "{} blocks", blocks.len());
    for block in &blocks {
        machines.run(block);
    }
    // The gateway answers what the global said, after all of it.
    let address = format!("{}.2:{}", machines.net, machines.ports[15]).parse().unwrap();
    let answer = xtask::http::get(address, "foo.example.com", "/asset").unwrap();
    assert_eq!(answer.header("x-echo"), Some("frontend/east"));
}

#[test]
fn every_command_is_of_a_tested_kind() {
    for block in document::fenced(&deploy_md()) {
        let tested = ["sh compose", "sh vm "].iter().any(|kind| block.info.starts_with(kind));
        assert!(tested, "docs/deploy.md:{}: nothing runs {:?}", block.line, block.info);
    }
}

#[test]
fn systemd_accepts_the_units() {
    let Some(analyze) = project::find_program("systemd-analyze", &[]) else {
        eprintln!("SKIPPED: no systemd-analyze here");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut units: Vec<_> = Vec::new();
    for file in fs::read_dir(project::root().unwrap().join("deploy/systemd")).unwrap() {
        let file = file.unwrap().path();
        let to = folder.path().join(file.file_name().unwrap());
        // The programs need not be installed where tests run.
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&to, text.replace("/usr/local/bin", &programs().display().to_string())).unwrap();
        hardened(&file, &text);
        units.push(to);
    }
    assert_eq!(units.len(), 3);
    let output = Command::new(analyze).args(["verify", "--man=no"]).args(&units).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

/// No program of ours runs as root or may write where it has no business.
fn hardened(unit: &Path, text: &str) {
    for line in [
        "DynamicUser=yes",
        "NoNewPrivileges=yes",
        "PrivateDevices=yes",
        "ProtectHome=yes",
        "ProtectKernelTunables=yes",
        "ProtectSystem=strict",
        "RestrictNamespaces=yes",
        "SystemCallFilter=@system-service",
    ] {
        assert!(text.lines().any(|l| l == line), "{} has no {line}", unit.display());
    }
}
