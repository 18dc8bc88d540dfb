//! Everything that CI runs, as one command.

use std::{
    env,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use xtask::{engine::Engine, envoy, project};

use crate::{E2e, deny, docs, images};

/// Runs the steps, all of them even after one failed. The last line says the sums of the tests.
pub(crate) fn run(fast: bool) -> Result<ExitCode> {
    let needs = Needs::find()?;
    let mut steps = Steps::default();
    if !fast {
        steps.run("formatting", cargo(&["fmt", "--all", "--check"])?);
        steps.run(
            "lints",
            cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])?,
        );
        steps.run("generated code", codegen_command(true)?);
    }
    // Tests of whole processes start them.
    steps.run("programs", cargo(&["build", "--workspace", "--bins"])?);
    if !fast {
        steps.note("documentation", || docs::run(true));
    }
    let mut tests = cargo(&["test", "--workspace", "--no-fail-fast"])?;
    needs.tell(&mut tests)?;
    let counts = steps.run_tests("tests", tests);
    if !fast {
        match deny::find()? {
            Some(program) => steps.run("dependencies", deny::check(program)?),
            None => steps.skip("dependencies", "no cargo-deny; `cargo xtask deny` installs it"),
        }
        let mut demo = cargo(&["run", "--quiet", "--package", "xtask", "--", "demo", "--check"])?;
        needs.tell(&mut demo)?;
        steps.run("demo", demo);
        match Engine::find_or_start() {
            Ok(_) => {
                let check = ["run", "--quiet", "--package", "xtask", "--", "compose", "--check"];
                let mut compose = cargo(&[&check[..], &["--dev"]].concat())?;
                needs.tell(&mut compose)?;
                steps.run("compose", compose);
            }
            Err(error) => steps.skip("compose", &format!("{error:#}")),
        }
    }
    Ok(steps.conclude(counts))
}

/// Plays the scenarios, with their figures on stderr.
pub(crate) fn e2e(filter: Option<&str>) -> Result<ExitCode> {
    let needs = Needs::find()?;
    let mut steps = Steps::default();
    steps.run("programs", cargo(&["build", "--workspace", "--bins"])?);
    let filter = format!("scenarios::{}", filter.unwrap_or_default());
    let mut tests =
        cargo(&["test", "--package", "sunbear-e2e", "--test", "it", &filter, "--", "--nocapture"])?;
    needs.tell(&mut tests)?;
    let counts = steps.run_tests("scenarios", tests);
    Ok(steps.conclude(counts))
}

/// Plays the scenarios on containers.
pub(crate) fn e2e_on_containers(arguments: E2e) -> Result<ExitCode> {
    let tag = match arguments.with {
        Some(tag) => tag,
        None => {
            let images = images::Images { tag: "e2e".to_owned(), ..arguments.images };
            images::run(&images)?;
            images.tag
        }
    };
    let mut steps = Steps::default();
    let filter = format!("containers::{}", arguments.filter.unwrap_or_default());
    let mut tests = cargo(&["test", "--package", "sunbear-e2e", "--features", "compose"])?;
    // Two: one plays while the next one waits, so that they share an installation.
    tests.args(["--test", "it", &filter, "--", "--nocapture", "--test-threads=2"]);
    tests.env("SUNBEAR_E2E_TAG", tag);
    let counts = steps.run_tests("scenarios on containers", tests);
    Ok(steps.conclude(counts))
}

/// The command that generates code, or compares it.
pub(crate) fn codegen_command(check: bool) -> Result<Command> {
    let mut command = cargo(&["run", "--quiet", "--package", "xtask", "--features", "codegen"])?;
    command.args(["--", "codegen"]);
    if check {
        command.arg("--check");
    }
    Ok(command)
}

fn cargo(arguments: &[&str]) -> Result<Command> {
    let mut command = project::cargo()?;
    command.args(arguments);
    Ok(command)
}

/// Programs that are not ours and that tests use.
struct Needs {
    envoy: PathBuf,
    /// The folder of `postgres`, `initdb` and `pg_ctl`.
    postgres: PathBuf,
}

impl Needs {
    fn find() -> Result<Self> {
        let envoy = envoy::find_or_fetch()?;
        let postgres = match postgres() {
            Some(folder) => folder,
            None => {
                eprintln!("no Postgres here");
                project::apt_install(&["postgresql"])?;
                postgres().context("Debian's postgresql brought no initdb and postgres")?
            }
        };
        eprintln!("postgres: {}", postgres.display());
        Ok(Self { envoy, postgres })
    }

    fn tell(&self, command: &mut Command) -> Result<()> {
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::split_paths(&path).chain([self.postgres.clone()]);
        command
            .env("PATH", env::join_paths(path)?)
            .env("ENVOY_BIN", &self.envoy)
            .env("SUNBEAR_ENVOY", &self.envoy);
        Ok(())
    }
}

/// The folder of a server's binaries, in `PATH` or where Debian keeps them; the newest there.
fn postgres() -> Option<PathBuf> {
    let mut debian: Vec<_> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin"))
        .collect();
    debian.sort_by_key(|folder| std::cmp::Reverse(major(folder)));
    let all = ["initdb", "postgres", "pg_ctl"];
    let initdb = project::find_program("initdb", &debian)?;
    let folder = initdb.parent()?.to_owned();
    all.iter().all(|name| project::is_executable(&folder.join(name))).then_some(folder)
}

/// `15` of `…/15/bin`.
fn major(folder: &Path) -> Option<u32> {
    folder.parent()?.file_name()?.to_str()?.parse().ok()
}

/// Passed and failed tests.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
}

impl Counts {
    /// Adds what a line of the test runner says:
    /// `test result: ok. 12 passed; 0 failed; 0 ignored; …`.
    fn add(&mut self, line: &str) {
        let Some((_, result)) = line.split_once("test result:") else { return };
        let words: Vec<_> = result.split([' ', ';']).filter(|word| !word.is_empty()).collect();
        for pair in words.windows(2) {
            let Ok(count) = pair[0].parse::<u64>() else { continue };
            match pair[1] {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                _ => {}
            }
        }
    }
}

/// What was run, with its outcome.
#[derive(Debug, Default)]
struct Steps {
    lines: Vec<String>,
    failed: bool,
}

impl Steps {
    fn run(&mut self, name: &str, command: Command) {
        self.note(name, || project::run(command));
    }

    /// Passes the output through and sums up the results.
    fn run_tests(&mut self, name: &str, mut command: Command) -> Counts {
        let mut counts = Counts::default();
        self.note(name, || {
            let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
            let output = child.stdout.take().context("no output")?;
            for line in BufReader::new(output).split(b'\n') {
                let line = line?;
                let line = String::from_utf8_lossy(&line);
                counts.add(&line);
                println!("{line}");
            }
            let status = child.wait()?;
            if !status.success() {
                bail!("cargo test: {status}");
            }
            Ok(())
        });
        counts
    }

    fn skip(&mut self, name: &str, why: &str) {
        eprintln!("\n== {name}: skipped: {why}");
        self.lines.push(format!("skipped  {name}: {why}"));
    }

    fn note(&mut self, name: &str, step: impl FnOnce() -> Result<()>) {
        eprintln!("\n== {name}");
        let start = Instant::now();
        let result = step();
        let seconds = start.elapsed().as_secs();
        match result {
            Ok(()) => self.lines.push(format!("ok       {name} ({seconds} s)")),
            Err(error) => {
                self.failed = true;
                eprintln!("{name}: {error:#}");
                self.lines.push(format!("FAILED   {name} ({seconds} s): {error:#}"));
            }
        }
    }

    fn conclude(self, counts: Counts) -> ExitCode {
        println!();
        for line in &self.lines {
            println!("{line}");
        }
        println!("{} passed, {} failed", counts.passed, counts.failed);
        if self.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_up_the_closing_lines() {
        let mut counts = Counts::default();
        for line in [
            "running 3 tests",
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; \
             finished in 0.01s",
            "test failed_once ... ok",
            "test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out",
            "5 passed; 7 failed",
        ] {
            counts.add(line);
        }
        assert_eq!(counts, Counts { passed: 14, failed: 3 });
    }
}
