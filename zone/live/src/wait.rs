//! Waiting for conditions, never for time to pass.

use std::{fmt::Debug, time::Duration};

/// How long something that must happen may take on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `f` gives something.
pub async fn eventually<T>(what: &str, mut f: impl FnMut() -> Option<T>) -> T {
    eventually_async(what, async || f()).await
}

/// Waits until `f` gives something.
pub async fn eventually_async<T>(what: &str, mut f: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(value) = f().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Bounds what must not take for ever.
pub async fn within<T: Debug>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("in vain: {what}"),
    }
}
