//! The syntax of Kubernetes names and labels, with the texts of its library (apimachinery 0.36).

use std::sync::LazyLock;

use regex::Regex;

use super::values::pattern;

const LABEL_1123: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_1123: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const LABEL_1035: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const VALUE: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";

const SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case \
                              alphanumeric characters, '-' or '.', and must start and end with an \
                              alphanumeric character";
const KEY_TEXT: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start \
                        and end with an alphanumeric character";

static LABEL_1123_PATTERN: LazyLock<Regex> = LazyLock::new(|| whole(LABEL_1123));
static SUBDOMAIN_1123_PATTERN: LazyLock<Regex> = LazyLock::new(|| whole(SUBDOMAIN_1123));
static LABEL_1035_PATTERN: LazyLock<Regex> = LazyLock::new(|| whole(LABEL_1035));
static KEY_PATTERN: LazyLock<Regex> = LazyLock::new(|| whole(KEY));
static VALUE_PATTERN: LazyLock<Regex> = LazyLock::new(|| whole(VALUE));

fn whole(format: &str) -> Regex {
    pattern(&format!("^{format}$"))
}

/// Is this an RFC 1123 label, in lower case?
pub(super) fn is_label_1123(text: &str) -> bool {
    text.len() <= 63 && LABEL_1123_PATTERN.is_match(text)
}

/// Is this an RFC 1123 subdomain, in lower case, of any length?
pub(super) fn is_subdomain_1123(text: &str) -> bool {
    SUBDOMAIN_1123_PATTERN.is_match(text)
}

/// What keeps a text from being a label key.
pub(super) fn label_key_errors(key: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let name = match key.split('/').collect::<Vec<_>>()[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                if prefix.len() > 253 {
                    errors.push("prefix part must be no more than 253 bytes".to_owned());
                }
                if !is_subdomain_1123(prefix) {
                    errors.push(format!(
                        "prefix part {}",
                        regex_error(SUBDOMAIN_TEXT, SUBDOMAIN_1123, &["example.com"])
                    ));
                }
            }
            name
        }
        _ => {
            errors.push(format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. \
                 'example.com/MyName')",
                regex_error(KEY_TEXT, KEY, &["MyName", "my.name", "123-abc"])
            ));
            return errors;
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        errors.push("name part must be no more than 63 bytes".to_owned());
    }
    if !KEY_PATTERN.is_match(name) {
        errors.push(format!(
            "name part {}",
            regex_error(KEY_TEXT, KEY, &["MyName", "my.name", "123-abc"])
        ));
    }
    errors
}

/// What keeps a text from being an RFC 1123 subdomain.
pub(super) fn subdomain_1123_errors(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 253 {
        errors.push("must be no more than 253 bytes".to_owned());
    }
    if !is_subdomain_1123(text) {
        errors.push(regex_error(SUBDOMAIN_TEXT, SUBDOMAIN_1123, &["example.com"]));
    }
    errors
}

/// What keeps a text from being a label value.
pub(super) fn label_value_errors(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 63 {
        errors.push("must be no more than 63 bytes".to_owned());
    }
    if !VALUE_PATTERN.is_match(value) {
        errors.push(regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', \
             '_' or '.', and must start and end with an alphanumeric character",
            VALUE,
            &["MyValue", "my_value", "12345"],
        ));
    }
    errors
}

/// What keeps a text from being an RFC 1035 label.
pub(super) fn label_1035_errors(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 63 {
        errors.push("must be no more than 63 characters".to_owned());
    }
    if !LABEL_1035_PATTERN.is_match(text) {
        errors.push(regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start \
             with an alphabetic character, and end with an alphanumeric character",
            LABEL_1035,
            &["my-name", "abc-123"],
        ));
    }
    errors
}

/// The double blank between examples is the library's.
fn regex_error(text: &str, format: &str, examples: &[&str]) -> String {
    let examples: Vec<_> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{text} (e.g. {}regex used for validation is '{format}')", examples.join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        for good in ["a", "kuma.io/origin", "A_b.c-9", "k8s.kuma.io/x"] {
            assert_eq!(label_key_errors(good), Vec::<String>::new(), "{good}");
        }
        assert_eq!(label_key_errors("/x"), ["prefix part must be non-empty"]);
        assert_eq!(
            label_key_errors("kuma.io/"),
            [
                "name part must be non-empty",
                "name part must consist of alphanumeric characters, '-', '_' or '.', and must \
                 start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or \
                 '123-abc', regex used for validation is \
                 '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            ]
        );
        assert_eq!(label_key_errors("Up/x").len(), 1);
        assert!(label_key_errors("a/b/c")[0].starts_with("a valid label key must consist of"));
        assert_eq!(label_key_errors(&"a".repeat(64)), ["name part must be no more than 63 bytes"]);
    }

    #[test]
    fn values() {
        for good in ["", "a", "zone-1", "A_b.c"] {
            assert_eq!(label_value_errors(good), Vec::<String>::new(), "{good}");
        }
        for bad in ["-a", "a b", "a/b", "é"] {
            assert_eq!(label_value_errors(bad).len(), 1, "{bad}");
        }
        assert_eq!(label_value_errors(&"-".repeat(64)).len(), 2);
    }

    #[test]
    fn labels() {
        assert!(is_label_1123("zone-1") && is_label_1123("1"));
        assert!(
            !is_label_1123("a.b")
                && !is_label_1123("A")
                && !is_label_1123("")
                && !is_label_1123("-a")
        );
        assert!(label_1035_errors("my-name").is_empty());
        assert_eq!(label_1035_errors("1a").len(), 1);
    }
}
