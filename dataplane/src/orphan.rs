//! Envoys that an earlier run left behind. When this program is killed its Envoy goes on serving;
//! the next run finds it by the process file, and stops it once a new Envoy serves.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::admin::Admin;
use crate::document::AdminAddress;
use crate::envoy::{Process, send_signal};
use crate::lifecycle::drain;

/// How long an orphan may take to stop.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// Pause between looks at a process that is not our child.
const LOOK: Duration = Duration::from_millis(50);

/// The list of running Envoys in the state folder: a line each, with process id, admin address and
/// configuration file, separated by tabs.
#[derive(Debug)]
pub(crate) struct ProcessFile {
    path: PathBuf,
}

/// An Envoy that is not our child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Orphan {
    pid: u32,
    admin: Option<AdminAddress>,
    config: PathBuf,
}

impl ProcessFile {
    /// The file in this folder.
    pub(crate) fn new(folder: &Path) -> ProcessFile {
        ProcessFile { path: folder.join("envoy.pid") }
    }

    /// Writes what runs.
    pub(crate) fn write<'a>(
        &self,
        running: impl Iterator<Item = (&'a Process, Option<&'a AdminAddress>)>,
        orphans: &[Orphan],
    ) -> io::Result<()> {
        let ours = running.map(|(process, admin)| Orphan {
            pid: process.pid(),
            admin: admin.cloned(),
            config: process.config().to_owned(),
        });
        let text: String = ours.chain(orphans.iter().cloned()).map(|envoy| envoy.line()).collect();
        if text.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            };
        }
        let temporary = self.path.with_extension("pid.tmp");
        crate::sealed::write_private(&temporary, text.as_bytes())?;
        fs::rename(temporary, &self.path)
    }

    /// Those of the file that still run.
    pub(crate) fn orphans(&self) -> Vec<Orphan> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        text.lines().filter_map(Orphan::parse).filter(Orphan::is_running).collect()
    }
}

impl Orphan {
    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Where its admin interface is.
    pub(crate) fn admin(&self) -> Option<AdminAddress> {
        self.admin.clone()
    }

    fn line(&self) -> String {
        let admin = self.admin.as_ref().map(ToString::to_string).unwrap_or_default();
        format!("{}\t{admin}\t{}\n", self.pid, self.config.display())
    }

    fn parse(line: &str) -> Option<Orphan> {
        let mut fields = line.split('\t');
        Some(Orphan {
            pid: fields.next()?.parse().ok()?,
            admin: AdminAddress::parse(fields.next()?),
            config: fields.next()?.into(),
        })
    }

    /// Whether the process is there and was started with this configuration: the id may long have
    /// been given to another process.
    fn is_running(&self) -> bool {
        let command_line = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let config = self.config.as_os_str().as_encoded_bytes();
        let mut arguments = command_line.split(|&byte| byte == 0);
        arguments.any(|argument| argument == b"--config-path") && arguments.next() == Some(config)
    }

    /// Moves its admin socket aside, where it still answers, so that new Envoys have the usual one.
    pub(crate) fn move_aside(&mut self, folder: &Path) {
        let aside = folder.join(format!("orphan-{}.sock", self.pid));
        if let Some(AdminAddress::Pipe(socket)) = &self.admin
            && *socket != aside
        {
            // If it cannot be moved it will be replaced, and this Envoy is stopped undrained.
            let moved = fs::rename(socket, &aside).is_ok();
            self.admin = moved.then_some(AdminAddress::Pipe(aside));
        }
    }

    /// Drains it, stops it and waits until it is gone.
    pub(crate) async fn retire(self, drain_time: Duration) {
        if let Some(admin) = self.admin.clone().map(Admin::new) {
            tokio::select! {
                () = drain(&admin, drain_time) => {}
                () = self.gone() => {}
            }
        }
        if self.is_running() {
            send_signal(self.pid, Signal::SIGTERM);
        }
        if tokio::time::timeout(STOP_GRACE, self.gone()).await.is_err() {
            send_signal(self.pid, Signal::SIGKILL);
            self.gone().await;
        }
        if let Some(AdminAddress::Pipe(socket)) = &self.admin {
            let _ = fs::remove_file(socket);
        }
    }

    async fn gone(&self) {
        while self.is_running() {
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_back() {
        let orphan = Orphan {
            pid: 7,
            admin: Some(AdminAddress::Tcp("127.0.0.1:9901".into())),
            config: "/w/b".into(),
        };
        assert_eq!(Orphan::parse(orphan.line().trim_end()), Some(orphan));
        let orphan = Orphan { pid: 8, admin: None, config: "/w/b".into() };
        assert_eq!(Orphan::parse(orphan.line().trim_end()), Some(orphan));
        assert_eq!(Orphan::parse("x\t\t"), None);
    }

    #[test]
    fn another_process_is_no_orphan() {
        let folder = tempfile::tempdir().unwrap();
        let file = ProcessFile::new(folder.path());
        let this =
            Orphan { pid: std::process::id(), admin: None, config: "/w/bootstrap.yaml".into() };
        file.write(std::iter::empty(), std::slice::from_ref(&this)).unwrap();
        assert_eq!(file.orphans(), []);
        file.write(std::iter::empty(), &[]).unwrap();
        assert!(!file.path.exists());
    }
}
