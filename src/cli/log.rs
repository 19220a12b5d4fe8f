//! Log lines on standard error.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;

use tracing_subscriber::EnvFilter;

use crate::config::{LOG_VARIABLE, LogFormat};
use crate::error::{Error, Result};
use crate::server::AUDIT;

/// The log level of a command that reads no configuration.
pub fn level(default: &str) -> String {
    std::env::var(LOG_VARIABLE).ok().filter(|text| !text.is_empty()).unwrap_or_else(|| default.into())
}

/// The filter for a level, or for a list of levels by target.
///
/// # Errors
/// `invalid_argument` when it cannot be parsed.
pub fn filter(level: &str) -> Result<EnvFilter> {
    EnvFilter::try_new(level).map_err(|error| Error::invalid(format!("log.level {level:?} cannot be parsed: {error}")))
}

/// Starts logging to standard error at `level`.
///
/// # Errors
/// Those of [`filter`].
pub fn init(level: &str, format: LogFormat) -> Result<()> {
    let filter = filter(level)?;
    // The audit log is written at any level.
    let filter = match format!("{AUDIT}=info").parse() {
        Ok(audit) => filter.add_directive(audit),
        Err(_) => filter,
    };
    // A line that cannot be written is lost: by default the error would go to standard error too, and panic.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    let started = match format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|error| Error::internal(format!("logging: {error}")))?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Longest logged panic message, in characters.
const PANIC_CHARS_MAX: usize = 1_000;

/// Logs a panic, caught or not, as one line with its source location, within the span of its request. Under
/// `RUST_BACKTRACE` the line has the backtrace too.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("no message");
    let message: String = message.chars().take(PANIC_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let place = panic.location().map_or_else(String::new, ToString::to_string);
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or_default();
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!(place, thread, %backtrace, "panicked at {place}: {message}");
    } else {
        tracing::error!(place, thread, "panicked at {place}: {message}");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_caught_panic_is_logged_as_one_line_with_its_request_and_location() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
        std::panic::set_hook(Box::new(log_panic));
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("request", id = "r-17");
            let caught = span.in_scope(|| std::panic::catch_unwind(|| panic!("a decoder\ngave up")));
            assert!(caught.is_err());
        });
        let _ = std::panic::take_hook();
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let [line] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["span"]["id"], "r-17", "{line}");
        assert_eq!(line["level"], "ERROR");
        let fields = &line["fields"];
        assert!(fields["place"].as_str().unwrap().contains("src/cli/log.rs"), "{line}");
        assert!(fields["message"].as_str().unwrap().ends_with("a decoder gave up"), "{line}");
    }
}
