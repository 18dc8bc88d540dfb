//! Running cases.

use std::{fmt, panic::AssertUnwindSafe, time::Instant};

use futures_util::{FutureExt as _, future::LocalBoxFuture};

use crate::{envoy::EnvoyOptions, gateway::Gateway};

/// A feature, and what shows that it works.
pub struct Case {
    /// Id of the feature.
    pub feature: &'static str,
    /// The test.
    pub run: for<'g> fn(&'g Gateway) -> LocalBoxFuture<'g, ()>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Case").field(&self.feature).finish()
    }
}

/// A table of cases: `"feature" => function`.
#[macro_export]
macro_rules! cases {
    ($($feature:literal => $function:path),* $(,)?) => {
        &[$($crate::Case { feature: $feature, run: |gateway| Box::pin($function(gateway)) }),*]
    };
}

/// Runs the cases one after the other, all of them even if one fails.
pub async fn run(cases: &[Case]) {
    run_with(Gateway::options(), cases).await;
}

/// The same with another Envoy.
pub async fn run_with(options: EnvoyOptions, cases: &[Case]) {
    let only = std::env::var("SUNBEAR_LIVE").unwrap_or_default();
    let chosen: Vec<&Case> = cases.iter().filter(|case| case.feature.contains(&only)).collect();
    if chosen.is_empty() {
        return;
    }
    let Some(gateway) = Gateway::with(options).await else { return };
    run_on(&gateway, &chosen).await;
}

async fn run_on(gateway: &Gateway, cases: &[&Case]) {
    let mut failed = Vec::new();
    for case in cases {
        let began = Instant::now();
        let outcome = AssertUnwindSafe((case.run)(gateway)).catch_unwind().await;
        let word = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("{word} {} ({} ms)", case.feature, began.elapsed().as_millis());
        if outcome.is_err() {
            failed.push(case.feature);
        }
    }
    assert!(failed.is_empty(), "failed: {}", failed.join(", "));
}
