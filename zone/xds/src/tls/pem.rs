//! PEM blocks, read as leniently as Go reads them: text between blocks is skipped, and so are
//! blocks that are malformed.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// A block.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) label: String,
    /// Headers as they are written, in order.
    headers: Vec<(String, String)>,
    pub(crate) der: Vec<u8>,
}

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

impl Block {
    /// A block of the same content under another label, without headers.
    pub(crate) fn relabelled(&self, label: &str) -> Self {
        Self { label: label.to_owned(), headers: Vec::new(), der: self.der.clone() }
    }

    /// The block as text, with lines of 64 characters.
    pub(crate) fn encode(&self) -> String {
        let mut text = format!("{BEGIN}{}{DASHES}\n", self.label);
        for (key, value) in &self.headers {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{key}: {value}");
        }
        if !self.headers.is_empty() {
            text.push('\n');
        }
        let body = STANDARD.encode(&self.der);
        let mut rest = body.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(64));
            text.push_str(line);
            text.push('\n');
            rest = after;
        }
        let _ = writeln!(text, "{END}{}{DASHES}", self.label);
        text
    }
}

/// All blocks of a text, in order.
pub(crate) fn blocks(text: &[u8]) -> Vec<Block> {
    let text = String::from_utf8_lossy(text);
    let mut blocks = Vec::new();
    let mut lines = text.lines().map(str::trim_end);
    while let Some(line) = lines.next() {
        let Some(label) = marker(line, BEGIN) else { continue };
        let body = lines.clone();
        if let Some((block, rest)) = block(label, body) {
            blocks.push(block);
            lines = rest;
        }
    }
    blocks
}

fn marker<'t>(line: &'t str, kind: &str) -> Option<&'t str> {
    line.strip_prefix(kind)?.strip_suffix(DASHES)
}

/// The block whose first line was read, and what follows it.
fn block<'t, L: Iterator<Item = &'t str> + Clone>(label: &str, mut lines: L) -> Option<(Block, L)> {
    let mut headers = Vec::new();
    let mut body = String::new();
    loop {
        let line = lines.next()?;
        if let Some(end) = marker(line, END) {
            let der = STANDARD.decode(&body).ok()?;
            return (end == label)
                .then(|| (Block { label: label.to_owned(), headers, der }, lines));
        }
        match line.split_once(':') {
            Some((key, value)) if body.is_empty() => {
                headers.push((key.trim().to_owned(), value.trim().to_owned()));
            }
            Some(_) => return None,
            None => body.extend(line.chars().filter(|c| !c.is_whitespace())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::blocks;

    fn labels(text: &str) -> Vec<(String, Vec<u8>)> {
        blocks(text.as_bytes()).into_iter().map(|b| (b.label, b.der)).collect()
    }

    #[test]
    fn skips_what_is_no_block() {
        let text = "junk\n-----BEGIN A-----\nAQI=\n-----END A-----\nmore: junk\n\
                    -----BEGIN B-----\n!!\n-----END B-----\n\
                    -----BEGIN C-----\nAQ==\n-----END D-----\n\
                    -----BEGIN E-----\r\nProc-Type: x\r\n\r\nAw==\r\n-----END E-----\r\n\
                    -----BEGIN F-----\nAQ==\n";
        assert_eq!(labels(text), [("A".to_owned(), vec![1, 2]), ("E".to_owned(), vec![3])]);
        assert!(labels("").is_empty());
    }

    #[test]
    fn a_block_inside_a_broken_one_counts() {
        let text = "-----BEGIN A-----\nAQ==\n-----BEGIN B-----\nAg==\n-----END B-----\n";
        assert_eq!(labels(text), [("B".to_owned(), vec![2])]);
    }

    #[test]
    fn encodes() {
        let text = format!(
            "-----BEGIN A B-----\nX-Y: z\n\n{}\n{}\n-----END A B-----\n",
            "QUJD".repeat(16),
            "QUI="
        );
        let block = blocks(text.as_bytes()).remove(0);
        assert_eq!(block.encode(), text);
        assert!(!block.relabelled("C").encode().contains("X-Y"));
    }
}
