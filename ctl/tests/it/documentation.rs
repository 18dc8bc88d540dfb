//! The examples of `docs/sunbearctl.md`, run as they stand there.

use std::{fs, path::Path, process::Command};

use crate::control_plane::Global;

/// Examples: a command, and what it prints. A line `...` stands for any lines.
fn examples(text: &str) -> Vec<(String, String)> {
    let mut examples: Vec<(String, String)> = Vec::new();
    let (mut in_block, mut in_command) = (false, false);
    for line in text.lines() {
        if line.starts_with("```") {
            in_block = line == "```console";
        } else if !in_block {
        } else if let Some(command) = line.strip_prefix("$ ") {
            examples.push((command.to_owned(), String::new()));
            in_command = command.ends_with('\\') || command.ends_with("<<'END'");
        } else if let Some((command, output)) = examples.last_mut() {
            let part = if in_command { &mut *command } else { &mut *output };
            if in_command {
                part.push('\n');
            }
            part.push_str(line);
            if in_command {
                let more = command.contains("<<'END'") && line != "END";
                in_command = line.ends_with('\\') || more;
            } else {
                output.push('\n');
            }
        }
    }
    examples
}

/// Ages differ from run to run.
fn without_ages(text: &str) -> String {
    let word = |word: &str| {
        let is_age = word.len() > 1
            && word.ends_with(['s', 'm', 'h', 'd', 'y'])
            && word[..word.len() - 1].chars().all(|c| c.is_ascii_digit());
        if is_age { "AGE".to_owned() } else { word.to_owned() }
    };
    let lines = text.lines().map(|l| l.split_whitespace().map(word).collect::<Vec<_>>().join(" "));
    lines.collect::<Vec<_>>().join("\n")
}

fn agrees(printed: &str, expected: &str) -> bool {
    let mut rest = printed;
    for (i, part) in expected.split("...").enumerate() {
        let part = part.trim_matches('\n');
        match rest.find(part) {
            Some(0) => rest = &rest[part.len()..],
            Some(at) if i > 0 => rest = &rest[at + part.len()..],
            Some(_) | None => return false,
        }
    }
    expected.ends_with("...") || rest.trim().is_empty()
}

#[test]
fn examples_work() {
    let text = fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/sunbearctl.md"),
    )
    .unwrap();
    let examples = examples(&text);
    assert!(examples.len() >= 20, "{examples:?}");
    let global = Global::start();
    let folder = tempfile::tempdir().unwrap();
    let programs = Path::new(env!("CARGO_BIN_EXE_sunbearctl")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    for (command, expected) in examples {
        let output = Command::new("sh")
            .args(["-c", &command.replace("http://localhost:5681", &global.address)])
            .current_dir(folder.path())
            .env_clear()
            .env("HOME", folder.path())
            .env("PATH", &path)
            .output()
            .unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() || expected.contains("Error"), "{command}\n{said}");
        let printed = format!("{printed}{said}").replace(&global.address, "http://localhost:5681");
        // Commands that print secrets are shown without what they print.
        if !expected.is_empty() {
            let (printed, expected) = (without_ages(&printed), without_ages(&expected));
            assert!(agrees(&printed, &expected), "{command}\n{printed}\n--- expected\n{expected}");
        }
    }
}
