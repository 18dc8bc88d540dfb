//! Why a command failed, and its exit code.

use std::{fmt, io, process::ExitCode};

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The arguments make no sense.
    Usage(String),
    /// The control plane cannot be reached.
    Unreachable(String),
    /// The control plane refused.
    Refused(String),
    /// The control plane does not have what the command is about.
    NotFound(String),
    /// All has been said on the way.
    Reported,
    /// Anything else.
    Other(anyhow::Error),
}

impl Failure {
    /// What is still to be said.
    pub(crate) fn text(&self) -> Option<String> {
        match self {
            Failure::Usage(text)
            | Failure::Unreachable(text)
            | Failure::Refused(text)
            | Failure::NotFound(text) => Some(text.clone()),
            Failure::Reported => None,
            // The reader has gone, as in `sunbearctl get ... | head`.
            Failure::Other(error) if is_broken_pipe(error) => None,
            Failure::Other(error) => Some(format!("{error:#}")),
        }
    }

    /// The exit code of the program.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Refused(_) | Failure::Reported | Failure::Other(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Unreachable(_) => 3,
            Failure::NotFound(_) => 4,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text().unwrap_or_default())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure::Other(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Other(error.into())
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
