//! Runs the real binary, with a small control plane and, where it says so, a real Envoy.
//!
//! Envoy is taken from `ENVOY_BIN`, or `envoy` on the path; tests that need it say loudly that they
//! were skipped when there is none.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod agent;
mod command_line;
mod control_plane;
mod static_stability;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Patience of [`eventually`]: far more than anything takes, as machines may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until the probe gives something.
async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut probe: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(Instant::now() < deadline, "still waiting for: {what}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// A real Envoy, or `None` after having said so.
fn envoy(test: &str) -> Option<PathBuf> {
    let given = std::env::var_os("ENVOY_BIN").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = given.or_else(|| {
        std::env::split_paths(&path).map(|folder| folder.join("envoy")).find(|file| file.exists())
    });
    if found.is_none() {
        // Not through `eprintln!`, which the test harness swallows.
        let _ = std::io::stderr().write_all(
            format!("SKIPPED {test}: no Envoy; set ENVOY_BIN or put envoy on the path\n")
                .as_bytes(),
        );
    }
    found
}
