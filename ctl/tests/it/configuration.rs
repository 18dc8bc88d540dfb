//! `config`, and how all commands find their control plane.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use crate::api::{Api, Done, run_in};

fn kuma(_: &str) -> (u16, String) {
    (200, r#"{"product": "Kuma", "version": "2.14.3"}"#.to_owned())
}

/// Runs the program with this home.
fn at(home: &Path, line: &str) -> Done {
    let arguments: Vec<_> = line.split(' ').collect();
    run_in(&arguments, &[("HOME", home.to_str().unwrap())], "")
}

#[test]
fn life_of_control_planes() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let file = home.join(".kumactl/config");
    let api = Api::start(kuma);
    let usual = "ACTIVE   NAME    ADDRESS\n*        local   http://localhost:5681\n";
    assert_eq!(at(home, "config control-planes list").out, usual);
    assert!(!file.exists());

    let add = format!("config control-planes add --name here --address {}", api.address);
    let done =
        at(home, &format!("{add} --auth-type=tokens --auth-conf token=t --headers X-Extra=h"));
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    assert_eq!(
        done.out,
        "added Control Plane \"here\"\nswitched active Control Plane to \"here\"\n"
    );
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_to_string(&file).unwrap(), at(home, "config view").out);

    // Every command uses it, and its credentials.
    assert_eq!(at(home, "delete mesh m").code, 0);
    let seen = api.seen().pop().unwrap();
    assert_eq!(seen.line, "DELETE /meshes/m");
    assert_eq!(seen.authorization.as_deref(), Some("Bearer t"));
    assert_eq!(seen.extra.as_deref(), Some("h"));
    // Another address gets none of them.
    assert_eq!(at(home, &format!("delete mesh m --address {}", api.address)).code, 0);
    let seen = api.seen().pop().unwrap();
    assert_eq!((seen.authorization, seen.extra), (None, None));

    let done = at(home, &add);
    assert_eq!(done.code, 1);
    assert!(done.err.contains("\"here\" already exists. Use --overwrite"), "{}", done.err);
    assert_eq!(at(home, &format!("{add} --overwrite")).code, 0);
    assert_eq!(at(home, "delete mesh m").code, 0);
    assert_eq!(api.seen().pop().unwrap().authorization, None);

    assert_eq!(at(home, "config control-planes switch --name absent").code, 4);
    let done = at(home, "config control-planes switch --name local");
    assert_eq!(done.out, "switched active Control Plane to \"local\"\n");
    assert_eq!(at(home, "delete mesh m --context here").code, 0);
    assert_eq!(at(home, "delete mesh m --context absent").code, 2);
    let done = at(home, "config control-planes remove --name local");
    assert_eq!(
        done.out,
        "removed Control Plane \"local\"\nswitched active Control Plane to \"here\"\n"
    );
    let done = at(home, "config control-planes remove --name here");
    assert!(done.out.contains("there is no active Control Plane left"), "{}", done.out);
    assert_eq!(at(home, "config control-planes remove --name here").code, 4);
    let done = at(home, "get meshes");
    assert_eq!(done.code, 1);
    assert!(done.err.starts_with("Error: no control plane is chosen"), "{}", done.err);
}

#[test]
fn what_is_added_is_asked_first() {
    let home = tempfile::tempdir().unwrap();
    let api = Api::start(|_| (200, r#"{"product": "Other", "version": "1"}"#.to_owned()));
    let add = format!("config control-planes add --name a --address {}", api.address);
    let done = at(home.path(), &add);
    assert_eq!(done.code, 1);
    assert!(done.err.contains("is for Kuma, but the control plane is \"Other\""), "{}", done.err);
    assert!(!home.path().join(".kumactl").exists());
    assert_eq!(api.lines(), ["GET /"]);
    assert_eq!(at(home.path(), &format!("{add} --skip-check")).code, 0);
    assert_eq!(api.lines(), ["GET /"]);
    assert_eq!(at(home.path(), "config control-planes add --name b --skip-check").code, 2);
}

#[test]
fn files_of_kumactl_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    let api = Api::start(kuma);
    fs::write(
        &file,
        format!(
            "contexts:\n- controlPlane: local\n  name: local\n- controlPlane: g\n  name: g\n\
             controlPlanes:\n- coordinates:\n    apiServer:\n      url: http://localhost:5681\n  \
             name: local\n- coordinates:\n    apiServer:\n      authConf:\n        token: x\n      \
             authType: tokens\n      headers:\n      - key: a\n        value: b\n      url: {}\n  \
             name: g\ncurrentContext: g\n",
            api.address
        ),
    )
    .unwrap();
    let line = format!("delete mesh m --config-file {}", file.display());
    assert_eq!(at(folder.path(), &line).code, 0);
    assert_eq!(api.seen()[0].authorization.as_deref(), Some("Bearer x"));

    let line = format!("config view --no-config --config-file {}", file.display());
    assert!(!at(folder.path(), &line).out.contains("token"));
    let line = "config control-planes remove --name local --no-config";
    assert_eq!(at(folder.path(), line).code, 2);

    fs::write(&file, "contexts: [\n").unwrap();
    let done = at(folder.path(), &format!("get meshes --config-file {}", file.display()));
    assert_eq!(done.code, 1);
    assert!(done.err.starts_with(&format!("Error: reading {}: ", file.display())), "{}", done.err);
}

#[test]
fn wrong_connections_are_wrong_usage() {
    let home = tempfile::tempdir().unwrap();
    for options in [
        "--client-cert-file x",
        "--client-key-file x",
        "--auth-conf token=x",
        "--auth-type tokens",
        "--address http://localhost --context local",
        "--timeout never",
        "--headers x",
    ] {
        assert_eq!(at(home.path(), &format!("version {options}")).code, 2, "{options}");
    }
}
