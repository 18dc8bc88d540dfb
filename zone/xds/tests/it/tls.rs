//! Listeners with TLS, and what becomes of them when data is missing or damaged.

use serde_json::{Value, json};
use sunbear_model::Kind;
use sunbear_xds::{Effect, Generated, ResourceType};

use crate::{
    build::{
        gateway, generated, generated_after, issues, json_of, resources, route, tcp_route, to_echo,
        world,
    },
    certs::{self, Pair, base64, secret},
    golden::{snapshot, to_json},
    world::World,
};

fn https(port: u16, hostname: &str, certificates: &Value) -> Value {
    json!({
        "port": port, "protocol": "HTTPS", "hostname": hostname,
        "tls": {"mode": "TERMINATE", "certificates": certificates},
    })
}

fn chains(json: &Value, listener: &str) -> Vec<String> {
    let listener = &json["Listeners"]["Resources"][listener];
    let name = |chain: &Value| {
        let names = chain["filterChainMatch"]["serverNames"][0].as_str().unwrap_or("*");
        let context = &chain["transportSocket"]["typedConfig"]["commonTlsContext"];
        let secrets = context["tlsCertificateSdsSecretConfigs"].as_array();
        let secrets: Vec<&str> =
            secrets.into_iter().flatten().map(|s| s["name"].as_str().unwrap()).collect();
        format!("{names} {}", secrets.join(" "))
    };
    listener["filterChains"].as_array().into_iter().flatten().map(name).collect()
}

fn secret_names(generated: &Generated) -> Vec<&str> {
    generated.resources.names(ResourceType::Secret).collect()
}

#[test]
fn certificates_of_all_kinds() {
    let (rsa, one, two) = (certs::rsa(), certs::ecdsa("a.x"), certs::ecdsa("b.x"));
    let mut world = world();
    world.add(&rsa.secret("shared"));
    world.add(&gateway(&json!([
        https(8443, "a.x", &json!([{"secret": "shared"}, {"inline": base64(&one.text())}])),
        https(8443, "*.x", &json!([{"secret": "shared"}])),
        https(8443, "", &json!([{"inlineString": two.text()}])),
        https(9443, "a.x", &json!([{"inline": base64(&two.text())}])),
        https(9444, "a.x", &json!([{"inline": base64(&one.text())}])),
    ])));
    let got = generated(&world);
    assert_eq!(issues(&got), Vec::<String>::new());
    assert_eq!(
        secret_names(&got),
        [
            "cert.ecdsa:inline:a.x",
            "cert.ecdsa:inline:a.x:9443",
            "cert.ecdsa:inlineString:*",
            "cert.rsa:secret:shared",
        ]
    );
    let json = snapshot(&got);
    assert_eq!(
        chains(&json, "edge:HTTPS:8443"),
        [
            "a.x cert.rsa:secret:shared cert.ecdsa:inline:a.x",
            "*.x cert.rsa:secret:shared",
            "* cert.ecdsa:inlineString:*",
        ]
    );
    assert_eq!(chains(&json, "edge:HTTPS:9443"), ["a.x cert.ecdsa:inline:a.x:9443"]);
    assert_eq!(chains(&json, "edge:HTTPS:9444"), ["a.x cert.ecdsa:inline:a.x"]);
    let names: Vec<&str> = got.resources.names(ResourceType::Route).collect();
    assert_eq!(
        names,
        [
            "edge:HTTPS:8443:*",
            "edge:HTTPS:8443:*.x",
            "edge:HTTPS:8443:a.x",
            "edge:HTTPS:9443:a.x",
            "edge:HTTPS:9444:a.x"
        ]
    );
}

#[test]
fn what_cannot_be_a_certificate() {
    let good = certs::ecdsa("a.x");
    let other = certs::ecdsa("a.x");
    let check = |text: &str, want: &str| {
        let mut world = world();
        world.add(&secret("s", text));
        world.add(&gateway(&json!([
            {"port": 8080, "protocol": "HTTP"},
            https(8443, "a.x", &json!([{"secret": "s"}])),
        ])));
        let got = generated(&world);
        assert_eq!(
            issues(&got),
            [format!("edge conf.listeners[1].tls.certificates[0]: {want}")],
            "{text}"
        );
        let names: Vec<&str> = got.resources.names(ResourceType::Listener).collect();
        assert_eq!(names, ["edge:HTTP:8080"]);
        assert_eq!(got.resources.len(ResourceType::Route), 1);
    };
    let block = |label: &str| format!("-----BEGIN {label}-----\nAQID\n-----END {label}-----\n");
    check("", "missing server certificate");
    check(&good.key, "missing server certificate");
    check(&good.certificate, "missing private key");
    check(
        &format!("{}{}", good.text(), other.key),
        "secret[2]: secret contains multiple private keys",
    );
    check(
        &format!("{}{}", good.certificate, block("PRIVATE KEY")),
        "secret[1]: failed to parse private key",
    );
    check(
        &format!("{}{}", good.key, block("CERTIFICATE")),
        "secret[1]: failed to parse certificate",
    );
    check(
        &format!("{}{}", block("EC PARAMETERS"), good.text()),
        "secret[0]: unsupported PEM block \"EC PARAMETERS\"",
    );
    check(&certs::ed25519("a.x").text(), "secret[0]: unsupported private key type");
    check(
        &Pair { key: other.key.clone(), ..good.clone() }.text(),
        "the private key is not that of the certificate",
    );
}

#[test]
fn configuration_errors_leave_a_listener_out() {
    let pair = certs::ecdsa("a.x");
    let check = |listener: Value, want: &str| {
        let mut world = world();
        world.add(&pair.secret("s"));
        world.add(&gateway(&json!([https(8443, "b.x", &json!([{"secret": "s"}])), listener])));
        let got = generated(&world);
        assert_eq!(issues(&got), [format!("edge conf.listeners[1]{want}")]);
        assert_eq!(got.resources.len(ResourceType::Listener), 1);
    };
    check(json!({"port": 9443, "protocol": "TLS"}), ": unsupported TLS mode");
    check(json!({"port": 9443, "protocol": "HTTPS"}), ": unsupported TLS mode");
    check(
        json!({"port": 9443, "protocol": "HTTPS", "tls": {"mode": "PASSTHROUGH"}}),
        ": unsupported TLS mode",
    );
    check(https(9443, "a.x", &json!([])), ": cannot be empty in TLS termination mode");
    check(
        https(9443, "a.x", &json!([{"file": "tmp/x"}])),
        ".tls.certificates[0]: the path of a file with a certificate has to be absolute, not \"tmp/x\"",
    );
    check(
        https(9443, "a.x", &json!([{"secret": "s"}, {"secret": "s"}])),
        ".tls: duplicate TLS certificate \"cert.ecdsa:secret:s\"",
    );
    check(
        https(9443, "a.*.x", &json!([{"secret": "s"}])),
        ": the host name cannot be that of a TLS listener",
    );
    check(
        json!({"port": 9443, "protocol": "TCP", "crossMesh": true}),
        ": protocol is not supported with crossMesh",
    );
    // On one port the others go on.
    check(
        https(8443, "a.x", &json!([{"secret": "none"}])),
        ".tls.certificates[0]: there is no secret \"none\"",
    );
}

/// Envoy reads files itself; the control plane sends the path alone.
#[test]
fn files_are_the_gateways_own() {
    let mut world = world();
    let pair = certs::ecdsa("a.x");
    world.add(&pair.secret("s"));
    let certificates = json!([{"file": "/etc/certs/a.pem"}, {"secret": "s"}, {"file": "/b.pem"}]);
    world.add(&gateway(&json!([https(8443, "a.x", &certificates)])));
    world.add(&route("r", &json!([to_echo("/")])));
    let got = generated(&world);
    assert_eq!(issues(&got), [""; 0]);
    assert_eq!(
        got.resources.names(ResourceType::Secret).collect::<Vec<_>>(),
        ["cert.ecdsa:secret:s", "cert:file:/b.pem", "cert:file:/etc/certs/a.pem"]
    );
    for (path, folder) in [("/etc/certs/a.pem", "/etc/certs"), ("/b.pem", "/")] {
        let secret = got.resources.get(ResourceType::Secret, &format!("cert:file:{path}")).unwrap();
        assert_eq!(
            to_json(secret)["tlsCertificate"],
            json!({
                "certificateChain": {"filename": path},
                "privateKey": {"filename": path},
                "watchedDirectory": {"path": folder},
            })
        );
    }
}

fn two_hosts() -> (World, Pair) {
    let pair = certs::ecdsa("a.x");
    let mut world = world();
    world.add(&pair.secret("one"));
    world.add(&pair.secret("two"));
    world.add(&gateway(&json!([
        https(8443, "a.x", &json!([{"secret": "one"}])),
        https(8443, "b.x", &json!([{"secret": "two"}])),
    ])));
    world.add(&route("r", &json!([to_echo("/")])));
    (world, pair)
}

fn without(mut world: World, kind: Kind, name: &str) -> World {
    world.0.retain(|r| r.key.kind != kind || &*r.key.name != name);
    world
}

#[test]
fn a_lost_secret_stays_in_use() {
    let (world, _) = two_hosts();
    let before = generated(&world);
    let lost = without(world.clone(), Kind::SECRET, "one");
    let got = generated_after(&lost, &before);
    assert_eq!(got.resources, before.resources);
    assert_eq!(got.issues[0].effect, Effect::LastGood);
    assert_eq!(
        got.issues[0].to_string(),
        "type=\"MeshGateway\" name=\"edge\" mesh=\"default\" conf.listeners[0].tls.certificates[0]: \
         there is no secret \"one\"; the last good version stays in use"
    );
    // All else goes on, for a long time.
    let mut changed = lost.clone();
    changed.add(&route("r2", &json!([to_echo("/new")])));
    let later = generated_after(&changed, &got);
    let routes = later.resources.diff(&got.resources, ResourceType::Route);
    assert_eq!((routes.changed.len(), routes.removed.len()), (2, 0));
    assert_eq!(secret_names(&later), secret_names(&before));
    // Damaged is as lost, and mended is mended.
    let mut damaged = lost.clone();
    damaged.add(&secret("one", "nonsense"));
    assert_eq!(generated_after(&damaged, &got).resources, before.resources);
    let fresh = certs::ecdsa("a.x");
    let mut mended = lost;
    mended.add(&fresh.secret("one"));
    let mended = generated_after(&mended, &later);
    assert!(mended.issues.is_empty());
    let secrets = mended.resources.diff(&before.resources, ResourceType::Secret);
    assert_eq!((secrets.changed.len(), secrets.removed.len()), (1, 0));
    assert!(mended.resources.diff(&before.resources, ResourceType::Listener).is_empty());
}

#[test]
fn what_was_stored_is_fallen_back_on_without_a_past() {
    let (mut world, _) = two_hosts();
    world.add(&gateway(&json!([
        https(8443, "a.x", &json!([{"secret": "one"}])),
        https(8443, "b.x", &json!([{"secret": "two"}])),
        https(9443, "c.x", &json!([{"inline": base64(&certs::ecdsa("c.x").text())}])),
    ])));
    world.0.remove(world.0.iter().position(|r| r.key.kind == Kind::MESH_GATEWAY).unwrap());
    let before = generated(&world);
    assert_eq!(issues(&before), Vec::<String>::new());
    let (key, spec) = before.to_store().unwrap();
    let mut lost = without(world.clone(), Kind::SECRET, "one");
    lost.put(key.clone(), spec.clone().unwrap());
    let got = generated(&lost);
    assert_eq!(got.resources, before.resources);
    assert_eq!(got.issues[0].effect, Effect::LastGood);
    assert!(got.stores_the_same(&before));
    assert_eq!(got.to_store().unwrap(), (key.clone(), spec));
    // It is a last resort, not another source.
    let fresh = certs::ecdsa("a.x");
    lost.add(&fresh.secret("one"));
    let mended = generated(&lost);
    assert!(mended.issues.is_empty());
    assert_ne!(mended.resources, before.resources);
    // And only what is configured comes back.
    let mut gone = without(lost, Kind::MESH_GATEWAY, "edge");
    gone.add(&gateway(&json!([https(8443, "b.x", &json!([{"secret": "two"}]))])));
    assert_eq!(chains(&snapshot(&generated(&gone)), "edge:HTTPS:8443").len(), 1);
    // A gateway without TLS has nothing to store.
    gone = without(gone, Kind::MESH_GATEWAY, "edge");
    gone.add(&gateway(&json!([{"port": 8080, "protocol": "HTTP"}])));
    assert_eq!(generated(&gone).to_store().unwrap(), (key, None));
}

#[test]
fn without_a_past_only_the_listener_goes() {
    let (world, _) = two_hosts();
    let lost = without(world, Kind::SECRET, "one");
    let got = generated(&lost);
    assert_eq!(got.issues[0].effect, Effect::LeftOut);
    let json = snapshot(&got);
    assert_eq!(chains(&json, "edge:HTTPS:8443"), ["b.x cert.ecdsa:secret:two"]);
    let routes: Vec<String> = resources(&json, "Routes").keys().cloned().collect();
    assert_eq!(routes, ["edge:HTTPS:8443:b.x"]);
    // What was good for one host does not stand in for another one.
    assert_eq!(generated_after(&lost, &got).resources, got.resources);
}

#[test]
fn a_listener_that_asks_for_a_secret_that_is_not_there_keeps_the_old_one() {
    let (world, _) = two_hosts();
    let before = generated(&world);
    let mut changed = without(world, Kind::MESH_GATEWAY, "edge");
    changed.add(&gateway(&json!([
        https(8443, "a.x", &json!([{"secret": "three"}])),
        https(8443, "b.x", &json!([{"secret": "two"}])),
    ])));
    let got = generated_after(&changed, &before);
    assert_eq!(got.resources, before.resources);
    assert_eq!(got.issues.len(), 1);
    let mut arrived = changed;
    arrived.add(&certs::ecdsa("a.x").secret("three"));
    let later = generated_after(&arrived, &got);
    assert_eq!(secret_names(&later), ["cert.ecdsa:secret:three", "cert.ecdsa:secret:two"]);
    assert!(later.issues.is_empty());
}

#[test]
fn what_is_kept_stays_kept() {
    let (world, _) = two_hosts();
    let before = generated(&world);
    let mut changed = without(world, Kind::SECRET, "two");
    changed.add(&gateway(&json!([
        https(8443, "a.x", &json!([{"secret": "one"}])),
        // Of no use, but that is not because of what is lost.
        https(8443, "b.x", &json!([{"secret": "two"}, {"secret": "two"}])),
    ])));
    let first = generated_after(&changed, &before);
    assert_eq!(chains(&snapshot(&first), "edge:HTTPS:8443"), ["a.x cert.ecdsa:secret:one"]);
    let second = generated_after(&changed, &first);
    assert_eq!((&second.resources, &second.issues), (&first.resources, &first.issues));
    // It is still there when the listener can use it.
    changed.add(&gateway(&json!([
        https(8443, "a.x", &json!([{"secret": "one"}])),
        https(8443, "b.x", &json!([{"secret": "two"}])),
    ])));
    assert_eq!(generated_after(&changed, &second).resources, before.resources);
}

#[test]
fn kept_data_never_hides_that_of_another_port() {
    let inline = |pair: &certs::Pair| json!([{"inlineString": pair.text()}]);
    let (old, new) = (certs::ecdsa("a.x"), certs::ecdsa("a.x"));
    let mut world = world();
    world.add(&gateway(&json!([https(9443, "a.x", &inline(&old))])));
    let before = generated(&world);
    assert_eq!(secret_names(&before), ["cert.ecdsa:inlineString:a.x"]);
    let damaged = json!([{"inlineString": "nonsense"}]);
    world.add(&gateway(&json!([https(8443, "a.x", &inline(&new)), https(9443, "a.x", &damaged),])));
    let after = generated_after(&world, &before);
    let names = ["cert.ecdsa:inlineString:a.x", "cert.ecdsa:inlineString:a.x:9443"];
    assert_eq!(secret_names(&after), names);
    let json = snapshot(&after);
    for (name, pair) in names.iter().zip([&new, &old]) {
        let secret = &json["Secrets"]["Resources"][name]["tlsCertificate"];
        assert_eq!(secret["privateKey"]["inlineString"], json!(pair.key), "{name}");
    }
}

#[test]
fn a_new_certificate_touches_nothing_else() {
    let (world, _) = two_hosts();
    let before = generated(&world);
    let mut rotated = without(world, Kind::SECRET, "one");
    rotated.add(&certs::ecdsa("a.x").secret("one"));
    let after = generated(&rotated);
    for resource_type in ResourceType::ALL {
        let changed = !after.resources.diff(&before.resources, resource_type).is_empty();
        assert_eq!(changed, resource_type == ResourceType::Secret, "{resource_type:?}");
    }
}

#[test]
fn keys_get_the_label_of_their_format() {
    // Kuma reads each format under each of these labels, Envoy does not.
    let labels = ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"];
    let (rsa, new) = (certs::rsa(), certs::ecdsa("a.x"));
    let old = Pair { key: certs::old_format(&new.key), ..new.clone() };
    for (pair, kind, right) in [(&rsa, "rsa", 1), (&new, "ecdsa", 0), (&old, "ecdsa", 2)] {
        for label in labels {
            let wrong = pair.text().replace(&format!(" {}-", labels[right]), &format!(" {label}-"));
            let mut world = world();
            world.add(&secret("s", &wrong));
            world.add(&gateway(&json!([https(8443, "a.x", &json!([{"secret": "s"}]))])));
            let json = json_of(&world);
            let name = format!("cert.{kind}:secret:s");
            let secret = &json["Secrets"]["Resources"][name]["tlsCertificate"];
            assert_eq!(secret["privateKey"]["inlineString"], json!(pair.key), "{kind} {label}");
        }
    }
}

#[test]
fn tls_hosts_have_backends_of_their_own() {
    let pair = certs::ecdsa("a.x");
    let mut world = world();
    world.add(&pair.secret("s"));
    let tls = |hostname: &str, mode: &str, tag: &str| {
        let certificates = if mode == "TERMINATE" { json!([{"secret": "s"}]) } else { json!([]) };
        json!({
            "port": 8443, "protocol": "TLS", "hostname": hostname, "tags": {"host": tag},
            "tls": {"mode": mode, "certificates": certificates},
        })
    };
    world.add(&gateway(&json!([
        tls("", "PASSTHROUGH", "c"),
        tls("*.x", "PASSTHROUGH", "b"),
        tls("a.x", "TERMINATE", "a"),
    ])));
    for (name, services) in [("a", &["echo", "other"][..]), ("b", &["echo"])] {
        let mut route = tcp_route(name, services);
        route["selectors"][0]["match"]["host"] = json!(name);
        world.add(&route);
    }
    // Routes of the other kind are none.
    world.add(&route("http", &json!([to_echo("/")])));
    let json = json_of(&world);
    let listener = &json["Listeners"]["Resources"]["edge:TLS:8443"]["filterChains"];
    let chains: Vec<(String, usize, bool)> = listener
        .as_array()
        .unwrap()
        .iter()
        .map(|chain| {
            let name = chain["filterChainMatch"]["serverNames"][0].as_str().unwrap_or("*");
            let config = &chain["filters"][0]["typedConfig"];
            let weighted = config["weightedClusters"]["clusters"].as_array().map_or(0, Vec::len);
            let clusters = weighted + usize::from(config["cluster"].is_string());
            (name.to_owned(), clusters, chain["transportSocket"].is_object())
        })
        .collect();
    let want = [("a.x", 2, true), ("*.x", 1, false), ("*", 0, false)];
    assert_eq!(chains, want.map(|(name, n, tls)| (name.to_owned(), n, tls)));
    let context = &listener[0]["transportSocket"]["typedConfig"]["commonTlsContext"];
    assert!(context.get("alpnProtocols").is_none());
}
