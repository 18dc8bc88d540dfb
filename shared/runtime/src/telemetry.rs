//! Logging, and the one way in which errors are written to it.

use std::error::Error;
use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// Said before the operator's own directives, which may say otherwise. Rustls warns of every client
/// that names a server by its IP address, as proxies and zones rightly do.
const QUIET: &str = "rustls::msgs::handshake=error";

/// How to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// A level, or filter directives such as `info,sunbear_kds=debug`.
    pub filter: String,
    /// Form of the lines.
    pub format: LogFormat,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For log collectors.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is malformed.
    #[error("log filter {filter:?} (log.level) is not valid")]
    Filter {
        /// The filter as given.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging was set up before.
    #[error("logging is already set up")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Sets up logging to standard error for the whole process. To be called once.
pub fn init(options: &LogOptions) -> Result<(), TelemetryError> {
    let filter = filter(&options.filter)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match options.format {
        LogFormat::Text => builder.finish().try_init()?,
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}

fn filter(directives: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(format!("{QUIET},{directives}"))
        .map_err(|source| TelemetryError::Filter { filter: directives.to_owned(), source })
}

/// An error with all its sources in one line, outermost first. Messages of our errors never repeat
/// their source, so this is how an error is logged; those of others may, and are said once. For
/// `anyhow` pass `error.as_ref()`.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_names_every_layer() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] Inner);
        #[derive(Debug, thiserror::Error)]
        #[error("inner")]
        struct Inner(#[source] std::io::Error);

        let error = Outer(Inner(std::io::Error::other("disk on fire")));
        assert_eq!(chain(&error), "outer: inner: disk on fire");

        #[derive(Debug, thiserror::Error)]
        #[error("repeats: {0}")]
        struct Repeats(#[source] std::io::Error);
        let error = Repeats(std::io::Error::other("disk on fire"));
        assert_eq!(chain(&error), "repeats: disk on fire");
    }

    #[test]
    fn operators_may_hear_what_is_quiet_by_default() {
        let directives = filter("info").unwrap().to_string();
        assert!(directives.contains(QUIET), "{directives}");
        let directives = filter("info,rustls::msgs::handshake=debug").unwrap().to_string();
        assert!(directives.contains("rustls::msgs::handshake=debug"), "{directives}");
        assert!(!directives.contains(QUIET), "{directives}");
    }

    #[test]
    fn a_malformed_filter_names_its_key() {
        let options = LogOptions { filter: "a=b=c".to_owned(), format: LogFormat::Text };
        let error = init(&options).unwrap_err();
        assert!(error.to_string().contains("log.level"), "{error}");
    }
}
