//! A zone with a data-plane server on a port of its own.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use sunbear_dp_server::{Clock, DpServer, DpServerConfig, ProxyStatus};
use sunbear_model::{Kind, Resource, ResourceKey, Spec, rest};
use sunbear_proto::kuma::{mesh::v1alpha1::DataplaneInsight, system::v1alpha1::Secret};
use sunbear_security::{
    certificate::{PemPair, self_signed},
    signing_key,
    token::{DataplaneClaims, SigningKey, issue},
};
use sunbear_store::{Batch, BatchMode, Change, Outcome, Sqlite, Store, World, WorldOptions};
use time::OffsetDateTime;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long something that must happen may take on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Making these takes long.
pub(crate) static SIGNING_KEY: LazyLock<String> =
    LazyLock::new(|| signing_key::generate().unwrap());
pub(crate) static CERTIFICATE: LazyLock<PemPair> = LazyLock::new(|| {
    self_signed("localhost", &["127.0.0.1".parse().unwrap()], OffsetDateTime::now_utc()).unwrap()
});

pub(crate) struct Fixture {
    pub(crate) world: World,
    pub(crate) server: Arc<DpServer>,
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
    run: JoinHandle<()>,
}

impl Fixture {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(configure: impl FnOnce(&mut DpServerConfig)) -> Self {
        Self::over(Arc::new(Sqlite::memory().await.unwrap()), configure).await
    }

    pub(crate) async fn over(
        store: Arc<dyn Store>,
        configure: impl FnOnce(&mut DpServerConfig),
    ) -> Self {
        let (world, feed) = World::start(store, WorldOptions::default()).await.unwrap();
        tokio::spawn(feed);
        put(&world, "{type: Mesh, name: default}").await;
        secret(&world, "default", "dataplane-token-signing-key-default-1", &SIGNING_KEY).await;
        Self::serve(world, configure).await
    }

    /// A further server over the same world.
    pub(crate) async fn serve(world: World, configure: impl FnOnce(&mut DpServerConfig)) -> Self {
        let mut config = DpServerConfig::new("east", "cp-1", &CERTIFICATE.cert_pem);
        config.status_flush_interval = Duration::from_millis(50);
        configure(&mut config);
        let clock: Clock = Arc::new(OffsetDateTime::now_utc);
        let server = DpServer::new(config, world.clone(), clock).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = server.router();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let stop = CancellationToken::new();
        let run = tokio::spawn(Arc::clone(&server).run(stop.clone()));
        Self { world, server, address, stop, run }
    }

    /// The resources of a gateway `edge` with one route to `echo`, and an echo.
    pub(crate) async fn with_gateway(self) -> Self {
        for text in [MESH_GATEWAY, ROUTE, ECHO] {
            self.put(text).await;
        }
        self
    }

    pub(crate) async fn put(&self, text: &str) -> Arc<Resource> {
        put(&self.world, text).await
    }

    pub(crate) async fn secret(&self, mesh: &str, name: &str, data: &str) {
        secret(&self.world, mesh, name, data).await;
    }

    pub(crate) async fn delete(&self, key: ResourceKey) {
        commit(&self.world, Change::delete(key)).await;
    }

    pub(crate) fn get(&self, key: &ResourceKey) -> Option<Arc<Resource>> {
        self.world.snapshot().get(key).cloned()
    }

    pub(crate) fn dataplane(&self, name: &str) -> Option<Arc<Resource>> {
        self.get(&ResourceKey::new(Kind::DATAPLANE, "default", name))
    }

    pub(crate) fn insight(&self, name: &str) -> Option<DataplaneInsight> {
        let resource = self.get(&ResourceKey::new(Kind::DATAPLANE_INSIGHT, "default", name))?;
        resource.as_dataplane_insight().cloned()
    }

    pub(crate) fn status(&self, name: &str) -> Option<ProxyStatus> {
        self.server.statuses().into_iter().find(|s| &*s.proxy.name == name)
    }

    /// Stops the server and waits until it has.
    pub(crate) async fn shut_down(self) -> World {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.run).await.expect("the server stops").unwrap();
        self.world
    }
}

/// Waits until `f` gives something.
pub(crate) async fn eventually<T>(what: &str, mut f: impl FnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(value) = f() {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Bounds what must not take for ever.
pub(crate) async fn soon<T: Debug>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("in vain: {what}"),
    }
}

pub(crate) async fn put(world: &World, text: &str) -> Arc<Resource> {
    let value: serde_json::Value = serde_saphyr::from_str(text).unwrap();
    let desired = rest::read(&value).unwrap();
    let key = ResourceKey::new(desired.kind, &desired.mesh, &desired.name);
    commit(world, Change::put(key, desired.spec, desired.labels)).await.unwrap()
}

async fn secret(world: &World, mesh: &str, name: &str, data: &str) {
    let kind = if mesh.is_empty() { Kind::GLOBAL_SECRET } else { Kind::SECRET };
    let spec = Spec::from_message(kind, &Secret { data: Some(data.as_bytes().to_vec()) });
    let change = Change::put(ResourceKey::new(kind, mesh, name), spec, BTreeMap::new());
    commit(world, change).await;
}

async fn commit(world: &World, change: Change) -> Option<Arc<Resource>> {
    let batch = Batch {
        changes: vec![change],
        author: "test".to_owned(),
        reason: "test".to_owned(),
        mode: BatchMode::AllOrNothing,
        at: OffsetDateTime::now_utc(),
    };
    let committed = world.commit(batch).await.unwrap();
    let outcome: &Outcome = committed.results[0].as_ref().unwrap();
    outcome.resource().cloned()
}

/// A token for what the claims say.
pub(crate) fn token(claims: &DataplaneClaims) -> String {
    token_with_id(claims, Uuid::new_v4(), time::Duration::HOUR)
}

pub(crate) fn token_with_id(
    claims: &DataplaneClaims,
    id: Uuid,
    valid_for: time::Duration,
) -> String {
    let key = SigningKey { kid: "1", key: SIGNING_KEY.as_bytes() };
    issue(claims, key, id, OffsetDateTime::now_utc(), valid_for).unwrap()
}

/// A token for any Dataplane of the mesh.
pub(crate) fn any_token() -> String {
    token(&DataplaneClaims { mesh: "default".to_owned(), ..DataplaneClaims::default() })
}

/// The definition of a builtin gateway, as a proxy brings it along.
pub(crate) fn gateway(name: &str, service: &str) -> String {
    format!(
        "{{type: Dataplane, mesh: default, name: {name}, networking: {{address: 127.0.0.1, \
         gateway: {{type: BUILTIN, tags: {{kuma.io/service: {service}}}}}}}}}"
    )
}

const MESH_GATEWAY: &str = "
type: MeshGateway
mesh: default
name: edge
selectors: [{match: {kuma.io/service: edge}}]
conf: {listeners: [{port: 18080, protocol: HTTP, tags: {port: http}}]}
";

pub(crate) const ROUTE: &str = "
type: MeshGatewayRoute
mesh: default
name: route
selectors: [{match: {kuma.io/service: edge}}]
conf:
  http:
    rules:
    - matches: [{path: {match: PREFIX, value: /}}]
      filters: [{requestHeader: {set: [{name: x-rev, value: '0'}]}}]
      backends: [{destination: {kuma.io/service: echo}, weight: 1}]
";

pub(crate) const ECHO: &str = "
type: Dataplane
mesh: default
name: echo-1
networking:
  address: 127.0.0.1
  inbound: [{port: 19090, tags: {kuma.io/service: echo, kuma.io/protocol: http}}]
";
