//! The images of the Compose topology. Where no image can be pulled, the base is made with
//! debootstrap and Postgres from Debian's package.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use xtask::{
    engine::{self, Engine},
    envoy, project,
    topology::PROGRAMS,
};

/// The targets of the Dockerfile, each an image of that name.
const TARGETS: [&str; 6] = ["global", "zone", "echo", "gateway", "ctl", "balancer"];

/// The release of Debian that images stand on.
const RELEASE: &str = "bookworm";

/// What is pulled where that works.
const BASE: &str = "debian:bookworm-slim";
const POSTGRES: &str = "postgres:15-bookworm";

/// Longest wait for a registry that does not answer.
const PULL: Duration = Duration::from_secs(120);

/// What programs of a base image do without: nobody reads manuals in a container.
const NEEDLESS: [&str; 8] = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/lintian",
    "var/cache",
    "var/lib/apt/lists",
    "var/log",
];

/// What is installed later leaves no packages and no caches behind,
const APT: &str = "\
DPkg::Post-Invoke { \"rm -f /var/cache/apt/archives/*.deb || true\"; };
APT::Update::Post-Invoke { \"rm -f /var/cache/apt/archives/*.deb || true\"; };
Dir::Cache::pkgcache \"\";
Dir::Cache::srcpkgcache \"\";
Acquire::Languages \"none\";
";

/// and no manuals either.
const DPKG: &str = "\
path-exclude /usr/share/doc/*
path-exclude /usr/share/info/*
path-exclude /usr/share/lintian/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/man/*
";

/// Which images, from what.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Images {
    /// Take the programs of the development profile: quick to build, slow to run.
    #[arg(long)]
    pub(crate) dev: bool,
    /// Build no programs and take those in this folder.
    #[arg(long)]
    pub(crate) programs: Option<PathBuf>,
    /// The images' tag.
    #[arg(long, default_value = "local")]
    pub(crate) tag: String,
    /// The beginning of the images' names.
    #[arg(long, default_value = "localhost/sunbear")]
    pub(crate) name: String,
    /// The base image; debian:bookworm-slim, or one that debootstrap makes if that cannot be had.
    #[arg(long)]
    pub(crate) base: Option<String>,
    /// Postgres' image; postgres:15-bookworm, or one of Debian's package if that cannot be had.
    #[arg(long)]
    pub(crate) postgres: Option<String>,
}

/// Builds all images.
pub(crate) fn run(arguments: &Images) -> Result<()> {
    let engine = Engine::find_or_start()?;
    let envoy = envoy::find_or_fetch()?;
    let target = project::target()?;
    let programs = match &arguments.programs {
        Some(folder) => folder.clone(),
        None => build_programs(&target, arguments.dev)?,
    };
    let context = target.join("images").join(&arguments.tag);
    lay_out(&context, &programs, &envoy)?;

    let base = match &arguments.base {
        Some(base) => base.clone(),
        None => base(&engine, arguments, &target)?,
    };
    let builder = Builder { engine: &engine, context: &context, base, arguments };
    for target in TARGETS {
        builder.build(target, &[])?;
    }
    let postgres = match &arguments.postgres {
        Some(postgres) => postgres.clone(),
        None => builder.postgres()?,
    };
    builder.build("postgres", &[format!("POSTGRES_IMAGE={postgres}")])?;
    println!("{}", sizes(&engine, arguments)?);
    Ok(())
}

/// The name of one image.
fn image(arguments: &Images, target: &str) -> String {
    format!("{}/{target}:{}", arguments.name, arguments.tag)
}

fn build_programs(target: &Path, dev: bool) -> Result<PathBuf> {
    let profile = if dev { "dev" } else { "release" };
    eprintln!("building the programs, profile {profile}");
    let mut command = project::cargo()?;
    command.args(["build", "--quiet", "--workspace", "--profile", profile]);
    command.args(PROGRAMS.iter().flat_map(|program| ["--bin", program]));
    project::run(command)?;
    Ok(target.join(if dev { "debug" } else { "release" }))
}

/// Makes the folder that the engine builds from: what the Dockerfile copies, and nothing else.
fn lay_out(context: &Path, programs: &Path, envoy: &Path) -> Result<()> {
    let root = project::root()?;
    fs::create_dir_all(context.join("dist"))?;
    for name in PROGRAMS {
        strip(&programs.join(name), &context.join("dist").join(name))?;
    }
    strip(envoy, &context.join("dist/envoy"))?;
    fs::copy(root.join("Dockerfile"), context.join("Dockerfile"))?;
    for folder in ["deploy/images", "docs/quickstart"] {
        let to = context.join(folder);
        if to.exists() {
            fs::remove_dir_all(&to)?;
        }
        fs::create_dir_all(&to)?;
        for file in fs::read_dir(root.join(folder))? {
            let file = file?.path();
            let name = file.file_name().context("a file without a name")?;
            fs::copy(&file, to.join(name))?;
        }
    }
    Ok(())
}

/// A copy without debugging information, or a plain one where there is no `strip`. Nothing if
/// there is a newer one.
fn strip(from: &Path, to: &Path) -> Result<()> {
    let changed = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    let source = changed(from).with_context(|| format!("there is no {}", from.display()))?;
    if changed(to).is_ok_and(|copy| copy > source) {
        return Ok(());
    }
    let mut command = Command::new("strip");
    command.arg("--strip-debug").arg("-o").arg(to).arg(from).stderr(Stdio::null());
    if !command.status().is_ok_and(|status| status.success()) {
        fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
}

/// Debian's slim image if the engine has it or can pull it, else one of our own.
fn base(engine: &Engine, arguments: &Images, target: &Path) -> Result<String> {
    let own = format!("{}/debian:{RELEASE}", arguments.name);
    if engine.has_image(BASE) {
        return Ok(BASE.to_owned());
    }
    if engine.has_image(&own) {
        eprintln!("base: {own}, made before");
        return Ok(own);
    }
    if pull(engine, BASE) {
        return Ok(BASE.to_owned());
    }
    debootstrap(engine, &own, target)?;
    Ok(own)
}

fn pull(engine: &Engine, image: &str) -> bool {
    eprintln!("pulling {image}");
    let mut command = Command::new("timeout");
    command.arg(PULL.as_secs().to_string());
    let docker = engine.docker(&["pull", "--quiet", image]);
    command.arg(docker.get_program()).args(docker.get_args());
    match project::run(command) {
        Ok(()) => true,
        Err(_) => {
            eprintln!("it cannot be pulled");
            false
        }
    }
}

/// Where this machine gets Debian's packages from.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    uri: String,
    suite: String,
    component: String,
}

/// Installs Debian into a folder and makes an image of it.
fn debootstrap(engine: &Engine, image: &str, target: &Path) -> Result<()> {
    if !project::is_root() {
        bail!("only root can make a base image with debootstrap; name one with --base");
    }
    if project::find_program("debootstrap", &[PathBuf::from("/usr/sbin")]).is_none() {
        project::apt_install(&["debootstrap"])?;
    }
    let sources = sources()?;
    let main = sources
        .iter()
        .find(|source| source.suite == RELEASE && source.component == "main")
        .with_context(|| {
            format!("this machine's sources of packages have no {RELEASE}; name a base with --base")
        })?;
    let folder = target.join(format!("images/debian-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let result = fill(engine, image, &folder, main, &sources);
    let _ = fs::remove_dir_all(&folder);
    result
}

fn fill(
    engine: &Engine,
    image: &str,
    folder: &Path,
    main: &Source,
    sources: &[Source],
) -> Result<()> {
    let start = Instant::now();
    eprintln!("making a base image with debootstrap from {}, which takes a minute", main.uri);
    let log = folder.with_extension("log");
    let output = fs::File::create(&log)?;
    let status = Command::new("debootstrap")
        .args(["--variant=minbase", RELEASE])
        .arg(folder)
        .arg(&main.uri)
        .env("PATH", path_with_sbin())
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .status()
        .context("cannot run debootstrap")?;
    if !status.success() {
        bail!("debootstrap failed: {status}; see {}", log.display());
    }
    fs::remove_file(&log)?;
    for name in NEEDLESS {
        empty(&folder.join(name))?;
    }
    let lines: String = sources
        .iter()
        .map(|source| format!("deb {} {} {}\n", source.uri, source.suite, source.component))
        .collect();
    fs::write(folder.join("etc/apt/sources.list"), lines)?;
    fs::write(folder.join("etc/apt/apt.conf.d/no-caches"), APT)?;
    fs::write(folder.join("etc/dpkg/dpkg.cfg.d/no-manuals"), DPKG)?;
    import(engine, image, folder)?;
    eprintln!("made {image} in {} s", start.elapsed().as_secs());
    Ok(())
}

/// Debian's sources of this machine: its release and updates to it.
fn sources() -> Result<Vec<Source>> {
    let mut found = parse_sources(&index_targets()?);
    if found.is_empty() {
        eprintln!("reading lists of packages");
        let mut update = Command::new("apt-get");
        update.args(["update", "-qq"]);
        project::run(update)?;
        found = parse_sources(&index_targets()?);
    }
    Ok(found)
}

fn index_targets() -> Result<String> {
    let mut command = Command::new("apt-get");
    command.args([
        "indextargets",
        "--format",
        "$(ORIGIN)|$(CODENAME)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)",
        "Created-By: Packages",
    ]);
    engine::output(command)
}

fn parse_sources(text: &str) -> Vec<Source> {
    let mut found: Vec<Source> = Vec::new();
    for line in text.lines() {
        let fields: Vec<_> = line.split('|').collect();
        let [origin, codename, uri, suite, component] = fields[..] else { continue };
        let source = Source {
            uri: uri.trim_end_matches('/').to_owned(),
            suite: suite.to_owned(),
            component: component.to_owned(),
        };
        let ours = origin == "Debian" && codename.starts_with(RELEASE) && component == "main";
        if ours && !found.contains(&source) {
            found.push(source);
        }
    }
    found
}

fn path_with_sbin() -> std::ffi::OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

/// Removes what a folder holds.
fn empty(folder: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(&path)?;
        } else {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// The folder's content as an image of one layer.
fn import(engine: &Engine, image: &str, folder: &Path) -> Result<()> {
    let mut tar = Command::new("tar")
        .args(["--create", "--numeric-owner", "--exclude=./dev/*", "--directory"])
        .arg(folder)
        .arg(".")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run tar")?;
    let archive = tar.stdout.take().context("tar has no output")?;
    let mut docker = engine.docker(&["import", "--change", "CMD [\"bash\"]", "-", image]);
    let imported = docker.stdin(archive).stdout(Stdio::null()).status();
    let archived = tar.wait()?;
    if !imported?.success() || !archived.success() {
        bail!("cannot make an image of {}", folder.display());
    }
    Ok(())
}

/// What all builds have in common.
struct Builder<'a> {
    engine: &'a Engine,
    context: &'a Path,
    base: String,
    arguments: &'a Images,
}

impl Builder<'_> {
    fn build(&self, target: &str, further: &[String]) -> Result<()> {
        let image = image(self.arguments, target);
        let start = Instant::now();
        let mut command = self.engine.docker(&["build", "--quiet", "--tag", &image]);
        command.args(["--target", target, "--build-arg", &format!("BASE_IMAGE={}", self.base)]);
        for argument in further {
            command.args(["--build-arg", argument]);
        }
        if self.base != BASE {
            // Packages come from where this machine gets its own, by the same way.
            command.arg("--network=host");
        }
        command.arg(self.context);
        engine::output(command).with_context(|| format!("cannot build {image}"))?;
        eprintln!("built {image} in {:.1} s", start.elapsed().as_secs_f32());
        Ok(())
    }

    /// The official image if it can be had, else one of Debian's package.
    fn postgres(&self) -> Result<String> {
        if self.engine.has_image(POSTGRES) || (self.base == BASE && pull(self.engine, POSTGRES)) {
            return Ok(POSTGRES.to_owned());
        }
        eprintln!("Postgres: from Debian's package");
        self.build("postgres-debian", &[])?;
        Ok(image(self.arguments, "postgres-debian"))
    }
}

fn sizes(engine: &Engine, arguments: &Images) -> Result<String> {
    let mut lines = vec![format!("{:<44} {:>10}", "image", "size")];
    for target in TARGETS.iter().chain(&["postgres"]) {
        let image = image(arguments, target);
        let bytes: f64 =
            engine.ask(&["image", "inspect", "--format", "{{.Size}}", &image])?.parse()?;
        lines.push(format!("{image:<44} {:>7.0} MB", bytes / 1e6));
    }
    Ok(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_debians_release_and_its_updates() {
        let text = "\
Debian|bookworm|http://mirror.example/debian/|bookworm|main
Debian|bookworm|http://mirror.example/debian/|bookworm|contrib
Debian|bookworm-security|http://mirror.example/security/|bookworm-security|main
Debian|bookworm-security|http://mirror.example/security/|bookworm-security|main
Debian|trixie|http://mirror.example/debian/|trixie|main
Somebody|bookworm|http://other.example/|bookworm|main
nonsense";
        let found: Vec<_> =
            parse_sources(text).into_iter().map(|s| format!("{} {}", s.uri, s.suite)).collect();
        assert_eq!(
            found,
            [
                "http://mirror.example/debian bookworm",
                "http://mirror.example/security bookworm-security"
            ]
        );
    }

    #[test]
    fn every_target_is_in_the_dockerfile() {
        let text = fs::read_to_string(project::root().unwrap().join("Dockerfile")).unwrap();
        for target in TARGETS.iter().chain(&["postgres", "postgres-debian"]) {
            assert!(text.lines().any(|line| line.ends_with(&format!(" AS {target}"))), "{target}");
        }
    }
}
