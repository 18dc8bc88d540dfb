//! The table of keys for people: the help texts of the programs, and `docs/configuration.md`.

use std::fmt::Write as _;

use super::duration;
use super::ignored::{IGNORED, Ignored};
use super::keys::{GROUPS, Key, Kind, Programs};
use super::typed::Mode;

/// What stands before the tables of `docs/configuration.md`.
const INTRODUCTION: &str = include_str!("introduction.md");

/// Every key that has an effect in programs of this role, as plain text.
pub fn text(mode: Mode) -> String {
    let mut out = String::from(
        "Configuration keys: path in the file, then environment variable, type and default, then \
         meaning.\nEvery KUMA_* variable has a twin SUNBEAR_*, which wins.\n",
    );
    for (title, keys) in GROUPS {
        let keys = keys.iter().filter(|key| key.has_effect && key.programs.include(mode));
        let keys: Vec<&Key> = keys.collect();
        if !keys.is_empty() {
            out.push_str(&format!("\n{title}:\n"));
        }
        for key in keys {
            let (path, variable) = (key.path, key.variable());
            let variable = variable.as_deref().unwrap_or("in the file only");
            let (kind, default) = (kind(key), default(key).unwrap_or_else(|| "none".to_owned()));
            let _ = write!(
                out,
                "  {path}\n      {variable}; {kind}; default {default}\n      {}\n",
                key.doc
            );
        }
    }
    out
}

/// The text of `docs/configuration.md`.
pub fn markdown() -> String {
    let mut out = INTRODUCTION.to_owned();
    for (title, keys) in GROUPS {
        let keys: Vec<&Key> = keys.iter().filter(|key| key.has_effect).collect();
        let _ = write!(out, "\n## {title}\n\n");
        table(&mut out, &keys);
    }
    out.push_str(
        "\n## Accepted without effect\n\nThese keys are read and checked, because Kuma \
         configurations have them, and change nothing in this version. Whoever sets one of them is \
         told at start.\n\n",
    );
    let keys: Vec<&Key> = super::keys().filter(|key| !key.has_effect).collect();
    table(&mut out, &keys);
    out.push_str(
        "\nThese keys and sections of Kuma's are accepted with whatever they hold. They concern \
         parts of Kuma that have no counterpart here.\n\n| Key or section | Variables |\n|---|---|\n",
    );
    for Ignored { path, env } in IGNORED {
        let all = if env.ends_with('_') { "*" } else { "" };
        let _ = writeln!(out, "| `{path}` | `{env}{all}` |");
    }
    out
}

fn table(out: &mut String, keys: &[&Key]) {
    out.push_str("| Key, variable | Type | Default | Program | Meaning |\n|---|---|---|---|---|\n");
    for key in keys {
        let variable = key.variable().map_or_else(|| "file only".to_owned(), |v| format!("`{v}`"));
        let default = default(key).map_or_else(|| "none".to_owned(), |text| format!("`{text}`"));
        let program = match key.programs {
            Programs::Both => "both",
            Programs::Global => "global",
            Programs::Zone => "zone",
        };
        let own = if key.own { " Not a key of Kuma's." } else { "" };
        let secret = if key.secret { " Never shown." } else { "" };
        let _ = writeln!(
            out,
            "| `{}`<br>{variable} | {} | {default} | {program} | {}.{secret}{own} |",
            key.path,
            kind(key),
            sentence(key.doc),
        );
    }
}

fn kind(key: &Key) -> String {
    let name = match key.kind {
        Kind::Text(_) => "text",
        Kind::Flag(_) => "yes or no",
        Kind::Number(_) => "number",
        Kind::Span(_) => "duration",
        Kind::List(_) => "list",
        Kind::Tree => "list of sections",
    };
    match key.unit {
        Some(unit) => format!("{name} ({unit})"),
        None => name.to_owned(),
    }
}

/// The default as one would write it; `None` for an empty one.
fn default(key: &Key) -> Option<String> {
    let text = match key.kind {
        Kind::Text(text) => text.to_owned(),
        Kind::Flag(flag) => flag.to_string(),
        Kind::Number(number) => number.to_string(),
        Kind::Span(span) => duration::format(span),
        Kind::List(items) => items.join(", "),
        Kind::Tree => String::new(),
    };
    Some(text).filter(|text| !text.is_empty())
}

/// With a capital at its beginning, unless that is code.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => String::new(),
    }
}
