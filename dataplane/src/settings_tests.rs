use super::*;

fn resolve(args: RunArgs, variables: &[(&str, &str)]) -> Result<Settings, String> {
    let environment = |name: &str| {
        variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    };
    Settings::resolve(&args, &environment).map_err(|error| match error {
        SettingsError::Usage(message) => format!("usage: {message}"),
        SettingsError::Input(error) => format!("input: {error:#}"),
    })
}

fn inline(definition: &str) -> RunArgs {
    RunArgs { dataplane: Some(definition.to_owned()), ..RunArgs::default() }
}

const GATEWAY: &str = "{type: Dataplane, name: gw-1}";

#[test]
fn defaults_are_kumas() {
    let settings = resolve(inline(GATEWAY), &[]).unwrap();
    assert_eq!(settings.control_plane.bootstrap_url.as_str(), "https://localhost:5678/bootstrap");
    assert_eq!(settings.control_plane.retry_backoff, Duration::from_secs(3));
    assert_eq!(settings.control_plane.retry_max_duration, Duration::from_secs(300));
    assert_eq!(settings.drain_time, Duration::from_secs(30));
    assert_eq!(settings.readiness_port, 9902);
    assert_eq!(settings.readiness_address, IpAddr::V4(Ipv4Addr::LOCALHOST));
    assert!(matches!(settings.control_plane.trust, Trust::System));
    assert_eq!(
        settings.facts.features,
        ["feature-strict-inbound-ports", "feature-reuse-port", "feature-delta-grpc"]
    );
}

#[test]
fn flags_win_over_ours_over_kumas() {
    let both = [
        ("KUMA_CONTROL_PLANE_URL", "https://kuma:1"),
        ("SUNBEAR_CONTROL_PLANE_URL", "https://sunbear:2/x"),
    ];
    assert_eq!(
        resolve(inline(GATEWAY), &both).unwrap().control_plane.bootstrap_url.as_str(),
        "https://sunbear:2/bootstrap"
    );
    let args = RunArgs { cp_address: Some("http://flag:3".into()), ..inline(GATEWAY) };
    assert_eq!(
        resolve(args, &both).unwrap().control_plane.bootstrap_url.as_str(),
        "http://flag:3/bootstrap"
    );
}

#[test]
fn envoy_logs_tokens_only_if_it_is_told_to() {
    let level = |flag: &str, variables: &[(&str, &str)]| {
        let args = RunArgs { log_level: Some(flag.to_owned()), ..inline(GATEWAY) };
        resolve(args, variables).unwrap().envoy.log_level
    };
    assert_eq!(level("debug", &[]), "info");
    assert_eq!(level("trace", &[]), "info");
    assert_eq!(level("warn", &[]), "warn");
    let told = [("KUMA_DATAPLANE_RUNTIME_ENVOY_LOG_LEVEL", "debug")];
    assert_eq!(level("warn", &told), "debug");
}

#[test]
fn the_transport_variant_chooses_the_feature() {
    let name = "KUMA_DATAPLANE_RUNTIME_ENVOY_XDS_TRANSPORT_PROTOCOL_VARIANT";
    let has_delta = |value: &str| {
        let settings = resolve(inline(GATEWAY), &[(name, value)]).unwrap();
        settings.facts.features.contains(&"feature-delta-grpc".to_owned())
    };
    assert!(has_delta("DELTA_GRPC"));
    assert!(!has_delta("GRPC"));
    assert!(
        resolve(inline(GATEWAY), &[(name, "REST")])
            .unwrap_err()
            .contains("neither GRPC nor DELTA_GRPC")
    );
}

#[test]
fn a_definition_excludes_name_and_mesh() {
    let args = RunArgs { name: Some("a".into()), ..inline(GATEWAY) };
    assert!(resolve(args, &[]).unwrap_err().contains("exclude a definition"));
    let args = RunArgs { name: Some("a".into()), ..RunArgs::default() };
    assert!(resolve(args, &[]).unwrap_err().contains("--mesh is needed"));
    assert!(resolve(RunArgs::default(), &[]).unwrap_err().contains("give a definition"));
    let args = RunArgs { name: Some("a".into()), mesh: Some("m".into()), ..RunArgs::default() };
    let proxy = resolve(args, &[]).unwrap().proxy;
    assert_eq!((proxy.mesh.as_str(), proxy.name.as_str(), proxy.definition), ("m", "a", None));
}

#[test]
fn variables_come_from_flags_then_environment() {
    let args = RunArgs {
        dataplane_vars: vec!["name=gw-9".into()],
        ..inline("{type: Dataplane, name: \"{{ name }}\", mesh: \"{{ MESH }}\"}")
    };
    let proxy = resolve(args, &[("MESH", "prod"), ("name", "other")]).unwrap().proxy;
    assert_eq!((proxy.mesh.as_str(), proxy.name.as_str()), ("prod", "gw-9"));
}

#[test]
fn state_and_work_folders() {
    let state =
        |args: RunArgs, variables: &[(&str, &str)]| resolve(args, variables).unwrap().state_dir;
    let xdg = [("XDG_STATE_HOME", "/state")];
    assert_eq!(state(inline(GATEWAY), &xdg), Some("/state/sunbear-dp/default-gw-1".into()));
    let args = RunArgs { work_dir: Some("/w".into()), ..inline(GATEWAY) };
    assert_eq!(state(args, &xdg), None);
    assert_eq!(state(inline(GATEWAY), &[("SUNBEAR_DP_STATE_DIR", "/s")]), Some("/s".into()));
    let env = Env(&|_| None);
    assert_eq!(default_state_dir(&env, true), Some("/var/lib/sunbear-dp".into()));
}

#[test]
fn durations_are_written_as_in_go() {
    let cases = [
        ("3s", Some(3_000)),
        ("1m30s", Some(90_000)),
        ("500ms", Some(500)),
        ("1.5s", Some(1_500)),
        ("0", Some(0)),
        ("", None),
        ("3", None),
        ("s", None),
        ("-1s", None),
        ("1x", None),
    ];
    for (text, expected) in cases {
        assert_eq!(parse_duration(text), expected.map(Duration::from_millis), "{text:?}");
    }
}

#[test]
fn tokens_are_trimmed_and_checked_and_never_shown() {
    let token = TokenSource::Inline(" a.b.c\n".into());
    assert_eq!(token.read().unwrap().as_deref(), Some("a.b.c"));
    assert!(!format!("{token:?}").contains("a.b.c"));
    assert!(TokenSource::Inline("a.b\n.c".into()).read().is_err());
    assert!(TokenSource::Inline("abc".into()).read().is_err());
    let error = TokenSource::File("/does/not/exist".into()).read().unwrap_err();
    assert!(error.to_string().contains("/does/not/exist"));
}

#[test]
fn in_a_pod_the_name_and_the_readiness_address_follow() {
    let args = RunArgs { mesh: Some("default".into()), ..RunArgs::default() };
    let settings = resolve(args, &[("POD_NAME", "gw-0"), ("POD_NAMESPACE", "edge")]).unwrap();
    assert_eq!(settings.proxy.name, "gw-0.edge");
    assert_eq!(settings.readiness_address, IpAddr::V4(Ipv4Addr::UNSPECIFIED));
}
