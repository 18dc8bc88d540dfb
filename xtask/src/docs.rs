//! Pages of `docs/` that the programs write themselves.

use std::{fs, process::Command};

use anyhow::{Result, bail};
use xtask::project;

/// The page that lists the keys of the configuration.
const CONFIGURATION: &str = "docs/configuration.md";

/// Writes the pages, or compares them with what is there.
pub(crate) fn run(check: bool) -> Result<()> {
    let output = configuration()?.output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let path = project::root()?.join(CONFIGURATION);
    if !check {
        fs::write(path, output.stdout)?;
    } else if fs::read(path).ok() != Some(output.stdout) {
        bail!("{CONFIGURATION} is stale: run `cargo xtask docs`");
    }
    Ok(())
}

/// The program that knows the keys, asked for the page.
fn configuration() -> Result<Command> {
    let mut command = project::cargo()?;
    command.args(["run", "--quiet", "--package", "sunbear-global", "--"]);
    command.args(["config", "keys", "--markdown"]);
    Ok(command)
}
