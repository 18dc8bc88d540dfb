//! The zone as part of a larger installation: its own Zone object, and KDS towards its global.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context as _, Result};
use sunbear_control_plane::{KUMA_VERSION, Shell};
use sunbear_kds::{
    client::{ClientConfig, GlobalAddress, TokenSource, Trust, ZoneKds},
    node::Identity,
};
use sunbear_model::{Kind, ResourceKey, Spec};
use sunbear_proto::kuma::system::v1alpha1::Zone;
use sunbear_runtime::config::{self, GlobalPeer};
use sunbear_store::{Batch, BatchMode, Change, World};
use time::OffsetDateTime;

use crate::envoy_admin::Proxies;

/// Keeps exactly one Zone object in the zone's own store: its own.
pub(crate) async fn enter_own_zone(world: &World, zone: &str) -> Result<()> {
    let own = ResourceKey::new(Kind::ZONE, "", zone);
    let snapshot = world.snapshot();
    let mut changes: Vec<Change> = snapshot
        .list(Kind::ZONE)
        .filter(|r| r.key != own)
        .map(|r| Change::delete(r.key.clone()))
        .collect();
    if snapshot.get(&own).is_none() {
        // Whether it is enabled is the global's business.
        let spec = Spec::from_message(Kind::ZONE, &Zone { enabled: None });
        changes.push(Change::put(own, spec, BTreeMap::new()));
    }
    if changes.is_empty() {
        return Ok(());
    }
    let batch = Batch {
        changes,
        author: "mesh-system:control-plane".to_owned(),
        reason: "the zone's own name".to_owned(),
        mode: BatchMode::Independent,
        at: OffsetDateTime::now_utc(),
    };
    world.commit(batch).await.context("the zone's own object")?;
    Ok(())
}

/// Starts the sync with the global. The zone is ready once it has had the global's whole state;
/// a zone that has it from before serves its proxies meanwhile.
pub(crate) fn start(
    shell: &Shell,
    zone: &str,
    global: &GlobalPeer,
    own_config: &str,
    envoys: Arc<Proxies>,
) -> Result<()> {
    let Shell { world, tasks, instance, readiness, .. } = shell;
    let trust = match &global.root_ca_file {
        _ if global.tls_skip_verify => Trust::Nothing,
        None => Trust::System,
        Some(path) => Trust::RootsFile(path.clone()),
    };
    let token = global.token.clone().map(|source| -> TokenSource {
        Arc::new(move || match &source {
            config::TokenSource::Inline(secret) => Ok(secret.expose().to_owned()),
            config::TokenSource::File(path) => std::fs::read_to_string(path),
        })
    });
    let kds = ZoneKds::new(
        world.clone(),
        ClientConfig {
            zone: zone.to_owned(),
            global: GlobalAddress {
                host: global.address.host.clone(),
                port: global.address.port,
                tls: global.address.tls,
            },
            trust,
            identity: Identity {
                id: zone.to_owned(),
                instance_id: instance.id.clone(),
                version: KUMA_VERSION.to_owned(),
                config: own_config.to_owned(),
            },
            max_message: global.max_message_size,
            token,
            admin: Some(envoys),
            gzip: true,
        },
    )
    .context("multizone.zone.kds.rootCaFile")?;
    shell.metrics.register(kds.collector()?)?;
    let blocker = readiness.blocker("first sync with the global");
    let mut connection = kds.connection();
    tasks.spawn_job("first sync", async move {
        if connection.wait_for(|c| c.hydrated).await.is_ok() {
            blocker.ready();
        }
    });
    tasks.spawn("kds", kds.run(tasks.token()));
    Ok(())
}
