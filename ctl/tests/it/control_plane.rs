//! A global control plane: the real API with a store in memory, on a socket.

use std::sync::{Arc, OnceLock};

use axum::extract::Request;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use sunbear_api::{
    Access, ApiState, ControlPlane, Issuers, Options, PeerAddr,
    defaults::{DefaultsSettings, MeshDefaults, ensure_defaults},
    router,
};
use sunbear_model::{Kind, ResourceKey, rest, validation::Mode};
use sunbear_security::signing_key;
use sunbear_store::{Batch, BatchMode, Change, Sqlite, Store, World, WorldOptions};
use time::OffsetDateTime;

use crate::api::{Done, run};

/// The control plane; stops with its runtime.
pub(crate) struct Global {
    pub(crate) address: String,
    world: World,
    runtime: tokio::runtime::Runtime,
}

/// A key to sign with. Making one takes long without optimisation, so most control planes here
/// share it.
fn shared_key() -> &'static str {
    static KEY: OnceLock<String> = OnceLock::new();
    KEY.get_or_init(|| STANDARD.encode(signing_key::generate().unwrap()))
}

impl Global {
    /// One as it is after its first start.
    pub(crate) fn start() -> Self {
        let secret = |name: &str| json!({"name": name, "data": shared_key()});
        let mut own = secret("dataplane-token-signing-key-default-1");
        own["mesh"] = "default".into();
        Self::start_with(&[
            (Kind::GLOBAL_SECRET, secret("zone-token-signing-key-1")),
            (Kind::GLOBAL_SECRET, secret("user-token-signing-key-1")),
            (Kind::SECRET, own),
        ])
    }

    /// One with keys that no other has.
    pub(crate) fn with_own_keys() -> Self {
        Self::start_with(&[])
    }

    fn start_with(present: &[(Kind, Value)]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let mode = Mode::Global { disable_origin_label_validation: false };
        let clock = OffsetDateTime::now_utc;
        let (world, listener) = runtime.block_on(async {
            let store = Arc::new(Sqlite::memory().await.unwrap()) as Arc<dyn Store>;
            let (world, feed) = World::start(store, WorldOptions::default()).await.unwrap();
            tokio::spawn(feed);
            for (kind, body) in present {
                put(&world, *kind, body).await;
            }
            let settings = DefaultsSettings {
                mode: mode.clone(),
                skip_mesh_creation: false,
                skip_hostname_generators: false,
                bootstrap_admin_token: true,
                clock,
            };
            ensure_defaults(&world, &settings).await.unwrap();
            (world, tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap())
        });
        let state = ApiState {
            world: world.clone(),
            hooks: Arc::new(MeshDefaults { mode: mode.clone() }),
            mode,
            identity: ControlPlane {
                hostname: "cp".to_owned(),
                instance_id: "cp-1234".to_owned(),
                product: "Kuma".to_owned(),
                version: "2.14.3".to_owned(),
                sunbear_version: "0.1.0".to_owned(),
                gui: String::new(),
            },
            config_json: json!({}),
            access: Access::default(),
            issuers: Issuers::default(),
            read_only: false,
            unsafe_delete: false,
            clock,
            options: Options::default(),
        };
        let address = format!("http://{}", listener.local_addr().unwrap());
        // The API has to know that the caller is on this host, which makes it the administrator.
        let router =
            router(state).layer(axum::middleware::map_request(|mut request: Request| async move {
                request.extensions_mut().insert(PeerAddr("127.0.0.1:1".parse().unwrap()));
                request
            }));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { address, world, runtime }
    }

    /// Runs the program with this control plane.
    pub(crate) fn run(&self, arguments: &[&str]) -> Done {
        run(&self.address, arguments, &[], "")
    }

    /// Runs the program, which must succeed; its standard output.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let done = self.run(arguments);
        assert_eq!((done.code, done.err.as_str()), (0, ""), "{arguments:?}");
        done.out
    }

    /// Applies documents, which must succeed; the standard output.
    pub(crate) fn apply(&self, documents: &str) -> String {
        let done = run(&self.address, &["apply", "-f", "-"], &[], documents);
        assert_eq!((done.code, done.err.as_str()), (0, ""), "{}", done.out);
        done.out
    }

    /// Stores an object past the API, as zones and proxies do.
    pub(crate) fn seed(&self, kind: Kind, body: &Value) {
        self.runtime.block_on(put(&self.world, kind, body));
    }
}

async fn put(world: &World, kind: Kind, body: &Value) {
    let wanted = rest::read_as(kind, body).unwrap();
    let key = ResourceKey::new(kind, &wanted.mesh, &wanted.name);
    let batch = Batch {
        changes: vec![Change::put(key, wanted.spec, wanted.labels)],
        author: "test".to_owned(),
        reason: "test".to_owned(),
        mode: BatchMode::AllOrNothing,
        at: OffsetDateTime::now_utc(),
    };
    for result in world.commit(batch).await.unwrap().results {
        result.unwrap();
    }
}
