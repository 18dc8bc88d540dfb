//! `cargo deny`, found or installed.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};
use xtask::project;

/// Checks the dependencies; compiles cargo-deny first if there is none, which takes minutes.
pub(crate) fn run() -> Result<()> {
    let program = match find()? {
        Some(program) => program,
        None => install()?,
    };
    project::run(check(program)?)
}

/// An installed cargo-deny, in `PATH`, in cargo's folder or in our cache.
pub(crate) fn find() -> Result<Option<PathBuf>> {
    let mut further = vec![folder()?.join("bin")];
    further.extend(std::env::home_dir().map(|home| home.join(".cargo/bin")));
    Ok(project::find_program("cargo-deny", &further))
}

/// The command of the check. Advisories are left out: their database is not in a registry.
pub(crate) fn check(program: PathBuf) -> Result<Command> {
    let mut command = Command::new(program);
    command.current_dir(project::root()?).args(["check", "licenses", "bans", "sources"]);
    Ok(command)
}

fn install() -> Result<PathBuf> {
    let folder = folder()?;
    eprintln!("no cargo-deny here: installing it into {} (some minutes)", folder.display());
    let mut command = project::cargo()?;
    command.args(["install", "cargo-deny", "--locked", "--root"]).arg(&folder);
    project::run(command)?;
    find()?.context("cargo installed no cargo-deny")
}

fn folder() -> Result<PathBuf> {
    Ok(project::cache()?.join("cargo-deny"))
}
