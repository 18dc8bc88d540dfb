//! The pages of `docs/` whose commands are to work as they stand.
//!
//! What a page says in fenced blocks is run in one folder, from top to bottom:
//!
//! | Block | Meaning |
//! |---|---|
//! | `sh` | a script that succeeds |
//! | `sh fails` | one that ends with an error |
//! | `sh until` | one that succeeds at some time, with the output that follows |
//! | `sh stops=NAME` | a script, after that program was ended |
//! | `sh server=NAME` | a program that runs until the end, or until another of its name starts |
//! | `text` | what the block before has said: each line somewhere, `...` for anything between |
//! | `text server=NAME` | what that program has said since it started |
//!
//! Variables that a script exports are there in later ones. Ports are replaced by free ones.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use xtask::{envoy, process::Process, project};

use crate::control_plane::{PATIENCE, free_ports, program};

/// How long a program may take to end after SIGTERM.
const END: Duration = Duration::from_secs(15);

#[test]
fn secure_multizone() {
    let programs = ["sunbear-global", "sunbear-zone", "sunbear-dp", "sunbearctl", "sunbear-echo"];
    let ports = [5678, 5680, 5682, 5685, 6680, 6682, 7070, 8443, 9901, 9902];
    for tool in ["bash", "curl", "openssl"] {
        if project::find_program(tool, &[]).is_none() {
            eprintln!("SKIPPED: no {tool}");
            return;
        }
    }
    let mut walk = Walk::new(&programs, ports);
    let page = project::root().unwrap().join("docs/secure-multizone.md");
    let blocks = blocks(&fs::read_to_string(page).unwrap());
    assert!(blocks.len() > 20, "the page has blocks");
    let mut blocks = blocks.iter().peekable();
    while let Some(block) = blocks.next() {
        let expected = blocks.next_if(|next| next.language == "text");
        walk.go(block, expected);
    }
}

/// A fenced block of a page.
#[derive(Debug)]
struct Block {
    language: String,
    /// What stands behind the language.
    option: String,
    line: usize,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in page.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => {
                let (language, option) = info.split_once(' ').unwrap_or((info, ""));
                open = Some(Block {
                    language: language.to_owned(),
                    option: option.to_owned(),
                    line: number + 1,
                    text: String::new(),
                });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block without an end");
    blocks
}

struct Walk {
    /// Dropped before the folder.
    servers: BTreeMap<String, Server>,
    folder: TempDir,
    path: String,
    ports: Vec<(u16, u16)>,
    exports: String,
}

struct Server {
    process: Process,
    /// What its predecessors of this name have said.
    before: usize,
}

impl Walk {
    fn new<const N: usize>(programs: &[&str], ports: [u16; N]) -> Self {
        let folder = tempfile::Builder::new().prefix("walk-").tempdir().unwrap();
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let link = |target: PathBuf, name: &str| {
            std::os::unix::fs::symlink(target, bin.join(name)).unwrap();
        };
        for name in programs {
            link(program(name), name);
        }
        link(envoy::find_or_fetch().unwrap(), "envoy");
        fs::create_dir(folder.path().join("logs")).unwrap();
        Self {
            servers: BTreeMap::new(),
            path: format!("{}:{}", bin.display(), env::var("PATH").unwrap()),
            ports: ports.into_iter().zip(free_ports::<N>()).collect(),
            exports: String::new(),
            folder,
        }
    }

    fn go(&mut self, block: &Block, expected: Option<&Block>) {
        assert_eq!(block.language, "sh", "line {}: what is this block?", block.line);
        let (kind, name) = block.option.split_once('=').unwrap_or((&block.option, ""));
        let script = self.with_free_ports(&block.text);
        match kind {
            "server" => {
                self.start(name, &script);
                if let Some(expected) = expected {
                    let who = expected.option.strip_prefix("server=").unwrap_or(name);
                    self.await_words(who, expected);
                }
                return;
            }
            "stops" => {
                assert!(self.servers.remove(name).unwrap().process.stop(END), "{name} did not end");
            }
            _ => {}
        }
        let start = Instant::now();
        loop {
            let (good, said) = self.run(&script);
            let complete = expected.is_none_or(|e| !e.option.is_empty() || fits(&said, &e.text));
            match kind {
                "until" if good && complete => break,
                "until" if start.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(100));
                    continue;
                }
                "until" => {}
                "fails" => assert!(!good, "line {} succeeds: {said}", block.line),
                "" | "stops" => assert!(good, "line {} fails: {said}", block.line),
                other => panic!("line {}: {other}?", block.line),
            }
            assert!(complete && kind != "until", "line {}: {said}\n{}", block.line, self.logs());
            break;
        }
        let exports = script.lines().filter(|line| line.starts_with("export "));
        self.exports.extend(exports.flat_map(|line| [line, "\n"]));
        if let Some(expected) = expected
            && let Some(name) = expected.option.strip_prefix("server=")
        {
            self.await_words(name, expected);
        }
    }

    /// Runs a script to its end: whether it succeeded, and what it said.
    fn run(&self, script: &str) -> (bool, String) {
        let script = format!("set -euo pipefail\n{}{script}", self.exports);
        let output = self.bash(&script).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    fn start(&mut self, name: &str, script: &str) {
        if let Some(mut old) = self.servers.remove(name) {
            old.process.stop(END);
        }
        let logs = self.folder.path().join("logs");
        let before = fs::read(log_of(&logs, name)).map_or(0, |log| log.len());
        // The program takes the shell's place, so that signals reach it.
        let command = self.bash(&format!("exec {script}"));
        let process = Process::spawn(name, command, &logs).unwrap();
        self.servers.insert(name.to_owned(), Server { process, before });
    }

    fn await_words(&mut self, name: &str, expected: &Block) {
        let words = self.with_free_ports(&expected.text);
        let log = log_of(&self.folder.path().join("logs"), name);
        let before = self.servers[name].before;
        let start = Instant::now();
        loop {
            let said = fs::read(&log).unwrap_or_default();
            let said = String::from_utf8_lossy(said.get(before..).unwrap_or_default()).into_owned();
            if fits(&said, &words) {
                return;
            }
            let line = expected.line;
            assert!(
                start.elapsed() < PATIENCE,
                "line {line}: {name} says: {said}\n{}",
                self.logs()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn bash(&self, script: &str) -> Command {
        let mut command = Command::new("bash");
        for (variable, _) in env::vars_os() {
            let name = variable.to_string_lossy().to_ascii_uppercase();
            if name.starts_with("KUMA_") || name.starts_with("SUNBEAR_") || name.ends_with("_PROXY")
            {
                command.env_remove(variable);
            }
        }
        command
            .args(["-c", script])
            .current_dir(self.folder.path())
            .env("PATH", &self.path)
            .env("HOME", self.folder.path())
            .stdin(Stdio::null());
        command
    }

    fn with_free_ports(&self, text: &str) -> String {
        // Ports are the only numbers of four digits on the page.
        let ports = self.ports.iter();
        ports
            .fold(text.to_owned(), |text, (named, free)| {
                text.replace(&named.to_string(), &format!("\u{0}{free}"))
            })
            .replace('\u{0}', "")
    }

    /// The ends of all logs.
    fn logs(&self) -> String {
        let servers = self.servers.iter();
        servers
            .map(|(name, server)| format!("== {name}\n{}\n", server.process.log_tail(15)))
            .collect()
    }
}

fn log_of(logs: &Path, name: &str) -> PathBuf {
    logs.join(format!("{name}.log"))
}

/// Is each of these lines part of a line of what was said?
fn fits(said: &str, lines: &str) -> bool {
    lines.lines().all(|line| {
        said.lines().any(|said| {
            let mut rest = said;
            line.split("...").all(|part| match rest.split_once(part) {
                Some((_, after)) => {
                    rest = after;
                    true
                }
                None => false,
            })
        })
    })
}
