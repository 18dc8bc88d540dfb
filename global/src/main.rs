//! The global control plane: REST and KDS over one store.

mod envoy_admin;
mod replicas;
mod zone_tokens;

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Result;
use sunbear_api::{NoPreview, defaults::MeshDefaults};
use sunbear_control_plane::{KUMA_VERSION, OfProxies, Shell, program, serving};
use sunbear_kds::server::{GlobalKds, ServerConfig};
use sunbear_model::validation::Mode;
use sunbear_runtime::{
    config::{self, GlobalConfig, KdsAuthentication, Loaded},
    serve::{self, Limits, Server, Transport},
};
use tracing::info;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    program::main(run)
}

/// Serves until stopped; false if something without which it is of no use ended.
async fn run(loaded: Loaded<GlobalConfig>) -> Result<bool> {
    let Loaded { config: GlobalConfig { common, kds, inter_cp }, settings, .. } = loaded;
    let max_message = kds.max_message_size;
    let mode = Mode::Global { disable_origin_label_validation: false };
    let shell = Shell::start(common, mode.clone()).await?;
    shell.keep_insights();
    let kds = serve_kds(&shell, &kds).await?;
    let hooks = Arc::new(MeshDefaults { mode });
    let replicas = replicas::start(&shell, &inter_cp, &kds, max_message).await?;
    let of_proxies = OfProxies {
        envoy_admin: Arc::new(envoy_admin::ThroughZones { kds, replicas }),
        config_preview: Arc::new(NoPreview),
    };
    shell.serve(hooks, of_proxies, settings.dump()).await?;
    Ok(shell.until_stopped().await)
}

/// Serves zones on the configured port.
async fn serve_kds(shell: &Shell, settings: &config::GlobalKds) -> Result<Arc<GlobalKds>> {
    let health = settings.zone_health_check;
    let kds = GlobalKds::new(
        shell.world.clone(),
        ServerConfig {
            instance_id: shell.instance.id.clone(),
            version: KUMA_VERSION.to_owned(),
            max_message: settings.max_message_size,
            health_interval: health.map_or(Duration::ZERO, |check| check.poll_interval),
            health_timeout: health.map_or(Duration::ZERO, |check| check.timeout),
            insight_interval: settings.zone_insight_flush_interval,
            authenticator: zone_tokens::authenticator(&settings.authentication)?,
        },
    );
    if settings.authentication == KdsAuthentication::None {
        info!(
            "zones connect without proof of identity; set multizone.global.kds.auth.type to \
             zoneToken once all of them present tokens"
        );
    }
    let transport = match &settings.tls {
        None => Transport::Plain,
        Some(tls) => shell.transport(tls)?,
    };
    let server = Server {
        name: "kds",
        listener: serve::bind(&settings.listen).await?,
        router: serving::with_socket_address(kds.routes().prepare().into_axum_router()),
        transport,
        limits: Limits { drain: Duration::from_secs(3), ..Limits::default() },
    };
    shell.metrics.register(kds.collector()?)?;
    let tasks = &shell.tasks;
    tasks.spawn_essential("kds", server.run(tasks.token()));
    tasks.spawn("kds streams", Arc::clone(&kds).run(tasks.token()));
    Ok(kds)
}
