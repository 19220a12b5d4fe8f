//! Log lines on standard error.

use tracing_subscriber::EnvFilter;

use crate::config::{LOG_VARIABLE, LogFormat};
use crate::error::{Error, Result};
use crate::server::AUDIT;

/// The level of a program that reads no configuration.
pub fn level(default: &str) -> String {
    std::env::var(LOG_VARIABLE).ok().filter(|text| !text.is_empty()).unwrap_or_else(|| default.into())
}

/// What a level, or a list of levels by target, lets through.
///
/// # Errors
/// `invalid_argument` when it cannot be read.
pub fn filter(level: &str) -> Result<EnvFilter> {
    EnvFilter::try_new(level).map_err(|error| Error::invalid(format!("log.level {level:?} cannot be read: {error}")))
}

/// Starts logging to standard error at `level`.
///
/// # Errors
/// Those of [`filter`].
pub fn init(level: &str, format: LogFormat) -> Result<()> {
    let filter = filter(level)?;
    // Who deleted what is told whatever the level.
    let filter = match format!("{AUDIT}=info").parse() {
        Ok(audit) => filter.add_directive(audit),
        Err(_) => filter,
    };
    // A line that cannot be written is lost: the default would print that to standard error too, and panic there.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    let started = match format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|error| Error::internal(format!("logging: {error}")))
}
