//! Rules for tags of things and for selectors of tags (`spec/resources.md` 2.4).

use std::sync::LazyLock;

use regex::Regex;
use sunbear_proto::kuma::mesh::v1alpha1::Selector;

use super::{Path, Violations, quoted, values::pattern};
use crate::{label, tags::Tags};

static NAME: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[a-zA-Z0-9.\-_:/]*$"));
static TAG_VALUE: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[a-zA-Z0-9.\-_:]*$"));
static SELECTOR_VALUE: LazyLock<Regex> = LazyLock::new(|| pattern(r"^([a-zA-Z0-9.\-_:/]*|\*)$"));

/// Is this a name for a tag?
pub(super) fn is_name(text: &str) -> bool {
    NAME.is_match(text)
}

/// What the values of a map are.
#[derive(Clone, Copy)]
pub(super) enum Values {
    /// Values of real things.
    Tags,
    /// Conditions, where `*` asks for presence.
    Selectors,
}

/// The rules of one call.
#[derive(Clone, Copy)]
pub(super) struct TagRules {
    /// What the values are.
    pub(super) values: Values,
    /// An empty map is refused.
    pub(super) at_least_one: bool,
    /// The service tag must be there.
    pub(super) require_service: bool,
    /// A further rule for the map.
    pub(super) map_rule: Option<fn(&Path, &Tags, &mut Violations)>,
    /// A further rule for each key.
    pub(super) key_rule: Option<fn(&Path, &str, &mut Violations)>,
}

impl TagRules {
    /// Characters only.
    pub(super) const fn of(values: Values) -> Self {
        Self { values, at_least_one: false, require_service: false, map_rule: None, key_rule: None }
    }
}

/// Selectors of policies and gateways: something, with a service.
pub(super) const SERVICE_SELECTOR: TagRules =
    TagRules { at_least_one: true, require_service: true, ..TagRules::of(Values::Selectors) };

/// Destinations of most policies: a service and nothing else.
pub(super) const ONLY_SERVICE: TagRules = TagRules {
    require_service: true,
    map_rule: Some(exactly_service),
    key_rule: Some(service_key),
    ..TagRules::of(Values::Selectors)
};

fn exactly_service(path: &Path, tags: &Tags, violations: &mut Violations) {
    if tags.len() != 1 || !tags.contains_key(label::SERVICE_TAG) {
        violations.push(path, "must consist of exactly one tag \"kuma.io/service\"");
    }
}

fn service_key(path: &Path, key: &str, violations: &mut Violations) {
    if key != label::SERVICE_TAG {
        violations.push(path.key(key), format!("tag {} is not allowed", quoted(key)));
    }
}

/// Checks one map of tags.
pub(super) fn check(path: &Path, tags: &Tags, rules: TagRules, violations: &mut Violations) {
    if rules.at_least_one && tags.is_empty() {
        violations.push(path, "must have at least one tag");
    }
    if let Some(rule) = rules.map_rule {
        rule(path, tags, violations);
    }
    for (key, value) in tags {
        if key.is_empty() {
            violations.push(path, "tag name must be non-empty");
        }
        if !NAME.is_match(key) {
            violations.push(
                path.key(key),
                "tag name must consist of alphanumeric characters, dots, dashes, slashes and \
                 underscores",
            );
        }
        if let Some(rule) = rules.key_rule {
            rule(path, key, violations);
        }
        if value.is_empty() {
            violations.push(path.key(key), "tag value must be non-empty");
        }
        match rules.values {
            Values::Tags if !TAG_VALUE.is_match(value) => violations.push(
                path.key(key),
                "tag value must consist of alphanumeric characters, dots, dashes and underscores",
            ),
            Values::Selectors if !SELECTOR_VALUE.is_match(value) => violations.push(
                path.key(key),
                "tag value must consist of alphanumeric characters, dots, dashes, slashes and \
                 underscores or be \"*\"",
            ),
            Values::Tags | Values::Selectors => {}
        }
    }
    if rules.require_service && !tags.contains_key(label::SERVICE_TAG) {
        violations.push(path, "mandatory tag \"kuma.io/service\" is missing");
    }
}

/// Checks a list of selectors that must not be empty.
pub(super) fn check_selectors(
    path: &Path,
    selectors: &[Selector],
    rules: TagRules,
    violations: &mut Violations,
) {
    if selectors.is_empty() {
        violations.push(path, "must have at least one element");
    }
    for (i, selector) in selectors.iter().enumerate() {
        check(&path.index(i).field("match"), &selector.r#match, rules, violations);
    }
}
