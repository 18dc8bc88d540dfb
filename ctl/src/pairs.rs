//! Options of the form `key=value`.

/// What one such option says: mostly one pair, or several in the manner of `kumactl`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pairs(pub(crate) Vec<(String, String)>);

/// Reads an option. With one `=` all that follows it is the value, commas too
/// (`kuma.io/service=web,api`); with several, commas separate pairs (`a=1,b=2`), if all of them are.
pub(crate) fn parse(text: &str) -> Result<Pairs, String> {
    if text.matches('=').count() > 1 {
        let parts: Option<Vec<_>> = split(text).iter().map(|part| pair(part)).collect();
        if let Some(parts) = parts {
            return Ok(Pairs(parts));
        }
    }
    match pair(text) {
        Some((key, value)) => Ok(Pairs(vec![(key, unquoted(&value).to_owned())])),
        None => Err("expected KEY=VALUE".to_owned()),
    }
}

/// The pairs of several options. The last value of a key counts.
pub(crate) fn all(options: &[Pairs]) -> impl Iterator<Item = (String, String)> {
    options.iter().flat_map(|pairs| pairs.0.iter().cloned())
}

fn pair(text: &str) -> Option<(String, String)> {
    let (key, value) = text.split_once('=')?;
    (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
}

fn unquoted(text: &str) -> &str {
    text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text)
}

/// Parts between commas; a part in quotes may hold commas, and two quotes stand for one.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let (mut quoted, mut chars) = (false, text.chars().peekable());
    while let Some(c) = chars.next() {
        let Some(part) = parts.last_mut() else { break };
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                part.push('"');
            }
            '"' if quoted || part.is_empty() => quoted = !quoted,
            ',' if !quoted => parts.push(String::new()),
            c => part.push(c),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, want: &[(&str, &str)]) {
        let want = want.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(parse(text), Ok(Pairs(want)), "{text}");
    }

    #[test]
    fn options() {
        check("a=1", &[("a", "1")]);
        check("a=", &[("a", "")]);
        check("kuma.io/service=web,api", &[("kuma.io/service", "web,api")]);
        check("a=1,b=2", &[("a", "1"), ("b", "2")]);
        check("\"a=1,2\",b=3", &[("a", "1,2"), ("b", "3")]);
        check("a=\"x y\"", &[("a", "x y")]);
        // Keys in base64 end with the sign that separates pairs.
        check("key=YWJj==", &[("key", "YWJj==")]);
        check("a=b=1,c", &[("a", "b=1,c")]);
        for wrong in ["", "a", "=1", "a,b"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
