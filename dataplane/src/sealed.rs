//! Files that are either whole or not there: a checksummed document, kept in two generations.
//!
//! Form: a header line `sunbear-sealed 1 sha256=HEX length=N`, then N bytes of JSON. A write goes to
//! a temporary file that is synced and renamed, so that a kill at any moment leaves the previous or
//! the next state; the checksum finds what a disk or an editor did to it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

const MAGIC: &str = "sunbear-sealed 1";

/// A sealed document on disk.
#[derive(Debug, Clone)]
pub(crate) struct SealedFile {
    path: PathBuf,
}

/// Which of the two kept documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Generation {
    /// The last one.
    Current,
    /// The one before.
    Previous,
}

impl SealedFile {
    /// The document of this name in the folder.
    pub(crate) fn new(folder: &Path, name: &str) -> SealedFile {
        SealedFile { path: folder.join(name) }
    }

    /// Writes the document, keeping the last good one as the previous generation.
    pub(crate) fn store<T: Serialize>(&self, document: &T) -> anyhow::Result<()> {
        let bytes =
            seal(&serde_json::to_vec(document).context("cannot write the document as JSON")?);
        self.replace(&bytes).with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// The newest good document, with the reasons why newer ones are not.
    pub(crate) fn load<T: DeserializeOwned>(&self) -> (Option<T>, Vec<anyhow::Error>) {
        let mut errors = Vec::new();
        for generation in [Generation::Current, Generation::Previous] {
            match self.load_generation(generation) {
                Ok(Some(document)) => return (Some(document), errors),
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }
        (None, errors)
    }

    /// The document of one generation, if there is one.
    pub(crate) fn load_generation<T: DeserializeOwned>(
        &self,
        generation: Generation,
    ) -> anyhow::Result<Option<T>> {
        let path = match generation {
            Generation::Current => self.path.clone(),
            Generation::Previous => self.sibling("prev"),
        };
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let document = unseal(&bytes)
            .and_then(|body| {
                serde_json::from_slice(body)
                    .context("the sealed document has not the expected form")
            })
            .with_context(|| format!("{} is not usable", path.display()))?;
        Ok(Some(document))
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.sibling("tmp");
        write_private(&temporary, bytes)?;
        // A damaged file must not push out the good one before it.
        if fs::read(&self.path).is_ok_and(|current| unseal(&current).is_ok()) {
            let link = self.sibling("prev-tmp");
            let _ = fs::remove_file(&link);
            fs::hard_link(&self.path, &link)?;
            fs::rename(&link, self.sibling("prev"))?;
        }
        fs::rename(&temporary, &self.path)?;
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        File::open(folder)?.sync_all()
    }

    fn sibling(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".");
        name.push(suffix);
        name.into()
    }
}

/// Writes a file that only its owner reads, and syncs it.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A left-over could have another mode.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn seal(body: &[u8]) -> Vec<u8> {
    let mut out = format!("{MAGIC} sha256={} length={}\n", checksum(body), body.len()).into_bytes();
    out.extend_from_slice(body);
    out
}

fn unseal(bytes: &[u8]) -> anyhow::Result<&[u8]> {
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
        bail!("the header is cut off");
    };
    let (header, body) = (&bytes[..end], &bytes[end + 1..]);
    let header = std::str::from_utf8(header).ok().and_then(|header| header.strip_prefix(MAGIC));
    let (sum, length) = header
        .and_then(|header| header.strip_prefix(" sha256=")?.split_once(" length="))
        .context("the header is not one of a sealed file")?;
    ensure!(length.parse() == Ok(body.len()), "it has {} bytes instead of {length}", body.len());
    ensure!(sum == checksum(body), "its checksum is wrong");
    Ok(body)
}

fn checksum(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::os::unix::fs::PermissionsExt as _;

    fn folder() -> (tempfile::TempDir, SealedFile) {
        let folder = tempfile::tempdir().unwrap();
        let file = SealedFile::new(folder.path(), "envoy.sealed");
        (folder, file)
    }

    fn load(file: &SealedFile) -> Option<Value> {
        file.load().0
    }

    #[test]
    fn what_is_stored_is_loaded_and_private() {
        let (_folder, file) = folder();
        assert_eq!(load(&file), None);
        file.store(&json!({"a": 1})).unwrap();
        assert_eq!(load(&file), Some(json!({"a": 1})));
        let mode = fs::metadata(&file.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_torn_at_any_length_falls_back_to_the_previous() {
        let (_folder, file) = folder();
        file.store(&json!({"generation": 1})).unwrap();
        file.store(&json!({"generation": 2})).unwrap();
        let whole = fs::read(&file.path).unwrap();
        for length in 0..whole.len() {
            fs::write(&file.path, &whole[..length]).unwrap();
            let (document, errors) = file.load::<Value>();
            assert_eq!(document, Some(json!({"generation": 1})), "torn at {length}");
            assert_eq!(errors.len(), 1, "torn at {length}");
        }
        fs::write(&file.path, &whole).unwrap();
        assert_eq!(load(&file), Some(json!({"generation": 2})));
    }

    #[test]
    fn any_flipped_byte_is_found() {
        let bytes = seal(br#"{"a":1}"#);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x20;
            assert!(unseal(&damaged).is_err(), "byte {at}");
        }
        let mut longer = bytes;
        longer.push(b'x');
        assert!(unseal(&longer).is_err());
    }

    #[test]
    fn a_damaged_file_does_not_push_out_the_good_one() {
        let (_folder, file) = folder();
        file.store(&json!(1)).unwrap();
        file.store(&json!(2)).unwrap();
        fs::write(&file.path, b"garbage").unwrap();
        file.store(&json!(3)).unwrap();
        assert_eq!(load(&file), Some(json!(3)));
        assert_eq!(file.load_generation::<Value>(Generation::Previous).unwrap(), Some(json!(1)));
    }

    #[test]
    fn what_a_kill_left_behind_is_harmless() {
        let (_folder, file) = folder();
        file.store(&json!(1)).unwrap();
        fs::write(file.sibling("tmp"), b"half").unwrap();
        fs::write(file.sibling("prev-tmp"), b"half").unwrap();
        assert_eq!(load(&file), Some(json!(1)));
        file.store(&json!(2)).unwrap();
        assert_eq!(load(&file), Some(json!(2)));
        assert_eq!(file.load_generation::<Value>(Generation::Previous).unwrap(), Some(json!(1)));
    }
}
