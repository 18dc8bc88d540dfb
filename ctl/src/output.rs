//! Where results and messages go, and how values look.

use std::io::Write;

use anyhow::Context as _;
use serde_json::{Map, Value};
use sunbear_model::Kind;

/// What comes before the spec of a type whose spec lies beside it.
const ENVELOPE: [&str; 7] =
    ["type", "mesh", "name", "labels", "creationTime", "modificationTime", "kri"];

/// Standard output and standard error, or what a test puts there.
pub(crate) struct Output<'a> {
    pub(crate) out: &'a mut dyn Write,
    pub(crate) err: &'a mut dyn Write,
}

/// A value as a YAML document.
pub(crate) fn yaml(value: &Value) -> anyhow::Result<String> {
    let mut text = serde_saphyr::to_string(value).context("writing YAML")?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// A resource as a YAML document: what it is comes before its content.
pub(crate) fn resource_yaml(kind: Kind, item: &Value) -> anyhow::Result<String> {
    let Some(fields) = item.as_object().filter(|_| !kind.is_json()) else {
        return yaml(item);
    };
    let (envelope, spec): (Map<_, _>, Map<_, _>) =
        fields.clone().into_iter().partition(|(key, _)| ENVELOPE.contains(&key.as_str()));
    let mut text = yaml(&Value::Object(envelope))?;
    if !spec.is_empty() {
        text.push_str(&yaml(&Value::Object(spec))?);
    }
    Ok(text)
}

/// A value as JSON.
pub(crate) fn json(value: &Value) -> anyhow::Result<String> {
    let mut text = serde_json::to_string_pretty(value).context("writing JSON")?;
    text.push('\n');
    Ok(text)
}

/// A text from elsewhere, without what could draw on the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use sunbear_model::document;

    use super::*;

    proptest! {
        #[test]
        fn yaml_is_read_back(texts in prop::collection::vec(".*", 0..4), n in any::<i64>()) {
            let value = serde_json::json!({"texts": texts, "n": n, "none": null, "empty": {}});
            check(&value)?;
        }

        #[test]
        fn lines_and_blanks_are_kept(text in "[ \\t\\n:#'\"|>a-]{0,200}") {
            check(&serde_json::json!({"a": {"b": [text.clone()]}, "c": text}))?;
        }
    }

    fn check(value: &Value) -> Result<(), TestCaseError> {
        let text = yaml(value).unwrap();
        let (documents, errors) = document::parse("f", &text, &BTreeMap::new());
        prop_assert_eq!(errors, vec![], "{}", text);
        prop_assert_eq!(&documents[0].value, value, "{}", text);
        Ok(())
    }

    #[test]
    fn resources() {
        let item = serde_json::json!({"type": "Mesh", "name": "m", "mtls": {"a": 1}});
        let text = resource_yaml(Kind::MESH, &item).unwrap();
        assert_eq!(text, "name: m\ntype: Mesh\nmtls:\n  a: 1\n");
        let item = serde_json::json!({"type": "Mesh", "name": "m"});
        assert_eq!(resource_yaml(Kind::MESH, &item).unwrap(), "name: m\ntype: Mesh\n");
    }

    #[test]
    fn ambiguous_texts_are_quoted() {
        let words = ["yes", "1", "010", "1e3", "null", "~", "*", "12:30", "", "0x1", ".inf", "on"];
        let value = serde_json::json!({ "words": words });
        let (documents, _) = document::parse("f", &yaml(&value).unwrap(), &BTreeMap::new());
        assert_eq!(documents[0].value, value);
    }
}
