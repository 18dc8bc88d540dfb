//! Opening the store that the configuration names, and its upkeep.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use sunbear_api::defaults::CLUSTER_ID;
use sunbear_model::{Kind, ResourceKey};
use sunbear_runtime::{
    config::{self, SecretKeys, StoreKind},
    readiness::Readiness,
    tasks::Tasks,
};
use sunbear_store::{
    Batch, BatchMode, Change, ChangeError, Lease, Postgres, PostgresOptions, PostgresTls,
    Retention, Rotated, SecretCipher, Sqlite, Store, World, WorldOptions, WorldState,
};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Lease under which one replica does the upkeep.
const LEADER: &str = "leader";
/// Life of a lease; it is renewed three times in that.
const LEASE: Duration = Duration::from_secs(15);
/// How often old entries of the change log are removed.
const COMPACTION: Duration = Duration::from_secs(600);

/// Opens the store and brings its schema up to date.
pub(crate) async fn open(settings: &config::Store) -> Result<Arc<dyn Store>> {
    let secrets = secret_cipher(settings)?;
    match secrets.current() {
        Some(key) => info!(key, "secrets are encrypted in the database"),
        None if matches!(settings.kind, StoreKind::Memory) => {}
        None => {
            warn!(
                "secrets are stored plain in the database; set store.secrets.keyFile to encrypt them"
            );
        }
    }
    Ok(match &settings.kind {
        StoreKind::Memory => Arc::new(Sqlite::memory().await?),
        StoreKind::Sqlite { path } => Arc::new(open_sqlite(path, secrets).await?),
        StoreKind::Postgres(settings) => Arc::new(open_postgres(settings, secrets).await?),
    })
}

/// Encrypts all secrets of the database with the first of the configured keys.
pub(crate) async fn rotate_secrets(settings: &config::Store) -> Result<Rotated> {
    let secrets = secret_cipher(settings)?;
    if secrets.current().is_none() {
        bail!("neither store.secrets.keyFile nor store.secrets.keys is set");
    }
    match &settings.kind {
        StoreKind::Memory => bail!("a store in memory has no secrets to encrypt"),
        StoreKind::Sqlite { path } => {
            let store = open_sqlite(path, secrets).await?;
            let rotated = store.rotate_secrets().await;
            store.close().await;
            Ok(rotated?)
        }
        StoreKind::Postgres(settings) => {
            let store = open_postgres(settings, secrets).await?;
            let rotated = store.rotate_secrets().await;
            store.close().await;
            Ok(rotated?)
        }
    }
}

/// Removes the id by which a zone knows the installation that it belongs to.
pub(crate) async fn forget_installation(settings: &config::Store) -> Result<()> {
    let store = open(settings).await?;
    let batch = Batch {
        changes: vec![Change::delete(ResourceKey::new(Kind::CONFIG, "", CLUSTER_ID))],
        author: "mesh-system:control-plane".to_owned(),
        reason: "another installation is accepted".to_owned(),
        mode: BatchMode::Independent,
        at: OffsetDateTime::now_utc(),
    };
    let committed = store.commit(batch).await;
    store.close().await;
    for result in committed?.results {
        match result {
            // There is none.
            Ok(_) | Err(ChangeError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The keys that secrets are encrypted with, as configured.
fn secret_cipher(settings: &config::Store) -> Result<SecretCipher> {
    let cipher = match &settings.secrets {
        None => return Ok(SecretCipher::default()),
        Some(SecretKeys::Inline(keys)) => {
            SecretCipher::from_text(keys.expose()).context("store.secrets.keys")
        }
        Some(SecretKeys::File(path)) => {
            let file = || format!("store.secrets.keyFile {}", path.display());
            let keys = std::fs::read_to_string(path).with_context(file)?;
            SecretCipher::from_text(&keys).with_context(file)
        }
    };
    cipher.context("reading the keys of secrets")
}

async fn open_sqlite(path: &Path, secrets: SecretCipher) -> Result<Sqlite> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| {
            format!(
                "creating the folder {} (general.workDir or store.sqlite.path)",
                folder.display()
            )
        })?;
    }
    info!(path = %path.display(), "store: SQLite");
    Sqlite::open_with_secrets(path, secrets)
        .await
        .with_context(|| format!("opening the database {}", path.display()))
}

async fn open_postgres(p: &config::Postgres, secrets: SecretCipher) -> Result<Postgres> {
    let mut options = postgres_options(p);
    options.secrets = secrets;
    info!(host = p.host, port = p.port, database = p.db_name, "store: Postgres");
    Postgres::connect(options).await.with_context(|| {
        format!("connecting to Postgres at {}:{}, database {:?}", p.host, p.port, p.db_name)
    })
}

fn postgres_options(p: &config::Postgres) -> PostgresOptions {
    let mut options =
        PostgresOptions::new(&p.host, p.port, &p.user, p.password.expose(), &p.db_name).tls(
            match &p.tls {
                config::PostgresTls::Disable => PostgresTls::Disable,
                config::PostgresTls::VerifyNone => PostgresTls::VerifyNone,
                // Without a CA there is nothing but the system's to check the chain with, and then
                // the name has to be checked too.
                config::PostgresTls::VerifyCa(None) => PostgresTls::VerifyFull { ca: None },
                config::PostgresTls::VerifyCa(Some(ca)) => PostgresTls::VerifyCa { ca: ca.clone() },
                config::PostgresTls::VerifyFull(ca) => PostgresTls::VerifyFull { ca: ca.clone() },
            },
        );
    if let Some(files) = &p.client_certificate {
        options = options.client_certificate(files.cert.clone(), files.key.clone());
    }
    options.min_connections = p.min_connections.max(options.min_connections);
    if let Some(max) = p.max_connections {
        options.max_connections = max.max(options.min_connections);
    }
    options.acquire_timeout = p.connect_timeout;
    options
}

/// Loads the world and keeps it following the store.
pub(crate) async fn start_world(
    tasks: &Tasks,
    readiness: &Readiness,
    store: Arc<dyn Store>,
) -> Result<World> {
    let blocker = readiness.blocker("store");
    let (world, feed) =
        World::start(store, WorldOptions::default()).await.context("loading the store")?;
    let stop = tasks.token();
    tasks.spawn_essential("feed", async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = feed => {}
        }
    });
    info!(revision = world.snapshot().revision, resources = world.snapshot().len(), "store loaded");
    blocker.ready();
    // Without it this replica misses what the others write, and cannot write itself.
    let followed = world.clone();
    readiness.condition("database", move || followed.health().state == WorldState::Following);
    Ok(world)
}

/// Removes old entries of the change log while this instance is the leader.
pub(crate) async fn maintain(world: World, instance: String, stop: CancellationToken) {
    let mut last_compaction: Option<tokio::time::Instant> = None;
    loop {
        match world.store().lease(LEADER, &instance, LEASE).await {
            Ok(Lease::Held { .. })
                if last_compaction.is_none_or(|at| at.elapsed() >= COMPACTION) =>
            {
                last_compaction = Some(tokio::time::Instant::now());
                let retention = Retention::standard(OffsetDateTime::now_utc());
                match world.store().compact(retention).await {
                    Ok(0) => {}
                    Ok(entries) => info!(entries, "change log compacted"),
                    Err(error) => warn!(%error, "change log not compacted"),
                }
            }
            Ok(Lease::Held { .. } | Lease::Other { .. }) => {}
            Err(error) => warn!(%error, "lease not renewed"),
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(COMPACTION) => {}
        }
    }
    let _ = world.store().release(LEADER, &instance).await;
}
