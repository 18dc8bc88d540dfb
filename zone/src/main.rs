//! A zone control plane: serves the proxies of its zone, and keeps in sync with its global, if it
//! has one.

mod envoy_admin;
mod federation;
mod proxies;

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use clap::Parser as _;
use sunbear_api::{
    ApiState, Hooks, NoHooks, Options,
    defaults::{DefaultsSettings, MeshDefaults, ensure_defaults},
};
use sunbear_control_plane::{
    Instance,
    arguments::{Arguments, Command, SecretsAction},
    serving, storage,
};
use sunbear_model::validation::Mode;
use sunbear_runtime::{
    config::{self, Loaded, ProcessEnvironment, ZoneConfig},
    readiness::Readiness,
    tasks::Tasks,
    telemetry, tls,
};
use time::OffsetDateTime;
use tracing::{error, info};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long open calls may go on after a signal.
const DRAIN: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tls::install_crypto_provider();
    let loaded = match config::load_zone(arguments.config_file.as_deref(), &ProcessEnvironment) {
        Ok(loaded) => loaded,
        Err(errors) => {
            eprintln!("sunbear-zone: {errors}");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = telemetry::init(&loaded.config.log) {
        eprintln!("sunbear-zone: {}", telemetry::chain(&error));
        return ExitCode::from(2);
    }
    loaded.notices.log();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("sunbear-zone: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = match arguments.command.unwrap_or(Command::Run) {
        Command::Run => runtime.block_on(run(loaded)),
        Command::Migrate { .. } => runtime.block_on(async {
            storage::open(&loaded.config.store).await?.close().await;
            info!("schema is up to date");
            Ok(true)
        }),
        Command::Secrets { action: SecretsAction::Rotate } => runtime.block_on(async {
            let rotated = storage::rotate_secrets(&loaded.config.store).await?;
            info!(
                sealed = rotated.sealed,
                unchanged = rotated.unchanged,
                "secrets are encrypted with the first key"
            );
            Ok(true)
        }),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            error!(error = format!("{error:#}"), "control plane could not start");
            ExitCode::FAILURE
        }
    }
}

/// Serves until stopped; false if something without which it is of no use ended.
async fn run(loaded: Loaded<ZoneConfig>) -> Result<bool> {
    let Loaded { config, settings, .. } = loaded;
    let instance = Instance::new();
    let tasks = Tasks::new();
    tasks.listen_for_signals()?;
    let readiness = Readiness::new();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        instance = instance.id,
        zone = config.name,
        "zone control plane starts"
    );

    let mode = match config.global {
        Some(_) => Mode::FederatedZone {
            zone: config.name.clone(),
            disable_origin_label_validation: config.disable_origin_label_validation,
        },
        None => Mode::StandaloneZone { zone: config.name.clone() },
    };
    let store = storage::open(&config.store).await?;
    let world = storage::start_world(&tasks, &readiness, Arc::clone(&store)).await?;
    let clock = OffsetDateTime::now_utc;
    ensure_defaults(
        &world,
        &DefaultsSettings {
            mode: mode.clone(),
            skip_mesh_creation: config.defaults.skip_mesh_creation,
            skip_hostname_generators: config.defaults.skip_hostname_generators,
            bootstrap_admin_token: config.api.bootstrap_admin_token,
            clock,
        },
    )
    .await
    .context("the objects of a new installation")?;
    federation::enter_own_zone(&world, &config.name).await?;
    tasks.spawn("upkeep", storage::maintain(world.clone(), instance.id.clone(), tasks.token()));

    if let Some(global) = &config.global {
        federation::start(
            &tasks,
            &readiness,
            &world,
            &config.name,
            global,
            &instance,
            &settings.dump_for_kds().to_string(),
        )?;
    } else {
        // With a global, ServiceInsights come from there.
        tasks.spawn(
            "insights",
            sunbear_insights::run(
                world.clone(),
                instance.id.clone(),
                tasks.token(),
                sunbear_insights::INTERVAL,
            ),
        );
    }
    proxies::serve(&tasks, &world, &config, &instance).await?;

    let hooks: Arc<dyn Hooks> = match config.global {
        // Meshes come from the global, complete.
        Some(_) => Arc::new(NoHooks),
        None => Arc::new(MeshDefaults { mode: mode.clone() }),
    };
    let state = ApiState {
        world: world.clone(),
        hooks,
        mode,
        identity: serving::introduction(&instance, ""),
        config_json: settings.dump(),
        access: serving::access(&config.api, &config.access),
        issuers: serving::issuers(&config.api, &config.proxy_authentication),
        read_only: config.api.read_only,
        unsafe_delete: config.store.unsafe_delete,
        clock,
        options: Options {
            envoy_admin: Arc::new(envoy_admin::LocalProxies(world.clone())),
            ..serving::options(&config.api)?
        },
    };
    serving::api(&tasks, &config.api, &config.general, &instance, state).await?;
    serving::diagnostics(&tasks, &config.diagnostics, &config.general, &instance, &readiness)
        .await?;

    tasks.stopped().await;
    let _ = tasks.shutdown(DRAIN).await;
    store.close().await;
    info!("stopped");
    Ok(tasks.failed().is_none())
}
