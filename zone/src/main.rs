//! A zone control plane: serves the proxies of its zone, and keeps in sync with its global, if it
//! has one.

mod envoy_admin;
mod federation;
mod preview;
mod proxies;

use std::{process::ExitCode, sync::Arc};

use anyhow::Result;
use sunbear_api::{Hooks, NoHooks, defaults::MeshDefaults};
use sunbear_control_plane::{OfProxies, Shell, program};
use sunbear_model::validation::Mode;
use sunbear_runtime::config::{Loaded, ZoneConfig};

use crate::{envoy_admin::Proxies, preview::Preview};

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
    let certificates = envoy_admin::certificates(&shell.world);
    let envoys = Arc::new(Proxies::new(shell.world.clone(), certificates.as_ref())?);
    let hooks: Arc<dyn Hooks> = match &config.global {
        Some(global) => {
            let own_config = settings.dump_for_kds().to_string();
            federation::start(&shell, &config.name, global, &own_config, Arc::clone(&envoys))?;
            // Meshes come from the global, complete.
            Arc::new(NoHooks)
        }
        None => {
            // With a global, ServiceInsights come from there.
            shell.keep_insights();
            Arc::new(MeshDefaults { mode })
        }
    };
    let admin_tls = certificates.as_ref().map(envoy_admin::listener_tls);
    let server = proxies::serve(&shell, &config, admin_tls).await?;
    let of_proxies = OfProxies { envoy_admin: envoys, config_preview: Arc::new(Preview(server)) };
    shell.serve(hooks, of_proxies, settings.dump()).await?;
    Ok(shell.until_stopped().await)
}
