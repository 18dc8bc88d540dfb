//! Where things are, and how programs are run.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// The project's root folder.
pub fn root() -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = folder.parent().context("the folder of xtask has no parent")?;
    Ok(root.to_owned())
}

/// The cargo that runs us, in the root folder.
pub fn cargo() -> Result<Command> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()?);
    Ok(command)
}

/// Cargo's target folder.
pub fn target() -> Result<PathBuf> {
    let output = cargo()?
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        bail!("cargo metadata failed");
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let target = metadata["target_directory"].as_str().context("cargo names no target folder")?;
    Ok(PathBuf::from(target))
}

/// The folder for what is fetched once: `$XDG_CACHE_HOME` or `~/.cache`, then `sunbear`.
pub fn cache() -> Result<PathBuf> {
    cache_of(env::var_os("XDG_CACHE_HOME").map(PathBuf::from), env::home_dir())
        .context("neither XDG_CACHE_HOME nor HOME is set")
}

fn cache_of(cache: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    // The XDG specification says to ignore relative paths.
    let base = cache
        .filter(|path| path.is_absolute())
        .or_else(|| home.filter(|path| path.is_absolute()).map(|home| home.join(".cache")))?;
    Some(base.join("sunbear"))
}

/// Whether this is the superuser, who may install packages.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The first executable file of that name in `PATH` or in one of the `further` folders.
pub fn find_program(name: &str, further: &[PathBuf]) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(further.iter().cloned())
        .map(|folder| folder.join(name))
        .find(|file| is_executable(file))
}

/// Whether `file` is a file that somebody may execute.
pub fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Runs a command with our output (on stderr) and no input; an error if it fails.
pub fn run(mut command: Command) -> Result<()> {
    let name = command.get_program().display().to_string();
    let status = command
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .with_context(|| format!("cannot run {name}"))?;
    if !status.success() {
        bail!("{name} failed: {status}");
    }
    Ok(())
}

/// Installs Debian packages, which only the superuser can.
pub fn apt_install(packages: &[&str]) -> Result<()> {
    if !is_root() {
        bail!("not root: run `apt-get install -y {}` and try again", packages.join(" "));
    }
    if find_program("apt-get", &[]).is_none() {
        bail!("no apt-get: install {} and try again", packages.join(" "));
    }
    eprintln!("installing from Debian: {}", packages.join(" "));
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(args);
        command
    };
    // Old lists may still do, so this failing is not the end.
    if let Err(error) = run(apt(&["update", "-qq"])) {
        eprintln!("{error:#}");
    }
    let mut install = apt(&["install", "-y", "-qq", "--no-install-recommends"]);
    install.args(packages);
    run(install)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_follows_xdg_then_home() {
        let path = |p: &str| Some(PathBuf::from(p));
        assert_eq!(cache_of(path("/c"), path("/h")), path("/c/sunbear"));
        assert_eq!(cache_of(path("c"), path("/h")), path("/h/.cache/sunbear"));
        assert_eq!(cache_of(None, path("/h")), path("/h/.cache/sunbear"));
        assert_eq!(cache_of(None, None), None);
    }

    #[test]
    fn the_root_holds_the_workspace() {
        assert!(root().unwrap().join("docs/quickstart").is_dir());
    }
}
