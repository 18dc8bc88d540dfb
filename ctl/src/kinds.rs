//! Types as users name them.

use std::ffi::OsStr;

use clap::{
    Arg, Command, Error,
    builder::{PossibleValue, StringValueParser, TypedValueParser},
};
use sunbear_model::{Kind, Writable};

use crate::failure::Failure;

/// The type that a word means: its name, singular, plural or an alias, whatever the case and with or
/// without dashes.
pub(crate) fn find(word: &str) -> Result<Kind, Failure> {
    let wanted = normal(word);
    served().find(|kind| words(*kind).any(|w| normal(w) == wanted)).ok_or_else(|| {
        let known: Vec<_> = served().map(shown).collect();
        Failure::Usage(format!("unknown TYPE: {word}. Allowed values: {}", known.join(", ")))
    })
}

/// As [`find`], for a type that users may write.
pub(crate) fn find_writable(word: &str) -> Result<Kind, Failure> {
    let kind = find(word)?;
    if is_writable(kind) {
        Ok(kind)
    } else {
        Err(Failure::Usage(format!("TYPE: {word} is read-only")))
    }
}

/// May users write this type at all?
pub(crate) fn is_writable(kind: Kind) -> bool {
    !kind.row().plural.is_empty() && !matches!(kind.row().writable, Writable::Never)
}

/// The word for a type on the command line. Shells complete singular and plural; what is typed is
/// looked up later, by [`find`], which is less strict.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KindWord;

impl TypedValueParser for KindWord {
    type Value = String;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<String, Error> {
        StringValueParser::new().parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let words = served().flat_map(|kind| [kind.row().singular, kind.row().plural]);
        Some(Box::new(words.filter(|word| !word.is_empty()).map(PossibleValue::new)))
    }
}

/// Types that the API serves.
pub(crate) fn served() -> impl Iterator<Item = Kind> {
    Kind::all().filter(|kind| !kind.row().plural.is_empty())
}

fn words(kind: Kind) -> impl Iterator<Item = &'static str> {
    let row = kind.row();
    [row.name, row.singular, row.plural]
        .into_iter()
        .chain(row.aliases.iter().copied())
        .filter(|word| !word.is_empty())
}

fn shown(kind: Kind) -> &'static str {
    let row = kind.row();
    if row.singular.is_empty() { row.plural } else { row.singular }
}

/// A word without what people spell differently.
pub(crate) fn normal(word: &str) -> String {
    word.chars().filter(|c| *c != '-').map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_word_means_one_type() {
        let mut seen = BTreeMap::new();
        for kind in served() {
            for word in words(kind) {
                assert_eq!(*seen.entry(normal(word)).or_insert(kind), kind, "{word}");
                assert_eq!(find(word).unwrap(), kind);
            }
        }
    }

    #[test]
    fn spellings() {
        for (word, name) in [
            ("mesh", "Mesh"),
            ("meshes", "Mesh"),
            ("MeshGateway", "MeshGateway"),
            ("meshgateways", "MeshGateway"),
            ("healthcheck", "HealthCheck"),
            ("health-checks", "HealthCheck"),
            ("global-secret", "GlobalSecret"),
            ("globalsecrets", "GlobalSecret"),
            ("zoneingress", "ZoneIngress"),
            ("zone-ingresses", "ZoneIngress"),
            ("dataplane-insights", "DataplaneInsight"),
        ] {
            assert_eq!(find(word).unwrap().name(), name, "{word}");
        }
        let error = find("gateway").unwrap_err().to_string();
        assert!(
            error.starts_with("unknown TYPE: gateway. Allowed values: circuit-breaker, "),
            "{error}"
        );
        assert!(find("config").is_err());
        assert!(find("").is_err());
        assert!(find_writable("zone-insights").is_err());
        assert_eq!(find_writable("secret").unwrap(), Kind::SECRET);
    }
}
