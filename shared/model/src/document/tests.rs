use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::{MAX_BYTES, parse};

fn variables(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// Documents as `line:value`, errors as their text.
fn check(text: &str, documents: &[&str], errors: &[&str]) {
    let (got, failed) = parse("f", text, &BTreeMap::new());
    let got: Vec<_> = got.iter().map(|d| format!("{}@{}:{}", d.index, d.line, d.value)).collect();
    let failed: Vec<_> = failed.iter().map(ToString::to_string).collect();
    assert_eq!(
        (got, failed),
        (
            documents.iter().map(|s| (*s).to_owned()).collect(),
            errors.iter().map(|s| (*s).to_owned()).collect()
        ),
        "{text}"
    );
}

#[test]
fn documents() {
    check("", &[], &[]);
    check("# nothing\n---\n---\n# more\n", &[], &[]);
    check("a: 1\n", &["1@1:{\"a\":1}"], &[]);
    check("---\na: 1\n---\n\n# x\nb: 2\n", &["1@2:{\"a\":1}", "2@6:{\"b\":2}"], &[]);
    check("\u{feff}a: 1\r\n---\r\nb: 2\r\n", &["1@1:{\"a\":1}", "2@3:{\"b\":2}"], &[]);
    check("{\"a\": {\"b\": [1]}}", &["1@1:{\"a\":{\"b\":[1]}}"], &[]);
    check("{\n\t\"a\": \"\\ud83d\\ude00\\/\"\n}\n", &["1@1:{\"a\":\"\u{1f600}/\"}"], &[]);
    check("--- {a: b}\n--- # c\nb: 2", &["1@1:{\"a\":\"b\"}", "2@3:{\"b\":2}"], &[]);
    check("a: 1\n...\nb: 2\n", &["1@1:{\"a\":1}", "2@3:{\"b\":2}"], &[]);
    check("%YAML 1.2\n---\na: 1\n", &["1@3:{\"a\":1}"], &[]);
    check("a: |\n  ---\n  b\nc: d\n", &["1@1:{\"a\":\"---\\nb\\n\",\"c\":\"d\"}"], &[]);
    check("--- null\n--- ~\n", &[], &[]);
}

#[test]
fn broken_documents_leave_the_others_alone() {
    let (documents, errors) = parse("f", "a: 1\n---\nb: [\n---\nc: 3\n", &BTreeMap::new());
    assert_eq!(documents.iter().map(|d| (d.index, d.line)).collect::<Vec<_>>(), [(1, 1), (3, 5)]);
    assert_eq!(errors.len(), 1);
    assert_eq!((errors[0].document, &*errors[0].file), (2, "f"));
    assert!((3..=4).contains(&errors[0].line), "{}", errors[0]);
}

#[test]
fn not_objects() {
    check("[{\"a\": 1}]", &[], &["f: document 1, line 1: expected an object"]);
    check("\n- a\n", &[], &["f: document 1, line 2: expected an object"]);
    check("text", &[], &["f: document 1, line 1: expected an object"]);
}

#[test]
fn duplicate_keys() {
    for text in ["a: 1\nb:\n  c: 1\n  c: 2\n", "{\"b\": {\"c\": 1,\n\n\n \"c\": 2}}"] {
        let (documents, errors) = parse("f", text, &BTreeMap::new());
        assert!(documents.is_empty());
        assert_eq!(errors.len(), 1, "{text}");
        assert_eq!(errors[0].line, 4, "{}", errors[0]);
        assert!(errors[0].message.contains("duplicate"), "{}", errors[0]);
    }
}

#[test]
fn scalars() {
    let (documents, errors) = parse(
        "f",
        "a: 12:30\nb: 2001-01-01\nc: 010\nd: yes\ne: \"yes\"\nf: ~\ng: 1.5\n8080: x\nh: 1e3\ni: 0x1F\n\
         j: 18446744073709551615\nk: -0.0\nl: '010'\nm: \"*\"\n",
        &BTreeMap::new(),
    );
    assert_eq!(errors, []);
    assert_eq!(
        documents[0].value,
        json!({"a": "12:30", "b": "2001-01-01", "c": 8, "d": true, "e": "yes", "f": null, "g": 1.5,
            "8080": "x", "h": 1000.0, "i": 31, "j": 18_446_744_073_709_551_615_u64, "k": -0.0, "l": "010", "m": "*"})
    );
    let (documents, errors) = parse("f", "a: .nan\n", &BTreeMap::new());
    assert!(documents.is_empty() && errors.len() == 1);
}

#[test]
fn anchors_and_merges() {
    check(
        "a: &x {b: 1}\nc: *x\nd:\n  <<: *x\n  e: 2\n",
        &["1@1:{\"a\":{\"b\":1},\"c\":{\"b\":1},\"d\":{\"b\":1,\"e\":2}}"],
        &[],
    );
}

#[test]
fn bombs() {
    let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for i in 1..12 {
        let aliases = vec![format!("*a{}", i - 1); 9].join(", ");
        laughs.push_str(&format!("a{i}: &a{i} [{aliases}]\n"));
    }
    let big = format!("a: &a \"{}\\n\"\nb:\n{}", "x".repeat(1 << 20), "- *a\n".repeat(100_000));
    let merged = format!(
        "a: &a {{k: \"{}\\n\"}}\nb:\n  <<: [{}]\n",
        "x".repeat(1 << 20),
        vec!["*a"; 10_000].join(", ")
    );
    let cases = [
        laughs,
        big,
        merged,
        "[".repeat(100_000),
        "{a: ".repeat(100_000),
        "- ".repeat(50_000),
        "{\"a\":".repeat(100_000),
        format!("{}{}", "{\"a\":".repeat(1_000), "}".repeat(1_000)),
        "a: ".repeat(100_000),
        format!("a: {}", "x".repeat(MAX_BYTES)),
        "a: &x [*x]\n".to_owned(),
        "? ".repeat(10_000),
        "!".repeat(10_000),
        "---\na: 1\n".repeat(20_000),
    ];
    for text in cases {
        let (documents, errors) = parse("f", &text, &BTreeMap::new());
        let start: String = text.chars().take(20).collect();
        assert!(documents.is_empty(), "{start}");
        assert_eq!(errors.len(), 1, "{start}");
    }
}

#[test]
fn a_large_document_is_read() {
    let text = format!("a:\n{}", "- {name: some-name, value: other, weight: 10}\n".repeat(5_000));
    assert!(text.len() < MAX_BYTES);
    let (documents, errors) = parse("f", &text, &BTreeMap::new());
    assert_eq!(errors, []);
    assert_eq!(documents[0].value["a"].as_array().unwrap().len(), 5_000);
}

#[test]
fn replaced_variables() {
    let values = variables(&[("name", "x"), ("a.b", "1 & 2"), ("n", "7")]);
    let (documents, errors) = parse(
        "f",
        "a: \"{{ name }}-{{name}}\"\nb: '{{{ a.b }}}'\nc: '{{.service}} {{ label \"x\" }} {{ }} {{'\nd: {{n}}\n",
        &values,
    );
    assert_eq!(errors, []);
    assert_eq!(
        documents[0].value,
        json!({"a": "x-x", "b": "1 & 2", "c": "{{.service}} {{ label \"x\" }} {{ }} {{", "d": 7})
    );

    let (_, errors) = parse("f", "a: 1\nb: {{ other }}\n", &values);
    assert_eq!(errors[0].to_string(), "f: line 2: variable \"other\" is not set");

    let (documents, _) = parse("f", "a: '{{ other }}'\n", &BTreeMap::new());
    assert_eq!(documents[0].value, json!({"a": "{{ other }}"}));

    let (_, errors) =
        parse("f", &"{{big}}".repeat(1_000), &variables(&[("big", &"x".repeat(1 << 20))]));
    assert_eq!(errors[0].to_string(), "f: larger than 10 MiB");
}

#[test]
fn field_errors_have_the_line_of_the_file() {
    let text = "type: Mesh\nname: default\n---\n# a gateway\ntype: MeshGateway\nname: edge\nmesh: default\n\
                conf:\n  listeners:\n  - port: 80\n    protocol: HTTP\n  - port: 81\n    protocol: HTPP\n---\n\
                type: Nothing\n---\nname: x\n---\ntype: Mesh\nlabels:\n  a: b\n  c: [1]\n---\ntype: Mesh\nname: 7\n";
    let (documents, errors) = parse("f", text, &BTreeMap::new());
    assert_eq!(errors, []);
    let read: Vec<_> =
        documents.iter().map(|d| d.read().map_or_else(|e| e.to_string(), |d| d.name)).collect();
    assert_eq!(read[0], "default");
    assert!(
        read[1].starts_with(
            "f: document 2, line 13: conf.listeners[1].protocol: unknown value \"HTPP\""
        ),
        "{}",
        read[1]
    );
    assert_eq!(read[2], "f: document 3, line 15: type: unknown type \"Nothing\"");
    assert_eq!(read[3], "f: document 4, line 17: type: cannot be empty");
    assert_eq!(read[4], "f: document 5, line 22: labels[\"c\"]: expected a string");
    assert_eq!(read[5], "f: document 6, line 25: name: expected a string");
}

/// Bytes that a YAML or JSON parser cares about, so that random texts get far.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "a",
        "b: ",
        "- ",
        "\n",
        "\n  ",
        "{",
        "}",
        "[",
        "]",
        ",",
        ": ",
        "\"",
        "'",
        "|",
        ">",
        "&x ",
        "*x",
        "<<: ",
        "!!binary ",
        "!",
        "---\n",
        "\n---",
        "...\n",
        "%YAML 1.2\n",
        "#",
        "\t",
        "\r",
        "\u{feff}",
        "é",
        "\\u",
        "\u{0}",
        "? ",
        "{{ a }}",
        "{{",
        "}}",
        "~",
        "1e999",
        "0x",
        "type: Mesh\n",
        "name: ",
        "null",
    ]);
    prop::collection::vec(piece, 0..60).prop_map(|v| v.concat())
}

fn exercise(text: &str) {
    let (documents, errors) = parse("f", text, &variables(&[("a", "b: c\n")]));
    for document in &documents {
        assert!(document.line >= 1);
        let _ = document.read();
        let _ = document.line_of("a.b[0][\"c\"].d");
    }
    for error in &errors {
        assert!(!error.to_string().contains('\n'));
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        exercise(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn random_text_never_panics(text in any::<String>()) {
        exercise(&text);
    }

    #[test]
    fn random_yaml_never_panics(text in pieces()) {
        exercise(&text);
    }

    #[test]
    fn printed_json_is_read_back(value in value()) {
        let body = serde_json::json!({ "value": value });
        for text in [body.to_string(), serde_json::to_string_pretty(&body).unwrap()] {
            let (documents, errors) = parse("f", &text, &BTreeMap::new());
            prop_assert_eq!(errors, vec![]);
            prop_assert_eq!(&documents[0].value, &body);
        }
    }
}

fn value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        ".*".prop_map(serde_json::Value::String),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::btree_map("[a-z_.\"\\\\]{0,4}", inner, 0..5)
                .prop_map(|m| serde_json::Value::Object(m.into_iter().collect())),
        ]
    })
}

#[test]
fn old_booleans_stay_text_where_text_belongs() {
    let text = "type: MeshGateway\nname: n\nmesh: no\nlabels: {a: yes, b: \"no\", c: true}\n\
                crossMesh: off\nselectors: [{match: {kuma.io/service: on}}]\ntags: {y: y}\n\
                conf: {listeners: [{hostname: Off, crossMesh: on, tls: {options: {}}}]}\nother: no\n";
    let (documents, errors) = parse("f", text, &BTreeMap::new());
    assert_eq!(errors, []);
    assert_eq!(
        documents[0].value,
        json!({
            "type": "MeshGateway", "name": "n", "mesh": "no",
            "labels": {"a": "yes", "b": "no", "c": true}, "crossMesh": false,
            "selectors": [{"match": {"kuma.io/service": "on"}}], "tags": {"y": "y"},
            "conf": {"listeners": [{"hostname": "Off", "crossMesh": true, "tls": {"options": {}}}]},
            "other": false,
        })
    );
    let text = "type: MeshTimeout\nname: y\nspec:\n  targetRef: {kind: MeshSubset, tags: {a: on}}\n  \
                to: [{default: {disabled: yes}}]\n";
    let (documents, _) = parse("f", text, &BTreeMap::new());
    assert_eq!(
        documents[0].value["spec"],
        json!({"targetRef": {"kind": "MeshSubset", "tags": {"a": "on"}}, "to": [{"default": {"disabled": true}}]})
    );
    let text = "type: Dataplane\nname: x\nnetworking:\n  address: on\n  inbound: [{tags: {version: no}}]\n";
    let (documents, _) = parse("f", text, &BTreeMap::new());
    assert_eq!(
        documents[0].value["networking"],
        json!({"address": "on", "inbound": [{"tags": {"version": "no"}}]})
    );
}
