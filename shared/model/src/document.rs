//! Files with resources: one or several YAML or JSON documents, separated by `---`.
//!
//! A broken document does not spoil its neighbours, and every error says file, document and line.
//! Input comes from users and from the network, so size, nesting and alias expansion are bounded
//! before anything is built from it.

mod booleans;
mod locate;
mod value;
mod weight;

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde_json::Value;
use sunbear_proto::json::ReadError;

use crate::rest::{self, BodyError, Desired};
use value::Booleans;

/// The longest text that is read.
pub const MAX_BYTES: usize = 10 * 1024 * 1024;

/// The most documents that a text may have.
pub const MAX_DOCUMENTS: usize = 10_000;

/// One document that is not empty.
#[derive(Debug, Clone)]
pub struct Document {
    /// Where it comes from, as the user knows it.
    pub file: Arc<str>,
    /// Position among the documents of the file, from 1; empty ones are not counted.
    pub index: usize,
    /// Line of the file where its content starts, from 1.
    pub line: usize,
    /// The content, an object.
    pub value: Value,
    part: Part,
}

/// What is wrong with a document, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentError {
    /// Where the document comes from.
    pub file: Arc<str>,
    /// Position among the documents of the file, from 1; 0 if the file as a whole is refused.
    pub document: usize,
    /// Line of the file, from 1; 0 if the file as a whole is refused.
    pub line: usize,
    /// Path of the field; empty if the error is not about one.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.document > 0 {
            write!(f, ": document {}, line {}", self.document, self.line)?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for DocumentError {}

impl Document {
    /// The object that the document describes.
    pub fn read(&self) -> Result<Desired, DocumentError> {
        rest::read(&self.value).map_err(|error| self.body_error(&error))
    }

    /// An error about a field of this document, with the line of the field as far as it can be
    /// found, else that of the nearest field above it.
    pub fn error(&self, field: &str, message: impl AsRef<str>) -> DocumentError {
        DocumentError {
            file: Arc::clone(&self.file),
            document: self.index,
            line: self.line_of(field),
            field: value::one_line(field),
            message: value::one_line(message.as_ref()),
        }
    }

    /// Line of the file where a field is, or the nearest field above it that is there.
    pub fn line_of(&self, field: &str) -> usize {
        match locate::line(self.part.text(), field) {
            Some(line) => self.part.line + line - 1,
            None => self.line,
        }
    }

    fn body_error(&self, error: &BodyError) -> DocumentError {
        match error {
            BodyError::NotAnObject => self.error("", error.to_string()),
            BodyError::NoType => self.error("type", "cannot be empty"),
            BodyError::UnknownType(name) => self.error("type", format!("unknown type {name:?}")),
            BodyError::Metadata { field, message } => self.error(field, message),
            BodyError::Spec(ReadError::Field { path, message }) => self.error(path, message),
            BodyError::Spec(other @ ReadError::UnknownMessage(_)) => {
                self.error("", other.to_string())
            }
        }
    }
}

/// Reads all documents of a text. `file` names it in errors. If there are variables, each
/// `{{ name }}` is replaced by its value and an unknown name is an error; other text in double
/// braces, such as the templates inside some resources, stays. Without variables nothing is
/// replaced.
pub fn parse(
    file: &str,
    text: &str,
    variables: &BTreeMap<String, String>,
) -> (Vec<Document>, Vec<DocumentError>) {
    let file: Arc<str> = file.into();
    let refuse = |message: String| DocumentError {
        file: Arc::clone(&file),
        document: 0,
        line: 0,
        field: String::new(),
        message,
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = match substitute(text, variables) {
        Ok(text) => text,
        Err(message) => return (Vec::new(), vec![refuse(message)]),
    };
    if text.len() > MAX_BYTES {
        let message = format!("larger than {} MiB", MAX_BYTES / 1024 / 1024);
        return (Vec::new(), vec![refuse(message)]);
    }
    let parts = split(&text.into());
    if parts.len() > MAX_DOCUMENTS {
        return (Vec::new(), vec![refuse(format!("more than {MAX_DOCUMENTS} documents"))]);
    }
    let (mut documents, mut errors) = (Vec::new(), Vec::new());
    let mut index = 0;
    for part in parts {
        let line = part.content_line();
        let fail = |index: usize, line: usize, message: String| DocumentError {
            file: Arc::clone(&file),
            document: index,
            line,
            field: String::new(),
            message,
        };
        match value::parse(part.text(), Booleans::Yaml1_1) {
            Ok(Value::Null) => {}
            Ok(mut value @ Value::Object(_)) => {
                index += 1;
                booleans::settle(&mut value, part.text());
                documents.push(Document { file: Arc::clone(&file), index, line, value, part });
            }
            Ok(_) => {
                index += 1;
                errors.push(fail(index, line, "expected an object".to_owned()));
            }
            Err(error) => {
                index += 1;
                let line = error.line.map_or(line, |l| part.line + l - 1);
                errors.push(fail(index, line, error.message));
            }
        }
    }
    (documents, errors)
}

/// The value of a YAML or JSON text inside of a resource. The error is one line.
pub(crate) fn parse_value(text: &str) -> Result<Value, String> {
    value::parse(text, Booleans::Yaml1_1).map_err(|error| error.message)
}

/// The text of one document.
#[derive(Debug, Clone)]
struct Part {
    whole: Arc<str>,
    start: usize,
    end: usize,
    /// Line where `start` is, from 1.
    line: usize,
}

impl Part {
    fn text(&self) -> &str {
        &self.whole[self.start..self.end]
    }

    /// First line with content.
    fn content_line(&self) -> usize {
        let skipped = self
            .text()
            .lines()
            .take_while(|l| is_idle(l) || is_marker(l.trim_end(), "---") && is_idle(&l[3..]));
        self.line + skipped.count()
    }
}

/// A blank line or a comment.
fn is_idle(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t']))
}

/// Cuts a text at its document markers. A marker at the start of a line ends a document even inside
/// a block of text, so lines are all that must be looked at. Parts without content are left out.
fn split(text: &Arc<str>) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut current = Part { whole: Arc::clone(text), start: 0, end: 0, line: 1 };
    let (mut offset, mut idle) = (0, true);
    for (i, raw) in text.split_inclusive('\n').enumerate() {
        let line = raw.trim_end_matches(['\n', '\r']);
        let starts = is_marker(line, "---");
        let ends = is_marker(line, "...");
        if starts || ends {
            if !idle {
                parts.push(Part { end: offset, ..current });
            }
            let start = if starts { offset } else { offset + raw.len() };
            let line_number = if starts { i + 1 } else { i + 2 };
            current = Part { whole: Arc::clone(text), start, end: start, line: line_number };
            idle = !starts || is_idle(&line[3..]);
        } else if !is_idle(line) {
            // A directive belongs to the marker that follows it. Ours is a subset of YAML that has
            // no use for them.
            idle &= line.starts_with('%') && !text[current.start..].starts_with("---");
        }
        offset += raw.len();
    }
    if !idle {
        parts.push(Part { end: offset, ..current });
    }
    parts
}

/// Replaces variables. The error names what is not set, and the line.
fn substitute(text: &str, variables: &BTreeMap<String, String>) -> Result<String, String> {
    if variables.is_empty() {
        return Ok(text.to_owned());
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("{{") {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        // Three braces mean the same here; values are never escaped.
        let (open, close) = if rest.starts_with("{{{") { ("{{{", "}}}") } else { ("{{", "}}") };
        let inside = rest[open.len()..].split_once(close).map(|(inside, _)| inside);
        match inside {
            Some(inside) if is_variable(inside.trim()) => {
                let name = inside.trim();
                let Some(value) = variables.get(name) else {
                    let line = 1 + text[..text.len() - rest.len()].matches('\n').count();
                    return Err(format!("line {line}: variable {name:?} is not set"));
                };
                out.push_str(value);
                // A value may repeat; the result must not outgrow what is read anyway.
                if out.len() > MAX_BYTES {
                    return Ok(out);
                }
                rest = &rest[open.len() + inside.len() + close.len()..];
            }
            Some(_) | None => {
                out.push_str("{{");
                rest = &rest[2..];
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

#[cfg(test)]
mod tests;
