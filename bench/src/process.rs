//! A control plane as a child process, and what the system says of it.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::http::Connection;

/// A running control plane; killed when dropped.
pub(crate) struct ControlPlane {
    child: Child,
}

impl ControlPlane {
    /// Starts `program` with `environment` and waits until its API answers.
    pub(crate) async fn start(
        program: &Path,
        environment: &[(String, String)],
        api: &str,
        log: &Path,
    ) -> Result<Self> {
        let log = std::fs::File::create(log)?;
        let child = Command::new(program)
            .arg("run")
            .envs(environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let plane = Self { child };
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut connection = Connection::new(api);
        loop {
            if let Ok(answer) = connection.send("GET", "/meshes/default", None, None).await
                && answer.status == 200
            {
                return Ok(plane);
            }
            if Instant::now() > deadline {
                bail!("{} does not answer on {api}", program.display());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time that a process has used.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = stat.rsplit(')').next().context("stat")?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    // Fields 14 and 15 of the file, in ticks of 10 ms on Linux.
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}

/// Resident memory in MB (10^6 bytes).
pub(crate) fn resident_mb(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).context("VmRSS")?;
    let kib: f64 = line.split_whitespace().nth(1).context("VmRSS")?.parse()?;
    Ok(kib * 1024.0 / 1e6)
}
