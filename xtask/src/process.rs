//! Child processes that log to a file and never outlive us, and neither does what they started:
//! that is known by a mark in its environment, because parents and process groups may change.

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{self, Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::interrupt;

/// The variable that marks a child and all that it starts.
const MARK: &str = "XTASK_PROCESS";

/// Makes marks differ.
static SPAWNED: AtomicU32 = AtomicU32::new(0);

/// How much of a log's end is read for a tail.
const TAIL_BYTES: u64 = 64 * 1024;

/// A running child.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    mark: String,
    terminated: bool,
}

impl Process {
    /// Starts `command`; its output goes to the end of `<logs>/<name>.log`.
    pub fn spawn(name: &str, mut command: Command, logs: &Path) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let mark = format!("{}-{}", process::id(), SPAWNED.fetch_add(1, Ordering::Relaxed));
        let child = command
            .env(MARK, &mark)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Ctrl-C in a terminal is for us alone.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self { name: name.to_owned(), log, child, mark, terminated: false })
    }

    /// The name given at the start.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines).unwrap_or_else(|error| format!("({}: {error})", self.log.display()))
    }

    /// The living processes that it started, directly or not, with their program's file name.
    pub fn family(&self) -> Vec<(u32, String)> {
        let variable = format!("{MARK}={}", self.mark);
        fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|file| file.file_name().to_str()?.parse().ok())
            .filter(|id| *id != self.id() && has_variable(*id, &variable))
            .filter_map(|id| Some((id, program_of(id)?)))
            .collect()
    }

    /// The file of its output.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// SIGSTOP, to it and all that it started: as a frozen machine, it keeps its connections and
    /// answers nobody.
    pub fn pause(&self) {
        self.signal_all(Signal::SIGSTOP);
    }

    /// Ends [`Self::pause`].
    pub fn resume(&self) {
        self.signal_all(Signal::SIGCONT);
    }

    fn signal_all(&self, what: Signal) {
        signal(self.id(), what);
        self.family().iter().for_each(|(id, _)| signal(*id, what));
    }

    /// SIGKILL, to it and all that it started.
    pub fn kill(&mut self) {
        signal(self.id(), Signal::SIGKILL);
        let _ = self.child.wait();
        self.kill_family();
    }

    /// SIGTERM, unless it got one already: a second would mean impatience.
    pub fn terminate(&mut self) {
        if !self.terminated && matches!(self.child.try_wait(), Ok(None)) {
            signal(self.id(), Signal::SIGTERM);
        }
        self.terminated = true;
    }

    /// SIGTERM; after `patience`, or when the user insists, SIGKILL. What it started and left
    /// behind is killed. True if it ended by itself and left nothing.
    pub fn stop(&mut self, patience: Duration) -> bool {
        self.terminate();
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if start.elapsed() > patience || interrupt::insisted() {
                self.kill();
                return false;
            }
            thread::sleep(Duration::from_millis(10));
        }
        !self.kill_family()
    }

    /// True if there was anybody.
    fn kill_family(&self) -> bool {
        let mut any = false;
        // Again until nobody is left: who is killed may just have started another.
        loop {
            let family = self.family();
            if family.is_empty() {
                return any;
            }
            any = true;
            family.iter().for_each(|(id, _)| kill_one(*id));
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A program of ours, without what the user's environment says to it or to its HTTP client.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (variable, _) in env::vars_os() {
        let upper = variable.to_string_lossy().to_ascii_uppercase();
        if upper.starts_with("KUMA_") || upper.starts_with("SUNBEAR_") || upper.ends_with("_PROXY")
        {
            command.env_remove(variable);
        }
    }
    command
}

/// SIGKILL to one process.
pub fn kill_one(id: u32) {
    signal(id, Signal::SIGKILL);
}

fn signal(id: u32, signal: Signal) {
    if let Ok(id) = i32::try_from(id) {
        // The process may have gone meanwhile, which is as good.
        let _ = kill(Pid::from_raw(id), signal);
    }
}

/// Whether a process was started with this variable. Those that ended, and other users', were not.
fn has_variable(id: u32, variable: &str) -> bool {
    fs::read(format!("/proc/{id}/environ"))
        .is_ok_and(|environment| environment.split(|b| *b == 0).any(|v| v == variable.as_bytes()))
}

fn program_of(id: u32) -> Option<String> {
    let program = fs::read_link(format!("/proc/{id}/exe")).ok()?;
    Some(program.file_name()?.to_string_lossy().into_owned())
}

fn tail(path: &Path, lines: usize) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<_> = text.lines().collect();
    Ok(all[all.len().saturating_sub(lines)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::{Look, until};

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    /// A shell that says `ready` once it runs, with a `sleep` below it.
    fn family(logs: &Path, prelude: &str) -> (Process, u32) {
        let script = format!("{prelude} sleep 1000 & echo ready; wait; wait");
        let process = Process::spawn("family", shell(&script), logs).unwrap();
        let child = until("a sleeping child", Duration::from_secs(20), || {
            let below = process.family();
            Ok(match below.iter().find(|(_, program)| program.contains("sleep")) {
                Some((id, _)) if process.log_tail(1) == "ready" => Look::Done(*id),
                _ => Look::NotYet(format!("{below:?}")),
            })
        })
        .unwrap();
        (process, child)
    }

    /// A zombie, which somebody else has yet to collect, runs no program.
    fn gone(id: u32) {
        until("the end of a child", Duration::from_secs(20), || {
            Ok(match program_of(id) {
                Some(program) => Look::NotYet(format!("{program} lives")),
                None => Look::Done(()),
            })
        })
        .unwrap();
    }

    #[test]
    fn stopping_leaves_no_grandchildren() {
        let logs = tempfile::tempdir().unwrap();
        let (mut process, child) = family(logs.path(), "");
        assert!(!process.stop(Duration::from_secs(20)), "it left a child");
        gone(child);
    }

    #[test]
    fn an_orderly_end_is_told() {
        let logs = tempfile::tempdir().unwrap();
        let (mut process, child) = family(logs.path(), "trap 'kill $!; wait; exit' TERM;");
        assert!(process.stop(Duration::from_secs(20)));
        gone(child);
    }

    #[test]
    fn the_stubborn_are_killed() {
        let logs = tempfile::tempdir().unwrap();
        let (mut process, child) = family(logs.path(), "trap '' TERM;");
        assert!(!process.stop(Duration::from_millis(50)));
        gone(process.id());
        gone(child);
    }

    #[test]
    fn orphans_of_a_killed_child_are_killed() {
        let logs = tempfile::tempdir().unwrap();
        // With job control a shell gives each child a process group.
        let (process, child) = family(logs.path(), "set -m;");
        kill_one(process.id());
        gone(process.id());
        drop(process);
        gone(child);
    }

    /// The state letter of a process, as the kernel tells it.
    fn state(id: u32) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    #[test]
    fn pausing_stops_the_whole_family_until_it_is_resumed() {
        let logs = tempfile::tempdir().unwrap();
        let (process, child) = family(logs.path(), "");
        let all = |stopped: bool| {
            until("the states", Duration::from_secs(20), || {
                let states = [state(process.id()), state(child)];
                Ok(match states.iter().all(|s| (*s == Some('T')) == stopped) {
                    true => Look::Done(()),
                    false => Look::NotYet(format!("{states:?}")),
                })
            })
            .unwrap();
        };
        process.pause();
        all(true);
        process.resume();
        all(false);
        drop(process);
        gone(child);
    }

    #[test]
    fn dropping_kills() {
        let logs = tempfile::tempdir().unwrap();
        let (process, child) = family(logs.path(), "");
        let id = process.id();
        drop(process);
        gone(id);
        gone(child);
    }

    #[test]
    fn the_tail_is_the_end_of_the_log() {
        let logs = tempfile::tempdir().unwrap();
        let mut process =
            Process::spawn("talker", shell("echo a; echo b >&2; echo c"), logs.path()).unwrap();
        let status = until("the end", Duration::from_secs(20), || {
            Ok(match process.exited()? {
                Some(status) => Look::Done(status),
                None => Look::NotYet("it runs".to_owned()),
            })
        });
        assert!(status.unwrap().success());
        assert_eq!(process.log_tail(2), "b\nc");
    }
}
