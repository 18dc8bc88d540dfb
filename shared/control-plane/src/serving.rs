//! Serving REST and diagnostics, and the certificate that all TLS ports share.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use axum::{Router, extract::Request, middleware};
use sunbear_api::{Access, ApiState, ControlPlane, Issuers, OverTls, PeerAddr, Subjects};
use sunbear_runtime::{
    config::{self, ApiAuthentication, Grant, ServerTls, TlsFiles},
    host,
    readiness::{Readiness, diagnostics_router},
    serve::{self, Limits, Server, Transport},
    tasks::Tasks,
    tls::{self, ClientCertificates, RELOAD_INTERVAL, ReloadableCertificate},
};
use time::OffsetDateTime;
use tracing::info;

use crate::{Instance, KUMA_VERSION};

/// The certificate that the settings name, or the work folder's own, made if there is none. Files
/// that change are followed.
pub fn certificate(
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
pub fn tls_transport(
    certificate: Arc<ReloadableCertificate>,
    tls: &ServerTls,
) -> Result<Transport> {
    let server = tls::server_config(certificate, tls.min_version, ClientCertificates::Ignored)?;
    Ok(Transport::Tls(server))
}

/// Who may do what, as configured.
pub fn access(api: &config::ApiServer, access: &config::Access) -> Access {
    let subjects =
        |grant: &Grant| Subjects { users: grant.users.clone(), groups: grant.groups.clone() };
    Access {
        localhost_is_admin: api.localhost_is_admin,
        user_tokens: api.authentication == ApiAuthentication::Tokens,
        anonymous_writes: false,
        admin_resources: subjects(&access.admin_resources),
        generate_dataplane_token: subjects(&access.generate_dp_token),
        generate_zone_token: subjects(&access.generate_zone_token),
        generate_user_token: subjects(&access.generate_user_token),
        control_plane_metadata: subjects(&access.control_plane_metadata),
    }
}

/// Which tokens are issued, as configured.
pub fn issuers(api: &config::ApiServer, proxies: &config::ProxyAuthentication) -> Issuers {
    Issuers {
        dataplane: proxies.dataplane_tokens.enable_issuer,
        zone: proxies.zone_tokens.enable_issuer,
        user: api.user_tokens.enable_issuer,
    }
}

/// How a control plane introduces itself.
pub fn introduction(instance: &Instance, gui: &str) -> ControlPlane {
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
pub async fn api(
    tasks: &Tasks,
    settings: &config::ApiServer,
    general: &config::General,
    instance: &Instance,
    state: ApiState,
) -> Result<()> {
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
        let certificate = certificate(tasks, &https.tls, general, instance)?;
        let server = Server {
            name: "api over TLS",
            listener: serve::bind(&https.listen).await?,
            router: router.layer(middleware::map_request(over_tls)),
            transport: tls_transport(certificate, &https.tls)?,
            limits: Limits::default(),
        };
        tasks.spawn_essential("api over TLS", server.run(tasks.token()));
    }
    Ok(())
}

/// Serves `/ready` and `/healthy`.
pub async fn diagnostics(
    tasks: &Tasks,
    settings: &config::Diagnostics,
    general: &config::General,
    instance: &Instance,
    readiness: &Readiness,
) -> Result<()> {
    let transport = match &settings.tls {
        None => Transport::Plain,
        Some(tls) => tls_transport(certificate(tasks, tls, general, instance)?, tls)?,
    };
    let server = Server {
        name: "diagnostics",
        listener: serve::bind(&settings.listen).await?,
        router: diagnostics_router(readiness.clone(), tasks.token()),
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
