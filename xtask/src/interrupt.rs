//! Ctrl-C and its relatives, noted and not obeyed at once, so that children are stopped first.

use std::{
    sync::atomic::{AtomicU8, Ordering},
    thread,
};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

static SIGNALS: AtomicU8 = AtomicU8::new(0);

/// From now on SIGINT, SIGTERM and SIGHUP only count.
pub fn watch() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Registered before this function returns: a signal during start-up must not be lost.
    let (mut interrupt, mut terminate, mut hang_up) = runtime.block_on(async {
        Ok::<_, std::io::Error>((
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ))
    })?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                        _ = hang_up.recv() => {}
                    }
                    SIGNALS.fetch_add(1, Ordering::SeqCst);
                }
            });
        })
        .context("no thread for signals")?;
    Ok(())
}

/// Somebody asked to stop.
pub fn requested() -> bool {
    SIGNALS.load(Ordering::SeqCst) > 0
}

/// Somebody asked again: stop without patience.
pub fn insisted() -> bool {
    SIGNALS.load(Ordering::SeqCst) > 1
}
