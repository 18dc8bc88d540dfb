//! `export`: resources as a file that can be applied elsewhere.

use anyhow::anyhow;
use reqwest::Method;
use serde_json::{Map, Value, json};
use sunbear_model::{Kind, Writable};
use sunbear_security::{ca, signing_key};

use crate::{
    arguments::{Export, ExportFormat, Profile},
    client::Client,
    failure::Failure,
    kinds,
    list::{self, Page},
    output::{self, Output},
    version::{self, field},
};

/// Where an object was made; it is somewhere else after it moved.
const ORIGIN: &str = "kuma.io/origin";

/// Secrets that belong to one control plane: with another's, its own connections fail.
const OWN_SECRETS: [&str; 2] = ["envoy-admin-ca", "inter-cp-ca"];

/// What Kubernetes writes about an object of its own.
const KUBERNETES_FIELDS: [&str; 5] =
    ["resourceVersion", "ownerReferences", "uid", "generation", "managedFields"];

/// An object of the control plane.
struct Item {
    kind: Kind,
    mesh: String,
    name: String,
    value: Value,
}

/// Runs the command.
pub(crate) async fn run(
    client: &Client,
    arguments: &Export,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let index = version::index(client).await?;
    writeln!(
        output.out,
        "# Product: {}, Version: {}, Hostname: {}, ClusterId: {}, InstanceId: {}",
        field(&index, "product"),
        field(&index, "version"),
        field(&index, "hostname"),
        field(&index, "clusterId"),
        field(&index, "instanceId")
    )?;
    let kinds = kinds(client, arguments, output).await?;
    for mut item in items(client, &kinds).await? {
        let Some(text) = (match arguments.format {
            ExportFormat::Universal => Some(universal(&mut item, arguments.profile)?),
            ExportFormat::Kubernetes => kubernetes(client, &item, arguments).await?,
        }) else {
            continue;
        };
        write!(output.out, "---\n{text}")?;
    }
    Ok(())
}

fn is_federation(profile: Profile) -> bool {
    matches!(profile, Profile::Federation | Profile::FederationWithPolicies)
}

/// Types to export, in the order in which they have to be applied.
async fn kinds(
    client: &Client,
    arguments: &Export,
    output: &mut Output<'_>,
) -> Result<Vec<Kind>, Failure> {
    let reply = client.send(Method::GET, client.path(&["_resources"]), None).await?;
    let reply = reply.success()?.json()?;
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for served in reply["resources"].as_array().into_iter().flatten() {
        let name = field(served, "name");
        match Kind::by_name(&name).filter(|kind| kinds::served().any(|k| k == *kind)) {
            Some(kind) if is_wanted(kind, served, arguments) => known.push(kind),
            Some(_) => {}
            None => unknown.push(name),
        }
    }
    if !unknown.is_empty() {
        let text = format!("types that are unknown here are not exported: {}", unknown.join(", "));
        writeln!(output.out, "# {text}")?;
        writeln!(output.err, "Warning: {text}")?;
    }
    known.sort_by_key(|kind| match *kind {
        Kind::MESH => 0,
        Kind::SECRET => 1,
        Kind::GLOBAL_SECRET => 3,
        _ => 2,
    });
    Ok(known)
}

/// Does a profile contain a type? What only control planes write is in none: it cannot be applied.
fn is_wanted(kind: Kind, served: &Value, arguments: &Export) -> bool {
    let federation = is_federation(arguments.profile);
    match kind.row().writable {
        Writable::Never => return false,
        Writable::Admin if !federation && !arguments.include_admin => return false,
        Writable::Admin | Writable::Provided => {}
    }
    let included = served["includeInFederation"].as_bool() == Some(true);
    let target_ref = served["policy"]["isTargetRef"].as_bool() == Some(true);
    match arguments.profile {
        Profile::Federation => included && !target_ref && kind != Kind::MESH_GATEWAY,
        Profile::FederationWithPolicies => included,
        Profile::All => true,
        Profile::NoDataplanes => kind != Kind::DATAPLANE,
    }
}

/// All objects of the types. Keys of user tokens are the last: with them the credentials change by
/// which all is applied.
async fn items(client: &Client, kinds: &[Kind]) -> Result<Vec<Item>, Failure> {
    let (mut items, mut last) = (Vec::new(), Vec::new());
    for kind in kinds {
        // An empty mesh stands for all of them.
        let url = client.resource(*kind, "", None)?;
        for value in list::read(client, &url, Page::default()).await?.items {
            let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
            let item = Item { kind: *kind, mesh: text("mesh"), name: text("name"), value };
            if *kind != Kind::GLOBAL_SECRET {
                items.push(item);
            } else if item.name.starts_with(signing_key::USER_TOKEN_KEY) {
                last.push(item);
            } else if !OWN_SECRETS.contains(&item.name.as_str()) {
                items.push(item);
            }
        }
    }
    items.extend(last);
    Ok(items)
}

fn universal(item: &mut Item, profile: Profile) -> Result<String, Failure> {
    if is_federation(profile) {
        item.value.get_mut("labels").into_iter().for_each(remove_origin);
    }
    if let Some(fields) = item.value.as_object_mut() {
        // What the control plane adds to an object in its answers.
        fields.remove("kri");
        fields.remove("snis");
        fields.retain(|key, value| {
            key != "labels" || value.as_object().is_some_and(|l| !l.is_empty())
        });
    }
    if item.kind == Kind::MESH {
        movable(&item.name, &mut item.value);
    }
    Ok(output::resource_yaml(item.kind, &item.value)?)
}

/// Makes a mesh one that comes with its policies and its authorities instead of making new ones.
fn movable(name: &str, mesh: &mut Value) {
    mesh["skipCreatingInitialPolicies"] = json!(["*"]);
    let mut builtin = false;
    for backend in
        mesh.pointer_mut("/mtls/backends").and_then(Value::as_array_mut).into_iter().flatten()
    {
        if backend["type"] != "builtin" {
            continue;
        }
        let own = backend["name"].as_str().unwrap_or_default().to_owned();
        backend["type"] = "provided".into();
        backend["conf"] = json!({
            "cert": {"secret": ca::builtin_cert_secret(name, &own)},
            "key": {"secret": ca::builtin_key_secret(name, &own)},
        });
        builtin = true;
    }
    if builtin {
        // The Secrets follow.
        mesh["mtls"]["skipValidation"] = true.into();
    }
}

fn remove_origin(labels: &mut Value) {
    if let Some(labels) = labels.as_object_mut() {
        labels.remove(ORIGIN);
    }
}

/// An object as Kubernetes takes it; none if it is in a namespace that the other cluster's control
/// plane does not have.
async fn kubernetes(
    client: &Client,
    item: &Item,
    arguments: &Export,
) -> Result<Option<String>, Failure> {
    let mut url = client.resource(item.kind, &item.mesh, Some(&item.name))?;
    url.query_pairs_mut().append_pair("format", "k8s");
    let mut object = client.send(Method::GET, url, None).await?.success()?.json()?;
    let metadata = object["metadata"]
        .as_object_mut()
        .ok_or_else(|| anyhow!("{} {:?} has no form for Kubernetes", item.kind, item.name))?;
    let namespace = metadata.get("namespace").and_then(Value::as_str);
    if arguments.profile != Profile::All
        && namespace.is_some_and(|namespace| namespace != arguments.system_namespace)
    {
        return Ok(None);
    }
    KUBERNETES_FIELDS.iter().for_each(|field| {
        metadata.remove(*field);
    });
    if is_federation(arguments.profile) {
        for key in ["labels", "annotations"] {
            metadata.get_mut(key).into_iter().for_each(remove_origin);
        }
    }
    if item.kind == Kind::MESH {
        let mut mesh = object["spec"].take();
        if mesh.is_null() {
            mesh = Value::Object(Map::new());
        }
        movable(&item.name, &mut mesh);
        object["spec"] = mesh;
    }
    Ok(Some(output::yaml(&object)?))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::arguments::{Arguments, Command};

    fn wanted(options: &str, kind: &str, included: bool, target_ref: bool) -> bool {
        let line = format!("sunbearctl export {options}");
        let Command::Export(arguments) = Arguments::parse_from(line.split_whitespace()).command
        else {
            panic!("{line}");
        };
        let served =
            json!({"includeInFederation": included, "policy": {"isTargetRef": target_ref}});
        is_wanted(Kind::by_name(kind).unwrap(), &served, &arguments)
    }

    #[test]
    fn profiles() {
        let policies = "--profile federation-with-policies";
        for (options, kind, included, target_ref, want) in [
            ("", "Mesh", true, false, true),
            ("", "Secret", true, false, true),
            ("", "TrafficRoute", true, false, true),
            ("", "MeshTimeout", true, true, false),
            ("", "MeshGateway", true, false, false),
            ("", "Dataplane", false, false, false),
            (policies, "MeshTimeout", true, true, true),
            (policies, "MeshGateway", true, false, true),
            (policies, "Dataplane", false, false, false),
            ("-p all", "Dataplane", false, false, true),
            ("-p all", "Secret", true, false, false),
            ("-p all -a", "Secret", true, false, true),
            ("-p all", "DataplaneInsight", false, false, false),
            ("-p no-dataplanes", "Dataplane", false, false, false),
            ("-p no-dataplanes", "Zone", false, false, true),
            ("-p no-dataplanes", "GlobalSecret", true, false, false),
        ] {
            assert_eq!(wanted(options, kind, included, target_ref), want, "{options} {kind}");
        }
    }

    #[test]
    fn a_mesh_takes_its_authorities_along() {
        let mut mesh = json!({"name": "m", "mtls": {"enabledBackend": "a", "backends": [
            {"name": "a", "type": "builtin", "conf": {"caCert": {"expiration": "10d"}}},
            {"name": "b", "type": "provided", "conf": {"cert": {"secret": "x"}}}]}});
        movable("m", &mut mesh);
        assert_eq!(
            mesh,
            json!({"name": "m", "skipCreatingInitialPolicies": ["*"], "mtls": {
                "enabledBackend": "a", "skipValidation": true, "backends": [
                    {"name": "a", "type": "provided", "conf": {
                        "cert": {"secret": "m.ca-builtin-cert-a"},
                        "key": {"secret": "m.ca-builtin-key-a"}}},
                    {"name": "b", "type": "provided", "conf": {"cert": {"secret": "x"}}}]}})
        );
        let mut mesh = json!({"name": "m"});
        movable("m", &mut mesh);
        assert_eq!(mesh, json!({"name": "m", "skipCreatingInitialPolicies": ["*"]}));
    }

    #[test]
    fn origins_are_left_behind() {
        let item = |labels: Value| Item {
            kind: Kind::ZONE,
            mesh: String::new(),
            name: "z".to_owned(),
            value: json!({"type": "Zone", "name": "z", "labels": labels, "kri": "kri_z____z_"}),
        };
        let both = json!({ORIGIN: "zone", "a": "b"});
        let text = universal(&mut item(both.clone()), Profile::Federation).unwrap();
        assert_eq!(text, "labels:\n  a: b\nname: z\ntype: Zone\n");
        let text = universal(&mut item(json!({ORIGIN: "zone"})), Profile::Federation).unwrap();
        assert_eq!(text, "name: z\ntype: Zone\n");
        let text = universal(&mut item(both), Profile::All).unwrap();
        assert!(text.contains(ORIGIN), "{text}");
    }
}
