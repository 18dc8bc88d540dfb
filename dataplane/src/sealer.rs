//! Watches a serving Envoy and seals each configuration that it has accepted and settled on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::admin::Admin;
use crate::envoy;
use crate::keys::Keys;
use crate::sealed::{SealedFile, write_private};
use crate::static_config::{self, Incomplete, Omission, StaticConfig, redacted, to_static};

/// Pause between looks at the counters; a change is sealed after one quiet look.
const LOOK: Duration = Duration::from_millis(500);
/// A configuration that changes all the time is sealed this often nevertheless.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// Pause after a failure, e.g. of a full disk.
const FAILURE_PAUSE: Duration = Duration::from_secs(10);
/// The looks may take one part in this many of Envoy's main thread.
const SHARE: u32 = 50;
/// Sealing a configuration that changes all the time may take one part in this many of the time.
const SEALING_SHARE: u32 = 20;

/// Counters that move when, and only when, Envoy takes in other configuration. Those of a cluster
/// count updates that changed nothing too, which are subtracted.
const FILTER: &str = "^(\
    cluster\\..*\\.update_(success|no_rebuild)\
    |cluster_manager\\.(cluster_(added|modified|removed)|warming_clusters)\
    |listener_manager\\.(listener_(added|modified|removed|in_place_updated)|total_listeners_warming)\
    |http\\..*\\.rds\\..*\\.config_reload\
    |runtime\\.load_success\
    |sds\\..*\\.update_success\
    )$";

/// Which proxy a sealed configuration is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProxyIdentity {
    pub(crate) proxy_type: String,
    pub(crate) mesh: String,
    pub(crate) name: String,
}

/// The sealed document.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SealedDocument {
    /// The proxy.
    pub(crate) proxy: ProxyIdentity,
    /// The work folder whose paths are in the configuration.
    pub(crate) work_dir: PathBuf,
    /// Seconds since 1970.
    pub(crate) sealed_at: u64,
    /// The static bootstrap.
    pub(crate) bootstrap: Value,
}

/// Where and as what configurations are sealed; shared by all Envoys of a run.
#[derive(Debug)]
pub(crate) struct Seal {
    /// The file.
    pub(crate) file: SealedFile,
    /// A file to have Envoy judge a configuration from.
    pub(crate) candidate: PathBuf,
    /// The proxy.
    pub(crate) proxy: ProxyIdentity,
    /// The work folder.
    pub(crate) work_dir: PathBuf,
    /// Envoy's executable.
    pub(crate) envoy: PathBuf,
    /// Checksum of what is sealed now.
    pub(crate) last: Mutex<Option<Vec<u8>>>,
    /// Told after each sealing.
    pub(crate) sealed: Notify,
}

/// Checksum by which an unchanged configuration is recognised.
pub(crate) fn checksum(bootstrap: &Value) -> Vec<u8> {
    Sha256::digest(bootstrap.to_string()).to_vec()
}

/// Watches one Envoy, for as long as it is let.
pub(crate) async fn watch(admin: Admin, received: Arc<Value>, seal: Arc<Seal>, mut keys: Keys) {
    let mut sealed: Option<Counters> = None;
    let mut last: Option<Counters> = None;
    let mut changed_at = Instant::now();
    let mut omissions = Vec::new();
    let mut longest_wait = LONGEST_WAIT;
    let mut pause = Duration::ZERO;
    loop {
        tokio::time::sleep(pause).await;
        pause = LOOK;
        let asked = Instant::now();
        let counters = match admin.stats(FILTER).await {
            Ok(text) => Counters::read(&text),
            Err(error) => {
                tracing::debug!(error = format!("{error:#}"), "cannot read Envoy's counters");
                pause = FAILURE_PAUSE;
                continue;
            }
        };
        // Envoy walks through all its statistics for this, on the thread that also applies
        // configuration; the larger it is, the rarer it is asked.
        pause = pause.max(asked.elapsed() * SHARE);
        if sealed.as_ref() == Some(&counters) {
            continue;
        }
        let moved = last.as_ref() != Some(&counters);
        if moved && last.as_ref() == sealed.as_ref() {
            changed_at = asked;
        }
        last = Some(counters.clone());
        // Better one from the middle of a change than none at all.
        let none = seal.last().is_none();
        if counters.warming > 0 || (moved && !none && changed_at.elapsed() < longest_wait) {
            continue;
        }
        let began = Instant::now();
        match seal_once(&admin, &received, &seal, &mut keys).await {
            Ok(found) => {
                if found != omissions {
                    report(&found);
                    omissions = found;
                }
                sealed = Some(counters);
                longest_wait = LONGEST_WAIT.max(began.elapsed() * SEALING_SHARE);
                changed_at = Instant::now();
            }
            Err(error) if error.is::<Incomplete>() => {
                tracing::debug!(reason = %error, "the configuration is not settled yet");
                pause = pause.max(began.elapsed() * SEALING_SHARE);
            }
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "cannot seal the configuration, the previous one stays"
                );
                pause = FAILURE_PAUSE;
            }
        }
    }
}

async fn seal_once(
    admin: &Admin,
    received: &Arc<Value>,
    seal: &Arc<Seal>,
    keys: &mut Keys,
) -> anyhow::Result<Vec<Omission>> {
    let (dump, runtime) = tokio::try_join!(admin.config_dump(), admin.runtime())?;
    let received = received.clone();
    let read = move || -> anyhow::Result<_> {
        let dump = serde_json::from_slice(&dump).context("the configuration dump is not JSON")?;
        let hidden = redacted(&dump)?;
        Ok((dump, hidden))
    };
    let (dump, hidden) = tokio::task::spawn_blocking(read).await??;
    let nothing_sealed = seal.last().is_none();
    let held = keys.find(&hidden, nothing_sealed).await;
    let convert = move || -> anyhow::Result<StaticConfig> {
        let runtime = serde_json::from_slice(&runtime).context("the runtime dump is not JSON")?;
        Ok(to_static(&received, &dump, &runtime, &held)?)
    };
    let StaticConfig { bootstrap, omissions } = tokio::task::spawn_blocking(convert).await??;
    let checksum = checksum(&bootstrap);
    if seal.last().as_ref() == Some(&checksum) {
        return Ok(omissions);
    }
    let (candidate, bytes) = (seal.candidate.clone(), bootstrap.to_string());
    tokio::task::spawn_blocking(move || write_private(&candidate, bytes.as_bytes()))
        .await?
        .with_context(|| format!("cannot write {}", seal.candidate.display()))?;
    let judged = envoy::validate(&seal.envoy, &seal.candidate).await;
    let _ = std::fs::remove_file(&seal.candidate);
    judged.context("the static configuration is not usable")?;

    let listeners = static_config::listener_count(&bootstrap);
    let document = SealedDocument {
        proxy: seal.proxy.clone(),
        work_dir: seal.work_dir.clone(),
        sealed_at: SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs(),
        bootstrap,
    };
    let file = seal.file.clone();
    tokio::task::spawn_blocking(move || file.store(&document)).await??;
    *seal.last() = Some(checksum);
    seal.sealed.notify_one();
    tracing::info!(listeners, "sealed the configuration");
    Ok(omissions)
}

impl Seal {
    /// Checksum of what is sealed now.
    pub(crate) fn last(&self) -> std::sync::MutexGuard<'_, Option<Vec<u8>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn report(omissions: &[Omission]) {
    for Omission { kind, name, reason } in omissions {
        tracing::warn!(kind, name, reason, "left out of the sealed configuration");
    }
    if omissions.is_empty() {
        tracing::info!("the sealed configuration is complete again");
    }
}

/// Envoy's configuration counters at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Counters {
    updates: BTreeMap<String, i64>,
    warming: i64,
}

impl Counters {
    fn read(text: &str) -> Counters {
        let mut out = Counters::default();
        for (name, value) in text.lines().filter_map(|line| line.rsplit_once(": ")) {
            let Ok(value) = value.trim().parse::<i64>() else { continue };
            if name.ends_with(".warming_clusters") || name.ends_with(".total_listeners_warming") {
                out.warming += value;
            } else if let Some(cluster) = name.strip_suffix(".update_no_rebuild") {
                *out.updates.entry(cluster.to_owned()).or_default() -= value;
            } else if let Some(cluster) = name.strip_suffix(".update_success") {
                *out.updates.entry(cluster.to_owned()).or_default() += value;
            } else {
                out.updates.insert(name.to_owned(), value);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "\
cluster.echo.update_no_rebuild: 0
cluster.echo.update_success: 1
cluster.ext.update_no_rebuild: 2
cluster.ext.update_success: 3
cluster_manager.cluster_added: 2
cluster_manager.warming_clusters: 1
http.edge.rds.edge_8080_*.config_reload: 1
";

    #[test]
    fn only_changes_move_the_counters() {
        let before = Counters::read(BEFORE);
        assert_eq!(before.warming, 1);
        // Another answer of DNS with the same addresses.
        let same = BEFORE.replace("ext.update_no_rebuild: 2", "ext.update_no_rebuild: 3");
        let same = same.replace("ext.update_success: 3", "ext.update_success: 4");
        assert_eq!(Counters::read(&same), before);
        for (from, to) in [
            ("echo.update_success: 1", "echo.update_success: 2"),
            ("config_reload: 1", "config_reload: 2"),
            ("cluster_added: 2", "cluster_added: 3"),
        ] {
            assert_ne!(Counters::read(&BEFORE.replace(from, to)), before, "{to}");
        }
    }
}
