//! Runs the validation cases of a folder: `tests/data/validation`, or that of the environment
//! variable `SUNBEAR_VALIDATION_CASES`.

use std::{env, fs, path::PathBuf};

use serde::Deserialize;
use sunbear_model::{
    Kind, rest,
    validation::{Violation, validate_spec_with},
};

/// The profiles that the cases of ProxyTemplate know; a control plane knows more.
const PROFILES: &[&str] = &["default-proxy", "egress-proxy", "ingress-proxy"];
/// Types whose cases say nothing of the order.
const UNORDERED: &[&str] = &["MeshGateway", "MeshGatewayRoute"];

#[derive(Deserialize)]
struct Case {
    name: String,
    resource: serde_json::Value,
    expected: Vec<Expected>,
}

#[derive(Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Expected {
    field: String,
    message: String,
}

/// Messages end in the text of a Go library after these words. For what is likely we have the same
/// text, which unit tests pin; here the part before it must do.
const QUOTES: &[&str] =
    &["native Envoy resource is not valid: ", "failed compiling gotemplate error="];

impl Expected {
    fn without_quote(mut self) -> Self {
        for words in QUOTES {
            if let Some(at) = self.message.find(words) {
                self.message.truncate(at + words.len());
            }
        }
        self
    }
}

impl From<Violation> for Expected {
    fn from(v: Violation) -> Self {
        Self { field: v.field, message: v.message }
    }
}

#[test]
fn cases() {
    let folder = env::var_os("SUNBEAR_VALIDATION_CASES").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/validation"),
        PathBuf::from,
    );
    let mut paths: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    paths.sort();
    let mut failures = Vec::new();
    let mut seen = Vec::new();
    for path in paths {
        let type_name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let cases: Vec<Case> =
            serde_saphyr::from_str(&fs::read_to_string(&path).unwrap()).expect(&type_name);
        assert!(!cases.is_empty(), "{type_name} has no cases");
        let kind = Kind::by_name(&type_name).expect(&type_name);
        println!("{type_name}: {} cases", cases.len());
        for case in cases {
            let mut want: Vec<_> = case.expected.into_iter().map(Expected::without_quote).collect();
            let mut got: Vec<Expected> = match rest::read_as(kind, &case.resource) {
                Ok(desired) => validate_spec_with(kind, "default", "case", &desired.spec, PROFILES)
                    .0
                    .into_iter()
                    .map(|violation| Expected::from(violation).without_quote())
                    .collect(),
                Err(error) => {
                    failures.push(format!("{type_name} / {}: {error}", case.name));
                    continue;
                }
            };
            if UNORDERED.contains(&type_name.as_str()) {
                want.sort();
                got.sort();
            }
            if got != want {
                failures.push(format!(
                    "{type_name} / {}:\n  want {want:#?}\n  got {got:#?}",
                    case.name
                ));
            }
        }
        seen.push(type_name);
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    assert!(!seen.is_empty(), "{} holds no cases", folder.display());
}
