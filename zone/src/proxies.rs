//! The port for proxies: bootstrap and discovery.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use sunbear_control_plane::Shell;
use sunbear_dp_server::{
    AuthType, BootstrapParams, DpServer, DpServerConfig, PublicKey, TokenSettings,
};
use sunbear_runtime::{
    config::{self, ProxyAuthenticationKind, PublicKeySource, TokenAuthority, ZoneConfig},
    serve::{self, Limits, Server},
    tls::ReloadableCertificate,
};
use sunbear_xds::AdminTls;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Serves proxies on the configured port.
pub(crate) async fn serve(
    shell: &Shell,
    config: &ZoneConfig,
    admin_tls: Option<AdminTls>,
) -> Result<Arc<DpServer>> {
    let Shell { tasks, world, instance, common, .. } = shell;
    let certificate = shell.certificate(&config.dp_server.tls)?;
    let mut settings = DpServerConfig::new(&config.name, &instance.id, &pem(&certificate)?);
    settings.federated = config.global.is_some();
    let authentication = &common.proxy_authentication;
    settings.dataplane_tokens = tokens(authentication.dataplane, &authentication.dataplane_tokens)?;
    settings.zone_tokens = tokens(authentication.zone_proxy, &authentication.zone_tokens)?;
    settings.bootstrap = bootstrap(&config.bootstrap)?;
    settings.xds = sunbear_xds::Settings {
        zone: config.name.clone(),
        internal_cidrs: common.addresses.known_internal_cidrs.clone(),
        admin_tls,
        ..Default::default()
    };
    settings.nack_backoff = config.xds.nack_backoff;
    settings.status_flush_interval = config.xds.status_flush_interval;
    settings.deregistration_delay = config.xds.deregistration_delay;

    let server = DpServer::new(settings, world.clone(), Arc::new(OffsetDateTime::now_utc))?;
    shell.metrics.register(server.collector()?)?;
    let listener = Server {
        name: "proxies",
        listener: serve::bind(&config.dp_server.listen).await?,
        router: server.router(),
        transport: shell.transport(&config.dp_server.tls)?,
        limits: Limits {
            max_concurrent_streams: 1_000_000,
            drain: config.dp_server.graceful_shutdown_timeout.min(Duration::from_secs(5)),
            ..Limits::default()
        },
    };
    tasks.spawn_essential("proxies", listener.run(tasks.token()));
    tasks.spawn(
        "certificate for proxies",
        hand_out(Arc::clone(&server), certificate, tasks.token()),
    );
    tasks.spawn("proxy streams", Arc::clone(&server).run(tasks.token()));
    Ok(server)
}

/// Proxies that bring no authority are told in their bootstrap whom to trust: the certificate that
/// is served, also after it changed.
async fn hand_out(
    server: Arc<DpServer>,
    certificate: Arc<ReloadableCertificate>,
    stop: CancellationToken,
) {
    let mut swaps = certificate.swaps();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            // The sender lives in `certificate`, so this cannot fail.
            _ = swaps.changed() => {}
        }
        let replaced = pem(&certificate).and_then(|pem| Ok(server.set_server_certificate(&pem)?));
        if let Err(error) = replaced {
            warn!("proxies are still told of the old certificate: {error:#}");
        }
    }
}

fn pem(certificate: &ReloadableCertificate) -> Result<String> {
    let path = &certificate.files().cert;
    std::fs::read_to_string(path)
        .with_context(|| format!("reading the server certificate {}", path.display()))
}

fn tokens(kind: ProxyAuthenticationKind, authority: &TokenAuthority) -> Result<TokenSettings> {
    let auth = match kind {
        ProxyAuthenticationKind::Token => AuthType::Token,
        ProxyAuthenticationKind::None => AuthType::None,
        ProxyAuthenticationKind::ServiceAccountToken => {
            anyhow::bail!(
                "dpServer.authn: serviceAccountToken needs Kubernetes, which this build does not \
                 offer; use dpToken and zoneToken, or none"
            )
        }
    };
    let mut public_keys = Vec::new();
    for key in &authority.public_keys {
        let pem = match &key.source {
            PublicKeySource::Inline(text) => text.clone(),
            PublicKeySource::File(path) => std::fs::read_to_string(path)
                .with_context(|| format!("reading the public key {}", path.display()))?,
        };
        public_keys.push(PublicKey {
            kid: key.kid.clone(),
            mesh: key.mesh.clone().unwrap_or_default(),
            pem,
        });
    }
    Ok(TokenSettings { auth, use_secrets: authority.use_secrets, public_keys })
}

fn bootstrap(settings: &config::Bootstrap) -> Result<BootstrapParams> {
    Ok(BootstrapParams {
        admin_port: settings.admin_port.unwrap_or(0),
        admin_address: settings.admin_address.parse().with_context(|| {
            format!(
                "bootstrapServer.params.adminAddress: {:?} is no address",
                settings.admin_address
            )
        })?,
        admin_access_log_path: settings.admin_access_log_path.clone(),
        envoy_admin_unix_socket: settings.admin_unix_socket,
        xds_host: settings.xds_host.clone().unwrap_or_default(),
        xds_port: settings.xds_port,
        xds_connect_timeout: settings.xds_connect_timeout,
        global_downstream_max_connections: settings.gateway_max_connections,
    })
}
