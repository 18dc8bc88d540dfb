//! Finds the line of a field in the text of a document.

use serde_saphyr::granit_parser::{Event, Parser};

/// A node with its line.
enum Node {
    Leaf,
    List(Vec<(usize, Node)>),
    Map(Vec<(String, usize, Node)>),
}

/// A collection that is being read.
struct Open {
    line: usize,
    node: Node,
    /// Key that waits for its value.
    key: Option<(String, usize)>,
}

/// The line of a field, from 1, or of the nearest field above it that is there. `None` if not even
/// its first segment is there, or the text does not parse.
pub(super) fn line(text: &str, field: &str) -> Option<usize> {
    let mut node = tree(text)?;
    let mut found = None;
    for segment in segments(field) {
        let next = match (segment, node) {
            (Segment::Index(i), Node::List(items)) => items.into_iter().nth(i),
            (Segment::Name(name), Node::Map(entries)) => entries
                .into_iter()
                .find(|(key, ..)| *key == name || camel_case(key) == camel_case(&name))
                .map(|(_, line, value)| (line, value)),
            (Segment::Key(name), Node::Map(entries)) => entries
                .into_iter()
                .find(|(key, ..)| *key == name)
                .map(|(_, line, value)| (line, value)),
            _ => None,
        };
        let Some((line, value)) = next else {
            break;
        };
        found = Some(line);
        node = value;
    }
    found
}

/// `a_b` as `aB`, so that both spellings of a protobuf field are found.
fn camel_case(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut upper = false;
    for c in name.chars() {
        if c == '_' {
            upper = true;
        } else {
            out.push(if upper { c.to_ascii_uppercase() } else { c });
            upper = false;
        }
    }
    out
}

fn tree(text: &str) -> Option<Node> {
    let mut stack: Vec<Open> = Vec::new();
    for next in Parser::new_from_str(text) {
        let (event, span) = next.ok()?;
        let line = span.start.line();
        let (line, node, text) = match event {
            Event::SequenceStart(..) => {
                stack.push(Open { line, node: Node::List(Vec::new()), key: None });
                continue;
            }
            Event::MappingStart(..) => {
                stack.push(Open { line, node: Node::Map(Vec::new()), key: None });
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let done = stack.pop()?;
                (done.line, done.node, None)
            }
            Event::Scalar(value, ..) => (line, Node::Leaf, Some(value)),
            Event::Alias(_) => (line, Node::Leaf, None),
            _ => continue,
        };
        let Some(parent) = stack.last_mut() else {
            return Some(node);
        };
        match &mut parent.node {
            Node::List(items) => items.push((line, node)),
            Node::Map(entries) => match parent.key.take() {
                Some((key, at)) => entries.push((key, at, node)),
                None => {
                    let key = text.map(|t| t.into_owned()).unwrap_or_default();
                    parent.key = Some((key, line));
                }
            },
            Node::Leaf => return None,
        }
    }
    None
}

#[derive(Debug, PartialEq)]
enum Segment {
    Name(String),
    Index(usize),
    Key(String),
}

/// The segments of a path, up to the first that is malformed.
fn segments(field: &str) -> Vec<Segment> {
    let mut out = Vec::new();
    let mut rest = field;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix("[\"") {
            let mut key = String::new();
            let mut end = None;
            let mut chars = quoted.char_indices();
            while let Some((i, c)) = chars.next() {
                match c {
                    '"' => {
                        end = Some(i + 1);
                        break;
                    }
                    '\\' => key.extend(chars.next().map(|(_, c)| c)),
                    c => key.push(c),
                }
            }
            match end.and_then(|end| quoted[end..].strip_prefix(']')) {
                Some(after) => {
                    out.push(Segment::Key(key));
                    rest = after;
                }
                None => return out,
            }
        } else if let Some(after) = rest.strip_prefix('[') {
            match after.split_once(']').map(|(index, after)| (index.parse(), after)) {
                Some((Ok(index), after)) => {
                    out.push(Segment::Index(index));
                    rest = after;
                }
                Some((Err(_), _)) | None => return out,
            }
        } else {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            if end == 0 {
                return out;
            }
            out.push(Segment::Name(rest[..end].to_owned()));
            rest = &rest[end..];
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let name = |n: &str| Segment::Name(n.to_owned());
        assert_eq!(
            segments("conf.listeners[1].tags[\"a/\\\"b\"].x"),
            [
                name("conf"),
                name("listeners"),
                Segment::Index(1),
                name("tags"),
                Segment::Key("a/\"b".to_owned()),
                name("x")
            ]
        );
        assert_eq!(segments(""), []);
        assert_eq!(segments("a[x].b"), [name("a")]);
        assert_eq!(segments("a[\"x"), [name("a")]);
        assert_eq!(segments("a..b"), [name("a")]);
    }

    #[test]
    fn lines() {
        let text = "type: X\nconf:\n  listeners:\n  - port: 1\n  - port: 2\n    tags:\n      \
                    a.b/c: d\n    query_parameters: []\n";
        for (field, want) in [
            ("type", Some(1)),
            ("conf.listeners", Some(3)),
            ("conf.listeners[1].port", Some(5)),
            ("conf.listeners[1].tags[\"a.b/c\"]", Some(7)),
            ("conf.listeners[1].queryParameters", Some(8)),
            ("conf.listeners[1].missing.more", Some(5)),
            ("conf.listeners[9]", Some(3)),
            ("missing", None),
            ("", None),
        ] {
            assert_eq!(line(text, field), want, "{field}");
        }
        assert_eq!(line("{\"a\":\n {\"b\": [\n1,\n2]}}", "a.b[1]"), Some(4));
        assert_eq!(line("a: [", "a"), None);
    }
}
