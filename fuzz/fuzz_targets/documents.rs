//! Files of YAML and JSON documents: with and without variables, and what comes after parsing.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use sunbear_model::{document, validation::validate_spec};

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let variables = BTreeMap::from([
        ("name".to_owned(), "edge".to_owned()),
        ("a".to_owned(), "b: c\n- d".to_owned()),
    ]);
    for variables in [BTreeMap::new(), variables] {
        let (documents, errors) = document::parse("file.yaml", &text, &variables);
        for error in &errors {
            assert!(!error.to_string().contains(char::is_control), "{error:?}");
        }
        for document in &documents {
            assert!(document.line >= 1);
            assert!(document.value.is_object());
            match document.read() {
                Ok(object) => {
                    for violation in
                        validate_spec(object.kind, &object.mesh, &object.name, &object.spec).iter()
                    {
                        let error = document.error(&violation.field, &violation.message);
                        assert!(error.line >= 1);
                        assert!(!error.to_string().contains(char::is_control), "{error:?}");
                    }
                }
                Err(error) => assert!(error.line >= 1),
            }
        }
    }
});
