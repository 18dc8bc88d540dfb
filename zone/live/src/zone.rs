//! The control plane.

use std::{fmt, sync::Arc};

use sunbear_dp_server::{AuthType, Clock, DpServer, DpServerConfig, ProxyStatus};
use sunbear_model::{Resource, ResourceKey};
use sunbear_runtime::{
    config::{Listen, TlsFiles, TlsVersion},
    serve::{Limits, Server, Transport, bind},
    tls::{ClientCertificates, ReloadableCertificate, install_crypto_provider, server_config},
};
use sunbear_security::certificate::self_signed;
use sunbear_store::{Batch, BatchMode, Change, Revision, Sqlite, World, WorldOptions};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

/// Name of the zone.
pub(crate) const ZONE: &str = "east";

/// A zone's control plane as proxies know it, over a store in memory.
pub struct Zone {
    /// All resources.
    pub world: World,
    /// The server for proxies.
    pub server: Arc<DpServer>,
    /// Its TLS port.
    pub port: u16,
    /// The certificate of the port, PEM.
    pub certificate: String,
    stop: CancellationToken,
    _folder: TempDir,
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zone").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Drop for Zone {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Zone {
    /// Starts one. Proxies need no tokens.
    pub async fn start(configure: impl FnOnce(&mut DpServerConfig)) -> Self {
        install_crypto_provider();
        let (world, feed) =
            World::start(Arc::new(Sqlite::memory().await.unwrap()), WorldOptions::default())
                .await
                .unwrap();
        tokio::spawn(feed);
        // All interfaces, because Envoy may take localhost to be `::1`.
        let listen = Listen { interface: String::new(), port: 0, key: "test" };
        let listener = bind(&listen).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let pair =
            self_signed("localhost", &["127.0.0.1".parse().unwrap()], OffsetDateTime::now_utc())
                .unwrap();
        let mut config = DpServerConfig::new(ZONE, "cp-1", &pair.cert_pem);
        config.dataplane_tokens.auth = AuthType::None;
        config.bootstrap.xds_port = port;
        configure(&mut config);
        let clock: Clock = Arc::new(OffsetDateTime::now_utc);
        let server = DpServer::new(config, world.clone(), clock).unwrap();

        let folder = tempfile::tempdir().unwrap();
        let files =
            TlsFiles { cert: folder.path().join("cp.crt"), key: folder.path().join("cp.key") };
        std::fs::write(&files.cert, &pair.cert_pem).unwrap();
        std::fs::write(&files.key, &pair.key_pem).unwrap();
        let certificate = ReloadableCertificate::load(files).unwrap();
        let tls = server_config(certificate, TlsVersion::V1_2, ClientCertificates::Ignored);
        let stop = CancellationToken::new();
        let served = Server {
            name: "dp-server",
            listener,
            router: server.router(),
            transport: Transport::Tls(tls.unwrap()),
            limits: Limits::default(),
        };
        tokio::spawn(served.run(stop.clone()));
        tokio::spawn(Arc::clone(&server).run(stop.clone()));
        Self { world, server, port, certificate: pair.cert_pem, stop, _folder: folder }
    }

    /// Writes all or nothing; gives the revision to wait for.
    pub async fn commit(&self, changes: Vec<Change>) -> Revision {
        let batch = Batch {
            changes,
            author: "test".to_owned(),
            reason: "test".to_owned(),
            mode: BatchMode::AllOrNothing,
            at: OffsetDateTime::now_utc(),
        };
        let committed = self.world.commit(batch).await.unwrap();
        for result in &committed.results {
            result.as_ref().unwrap();
        }
        committed.revision
    }

    /// A resource as it is stored.
    pub fn get(&self, key: &ResourceKey) -> Option<Arc<Resource>> {
        self.world.snapshot().get(key).cloned()
    }

    /// How a proxy does.
    pub fn status(&self, proxy: &str) -> Option<ProxyStatus> {
        self.server.statuses().into_iter().find(|s| &*s.proxy.name == proxy)
    }
}
