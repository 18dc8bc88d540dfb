//! The part of Go's text templates that VirtualOutbound needs (`spec/resources.md` 11.9): text,
//! comments, and actions that name one entry of a map, with trimming.

use std::collections::BTreeMap;

/// Fills the entries in. A missing one shows as Go shows it. The error is what Go's compiler says,
/// for the mistakes that are likely; everything beyond the subset is an error, too.
pub(super) fn render(template: &str, entries: &BTreeMap<&str, &str>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = template;
    let mut trim = false;
    loop {
        let (text, after) = match rest.split_once("{{") {
            Some((text, after)) => (text, Some(after)),
            None => (rest, None),
        };
        let text = if trim { text.trim_start_matches(is_space) } else { text };
        let Some(after) = after else {
            out.push_str(text);
            return Ok(out);
        };
        let line = 1 + template[..template.len() - after.len()].matches('\n').count();
        // A dash trims only with a blank behind it, so that `{{-3}}` stays a number.
        let body = after
            .strip_prefix('-')
            .filter(|body| body.starts_with(is_space))
            .map(|body| &body[1..]);
        out.push_str(if body.is_some() { text.trim_end_matches(is_space) } else { text });
        let action = Action::read(body.unwrap_or(after))
            .map_err(|message| format!("template: :{line}: {message}"))?;
        if let Some(name) = action.name {
            out.push_str(entries.get(name).copied().unwrap_or("<no value>"));
        }
        (rest, trim) = (action.rest, action.trims);
    }
}

/// One action, without its opening braces.
struct Action<'a> {
    /// The entry; none in a comment.
    name: Option<&'a str>,
    /// Blanks behind it go away.
    trims: bool,
    rest: &'a str,
}

impl<'a> Action<'a> {
    fn read(text: &'a str) -> Result<Self, String> {
        if let Some(comment) = text.strip_prefix("/*") {
            let (_, rest) = comment.split_once("*/").ok_or("unclosed comment")?;
            let (trims, rest) = Self::end(rest).ok_or("comment ends before closing delimiter")?;
            return Ok(Self { name: None, trims, rest });
        }
        let body = text.trim_start_matches(is_space);
        let word = |text: &'a str| -> &'a str {
            &text[..text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())]
        };
        if let Some(field) = body.strip_prefix('.') {
            let name = word(field);
            let rest = &field[name.len()..];
            if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
                return Err(format!("unexpected {} in command", shown(body)));
            }
            if let Some((trims, rest)) = Self::end(rest) {
                return Ok(Self { name: Some(name), trims, rest });
            }
            let blank = rest.trim_start_matches(is_space);
            return Err(match blank.chars().next() {
                None => "unclosed action".to_owned(),
                Some(c) if blank.len() == rest.len() && !".,|:)".contains(c) => {
                    format!("bad character U+{:04X} {c:?}", u32::from(c))
                }
                Some(_) => format!("unexpected {} in operand", shown(blank)),
            });
        }
        let name = word(body);
        if !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(format!("function {name:?} not defined"));
        }
        Err(match body.chars().next() {
            None => "unclosed action".to_owned(),
            Some('}') => "missing value for command".to_owned(),
            Some(_) => format!("unexpected {} in command", shown(body)),
        })
    }

    /// The closing braces, with or without a trimming dash.
    fn end(text: &str) -> Option<(bool, &str)> {
        let body = text.trim_start_matches(is_space);
        if body.len() < text.len()
            && let Some(rest) = body.strip_prefix("-}}")
        {
            return Some((true, rest));
        }
        body.strip_prefix("}}").map(|rest| (false, rest))
    }
}

/// What Go's templates take for blank.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// The first character, quoted.
fn shown(text: &str) -> String {
    let end = text.chars().next().map_or(0, char::len_utf8);
    format!("{:?}", &text[..end])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::render;

    #[test]
    fn rendered() {
        let entries = BTreeMap::from([("service", "web"), ("port", "80")]);
        for (template, want) in [
            ("", ""),
            ("plain }} text", "plain }} text"),
            ("{{.service}}.mesh", "web.mesh"),
            ("{{ .service }}-{{.port}}", "web-80"),
            ("a {{- .service -}} b", "awebb"),
            ("a {{/* why */ -}} b", "a b"),
            ("a{{- /* why */}} b", "a b"),
            ("{{.other}}", "<no value>"),
            ("{{\n.service\n}}", "web"),
        ] {
            assert_eq!(render(template, &entries), Ok(want.to_owned()), "{template}");
        }
    }

    #[test]
    fn refused() {
        for (template, want) in [
            ("foo.{{mesh", "template: :1: function \"mesh\" not defined"),
            ("{{port}}", "template: :1: function \"port\" not defined"),
            ("a\n{{.service", "template: :2: unclosed action"),
            ("{{", "template: :1: unclosed action"),
            ("{{}}", "template: :1: missing value for command"),
            ("{{/* a", "template: :1: unclosed comment"),
            ("{{/* a */ b}}", "template: :1: comment ends before closing delimiter"),
            ("{{ /* a */}}", "template: :1: unexpected \"/\" in command"),
            ("{{.a}", "template: :1: bad character U+007D '}'"),
            ("{{.a }", "template: :1: unexpected \"}\" in operand"),
            ("{{.a-}}", "template: :1: bad character U+002D '-'"),
            ("{{.a.b}}", "template: :1: unexpected \".\" in operand"),
            ("{{.a | b}}", "template: :1: unexpected \"|\" in operand"),
            ("{{.}}", "template: :1: unexpected \".\" in command"),
            ("{{-.a}}", "template: :1: unexpected \"-\" in command"),
            ("{{\"é\"}}", "template: :1: unexpected \"\\\"\" in command"),
            ("{{é}}", "template: :1: function \"é\" not defined"),
        ] {
            assert_eq!(render(template, &BTreeMap::new()), Err(want.to_owned()), "{template}");
        }
    }
}
