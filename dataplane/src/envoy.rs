//! Envoy's process: its version, its start and its end.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde::Serialize;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::settings::EnvoySettings;

/// The Envoy that Kuma's 2.14 contract is made with.
const EXPECTED: (u32, u32, u32) = (1, 38, 2);
/// How long an Envoy that was asked to stop may take.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// Limit of `envoy --mode validate`.
const VALIDATE_TIMEOUT: Duration = Duration::from_secs(60);
/// Orders to one process: at most one to stop and one to kill are outstanding.
const ORDERS: usize = 4;

/// What `envoy --version` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EnvoyVersion {
    /// E.g. `1.38.2`.
    pub(crate) version: String,
    /// All five parts.
    pub(crate) build: String,
    /// Whether it is the expected minor version, and not older.
    pub(crate) kuma_dp_compatible: bool,
}

impl EnvoyVersion {
    /// Asks the executable.
    pub(crate) async fn of(binary: &Path) -> anyhow::Result<EnvoyVersion> {
        let output = Command::new(binary)
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .await
            .with_context(|| {
                format!(
                    "cannot run {} --version; give Envoy's path with --binary-path",
                    binary.display()
                )
            })?;
        ensure!(
            output.status.success(),
            "{} --version ended with {}",
            binary.display(),
            output.status
        );
        Self::parse(&String::from_utf8_lossy(&output.stdout))
    }

    /// Reads the line `… version: REVISION/VERSION/STATUS/TYPE/TLS`.
    pub(crate) fn parse(output: &str) -> anyhow::Result<EnvoyVersion> {
        let Some(build) =
            output.lines().find_map(|line| Some(line.split_once("version:")?.1.trim()))
        else {
            bail!("envoy --version prints no version");
        };
        let [_, version, _, _, _] = build.split('/').collect::<Vec<_>>()[..] else {
            bail!("envoy --version prints {build:?}, which has not five parts");
        };
        Ok(EnvoyVersion {
            version: version.to_owned(),
            build: build.to_owned(),
            kuma_dp_compatible: is_compatible(version),
        })
    }

    /// The expected version, for messages.
    pub(crate) fn expected() -> String {
        format!("{}.{}.{}", EXPECTED.0, EXPECTED.1, EXPECTED.2)
    }
}

fn is_compatible(version: &str) -> bool {
    let mut parts = version.split(['.', '-']).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch))) =
        (parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    (major, minor) == (EXPECTED.0, EXPECTED.1) && patch >= EXPECTED.2
}

/// Has Envoy judge a configuration file without starting it.
pub(crate) async fn validate(binary: &Path, config: &Path) -> anyhow::Result<()> {
    let run = Command::new(binary)
        .args([
            "--mode",
            "validate",
            "--disable-hot-restart",
            "--log-level",
            "error",
            "--config-path",
        ])
        .arg(config)
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(VALIDATE_TIMEOUT, run)
        .await
        .context("Envoy did not judge it in time")??;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let reason =
            text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no reason given");
        bail!("Envoy refuses it: {}", reason.trim());
    }
    Ok(())
}

/// A handle of a running Envoy. Dropping it does not stop Envoy.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pid: u32,
    config: PathBuf,
    orders: mpsc::Sender<Order>,
    ended: watch::Receiver<bool>,
}

#[derive(Debug, Clone, Copy)]
enum Order {
    Stop,
    Kill,
}

impl Process {
    /// Starts Envoy; `on_end` is called with its status when it has ended.
    pub(crate) fn start<F>(
        settings: &EnvoySettings,
        drain_time: Duration,
        config: &Path,
        on_end: impl FnOnce(String) -> F + Send + 'static,
    ) -> anyhow::Result<Process>
    where
        F: Future<Output = ()> + Send,
    {
        let mut command = Command::new(&settings.binary);
        command
            .arg("--config-path")
            .arg(config)
            .arg("--drain-time-s")
            .arg(drain_time.as_secs().to_string())
            .args(["--drain-strategy", "immediate", "--disable-hot-restart", "--log-level"])
            .arg(envoy_level(&settings.log_level));
        if let Some(levels) = &settings.component_log_level {
            command.arg("--component-log-level").arg(levels);
        }
        match settings.concurrency {
            0 => command.arg("--cpuset-threads"),
            threads => command.arg("--concurrency").arg(threads.to_string()),
        };
        // A group of its own: Ctrl-C in a terminal is for us, and Envoy is then drained first.
        let child = command.stdin(Stdio::null()).process_group(0).spawn().with_context(|| {
            format!(
                "cannot start {}; give Envoy's path with --binary-path",
                settings.binary.display()
            )
        })?;
        let pid = child.id().context("Envoy ended while it was started")?;
        let (orders, received) = mpsc::channel(ORDERS);
        let (ended_sender, ended) = watch::channel(false);
        tokio::spawn(async move {
            let status = attend(child, pid, received).await;
            ended_sender.send_replace(true);
            on_end(status).await;
        });
        Ok(Process { pid, config: config.to_owned(), orders, ended })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// The configuration file that it was started with.
    pub(crate) fn config(&self) -> &Path {
        &self.config
    }

    /// Asks it to stop, and waits until it has; kills it when it takes too long.
    pub(crate) async fn stop(&self) {
        // An error means that it has ended.
        let _ = self.orders.send(Order::Stop).await;
        self.wait().await;
    }

    /// Kills it.
    pub(crate) async fn kill(&self) {
        let _ = self.orders.send(Order::Kill).await;
        self.wait().await;
    }

    /// Waits until it has ended.
    pub(crate) async fn wait(&self) {
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }
}

/// Owns the child until it ends, so that signals never go to a process id that was given away.
async fn attend(mut child: Child, pid: u32, mut orders: mpsc::Receiver<Order>) -> String {
    let mut kill_at: Option<Instant> = None;
    let mut open = true;
    loop {
        tokio::select! {
            status = child.wait() => {
                return status.map_or_else(|error| error.to_string(), |status| status.to_string());
            }
            order = orders.recv(), if open => match order {
                Some(Order::Stop) => {
                    send_signal(pid, Signal::SIGTERM);
                    kill_at.get_or_insert(Instant::now() + STOP_GRACE);
                }
                Some(Order::Kill) => send_signal(pid, Signal::SIGKILL),
                None => open = false,
            },
            () = tokio::time::sleep_until(kill_at.unwrap_or_else(Instant::now)), if kill_at.is_some() => {
                tracing::warn!(pid, "Envoy does not stop, killing it");
                send_signal(pid, Signal::SIGKILL);
                kill_at = None;
            }
        }
    }
}

/// Sends a signal; a process that is gone needs none.
pub(crate) fn send_signal(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = nix::sys::signal::kill(Pid::from_raw(pid), signal);
    }
}

fn envoy_level(level: &str) -> &str {
    if level == "warn" { "warning" } else { level }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let line = "\nenvoy  version: f387231af8dd/1.38.2/Clean/RELEASE/BoringSSL\n\n";
        let version = EnvoyVersion::parse(line).unwrap();
        assert_eq!(version.version, "1.38.2");
        assert_eq!(version.build, "f387231af8dd/1.38.2/Clean/RELEASE/BoringSSL");
        assert!(version.kuma_dp_compatible);
        assert!(EnvoyVersion::parse("envoy version: 1.38.2").is_err());
        assert!(EnvoyVersion::parse("hello").is_err());
    }

    #[test]
    fn compatible_is_the_same_minor_and_not_older() {
        for (version, expected) in [
            ("1.38.2", true),
            ("1.38.9", true),
            ("1.38.1", false),
            ("1.39.0", false),
            ("1.38.3-dev", true),
            ("x", false),
        ] {
            assert_eq!(is_compatible(version), expected, "{version}");
        }
    }
}
