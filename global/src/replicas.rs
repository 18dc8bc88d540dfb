//! Other replicas of this global: how they are found, and what is passed on to them.
//!
//! Replicas share a database, and that makes them one global. What they cannot find there is the
//! connection to a zone: a question about a proxy is for the replica that the proxy's zone is connected
//! to. Each enters its address in the Config `cp-catalog`, in Kuma's form.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use rustls::{ClientConfig, sign::SingleCertAndKey};
use serde_json::{Value, json};
use sunbear_api::{AdminError, defaults::INTER_CP_CA};
use sunbear_control_plane::Shell;
use sunbear_kds::{
    admin::{EnvoyAdmin, Question, Target},
    client::GlobalAddress,
    forward::{self, ForwardError},
    server::GlobalKds,
};
use sunbear_model::{Kind, Resource, ResourceKey, Spec, Typed};
use sunbear_proto::kuma::system::v1alpha1::Config;
use sunbear_runtime::{
    config::{InterCp, StoreKind},
    host,
    serve::{self, Limits, Server, Transport},
};
use sunbear_security::{
    certificate::{self, PemPair},
    client_trust,
    mutual::{MutualCertificates, REPLICA_NAME},
    trust::{self, ServerTrust},
};
use sunbear_store::{
    Batch, BatchMode, Change, ChangeError, Expect, Operation, OwnerRef, StatusChange, World,
};
use time::OffsetDateTime;
use tracing::warn;

use crate::envoy_admin;

/// Name of the Config that says where replicas are.
const CATALOG: &str = "cp-catalog";
/// Replicas that the catalog holds, the newest. Those that were killed leave their entries behind.
const MAX_REPLICAS: usize = 32;
/// How often a replica sees whether it is in the catalog. Two that crowd each other out write no more
/// often than this.
const LOOK: Duration = Duration::from_secs(10);
/// How often the entry is tried again when another replica makes its own at the same time.
const ATTEMPTS: usize = 20;

/// The other replicas.
pub(crate) struct Replicas {
    world: World,
    tls: Arc<ClientConfig>,
    max_message: usize,
}

/// Serves the other replicas and tells them where. None if there cannot be any, or if they cannot
/// reach this one: a global is of use without.
pub(crate) async fn start(
    shell: &Shell,
    settings: &InterCp,
    kds: &Arc<GlobalKds>,
    max_message: usize,
) -> Result<Option<Arc<Replicas>>> {
    if !matches!(shell.common.store.kind, StoreKind::Postgres(_)) {
        return Ok(None);
    }
    let world = shell.world.clone();
    let key = ResourceKey::new(Kind::GLOBAL_SECRET, "", INTER_CP_CA);
    let snapshot = world.snapshot();
    let authority = snapshot.get(&key).and_then(|secret| secret.secret_data());
    let certificates =
        MutualCertificates::of_authority(authority.unwrap_or_default(), REPLICA_NAME)
            .with_context(|| format!("the GlobalSecret {INTER_CP_CA:?}"));
    let certificates = match certificates {
        Ok(certificates) => certificates,
        Err(error) => {
            warn!("replicas cannot pass on what is asked about proxies: {error:#}");
            return Ok(None);
        }
    };
    let MutualCertificates { ca_pem, server, client } = &certificates;
    let key = |pair: &PemPair| {
        certificate::certified_key(pair.cert_pem.as_bytes(), pair.key_pem.as_bytes())
    };
    let called = Arc::new(SingleCertAndKey::from(key(server)?));
    let called = client_trust::server_config(called, false, ca_pem.as_bytes(), true)?;
    let trust = ServerTrust::Authorities(ca_pem.as_bytes());
    let client = trust::client_config_showing(trust, key(client)?, &["h2"])?;
    let replicas = Arc::new(Replicas { world: world.clone(), tls: Arc::new(client), max_message });

    let listener = match serve::bind(&settings.listen).await {
        Ok(listener) => listener,
        Err(error) => {
            let error = anyhow::Error::new(error);
            warn!(
                "other replicas cannot pass on to this one what is asked about proxies: {error:#}"
            );
            return Ok(Some(replicas));
        }
    };
    let port = listener.local_addr()?.port();
    let backend = Arc::new(ForOthers { world: world.clone(), kds: Arc::clone(kds) });
    let server = Server {
        name: "inter-cp",
        listener,
        router: forward::routes(backend, max_message).prepare().into_axum_router(),
        transport: Transport::Tls(called),
        limits: Limits { drain: Duration::from_secs(3), ..Limits::default() },
    };
    shell.tasks.spawn("inter-cp", server.run(shell.tasks.token()));
    let address = match settings.address.as_str() {
        "" => host::own_address().to_string(),
        address => address.to_owned(),
    };
    let own = json!({
        "id": shell.instance.id, "address": address, "interCpPort": port, "leader": false,
    });
    let stop = shell.tasks.token();
    shell.tasks.spawn("catalog of replicas", async move {
        let _ = stop.run_until_cancelled(keep_entered(&world, &own, LOOK)).await;
    });
    Ok(Some(replicas))
}

impl Replicas {
    /// Asks the replica `id` about a proxy. None if it cannot be asked.
    pub(crate) async fn ask(
        &self,
        id: &str,
        proxy: &Resource,
        question: Question,
    ) -> Option<Result<Vec<u8>, AdminError>> {
        let address = self.address(id)?;
        let target = Target {
            kind: proxy.key.kind.name().to_owned(),
            name: proxy.key.name.to_string(),
            mesh: proxy.key.mesh.to_string(),
        };
        let tls = Arc::clone(&self.tls);
        let answer =
            forward::ask(&address, tls, REPLICA_NAME, self.max_message, target, question).await;
        match answer {
            Ok(answer) => Some(Ok(answer)),
            Err(ForwardError::Refused(reason)) => Some(Err(AdminError::Refused(reason))),
            Err(error @ (ForwardError::Address(_) | ForwardError::Unreachable(_))) => {
                let error = anyhow::Error::new(error);
                warn!(replica = id, %address, "nothing can be passed on: {error:#}");
                None
            }
        }
    }

    fn address(&self, id: &str) -> Option<GlobalAddress> {
        let snapshot = self.world.snapshot();
        let entry =
            entries(snapshot.get(&catalog())).into_iter().find(|entry| entry["id"] == id)?;
        Some(GlobalAddress {
            host: entry["address"].as_str()?.to_owned(),
            port: entry["interCpPort"].as_u64()?.try_into().ok()?,
            tls: true,
        })
    }
}

/// Answers other replicas, over the streams that zones have to this one.
struct ForOthers {
    world: World,
    kds: Arc<GlobalKds>,
}

impl EnvoyAdmin for ForOthers {
    fn ask(
        &self,
        target: Target,
        question: Question,
    ) -> futures_util::future::BoxFuture<'_, Result<Vec<u8>, String>> {
        Box::pin(async move {
            let unknown =
                || format!("no {} {:?} in mesh {:?}", target.kind, target.name, target.mesh);
            let kind = Kind::by_name(&target.kind).ok_or_else(unknown)?;
            let key = ResourceKey::new(kind, &target.mesh, &target.name);
            let proxy = self.world.snapshot().get(&key).cloned().ok_or_else(unknown)?;
            let answer = envoy_admin::ask(&self.kds, &proxy, question).await;
            answer.map_err(|error| error.to_string())
        })
    }
}

fn catalog() -> ResourceKey {
    ResourceKey::new(Kind::CONFIG, "", CATALOG)
}

/// The entries, in the order in which they were made.
fn entries(catalog: Option<&Arc<Resource>>) -> Vec<Value> {
    let text = match catalog.map(|catalog| catalog.spec.typed()) {
        Some(Typed::Config(config)) => config.config.as_str(),
        _ => "",
    };
    // One that cannot be read is made anew.
    let mut whole: Value = serde_json::from_str(text).unwrap_or_default();
    match whole["instances"].take() {
        Value::Array(entries) => entries,
        _ => Vec::new(),
    }
}

/// Sees to it that this replica is in the catalog: a database that takes no writes will take them, one
/// that is restored lacks the entry, and others may have crowded it out. Looks at what is in memory.
async fn keep_entered(world: &World, own: &Value, look: Duration) {
    let mut said = false;
    loop {
        let known = entries(world.snapshot().get(&catalog())).contains(own);
        if !known && let Err(error) = enter(world, own).await {
            // Tried again and again, said once.
            if !std::mem::replace(&mut said, true) {
                warn!("other replicas were not told of this one: {error:#}");
            }
        } else {
            said = false;
        }
        tokio::time::sleep(look).await;
    }
}

/// Enters this replica, in place of what was at its address before.
async fn enter(world: &World, own: &Value) -> Result<()> {
    for _ in 0..ATTEMPTS {
        let snapshot = world.snapshot();
        let stored = snapshot.get(&catalog());
        let mut all = entries(stored);
        let at = |entry: &Value| (entry["address"].clone(), entry["interCpPort"].clone());
        all.retain(|entry| at(entry) != at(own));
        all.push(own.clone());
        let excess = all.len().saturating_sub(MAX_REPLICAS);
        all.drain(..excess);
        let config = Config { config: json!({"instances": all}).to_string() };
        let change = Change {
            key: catalog(),
            op: Operation::Put {
                spec: Spec::from_message(Kind::CONFIG, &config),
                labels: BTreeMap::new(),
                status: StatusChange::Keep,
                owner: OwnerRef::None,
                expect: stored.map_or(Expect::Absent, |stored| Expect::Version(stored.version)),
            },
        };
        let batch = Batch {
            changes: vec![change],
            author: "mesh-system:control-plane".to_owned(),
            reason: "a replica".to_owned(),
            mode: BatchMode::AllOrNothing,
            at: OffsetDateTime::now_utc(),
        };
        let committed = world.commit(batch).await.context("the catalog of replicas")?;
        match committed.results.into_iter().next() {
            Some(Err(ChangeError::Conflict(_) | ChangeError::AlreadyExists(_))) => {}
            Some(Err(error)) => return Err(error).context("the catalog of replicas"),
            None | Some(Ok(_)) => return Ok(()),
        }
    }
    bail!("others went on writing it")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use sunbear_store::{Sqlite, WorldOptions};

    use super::*;

    async fn world() -> World {
        let store = Arc::new(Sqlite::memory().await.unwrap());
        let (world, feed) = World::start(store, WorldOptions::default()).await.unwrap();
        tokio::spawn(feed);
        world
    }

    fn entry(id: &str, port: usize) -> Value {
        json!({"id": id, "address": "192.0.2.1", "interCpPort": port, "leader": false})
    }

    fn ids(world: &World) -> Vec<String> {
        let all = entries(world.snapshot().get(&catalog()));
        all.iter().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
    }

    #[tokio::test]
    async fn an_entry_takes_the_place_of_the_one_at_its_address_and_of_the_oldest() {
        let world = world().await;
        let (a, b) = (entry("a", 1), entry("b", 2));
        let (first, second) = tokio::join!(enter(&world, &a), enter(&world, &b));
        first.unwrap();
        second.unwrap();
        assert_eq!(ids(&world).len(), 2);
        enter(&world, &entry("b-again", 2)).await.unwrap();
        assert_eq!(ids(&world), ["a", "b-again"]);
        for i in 0..MAX_REPLICAS {
            enter(&world, &entry(&format!("r{i}"), 100 + i)).await.unwrap();
        }
        assert_eq!(ids(&world).len(), MAX_REPLICAS);
        assert!(!ids(&world).contains(&"a".to_owned()));
    }

    #[tokio::test]
    async fn a_replica_comes_back_into_the_catalog() {
        let world = world().await;
        let own = entry("own", 1);
        let look = Duration::from_millis(5);
        let keep = async {
            keep_entered(&world, &own, look).await;
            unreachable!()
        };
        let check = async {
            // Others write what they like, also what nobody can read.
            for config in ["", "nonsense", "{\"instances\": 5}", "{\"instances\": []}"] {
                let config = Config { config: config.to_owned() };
                let spec = Spec::from_message(Kind::CONFIG, &config);
                let batch = Batch {
                    changes: vec![Change::put(catalog(), spec, BTreeMap::new())],
                    author: String::new(),
                    reason: String::new(),
                    mode: BatchMode::AllOrNothing,
                    at: OffsetDateTime::now_utc(),
                };
                world.commit(batch).await.unwrap();
                while ids(&world) != ["own"] {
                    tokio::time::sleep(look).await;
                }
            }
        };
        tokio::select! {
            () = check => {}
            () = keep => {}
        }
        // Once there, it writes nothing.
        let revision = world.snapshot().revision;
        let _ = tokio::time::timeout(look * 20, keep_entered(&world, &own, look)).await;
        assert_eq!(world.snapshot().revision, revision);
    }
}
