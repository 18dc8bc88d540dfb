//! Where resources come from: files, folders, URLs, the standard input.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use reqwest::Url;
use sunbear_model::document::MAX_BYTES;

use crate::client;

/// A text with the name that the user knows it by.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// Reads what the user named, in that order; folders in the order of their files' names.
pub(crate) async fn read(names: &[String], recursive: bool) -> anyhow::Result<Vec<Source>> {
    let mut sources = Vec::new();
    for name in names {
        if name == "-" {
            let text = text(io::stdin().lock()).context("reading the standard input")?;
            sources.push(Source { name: "<stdin>".to_owned(), text });
        } else if name.starts_with("http://") || name.starts_with("https://") {
            let text = fetch(name).await.with_context(|| format!("reading {name}"))?;
            sources.push(Source { name: name.clone(), text });
        } else {
            for path in files(Path::new(name), recursive)? {
                let name = path.display().to_string();
                let text = File::open(&path)
                    .map_err(Into::into)
                    .and_then(text)
                    .with_context(|| format!("reading {name}"))?;
                sources.push(Source { name, text });
            }
        }
    }
    Ok(sources)
}

/// A file itself, or the resource files of a folder.
fn files(path: &Path, recursive: bool) -> anyhow::Result<Vec<PathBuf>> {
    let reading = || format!("reading {}", path.display());
    if !fs::metadata(path).with_context(reading)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        let reading = || format!("reading {}", folder.display());
        for entry in fs::read_dir(&folder).with_context(reading)? {
            let entry = entry.with_context(reading)?;
            let path = entry.path();
            // A link to a folder is left out: it may lead in circles.
            if entry.file_type().with_context(reading)?.is_dir() {
                if recursive {
                    folders.push(path);
                }
            } else if is_resource_file(&path) && fs::metadata(&path).is_ok_and(|m| m.is_file()) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn is_resource_file(path: &Path) -> bool {
    path.extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|e| matches!(e.to_ascii_lowercase().as_str(), "yaml" | "yml" | "json"))
}

/// Reads a text, up to a byte more than is accepted later.
fn text(reader: impl Read) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    reader.take(MAX_BYTES as u64 + 4).read_to_end(&mut bytes)?;
    decode(bytes)
}

fn decode(mut bytes: Vec<u8>) -> anyhow::Result<String> {
    if bytes.len() > MAX_BYTES {
        bail!("larger than {} MiB", MAX_BYTES / 1024 / 1024);
    }
    if let Err(error) = std::str::from_utf8(&bytes) {
        let line = bytes[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        bytes.clear();
        bail!("line {line} is not UTF-8");
    }
    Ok(String::from_utf8(bytes)?)
}

/// Reads a URL, without the control plane's token.
async fn fetch(url: &str) -> anyhow::Result<String> {
    let client = client::builder(Some(Duration::from_secs(60))).build()?;
    let mut response = client.get(Url::parse(url)?).send().await?.error_for_status()?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_BYTES {
            break;
        }
    }
    decode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path, recursive: bool) -> Vec<String> {
        files(folder, recursive)
            .unwrap()
            .iter()
            .map(|p| p.strip_prefix(folder).unwrap().display().to_string())
            .collect()
    }

    #[test]
    fn folders() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["b.yaml", "a.yml", "c.JSON", "d.txt", "yaml"] {
            fs::write(at(name), "").unwrap();
        }
        fs::create_dir_all(at("aa/deep.yaml")).unwrap();
        fs::write(at("aa/x.json"), "").unwrap();
        fs::write(at("aa/deep.yaml/y.yaml"), "").unwrap();
        std::os::unix::fs::symlink(folder.path(), at("aa/loop.yaml")).unwrap();
        assert_eq!(names(folder.path(), false), ["a.yml", "b.yaml", "c.JSON"]);
        assert_eq!(
            names(folder.path(), true),
            ["a.yml", "aa/deep.yaml/y.yaml", "aa/x.json", "b.yaml", "c.JSON"]
        );
        assert_eq!(files(&at("d.txt"), false).unwrap(), [at("d.txt")]);
        assert!(files(&at("missing"), false).is_err());
    }

    #[test]
    fn texts() {
        assert_eq!(text(&b"a\xc3\xa9"[..]).unwrap(), "aé");
        assert_eq!(text(&b"a\n\xff"[..]).unwrap_err().to_string(), "line 2 is not UTF-8");
        assert_eq!(text(io::repeat(b'a')).unwrap_err().to_string(), "larger than 10 MiB");
    }
}
