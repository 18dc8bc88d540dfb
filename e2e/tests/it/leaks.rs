//! Secrets go where they are needed and nowhere else: a global, a zone and a gateway that say all that
//! they can, with an object for every secret that there is. What they said, answered and wrote is
//! searched for each of them, in several spellings.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use xtask::http::{self, Request};

use crate::{
    control_plane::{ControlPlane, Ports, free_ports, program},
    gateway::Gateway,
};

/// Keys that databases are encrypted with.
const DATABASE_KEY: &str = "k1:AwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISI=";
/// What a GlobalSecret of a user holds.
const MARKER: &str = "the-marker-of-a-global-secret-that-nobody-sees";

/// Secrets by what they are, each as a text that appears nowhere else.
#[derive(Default)]
struct Needles(BTreeMap<String, Vec<String>>);

impl Needles {
    /// A secret text.
    fn text(&mut self, what: &str, text: &str) {
        let mut spellings = vec![text.to_owned()];
        // Base64 of whatever it is part of depends on where it begins there.
        for before in 0..3 {
            let encoded = STANDARD.encode(["x".repeat(before), text.to_owned()].concat());
            spellings.push(encoded[4..encoded.len() - 4].to_owned());
        }
        // As a list of bytes, which is how Rust shows them.
        let bytes: Vec<String> = text.bytes().map(|byte| byte.to_string()).collect();
        spellings.push(bytes.join(", "));
        spellings.push(bytes.join(","));
        self.0.insert(what.to_owned(), spellings);
    }

    /// The lines of a private key in PEM.
    fn key(&mut self, what: &str, pem: &str) {
        let lines: Vec<&str> = pem.lines().filter(|line| line.len() == 64).collect();
        assert!(!lines.is_empty(), "{what} is no key: {} bytes", pem.len());
        // The first third of an RSA key is public, the second half of an ECDSA one.
        let secret = if lines.len() > 12 { 8..lines.len() } else { 0..1 };
        for number in secret {
            // Keys of one kind begin alike.
            self.text(&format!("{what}, line {number}"), &lines[number][24..]);
        }
    }

    /// What of them is in a text.
    fn found_in(&self, text: &str) -> Vec<&str> {
        let found = |spellings: &[String]| spellings.iter().any(|s| text.contains(s.as_str()));
        self.0.iter().filter(|(_, s)| found(s)).map(|(what, _)| what.as_str()).collect()
    }
}

/// What a gateway serves with, and therefore has in files that are its own alone.
const OF_GATEWAY: &[&str] =
    &["the token of the gateway", "the key of a listener", "the key for a service outside"];

/// What was said, by where, and the secrets that may be there.
#[derive(Default)]
struct Sayings(Vec<(String, String, &'static [&'static str])>);

impl Sayings {
    fn add(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.0.push((place.into(), text.into(), &[]));
    }
}

fn put(cp: &ControlPlane, path: &str, body: &Value) {
    let (status, said) = cp.send("PUT", path, &body.to_string());
    assert!(matches!(status, 200 | 201), "{path}: {status} {said}");
}

fn put_secret(cp: &ControlPlane, mesh: &str, name: &str, text: &str) {
    let data = STANDARD.encode(text);
    let body = json!({"type": "Secret", "mesh": mesh, "name": name, "data": data});
    put(cp, &format!("/meshes/{mesh}/secrets/{name}"), &body);
}

/// The text in a secret of a control plane, once it is there.
fn secret(cp: &mut ControlPlane, path: &str) -> String {
    cp.until(path, |cp| cp.get(path).is_some_and(|(status, _)| status == 200));
    let body: Value = serde_json::from_str(&cp.get(path).unwrap().1).unwrap();
    String::from_utf8(STANDARD.decode(body["data"].as_str().unwrap()).unwrap()).unwrap()
}

/// `sunbearctl` with these arguments, whatever it says.
fn ctl(folder: &Path, port: u16, arguments: &[&str]) -> String {
    let mut command = Command::new(program("sunbearctl"));
    command.args(arguments).current_dir(folder).env("HOME", folder);
    if port != 0 {
        command.args(["--address", &format!("http://127.0.0.1:{port}")]);
    }
    let output = command.output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// A certificate for a host, and its key.
fn pair(folder: &Path) -> (String, String) {
    let files = ["--key-file", "site.key", "--cert-file", "site.crt"];
    let mut arguments = vec!["generate", "tls-certificate", "--type=server", "--hostname=a.test"];
    arguments.extend(files);
    ctl(folder, 0, &arguments);
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    (read("site.crt"), read("site.key"))
}

#[test]
fn secrets_are_said_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let keys = folder.join("keys");
    fs::write(&keys, DATABASE_KEY).unwrap();
    let settings = [
        ("KUMA_LOG_LEVEL", "debug"),
        ("SUNBEAR_STORE_SECRETS_KEY_FILE", keys.to_str().unwrap()),
        // Not used, but a secret all the same.
        ("KUMA_STORE_POSTGRES_PASSWORD", "the-password-of-the-database"),
    ];
    let mut global = ControlPlane::global_with(folder, Ports::free(), &settings);
    global.until_ready();
    let (address, ca) = (global.kds_address(), global.certificate());
    let ports = Ports::free();
    let mut zone = ControlPlane::zone_with("east", "east", folder, ports, &address, &ca, &settings);
    zone.until_ready();

    let mut needles = Needles::default();
    write_objects(folder, &mut global, &mut needles);
    // They are found where they are to be seen.
    let lists = ["/meshes/default/secrets", "/meshes/second/secrets", "/global-secrets"];
    let shown: String = lists.iter().map(|path| global.get(path).unwrap().1).collect();
    assert_eq!(needles.found_in(&shown).len(), needles.0.len());
    // The zone's own, which no global has: a certificate and its key.
    let authority = secret(&mut zone, "/global-secrets/envoy-admin-ca");
    let key = authority.split("PRIVATE KEY-----").nth(1).unwrap();
    needles.key("the key of the authority of Envoys' admin interfaces", key);
    needles.text("the key of the database", &DATABASE_KEY[3..]);
    needles.text("the password of the database", "the-password-of-the-database");
    let token = ctl(
        folder,
        global.ports.http,
        &["generate", "dataplane-token", "--mesh=default", "--valid-for=24h", "--name=gw-1"],
    );
    let signature = token.trim().rsplit('.').next().unwrap().to_owned();
    assert!(signature.len() > 100, "{token}");
    needles.text("the token of the gateway", &signature[..100]);
    let user = ctl(
        folder,
        global.ports.http,
        &["generate", "user-token", "--name=u", "--valid-for=24h", "--group=g"],
    );
    let user = user.trim().to_owned();
    needles.text("the token of a user", &user.rsplit('.').next().unwrap()[..100]);

    zone.until("the route", |zone| {
        // Zones name it otherwise.
        let routes = zone.get("/meshes/default/meshgatewayroutes");
        routes.is_some_and(|(_, body)| body.contains("\"outside\""))
    });
    let gateway = Gateway::start(folder, &zone, "gw-1", Ipv4Addr::LOCALHOST, &token);
    zone.until("the gateway's listener", |zone| {
        zone.get("/meshes/default/dataplanes/gw-1/xds")
            .is_some_and(|(_, dump)| dump.contains(":HTTPS:") && dump.contains(":secret:site"))
    });

    let sealed = gateway.work.join("state/envoy.sealed");
    zone.until("the sealed configuration", |_| sealed.exists());

    let mut said = Sayings::default();
    refused(folder, &global, &user, &mut said);
    let stranger = Gateway::start(folder, &zone, "gw-2", Ipv4Addr::LOCALHOST, &broken(&token));
    zone.until("the refusal of a broken token", |_| {
        stranger.process.log_tail(50).contains("closed: 16")
    });
    // A secret that breaks is told of, in the zone and on the global.
    let (_, body) = pair(folder);
    let broken: Vec<&str> = body.lines().collect();
    let broken = [&broken[..3], &broken[4..]].concat().join("\n");
    needles.key("a broken key", &broken);
    put_secret(&global, "default", "site", &broken);
    for cp in [&mut zone, &mut global] {
        cp.until("word of the broken secret", |cp| {
            let overviews = cp.get("/meshes/default/dataplanes/_overview");
            overviews.is_some_and(|(_, body)| body.contains("certificates[0]"))
        });
    }
    answers(&global, "global", &mut said);
    answers(&zone, "zone", &mut said);
    commands(folder, &global, &mut said);
    commands(folder, &zone, &mut said);
    files(folder, &mut said);
    let mut found = Vec::new();
    for (place, text, allowed) in &said.0 {
        let mut whats = needles.found_in(text);
        whats.retain(|what| !allowed.iter().any(|allowed| what.starts_with(allowed)));
        found.extend(whats.iter().map(|what| format!("{what}: {place}")));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    println!("{} secrets in {} places", needles.0.len(), said.0.len());
}

/// Objects with a secret of every kind.
fn write_objects(folder: &Path, global: &mut ControlPlane, needles: &mut Needles) {
    let mtls = |backend: Value| json!({"enabledBackend": backend["name"], "backends": [backend]});
    let builtin = mtls(json!({"name": "ca-1", "type": "builtin"}));
    put(global, "/meshes/default", &json!({"type": "Mesh", "name": "default", "mtls": builtin}));
    let ca = "/meshes/default/secrets/default.ca-builtin-";
    let certificate = secret(global, &format!("{ca}cert-ca-1"));
    let key = secret(global, &format!("{ca}key-ca-1"));
    needles.key("the key of a builtin CA", &key);
    let pem = secret(global, "/meshes/default/secrets/dataplane-token-signing-key-default-1");
    needles.key("the key that signs tokens of proxies", &pem);
    let pem = secret(global, "/global-secrets/user-token-signing-key-1");
    needles.key("the key that signs tokens of users", &pem);
    let authority = secret(global, "/global-secrets/inter-cp-ca");
    let pem = authority.split("PRIVATE KEY-----").nth(1).unwrap();
    needles.key("the key of the control planes' authority", pem);
    let pem = secret(global, "/global-secrets/zone-token-signing-key-1");
    needles.key("the key that signs tokens of zones", &pem);
    let admin = secret(global, "/global-secrets/admin-user-token");
    needles.text("the token of the administrator", &admin.rsplit('.').next().unwrap()[..100]);

    // The same authority, provided.
    put(global, "/meshes/second", &json!({"type": "Mesh", "name": "second"}));
    put_secret(global, "second", "ca-cert", &certificate);
    put_secret(global, "second", "ca-key", &key);
    let provided = mtls(json!({
        "name": "ca-2", "type": "provided",
        "conf": {"cert": {"secret": "ca-cert"}, "key": {"secret": "ca-key"}},
    }));
    put(global, "/meshes/second", &json!({"type": "Mesh", "name": "second", "mtls": provided}));

    needles.text("a user's secret", MARKER);
    let data = STANDARD.encode(MARKER);
    put(global, "/global-secrets/s", &json!({"type": "GlobalSecret", "name": "s", "data": data}));
    put_secret(global, "default", "s", MARKER);

    let (certificate, key) = pair(folder);
    needles.key("the key of a listener", &key);
    put_secret(global, "default", "site", &format!("{certificate}{key}"));
    let (certificate, key) = pair(folder);
    needles.key("the key for a service outside", &key);
    put_secret(global, "default", "client-cert", &certificate);
    put_secret(global, "default", "client-key", &key);
    put(
        global,
        "/meshes/default/external-services/outside",
        &json!({
            "type": "ExternalService", "mesh": "default", "name": "outside",
            "tags": {"kuma.io/service": "outside", "kuma.io/protocol": "http"},
            "networking": {
                "address": "127.0.0.1:9",
                "tls": {
                    "enabled": true,
                    "clientCert": {"secret": "client-cert"},
                    "clientKey": {"secret": "client-key"},
                },
            },
        }),
    );
    let [https, http] = free_ports();
    put(
        global,
        "/meshes/default/meshgateways/edge",
        &json!({
            "type": "MeshGateway", "mesh": "default", "name": "edge",
            "selectors": [{"match": {"kuma.io/service": "edge"}}],
            "conf": {"listeners": [
                {"port": https, "protocol": "HTTPS", "hostname": "a.test", "tls": {
                    "mode": "TERMINATE", "certificates": [{"secret": "site"}],
                }},
                {"port": http, "protocol": "HTTP", "crossMesh": true},
            ]},
        }),
    );
    put(
        global,
        "/meshes/default/meshgatewayroutes/r",
        &json!({
            "type": "MeshGatewayRoute", "mesh": "default", "name": "r",
            "selectors": [{"match": {"kuma.io/service": "edge"}}],
            "conf": {"http": {"rules": [{
                "matches": [{"path": {"match": "PREFIX", "value": "/"}}],
                "backends": [{"weight": 1, "destination": {"kuma.io/service": "outside"}}],
            }]}},
        }),
    );
}

/// What is not accepted: nobody repeats it.
fn refused(folder: &Path, global: &ControlPlane, user: &str, said: &mut Sayings) {
    let secret =
        |data: &str| format!(r#"{{"type":"Secret","mesh":"default","name":"b","data":{data}}}"#);
    let bodies = [
        secret(&format!("\"{MARKER}%%\"")),
        secret(&format!("[\"{MARKER}\"]")),
        secret(&format!("{{\"x\":\"{MARKER}\"}}")),
        secret(&format!("\"{MARKER}")),
        secret(&format!("\"{}\"", STANDARD.encode(MARKER))).replace("\"b\"", "\"another\""),
        format!(r#"{{"type":"Secret","mesh":"other","name":"b","data":"{MARKER}"}}"#),
    ];
    for (number, body) in bodies.iter().enumerate() {
        let (status, answer) = global.send("PUT", "/meshes/default/secrets/b", body);
        assert!((400..500).contains(&status), "{number}: {status} {answer}");
        said.add(format!("the answer to refused secret {number}"), answer);
        fs::write(folder.join("b.json"), body).unwrap();
        let applied = ctl(folder, global.ports.http, &["apply", "-f", "b.json"]);
        fs::remove_file(folder.join("b.json")).unwrap();
        said.add(format!("sunbearctl about refused secret {number}"), applied);
    }
    // An authority that is none.
    let mesh = json!({"type": "Mesh", "name": "third", "mtls": {"enabledBackend": "c", "backends": [{
        "name": "c", "type": "provided",
        "conf": {"cert": {"inlineString": MARKER}, "key": {"inlineString": MARKER}},
    }]}});
    let (status, answer) = global.send("PUT", "/meshes/third", &mesh.to_string());
    assert_eq!(status, 400, "{answer}");
    said.add("the answer to a broken authority", answer);
    // Tokens whose signature is not theirs, and headers that are none.
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, global.ports.http));
    for header in [format!("Bearer {}", broken(user)), user.to_owned()] {
        let request = Request::new("GET", "localhost", "/meshes").header("authorization", &header);
        let answer = http::send(address, &request).unwrap();
        said.add("the answer to a broken token", format!("{answer:?}"));
    }
}

/// A token whose signature is not its own.
fn broken(token: &str) -> String {
    let (head, signature) = token.trim().rsplit_once('.').unwrap();
    format!("{head}x.{signature}")
}

/// Path of the gateway, whose name is longer on the global.
fn proxy(cp: &ControlPlane) -> String {
    let list: Value =
        serde_json::from_str(&cp.get("/meshes/default/dataplanes").unwrap().1).unwrap();
    let mut names = list["items"].as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap());
    let name = names.find(|name| name.starts_with("gw-1")).unwrap();
    format!("/meshes/default/dataplanes/{name}")
}

/// Everything that can be asked for, but for secrets themselves.
fn answers(cp: &ControlPlane, who: &str, said: &mut Sayings) {
    let proxy = proxy(cp);
    let mut paths: Vec<String> = [
        "/",
        "/config",
        "/versions",
        "/policies",
        "/openapi.json",
        "/_resources",
        "/who-am-i",
        "/global-insight",
        "/meshes/_overview",
        "/meshes/default/dataplanes/_overview",
        "/dataplanes/_overview",
        "/zones/_overview",
        "/meshes/default/external-services/outside",
    ]
    .map(str::to_owned)
    .to_vec();
    for aspect in [
        "",
        "/_overview",
        "/xds",
        "/xds?include_eds=true",
        "/stats",
        "/stats?usedonly=false",
        "/clusters",
        "/clusters?format=json",
        "/_config",
        "/_config?include=diff&shadow=true",
        "/_layout",
        "/policies",
        "/rules",
        "/_rules",
    ] {
        paths.push(format!("{proxy}{aspect}"));
    }
    let types: Value = serde_json::from_str(&cp.get("/_resources").unwrap().1).unwrap();
    for row in types["resources"].as_array().unwrap() {
        let (name, path) = (row["name"].as_str().unwrap(), row["path"].as_str().unwrap());
        if name == "Secret" || name == "GlobalSecret" {
            continue;
        }
        paths.push(format!("/{path}"));
        if row["scope"] == "Mesh" {
            paths.push(format!("/meshes/default/{path}"));
            paths.push(format!("/meshes/second/{path}"));
        }
    }
    for path in paths {
        let (status, body) = cp.get(&path).unwrap();
        let must = ["/config", "/_resources", &proxy];
        assert!(status == 200 || !must.contains(&path.as_str()), "{path}: {status} {body}");
        if path.contains("/xds") {
            assert_eq!(status, 200, "{path}: {body}");
            // What Envoy has is there, with what it must not show hidden.
            assert!(body.contains("mesh_ca:secret:all") && body.contains("[redacted]"));
        }
        said.add(format!("GET {path} of the {who}"), body);
    }
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, cp.ports.diagnostics));
    for path in ["/metrics", "/ready", "/healthy"] {
        let answer = http::get(address, "localhost", path).unwrap();
        said.add(format!("GET {path} of the {who}'s diagnostics"), answer.body);
    }
}

/// What the command says: tables and lists do not show what is in secrets.
fn commands(folder: &Path, cp: &ControlPlane, said: &mut Sayings) {
    let proxy = proxy(cp);
    let proxy = proxy.rsplit('/').next().unwrap();
    for arguments in [
        &["get", "secrets", "--mesh=default"][..],
        &["get", "global-secrets"],
        &["get", "meshes", "-oyaml"],
        &["get", "meshgateways", "-ojson"],
        &["get", "dataplanes", "-oyaml"],
        &["inspect", "dataplanes"],
        &["inspect", "dataplane", proxy, "--type=config-dump"],
        &["inspect", "dataplane", proxy, "--type=policies"],
        &["inspect", "meshes"],
        &["inspect", "zones"],
    ] {
        let text = ctl(folder, cp.ports.http, arguments);
        said.add(format!("sunbearctl {}", arguments.join(" ")), text);
    }
}

/// Logs, databases and whatever else was written. Files that hold a secret by their nature are for
/// their owner alone.
fn files(folder: &Path, said: &mut Sayings) {
    let mut pending = vec![folder.to_owned()];
    let mut logs = 0;
    while let Some(path) = pending.pop() {
        let about = fs::symlink_metadata(&path).unwrap();
        if about.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        // What this test wrote, and keys that are files.
        let input = name == "keys" || name.ends_with(".token") || name.ends_with(".key");
        if !about.is_file() || input {
            continue;
        }
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        logs += usize::from(name.ends_with(".log") && !text.is_empty());
        let private = about.permissions().mode().trailing_zeros() >= 6;
        let of_gateway =
            path.components().any(|c| c.as_os_str().to_string_lossy().ends_with(".work"));
        let allowed = if of_gateway && private { OF_GATEWAY } else { &[] };
        said.0.push((path.display().to_string(), text, allowed));
    }
    assert_eq!(logs, 4, "global, zone and gateways");
}
