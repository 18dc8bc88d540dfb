//! Every type of the table, against the real API.

use serde_json::{Value, json};
use sunbear_model::Kind;

use crate::control_plane::Global;

fn served() -> impl Iterator<Item = Kind> {
    Kind::all().filter(|kind| !kind.row().plural.is_empty())
}

/// An object of every type; what the specs say is of no concern here.
fn seeded() -> Global {
    let global = Global::start();
    for kind in served().filter(|kind| *kind != Kind::MESH) {
        let mesh = if kind.is_mesh_scoped() { "default" } else { "" };
        let mut body = json!({"type": kind.name(), "name": "x", "mesh": mesh});
        if kind.is_json() {
            body["spec"] = json!({});
        }
        global.seed(kind, &body);
    }
    global
}

#[test]
fn all_are_shown_by_all_their_names() {
    let global = seeded();
    for kind in served() {
        // A mesh's services are shown as objects of their own, and there are none.
        let is_service_insight = kind.name() == "ServiceInsight";
        let row = kind.row();
        let name = if kind == Kind::MESH { "default" } else { "x" };
        for word in [row.plural].iter().chain(row.aliases) {
            let table = global.ok(&["get", word]);
            let headers: Vec<_> = table.lines().next().unwrap().split("   ").collect();
            assert_eq!(headers[0] == "MESH", kind.is_mesh_scoped(), "{word}: {table}");
            assert_eq!(headers.last().unwrap().trim(), "AGE", "{word}: {table}");
            if !is_service_insight {
                assert!(table.lines().skip(1).any(|l| l.contains(name)), "{word}: {table}");
            }
        }
        let both = |arguments: &[&str]| -> Value {
            let json = global.ok(&[&["get", "-o", "json"], arguments].concat());
            let yaml = global.ok(&[&["get", "-o", "yaml"], arguments].concat());
            let json = serde_json::from_str(&json).unwrap();
            assert_eq!(serde_saphyr::from_str::<Value>(&yaml).unwrap(), json, "{kind}");
            json
        };
        let list = both(&[row.plural]);
        assert_eq!(list["total"], list["items"].as_array().unwrap().len(), "{kind}");
        assert!(list["next"].is_null());
        if is_service_insight {
            continue;
        }
        // What only control planes write has no singular.
        let word = if row.singular.is_empty() { row.plural } else { row.singular };
        let item = both(&[word, name]);
        assert_eq!((&item["type"], &item["name"]), (&kind.name().into(), &name.into()));
        let table = global.ok(&["get", word, name]);
        assert_eq!(table.lines().count(), 2, "{table}");
    }
}

#[test]
fn all_are_deleted_where_they_may_be() {
    let global = seeded();
    for kind in served().filter(|kind| *kind != Kind::MESH) {
        let word = kind.row().plural;
        let done = global.run(&["delete", word, "x"]);
        if kind.writable_on_global() {
            assert_eq!((done.code, done.err.as_str()), (0, ""), "{kind}");
            assert_eq!(done.out, format!("deleted {kind} \"x\"\n"));
            assert_eq!(global.run(&["delete", word, "x"]).code, 4, "{kind}");
        } else if done.code == 1 {
            assert!(done.err.starts_with("Error: Method not allowed (On global "), "{}", done.err);
        } else {
            // What nobody may write is known to be so without asking.
            assert_eq!(done.code, 2, "{kind}: {}", done.err);
            assert!(done.err.ends_with(" is read-only\n"), "{}", done.err);
        }
    }
}

#[test]
fn pages() {
    let global = Global::start();
    let documents: Vec<_> = (0..250)
        .map(|i| format!("type: Secret\nmesh: default\nname: s-{i:03}\ndata: YWJj\n"))
        .collect();
    let applied = global.apply(&documents.join("---\n"));
    assert_eq!(applied.lines().filter(|line| line.ends_with(" Created")).count(), 250);

    // The mesh has a signing key of its own.
    assert_eq!(global.ok(&["get", "secrets"]).lines().count(), 1 + 251);
    let (mut names, mut offset) = (Vec::new(), None::<String>);
    for rows in [100, 100, 51] {
        let mut arguments = vec!["get", "secrets", "--size", "100"];
        arguments.extend(offset.iter().flat_map(|offset| ["--offset", offset.as_str()]));
        let table = global.ok(&arguments);
        let (page, footer) = table.split_once("\n\n").unwrap_or((&table, ""));
        assert_eq!(page.lines().count(), 1 + rows, "{table}");
        names.extend(page.lines().skip(1).map(|l| l.split_whitespace().nth(1).unwrap().to_owned()));
        offset = footer
            .strip_prefix("Rerun command with --offset=")
            .and_then(|rest| rest.strip_suffix(" argument to retrieve more resources\n"))
            .map(str::to_owned);
    }
    assert_eq!(offset, None);
    names.dedup();
    assert_eq!(names.len(), 251);
}
