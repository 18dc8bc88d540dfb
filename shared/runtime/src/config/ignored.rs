//! Keys of Kuma that have no meaning here. They are accepted, so that a Kuma configuration works
//! unchanged, and named once in the log.

/// A key, or a whole section, that is accepted and not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ignored {
    /// Path in the file; everything below it is ignored as well.
    pub(crate) path: &'static str,
    /// `KUMA_*` variable; one that ends in `_` stands for all that begin with it.
    pub(crate) env: &'static str,
}

const fn ignored(path: &'static str, env: &'static str) -> Ignored {
    Ignored { path, env }
}

/// Beginnings of variables that belong to the data plane proxy, whose environment may be shared
/// with the control plane, for example in one compose file.
pub(crate) const FOREIGN: &[&str] = &[
    "KUMA_APPLICATION_PROBE_PROXY_",
    "KUMA_CONTROL_PLANE_",
    "KUMA_DATAPLANE_",
    "KUMA_DNS_CONFIG_",
    "KUMA_DNS_CORE",
    "KUMA_DNS_ENABLE",
    "KUMA_DNS_ENVOY_",
    "KUMA_DNS_PROMETHEUS_",
    "KUMA_DNS_PROXY_",
    "KUMA_READINESS_",
];

/// All of them, sorted by path.
#[rustfmt::skip]
pub(crate) const IGNORED: &[Ignored] = &[
    ignored("access.type", "KUMA_ACCESS_TYPE"),
    ignored("apiServer.https.tlsCipherSuites", "KUMA_API_SERVER_HTTPS_TLS_CIPHER_SUITES"),
    ignored("apiServer.https.tlsMaxVersion", "KUMA_API_SERVER_HTTPS_TLS_MAX_VERSION"),
    ignored("apiServer.idleTimeout", "KUMA_API_SERVER_IDLE_TIMEOUT"),
    ignored("apiServer.readHeaderTimeout", "KUMA_API_SERVER_READ_HEADER_TIMEOUT"),
    ignored("apiServer.readTimeout", "KUMA_API_SERVER_READ_TIMEOUT"),
    ignored("apiServer.writeTimeout", "KUMA_API_SERVER_WRITE_TIMEOUT"),
    ignored("bootstrapServer.params.corefileTemplatePath", "KUMA_BOOTSTRAP_SERVER_PARAMS_COREFILE_TEMPLATE_PATH"),
    ignored("bootstrapServer.params.readinessPort", "KUMA_BOOTSTRAP_SERVER_PARAMS_READINESS_PORT"),
    ignored("coreResources", "KUMA_CORE_RESOURCES_"),
    ignored("defaults.skipTenantResources", "KUMA_DEFAULTS_SKIP_TENANT_RESOURCES"),
    ignored("diagnostics.debugEndpoints", "KUMA_DIAGNOSTICS_DEBUG_ENDPOINTS"),
    ignored("diagnostics.tlsCipherSuites", "KUMA_DIAGNOSTICS_TLS_CIPHER_SUITES"),
    ignored("diagnostics.tlsMaxVersion", "KUMA_DIAGNOSTICS_TLS_MAX_VERSION"),
    ignored("diagnostics.tlsMinVersion", "KUMA_DIAGNOSTICS_TLS_MIN_VERSION"),
    ignored("dpServer.hds", "KUMA_DP_SERVER_HDS_"),
    ignored("dpServer.readHeaderTimeout", "KUMA_DP_SERVER_READ_HEADER_TIMEOUT"),
    ignored("dpServer.tlsCipherSuites", "KUMA_DP_SERVER_TLS_CIPHER_SUITES"),
    ignored("dpServer.tlsMaxVersion", "KUMA_DP_SERVER_TLS_MAX_VERSION"),
    ignored("eventBus", "KUMA_EVENT_BUS_"),
    ignored("experimental.autoReachableServices", "KUMA_EXPERIMENTAL_AUTO_REACHABLE_SERVICES"),
    ignored("experimental.deltaXds", "KUMA_EXPERIMENTAL_DELTA_XDS"),
    ignored("experimental.inboundTagsDisabled", "KUMA_EXPERIMENTAL_INBOUND_TAGS_DISABLED"),
    ignored("experimental.kdsEventBasedWatchdog", "KUMA_EXPERIMENTAL_KDS_EVENT_BASED_WATCHDOG_"),
    ignored("experimental.kubeOutboundsAsVIPs", "KUMA_EXPERIMENTAL_KUBE_OUTBOUNDS_AS_VIPS"),
    ignored("experimental.sidecarContainers", "KUMA_EXPERIMENTAL_SIDECAR_CONTAINERS"),
    ignored("experimental.useTagFirstVirtualOutboundModel", "KUMA_EXPERIMENTAL_USE_TAG_FIRST_VIRTUAL_OUTBOUND_MODEL"),
    ignored("general.certGenerationBaseBackoff", "KUMA_GENERAL_CERT_GENERATION_BASE_BACKOFF"),
    ignored("general.certGenerationCircuitBreakerMinProxies", "KUMA_GENERAL_CERT_GENERATION_CIRCUIT_BREAKER_MIN_PROXIES"),
    ignored("general.certGenerationMaxBackoff", "KUMA_GENERAL_CERT_GENERATION_MAX_BACKOFF"),
    ignored("general.dnsCacheTTL", "KUMA_GENERAL_DNS_CACHE_TTL"),
    ignored("general.tlsCipherSuites", "KUMA_GENERAL_TLS_CIPHER_SUITES"),
    ignored("general.tlsMaxVersion", "KUMA_GENERAL_TLS_MAX_VERSION"),
    ignored("interCp.catalog.heartbeatInterval", "KUMA_INTER_CP_CATALOG_HEARTBEAT_INTERVAL"),
    ignored("interCp.catalog.instanceVersion", "KUMA_INTER_CP_CATALOG_INSTANCE_VERSION"),
    ignored("interCp.catalog.writerInterval", "KUMA_INTER_CP_CATALOG_WRITER_INTERVAL"),
    ignored("interCp.server.tlsCipherSuites", "KUMA_INTER_CP_SERVER_TLS_CIPHER_SUITES"),
    ignored("interCp.server.tlsMaxVersion", "KUMA_INTER_CP_SERVER_TLS_MAX_VERSION"),
    ignored("interCp.server.tlsMinVersion", "KUMA_INTER_CP_SERVER_TLS_MIN_VERSION"),
    ignored("ipam.allocationInterval", "KUMA_IPAM_ALLOCATION_INTERVAL"),
    ignored("meshService.generationInterval", "KUMA_MESH_SERVICE_GENERATION_INTERVAL"),
    ignored("meshService.labelPropagation", "KUMA_MESH_SERVICE_LABEL_PROPAGATION_"),
    ignored("metrics.controlPlane", "KUMA_METRICS_CONTROL_PLANE_"),
    ignored("metrics.mesh", "KUMA_METRICS_MESH_"),
    ignored("metrics.openTelemetry", "KUMA_METRICS_OPENTELEMETRY_"),
    ignored("monitoringAssignmentServer", "KUMA_MONITORING_ASSIGNMENT_SERVER_"),
    ignored("multizone.global.kds.logPayloads", "KUMA_MULTIZONE_GLOBAL_KDS_LOG_PAYLOADS"),
    ignored("multizone.global.kds.msgSendTimeout", "KUMA_MULTIZONE_GLOBAL_KDS_MSG_SEND_TIMEOUT"),
    ignored("multizone.global.kds.refreshInterval", "KUMA_MULTIZONE_GLOBAL_KDS_REFRESH_INTERVAL"),
    ignored("multizone.global.kds.responseBackoff", "KUMA_MULTIZONE_GLOBAL_KDS_RESPONSE_BACKOFF"),
    ignored("multizone.global.kds.tlsCipherSuites", "KUMA_MULTIZONE_GLOBAL_KDS_TLS_CIPHER_SUITES"),
    ignored("multizone.global.kds.tlsMaxVersion", "KUMA_MULTIZONE_GLOBAL_KDS_TLS_MAX_VERSION"),
    ignored("multizone.global.kds.tracing", "KUMA_MULTIZONE_GLOBAL_KDS_TRACING_"),
    ignored("multizone.global.kds.zoneHealthCheck.closeStaleConn", "KUMA_MULTIZONE_GLOBAL_KDS_ZONE_HEALTH_CHECK_CLOSE_STALE_CONN"),
    ignored("multizone.zone.ingressUpdateInterval", "KUMA_MULTIZONE_ZONE_INGRESS_UPDATE_INTERVAL"),
    ignored("multizone.zone.kds.logPayloads", "KUMA_MULTIZONE_ZONE_KDS_LOG_PAYLOADS"),
    ignored("multizone.zone.kds.msgSendTimeout", "KUMA_MULTIZONE_ZONE_KDS_MSG_SEND_TIMEOUT"),
    ignored("multizone.zone.kds.refreshInterval", "KUMA_MULTIZONE_ZONE_KDS_REFRESH_INTERVAL"),
    ignored("multizone.zone.kds.responseBackoff", "KUMA_MULTIZONE_ZONE_KDS_RESPONSE_BACKOFF"),
    ignored("policies", "KUMA_PLUGIN_POLICIES_ENABLED"),
    ignored("reports", "KUMA_REPORTS_"),
    ignored("runtime.kubernetes", "KUMA_INJECTOR_"),
    ignored("runtime.kubernetes", "KUMA_RUNTIME_KUBERNETES_"),
    ignored("runtime.universal.spire", "KUMA_RUNTIME_UNIVERSAL_SPIRE_"),
    ignored("runtime.universal.vipRefreshInterval", "KUMA_RUNTIME_UNIVERSAL_VIP_REFRESH_INTERVAL"),
    ignored("runtime.universal.workload", "KUMA_RUNTIME_UNIVERSAL_WORKLOAD_"),
    ignored("store.cache", "KUMA_STORE_CACHE_"),
    ignored("store.kubernetes", "KUMA_STORE_KUBERNETES_"),
    ignored("store.postgres.driverName", "KUMA_STORE_POSTGRES_DRIVER_NAME"),
    ignored("store.postgres.healthCheckInterval", "KUMA_STORE_POSTGRES_HEALTH_CHECK_INTERVAL"),
    ignored("store.postgres.maxConnectionLifetimeJitter", "KUMA_STORE_POSTGRES_MAX_CONNECTION_LIFETIME_JITTER"),
    ignored("store.postgres.maxIdleConnections", "KUMA_STORE_POSTGRES_MAX_IDLE_CONNECTIONS"),
    ignored("store.postgres.maxListQueryElements", "KUMA_STORE_POSTGRES_MAX_LIST_QUERY_ELEMENTS"),
    ignored("store.postgres.readReplica", "KUMA_STORE_POSTGRES_READ_REPLICA_"),
    ignored("store.postgres.tls.disableSSLSNI", "KUMA_STORE_POSTGRES_TLS_DISABLE_SSLSNI"),
    ignored("store.postgres.tolerateNewerDBVersions", "KUMA_STORE_POSTGRES_TOLERATE_NEWER_DB_VERSIONS"),
    ignored("tracing", "KUMA_TRACING_"),
    ignored("xdsServer.dataplaneConfigurationRefreshInterval", "KUMA_XDS_SERVER_DATAPLANE_CONFIGURATION_REFRESH_INTERVAL"),
];
