//! A zone control plane: serves the proxies of its zone, and keeps in sync with its global, if it
//! has one.

mod envoy_admin;
mod federation;
mod proxies;

use std::{process::ExitCode, sync::Arc};

use anyhow::Result;
use sunbear_api::{Hooks, NoHooks, defaults::MeshDefaults};
use sunbear_control_plane::{Shell, program};
use sunbear_model::validation::Mode;
use sunbear_runtime::config::{Loaded, ZoneConfig};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    program::main(run)
}

/// Serves until stopped; false if something without which it is of no use ended.
async fn run(loaded: Loaded<ZoneConfig>) -> Result<bool> {
    let Loaded { config, settings, .. } = loaded;
    let zone = config.name.clone();
    let mode = match config.global {
        Some(_) => Mode::FederatedZone {
            zone,
            disable_origin_label_validation: config.disable_origin_label_validation,
        },
        None => Mode::StandaloneZone { zone },
    };
    let shell = Shell::start(config.common.clone(), mode.clone()).await?;
    federation::enter_own_zone(&shell.world, &config.name).await?;
    let hooks: Arc<dyn Hooks> = match &config.global {
        Some(global) => {
            let own_config = settings.dump_for_kds().to_string();
            federation::start(&shell, &config.name, global, &own_config)?;
            // Meshes come from the global, complete.
            Arc::new(NoHooks)
        }
        None => {
            // With a global, ServiceInsights come from there.
            shell.keep_insights();
            Arc::new(MeshDefaults { mode })
        }
    };
    proxies::serve(&shell, &config).await?;
    let envoys = Arc::new(envoy_admin::LocalProxies(shell.world.clone()));
    shell.serve(hooks, envoys, settings.dump()).await?;
    Ok(shell.until_stopped().await)
}
