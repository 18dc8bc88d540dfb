//! From flat settings to types, with the checks that concern more than one value.

use std::path::PathBuf;
use std::time::Duration;

use super::error::ConfigErrors;
use super::reader::Reader;
use super::settings::Settings;
use super::typed::*;
use crate::telemetry::{LogFormat, LogOptions};

/// Makes the configuration of a global.
pub(super) fn global(settings: &Settings) -> Result<GlobalConfig, ConfigErrors> {
    let reader = Reader::new(settings);
    let config = GlobalConfig {
        common: common(&reader),
        kds: global_kds(&reader),
        inter_cp: InterCp {
            listen: reader.listen("interCp.server.port"),
            address: reader.text("interCp.catalog.instanceAddress").to_owned(),
        },
    };
    reader.finish(config)
}

/// Makes the configuration of a zone.
pub(super) fn zone(settings: &Settings) -> Result<ZoneConfig, ConfigErrors> {
    let reader = Reader::new(settings);
    let config = ZoneConfig {
        common: common(&reader),
        name: zone_name(&reader),
        global: global_peer(&reader),
        disable_origin_label_validation: reader.flag("multizone.zone.disableOriginLabelValidation"),
        dp_server: dp_server(&reader),
        bootstrap: bootstrap(&reader),
        xds: XdsServer {
            status_flush_interval: reader.positive("xdsServer.dataplaneStatusFlushInterval"),
            deregistration_delay: reader.span("xdsServer.dataplaneDeregistrationDelay"),
            nack_backoff: reader.span("xdsServer.nackBackoff"),
        },
        cleanup: Cleanup {
            dataplane_age: reader.positive("runtime.universal.dataplaneCleanupAge"),
            zone_proxy_age: reader.positive("runtime.universal.zoneResourceCleanupAge"),
        },
        ingress_tag_filters: reader.list("experimental.ingressTagFilters"),
        expose_zone_proxy_metrics: reader.flag("experimental.exposeZoneProxyMetrics"),
        mesh_service_deletion_grace: reader.span("meshService.deletionGracePeriod"),
    };
    reader.finish(config)
}

fn common(reader: &Reader<'_>) -> Common {
    Common {
        environment: environment(reader),
        general: general(reader),
        log: log(reader),
        store: store(reader),
        api: api(reader),
        access: access(reader),
        proxy_authentication: proxy_authentication(reader),
        defaults: defaults(reader),
        zone_insights: zone_insights(reader),
        dataplane_insights: dataplane_insights(reader),
        addresses: addresses(reader),
        diagnostics: diagnostics(reader),
    }
}

fn environment(reader: &Reader<'_>) -> DeploymentEnvironment {
    let choices = [
        ("universal", DeploymentEnvironment::Universal),
        ("kubernetes", DeploymentEnvironment::Kubernetes),
    ];
    reader.choice("environment", &choices)
}

fn general(reader: &Reader<'_>) -> General {
    let (base, max) =
        ("general.resilientComponentBaseBackoff", "general.resilientComponentMaxBackoff");
    let general = General {
        work_dir: PathBuf::from(reader.text("general.workDir")),
        restart_base_backoff: reader.positive(base),
        restart_max_backoff: reader.positive(max),
    };
    if general.restart_max_backoff < general.restart_base_backoff {
        reader.invalid(max, format!("must not be less than {base}"));
    }
    general
}

fn log(reader: &Reader<'_>) -> LogOptions {
    LogOptions {
        filter: reader.text("log.level"),
        format: reader
            .choice("log.format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]),
    }
}

fn store(reader: &Reader<'_>) -> Store {
    let kind = match reader.text("store.type").as_str() {
        "memory" => StoreKind::Memory,
        "sqlite" => StoreKind::Sqlite { path: PathBuf::from(reader.text("store.sqlite.path")) },
        "postgres" => StoreKind::Postgres(postgres(reader)),
        other => {
            reader.invalid(
                "store.type",
                format!("must be sqlite, postgres or memory, not {other:?}"),
            );
            StoreKind::Memory
        }
    };
    Store {
        kind,
        secrets: secret_keys(reader),
        unsafe_delete: reader.flag("store.unsafeDelete"),
        upsert: UpsertRetry {
            base_backoff: reader.positive("store.upsert.conflictRetryBaseBackoff"),
            max_times: reader.number("store.upsert.conflictRetryMaxTimes", 0, u32::MAX),
            jitter_percent: reader.number("store.upsert.conflictRetryJitterPercent", 0, 100),
        },
    }
}

fn secret_keys(reader: &Reader<'_>) -> Option<SecretKeys> {
    let (file, keys) = (reader.path("store.secrets.keyFile"), reader.text("store.secrets.keys"));
    match (file, keys.is_empty()) {
        (Some(_), false) => {
            let reason = "must not be set together with store.secrets.keyFile".to_owned();
            reader.invalid("store.secrets.keys", reason);
            None
        }
        (Some(path), true) => Some(SecretKeys::File(path)),
        (None, false) => Some(SecretKeys::Inline(Secret::new(keys))),
        (None, true) => None,
    }
}

fn postgres(reader: &Reader<'_>) -> Postgres {
    let ca = || reader.path("store.postgres.tls.caPath");
    let tls = match reader.text("store.postgres.tls.mode").as_str() {
        "disable" => PostgresTls::Disable,
        "verifyNone" => PostgresTls::VerifyNone,
        "verifyCa" => PostgresTls::VerifyCa(ca()),
        "verifyFull" => PostgresTls::VerifyFull(ca()),
        other => {
            let reason =
                format!("must be disable, verifyNone, verifyCa or verifyFull, not {other:?}");
            reader.invalid("store.postgres.tls.mode", reason);
            PostgresTls::Disable
        }
    };
    let min_connections = reader.number("store.postgres.minOpenConnections", 0, u32::MAX);
    let max_connections: u32 = reader.number("store.postgres.maxOpenConnections", 0, u32::MAX);
    if max_connections > 0 && min_connections > max_connections {
        let reason = "must not be more than store.postgres.maxOpenConnections".to_owned();
        reader.invalid("store.postgres.minOpenConnections", reason);
    }
    Postgres {
        host: reader.required("store.postgres.host"),
        port: reader.number("store.postgres.port", 1, u16::MAX),
        user: reader.required("store.postgres.user"),
        password: Secret::new(reader.text("store.postgres.password")),
        db_name: reader.required("store.postgres.dbName"),
        tls,
        client_certificate: reader
            .pair("store.postgres.tls.certPath", "store.postgres.tls.keyPath"),
        min_connections,
        max_connections: (max_connections > 0).then_some(max_connections),
        connect_timeout: Duration::from_secs(
            reader.number::<u32>("store.postgres.connectionTimeout", 1, 3600).into(),
        ),
        max_lifetime: reader.positive("store.postgres.maxConnectionLifetime"),
        idle_timeout: reader.positive("store.postgres.maxConnectionIdleTime"),
    }
}

fn api(reader: &Reader<'_>) -> ApiServer {
    let http = reader.flag("apiServer.http.enabled").then(|| Listen {
        interface: reader.interface("apiServer.http.interface"),
        ..reader.listen("apiServer.http.port")
    });
    let https = reader.flag("apiServer.https.enabled").then(|| ApiHttps {
        listen: Listen {
            interface: reader.interface("apiServer.https.interface"),
            ..reader.listen("apiServer.https.port")
        },
        tls: reader.server_tls("apiServer.https"),
        client_ca_file: reader.path("apiServer.https.tlsCaFile"),
        client_certs_dir: reader.path("apiServer.auth.clientCertsDir"),
        require_client_cert: reader.flag("apiServer.https.requireClientCert"),
    });
    if let Some(https) = &https
        && https.require_client_cert
        && https.client_ca_file.is_none()
        && https.client_certs_dir.is_none()
    {
        let reason = "needs apiServer.https.tlsCaFile or apiServer.auth.clientCertsDir".to_owned();
        reader.invalid("apiServer.https.requireClientCert", reason);
    }
    let authentication = [
        ("tokens", ApiAuthentication::Tokens),
        ("adminClientCerts", ApiAuthentication::AdminClientCerts),
    ];
    ApiServer {
        http,
        https,
        read_only: reader.flag("apiServer.readOnly"),
        cors_allowed_domains: reader.list("apiServer.corsAllowedDomains"),
        anonymous_writes: reader.flag("apiServer.authn.anonymousWrites"),
        localhost_is_admin: reader.flag("apiServer.authn.localhostIsAdmin"),
        authentication: reader.choice("apiServer.authn.type", &authentication),
        bootstrap_admin_token: reader.flag("apiServer.authn.tokens.bootstrapAdminToken"),
        user_tokens: TokenAuthority {
            enable_issuer: reader.flag("apiServer.authn.tokens.enableIssuer"),
            use_secrets: reader.flag("apiServer.authn.tokens.validator.useSecrets"),
            public_keys: reader.public_keys("apiServer.authn.tokens.validator.publicKeys"),
        },
        base_path: reader.url_path("apiServer.basePath"),
        root_url: reader.text("apiServer.rootUrl"),
        gui: reader.flag("apiServer.gui.enabled").then(|| Gui {
            base_path: reader.url_path("apiServer.gui.basePath"),
            root_url: reader.text("apiServer.gui.rootUrl"),
        }),
    }
}

fn access(reader: &Reader<'_>) -> Access {
    let grant = |users, groups| Grant { users: reader.set(users), groups: reader.set(groups) };
    Access {
        admin_resources: grant(
            "access.static.adminResources.users",
            "access.static.adminResources.groups",
        ),
        generate_dp_token: grant(
            "access.static.generateDpToken.users",
            "access.static.generateDpToken.groups",
        ),
        generate_user_token: grant(
            "access.static.generateUserToken.users",
            "access.static.generateUserToken.groups",
        ),
        generate_zone_token: grant(
            "access.static.generateZoneToken.users",
            "access.static.generateZoneToken.groups",
        ),
        view_config_dump: grant(
            "access.static.viewConfigDump.users",
            "access.static.viewConfigDump.groups",
        ),
        view_stats: grant("access.static.viewStats.users", "access.static.viewStats.groups"),
        view_clusters: grant(
            "access.static.viewClusters.users",
            "access.static.viewClusters.groups",
        ),
        control_plane_metadata: grant(
            "access.static.controlPlaneMetadata.users",
            "access.static.controlPlaneMetadata.groups",
        ),
    }
}

fn global_kds(reader: &Reader<'_>) -> GlobalKds {
    let (poll, timeout) = (
        "multizone.global.kds.zoneHealthCheck.pollInterval",
        "multizone.global.kds.zoneHealthCheck.timeout",
    );
    let (poll_interval, silence) = (reader.span(poll), reader.span(timeout));
    let zone_health_check = if poll_interval.is_zero() && silence.is_zero() {
        None
    } else {
        if poll_interval.is_zero() || silence <= poll_interval {
            reader.invalid(timeout, format!("must be more than {poll}, or both must be 0"));
        }
        Some(ZoneHealthCheck { poll_interval, timeout: silence })
    };
    let tls = reader.flag("multizone.global.kds.tlsEnabled");
    let tls = tls.then(|| reader.server_tls("multizone.global.kds"));
    let use_token =
        reader.choice("multizone.global.kds.auth.type", &[("none", false), ("zoneToken", true)]);
    if use_token && tls.is_none() {
        let reason =
            "needs multizone.global.kds.tlsEnabled, because tokens must not be sent in plain text";
        reader.invalid("multizone.global.kds.auth.type", reason.to_owned());
    }
    // Read in any case, so that a malformed key is found before it is needed.
    let public_keys = reader.public_keys("multizone.global.kds.auth.validator.publicKeys");
    let use_secrets = reader.flag("multizone.global.kds.auth.validator.useSecrets");
    GlobalKds {
        listen: reader.listen("multizone.global.kds.grpcPort"),
        tls,
        max_message_size: reader.message_size("multizone.global.kds.maxMsgSize"),
        zone_insight_flush_interval: reader
            .positive("multizone.global.kds.zoneInsightFlushInterval"),
        zone_health_check,
        nack_backoff: reader.positive("multizone.global.kds.nackBackoff"),
        skip_label_prefixes: reader.list("multizone.global.kds.labels.skipPrefixes"),
        authentication: if use_token {
            KdsAuthentication::ZoneToken { use_secrets, public_keys }
        } else {
            KdsAuthentication::None
        },
    }
}

fn zone_name(reader: &Reader<'_>) -> String {
    let path = "multizone.zone.name";
    // Two zones that were both left at the default would take each other's place at the global.
    if reader.is_default(path) && !reader.text("multizone.zone.globalAddress").is_empty() {
        let reason = "must be set beside multizone.zone.globalAddress, to a name that no other zone \
                      of that global has";
        reader.invalid(path, reason.to_owned());
    }
    let name = reader.required(path);
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.is_empty()
        && (name.len() > 63
            || !name.chars().all(inner)
            || name.starts_with('-')
            || name.ends_with('-'))
    {
        let reason = "must be at most 63 lower-case letters, digits and '-', with a letter or digit at both ends";
        reader.invalid(path, reason.to_owned());
    }
    name
}

fn global_peer(reader: &Reader<'_>) -> Option<GlobalPeer> {
    let path = "multizone.zone.globalAddress";
    let text = reader.text(path);
    let (token_path, token_inline) = (
        reader.path("multizone.zone.kds.auth.tokenPath"),
        reader.text("multizone.zone.kds.auth.tokenInline"),
    );
    let token = match (token_path, token_inline.is_empty()) {
        (Some(_), false) => {
            let reason =
                "must not be set together with multizone.zone.kds.auth.tokenPath".to_owned();
            reader.invalid("multizone.zone.kds.auth.tokenInline", reason);
            None
        }
        (Some(path), true) => Some(TokenSource::File(path)),
        (None, false) => Some(TokenSource::Inline(Secret::new(token_inline))),
        (None, true) => None,
    };
    if text.is_empty() {
        return None;
    }
    let address = match parse_global_address(&text) {
        Ok(address) => address,
        Err(reason) => {
            reader.invalid(path, reason);
            return None;
        }
    };
    if token.is_some() && !address.tls {
        let reason =
            "must begin with grpcs://, because a token must not be sent in plain text".to_owned();
        reader.invalid(path, reason);
    }
    Some(GlobalPeer {
        address,
        root_ca_file: reader.path("multizone.zone.kds.rootCaFile"),
        tls_skip_verify: reader.flag("multizone.zone.kds.tlsSkipVerify"),
        max_message_size: reader.message_size("multizone.zone.kds.maxMsgSize"),
        nack_backoff: reader.positive("multizone.zone.kds.nackBackoff"),
        skip_label_prefixes: reader.list("multizone.zone.kds.labels.skipPrefixes"),
        token,
    })
}

fn parse_global_address(text: &str) -> Result<GlobalAddress, String> {
    let form = || format!("must be grpcs://host:port or grpc://host:port, not {text:?}");
    let uri: axum::http::Uri = text.parse().map_err(|_| form())?;
    let tls = match uri.scheme_str() {
        Some("grpcs") => true,
        Some("grpc") => false,
        Some(_) | None => return Err(form()),
    };
    let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else { return Err(form()) };
    if host.is_empty() || port == 0 || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(form());
    }
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok(GlobalAddress { tls, host, port })
}

fn dp_server(reader: &Reader<'_>) -> DpServer {
    DpServer {
        listen: reader.listen("dpServer.port"),
        tls: reader.server_tls("dpServer"),
        graceful_shutdown_timeout: reader.span("dpServer.gracefulShutdownTimeout"),
        reloadable_tokens: reader.flag("dpServer.authn.enableReloadableTokens"),
    }
}

fn proxy_authentication(reader: &Reader<'_>) -> ProxyAuthentication {
    let kind = |path, token| {
        let choices = [
            (token, ProxyAuthenticationKind::Token),
            ("serviceAccountToken", ProxyAuthenticationKind::ServiceAccountToken),
            ("none", ProxyAuthenticationKind::None),
        ];
        reader.choice(path, &choices)
    };
    ProxyAuthentication {
        dataplane: kind("dpServer.authn.dpProxy.type", "dpToken"),
        zone_proxy: kind("dpServer.authn.zoneProxy.type", "zoneToken"),
        dataplane_tokens: TokenAuthority {
            enable_issuer: reader.flag("dpServer.authn.dpProxy.dpToken.enableIssuer"),
            use_secrets: reader.flag("dpServer.authn.dpProxy.dpToken.validator.useSecrets"),
            public_keys: reader.public_keys("dpServer.authn.dpProxy.dpToken.validator.publicKeys"),
        },
        zone_tokens: TokenAuthority {
            enable_issuer: reader.flag("dpServer.authn.zoneProxy.zoneToken.enableIssuer"),
            use_secrets: reader.flag("dpServer.authn.zoneProxy.zoneToken.validator.useSecrets"),
            public_keys: reader
                .public_keys("dpServer.authn.zoneProxy.zoneToken.validator.publicKeys"),
        },
    }
}

fn bootstrap(reader: &Reader<'_>) -> Bootstrap {
    let admin_port: u16 = reader.number("bootstrapServer.params.adminPort", 0, u16::MAX);
    let xds_host = reader.text("bootstrapServer.params.xdsHost");
    let xds_port: u16 = reader.number("bootstrapServer.params.xdsPort", 0, u16::MAX);
    Bootstrap {
        admin_address: reader.address("bootstrapServer.params.adminAddress").to_string(),
        admin_port: (admin_port > 0).then_some(admin_port),
        admin_access_log_path: reader.required("bootstrapServer.params.adminAccessLogPath"),
        admin_unix_socket: reader.flag("bootstrapServer.params.envoyAdminUnixSocket"),
        xds_host: (!xds_host.is_empty()).then_some(xds_host),
        xds_port: if xds_port > 0 { xds_port } else { reader.number("dpServer.port", 0, u16::MAX) },
        xds_connect_timeout: reader.positive("bootstrapServer.params.xdsConnectTimeout"),
        xds_max_receive_message_bytes: reader.number(
            "bootstrapServer.params.xdsGrpcMaxReceiveMessageBytes",
            1,
            u32::MAX,
        ),
        gateway_max_connections: reader.number(
            "proxy.gateway.globalDownstreamMaxConnections",
            1,
            u64::MAX,
        ),
    }
}

fn defaults(reader: &Reader<'_>) -> Defaults {
    Defaults {
        skip_mesh_creation: reader.flag("defaults.skipMeshCreation"),
        create_mesh_routing_resources: reader.flag("defaults.createMeshRoutingResources"),
        skip_hostname_generators: reader.flag("defaults.skipHostnameGenerators"),
    }
}

fn zone_insights(reader: &Reader<'_>) -> InsightRetention {
    InsightRetention {
        subscription_limit: reader.number("metrics.zone.subscriptionLimit", 1, usize::MAX),
        idle_timeout: reader.positive("metrics.zone.idleTimeout"),
        compact_finished: reader.flag("metrics.zone.compactFinishedSubscriptions"),
    }
}

fn dataplane_insights(reader: &Reader<'_>) -> InsightRetention {
    InsightRetention {
        subscription_limit: reader.number("metrics.dataplane.subscriptionLimit", 1, usize::MAX),
        idle_timeout: reader.positive("metrics.dataplane.idleTimeout"),
        compact_finished: false,
    }
}

fn addresses(reader: &Reader<'_>) -> Addresses {
    Addresses {
        domain: reader.required("dnsServer.domain"),
        vip_cidr: reader.cidr("dnsServer.CIDR"),
        service_vips: reader.flag("dnsServer.serviceVipEnabled"),
        service_vip_port: reader.number("dnsServer.serviceVipPort", 1, u16::MAX),
        mesh_service_cidr: reader.cidr("ipam.meshService.cidr"),
        mesh_external_service_cidr: reader.cidr("ipam.meshExternalService.cidr"),
        mesh_multi_zone_service_cidr: reader.cidr("ipam.meshMultiZoneService.cidr"),
        known_internal_cidrs: reader.cidrs("ipam.knownInternalCIDRs"),
    }
}

fn diagnostics(reader: &Reader<'_>) -> Diagnostics {
    Diagnostics {
        listen: reader.listen("diagnostics.serverPort"),
        tls: reader.flag("diagnostics.tlsEnabled").then(|| reader.server_tls("diagnostics")),
    }
}
