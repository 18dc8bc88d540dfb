//! The global control plane: REST and KDS over one store.

mod envoy_admin;
mod zone_tokens;

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use clap::Parser as _;
use sunbear_api::{
    ApiState, Options,
    defaults::{DefaultsSettings, MeshDefaults, ensure_defaults},
};
use sunbear_control_plane::{
    Instance, KUMA_VERSION,
    arguments::{Arguments, Command, SecretsAction},
    serving, storage,
};
use sunbear_kds::server::{GlobalKds, ServerConfig};
use sunbear_model::validation::Mode;
use sunbear_runtime::{
    config::{self, GlobalConfig, KdsAuthentication, Loaded, ProcessEnvironment},
    readiness::Readiness,
    serve::{self, Limits, Server, Transport},
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
    let loaded = match config::load_global(arguments.config_file.as_deref(), &ProcessEnvironment) {
        Ok(loaded) => loaded,
        Err(errors) => {
            eprintln!("sunbear-global: {errors}");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = telemetry::init(&loaded.config.log) {
        eprintln!("sunbear-global: {}", telemetry::chain(&error));
        return ExitCode::from(2);
    }
    loaded.notices.log();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("sunbear-global: {error}");
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
async fn run(loaded: Loaded<GlobalConfig>) -> Result<bool> {
    let Loaded { config, settings, .. } = loaded;
    let instance = Instance::new();
    let tasks = Tasks::new();
    tasks.listen_for_signals()?;
    let readiness = Readiness::new();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        instance = instance.id,
        "global control plane starts"
    );

    let store = storage::open(&config.store).await?;
    let world = storage::start_world(&tasks, &readiness, Arc::clone(&store)).await?;
    let mode = Mode::Global { disable_origin_label_validation: false };
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
    tasks.spawn("upkeep", storage::maintain(world.clone(), instance.id.clone(), tasks.token()));

    tasks.spawn(
        "insights",
        sunbear_insights::run(
            world.clone(),
            instance.id.clone(),
            tasks.token(),
            sunbear_insights::INTERVAL,
        ),
    );

    let kds = GlobalKds::new(
        world.clone(),
        ServerConfig {
            instance_id: instance.id.clone(),
            version: KUMA_VERSION.to_owned(),
            max_message: config.kds.max_message_size,
            health_interval: config
                .kds
                .zone_health_check
                .map_or(Duration::ZERO, |check| check.poll_interval),
            health_timeout: config
                .kds
                .zone_health_check
                .map_or(Duration::ZERO, |check| check.timeout),
            insight_interval: config.kds.zone_insight_flush_interval,
            authenticator: zone_tokens::authenticator(&config.kds.authentication)?,
        },
    );
    if config.kds.authentication == KdsAuthentication::None {
        info!(
            "zones connect without proof of identity; set multizone.global.kds.auth.type to \
             zoneToken once all of them present tokens"
        );
    }
    let transport = match &config.kds.tls {
        None => Transport::Plain,
        Some(tls) => serving::tls_transport(
            serving::certificate(&tasks, tls, &config.general, &instance)?,
            tls,
        )?,
    };
    let server = Server {
        name: "kds",
        listener: serve::bind(&config.kds.listen).await?,
        router: serving::with_socket_address(kds.routes().prepare().into_axum_router()),
        transport,
        limits: Limits { drain: Duration::from_secs(3), ..Limits::default() },
    };
    tasks.spawn_essential("kds", server.run(tasks.token()));
    tasks.spawn("kds streams", Arc::clone(&kds).run(tasks.token()));

    let state = ApiState {
        world,
        hooks: Arc::new(MeshDefaults { mode: mode.clone() }),
        mode,
        identity: serving::introduction(&instance, ""),
        config_json: settings.dump(),
        access: serving::access(&config.api, &config.access),
        issuers: serving::issuers(&config.api, &config.proxy_authentication),
        read_only: config.api.read_only,
        unsafe_delete: config.store.unsafe_delete,
        clock,
        options: Options {
            envoy_admin: Arc::new(envoy_admin::ThroughZones(Arc::clone(&kds))),
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
