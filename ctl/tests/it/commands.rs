use std::fs;

use serde_json::{Value, json};

use crate::api::{self, Api};

fn ok(_: &str) -> (u16, String) {
    (200, "{}".to_owned())
}

#[test]
fn apply_sends_every_document() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(
        at("1.yaml"),
        "type: MeshGateway\nname: edge\nconf:\n  listeners:\n  - port: {{ port }}\n    protocol: HTTP\n\
         ---\ntype: Zone\nname: east\nenabled: true\n",
    )
    .unwrap();
    fs::write(at("2.json"), r#"{"type": "Mesh", "name": "default"}"#).unwrap();
    fs::write(at("3.txt"), "type: Mesh\nname: not-read\n").unwrap();
    let api = Api::start(|line| match line {
        "PUT /meshes/default" => (201, r#"{"warnings": ["old"]}"#.to_owned()),
        _ => (200, "{}".to_owned()),
    });

    let done = api.run(&["apply", "-f", folder.path().to_str().unwrap(), "-v", "port=8080"]);

    assert_eq!((done.code, done.err.as_str()), (0, "Warning: old\n"));
    assert_eq!(
        done.out,
        "resource type=\"Mesh\" mesh=\"\" name=\"default\" Created\n\
         resource type=\"MeshGateway\" mesh=\"default\" name=\"edge\" Updated\n\
         resource type=\"Zone\" mesh=\"\" name=\"east\" Updated\n"
    );
    let seen = api.seen();
    assert_eq!(
        api.lines(),
        ["PUT /meshes/default", "PUT /meshes/default/meshgateways/edge", "PUT /zones/east"]
    );
    for request in &seen {
        assert_eq!(request.content_type.as_deref(), Some("application/json"));
        assert_eq!(request.accept.as_deref(), Some("application/json"));
        assert_eq!(request.authorization, None);
    }
    assert_eq!(seen[0].json(), json!({"type": "Mesh", "name": "default"}));
    assert_eq!(
        seen[1].json(),
        json!({"type": "MeshGateway", "name": "edge", "mesh": "default",
            "conf": {"listeners": [{"port": 8080, "protocol": "HTTP"}]}})
    );
}

#[test]
fn apply_goes_on_after_failures() {
    let problem = json!({
        "type": "/std-errors", "status": 400, "title": "Could not process a resource",
        "detail": "Resource is not valid",
        "invalid_parameters": [{"field": "conf.listeners[1].port", "reason": "port must be in the range [1, 65535]"}],
    });
    let api = Api::start(move |line| {
        if line.ends_with("/bad") { (400, problem.to_string()) } else { (201, "{}".to_owned()) }
    });
    let input = "type: MeshGateway\nname: bad\nmesh: m\nconf:\n  listeners:\n  - port: 1\n  - port: 0\n\
                 ---\ntype: Unknown\nname: x\n---\ntype: MeshGateway\nname: good\nmesh: m\n---\na: [\n";

    let done = api::run(&api.address, &["apply", "-f", "-"], &[], input);

    assert_eq!(done.code, 1);
    assert_eq!(done.out, "resource type=\"MeshGateway\" mesh=\"m\" name=\"good\" Created\n");
    let lines: Vec<_> = done.err.lines().collect();
    assert_eq!(lines.len(), 4, "{}", done.err);
    assert!(lines[0].starts_with("Error: <stdin>: document 4, line 1"), "{}", lines[0]);
    assert_eq!(lines[1], "Error: <stdin>: document 2, line 9: type: unknown type \"Unknown\"");
    assert_eq!(
        lines[2],
        "Error: <stdin>: document 1, line 1: resource type=\"MeshGateway\" mesh=\"m\" name=\"bad\": \
         Could not process a resource (Resource is not valid)"
    );
    assert_eq!(lines[3], "* conf.listeners[1].port: port must be in the range [1, 65535] (line 7)");
    assert_eq!(api.lines(), ["PUT /meshes/m/meshgateways/bad", "PUT /meshes/m/meshgateways/good"]);
}

#[test]
fn dry_run_prints_and_sends_nothing() {
    let api = Api::start(ok);
    let input = "type: MeshGateway\nname: g\n---\ntype: Mesh\nname: '1'\n";
    let done = api::run(&api.address, &["apply", "--dry-run", "-f", "-"], &[], input);
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    assert_eq!(api.lines(), Vec::<String>::new());
    let again = api::run(&api.address, &["apply", "-f", "-"], &[], &done.out);
    assert_eq!(again.code, 0, "{}", again.err);
    assert_eq!(api.lines(), ["PUT /meshes/1", "PUT /meshes/default/meshgateways/g"]);
}

#[test]
fn apply_from_a_url_does_not_send_the_token_there() {
    let api = Api::start(|line| match line {
        "GET /files/mesh.yaml" => (200, "type: Mesh\nname: m\n".to_owned()),
        _ => (200, "{}".to_owned()),
    });
    let url = format!("{}/files/mesh.yaml", api.address);
    let done = api.run(&["--token", "secret", "apply", "-f", &url]);
    assert_eq!(done.code, 0, "{}", done.err);
    let seen: Vec<_> = api.seen().into_iter().map(|s| (s.line, s.authorization)).collect();
    assert_eq!(
        seen,
        [
            ("GET /files/mesh.yaml".to_owned(), None),
            ("PUT /meshes/m".to_owned(), Some("Bearer secret".to_owned())),
        ]
    );
}

#[test]
fn names_cannot_leave_their_place() {
    let api = Api::start(ok);
    let done = api::run(&api.address, &["apply", "-f", "-"], &[], "type: Mesh\nname: ..\n");
    assert_eq!(done.code, 1);
    let done = api.run(&["delete", "dataplane", ".."]);
    assert_eq!(done.code, 2);
    assert_eq!(api.lines(), Vec::<String>::new());
    let done = api.run(&["delete", "dataplane", "a/../b c", "-m", "m?x"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(api.lines(), ["DELETE /meshes/m%3Fx/dataplanes/a%2F..%2Fb%20c"]);
}

#[test]
fn nothing_to_apply_is_a_failure() {
    let api = Api::start(ok);
    let done = api::run(&api.address, &["apply", "-f", "-"], &[], "# nothing\n");
    assert_eq!((done.code, done.err.as_str()), (1, "Error: no resources to apply\n"));
    let done = api.run(&["apply", "-f", "/does/not/exist"]);
    assert_eq!(done.code, 1);
    assert!(done.err.starts_with("Error: reading /does/not/exist: "), "{}", done.err);
}

fn mesh(name: &str) -> Value {
    json!({"type": "Mesh", "name": name, "creationTime": "2020-01-01T00:00:00Z", "modificationTime": "2020-01-01T00:00:00Z"})
}

#[test]
fn get_one() {
    let api = Api::start(|line| match line {
        "GET /meshes/default" => (200, mesh("default").to_string()),
        _ => {
            (404, r#"{"title": "Could not retrieve a resource", "detail": "Not found"}"#.to_owned())
        }
    });
    let done = api.run(&["get", "mesh", "default"]);
    assert!(done.out.starts_with("NAME      mTLS   LOCALITY   ZONEEGRESS   AGE\ndefault   off    off        off          "), "{}", done.out);
    let done = api.run(&["get", "Mesh", "default", "-o", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&done.out).unwrap(), mesh("default"));
    let done = api.run(&["get", "meshes", "default", "-o", "yaml"]);
    assert!(done.out.contains("name: default\n"), "{}", done.out);
    let done = api.run(&["get", "meshgateway", "edge", "-m", "other"]);
    assert_eq!(
        (done.code, done.out.as_str(), done.err.as_str()),
        (4, "", "Error: Could not retrieve a resource (Not found)\n")
    );
    assert_eq!(api.lines().last().unwrap(), "GET /meshes/other/meshgateways/edge");
}

#[test]
fn get_follows_pages() {
    let api = Api::start(|line| {
        let (name, next) = match line.split_once("offset=") {
            None => ("a", json!("http://proxied.example/x?name=&offset=1&size=1000")),
            Some((_, "1")) => ("b", json!("http://proxied.example/x?offset=2&size=1000")),
            Some(_) => ("c", Value::Null),
        };
        (200, json!({"total": 3, "items": [mesh(name)], "next": next}).to_string())
    });
    let done = api.run(&["get", "meshes", "-o", "json"]);
    assert_eq!(done.code, 0, "{}", done.err);
    let list: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(list, json!({"total": 3, "items": [mesh("a"), mesh("b"), mesh("c")], "next": null}));
    assert_eq!(
        api.lines(),
        [
            "GET /meshes?size=1000",
            "GET /meshes?size=1000&offset=1",
            "GET /meshes?size=1000&offset=2"
        ]
    );

    let done = api.run(&["get", "meshes", "--size", "1", "--offset", "1"]);
    let (table, footer) = done.out.split_once("\n\n").unwrap();
    assert_eq!(table.lines().count(), 2);
    assert_eq!(footer, "Rerun command with --offset=2 argument to retrieve more resources\n");
    assert_eq!(api.lines().last().unwrap(), "GET /meshes?size=1&offset=1");

    let done = api.run(&["get", "meshes", "-o", "yaml"]);
    assert_eq!(serde_saphyr::from_str::<Value>(&done.out).unwrap(), list);
}

#[test]
fn get_over_meshes() {
    let api = Api::start(|_| (200, r#"{"total": 0, "items": [], "next": null}"#.to_owned()));
    api.run(&["get", "dataplanes"]);
    api.run(&["get", "dataplanes", "-m", "m"]);
    let done = api.run(&["get", "dataplanes", "-A"]);
    assert_eq!(done.out, "MESH   NAME   TAGS   ADDRESS   AGE\n");
    api.run(&["get", "zones", "-m", "m"]);
    assert_eq!(
        api.lines(),
        [
            "GET /meshes/default/dataplanes?size=1000",
            "GET /meshes/m/dataplanes?size=1000",
            "GET /dataplanes?size=1000",
            "GET /zones?size=1000"
        ]
    );
}

#[test]
fn a_repeated_page_ends_the_command() {
    let api = Api::start(|_| {
        (200, json!({"total": 9, "items": [], "next": "http://x/meshes?offset=1"}).to_string())
    });
    let done = api.run(&["get", "meshes"]);
    assert_eq!((done.code, done.err.as_str()), (1, "Error: the control plane repeats a page\n"));
}

#[test]
fn delete() {
    let api = Api::start(|line| {
        if line.ends_with("/gone") {
            (404, r#"{"title": "Could not delete a resource", "detail": "Not found"}"#.to_owned())
        } else {
            (200, "{}".to_owned())
        }
    });
    let done = api.run(&["delete", "meshgateway", "edge"]);
    assert_eq!((done.code, done.out.as_str()), (0, "deleted MeshGateway \"edge\"\n"));
    let done = api.run(&["delete", "zone-ingress", "gone"]);
    assert_eq!(
        (done.code, done.err.as_str()),
        (
            4,
            "Error: there is no ZoneIngress with name \"gone\": Could not delete a resource (Not found)\n"
        )
    );
    assert_eq!(
        api.lines(),
        ["DELETE /meshes/default/meshgateways/edge", "DELETE /zoneingresses/gone"]
    );
    assert_eq!(api.run(&["delete", "nothing", "x"]).code, 2);
    assert_eq!(api.run(&["delete", "meshinsight", "x"]).code, 2);
}

#[test]
fn dataplane_tokens() {
    let api = Api::start(|_| (200, "a.b.c\n".to_owned()));
    let done = api.run(&[
        "generate",
        "dataplane-token",
        "--mesh=default",
        "--valid-for=24h",
        "--tag=kuma.io/service=edge",
    ]);
    assert_eq!((done.code, done.out.as_str()), (0, "a.b.c"));
    let seen = api.seen();
    assert_eq!(seen[0].line, "POST /tokens/dataplane");
    assert_eq!(
        seen[0].json(),
        json!({"mesh": "default", "validFor": "24h", "tags": {"kuma.io/service": ["edge"]}})
    );
}

#[test]
fn version() {
    let client = format!("Client: sunbearctl {}\n", env!("CARGO_PKG_VERSION"));
    let api = Api::start(|_| (200, r#"{"product": "Kuma", "version": "2.14.3"}"#.to_owned()));
    let done = api.run(&["version"]);
    assert_eq!((done.out, done.err), (format!("{client}Server: Kuma 2.14.3\n"), String::new()));
    assert_eq!(api.lines(), ["GET /"]);

    let api = Api::start(|_| (200, r#"{"product": "Kuma", "version": "2.10.0"}"#.to_owned()));
    let done = api.run(&["version", "--detailed"]);
    assert_eq!(
        done.out,
        format!("{client}Server: {{\n  \"product\": \"Kuma\",\n  \"version\": \"2.10.0\"\n}}\n")
    );
    assert_eq!(
        done.err,
        "Warning: this program speaks the API of Kuma 2.14.3, the control plane that of Kuma 2.10.0\n"
    );
}

#[test]
fn completions() {
    for (shell, want) in [
        ("bash", "complete -F _sunbearctl"),
        ("zsh", "#compdef sunbearctl"),
        ("fish", "complete -c sunbearctl"),
    ] {
        let done = api::run_in(&["completion", shell], &[], "");
        assert_eq!(done.code, 0);
        assert!(done.out.contains(want), "{shell}");
        // The commands of policies are among them, and words for types where the shell can.
        let words = ["meshtrafficpermission", "federation-with-policies", "meshgatewayroutes"];
        for word in words.iter().take(if shell == "fish" { 2 } else { 3 }) {
            assert!(done.out.contains(word), "{shell}: {word}");
        }
    }
    assert_eq!(api::run_in(&["completion", "sh"], &[], "").code, 2);
}

#[test]
fn exit_codes_are_in_the_help() {
    let done = api::run_in(&["--help"], &[], "");
    for line in [
        "  0  done",
        "  1  refused by the control plane, or failed",
        "  2  wrong usage",
        "  3  the control plane cannot be reached",
        "  4  what the command is about does not exist",
    ] {
        assert!(done.out.lines().any(|l| l == line), "{}", done.out);
    }
}

#[test]
fn connections() {
    let api = Api::start(ok);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, "from-file\n").unwrap();
    let file = file.to_str().unwrap();

    let base = format!("{}/base/", api.address);
    api.run(&["--address", &base, "--token-file", file, "delete", "mesh", "m"]);
    api::run(&api.address, &["delete", "mesh", "m"], &[("SUNBEAR_TOKEN", "from-environment")], "");
    // A proxy of the environment is not for this machine's own control plane.
    let proxy = [("HTTP_PROXY", "http://127.0.0.1:1"), ("http_proxy", "http://127.0.0.1:1")];
    assert_eq!(api::run(&api.address, &["delete", "mesh", "m"], &proxy, "").code, 0);
    let seen: Vec<_> = api.seen().into_iter().map(|s| (s.line, s.authorization)).collect();
    assert_eq!(
        seen,
        [
            ("DELETE /base/meshes/m".to_owned(), Some("Bearer from-file".to_owned())),
            ("DELETE /meshes/m".to_owned(), Some("Bearer from-environment".to_owned())),
            ("DELETE /meshes/m".to_owned(), None),
        ]
    );
}

#[test]
fn unreachable() {
    // A port that was free a moment ago.
    let address = {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    for arguments in [&["get", "meshes"][..], &["version"], &["apply", "-f", "-"]] {
        let done = api::run(&address, arguments, &[], "type: Mesh\nname: m\n");
        assert_eq!(done.code, 3, "{arguments:?}");
        assert!(done.err.starts_with(&format!("Error: cannot reach {address}/: ")), "{}", done.err);
    }
    assert_eq!(api::run("ftp://x", &["get", "meshes"], &[], "").code, 2);
    assert_eq!(api::run("nonsense", &["get", "meshes"], &[], "").code, 2);
    assert_eq!(api::run(&address, &["get"], &[], "").code, 2);
}

#[test]
fn other_problems() {
    let api = Api::start(|line| match line {
        "GET /zones?size=1000" => (404, "404: Page Not Found".to_owned()),
        "GET /secrets?size=1000" => (
            403,
            json!({"title": "Access Denied", "detail": "user \"x\" cannot access it"}).to_string(),
        ),
        _ => (200, "<html>".to_owned()),
    });
    assert_eq!(api.run(&["get", "zones"]).err, "Error: 404: Page Not Found\n");
    assert_eq!(
        api.run(&["get", "secrets", "-A"]).err,
        "Error: Access Denied (user \"x\" cannot access it)\n"
    );
    let done = api.run(&["get", "meshes"]);
    assert_eq!(done.code, 1);
    assert!(
        done.err.starts_with("Error: the answer of the control plane is not JSON"),
        "{}",
        done.err
    );
}
