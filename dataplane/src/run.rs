//! Puts the parts together.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::IsTerminal as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, bail};
use tokio::sync::Notify;
use tracing_subscriber::EnvFilter;

use crate::control_plane::ControlPlane;
use crate::envoy::EnvoyVersion;
use crate::orphan::ProcessFile;
use crate::readiness::Reporter;
use crate::request::RequestTemplate;
use crate::sealed::SealedFile;
use crate::sealer::{ProxyIdentity, Seal};
use crate::settings::Settings;
use crate::supervisor::{State, Supervisor};

/// Why a run ended without an error.
#[derive(Debug)]
pub(crate) enum Stop {
    /// A signal asked for it.
    Signal,
    /// The control plane does not want this proxy; its words.
    Refused(String),
}

/// Runs until a signal, a refusal or an error.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<Stop> {
    start_log(&settings.log_level);
    // Fails only if one is installed already, which is just as well.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();

    let work_dir = WorkDir::prepare(&settings)?;
    let state_dir = prepare_state_dir(&settings, work_dir.path())?;
    let _lock = lock(&state_dir)?;
    let proxy = ProxyIdentity {
        proxy_type: settings.proxy.proxy_type.as_str().to_owned(),
        mesh: settings.proxy.mesh.clone(),
        name: settings.proxy.name.clone(),
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        mesh = proxy.mesh,
        name = proxy.name,
        proxy_type = proxy.proxy_type,
        work_dir = %work_dir.path().display(),
        state_dir = %state_dir.display(),
        "starting"
    );
    if settings.dns_enabled {
        tracing::info!("sunbear-dp serves no DNS; --dns-enabled has no effect");
    }

    let version = EnvoyVersion::of(&settings.envoy.binary).await?;
    if version.kuma_dp_compatible {
        tracing::info!(version = version.version, "found Envoy");
    } else {
        tracing::warn!(
            version = version.version,
            expected = EnvoyVersion::expected(),
            "found another Envoy than expected"
        );
    }
    let reporter = Reporter::bind(settings.readiness_address, settings.readiness_port).await?;
    let template =
        RequestTemplate::new(&settings, &version, &work_dir.path().display().to_string());
    let control_plane = ControlPlane::new(&settings.control_plane, template)?;

    let seal = Seal {
        file: SealedFile::new(&state_dir, "envoy.sealed"),
        candidate: state_dir.join("candidate.json"),
        proxy,
        work_dir: work_dir.path().to_owned(),
        envoy: settings.envoy.binary.clone(),
        last: Mutex::new(None),
        sealed: Notify::new(),
    };
    let state = State {
        received: SealedFile::new(&state_dir, "bootstrap.sealed"),
        processes: ProcessFile::new(&state_dir),
        seal: Arc::new(seal),
    };
    Supervisor::new(settings, state, control_plane, reporter)?.run().await
}

fn start_log(level: &str) {
    let filter = match level {
        "off" => EnvFilter::new("off"),
        level => EnvFilter::new(format!("warn,sunbear_dp={level}")),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

/// The work folder, removed at the end if it is a temporary one.
struct WorkDir {
    path: PathBuf,
    temporary: bool,
}

impl WorkDir {
    fn prepare(settings: &Settings) -> anyhow::Result<WorkDir> {
        let (path, temporary) = match &settings.work_dir {
            Some(path) => (path.clone(), false),
            None => (
                std::env::temp_dir().join(format!("sunbear-dp-{:08x}", rand::random::<u32>())),
                true,
            ),
        };
        // 0711: applications beside us reach the sockets by name but do not list them.
        DirBuilder::new()
            .recursive(!temporary)
            .mode(0o711)
            .create(&path)
            .with_context(|| format!("cannot make the work folder {}", path.display()))?;
        Ok(WorkDir { path, temporary })
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if self.temporary
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(folder = %self.path.display(), %error, "cannot remove the temporary work folder");
        }
    }
}

fn prepare_state_dir(settings: &Settings, work_dir: &Path) -> anyhow::Result<PathBuf> {
    let Some(path) = &settings.state_dir else {
        return Ok(work_dir.to_owned());
    };
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the state folder {}", path.display()));
    match made {
        Ok(()) => Ok(path.clone()),
        Err(error) if settings.state_dir_given => Err(error),
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "the last good configuration will not outlive this process; choose a folder with --state-dir"
            );
            Ok(work_dir.to_owned())
        }
    }
}

/// Two agents over one state folder would stop each other's Envoys.
fn lock(state_dir: &Path) -> anyhow::Result<File> {
    let path = state_dir.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another sunbear-dp runs this proxy with the state folder {}; give each its own --state-dir",
            state_dir.display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}
