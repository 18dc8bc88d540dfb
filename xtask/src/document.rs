//! Commands in the documentation, so that tests can run them.

/// A fenced block of code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The line that opens it, from 1.
    pub line: usize,
    /// What follows the fence, such as `sh vm`.
    pub info: String,
    /// The lines between the fences.
    pub text: String,
}

/// All fenced blocks.
pub fn fenced(document: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in document.lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(info), None) => {
                let info = info.trim().to_owned();
                open = Some(Block { line: index + 1, info, text: String::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}

/// The lines of code (indented by four) in the section of that heading.
pub fn indented(document: &str, heading: &str) -> Vec<String> {
    document
        .lines()
        .skip_while(|line| line.strip_prefix("## ") != Some(heading))
        .skip(1)
        .take_while(|line| !line.starts_with("## "))
        .filter_map(|line| line.strip_prefix("    "))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_code() {
        let text =
            "# T\n\n```sh vm\na\n  b\n```\n\n## One\ntext\n    x\n\n    y z\n## Two\n    no\n";
        let block = Block { line: 3, info: "sh vm".to_owned(), text: "a\n  b\n".to_owned() };
        assert_eq!(fenced(text), [block]);
        assert_eq!(indented(text, "One"), ["x", "y z"]);
        assert!(indented(text, "Three").is_empty());
    }
}
