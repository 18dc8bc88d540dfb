use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::ignored::IGNORED;
use super::*;
use crate::telemetry::LogFormat;

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut all = BTreeMap::from([("HOME".to_owned(), "/home/op".to_owned())]);
    all.extend(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    all
}

fn zone(yaml: &str, pairs: &[(&str, &str)]) -> Loaded<ZoneConfig> {
    parse_zone(Some(yaml), &env(pairs)).unwrap()
}

fn global(yaml: &str, pairs: &[(&str, &str)]) -> Loaded<GlobalConfig> {
    parse_global(Some(yaml), &env(pairs)).unwrap()
}

/// The errors of a zone's configuration, one a line.
fn errors(yaml: &str, pairs: &[(&str, &str)]) -> Vec<String> {
    let errors = parse_zone(Some(yaml), &env(pairs)).err().expect("an invalid configuration");
    errors.iter().map(ToString::to_string).collect()
}

fn check(yaml: &str, pairs: &[(&str, &str)], expected: &str) {
    assert_eq!(errors(yaml, pairs), [expected], "{yaml}");
}

#[test]
fn the_table_is_sound() {
    let mut paths = BTreeSet::new();
    let mut variables = BTreeSet::new();
    for key in keys() {
        assert!(paths.insert(key.path.to_ascii_lowercase()), "{} twice", key.path);
        assert!(!key.doc.is_empty(), "{}", key.path);
        if let Some(variable) = key.env {
            assert!(variables.insert(variable), "{variable} twice");
            assert!(variable.starts_with("KUMA_"), "{variable}");
        }
    }
    for path in paths
        .iter()
        .chain(IGNORED.iter().map(|ignored| ignored.path.to_owned()).collect::<Vec<_>>().iter())
    {
        let below = format!("{}.", path.to_ascii_lowercase());
        assert!(
            !paths.iter().any(|other| other.starts_with(&below)),
            "{path} is a key and a section"
        );
    }
    for ignored in IGNORED {
        assert!(!variables.contains(ignored.env), "{} has an effect", ignored.env);
        let swallowed = variables
            .iter()
            .find(|known| ignored.env.ends_with('_') && known.starts_with(ignored.env));
        assert_eq!(swallowed, None, "{}", ignored.path);
    }
}

#[test]
fn zone_defaults() {
    let config = parse_zone(None, &env(&[])).unwrap().config;
    assert_eq!(config.name, "default");
    assert!(config.global.is_none());
    assert_eq!(config.common.general.work_dir, PathBuf::from("/home/op/.sunbear"));
    assert!(
        matches!(&config.common.store.kind, StoreKind::Sqlite { path } if path == "/home/op/.sunbear/sunbear-zone.db")
    );
    assert_eq!(
        config.dp_server.listen,
        Listen { interface: String::new(), port: 5678, key: "dpServer.port" }
    );
    assert_eq!(config.dp_server.tls, ServerTls { files: None, min_version: TlsVersion::V1_2 });
    assert_eq!(config.common.proxy_authentication.dataplane, ProxyAuthenticationKind::Token);
    assert_eq!(config.bootstrap.admin_port, Some(9901));
    assert_eq!(config.bootstrap.xds_port, 5678);
    assert_eq!(config.bootstrap.gateway_max_connections, 50_000);
    assert_eq!(config.cleanup.dataplane_age, Duration::from_secs(72 * 3600));
    assert_eq!(config.xds.deregistration_delay, Duration::from_secs(10));
    assert_eq!(config.common.diagnostics.listen.port, 5680);
    assert_eq!(config.common.addresses.known_internal_cidrs.len(), 7);
    assert_eq!(config.common.log.filter, "info");
    let http = config.common.api.http.unwrap();
    assert_eq!((http.interface.as_str(), http.port), ("0.0.0.0", 5681));
}

#[test]
fn global_defaults() {
    let config = parse_global(None, &env(&[])).unwrap().config;
    assert!(
        matches!(&config.common.store.kind, StoreKind::Sqlite { path } if path == "/home/op/.sunbear/sunbear-global.db")
    );
    assert_eq!(config.kds.listen.port, 5685);
    assert_eq!(config.kds.max_message_size, 10 * 1024 * 1024);
    assert_eq!(config.kds.authentication, KdsAuthentication::None);
    let expected = ZoneHealthCheck {
        poll_interval: Duration::from_secs(10),
        timeout: Duration::from_secs(30),
    };
    assert_eq!(config.kds.zone_health_check, Some(expected));
    assert!(config.common.access.admin_resources.users.contains("mesh-system:admin"));

    let homeless = parse_global(None, &BTreeMap::new()).unwrap().config;
    assert_eq!(homeless.common.general.work_dir, PathBuf::from("./sunbear-data"));
}

#[test]
fn precedence() {
    let yaml = "multizone: {zone: {name: file}}";
    assert_eq!(zone(yaml, &[]).config.name, "file");
    let kuma = ("KUMA_MULTIZONE_ZONE_NAME", "kuma");
    assert_eq!(zone(yaml, &[kuma]).config.name, "kuma");
    let sunbear = ("SUNBEAR_MULTIZONE_ZONE_NAME", "sunbear");
    assert_eq!(zone(yaml, &[kuma, sunbear]).config.name, "sunbear");
}

#[test]
fn values_of_a_file() {
    let yaml = r#"
mode: zone
MULTIZONE:            # Go reads keys without case
  zone:
    name: east
    globalAddress: grpcs://global.example:5685
    kds:
      rootCaFile: /ca.pem
      maxMsgSize: "2097152"
      auth: {tokenPath: /token}
store:
  type: postgres
  postgres:
    host: db
    port: 5432
    password: "12345"
    connectionTimeout: 7
    maxOpenConnections: 0
    tls: {mode: verifyFull, caPath: /db.pem}
runtime: {universal: {dataplaneCleanupAge: 1h30m}}
dpServer:
  tlsCertFile: /dp.crt
  tlsKeyFile: /dp.key
  authn:
    dpProxy:
      dpToken:
        enableIssuer: false
        validator:
          useSecrets: false
          publicKeys:
          - {kid: 1, mesh: default, keyFile: /key.pem}
          - {kid: "2", key: PEM}
ipam: {knownInternalCIDRs: ["10.0.0.0/8"]}
general:
"#;
    let config = zone(yaml, &[("KUMA_EXPERIMENTAL_INGRESS_TAG_FILTERS", "kuma.io/, app")]).config;
    let peer = config.global.unwrap();
    assert_eq!(peer.address.http_url(), "https://global.example:5685");
    assert_eq!(peer.root_ca_file, Some(PathBuf::from("/ca.pem")));
    assert_eq!(peer.max_message_size, 2 * 1024 * 1024);
    assert_eq!(peer.token, Some(TokenSource::File(PathBuf::from("/token"))));
    let StoreKind::Postgres(postgres) = config.common.store.kind else { panic!("not postgres") };
    assert_eq!(
        (postgres.host.as_str(), postgres.port, postgres.max_connections),
        ("db", 5432, None)
    );
    assert_eq!(postgres.connect_timeout, Duration::from_secs(7));
    assert_eq!(postgres.password.expose(), "12345");
    assert_eq!(postgres.tls, PostgresTls::VerifyFull(Some(PathBuf::from("/db.pem"))));
    assert_eq!(config.cleanup.dataplane_age, Duration::from_secs(5400));
    let files = TlsFiles { cert: PathBuf::from("/dp.crt"), key: PathBuf::from("/dp.key") };
    assert_eq!(config.dp_server.tls.files, Some(files));
    let tokens = config.common.proxy_authentication.dataplane_tokens;
    assert!(!tokens.enable_issuer && !tokens.use_secrets);
    let expected = [
        PublicKey {
            kid: "1".to_owned(),
            mesh: Some("default".to_owned()),
            source: PublicKeySource::File(PathBuf::from("/key.pem")),
        },
        PublicKey {
            kid: "2".to_owned(),
            mesh: None,
            source: PublicKeySource::Inline("PEM".to_owned()),
        },
    ];
    assert_eq!(tokens.public_keys, expected);
    assert_eq!(config.common.addresses.known_internal_cidrs, ["10.0.0.0/8"]);
    assert_eq!(config.ingress_tag_filters, ["kuma.io/", "app"]);
}

#[test]
fn empty_files() {
    for yaml in ["", "# nothing\n", "---\n", "general:\n", "{}"] {
        assert_eq!(zone(yaml, &[]).config.name, "default", "{yaml:?}");
    }
}

#[test]
fn unknown_keys_name_the_nearest() {
    check(
        "multizone: {zone: {globalAdress: x}}",
        &[],
        "unknown key multizone.zone.globalAdress, did you mean multizone.zone.globalAddress?",
    );
    check(
        "multizone: {globalAddress: x}",
        &[],
        "unknown key multizone.globalAddress, did you mean multizone.zone.globalAddress?",
    );
    check("stroe: {type: memory}", &[], "unknown key stroe, did you mean store?");
    check("somethingElse: 1", &[], "unknown key somethingElse");
    check(
        "apiServer: {authn: {anonymousWrite: true}}",
        &[],
        "unknown key apiServer.authn.anonymousWrite, did you mean apiServer.authn.anonymousWrites?",
    );
    // Also in entries of lists; what one may write there is named.
    let entry = "dpServer: {authn: {dpProxy: {dpToken: {validator: {publicKeys: [{kid: a, keyfile: x}]}}}}}";
    let said = errors(entry, &[]);
    assert!(said[0].contains("unknown field `keyfile`, expected one of `kid`"), "{said:?}");
    assert!(said[0].contains("`keyFile`"), "{said:?}");
}

#[test]
fn wrong_types() {
    check(
        "dpServer: {port: five}",
        &[],
        "dpServer.port (configuration file) must be a whole number, not \"five\"",
    );
    check(
        "store: {postgres: {dbName: 12}}",
        &[],
        "store.postgres.dbName (configuration file) must be a text, not the number 12; put it in quotes",
    );
    check(
        "xdsServer: {nackBackoff: 5}",
        &[],
        "xdsServer.nackBackoff (configuration file) must be a duration such as 10s or 1h30m, \
         not 5, which has no unit",
    );
    check(
        "",
        &[("KUMA_XDS_SERVER_NACK_BACKOFF", "5d")],
        "xdsServer.nackBackoff (environment variable KUMA_XDS_SERVER_NACK_BACKOFF) must be a duration such as 10s \
         or 1h30m, but \"5d\" has the unknown unit \"d\", known are ns, us, ms, s, m, h",
    );
    check(
        "",
        &[("SUNBEAR_STORE_UNSAFE_DELETE", "maybe")],
        "store.unsafeDelete (environment variable SUNBEAR_STORE_UNSAFE_DELETE) must be true or false, not \"maybe\"",
    );
    check("store: memory", &[], "store must be a section with keys, not a text");
    check("- a", &[], "the configuration must be a section with keys, not a list");
    // A secret does not leak through an error.
    check(
        "store: {postgres: {password: 12345}}",
        &[],
        "store.postgres.password (configuration file) must be a text, not something else",
    );
    let invalid = errors("a: b: c", &[]);
    assert!(invalid[0].starts_with("the configuration file is not valid YAML: "), "{invalid:?}");
    let twice = errors("mode: zone\nmode: zone\n", &[]);
    assert!(twice[0].starts_with("the configuration file is not valid YAML: "), "{twice:?}");
}

#[test]
fn checks() {
    check(
        "multizone: {zone: {name: East_1}}",
        &[],
        "multizone.zone.name (configuration file) must be at most 63 lower-case letters, digits and '-', \
         with a letter or digit at both ends",
    );
    check(
        "",
        &[("KUMA_MULTIZONE_ZONE_NAME", "")],
        "multizone.zone.name (environment variable KUMA_MULTIZONE_ZONE_NAME) must not be empty",
    );
    for address in [
        "https://global:5685",
        "global:5685",
        "grpcs://global",
        "grpcs://:5685",
        "grpcs://a:1/path",
    ] {
        check(
            &format!("multizone: {{zone: {{name: a, globalAddress: \"{address}\"}}}}"),
            &[],
            &format!(
                "multizone.zone.globalAddress (configuration file) must be grpcs://host:port or grpc://host:port, \
                 not \"{address}\""
            ),
        );
    }
    check(
        "dpServer: {port: 70000}",
        &[],
        "dpServer.port (configuration file) must be between 0 and 65535, not 70000",
    );
    check(
        "mode: global",
        &[],
        "mode (configuration file) is \"global\", but this program is \"zone\"",
    );
    check(
        "store: {type: kubernetes}",
        &[],
        "store.type (configuration file) must be sqlite, postgres or memory, not \"kubernetes\"",
    );
    check(
        "general: {tlsCertFile: /a.crt}",
        &[],
        "general.tlsCertFile (configuration file) needs general.tlsKeyFile as well",
    );
    check(
        "ipam: {knownInternalCIDRs: [10.0.0.0/33]}",
        &[],
        "ipam.knownInternalCIDRs (configuration file) must hold address ranges such as 10.0.0.0/8, not \"10.0.0.0/33\"",
    );
    check(
        "multizone: {zone: {name: a, globalAddress: grpc://global:5685, kds: {auth: {tokenInline: secret}}}}",
        &[],
        "multizone.zone.globalAddress (configuration file) must begin with grpcs://, \
         because a token must not be sent in plain text",
    );
    check(
        "apiServer: {authn: {tokens: {validator: {publicKeys: [{kid: a}]}}}}",
        &[],
        "apiServer.authn.tokens.validator.publicKeys (configuration file) needs either key or keyFile in entry 0",
    );
    check(
        "apiServer: {https: {requireClientCert: true}}",
        &[],
        "apiServer.https.requireClientCert (configuration file) needs apiServer.https.tlsCaFile \
         or apiServer.auth.clientCertsDir",
    );
}

/// Two zones left at the default would take each other's place at their global.
#[test]
fn a_zone_of_a_global_needs_a_name() {
    let address = "multizone: {zone: {globalAddress: 'grpcs://g:5685'}}";
    check(
        address,
        &[],
        "multizone.zone.name (default) must be set beside multizone.zone.globalAddress, to a name \
         that no other zone of that global has",
    );
    let name = ("KUMA_MULTIZONE_ZONE_NAME", "default");
    assert_eq!(zone(address, &[name]).config.name, "default");
    assert_eq!(zone("", &[]).config.name, "default");
}

#[test]
fn anonymous_writes_are_off() {
    let load = |pairs: &[(&str, &str)]| global("", pairs).config.common.api.anonymous_writes;
    assert!(!load(&[]));
    assert!(load(&[("SUNBEAR_API_SERVER_AUTHN_ANONYMOUS_WRITES", "true")]));
}

#[test]
fn global_checks() {
    let check = |yaml: &str, expected: &str| {
        let errors = parse_global(Some(yaml), &env(&[])).err().expect("an invalid configuration");
        assert_eq!(errors.to_string(), format!("invalid configuration: {expected}"));
    };
    check(
        "multizone: {global: {kds: {zoneHealthCheck: {timeout: 0s}}}}",
        "multizone.global.kds.zoneHealthCheck.timeout (configuration file) must be more than \
         multizone.global.kds.zoneHealthCheck.pollInterval, or both must be 0",
    );
    check(
        "multizone: {global: {kds: {tlsEnabled: false, auth: {type: zoneToken}}}}",
        "multizone.global.kds.auth.type (configuration file) needs multizone.global.kds.tlsEnabled, \
         because tokens must not be sent in plain text",
    );
    let off = "multizone: {global: {kds: {zoneHealthCheck: {timeout: 0s, pollInterval: 0s}}}}";
    assert_eq!(global(off, &[]).config.kds.zone_health_check, None);
}

#[test]
fn all_errors_at_once() {
    let yaml =
        "mode: global\nmultizone: {zone: {name: A, globalAddress: x}}\ndpServer: {port: -1}\n";
    assert_eq!(errors(yaml, &[]).len(), 4);
    let yaml = "a: 1\nb: 2\ndpServer: {port: x}\n";
    let errors =
        parse_zone(Some(yaml), &env(&[("KUMA_DIAGNOSTICS_SERVER_PORT", "y")])).err().unwrap();
    assert_eq!(
        errors.to_string(),
        "invalid configuration, 4 errors:\n  \
         - unknown key a\n  \
         - unknown key b\n  \
         - dpServer.port (configuration file) must be a whole number, not \"x\"\n  \
         - diagnostics.serverPort (environment variable KUMA_DIAGNOSTICS_SERVER_PORT) must be a whole number, not \"y\""
    );
}

#[test]
fn an_unreadable_file() {
    let error = load_zone(Some("/nowhere/zone.yaml".as_ref()), &env(&[])).err().unwrap();
    let text = error.to_string();
    assert!(text.starts_with(
        "invalid configuration: could not read the configuration file /nowhere/zone.yaml: "
    ));
}

/// A configuration of Kuma with keys that mean nothing here, as one finds them in the field.
#[test]
fn notices() {
    let yaml = "
store: {cache: {enabled: true}}
runtime: {kubernetes: {injector: {exceptions: {labels: {a: b}}}}}
multizone: {global: {kds: {refreshInterval: 1s, nackBackoff: 1s}}}
defaults: {SkipHostnameGenerators: true}
";
    let loaded = global(
        yaml,
        &[
            ("KUMA_RUNTIME_KUBERNETES_INJECTOR_CNI_ENABLED", "true"),
            ("KUMA_DATAPLANE_NAME", "x"),
            ("KUMA_CONTROL_PLANE_PORT_5681_TCP", "tcp://10.0.0.1:5681"),
            ("SUNBEAR_GLOBAL_PORT", "tcp://10.0.0.1:5681"),
            ("KUMA_DP_SERVR_PORT", "5678"),
            ("SUNBEAR_NONSENSE", "1"),
            ("SUNBEAR_API_SERVER_AUTHN_ANONYMOUS_WRITE", "1"),
            ("PATH", "/bin"),
        ],
    );
    assert!(loaded.config.common.defaults.skip_hostname_generators);
    let ignored = [
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_CNI_ENABLED",
        "multizone.global.kds.nackBackoff",
        "multizone.global.kds.refreshInterval",
        "runtime.kubernetes",
        "store.cache",
    ];
    assert_eq!(loaded.notices.ignored, ignored);
    let unknown = [
        ("KUMA_DP_SERVR_PORT".to_owned(), Some("KUMA_DP_SERVER_PORT".to_owned())),
        (
            "SUNBEAR_API_SERVER_AUTHN_ANONYMOUS_WRITE".to_owned(),
            Some("SUNBEAR_API_SERVER_AUTHN_ANONYMOUS_WRITES".to_owned()),
        ),
        ("SUNBEAR_NONSENSE".to_owned(), None),
    ];
    assert_eq!(loaded.notices.unknown_variables, unknown);
}

#[test]
fn dumps() {
    let yaml = "multizone: {zone: {name: east, globalAddress: 'grpcs://g:5685', kds: {auth: {tokenInline: t0ken}}}}";
    let loaded = zone(yaml, &[("KUMA_STORE_POSTGRES_PASSWORD", "s3cret")]);
    let dump = loaded.settings.dump();
    let at = |path: &str| dump.pointer(path).cloned().unwrap_or_default();
    assert_eq!(at("/mode"), "zone");
    assert_eq!(at("/environment"), "universal");
    assert_eq!(at("/store/type"), "sqlite");
    assert_eq!(at("/store/postgres/password"), MASK);
    assert_eq!(at("/multizone/zone/kds/auth/tokenInline"), MASK);
    assert_eq!(at("/multizone/zone/name"), "east");
    assert_eq!(at("/multizone/zone/globalAddress"), "grpcs://g:5685");
    assert_eq!(at("/dpServer/authn/dpProxy/type"), "dpToken");
    assert_eq!(at("/dpServer/authn/zoneProxy/type"), "zoneToken");
    assert_eq!(at("/bootstrapServer/params/adminPort"), 9901);
    assert_eq!(at("/runtime/universal/dataplaneCleanupAge"), "72h0m0s");
    assert_eq!(loaded.settings.dump_for_kds().pointer("/store/type").unwrap(), "postgres");
    let text = format!("{dump}{:?}", loaded.config);
    assert!(!text.contains("s3cret") && !text.contains("t0ken"), "{text}");

    // Kuma wants key ids to be texts.
    let keys =
        "dpServer: {authn: {dpProxy: {dpToken: {validator: {publicKeys: [{kid: 1, key: PEM}]}}}}}";
    let keys = zone(keys, &[]).settings.dump_for_kds();
    assert_eq!(
        keys.pointer("/dpServer/authn/dpProxy/dpToken/validator/publicKeys/0/kid").unwrap(),
        "1"
    );

    // What was dumped reads back as what it was.
    let again = zone(&serde_json::to_string(&dump).unwrap(), &[]);
    assert_eq!(again.settings.dump(), dump);
}

#[test]
fn on_kubernetes() {
    let config = zone("environment: kubernetes", &[]).config;
    assert_eq!(config.common.environment, DeploymentEnvironment::Kubernetes);
    assert_eq!(
        config.common.proxy_authentication.dataplane,
        ProxyAuthenticationKind::ServiceAccountToken
    );
}

#[test]
fn logging() {
    let config = zone("log: {format: json, level: debug}", &[]).config;
    assert_eq!(
        (config.common.log.format, config.common.log.filter.as_str()),
        (LogFormat::Json, "debug")
    );
    let config = zone("log: {level: debug}", &[("RUST_LOG", "warn")]).config;
    assert_eq!(config.common.log.filter, "warn");
}

#[test]
fn addresses_of_globals() {
    let address = |text: &str| {
        let yaml = format!("multizone: {{zone: {{globalAddress: '{text}'}}}}");
        zone(&yaml, &[("KUMA_MULTIZONE_ZONE_NAME", "east")]).config.global.unwrap().address
    };
    let expected = GlobalAddress { tls: false, host: "10.0.0.1".to_owned(), port: 5685 };
    assert_eq!(address("grpc://10.0.0.1:5685"), expected);
    let v6 = address("grpcs://[fd00::1]:5685");
    assert_eq!(v6.host, "fd00::1");
    assert_eq!(v6.http_url(), "https://[fd00::1]:5685");
}

#[test]
fn keys_of_secrets_come_from_one_place_and_are_never_shown() {
    let key = "k:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let load = |yaml: &str, pairs: &[(&str, &str)]| parse_zone(Some(yaml), &env(pairs));
    let name = ("SUNBEAR_MULTIZONE_ZONE_NAME", "east");
    let loaded = load("", &[name]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(loaded.config.common.store.secrets, None);

    let file = ("KUMA_STORE_SECRETS_KEY_FILE", "/etc/keys");
    let loaded = load("", &[name, file]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(loaded.config.common.store.secrets, Some(SecretKeys::File("/etc/keys".into())));

    let inline = ("SUNBEAR_STORE_SECRETS_KEYS", key);
    let loaded = load("", &[name, inline]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(loaded.config.common.store.secrets, Some(SecretKeys::Inline(Secret::new(key))));
    assert!(!format!("{:?}", loaded.config).contains("AAAA"));
    for dump in [loaded.settings.dump(), loaded.settings.dump_for_kds()] {
        assert!(!dump.to_string().contains("AAAA"));
        assert_eq!(dump.pointer("/store/secrets/keys").expect("a key of the table"), MASK);
    }
    assert_eq!(
        errors("", &[name, file, inline]),
        ["store.secrets.keys (environment variable SUNBEAR_STORE_SECRETS_KEYS) must not be set \
             together with store.secrets.keyFile"]
    );
}
