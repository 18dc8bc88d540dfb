//! What an operator can do about a start that failed.

use std::io::ErrorKind;

use anyhow::Error;
use sunbear_runtime::{serve::BindError, telemetry, tls::TlsError};
use sunbear_store::StoreError;

/// What went wrong and what to do about it, on one line.
pub(crate) fn line(error: &Error) -> String {
    // Libraries put line breaks into some of their messages.
    let text = telemetry::chain(error.as_ref()).split_whitespace().collect::<Vec<_>>().join(" ");
    match advice(error) {
        Some(advice) => format!("{text}; {advice}"),
        None => text,
    }
}

/// The innermost error that we know something about decides.
fn advice(error: &Error) -> Option<&'static str> {
    error.chain().rev().find_map(|cause| {
        if let Some(error) = cause.downcast_ref::<StoreError>() {
            of_store(error)
        } else if let Some(error) = cause.downcast_ref::<BindError>() {
            of_port(error)
        } else if cause.downcast_ref::<TlsError>().is_some() {
            Some("name another certificate and key, or put them right")
        } else {
            None
        }
    })
}

fn of_store(error: &StoreError) -> Option<&'static str> {
    match error {
        StoreError::Unavailable(_) => Some(
            "see that the database runs and can be reached; check store.postgres or store.sqlite",
        ),
        StoreError::Refused(_) => Some(
            "check store.postgres.user, password and dbName, and what the user may do in that \
             database",
        ),
        StoreError::ReadOnly(_) => Some(
            "make the folder writable for this user, or choose another with general.workDir or \
             store.sqlite.path; with Postgres, name the primary server",
        ),
        StoreError::Full(_) => Some("make room on that disk, nothing is lost meanwhile"),
        StoreError::Corrupt(_) => Some("put a backup in its place"),
        StoreError::Locked(_) => {
            Some("end the other process, or give this one a folder of its own with general.workDir")
        }
        StoreError::SecretKeyMissing { .. } => Some(
            "put that key into store.secrets.keyFile again; `secrets rotate` makes keys \
             superfluous",
        ),
        StoreError::SecretUnreadable { .. } => {
            Some("put the key that the secret was encrypted with into store.secrets.keyFile")
        }
        StoreError::Settings(_) => Some("check store.postgres"),
        StoreError::Fenced(_) | StoreError::Regressed { .. } | StoreError::Other(_) => None,
    }
}

fn of_port(error: &BindError) -> Option<&'static str> {
    match error.source.kind() {
        ErrorKind::AddrInUse => {
            Some("end what listens there, or choose another port with that key")
        }
        ErrorKind::PermissionDenied => {
            Some("choose a port above 1023 with that key, or grant CAP_NET_BIND_SERVICE")
        }
        ErrorKind::AddrNotAvailable => Some("name an address of this host"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context as _;

    use super::*;

    #[test]
    fn one_line_says_what_is_wrong_and_what_to_do() {
        let cause = io::Error::other("first\n  second");
        let error = Err::<(), _>(StoreError::Full(Box::new(cause))).context("opening").unwrap_err();
        assert_eq!(
            line(&error),
            "opening: database disk is full: first second; make room on that disk, nothing is \
             lost meanwhile"
        );
        assert_eq!(line(&anyhow::anyhow!("x").context("y")), "y: x");
    }
}
