//! A throw-away Postgres, for tests, benchmarks and the demo. It ends with the process that started
//! it, even if that is killed.

use std::{
    fs::{self, File},
    io,
    net::TcpListener,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use sqlx::{Connection as _, Executor as _, postgres::PgConnection};
use tempfile::TempDir;
use uuid::Uuid;

/// A server to be used instead of one of our own.
const URL: &str = "SUNBEAR_TEST_POSTGRES_URL";
const READY: Duration = Duration::from_secs(60);
/// Runs the server until standard input closes, which it does when our process ends in any way.
const WATCH: &str = r#""$@" </dev/null & pid=$!; cat >/dev/null; kill -QUIT $pid; wait $pid"#;

/// A Postgres server that is stopped on drop.
#[derive(Debug)]
pub struct TestPostgres {
    server: Server,
}

#[derive(Debug)]
enum Server {
    /// The URL of a database of a server that somebody else runs.
    External(String),
    Own {
        folder: TempDir,
        port: u16,
        programs: PathBuf,
        user: Option<(u32, u32)>,
        run: Mutex<Option<Child>>,
    },
}

impl TestPostgres {
    /// Starts a server. None, and a loud message, if there is no Postgres on this machine.
    pub async fn start() -> Option<Self> {
        if let Ok(url) = std::env::var(URL) {
            return Some(Self { server: Server::External(url) });
        }
        let Some(programs) = programs() else {
            report(&format!(
                "SKIPPED: no postgres and initdb in PATH or /usr/lib/postgresql, and {URL} is not set"
            ));
            return None;
        };
        match Self::start_own(programs).await {
            Ok(server) => Some(server),
            Err(error) => {
                report(&format!("SKIPPED: postgres does not start: {error}"));
                None
            }
        }
    }

    /// The server that the tests of this process share.
    pub async fn shared() -> Option<Arc<Self>> {
        static SHARED: tokio::sync::Mutex<Weak<TestPostgres>> =
            tokio::sync::Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(server) = shared.upgrade() {
            return Some(server);
        }
        let server = Arc::new(Self::start().await?);
        *shared = Arc::downgrade(&server);
        Some(server)
    }

    async fn start_own(programs: PathBuf) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("sunbear-postgres-").tempdir()?;
        // Postgres refuses to run as root.
        let root = fs::metadata("/proc/self")?.uid() == 0;
        let user = if root { Some(unprivileged()?) } else { None };
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid))?;
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut initdb = command(&programs.join("initdb"), user, folder.path());
        initdb.args(["-D", "data", "-U", "sunbear", "-A", "trust", "-E", "UTF8", "--locale=C"]);
        let output = initdb.arg("--no-sync").output()?;
        if !output.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        let run = Mutex::new(None);
        let this = Self { server: Server::Own { folder, port, programs, user, run } };
        this.run().await?;
        Ok(this)
    }

    /// False for a server that somebody else runs: [`Self::kill`] and [`Self::run`] do nothing.
    pub fn is_own(&self) -> bool {
        matches!(self.server, Server::Own { .. })
    }

    /// The URL of a database of this name.
    pub fn url(&self, database: &str) -> String {
        match &self.server {
            Server::Own { port, .. } => format!("postgres://sunbear@127.0.0.1:{port}/{database}"),
            Server::External(url) => {
                let (base, query) =
                    url.split_once('?').map_or((&**url, None), |(b, q)| (b, Some(q)));
                let scheme = base.find("://").map_or(0, |i| i + 3);
                let end = base[scheme..].find('/').map_or(base.len(), |i| i + scheme);
                let query = query.map(|q| format!("?{q}")).unwrap_or_default();
                format!("{}/{database}{query}", &base[..end])
            }
        }
    }

    /// Makes an empty database; returns its URL.
    pub async fn create_database(&self) -> Result<String, sqlx::Error> {
        let name = format!("sunbear_{}", Uuid::new_v4().simple());
        let main = match &self.server {
            Server::Own { .. } => self.url("postgres"),
            Server::External(url) => url.clone(),
        };
        let mut connection = PgConnection::connect(&main).await?;
        connection.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).await?;
        connection.close().await?;
        Ok(self.url(&name))
    }

    /// Stops the server at once, as a crash would: connections break, nothing is written any more.
    pub fn kill(&self) {
        if let Server::Own { run, .. } = &self.server
            && let Some(mut watch) = run.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            drop(watch.stdin.take());
            // An error means that it is gone already.
            let _ = watch.wait();
        }
    }

    /// Starts the server after [`Self::kill`]; returns when it takes connections.
    pub async fn run(&self) -> io::Result<()> {
        let Server::Own { folder, port, programs, user, run } = &self.server else {
            return Ok(());
        };
        let log = File::options().create(true).append(true).open(folder.path().join("log"))?;
        let mut watch = command(Path::new("/bin/sh"), *user, folder.path());
        watch.args(["-c", WATCH, "sh"]).arg(programs.join("postgres"));
        watch.args(["-D", "data", "-k", "", "-h", "127.0.0.1", "-p"]).arg(port.to_string());
        let watch = watch.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).spawn()?;
        *run.lock().unwrap_or_else(PoisonError::into_inner) = Some(watch);
        let deadline = Instant::now() + READY;
        loop {
            match PgConnection::connect(&self.url("postgres")).await {
                Ok(connection) => {
                    return connection.close().await.map_err(io::Error::other);
                }
                Err(error) if Instant::now() > deadline => {
                    let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
                    return Err(io::Error::other(format!("{error}\n{log}")));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

impl Drop for TestPostgres {
    fn drop(&mut self) {
        self.kill();
    }
}

#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
fn report(message: &str) {
    eprintln!("{message}");
}

/// The folder of the programs: in PATH, or that of the newest version where Debian puts them.
fn programs() -> Option<PathBuf> {
    let has = |folder: &PathBuf| folder.join("initdb").exists() && folder.join("postgres").exists();
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(folder) = std::env::split_paths(&path).find(has) {
        return Some(folder);
    }
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|f| Some((f.file_name().to_str()?.parse().ok()?, f.path().join("bin"))))
        .filter(|(_, folder)| has(folder))
        .collect();
    versions.sort();
    versions.pop().map(|(_, folder)| folder)
}

/// User and group to run as instead of root.
fn unprivileged() -> io::Result<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd")?;
    let ids = |name: &str| {
        let mut fields =
            users.lines().map(|l| l.split(':')).find(|l| l.clone().next() == Some(name))?;
        let uid = fields.nth(2)?.parse().ok()?;
        Some((uid, fields.next()?.parse().ok()?))
    };
    ids("postgres")
        .or_else(|| ids("nobody"))
        .ok_or_else(|| io::Error::other("neither user postgres nor nobody exists"))
}

fn command(program: &Path, user: Option<(u32, u32)>, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).stdin(Stdio::null());
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command
}
