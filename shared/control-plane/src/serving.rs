//! Serving REST and diagnostics, and the certificate that all TLS ports share.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};
use axum::{Router, extract::Request, middleware};
use sunbear_api::{
    Access, ApiState, ClientCertificate, ControlPlane, Issuers, Options, OverTls, PeerAddr,
    Subjects, UserTokenKeys,
};
use sunbear_runtime::{
    config::{self, ApiAuthentication, Grant, PublicKeySource, ServerTls, TlsFiles, TlsVersion},
    host,
    readiness::diagnostics_router,
    serve::{self, Limits, Server, Transport},
    tasks::Tasks,
    tls::{self, ClientCertificates, RELOAD_INTERVAL, ReloadableCertificate},
};
use sunbear_security::client_trust;
use time::OffsetDateTime;
use tracing::info;

use crate::{Instance, KUMA_VERSION, Shell};

/// The certificate that the settings name, or the work folder's own, made if there is none. Files
/// that change are followed.
pub(crate) fn certificate(
    tasks: &Tasks,
    tls: &ServerTls,
    general: &config::General,
    instance: &Instance,
) -> Result<Arc<ReloadableCertificate>> {
    let files = match &tls.files {
        Some(files) => files.clone(),
        None => {
            let pair = sunbear_security::certificate::load_or_create(
                &general.work_dir,
                &instance.hostname,
                &host::local_addresses(),
                OffsetDateTime::now_utc(),
            )
            .context("the server certificate")?;
            info!(
                path = %pair.cert.display(),
                created = pair.created,
                "no certificate configured, using a self-signed one; clients verify us with it"
            );
            TlsFiles { cert: pair.cert, key: pair.key }
        }
    };
    let certificate = ReloadableCertificate::load(files).context("the server certificate")?;
    tasks.spawn("certificate", Arc::clone(&certificate).follow(RELOAD_INTERVAL, tasks.token()));
    Ok(certificate)
}

/// A transport with this certificate.
pub(crate) fn tls_transport(
    certificate: Arc<ReloadableCertificate>,
    tls: &ServerTls,
) -> Result<Transport> {
    let server = tls::server_config(certificate, tls.min_version, ClientCertificates::Ignored)?;
    Ok(Transport::Tls(server))
}

/// Who may do what, as configured.
pub(crate) fn access(api: &config::ApiServer, access: &config::Access) -> Access {
    let subjects =
        |grant: &Grant| Subjects { users: grant.users.clone(), groups: grant.groups.clone() };
    Access {
        localhost_is_admin: api.localhost_is_admin,
        admin_client_certificates: api.authentication == ApiAuthentication::AdminClientCerts,
        user_tokens: api.authentication == ApiAuthentication::Tokens,
        anonymous_writes: api.anonymous_writes,
        admin_resources: subjects(&access.admin_resources),
        generate_dataplane_token: subjects(&access.generate_dp_token),
        generate_zone_token: subjects(&access.generate_zone_token),
        generate_user_token: subjects(&access.generate_user_token),
        view_config_dump: subjects(&access.view_config_dump),
        view_stats: subjects(&access.view_stats),
        view_clusters: subjects(&access.view_clusters),
        control_plane_metadata: subjects(&access.control_plane_metadata),
    }
}

/// What most installations leave alone, as configured. Whoever can ask Envoys puts that in.
pub(crate) fn options(api: &config::ApiServer) -> Result<Options> {
    let mut keys = BTreeMap::new();
    for key in &api.user_tokens.public_keys {
        let pem = match &key.source {
            PublicKeySource::Inline(pem) => pem.clone().into_bytes(),
            PublicKeySource::File(path) => std::fs::read(path)
                .with_context(|| format!("reading the public key {}", path.display()))?,
        };
        keys.insert(key.kid.clone(), pem);
    }
    Ok(Options {
        base_path: api.base_path.clone(),
        cors_allowed_domains: api.cors_allowed_domains.clone(),
        user_token_keys: UserTokenKeys { use_secrets: api.user_tokens.use_secrets, keys },
        ..Options::default()
    })
}

/// The transport of REST over TLS. Where certificates of clients are configured, it asks for them.
fn api_transport(
    certificate: Arc<ReloadableCertificate>,
    https: &config::ApiHttps,
) -> Result<Transport> {
    let mut files: Vec<PathBuf> = https.client_ca_file.iter().cloned().collect();
    if let Some(folder) = &https.client_certs_dir {
        let entries = std::fs::read_dir(folder)
            .with_context(|| format!("reading the folder {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_file() {
                files.push(path);
            }
        }
    }
    if files.is_empty() {
        return tls_transport(certificate, &https.tls);
    }
    let mut trusted = Vec::new();
    for path in files {
        let pem = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        trusted.extend(pem);
        trusted.push(b'\n');
    }
    let tls12 = https.tls.min_version == TlsVersion::V1_2;
    let required = https.require_client_cert;
    let server = client_trust::server_config(certificate, tls12, &trusted, required)
        .context("the certificates of clients")?;
    Ok(Transport::Tls(server))
}

/// Which tokens are issued, as configured.
pub(crate) fn issuers(api: &config::ApiServer, proxies: &config::ProxyAuthentication) -> Issuers {
    Issuers {
        dataplane: proxies.dataplane_tokens.enable_issuer,
        zone: proxies.zone_tokens.enable_issuer,
        user: api.user_tokens.enable_issuer,
    }
}

/// How a control plane introduces itself.
pub(crate) fn introduction(instance: &Instance, gui: &str) -> ControlPlane {
    ControlPlane {
        hostname: instance.hostname.clone(),
        instance_id: instance.id.clone(),
        product: "Kuma".to_owned(),
        version: KUMA_VERSION.to_owned(),
        sunbear_version: env!("CARGO_PKG_VERSION").to_owned(),
        gui: gui.to_owned(),
    }
}

/// Serves REST on the configured ports.
pub(crate) async fn api(shell: &Shell, state: ApiState) -> Result<()> {
    let (tasks, settings) = (&shell.tasks, &shell.common.api);
    let router = sunbear_api::router(state).layer(middleware::map_request(with_peer));
    if let Some(listen) = &settings.http {
        let server = Server {
            name: "api",
            listener: serve::bind(listen).await?,
            router: router.clone(),
            transport: Transport::Plain,
            limits: Limits::default(),
        };
        tasks.spawn_essential("api", server.run(tasks.token()));
    }
    if let Some(https) = &settings.https {
        let server = Server {
            name: "api over TLS",
            listener: serve::bind(&https.listen).await?,
            router: router.layer(middleware::map_request(over_tls)),
            transport: api_transport(shell.certificate(&https.tls)?, https)?,
            limits: Limits::default(),
        };
        tasks.spawn_essential("api over TLS", server.run(tasks.token()));
    }
    Ok(())
}

/// Serves `/ready`, `/healthy` and `/metrics`.
pub(crate) async fn diagnostics(shell: &Shell) -> Result<()> {
    let (tasks, settings) = (&shell.tasks, &shell.common.diagnostics);
    let transport = match &settings.tls {
        None => Transport::Plain,
        Some(tls) => shell.transport(tls)?,
    };
    let server = Server {
        name: "diagnostics",
        listener: serve::bind(&settings.listen).await?,
        router: diagnostics_router(shell.readiness.clone(), tasks.token(), shell.metrics.clone()),
        transport,
        limits: Limits { max_connections: 100, ..Limits::default() },
    };
    tasks.spawn_essential("diagnostics", server.run(tasks.token()));
    Ok(())
}

/// Tells the API who is calling.
async fn with_peer(mut request: Request) -> Request {
    if let Some(peer) = request.extensions().get::<serve::PeerAddr>().copied() {
        request.extensions_mut().insert(PeerAddr(peer.0));
    }
    if request.extensions().get::<serve::PeerCertificates>().is_some() {
        request.extensions_mut().insert(ClientCertificate);
    }
    request
}

async fn over_tls(mut request: Request) -> Request {
    request.extensions_mut().insert(OverTls);
    request
}

/// Gives a gRPC service the peer's address as a plain `SocketAddr` extension.
pub fn with_socket_address(router: Router) -> Router {
    router.layer(middleware::map_request(async |mut request: Request| {
        if let Some(peer) = request.extensions().get::<serve::PeerAddr>().copied() {
            request.extensions_mut().insert(peer.0);
        }
        request
    }))
}
