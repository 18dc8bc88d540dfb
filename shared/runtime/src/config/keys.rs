//! The one table of configuration keys: path in the file, environment variable, type, default and
//! meaning. Everything else (reading, overlay, dump) is derived from it.

use std::time::Duration;

use super::typed::Mode;

/// Type of a key, with its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text(&'static str),
    /// A yes or no.
    Flag(bool),
    /// A whole number.
    Number(i64),
    /// A span of time, written as in Go: `10s`, `1h30m`.
    Span(Duration),
    /// Texts; in the environment separated by commas.
    List(&'static [&'static str]),
    /// A structure that only the file can hold; empty by default.
    Tree,
}

impl Kind {
    /// What a value of this kind is called in messages.
    pub(crate) fn expected(self) -> &'static str {
        match self {
            Kind::Text(_) => "a text",
            Kind::Flag(_) => "true or false",
            Kind::Number(_) => "a whole number",
            Kind::Span(_) => "a duration such as 10s or 1h30m",
            Kind::List(_) => "a list of texts",
            Kind::Tree => "a list",
        }
    }
}

/// The programs that a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Programs {
    /// `sunbear-global` and `sunbear-zone`.
    Both,
    /// `sunbear-global`. A zone reads it too, so that one file can serve both, and does not use it.
    Global,
    /// `sunbear-zone`; likewise.
    Zone,
}

impl Programs {
    /// Is a program of this role among them?
    pub fn include(self, mode: Mode) -> bool {
        match self {
            Programs::Both => true,
            Programs::Global => mode == Mode::Global,
            Programs::Zone => mode == Mode::Zone,
        }
    }
}

/// One configuration key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Path in the file, segments joined by dots.
    pub path: &'static str,
    /// `KUMA_*` variable; the same name with `SUNBEAR_` works too and wins. `None` for trees.
    pub env: Option<&'static str>,
    /// Type and default.
    pub kind: Kind,
    /// What a number counts; durations bring their units along.
    pub unit: Option<&'static str>,
    /// Who uses it.
    pub programs: Programs,
    /// False for keys that are read and checked, and change nothing yet.
    pub has_effect: bool,
    /// Sunbear's own: Kuma does not know the key.
    pub own: bool,
    /// Never shown in logs, dumps and REST.
    pub secret: bool,
    /// Meaning, for the documentation.
    pub doc: &'static str,
}

impl Key {
    const fn new(
        path: &'static str,
        env: Option<&'static str>,
        kind: Kind,
        doc: &'static str,
    ) -> Self {
        let programs = Programs::Both;
        Self {
            path,
            env,
            kind,
            unit: None,
            programs,
            has_effect: true,
            own: false,
            secret: false,
            doc,
        }
    }

    /// The variable as the documentation names it: ours for our own keys, Kuma's for Kuma's.
    pub fn variable(&self) -> Option<String> {
        self.env.map(|name| if self.own { sunbear_name(name) } else { name.to_owned() })
    }

    const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    const fn unit(mut self, unit: &'static str) -> Self {
        self.unit = Some(unit);
        self
    }

    const fn global(mut self) -> Self {
        self.programs = Programs::Global;
        self
    }

    const fn zone(mut self) -> Self {
        self.programs = Programs::Zone;
        self
    }

    const fn without_effect(mut self) -> Self {
        self.has_effect = false;
        self
    }

    const fn own(mut self) -> Self {
        self.own = true;
        self
    }
}

/// The `SUNBEAR_*` twin of a `KUMA_*` name.
pub(crate) fn sunbear_name(kuma: &str) -> String {
    format!("SUNBEAR_{}", kuma.strip_prefix("KUMA_").unwrap_or(kuma))
}

const fn text(
    path: &'static str,
    env: &'static str,
    default: &'static str,
    doc: &'static str,
) -> Key {
    Key::new(path, Some(env), Kind::Text(default), doc)
}

const fn flag(path: &'static str, env: &'static str, default: bool, doc: &'static str) -> Key {
    Key::new(path, Some(env), Kind::Flag(default), doc)
}

const fn number(path: &'static str, env: &'static str, default: i64, doc: &'static str) -> Key {
    Key::new(path, Some(env), Kind::Number(default), doc)
}

const fn span(path: &'static str, env: &'static str, default: Duration, doc: &'static str) -> Key {
    Key::new(path, Some(env), Kind::Span(default), doc)
}

const fn list(
    path: &'static str,
    env: &'static str,
    default: &'static [&'static str],
    doc: &'static str,
) -> Key {
    Key::new(path, Some(env), Kind::List(default), doc)
}

const fn tree(path: &'static str, doc: &'static str) -> Key {
    Key::new(path, None, Kind::Tree, doc)
}

/// The keys by what they are about: title and table.
pub(crate) const GROUPS: &[(&str, &[Key])] = &[
    ("General", SHARED),
    ("Store", STORE),
    ("REST API", REST),
    ("Who may do what", ACCESS),
    ("Global and zones", MULTIZONE),
    ("Proxies", PROXIES),
    ("Resources and diagnostics", WORLD),
];

/// Every key, also those without effect; beside them, whole sections of Kuma's are accepted.
pub fn keys() -> impl Iterator<Item = &'static Key> {
    GROUPS.iter().flat_map(|(_, keys)| keys.iter())
}

/// What every part of a control plane needs.
#[rustfmt::skip]
const SHARED: &[Key] = &[
    text("environment", "KUMA_ENVIRONMENT", "universal", "where the control plane runs: `universal` or `kubernetes`"),
    text("mode", "KUMA_MODE", "", "role of this control plane: `global` or `zone`; must fit the binary"),
    text("general.workDir", "KUMA_GENERAL_WORK_DIR", "", "folder for generated certificates and the SQLite file; empty: `$HOME/.sunbear`, else `./sunbear-data`"),
    text("general.tlsCertFile", "KUMA_GENERAL_TLS_CERT_FILE", "", "certificate (PEM) for every server that names none of its own; empty: self-signed"),
    text("general.tlsKeyFile", "KUMA_GENERAL_TLS_KEY_FILE", "", "key (PEM) of `general.tlsCertFile`"),
    text("general.tlsMinVersion", "KUMA_GENERAL_TLS_MIN_VERSION", "TLSv1_2", "lowest TLS version for every server that names none of its own: `TLSv1_2` or `TLSv1_3`"),
    span("general.resilientComponentBaseBackoff", "KUMA_GENERAL_RESILIENT_COMPONENT_BASE_BACKOFF", Duration::from_secs(5), "first pause before a failed component (the KDS client) starts again").without_effect(),
    span("general.resilientComponentMaxBackoff", "KUMA_GENERAL_RESILIENT_COMPONENT_MAX_BACKOFF", Duration::from_secs(60), "longest pause before a failed component starts again").without_effect(),
    text("log.level", "KUMA_LOG_LEVEL", "info", "log level, or tracing filter directives; `RUST_LOG` wins over it"),
    text("log.format", "KUMA_LOG_FORMAT", "text", "log format: `text` or `json`"),
];

/// Where resources are kept.
#[rustfmt::skip]
const STORE: &[Key] = &[
    text("store.type", "KUMA_STORE_TYPE", "sqlite", "`sqlite`, `postgres` or `memory`"),
    text("store.sqlite.path", "KUMA_STORE_SQLITE_PATH", "", "database file; empty: `sunbear-global.db` or `sunbear-zone.db` in the work folder").own(),
    text("store.postgres.host", "KUMA_STORE_POSTGRES_HOST", "127.0.0.1", "host name or address of the server"),
    number("store.postgres.port", "KUMA_STORE_POSTGRES_PORT", 15_432, "port of the server").unit("port"),
    text("store.postgres.user", "KUMA_STORE_POSTGRES_USER", "kuma", "user to connect as"),
    text("store.postgres.password", "KUMA_STORE_POSTGRES_PASSWORD", "kuma", "password of the user").secret(),
    text("store.postgres.dbName", "KUMA_STORE_POSTGRES_DB_NAME", "kuma", "database to use"),
    number("store.postgres.connectionTimeout", "KUMA_STORE_POSTGRES_CONNECTION_TIMEOUT", 5, "seconds to wait for a connection").unit("seconds"),
    number("store.postgres.minOpenConnections", "KUMA_STORE_POSTGRES_MIN_OPEN_CONNECTIONS", 0, "connections that are kept open").unit("connections"),
    number("store.postgres.maxOpenConnections", "KUMA_STORE_POSTGRES_MAX_OPEN_CONNECTIONS", 50, "most connections open at once; 0 is unlimited").unit("connections"),
    span("store.postgres.maxConnectionLifetime", "KUMA_STORE_POSTGRES_MAX_CONNECTION_LIFETIME", Duration::from_secs(3600), "age at which a connection is replaced").without_effect(),
    span("store.postgres.maxConnectionIdleTime", "KUMA_STORE_POSTGRES_MAX_CONNECTION_IDLE_TIME", Duration::from_secs(1800), "idle time after which a connection is closed").without_effect(),
    text("store.postgres.tls.mode", "KUMA_STORE_POSTGRES_TLS_MODE", "disable", "`disable`, `verifyNone`, `verifyCa` or `verifyFull`"),
    text("store.postgres.tls.certPath", "KUMA_STORE_POSTGRES_TLS_CERT_PATH", "", "client certificate (PEM)"),
    text("store.postgres.tls.keyPath", "KUMA_STORE_POSTGRES_TLS_KEY_PATH", "", "key (PEM) of the client certificate"),
    text("store.postgres.tls.caPath", "KUMA_STORE_POSTGRES_TLS_CA_PATH", "", "authority (PEM) that the server's certificate is checked against"),
    text("store.secrets.keyFile", "KUMA_STORE_SECRETS_KEY_FILE", "", "file with the keys that Secrets and GlobalSecrets are encrypted with in the database: lines of the form `id:base64`, each of 32 bytes; the first encrypts, all decrypt; empty: they are stored plain").own(),
    text("store.secrets.keys", "KUMA_STORE_SECRETS_KEYS", "", "the content of `store.secrets.keyFile` itself; entries may also be separated by commas").secret().own(),
    flag("store.unsafeDelete", "KUMA_STORE_UNSAFE_DELETE", false, "skip the checks before a delete, for example of a Mesh that still has Dataplanes"),
    span("store.upsert.conflictRetryBaseBackoff", "KUMA_STORE_UPSERT_CONFLICT_RETRY_BASE_BACKOFF", Duration::from_millis(200), "first pause after a write conflict").without_effect(),
    number("store.upsert.conflictRetryMaxTimes", "KUMA_STORE_UPSERT_CONFLICT_RETRY_MAX_TIMES", 10, "how often a conflicting write is retried").unit("times").without_effect(),
    number("store.upsert.conflictRetryJitterPercent", "KUMA_STORE_UPSERT_CONFLICT_RETRY_JITTER_PERCENT", 30, "random part of the pauses, in percent").unit("percent").without_effect(),
];

/// The REST API and the web pages.
#[rustfmt::skip]
const REST: &[Key] = &[
    flag("apiServer.readOnly", "KUMA_API_SERVER_READ_ONLY", false, "serve reads only"),
    list("apiServer.corsAllowedDomains", "KUMA_API_SERVER_CORS_ALLOWED_DOMAINS", &[], "origins that browsers may call from"),
    flag("apiServer.http.enabled", "KUMA_API_SERVER_HTTP_ENABLED", true, "serve REST over plain HTTP"),
    text("apiServer.http.interface", "KUMA_API_SERVER_HTTP_INTERFACE", "0.0.0.0", "address to listen on"),
    number("apiServer.http.port", "KUMA_API_SERVER_HTTP_PORT", 5_681, "port to listen on").unit("port"),
    flag("apiServer.https.enabled", "KUMA_API_SERVER_HTTPS_ENABLED", true, "serve REST over TLS"),
    text("apiServer.https.interface", "KUMA_API_SERVER_HTTPS_INTERFACE", "0.0.0.0", "address to listen on"),
    number("apiServer.https.port", "KUMA_API_SERVER_HTTPS_PORT", 5_682, "port to listen on").unit("port"),
    text("apiServer.https.tlsCertFile", "KUMA_API_SERVER_HTTPS_TLS_CERT_FILE", "", "certificate (PEM); empty: `general.tlsCertFile`"),
    text("apiServer.https.tlsKeyFile", "KUMA_API_SERVER_HTTPS_TLS_KEY_FILE", "", "key (PEM) of the certificate"),
    text("apiServer.https.tlsMinVersion", "KUMA_API_SERVER_HTTPS_TLS_MIN_VERSION", "", "lowest TLS version; empty: `general.tlsMinVersion`"),
    flag("apiServer.https.requireClientCert", "KUMA_API_SERVER_HTTPS_REQUIRE_CLIENT_CERT", false, "refuse clients without a certificate"),
    text("apiServer.https.tlsCaFile", "KUMA_API_SERVER_HTTPS_TLS_CA_FILE", "", "authorities (PEM) that client certificates are checked against"),
    text("apiServer.auth.clientCertsDir", "KUMA_API_SERVER_AUTH_CLIENT_CERTS_DIR", "", "folder of certificates (PEM) that client certificates are checked against"),
    text("apiServer.authn.type", "KUMA_API_SERVER_AUTHN_TYPE", "tokens", "`tokens` or `adminClientCerts`"),
    flag("apiServer.authn.localhostIsAdmin", "KUMA_API_SERVER_AUTHN_LOCALHOST_IS_ADMIN", true, "callers from this host are administrators"),
    flag("apiServer.authn.anonymousWrites", "KUMA_API_SERVER_AUTHN_ANONYMOUS_WRITES", false, "callers without credentials from other hosts may write policies, as they may with Kuma; secrets and tokens stay closed to them").own(),
    flag("apiServer.authn.tokens.bootstrapAdminToken", "KUMA_API_SERVER_AUTHN_TOKENS_BOOTSTRAP_ADMIN_TOKEN", true, "create the secret `admin-user-token` at start"),
    flag("apiServer.authn.tokens.enableIssuer", "KUMA_API_SERVER_AUTHN_TOKENS_ENABLE_ISSUER", true, "serve the endpoint that issues user tokens"),
    flag("apiServer.authn.tokens.validator.useSecrets", "KUMA_API_SERVER_AUTHN_TOKENS_VALIDATOR_USE_SECRETS", true, "check user tokens against keys in secrets"),
    tree("apiServer.authn.tokens.validator.publicKeys", "static keys for user tokens: `{kid, key or keyFile}`"),
    text("apiServer.basePath", "KUMA_API_SERVER_BASE_PATH", "/", "path that REST is served under"),
    text("apiServer.rootUrl", "KUMA_API_SERVER_ROOT_URL", "", "public address of REST behind a reverse proxy").without_effect(),
    flag("apiServer.gui.enabled", "KUMA_API_SERVER_GUI_ENABLED", true, "serve the web pages").without_effect(),
    text("apiServer.gui.rootUrl", "KUMA_API_SERVER_GUI_ROOT_URL", "", "public address of the web pages behind a reverse proxy").without_effect(),
    text("apiServer.gui.basePath", "KUMA_API_SERVER_GUI_BASE_PATH", "/gui", "path that the web pages are served under").without_effect(),
];

/// What users and groups may do. Whoever is not named here may still read and write policies.
#[rustfmt::skip]
const ACCESS: &[Key] = &[
    list("access.static.adminResources.users", "KUMA_ACCESS_STATIC_ADMIN_RESOURCES_USERS", &["mesh-system:admin"], "users who may handle secrets"),
    list("access.static.adminResources.groups", "KUMA_ACCESS_STATIC_ADMIN_RESOURCES_GROUPS", &["mesh-system:admin"], "groups who may handle secrets"),
    list("access.static.generateDpToken.users", "KUMA_ACCESS_STATIC_GENERATE_DP_TOKEN_USERS", &["mesh-system:admin"], "users who may issue dataplane tokens"),
    list("access.static.generateDpToken.groups", "KUMA_ACCESS_STATIC_GENERATE_DP_TOKEN_GROUPS", &["mesh-system:admin"], "groups who may issue dataplane tokens"),
    list("access.static.generateUserToken.users", "KUMA_ACCESS_STATIC_GENERATE_USER_TOKEN_USERS", &["mesh-system:admin"], "users who may issue user tokens"),
    list("access.static.generateUserToken.groups", "KUMA_ACCESS_STATIC_GENERATE_USER_TOKEN_GROUPS", &["mesh-system:admin"], "groups who may issue user tokens"),
    list("access.static.generateZoneToken.users", "KUMA_ACCESS_STATIC_GENERATE_ZONE_TOKEN_USERS", &["mesh-system:admin"], "users who may issue zone tokens"),
    list("access.static.generateZoneToken.groups", "KUMA_ACCESS_STATIC_GENERATE_ZONE_TOKEN_GROUPS", &["mesh-system:admin"], "groups who may issue zone tokens"),
    list("access.static.viewConfigDump.users", "KUMA_ACCESS_STATIC_GET_CONFIG_DUMP_USERS", &[], "users who may see the configuration of proxies"),
    list("access.static.viewConfigDump.groups", "KUMA_ACCESS_STATIC_GET_CONFIG_DUMP_GROUPS", &["mesh-system:unauthenticated","mesh-system:authenticated"], "groups who may see the configuration of proxies"),
    list("access.static.viewStats.users", "KUMA_ACCESS_STATIC_VIEW_STATS_USERS", &[], "users who may see statistics of proxies"),
    list("access.static.viewStats.groups", "KUMA_ACCESS_STATIC_VIEW_STATS_GROUPS", &["mesh-system:unauthenticated","mesh-system:authenticated"], "groups who may see statistics of proxies"),
    list("access.static.viewClusters.users", "KUMA_ACCESS_STATIC_VIEW_CLUSTERS_USERS", &[], "users who may see clusters of proxies"),
    list("access.static.viewClusters.groups", "KUMA_ACCESS_STATIC_VIEW_CLUSTERS_GROUPS", &["mesh-system:unauthenticated","mesh-system:authenticated"], "groups who may see clusters of proxies"),
    list("access.static.controlPlaneMetadata.users", "KUMA_ACCESS_STATIC_CONTROL_PLANE_METADATA_USERS", &[], "users who may see this configuration"),
    list("access.static.controlPlaneMetadata.groups", "KUMA_ACCESS_STATIC_CONTROL_PLANE_METADATA_GROUPS", &["mesh-system:unauthenticated","mesh-system:authenticated"], "groups who may see this configuration"),
];

/// Global and zones.
#[rustfmt::skip]
const MULTIZONE: &[Key] = &[
    number("interCp.server.port", "KUMA_INTER_CP_SERVER_PORT", 5_683, "port at which replicas of a global pass on what is asked about proxies, with `store.type: postgres`").unit("port").global(),
    text("interCp.catalog.instanceAddress", "KUMA_INTER_CP_CATALOG_INSTANCE_ADDRESS", "", "host name or address at which other replicas reach this one; empty: the first address of this host that is not a loopback one").global(),
    number("multizone.global.kds.grpcPort", "KUMA_MULTIZONE_GLOBAL_KDS_GRPC_PORT", 5_685, "port that zones connect to").unit("port").global(),
    flag("multizone.global.kds.tlsEnabled", "KUMA_MULTIZONE_GLOBAL_KDS_TLS_ENABLED", true, "serve KDS over TLS").global(),
    text("multizone.global.kds.tlsCertFile", "KUMA_MULTIZONE_GLOBAL_KDS_TLS_CERT_FILE", "", "certificate (PEM); empty: `general.tlsCertFile`").global(),
    text("multizone.global.kds.tlsKeyFile", "KUMA_MULTIZONE_GLOBAL_KDS_TLS_KEY_FILE", "", "key (PEM) of the certificate").global(),
    text("multizone.global.kds.tlsMinVersion", "KUMA_MULTIZONE_GLOBAL_KDS_TLS_MIN_VERSION", "", "lowest TLS version; empty: `general.tlsMinVersion`").global(),
    number("multizone.global.kds.maxMsgSize", "KUMA_MULTIZONE_GLOBAL_KDS_MAX_MSG_SIZE", 10_485_760, "largest message in bytes, both ways").unit("bytes").global(),
    span("multizone.global.kds.zoneInsightFlushInterval", "KUMA_MULTIZONE_GLOBAL_KDS_ZONE_INSIGHT_FLUSH_INTERVAL", Duration::from_secs(10), "how often ZoneInsights are written").global(),
    span("multizone.global.kds.zoneHealthCheck.pollInterval", "KUMA_MULTIZONE_GLOBAL_KDS_ZONE_HEALTH_CHECK_POLL_INTERVAL", Duration::from_secs(10), "how often a zone shows that it lives; 0 turns the check off").global(),
    span("multizone.global.kds.zoneHealthCheck.timeout", "KUMA_MULTIZONE_GLOBAL_KDS_ZONE_HEALTH_CHECK_TIMEOUT", Duration::from_secs(30), "silence after which the streams of a zone are closed; 0 turns the check off").global(),
    span("multizone.global.kds.nackBackoff", "KUMA_MULTIZONE_GLOBAL_KDS_NACK_BACKOFF", Duration::from_secs(5), "first pause before a refused resource is sent again").global().without_effect(),
    list("multizone.global.kds.labels.skipPrefixes", "KUMA_MULTIZONE_GLOBAL_KDS_LABELS_SKIP_PREFIXES", &[], "prefixes of labels that are not sent to zones").global().without_effect(),
    text("multizone.global.kds.auth.type", "KUMA_MULTIZONE_GLOBAL_KDS_AUTH_TYPE", "none", "how zones prove who they are: `none` or `zoneToken`").global(),
    flag("multizone.global.kds.auth.validator.useSecrets", "KUMA_MULTIZONE_GLOBAL_KDS_AUTH_VALIDATOR_USE_SECRETS", true, "check the tokens of zones against keys in secrets").global(),
    tree("multizone.global.kds.auth.validator.publicKeys", "static keys for the tokens of zones: `{kid, key or keyFile}`").global(),
    text("multizone.zone.name", "KUMA_MULTIZONE_ZONE_NAME", "default", "name of this zone").zone(),
    text("multizone.zone.globalAddress", "KUMA_MULTIZONE_ZONE_GLOBAL_ADDRESS", "", "address of the global control plane, `grpcs://host:port`; empty: this zone stands alone").zone(),
    text("multizone.zone.kds.rootCaFile", "KUMA_MULTIZONE_ZONE_KDS_ROOT_CA_FILE", "", "authorities (PEM) that the global's certificate is checked against; empty: those of the system").zone(),
    flag("multizone.zone.kds.tlsSkipVerify", "KUMA_MULTIZONE_ZONE_KDS_TLS_SKIP_VERIFY", false, "do not check the global's certificate").zone(),
    number("multizone.zone.kds.maxMsgSize", "KUMA_MULTIZONE_ZONE_KDS_MAX_MSG_SIZE", 10_485_760, "largest message in bytes, both ways").unit("bytes").zone(),
    span("multizone.zone.kds.nackBackoff", "KUMA_MULTIZONE_ZONE_KDS_NACK_BACKOFF", Duration::from_secs(5), "first pause before a refused resource is sent again").zone().without_effect(),
    list("multizone.zone.kds.labels.skipPrefixes", "KUMA_MULTIZONE_ZONE_KDS_LABELS_SKIP_PREFIXES", &[], "prefixes of labels that are not sent to the global").zone().without_effect(),
    text("multizone.zone.kds.auth.tokenPath", "KUMA_MULTIZONE_ZONE_KDS_AUTH_TOKEN_PATH", "", "file with the zone token for the global, read anew for every stream").zone(),
    text("multizone.zone.kds.auth.tokenInline", "KUMA_MULTIZONE_ZONE_KDS_AUTH_TOKEN_INLINE", "", "the zone token for the global itself").secret().zone(),
    flag("multizone.zone.disableOriginLabelValidation", "KUMA_MULTIZONE_ZONE_DISABLE_ORIGIN_LABEL_VALIDATION", false, "accept resources without the label `kuma.io/origin: zone`").zone(),
];

/// Proxies of a zone.
#[rustfmt::skip]
const PROXIES: &[Key] = &[
    number("dpServer.port", "KUMA_DP_SERVER_PORT", 5_678, "port that proxies connect to").unit("port").zone(),
    text("dpServer.tlsCertFile", "KUMA_DP_SERVER_TLS_CERT_FILE", "", "certificate (PEM); empty: `general.tlsCertFile`").zone(),
    text("dpServer.tlsKeyFile", "KUMA_DP_SERVER_TLS_KEY_FILE", "", "key (PEM) of the certificate").zone(),
    text("dpServer.tlsMinVersion", "KUMA_DP_SERVER_TLS_MIN_VERSION", "", "lowest TLS version; empty: `general.tlsMinVersion`").zone(),
    span("dpServer.gracefulShutdownTimeout", "KUMA_DP_SERVER_GRACEFUL_SHUTDOWN_TIMEOUT", Duration::from_secs(10), "how long open connections may finish when the process stops").zone(),
    text("dpServer.authn.dpProxy.type", "KUMA_DP_SERVER_AUTHN_DP_PROXY_TYPE", "", "how Dataplanes prove who they are: `dpToken`, `serviceAccountToken` or `none`; empty: by environment").zone(),
    flag("dpServer.authn.dpProxy.dpToken.enableIssuer", "KUMA_DP_SERVER_AUTHN_DP_PROXY_DP_TOKEN_ENABLE_ISSUER", true, "serve the endpoint that issues dataplane tokens"),
    flag("dpServer.authn.dpProxy.dpToken.validator.useSecrets", "KUMA_DP_SERVER_AUTHN_DP_PROXY_DP_TOKEN_VALIDATOR_USE_SECRETS", true, "check dataplane tokens against keys in secrets").zone(),
    tree("dpServer.authn.dpProxy.dpToken.validator.publicKeys", "static keys for dataplane tokens: `{kid, mesh, key or keyFile}`").zone(),
    text("dpServer.authn.zoneProxy.type", "KUMA_DP_SERVER_AUTHN_ZONE_PROXY_TYPE", "", "how zone proxies prove who they are: `zoneToken`, `serviceAccountToken` or `none`; empty: by environment").zone(),
    flag("dpServer.authn.zoneProxy.zoneToken.enableIssuer", "KUMA_DP_SERVER_AUTHN_ZONE_PROXY_ZONE_TOKEN_ENABLE_ISSUER", true, "serve the endpoint that issues zone tokens"),
    flag("dpServer.authn.zoneProxy.zoneToken.validator.useSecrets", "KUMA_DP_SERVER_AUTHN_ZONE_PROXY_ZONE_TOKEN_VALIDATOR_USE_SECRETS", true, "check zone tokens against keys in secrets").zone(),
    tree("dpServer.authn.zoneProxy.zoneToken.validator.publicKeys", "static keys for zone tokens: `{kid, key or keyFile}`").zone(),
    flag("dpServer.authn.enableReloadableTokens", "KUMA_DP_SERVER_AUTHN_ENABLE_RELOADABLE_TOKENS", false, "let proxies read their token from a file for every stream").zone().without_effect(),
    text("bootstrapServer.params.adminAddress", "KUMA_BOOTSTRAP_SERVER_PARAMS_ADMIN_ADDRESS", "127.0.0.1", "address of Envoy's admin interface").zone(),
    number("bootstrapServer.params.adminPort", "KUMA_BOOTSTRAP_SERVER_PARAMS_ADMIN_PORT", 9_901, "port of Envoy's admin interface; 0: none").unit("port").zone(),
    flag("bootstrapServer.params.envoyAdminUnixSocket", "KUMA_BOOTSTRAP_SERVER_PARAMS_ENVOY_ADMIN_UNIX_SOCKET", true, "Envoy's admin interface listens on a Unix socket").zone(),
    text("bootstrapServer.params.adminAccessLogPath", "KUMA_BOOTSTRAP_SERVER_PARAMS_ADMIN_ACCESS_LOG_PATH", "/dev/null", "access log of Envoy's admin interface").zone(),
    text("bootstrapServer.params.xdsHost", "KUMA_BOOTSTRAP_SERVER_PARAMS_XDS_HOST", "", "host that proxies reach this server by; empty: the one they used for the bootstrap").zone(),
    number("bootstrapServer.params.xdsPort", "KUMA_BOOTSTRAP_SERVER_PARAMS_XDS_PORT", 0, "port that proxies reach this server by; 0: `dpServer.port`").unit("port").zone(),
    span("bootstrapServer.params.xdsConnectTimeout", "KUMA_BOOTSTRAP_SERVER_PARAMS_XDS_CONNECT_TIMEOUT", Duration::from_secs(1), "how long a proxy waits for a connection").zone(),
    number("bootstrapServer.params.xdsGrpcMaxReceiveMessageBytes", "KUMA_BOOTSTRAP_SERVER_PARAMS_XDS_GRPC_MAX_RECEIVE_MESSAGE_BYTES", 4_194_304, "largest message that a proxy with a reloadable token accepts").unit("bytes").zone().without_effect(),
    span("xdsServer.dataplaneStatusFlushInterval", "KUMA_XDS_SERVER_DATAPLANE_STATUS_FLUSH_INTERVAL", Duration::from_secs(10), "how often insights of proxies are written").zone(),
    span("xdsServer.dataplaneDeregistrationDelay", "KUMA_XDS_DATAPLANE_DEREGISTRATION_DELAY", Duration::from_secs(10), "time between the end of a stream and the removal of its Dataplane").zone(),
    span("xdsServer.nackBackoff", "KUMA_XDS_SERVER_NACK_BACKOFF", Duration::from_secs(5), "pause after a proxy refused a configuration").zone(),
    span("runtime.universal.dataplaneCleanupAge", "KUMA_RUNTIME_UNIVERSAL_DATAPLANE_CLEANUP_AGE", Duration::from_secs(72 * 3_600), "time offline after which a Dataplane is removed").zone().without_effect(),
    span("runtime.universal.zoneResourceCleanupAge", "KUMA_RUNTIME_UNIVERSAL_ZONE_RESOURCE_CLEANUP_AGE", Duration::from_secs(72 * 3_600), "time offline after which a ZoneIngress or ZoneEgress is removed").zone().without_effect(),
    number("proxy.gateway.globalDownstreamMaxConnections", "KUMA_PROXY_GATEWAY_GLOBAL_DOWNSTREAM_MAX_CONNECTIONS", 50_000, "most connections that a gateway's Envoy accepts").unit("connections").zone(),
    list("experimental.ingressTagFilters", "KUMA_EXPERIMENTAL_INGRESS_TAG_FILTERS", &[], "prefixes of the only tags that a ZoneIngress advertises; empty: all").zone().without_effect(),
    flag("experimental.exposeZoneProxyMetrics", "KUMA_EXPERIMENTAL_EXPOSE_ZONE_PROXY_METRICS", false, "the admin listener of zone proxies serves metrics too").zone().without_effect(),
];

/// Resources and their upkeep.
#[rustfmt::skip]
const WORLD: &[Key] = &[
    flag("defaults.skipMeshCreation", "KUMA_DEFAULTS_SKIP_MESH_CREATION", false, "do not create the Mesh `default`"),
    flag("defaults.createMeshRoutingResources", "KUMA_DEFAULTS_CREATE_MESH_ROUTING_RESOURCES", false, "create TrafficRoute and TrafficPermission with every Mesh").without_effect(),
    flag("defaults.skipHostnameGenerators", "KUMA_DEFAULTS_SKIP_HOSTNAME_GENERATORS", false, "do not create the HostnameGenerators"),
    number("metrics.dataplane.subscriptionLimit", "KUMA_METRICS_DATAPLANE_SUBSCRIPTION_LIMIT", 2, "subscriptions that an insight of a proxy keeps").unit("subscriptions").zone().without_effect(),
    span("metrics.dataplane.idleTimeout", "KUMA_METRICS_DATAPLANE_IDLE_TIMEOUT", Duration::from_secs(300), "silence after which a proxy's subscription counts as ended").zone().without_effect(),
    number("metrics.zone.subscriptionLimit", "KUMA_METRICS_ZONE_SUBSCRIPTION_LIMIT", 10, "subscriptions that a ZoneInsight keeps").unit("subscriptions").without_effect(),
    span("metrics.zone.idleTimeout", "KUMA_METRICS_ZONE_IDLE_TIMEOUT", Duration::from_secs(300), "silence after which a zone's subscription counts as ended").without_effect(),
    flag("metrics.zone.compactFinishedSubscriptions", "KUMA_METRICS_ZONE_COMPACT_FINISHED_SUBSCRIPTIONS", false, "drop the details of ended subscriptions").without_effect(),
    number("diagnostics.serverPort", "KUMA_DIAGNOSTICS_SERVER_PORT", 5_680, "port for readiness, liveness and metrics").unit("port"),
    flag("diagnostics.tlsEnabled", "KUMA_DIAGNOSTICS_TLS_ENABLED", false, "serve diagnostics over TLS"),
    text("diagnostics.tlsCertFile", "KUMA_DIAGNOSTICS_TLS_CERT_FILE", "", "certificate (PEM); empty: `general.tlsCertFile`"),
    text("diagnostics.tlsKeyFile", "KUMA_DIAGNOSTICS_TLS_KEY_FILE", "", "key (PEM) of the certificate"),
    text("dnsServer.domain", "KUMA_DNS_SERVER_DOMAIN", "mesh", "top domain of services in the mesh").zone().without_effect(),
    text("dnsServer.CIDR", "KUMA_DNS_SERVER_CIDR", "240.0.0.0/4", "range of virtual addresses").zone().without_effect(),
    flag("dnsServer.serviceVipEnabled", "KUMA_DNS_SERVER_SERVICE_VIP_ENABLED", true, "give every service a virtual address").zone().without_effect(),
    number("dnsServer.serviceVipPort", "KUMA_DNS_SERVER_SERVICE_VIP_PORT", 80, "port at the virtual addresses").unit("port").zone().without_effect(),
    list("ipam.knownInternalCIDRs", "KUMA_IPAM_KNOWN_INTERNAL_CIDRS", &["10.0.0.0/8","192.168.0.0/16","172.16.0.0/12","fc00::/7","fd00::/8","127.0.0.1/32","::1/128"], "ranges whose requests gateways treat as internal").zone(),
    text("ipam.meshService.cidr", "KUMA_IPAM_MESH_SERVICE_CIDR", "241.0.0.0/8", "range of addresses of MeshServices").zone().without_effect(),
    text("ipam.meshExternalService.cidr", "KUMA_IPAM_MESH_EXTERNAL_SERVICE_CIDR", "242.0.0.0/8", "range of addresses of MeshExternalServices").zone().without_effect(),
    text("ipam.meshMultiZoneService.cidr", "KUMA_IPAM_MESH_MULTI_ZONE_SERVICE_CIDR", "243.0.0.0/8", "range of addresses of MeshMultiZoneServices").zone().without_effect(),
    span("meshService.deletionGracePeriod", "KUMA_MESH_SERVICE_DELETION_GRACE_PERIOD", Duration::from_secs(3600), "how long a generated MeshService outlives its last Dataplane").zone().without_effect(),
];
