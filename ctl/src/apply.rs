//! `apply`: every document is parsed and checked before the first request; one that is refused does
//! not keep the others from being applied.

use std::collections::BTreeMap;

use reqwest::{Method, StatusCode};
use serde_json::Value;
use sunbear_model::{
    Kind,
    document::{self, Document, DocumentError},
};

use crate::{
    arguments::Apply,
    client::{Client, Problem},
    failure::Failure,
    kinds,
    output::{self, Output, printable},
    pairs,
    source::{self, Source},
};

/// The mesh of documents that name none.
const DEFAULT_MESH: &str = "default";

/// An object that is ready to be sent.
struct Item {
    document: Document,
    kind: Kind,
    mesh: String,
    name: String,
    /// The document, with its mesh filled in.
    body: Value,
}

impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kind, mesh, name) = (self.kind.name(), &self.mesh, &self.name);
        write!(f, "resource type={kind:?} mesh={mesh:?} name={name:?}")
    }
}

/// Runs the command. Without a client, what would be applied is printed.
pub(crate) async fn run(
    client: Option<&Client>,
    arguments: &Apply,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let variables = pairs::all(&arguments.variables).collect();
    let sources = source::read(&arguments.files, arguments.recursive).await?;
    let (items, errors) = prepare(&sources, &variables, output)?;
    for error in &errors {
        writeln!(output.err, "Error: {error}")?;
    }
    if items.is_empty() && errors.is_empty() {
        return Err(Failure::Refused("no resources to apply".to_owned()));
    }
    let mut failed = !errors.is_empty();
    for (i, item) in items.iter().enumerate() {
        match client {
            Some(client) => failed |= !put(client, item, output).await?,
            None => {
                let separator = if i > 0 { "---\n" } else { "" };
                let text = output::resource_yaml(item.kind, &item.body)?;
                write!(output.out, "{separator}{text}")?;
            }
        }
    }
    if failed { Err(Failure::Reported) } else { Ok(()) }
}

/// Parses and checks all sources. Meshes come first, so that what lives in them finds them.
fn prepare(
    sources: &[Source],
    variables: &BTreeMap<String, String>,
    output: &mut Output<'_>,
) -> Result<(Vec<Item>, Vec<DocumentError>), Failure> {
    let (mut items, mut errors) = (Vec::new(), Vec::new());
    for source in sources {
        let (documents, broken) = document::parse(&source.name, &source.text, variables);
        errors.extend(broken.into_iter().map(|error| hint(error, source, variables)));
        for document in documents {
            match check(document, output)? {
                Ok(item) => items.push(item),
                Err(error) => errors.push(error),
            }
        }
    }
    items.sort_by_key(|item| item.kind != Kind::MESH);
    Ok((items, errors))
}

/// Variables that were forgotten look like strange YAML.
fn hint(
    mut error: DocumentError,
    source: &Source,
    variables: &BTreeMap<String, String>,
) -> DocumentError {
    let line = source.text.lines().nth(error.line.saturating_sub(1)).unwrap_or_default();
    if variables.is_empty() && line.contains("{{") {
        error.message.push_str(" (values for {{ ... }} are given with -v)");
    }
    error
}

/// Checks one document as far as that is possible without the control plane.
fn check(
    document: Document,
    output: &mut Output<'_>,
) -> Result<Result<Item, DocumentError>, Failure> {
    let desired = match document.read() {
        Ok(desired) => desired,
        Err(error) => return Ok(Err(error)),
    };
    let kind = desired.kind;
    if !kinds::is_writable(kind) {
        return Ok(Err(document.error("type", format!("{kind} is read-only"))));
    }
    if desired.name.is_empty() {
        return Ok(Err(document.error("name", "cannot be empty")));
    }
    for field in &desired.unknown {
        writeln!(
            output.err,
            "Warning: {}",
            document.error(field, format!("{kind} has no such field; it is ignored"))
        )?;
    }
    let mut body = document.value.clone();
    let mesh = match (kind.is_mesh_scoped(), desired.mesh) {
        (false, _) => String::new(),
        (true, mesh) if !mesh.is_empty() => mesh,
        (true, _) => {
            body["mesh"] = DEFAULT_MESH.into();
            DEFAULT_MESH.to_owned()
        }
    };
    Ok(Ok(Item { document, kind, mesh, name: desired.name, body }))
}

/// Sends one object; false if the control plane refuses it.
async fn put(client: &Client, item: &Item, output: &mut Output<'_>) -> Result<bool, Failure> {
    let url = match client.resource(item.kind, &item.mesh, Some(&item.name)) {
        Ok(url) => url,
        Err(failure) => {
            writeln!(output.err, "Error: {}", item.document.error("name", failure.to_string()))?;
            return Ok(false);
        }
    };
    let reply = client.send(Method::PUT, url, Some(&item.body)).await?;
    if !reply.status.is_success() {
        let problem = Problem::of(&reply);
        let error = item.document.error("", format!("{item}: {}", problem.summary));
        writeln!(output.err, "Error: {error}")?;
        for (field, reason) in &problem.fields {
            let line = item.document.line_of(field);
            writeln!(output.err, "* {field}: {reason} (line {line})")?;
        }
        return Ok(false);
    }
    let done = if reply.status == StatusCode::CREATED { "Created" } else { "Updated" };
    writeln!(output.out, "{item} {done}")?;
    // The body may be empty; older control planes send none.
    let body: Value = serde_json::from_str(&reply.text).unwrap_or_default();
    for warning in body["warnings"].as_array().into_iter().flatten() {
        let text = warning.as_str().map_or_else(|| warning.to_string(), printable);
        writeln!(output.err, "Warning: {text}")?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(texts: &[&str]) -> (Vec<String>, Vec<String>, String) {
        let sources: Vec<_> = texts
            .iter()
            .enumerate()
            .map(|(i, text)| Source { name: format!("f{i}"), text: (*text).to_owned() })
            .collect();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut output = Output { out: &mut out, err: &mut err };
        let (items, errors) = prepare(&sources, &BTreeMap::new(), &mut output).unwrap();
        (
            items.iter().map(|i| format!("{}/{}/{}", i.kind, i.mesh, i.name)).collect(),
            errors.iter().map(ToString::to_string).collect(),
            String::from_utf8(err).unwrap(),
        )
    }

    #[test]
    fn meshes_come_first_and_the_rest_keeps_its_order() {
        let (items, errors, _) = prepared(&[
            "type: MeshGateway\nname: b\nmesh: m\n---\ntype: Zone\nname: z\n",
            "type: Mesh\nname: m\n---\ntype: MeshGateway\nname: a\n---\ntype: Mesh\nname: l\n",
        ]);
        assert_eq!(
            items,
            ["Mesh//m", "Mesh//l", "MeshGateway/m/b", "Zone//z", "MeshGateway/default/a"]
        );
        assert_eq!(errors, Vec::<String>::new());
    }

    #[test]
    fn the_default_mesh_is_filled_in() {
        let source =
            Source { name: "f".to_owned(), text: "type: MeshGateway\nname: a\n".to_owned() };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut output = Output { out: &mut out, err: &mut err };
        let (items, _) = prepare(&[source], &BTreeMap::new(), &mut output).unwrap();
        assert_eq!(items[0].body["mesh"], "default");
    }

    #[test]
    fn forgotten_variables_are_pointed_out() {
        let (_, errors, _) = prepared(&["type: Mesh\nname: {{ name }}\n"]);
        assert!(errors[0].starts_with("f0: document 1, line 2: "), "{errors:?}");
        assert!(errors[0].ends_with(" (values for {{ ... }} are given with -v)"), "{errors:?}");
    }

    #[test]
    fn errors_and_warnings_say_where() {
        let (items, errors, warnings) = prepared(&[
            "type: Mesh\nname: m\nmtsl: {}\n---\ntype: Nothing\n---\ntype: Mesh\n---\n[]\n",
            "type: ZoneInsight\nname: z\n---\ntype: Timeout\nname: t\nconf:\n  connectTimeout: 5x\n",
        ]);
        assert_eq!(items, ["Mesh//m"]);
        assert_eq!(
            errors,
            [
                "f0: document 4, line 9: expected an object",
                "f0: document 2, line 5: type: unknown type \"Nothing\"",
                "f0: document 3, line 7: name: cannot be empty",
                "f1: document 1, line 1: type: ZoneInsight is read-only",
                "f1: document 2, line 7: conf.connectTimeout: invalid duration \"5x\"",
            ]
        );
        assert_eq!(
            warnings,
            "Warning: f0: document 1, line 3: mtsl: Mesh has no such field; it is ignored\n"
        );
    }
}
